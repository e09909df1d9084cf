"""kernels/padding.cu against NumPy: the same bits, and NaN stays where it is not asked for."""

import numpy as np
import pytest

from gpulstm.engines import cupy_padding
from tests import backends
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.half_cases import numpy_dtype

BACKENDS = backends.KERNELS
LENGTHS = np.array([4, 0, 2, 3, 1], np.int32)


def values(dtype: str, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(numpy_dtype(dtype))


def check(backend, dtype: str) -> None:
    lengths = backend.array(LENGTHS)
    x = values(dtype, 4, 5, 7)
    running = np.arange(4)[:, None] < LENGTHS
    x[~running] = np.nan
    found = backend.numpy(cupy_padding.without_padding(backend.array(x), lengths))
    assert found.tobytes() == np.where(running[:, :, None], x, x.dtype.type(0)).tobytes()

    some, others = values(dtype, 2, 5, 7)
    for of_empty in (None, others):
        state = backend.array(np.full_like(some, np.nan))
        cupy_padding.state_of_running(backend.array(some), backend.array(of_empty), state, lengths)
        expected = np.where(LENGTHS[:, None] > 0, some, 0 if of_empty is None else of_empty).astype(some.dtype)
        assert backend.numpy(state).tobytes() == expected.tobytes()
    state = backend.array(others)  # the same array for both
    cupy_padding.state_of_running(backend.array(some), state, state, lengths)
    assert backend.numpy(state).tobytes() == expected.tobytes()

    history = values(dtype, 5, 5, 7)
    history[np.arange(5)[:, None] > LENGTHS] = np.nan
    for reverse in (False, True):
        hiddens = backend.array(history)
        cupy_padding.clear_inputs(hiddens, lengths, reverse)
        expected = np.where((np.arange(5)[:, None] < LENGTHS + reverse)[:, :, None], history, x.dtype.type(0))
        assert backend.numpy(hiddens).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_by_value(backend, dtype):
    check(backend, dtype)


@pytest.mark.parametrize("mode", ["asan", "tsan"])
def test_under_sanitizers(mode):
    with cupy_on_cpu(mode) as cupy:
        check(Backend("cupy-on-cpu", cupy), "float32")
