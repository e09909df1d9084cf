"""gpulstm.training.windows: a long sequence in pieces gives what one call gives, and the gradients that are meant."""

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm.training import windows
from tests import problems
from tests.test_errors import refused

STEPS, BATCH, INPUTS, HIDDEN = 11, 5, 4, 3
# In windows of 4 steps: the whole time, at the first edge, nothing, inside the second window, at the second edge.
LENGTHS = [STEPS, 4, 0, 6, 8]
WINDOWS = [1, 4, STEPS - 1, STEPS, 1000]
VARIANTS = {
    "three layers": {"num_layers": 3},
    "projection": {"num_layers": 2, "proj_size": 2},
    "peepholes, layer norm": {"peephole": True, "layer_norm": True},
    "zoneout in inference": {"zoneout": (0.2, 0.3)},
}


def problem(**options) -> problems.Problem:
    sizes = {"steps": STEPS, "batch": BATCH, "inputs": INPUTS, "hidden": HIDDEN}
    return problems.problem(5, **{**sizes, **options})


def one_call(lstm: gl.LSTM, x, state, lengths, training: bool) -> list:
    result = (lstm.forward if training else lstm)(x, state, lengths=lengths)
    return [result[0], *result[1]]


def in_windows(lstm: gl.LSTM, x, state, lengths, training: bool, length: int) -> list:
    outputs = []
    for x_window, lengths_window in windows(x, length, batch_first=lstm.batch_first, lengths=lengths):
        y, state = (lstm.forward if training else lstm)(x_window, state, lengths=lengths_window)[:2]
        outputs.append(y)
    return [outputs, *state]


