"""gl.fit around the steps: Ctrl-C, the progress bar, and memory."""

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

import gpulstm as gl
from gpulstm.training import Adam, load_checkpoint
from gpulstm.training.interrupts import Interrupts
from gpulstm.training.progress import _short
from tests.training_problems import Pointwise, Recurrent, assert_same_bits, sequences, squared_error

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {"rng": 3, "batch_size": 8, "progress": False}


def fitted(model=None, loss=squared_error, **options):
    model = Recurrent() if model is None else model
    return model, gl.fit(model, loss, sequences(), **OPTIONS | options)


# Ctrl-C


class Pressed:
    """Presses Ctrl-C ``times`` when a method of its objects is called for the ``at``-th time, and notes the signal."""

    def __init__(self, at, times=1):
        self.at, self.times, self.calls = at, times, 0

    def __call__(self):
        self.calls += 1
        if self.calls == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def pressed_in(place, press):
    """A model, an optimiser and a loss, one of which presses Ctrl-C within the place named."""

    class Model(Recurrent):
        def __call__(self, x, *, lengths=None):
            if place == "evaluation":
                press()
            return super().__call__(x, lengths=lengths)

        def forward(self, x, *, lengths=None, rng=None):
            if place == "forward":
                press()
            return super().forward(x, lengths=lengths, rng=rng)

        def backward(self, cache, dout):
            if place == "backward":
                press()
            return super().backward(cache, dout)

    class Pressing(Adam):
        def _update_numpy(self, *args):  # within a step, when other parameters have changed already
            if place == "update":
                press()
            super()._update_numpy(*args)

    def loss(prediction, target, *, lengths=None):
        if place == "loss":
            press()
        return squared_error(prediction, target, lengths=lengths)

    Pressing.__name__ = "Adam"
    return Model(), Pressing(0.01), loss


# Where it is pressed, at which call of how many a step, how often, and how many steps are then complete.
PRESSED = [
    ("forward", 4, 1, 4),
    ("forward", 4, 2, 3),
    ("loss", 4, 1, 4),
    ("loss", 4, 2, 3),
    ("backward", 4, 2, 3),
    ("update", 10, 1, 2),  # eight parameters: the second step's second
    ("update", 10, 2, 2),
    ("update", 10, 3, 2),
    ("evaluation", 2, 1, 5),
    ("evaluation", 1, 2, 5),
    ("evaluation", 3, 2, 10),
]


@pytest.mark.parametrize("place, at, times, complete", PRESSED)
def test_ctrl_c_leaves_whole_steps_and_a_checkpoint_to_go_on_from(place, at, times, complete, tmp_path):
    path, before = tmp_path / "run.safetensors", signal.getsignal(signal.SIGINT)
    model, adam, loss = pressed_in(place, Pressed(at, times))
    more = {"validation": sequences(9, seed=1), "evaluate_every": 5}
    _, history = fitted(model, loss, optimiser=adam, steps=20, checkpoint=path, **more)
    assert history.interrupted and not history.stopped_early
    assert signal.getsignal(signal.SIGINT) is before

    found = load_checkpoint(path)
    assert found.position["step"] == complete and adam.steps == complete
    expected, _ = fitted(steps=complete, optimiser=Adam(0.01))
    assert_same_bits(found.params, expected.params)
    whole, _ = fitted(steps=20, optimiser=Adam(0.01), **more)
    resumed, _ = fitted(steps=20, optimiser=Adam(0.01), resume=path, **more)
    assert_same_bits(resumed.params, whole.params)


def test_an_interrupted_training_keeps_what_was_learnt_and_says_how_far_it_came():
    model, adam, loss = pressed_in("forward", Pressed(4))
    _, history = fitted(model, loss, optimiser=adam, steps=20)
    expected, _ = fitted(steps=4, optimiser=Adam(0.01))
    assert_same_bits(model.params, expected.params)
    assert history["step"] == [4] and history["validation_loss"] == [None] and history[0]["loss"] > 0


