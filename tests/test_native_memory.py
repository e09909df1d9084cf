"""Memory of the LSTM compiled for the CPU: used again, whatever becomes of a cache, and never more than the limit."""

import mmap
import threading

import numpy as np
import pytest

import gpulstm as gl
from gpulstm.engines import native_memory
from tests import native_library

X = np.linspace(-1, 1, 9 * 4 * 3, dtype="float32").reshape(9, 4, 3)
LAYERS = {
    "plain": ({}, 3),  # options, and arrays that a forward pass takes for its backward pass
    "both directions, two layers": ({"num_layers": 2, "bidirectional": True}, 12),
    "layer norm and weight drop": ({"layer_norm": True, "weight_drop": 0.1}, 8),
}


@pytest.fixture
def native(monkeypatch):
    with native_library.compiled() as loaded:
        monkeypatch.setattr(native_memory, "_kept", native_memory._Kept())
        yield loaded


def kept_arrays() -> set[int]:
    """Where those are that a call would find, each counted once."""
    native_memory.give_back()
    arrays = [array for alike in native_memory._kept.free.values() for array in alike]
    places = {array.ctypes.data for array in arrays}
    assert len(places) == len(arrays), "something was given back twice"
    assert sum(array.nbytes for array in arrays) == native_memory._kept.free_bytes
    return places


def limit_to(monkeypatch, limit: int, most: int | None = None) -> None:
    monkeypatch.setattr(native_memory, "LIMIT", limit)
    monkeypatch.setattr(native_memory, "MOST", most or limit)


@pytest.mark.parametrize("options, arrays", LAYERS.values(), ids=LAYERS)
def test_memory_of_a_forward_pass_without_a_backward_one_is_used_again(native, options, arrays):
    lstm = gl.LSTM(3, 6, rng=0, **options)
    y, _, cache = lstm.forward(X, rng=0)
    assert kept_arrays() == set()
    del cache
    left = kept_arrays()
    assert len(left) == arrays
    _, _, cache = lstm.forward(X, rng=0)
    assert kept_arrays() == set()
    lstm.backward(cache, y)
    assert len(kept_arrays()) >= arrays
    del cache
    assert kept_arrays() == left


@pytest.mark.parametrize("options", [options for options, _ in LAYERS.values()], ids=LAYERS)
def test_many_calls_keep_as_much_memory_as_one(native, options):
    lstm = gl.LSTM(3, 6, rng=0, **options)

    def calls() -> int:
        lstm.forward(X, rng=0)
        y, _, cache = lstm.forward(X, rng=0)
        lstm.backward(cache, y)
        lstm(X)
        return native_memory.kept_bytes()

    first = calls()
    assert first > 0
    assert [calls() for _ in range(5)] == [first] * 5


def test_a_cache_that_is_held_keeps_its_own_memory(native):
    lstm = gl.LSTM(3, 6, rng=0)
    y, _, first = lstm.forward(X)
    lstm.forward(-X)  # its memory goes back, and is used for the next
    _, _, other = lstm.forward(2 * X)
    dx, _, _ = lstm.backward(first, y)
    again = lstm.forward(X)[2]
    assert np.array_equal(dx, lstm.backward(again, y)[0])
    lstm.backward(other, y)


def test_memory_never_grows_beyond_the_limit(native, monkeypatch):
    limit_to(monkeypatch, 64 * 1024)
    lstm, largest = gl.LSTM(3, 6, rng=0), 0
    for steps in range(9, 120, 3):  # every call with another size
        lstm.forward(np.resize(X, (steps, 4, 3)))
        native_memory.give_back()
        assert native_memory._kept.free_bytes <= native_memory.LIMIT
        largest = max(largest, native_memory._kept.free_bytes)
    assert largest > native_memory.LIMIT / 2


def test_sizes_that_came_the_longest_ago_go_first(native, monkeypatch):
    limit_to(monkeypatch, 1000)
    byte = np.dtype(np.uint8)
    a, b, c = (native_memory.take((size,), byte) for size in (400, 401, 402))
    native_memory.give_back(a)
    native_memory.give_back(b)
    native_memory.give_back(c)
    assert set(native_memory._kept.free) == {401, 402}
    assert native_memory.take((401,), byte).ctypes.data == b.ctypes.data
    native_memory.give_back(b)  # the later one now
    native_memory.give_back(a)
    assert set(native_memory._kept.free) == {400, 401}


def test_as_much_is_kept_as_was_in_use_at_the_same_time(native, monkeypatch):
    limit_to(monkeypatch, 100, most=1000)
    byte = np.dtype(np.uint8)
    for _ in range(2):
        native_memory.give_back(native_memory.take((201,), byte), native_memory.take((202,), byte))
    assert set(native_memory._kept.free) == {201, 202}
    native_memory.give_back(native_memory.take((199,), byte))  # one at a time
    assert set(native_memory._kept.free) == {199, 202}
    native_memory.give_back(*(native_memory.take((size,), byte) for size in (501, 1000)))  # more than may be
    assert set(native_memory._kept.free) == {199, 202, 501}
    assert native_memory._kept.in_use == 0


@pytest.mark.parametrize("size", [100, native_memory.HUGE_PAGE - 1, native_memory.HUGE_PAGE, 5 * 2**20 + 7])
def test_an_array_begins_with_a_page_that_it_fills(native, size):
    boundary = native_memory.HUGE_PAGE if size >= native_memory.HUGE_PAGE else native_memory.LINE
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        boundary = native_memory.LINE
    array = native_memory.take((size,), np.dtype(np.uint8))
    array[:] = 1
    assert array.size == size and array.ctypes.data % boundary == 0


def test_inference_works_in_kept_memory(native):
    lstm = gl.LSTM(3, 6, rng=0)
    expected = lstm(X)[0].copy()
    scratch = native_memory._kept.scratch
    scratch[:] = 255  # gates and weights of before are not read
    assert np.array_equal(lstm(X)[0], expected)
    assert native_memory._kept.scratch is scratch


def test_a_thread_that_only_drops_caches_stays_within_the_limit(native, monkeypatch):
    lstm = gl.LSTM(3, 6, rng=0)
    caches = [lstm.forward(X)[2] for _ in range(20)]
    one = sum(array.nbytes for array in (caches[0].saved.runs[0].gates, caches[0].saved.runs[0].cells))
    limit_to(monkeypatch, 5 * one)
    kept = []

    def drop() -> None:
        while caches:
            caches.pop()
            kept.append(native_memory.kept_bytes())

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    assert len(kept) == 20 and 0 < kept[0] < kept[-1] <= native_memory.LIMIT
