"""Small LSTM problems as NumPy arrays, and one call that gives every result of one."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import gpulstm as gl
from gpulstm.functional import lstm_inference


@dataclass
class Problem:
    """The arguments of one forward and backward pass, time first."""

    x: np.ndarray  # (time, batch, inputs)
    params: dict[str, np.ndarray]
    state: tuple[np.ndarray, np.ndarray] | None
    lengths: Any
    dy: np.ndarray | None
    dstate: tuple[np.ndarray | None, np.ndarray | None] | None

    def but(self, **changes: Any) -> "Problem":
        """A copy with some of the arguments replaced."""
        return replace(self, **changes)


def problem(
    seed: int = 0,
    *,
    steps: int = 5,
    batch: int = 3,
    inputs: int = 4,
    hidden: int = 2,
    layers: int = 1,
    directions: int = 1,
    bias: bool = True,
    state: bool = True,
    lengths: Any = None,
    dtype: str = "float64",
) -> Problem:
    """Random values of unit size: no argument is zero, no two sizes are the same unless asked for."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(dtype)

    params = {}
    for layer in range(layers):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
            width = inputs if layer == 0 else directions * hidden
            params["weight_ih" + suffix] = normal(4 * hidden, width)
            params["weight_hh" + suffix] = normal(4 * hidden, hidden)
            if bias:
                params["bias" + suffix] = normal(4 * hidden)
    of_state = (layers * directions, batch, hidden)
    initial = (normal(*of_state), normal(*of_state))
    dstate = (normal(*of_state), normal(*of_state))
    x, dy = normal(steps, batch, inputs), normal(steps, batch, directions * hidden)
    return Problem(x, params, initial if state else None, lengths, dy, dstate)


def solve(backend, given: Problem, *, batch_first: bool = False) -> dict[str, np.ndarray]:
    """Every result by one backend: y, h, c, dx, dh, dc and "d" + each parameter's name, as NumPy arrays."""
    y, final, cache = gl.lstm_forward(
        backend.array(given.x),
        backend.array(given.params),
        backend.array(given.state),
        lengths=given.lengths,
        batch_first=batch_first,
    )
    dx, grads, dinitial = gl.lstm_backward(cache, backend.array(given.dy), backend.array(given.dstate))
    results = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
    return backend.numpy(results | {"d" + name: gradient for name, gradient in grads.items()})


def infer(backend, given: Problem, *, batch_first: bool = False) -> dict[str, np.ndarray]:
    """y, h and c by inference, as NumPy arrays."""
    y, final = lstm_inference(
        backend.array(given.x),
        backend.array(given.params),
        backend.array(given.state),
        lengths=given.lengths,
        batch_first=batch_first,
    )
    return backend.numpy({"y": y, "h": final.h, "c": final.c})


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-12) -> None:
    """The same names and shapes, and every element within ``tolerance`` of an array's largest value, or of 1.

    1e-12 is rounding in float64 (2e-16) times the few hundred operations between an argument and a result here.
    """
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape, name
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape and found[name].tobytes() == wanted.tobytes(), name