def test_an_interrupted_training_with_validation_leaves_the_best():
    options = {"validation": sequences(9, seed=1), "evaluate_every": 2}
    model, adam, loss = pressed_in("forward", Pressed(8))

    def schedule(step):
        return 0.01 if step < 4 else 5.0

    _, history = fitted(model, loss, optimiser=adam, steps=20, schedule=schedule, **options)
    expected, _ = fitted(steps=4, optimiser=Adam(0.01), **options)
    assert history.interrupted and history.best_step == 4 and history["step"] == [2, 4, 6, 8]
    assert_same_bits(model.params, expected.params)


def test_an_ignored_ctrl_c_stays_ignored_and_a_handler_of_ones_own_is_called():
    heard = []
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        model, adam, loss = pressed_in("forward", Pressed(2))
        _, history = fitted(model, loss, optimiser=adam, steps=4)
        assert history["step"] == [4] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        own = lambda number, frame: heard.append(adam.steps)  # noqa: E731
        signal.signal(signal.SIGINT, own)
        model, adam, loss = pressed_in("update", Pressed(10))
        _, history = fitted(model, loss, optimiser=adam, steps=4)
        assert heard == [2] and not history.interrupted and signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_errors_come_through_and_put_the_handler_back():
    before = signal.getsignal(signal.SIGINT)

    def loss(prediction, target):
        raise ZeroDivisionError("by the loss")

    with pytest.raises(ZeroDivisionError, match="by the loss"):
        gl.fit(Pointwise(), loss, (sequences(4, shortest=3, longest=3)), steps=1, progress=False)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_there_is_no_signal_to_handle():
    found = []
    thread = threading.Thread(target=lambda: found.append(fitted(steps=3)[1]))
    thread.start()
    thread.join()
    assert found[0]["step"] == [3]


def test_a_signal_that_waits_at_the_end_is_told():
    class Late(Interrupts):
        def __exit__(self, *error):
            signal.raise_signal(signal.SIGINT)
            super().__exit__(*error)

    from gpulstm.training import run

    saved = run.Interrupts
    try:
        run.Interrupts = Late
        _, history = fitted(steps=3)
    finally:
        run.Interrupts = saved
    assert history.interrupted and history["step"] == [3]


# The bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, **options):
    with contextlib.redirect_stderr(stream):
        fitted(progress=True, **options)
    return stream.getvalue()


def test_the_bar_shows_the_losses_the_rate_and_the_speed():
    threads = set(threading.enumerate())
    text = shown(Terminal(), steps=10, validation=sequences(9, seed=1), optimiser=Adam(0.02))
    last = text.rstrip().split("\r")[-1]
    assert re.search(r"100%.*10/10.*loss 0\.\d+, validation 0\.\d+, lr 0.02, [\d.]+k? tokens/s", last), last
    assert set(threading.enumerate()) == threads, "the bar left a thread"


@pytest.mark.parametrize(
    ("value", "two", "three"),
    [
        *((0.00123, "0.0012", "0.00123"), (9.96, "10", "9.96"), (150, "150", "150"), (999.7, "1000", "1000")),
        *((1490, "1.5k", "1.49k"), (99_600, "100k", "99.6k"), (150_000, "150k", "150k"), (1.5e6, "1.5M", "1.5M")),
        *((123_456_789, "123M", "123M"), (float("nan"), "nan", "nan"), (float("inf"), "inf", "inf")),
    ],
)
def test_numbers_in_the_bar_are_short_and_have_no_exponent(value, two, three):
    assert (_short(value, 2), _short(value)) == (two, three)


def test_a_log_gets_few_lines():
    assert shown(io.StringIO(), steps=200, evaluate_every=1).count("\r") < 6


def test_no_bar_without_progress():
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        fitted(steps=3, progress=False)
    assert text.getvalue() == ""


def test_the_bar_is_closed_when_training_fails_or_is_interrupted():
    stream = Terminal()
    model, adam, loss = pressed_in("forward", Pressed(4))
    with contextlib.redirect_stderr(stream):
        fitted(model, loss, optimiser=adam, steps=20, progress=True)
    assert "4/20" in stream.getvalue() and stream.getvalue().endswith("\n")
    stream = Terminal()
    with contextlib.redirect_stderr(stream), pytest.raises(FloatingPointError):
        fitted(Pointwise(), lambda p, t, lengths: (float("nan"), p), steps=3, progress=True)
    assert stream.getvalue().endswith("\n")


