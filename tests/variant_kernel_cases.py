"""Random problems for the LSTM with options: sizes, options and arguments, and one call that gives every result."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import gpulstm as gl
from gpulstm import options as options_module
from gpulstm.functional import lstm_inference
from gpulstm.options import Options
from gpulstm.parameters import Layout
from tests.backends import NUMPY, Backend

ALONE: dict[str, dict[str, Any]] = {
    "projection": {"proj_size": 3},
    "peephole": {"peephole": True},
    "layer norm": {"layer_norm": True},
    "layer norm without bias": {"layer_norm": True, "bias": False},
    "layer norm and projection": {"layer_norm": True, "proj_size": 3},
    "coupled": {"coupled": True},
    "cell clip": {"cell_clip": 0.4},
    "hard sigmoid, softsign, affine": {"activations": (("hard_sigmoid", 0.3, 0.4), "softsign", ("affine", -1.5, 0.2))},
    "softsign, relu, sigmoid": {"activations": ("softsign", "relu", "sigmoid")},
    "clipped affine": {"activations": (("affine", -0.5, 0.5), ("affine", 2.0), "relu"), "cell_clip": 0.6},
    "recurrent dropout": {"recurrent_dropout": 0.3},
    "recurrent dropout of the candidate": {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate"},
    "zoneout of h": {"zoneout": (0.3, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.3)},
    "zoneout": {"zoneout": (0.2, 0.4)},
    "layer norm and zoneout": {"layer_norm": True, "zoneout": 0.3},
    "weight drop": {"weight_drop": 0.4},
    "dropout": {"num_layers": 2, "dropout": 0.4},
    "dropout and peephole": {"num_layers": 2, "dropout": 0.4, "peephole": True},
}
ACTIVATIONS = ("sigmoid", "tanh", "relu", "softsign", ("hard_sigmoid", 0.3, 0.4), ("affine", -0.8, 0.1))
LAYOUT_NAMES = ("num_layers", "bidirectional", "bias", "proj_size", "peephole", "layer_norm")


@dataclass(frozen=True, eq=False)
class Case:
    """The arguments of one forward and backward pass, time first, in float32 values whatever the dtype asked for."""

    layout: Layout
    options: Options
    seed: int
    arrays: dict[str, Any]  # x, params, state, lengths, dy, dstate

    def of(self, dtype: str) -> dict[str, Any]:
        return {name: None if a is None else _converted(a, dtype) for name, a in self.arrays.items()}

    def but(self, **changes: Any) -> "Case":
        """A copy with some of the arrays replaced."""
        return Case(self.layout, self.options, self.seed, self.arrays | changes)

    def __str__(self) -> str:
        return f"{self.layout} {self.options} {self.arrays['x'].shape} lengths {self.arrays['lengths']}"


def case(
    seed: int = 0,
    *,
    steps: int = 5,
    batch: int = 3,
    inputs: int = 4,
    hidden: int = 6,
    lengths: Any = None,
    state: bool = True,
    dy: bool = True,
    **options: Any,
) -> Case:
    """Random values of unit size, weights so scaled that gates do not saturate."""
    layout = Layout(inputs, hidden, **{name: options.pop(name) for name in LAYOUT_NAMES if name in options})
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    params = {
        name: normal(*shape) / np.float32(np.sqrt(shape[-1]) if len(shape) == 2 else 1)
        for name, shape in layout.shapes().items()
    }
    shapes = layout.state_shapes(batch)
    arrays = {
        "x": normal(steps, batch, inputs),
        "params": params,
        "state": tuple(normal(*shape) for shape in shapes) if state else None,
        "lengths": None if lengths is None else np.asarray(lengths, np.int32),
        "dy": normal(steps, batch, layout.output_size) if dy else None,
        "dstate": tuple(normal(*shape) for shape in shapes),
    }
    return Case(layout, options_module.checked(**options), 2**63 + seed, arrays)


def random_case(number: int) -> Case:
    """Combinations of everything: all sizes differ, at least two sequences, often one of length zero."""
    rng = np.random.default_rng(1000 + number)
    steps, batch, inputs, hidden, projected = (int(n) for n in 2 + rng.permutation(8)[:5])

    def maybe(value: Any, otherwise: Any, probability: float = 0.4) -> Any:
        return value if rng.random() < probability else otherwise

    lengths = rng.integers(0, steps + 1, size=batch)
    lengths[rng.integers(batch)] = 0
    kinds = maybe(tuple(ACTIVATIONS[k] for k in rng.integers(len(ACTIVATIONS), size=3)), ("sigmoid", "tanh", "tanh"))
    # A gate without bounds makes the cell grow like its own square: then the clip is what keeps numbers finite.
    has_bounds = all(kind in ("sigmoid", "tanh", "softsign", "hard_sigmoid") for kind in map(_name, kinds))
    probabilities = rng.uniform(0.1, 0.6, size=5)
    layers = int(rng.integers(1, 3))
    both = maybe(True, False)
    return case(
        number,
        steps=steps,
        batch=batch,
        inputs=inputs,
        hidden=hidden,
        lengths=maybe(lengths, None, 0.6),
        state=maybe(True, False, 0.8),
        dy=maybe(True, False, 0.9),
        num_layers=layers,
        bidirectional=both,
        reverse=not both and number % 3 == 0,
        bias=maybe(True, False, 0.8),
        proj_size=maybe(projected, 0),
        peephole=maybe(True, False),
        layer_norm=maybe(True, False),
        coupled=maybe(True, False),
        cell_clip=maybe(float(rng.uniform(0.3, 2)), None, 0.4 if has_bounds else 1.0),
        activations=kinds,
        dropout=maybe(float(probabilities[0]), 0.0) if layers > 1 else 0.0,
        recurrent_dropout=maybe(float(probabilities[1]), 0.0),
        recurrent_dropout_on=maybe("candidate", "hidden"),
        zoneout=(maybe(float(probabilities[2]), 0.0), maybe(float(probabilities[3]), 0.0)),
        weight_drop=maybe(float(probabilities[4]), 0.0),
    )


def train(backend: Backend, given: Case, dtype: str) -> dict[str, np.ndarray]:
    """Every result by one backend: y, h, c, dx, dh, dc and "d" + each parameter's name, as NumPy arrays."""
    a = given.of(dtype)
    x, params, state, dy, dstate = (backend.array(a[name]) for name in ("x", "params", "state", "dy", "dstate"))
    y, final, kept = gl.lstm_forward(x, params, state, lengths=a["lengths"], options=given.options, rng=given.seed)
    results = backend.numpy({"y": y, "h": final.h, "c": final.c})
    dx, grads, dinitial = gl.lstm_backward(kept, dy, dstate)
    gradients = {"dx": dx, "dh": dinitial.h, "dc": dinitial.c} | {"d" + name: g for name, g in grads.items()}
    return results | backend.numpy(gradients)


