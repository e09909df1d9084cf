"""The check of lesson 11."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function

STEPS, BATCH, LENGTH = 11, 2, 4  # windows of 4, 4 and 3 steps


def case():
    import gpulstm as gl

    rng = np.random.default_rng(11)
    lstm = gl.LSTM(3, 5, dtype="float64", rng=rng)
    return lstm, rng.normal(size=(STEPS, BATCH, 3)), rng.normal(size=(STEPS, BATCH, 5))


def carried_and_cut(lstm, x, dy, length):
    ys, dxs, state = [], [], None
    for first in range(0, len(x), length):
        y, state, cache = lstm.forward(x[first : first + length], state)
        ys.append(y)
        dxs.append(lstm.backward(cache, dy[first : first + length])[0])
    return np.concatenate(ys), np.concatenate(dxs)


def not_carried(lstm, x, dy, length):
    ys, dxs = [], []
    for first in range(0, len(x), length):
        y, _, cache = lstm.forward(x[first : first + length])
        ys.append(y)
        dxs.append(lstm.backward(cache, dy[first : first + length])[0])
    return np.concatenate(ys), np.concatenate(dxs)


def not_cut(lstm, x, dy, length):
    y, _, cache = lstm.forward(x)
    return y, lstm.backward(cache, dy)[0]


def handed_forward(lstm, x, dy, length):
    """The gradient of each window's initial state given to the window after it."""
    ys, dxs, state, dstate = [], [], None, None
    for first in range(0, len(x), length):
        y, state, cache = lstm.forward(x[first : first + length], state)
        dx, _, dstate = lstm.backward(cache, dy[first : first + length], dstate)
        ys.append(y)
        dxs.append(dx)
    return np.concatenate(ys), np.concatenate(dxs)


@exercise("11.carry-and-cut")
def carry_and_cut(windowed: Function()):
    """Windows of one sequence, with the state carried and the gradient cut."""
    lstm, x, dy = case()

    def run(dy):
        # lstm comes in from outside the call, so that only arrays are copied
        return windowed(lstm, x, dy, LENGTH)

    result = run(dy)
    if not isinstance(result, tuple | list) or len(result) != 2:
        yield look("It should return two arrays: all outputs, and the gradients of all inputs.")
        return
    y, dx = result
    if len(y) == 0 or len(dx) == 0 or any(one is ... for part in result for one in part):
        yield look("Something is still empty. In each window, append y of forward and dx of backward.")
        return
    if isinstance(y, list):
        yield look("You return a list of windows. np.concatenate makes one array of them, along time.")
        return
    whole, right = not_cut(lstm, x, dy, LENGTH)[0], carried_and_cut(lstm, x, dy, LENGTH)[1]
    if close(y, not_carried(lstm, x, dy, LENGTH)[0]):
        yield look("The state is not carried: each window begins with zeros, as if nothing had come before.")
        return
    if close(y, whole[:8]):
        yield look("The last window is missing: of 11 steps in windows of 4, three are left, and they count, too.")
        return
    hint = "It should be the output of one pass over everything. Is each window's final state the next one's beginning?"
    yield must(same("y", y, whole, hint))
    yield ok("The state is carried: windows give the same outputs as one pass.")
    last = np.zeros_like(dy)
    last[8:] = dy[8:]
    blamed = run(last)[1]
    if close(dx, not_cut(lstm, x, dy, LENGTH)[1]):
        yield look("The gradient is not cut: the blame of the last window reaches the first one.")
        return
    if close(dx, handed_forward(lstm, x, dy, LENGTH)[1]):
        yield look(
            "A window's dstate is handed to the window after it. It is blame for the one before; here it is dropped."
        )
        return
    hint = "Each window's backward gets its own part of dy, and the cache of its own forward."
    yield must(same("dx", dx, right, hint))
    yield must(same("With blame in the last window alone, dx of the others", blamed[:8], 0 * x[:8]))
    yield ok("The gradient stops at the cut: exactly zero before it.")


@carry_and_cut.right
def loop():
    return answers(carried_and_cut)


@carry_and_cut.right
def with_the_library():
    def windowed(lstm, x, dy, length):
        import gpulstm as gl

        ys, dxs, state = [], [], None
        for one, blame in zip(gl.training.windows(x, length), gl.training.windows(dy, length), strict=True):
            y, state, cache = lstm.forward(one.x, state)
            ys.append(y)
            dxs.append(lstm.backward(cache, blame.x)[0])
        return [np.concatenate(ys), np.concatenate(dxs)]

    return answers(windowed)


@carry_and_cut.wrong("as it stands", says="Something is still empty")
def unsolved():
    return answers(lambda *given: ([not_carried(*given)[0]], [...] * 3))


@carry_and_cut.wrong("nothing appended", says="Something is still empty")
def empty():
    return answers(lambda lstm, x, dy, length: ([], []))


@carry_and_cut.wrong("a list of windows", says="np.concatenate makes one array")
def lists():
    return answers(lambda *given: tuple(np.split(a, [4, 8]) for a in carried_and_cut(*given)))


@carry_and_cut.wrong("nothing carried", says="The state is not carried")
def zeros():
    return answers(not_carried)


@carry_and_cut.wrong("one pass over everything", says="The gradient is not cut")
def one_pass():
    return answers(not_cut)


@carry_and_cut.wrong("dstate handed on in time", says="handed to the window after it")
def forward_in_time():
    return answers(handed_forward)


@carry_and_cut.wrong("the rest is dropped", says="The last window is missing")
def dropped():
    return answers(lambda lstm, x, dy, length: tuple(a[:8] for a in carried_and_cut(lstm, x, dy, length)))


@carry_and_cut.wrong("only the last window", says="should have the shape")
def last_only():
    return answers(lambda lstm, x, dy, length: tuple(a[8:] for a in carried_and_cut(lstm, x, dy, length)))


@carry_and_cut.wrong("the same blame for each window", says="its own part of dy")
def same_blame():
    def windowed(lstm, x, dy, length):
        ys, dxs, state = [], [], None
        for first in range(0, len(x), length):
            part = x[first : first + length]
            y, state, cache = lstm.forward(part, state)
            ys.append(y)
            dxs.append(lstm.backward(cache, dy[: len(part)])[0])
        return np.concatenate(ys), np.concatenate(dxs)

    return answers(windowed)