@pytest.mark.parametrize("widgets", [False, True])
def test_in_a_notebook_the_bar_is_a_widget_only_where_widgets_are_installed(widgets, monkeypatch):
    """Without ipywidgets, tqdm.auto warns, and tqdm.notebook fails."""
    made = []

    class Widget:
        def __init__(self, **options):
            made.append(options)

        def set_postfix_str(self, text, refresh):
            self.text = text

        def refresh(self):
            pass

        close = refresh

    class ZMQInteractiveShell:
        pass

    notebook = types.SimpleNamespace(tqdm=Widget)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: ZMQInteractiveShell()))
    monkeypatch.setitem(sys.modules, "tqdm.notebook", notebook)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: (object() if widgets else None) if name == "ipywidgets" else find(name),
    )
    text = shown(io.StringIO(), steps=3)
    assert (len(made) == 1 and text == "") if widgets else (not made and "3/3" in text)


# Memory

GROWTH = """
import contextlib, ctypes, io, json, os, re, sys, tempfile
import gpulstm as gl
from tests.training_problems import Recurrent, sequences, squared_error

PAGE = os.sysconf("SC_PAGE_SIZE")
resident, allocated = {}, {}

class InUse(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

count_malloc = ctypes.CDLL(None).mallinfo2
count_malloc.restype = InUse

def bytes_allocated():  # by Python for its objects, and by malloc for arrays and all else
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        sys._debugmallocstats()
        os.dup2(stderr, 2)
        os.close(stderr)
        file.seek(0)
        of_objects = re.search(r"# bytes in allocated blocks *= *([\\d,]+)", file.read().decode())
    of_malloc = count_malloc()
    return int(of_objects[1].replace(",", "")) + of_malloc.uordblks + of_malloc.hblkhd

class Model(Recurrent):
    steps = 0

    def forward(self, x, *, lengths=None):
        Model.steps += 1
        if Model.steps in MARKS:
            with open("/proc/self/statm") as file:
                resident[Model.steps] = int(file.read().split()[1]) * PAGE
            allocated[Model.steps] = bytes_allocated()
        return super().forward(x, lengths=lengths)

MARKS = (100, 1000, 2000, 2900, 4900)
stream = io.StringIO()
stream.write = len  # what is shown is not kept
with contextlib.redirect_stderr(stream):
    options = {"validation": sequences(9, seed=1), "evaluate_every": 90, "patience": 1000}
    gl.fit(Model(dropout=0.0, num_layers=1), squared_error, sequences(), steps=STEPS, progress=BAR, rng=0, **options)
print(json.dumps([resident, allocated]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm and asks glibc")
@pytest.mark.parametrize(
    ("bar", "steps", "kept"), [(False, 3_000, 30_000), (True, 5_000, 60_000)], ids=["no bar", "bar"]
)
def test_memory_does_not_grow_in_thousands_of_steps(bar, steps, kept):
    """An LSTM. One Python float kept for each step, the least that could leak, is 3900 * 24 bytes = 94 kB from step
    1000 on; one batch kept for each step is over 4800 * 400 bytes = 1.9 MB from step 100 on. Records may be kept: there
    are 43 more of them, of about 0.4 kB each. What is resident grows by pages and by the allocator's arenas of up to
    1 MB, and what is allocated until every kind of batch has been seen. The allocators are asked, because tracemalloc
    makes the steps four times slower. Without the bar there is nothing that is not there with it, and 3000 steps do:
    a float for each is 46 kB then, and the records are 8 kB."""
    code = f"BAR, STEPS = {bar}, {steps}\n{GROWTH}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    resident, allocated = json.loads(done.stdout)
    last = str(steps - 100)
    assert last in resident and resident.keys() == allocated.keys()
    assert resident[last] - resident["100"] <= 2**20, resident
    assert allocated[last] - allocated["1000"] < kept, allocated