def assert_alike(backend, lstm: gl.LSTM, x, state, lengths, training: bool, length: int) -> None:
    """Rounding alone may differ: one multiplication for all steps adds up in another order than one for each window."""
    arguments = backend.array(x), backend.array(state), lengths, training
    wanted = backend.numpy(one_call(lstm, *arguments))
    outputs, *final = in_windows(lstm, *arguments, length)
    joined = np.concatenate(backend.numpy(outputs), axis=1 if lstm.batch_first and x.ndim == 3 else 0)
    for found, expected in zip((joined, *backend.numpy(final)), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("length", WINDOWS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("training", [True, False], ids=["forward", "inference"])
class TestOutputs:
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_they_are_those_of_one_call(self, backend, length, lengths, training, batch_first):
        given = problem()
        lstm = gl.LSTM(INPUTS, HIDDEN, batch_first=batch_first, dtype="float64", xp=backend.xp, rng=0)
        x = given.x.swapaxes(0, 1) if batch_first else given.x
        assert_alike(backend, lstm, x, given.state, lengths, training, length)

    def test_without_a_batch(self, backend, length, lengths, training):
        given = problem()
        lstm = gl.LSTM(INPUTS, HIDDEN, dtype="float64", xp=backend.xp, rng=0)
        state = tuple(part[:, 0] for part in given.state)
        assert_alike(backend, lstm, given.x[:, 0], state, lengths and 6, training, length)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
class TestVariants:
    def test_outputs_are_those_of_one_call(self, backend, variant, lengths):
        lstm = gl.LSTM(INPUTS, HIDDEN, **VARIANTS[variant], dtype="float64", xp=backend.xp, rng=0)
        assert_alike(backend, lstm, problem().x, None, lengths, False, 4)


def truncated_by_torch(given: problems.Problem, lengths, length: int) -> dict[str, np.ndarray]:
    """Gradients of sum(y * dy) by the parameters and x: a loop over torch.nn.LSTMCell, which detaches the state every
    ``length`` steps."""
    cell = torch.nn.LSTMCell(INPUTS, HIDDEN, dtype=torch.float64)
    names = {"weight_ih_l0": "weight_ih", "weight_hh_l0": "weight_hh", "bias_l0": "bias_ih"}
    with torch.no_grad():
        cell.bias_hh.zero_()
        for ours, theirs in names.items():
            getattr(cell, theirs).copy_(torch.tensor(given.params[ours]))
    x = torch.tensor(given.x, requires_grad=True)
    h, c = (torch.tensor(part[0]) for part in given.state)
    lengths = torch.full((BATCH,), STEPS) if lengths is None else torch.tensor(lengths)
    loss = 0.0
    for t in range(STEPS):
        if t % length == 0:
            h, c = h.detach(), c.detach()
        running = (t < lengths)[:, None]
        h_next, c_next = cell(x[t], (h, c))
        h, c = torch.where(running, h_next, h), torch.where(running, c_next, c)
        loss = loss + (running * h * torch.tensor(given.dy[t])).sum()
    loss.backward()
    return {ours: getattr(cell, theirs).grad.numpy() for ours, theirs in names.items()} | {"x": x.grad.numpy()}


def lstm_of(backend, given: problems.Problem) -> gl.LSTM:
    lstm = gl.LSTM(INPUTS, HIDDEN, dtype="float64", xp=backend.xp, rng=0)
    lstm.load_state_dict(given.params)
    return lstm


def added_up(backend, gradients: list[dict], dx: list) -> dict[str, np.ndarray]:
    found = {name: sum(backend.numpy(each[name]) for each in gradients) for name in gradients[0]}
    return found | {"x": np.concatenate([backend.numpy(part) for part in dx])}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
class TestGradients:
    @pytest.mark.parametrize("length", [1, 4, STEPS])
    def test_truncated_ones_are_pytorchs(self, backend, length, lengths):
        """The docstring's loop: the state goes on, its gradient does not."""
        given = problem()
        lstm, state = lstm_of(backend, given), backend.array(given.state)
        gradients, dxs = [], []
        pairs = zip(windows(backend.array(given.x), length, lengths=lengths), windows(given.dy, length), strict=True)
        for (x_window, lengths_window), (dy, _) in pairs:
            _, state, cache = lstm.forward(x_window, state, lengths=lengths_window)
            dx, grads, _ = lstm.backward(cache, dy=backend.array(dy))
            gradients.append(grads)
            dxs.append(dx)
        expected = truncated_by_torch(given, lengths, length)
        problems.assert_close(added_up(backend, gradients, dxs), expected)
        if length < STEPS:
            uncut = truncated_by_torch(given, lengths, STEPS)
            assert abs(uncut["weight_hh_l0"] - expected["weight_hh_l0"]).max() > 0.01, "nothing was there to be cut"

    def test_full_ones_by_handing_dstate_back(self, backend, lengths):
        given = problem()
        lstm, state = lstm_of(backend, given), backend.array(given.state)
        caches = []
        for x_window, lengths_window in windows(backend.array(given.x), 4, lengths=lengths):
            _, state, cache = lstm.forward(x_window, state, lengths=lengths_window)
            caches.append(cache)
        dstate, gradients, dxs = None, [], []
        for cache, (dy, _) in reversed(list(zip(caches, windows(given.dy, 4), strict=True))):
            dx, grads, dstate = lstm.backward(cache, dy=backend.array(dy), dstate=dstate)
            gradients.append(grads)
            dxs.insert(0, dx)
        problems.assert_close(added_up(backend, gradients, dxs), truncated_by_torch(given, lengths, STEPS))


class TestWindows:
    def test_views_in_order_the_last_one_shorter(self):
        x = np.arange(11 * 2 * 3).reshape(11, 2, 3)
        for source, axis in ((x, 0), (x.swapaxes(0, 1), 1)):
            found = [window for window, _ in windows(source, 4, batch_first=axis == 1)]
            assert [window.shape[axis] for window in found] == [4, 4, 3]
            assert all(np.shares_memory(window, x) for window in found)
            np.testing.assert_array_equal(np.concatenate(found, axis=axis), source)

    @pytest.mark.parametrize("shape", [(7,), (7, 2), (7, 2, 3, 4)], ids=str)
    def test_anything_that_begins_with_time(self, shape):
        """Targets are cut by the same function, whatever their dtype."""
        x = np.arange(np.prod(shape)).reshape(shape)
        np.testing.assert_array_equal(np.concatenate([window.x for window in windows(x, 3)]), x)

    def test_no_step_is_no_window(self):
        assert list(windows(np.zeros((0, 2, 3)), 4)) == []

    def test_without_lengths_there_are_none(self):
        assert {window.lengths for window in windows(np.zeros((5, 2, 3)), 2)} == {None}

    @pytest.mark.parametrize("kind", [list, tuple, np.array, lambda a: np.array(a, "uint8"), torch.tensor, jnp.array])
    def test_lengths_count_from_the_windows_beginning(self, kind):
        """Unsigned integers would wrap around below zero."""
        library = {torch.tensor: torch.zeros, jnp.array: jnp.zeros}.get(kind, np.zeros)
        found = [window.lengths for window in windows(library((STEPS, 5, 3)), 4, lengths=kind(LENGTHS))]
        expected = [[4, 4, 0, 4, 4], [4, 0, 0, 2, 4], [3, 0, 0, 0, 0]]
        assert all(isinstance(lengths, np.ndarray) and lengths.dtype.kind == "i" for lengths in found)
        assert [lengths.tolist() for lengths in found] == expected

    def test_the_callers_lengths_are_not_changed(self):
        lengths = np.array(LENGTHS, np.int32)
        list(windows(np.zeros((STEPS, 5, 3)), 4, lengths=lengths))
        assert lengths.tolist() == LENGTHS

    @pytest.mark.parametrize("dtype", ["int32", "uint8"])
    def test_under_jit_lengths_may_be_traced(self, dtype):
        lstm = gl.LSTM(INPUTS, HIDDEN, xp=jnp, rng=0)

        @jax.jit
        def final_state(x, lengths):
            state = None
            for x_window, lengths_window in windows(x, 4, lengths=lengths):
                _, state = lstm(x_window, state, lengths=lengths_window)
            return state

        x = jnp.asarray(problem(dtype="float32").x)
        for found, wanted in zip(
            final_state(x, jnp.asarray(LENGTHS, dtype)), lstm(x, lengths=np.array(LENGTHS))[1], strict=True
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-6)

    def test_arrays_of_any_library(self):
        found = list(windows(array_api_strict.zeros((5, 2, 3)), 3, lengths=array_api_strict.asarray([5, 4])))
        assert [window.x.shape for window in found] == [(3, 2, 3), (2, 2, 3)]
        assert [window.lengths.tolist() for window in found] == [[3, 3], [2, 1]]


X = np.zeros((STEPS, BATCH, INPUTS), np.float32)


class TestBadArguments:
    """Each is refused by the call itself, before anybody iterates."""

    def test_length(self):
        for bad in (0, -1):
            with refused(ValueError, "length must be at least 1", f"got {bad}"):
                windows(X, bad)
        for bad in (2.0, "4", True, None):
            with refused(TypeError, "length must be an integer", f"got {type(bad).__name__}"):
                windows(X, bad)

    def test_x(self):
        for bad in (X.tolist(), None, "abc", 1.0):
            with refused(TypeError, "x must be an array", f"got {type(bad).__name__}"):
                windows(bad, 4)
        with refused(ValueError, "x must have a time axis", "got shape ()"):
            windows(np.array(1.0), 4)

    def test_which_axis_is_time_is_not_guessed(self):
        with refused(ValueError, "at least 3 axes for batch_first", "got (11, 4)", "leave batch_first out"):
            windows(X[:, 0], 4, batch_first=True)

    def test_lengths(self):
        with refused(ValueError, "lengths must have shape (batch,) = (5,)", "got (3,)"):
            windows(X, 4, lengths=[1, 2, 3])
        with refused(ValueError, "lengths must have shape () because x has no batch axis", "got (5,)"):
            windows(X[:, 0], 4, lengths=LENGTHS)
        with refused(ValueError, "lengths must be between 0 and the number of time steps 11", "got 12 for sequence 1"):
            windows(X, 4, lengths=[1, 12, 3, 4, 5])
        with refused(ValueError, "lengths must be between 0 and the number of time steps 5", "got 11"):
            windows(X, 4, batch_first=True, lengths=[STEPS] * STEPS)
        with refused(TypeError, "lengths must be integers", "float64"):
            windows(X, 4, lengths=np.ones(BATCH))
        with refused(TypeError, "lengths must be integers on the host or a NumPy array", "got a torch array"):
            windows(X, 4, lengths=torch.tensor(LENGTHS))
        with refused(ValueError, "lengths must come with x of shape (time, batch, ...)", "got (11,)"):
            windows(X[:, 0, 0], 4, lengths=3)