def infer(backend: Backend, given: Case, dtype: str) -> dict[str, np.ndarray]:
    """y, h and c by inference, as NumPy arrays."""
    a = given.of(dtype)
    x, params, state = (backend.array(a[name]) for name in ("x", "params", "state"))
    y, final = lstm_inference(x, params, state, lengths=a["lengths"], options=given.options)
    return backend.numpy({"y": y, "h": final.h, "c": final.c})


RUNS = {"training": train, "inference": infer}


@cache
def by_numpy(given: Case, run: str, dtype: str) -> dict[str, np.ndarray]:
    return RUNS[run](Backend(NUMPY, np), given, dtype)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Relative to the norm. Infinite where one is not finite."""
    difference = float(np.linalg.norm(found.astype(np.float64) - wanted.astype(np.float64)))
    scale = float(np.linalg.norm(wanted.astype(np.float64)))
    if not np.isfinite(difference):
        return np.inf
    return difference / scale if scale else difference


def check(backend: Backend, given: Case, run: str, dtype: str) -> None:
    """The backend's results against NumPy's in float64.

    In float64 rounding is 1e-16, and the worst of these chains (layer norm over two or three units, which divides by a
    standard deviation near zero) multiply it by 1e5 at most: 1e-10 leaves room. In float32 the same would be no check
    at all, so there the case itself says how far it carries rounding.
    """
    found, wanted = RUNS[run](backend, given, dtype), by_numpy(given, run, "float64")
    tolerances = dict.fromkeys(wanted, 1e-10) if dtype == "float64" else float32_tolerances(given, run)
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert found[name].dtype == dtype and found[name].shape == expected.shape, name
        tolerance = tolerances[name]
        assert tolerance < 0.01, f"{name} cannot be checked: {given}"
        off = error(found[name], expected)
        assert off <= tolerance, f"{name} is off by {off:.2e}, not {tolerance:.2e}, in {run} of {given}"


def float32_tolerances(given: Case, run: str) -> dict[str, float]:
    """How far each result may be off in float32: 4 times what NumPy's own float32 results are off by, and 1e-5.

    NumPy's result on one problem can be right by luck where its conditioning allows an error ten times as large, and
    then kernels that round as often, but in other places, would be held to that luck. So it is the worst of five
    problems: this one, and four whose values all lie next to this one's.
    """
    rough = [float32_errors(given, run), *(float32_errors(neighbour(given, seed), run) for seed in range(4))]
    return {name: 1e-5 + 4 * max(errors[name] for errors in rough) for name in rough[0]}


def float32_errors(given: Case, run: str) -> dict[str, float]:
    """How far NumPy's float32 results are off."""
    exact, rough = by_numpy(given, run, "float64"), by_numpy(given, run, "float32")
    return {name: error(rough[name], expected) for name, expected in exact.items()}


def neighbour(given: Case, seed: int) -> Case:
    """The case with every value replaced by the next float32 above or below it."""
    rng = np.random.default_rng(seed)

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(a) for name, a in value.items()}
        if isinstance(value, tuple):
            return tuple(moved(a) for a in value)
        if value is None or value.dtype.kind == "i":
            return value
        return np.nextafter(value, rng.choice(np.array([-np.inf, np.inf], np.float32), size=value.shape))

    return given.but(**moved(given.arrays))


def _name(activation: Any) -> str:
    return activation if isinstance(activation, str) else activation[0]


def _converted(value: Any, dtype: str) -> Any:
    if isinstance(value, dict):
        return {name: _converted(a, dtype) for name, a in value.items()}
    if isinstance(value, tuple):
        return tuple(_converted(a, dtype) for a in value)
    return value if value.dtype.kind == "i" else value.astype(dtype)
