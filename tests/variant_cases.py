"""LSTM calls with options: each option alone, and random combinations; and what gpulstm makes of them."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any

import numpy as np

import gpulstm as gl
from gpulstm.functional import lstm_inference
from tests import plain_loop, plain_torch

COVERING = (
    132, 18, 225, 39, 244, 28, 247, 133, 6, 76, 102, 130, 32, 85, 90, 294, 12, 153, 4, 14, 19, 21, 37, 40, 52, 64,
    230,
)  # fmt: skip
COVERING_AGAIN = (
    246, 63, 36, 45, 184, 271, 54, 193, 107, 200, 33, 255, 291, 66, 2, 156, 0, 239, 30, 178, 213, 223, 29, 55, 57, 61,
    80, 86, 112, 129, 197, 290,
)  # fmt: skip
COMBINATIONS = COVERING + COVERING_AGAIN
"""Numbers of random combinations. In each of the two lists every two options that can meet do so twice, every layout
and activation comes up, and each option is on and off in one direction and in both, with lengths and without. They are
some of the first 300 numbers, found by taking again and again the one that adds most."""

AWAY_FROM_KINKS = 3e-4
"""No activation's input in any case is nearer than this to a place where its slope, or the slope's, jumps: rounding in
float32 (1e-7, times some hundreds) and the steps of finite differences (6e-6, times some tens) stay on one side."""

LARGEST = 30.0
"""No result is larger than this: relu and affine gates can be larger than one, and then a state grows with time."""


@dataclass
class Case:
    """Sizes, options and float64 arguments of one call. The values fit into float32, so one expectation serves both."""

    name: str
    input_size: int
    hidden_size: int
    proj_size: int
    num_layers: int
    directions: int
    batch_first: bool
    options: dict[str, Any]
    rng: int
    x: np.ndarray
    params: dict[str, np.ndarray]
    state: tuple[np.ndarray, np.ndarray] | None
    lengths: np.ndarray | None
    dy: np.ndarray
    dstate: tuple[np.ndarray, np.ndarray]

    @property
    def width(self) -> int:
        return self.proj_size or self.hidden_size

    def initial(self) -> tuple[np.ndarray, np.ndarray]:
        return self.state or tuple(np.zeros_like(part) for part in self.dstate)

    def but(self, **changes: Any) -> "Case":
        return replace(self, **changes)

    def __str__(self) -> str:
        sizes = f"x {self.x.shape}, hidden {self.hidden_size}, proj {self.proj_size}"
        kinds = sorted({name.partition("_l")[0] for name in self.params})
        return f"{self.name}: {sizes}, {self.num_layers} layers, {self.directions} directions, {self.options}, {kinds}"


ALONE: dict[str, dict[str, Any]] = {
    "plain": {},
    "proj_size": {"proj_size": 2},
    "peephole": {"peephole": True},
    "layer_norm": {"layer_norm": True},
    "coupled": {"coupled": True},
    "cell_clip": {"cell_clip": 0.6},
    "gates hard_sigmoid": {"activations": ("hard_sigmoid", "tanh", "tanh")},
    "gates hard_sigmoid, steep": {"activations": (("hard_sigmoid", 0.6, 0.4), "tanh", "tanh")},
    "gates softsign": {"activations": ("softsign", "tanh", "tanh")},
    "gates relu": {"activations": ("relu", "tanh", "tanh")},
    "gates affine": {"activations": (("affine", 0.3, 0.4), "tanh", "tanh")},
    "candidate relu": {"activations": ("sigmoid", "relu", "tanh")},
    "candidate softsign": {"activations": ("sigmoid", "softsign", "tanh")},
    "candidate affine": {"activations": ("sigmoid", ("affine", -0.8, 0.3), "tanh")},
    "candidate hard_sigmoid": {"activations": ("sigmoid", ("hard_sigmoid", 0.7), "tanh")},
    "cell relu": {"activations": ("sigmoid", "tanh", "relu")},
    "cell softsign": {"activations": ("sigmoid", "tanh", "softsign")},
    "cell sigmoid": {"activations": ("sigmoid", "tanh", "sigmoid")},
    "cell affine": {"activations": ("sigmoid", "tanh", "affine")},
    "dropout": {"dropout": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "recurrent_dropout on the candidate": {"recurrent_dropout": 0.4, "recurrent_dropout_on": "candidate"},
    "zoneout": {"zoneout": 0.4},
    "zoneout of h": {"zoneout": (0.5, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.5)},
    "weight_drop": {"weight_drop": 0.4},
}
"""Each option by itself."""

GATES = ("sigmoid", "hard_sigmoid", ("hard_sigmoid", 0.3, 0.4), ("hard_sigmoid", 0.5), ("affine", 0.2, 0.5), "softsign",
         "relu", "tanh")  # fmt: skip
OTHERS = ("tanh", "relu", "softsign", "affine", ("affine", -0.7, 0.1), ("affine", 0.5), "hard_sigmoid",
          ("hard_sigmoid", 0.4, 0.3), "sigmoid")  # fmt: skip


@cache
def alone(name: str, layers: int = 2, directions: int = 2) -> Case:
    """One option in a small LSTM of two layers and two directions with initial states and a length of zero."""
    options = dict(ALONE[name])
    kinds = {kind: options.pop(kind, 0) for kind in ("proj_size", "peephole", "layer_norm")}
    sizes = {"steps": 3, "batch": 4, "inputs": 2, "hidden": 3}
    for attempt in count():
        rng = np.random.default_rng((attempt, *name.encode()))
        lengths = np.array([2, 0, 3, 1])
        case = _case(
            rng, name, layers=layers, directions=directions, lengths=lengths, options=options, **sizes, **kinds
        )
        if _can_be_compared(case):
            return case


@cache
def combination(seed: int) -> Case:
    """Random combination number ``seed``. batch, time, inputs, hidden and proj are all different."""
    for attempt in count():
        case = _combination(np.random.default_rng((seed, attempt)), f"combination {seed}")
        if _can_be_compared(case):
            return case


def _can_be_compared(case: Case) -> bool:
    """Whether rounding stays rounding: no kink is near, and no unbounded activation has made the values grow."""
    for training in (True, False):
        results, nearest_kink = plain_loop.run(case, training=training)
        if nearest_kink < AWAY_FROM_KINKS or any(np.abs(value).max(initial=0) > LARGEST for value in results.values()):
            return False
    return True


def _combination(rng: np.random.Generator, name: str) -> Case:
    sizes = (0,) * 5
    while len(set(sizes)) < 5:
        hidden = int(rng.integers(3, 7))
        sizes = (int(rng.integers(1, 8)), hidden, int(rng.integers(1, hidden)), int(rng.integers(2, 6)),
                 int(rng.integers(1, 9)))  # fmt: skip
    inputs, hidden, proj, batch, steps = sizes
    layers, directions = int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2])), int(rng.integers(1, 3))

    def sometimes(option: dict, probability: float = 0.3) -> dict:
        return option if rng.random() < probability else {}

    def probability() -> float:
        return round(float(rng.uniform(0.1, 0.6)), 2)

    def one_of(choices: tuple) -> Any:
        return choices[rng.integers(len(choices))]

    # Layer norm of a single number's multiples hardly depends on it: its gradient would be the rounding of larger ones.
    layer_norm = bool(rng.random() < 0.45) and inputs > 1 and proj > 1
    options: dict[str, Any] = {}
    options |= sometimes({"coupled": True})
    options |= sometimes({"cell_clip": round(float(rng.uniform(0.3, 2.0)), 2)})
    options |= sometimes({"activations": (one_of(GATES), one_of(OTHERS), one_of(OTHERS))}, 0.5)
    options |= sometimes({"dropout": probability()}) if layers > 1 else {}
    options |= sometimes({"recurrent_dropout": probability(), "recurrent_dropout_on": one_of(("hidden", "candidate"))})
    options |= sometimes({"zoneout": one_of((probability(), (probability(), probability()), (0.0, probability())))})
    options |= sometimes({"weight_drop": probability()})
    if directions == 1 and int(name.rpartition(" ")[2]) % 3 == 0:
        options["reverse"] = True
    return _case(
        rng,
        name,
        steps=steps,
        batch=batch,
        inputs=inputs,
        hidden=hidden,
        layers=layers,
        directions=directions,
        proj_size=proj if rng.random() < 0.35 else 0,
        peephole=bool(rng.random() < 0.35),
        layer_norm=layer_norm,
        bias=layer_norm or bool(rng.random() < 0.8),
        batch_first=bool(rng.random() < 0.3),
        state=bool(rng.random() < 0.8),
        lengths=rng.integers(0, steps + 1, size=batch) if rng.random() < 0.6 else None,
        options=options,
    )


def _case(
    rng: np.random.Generator,
    name: str,
    *,
    steps: int,
    batch: int,
    inputs: int,
    hidden: int,
    layers: int,
    directions: int,
    proj_size: int,
    peephole: bool,
    layer_norm: bool,
    options: dict,
    lengths: np.ndarray | None,
    bias: bool = True,
    batch_first: bool = False,
    state: bool = True,
) -> Case:
    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32).astype(np.float64)

    width = proj_size or hidden
    params = {}
    for layer in range(layers):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
            columns = inputs if layer == 0 else directions * width
            params["weight_ih" + suffix] = normal(4 * hidden, columns, scale=columns**-0.5)
            params["weight_hh" + suffix] = normal(4 * hidden, width, scale=width**-0.5)
            if bias:
                params["bias" + suffix] = normal(4 * hidden)
            if proj_size:
                params["weight_hr" + suffix] = normal(proj_size, hidden, scale=hidden**-0.5)
            if peephole:
                params["weight_peephole" + suffix] = normal(3 * hidden)
            if layer_norm:
                params["weight_norm_ih" + suffix] = 1 + normal(4 * hidden, scale=0.5)
                params["weight_norm_hh" + suffix] = 1 + normal(4 * hidden, scale=0.5)
                params["weight_norm_c" + suffix] = 1 + normal(hidden, scale=0.5)
                params["bias_norm_c" + suffix] = normal(hidden, scale=0.5)
    params = {key: value.astype(np.float32).astype(np.float64) for key, value in params.items()}
    of_h, of_c = (layers * directions, batch, width), (layers * directions, batch, hidden)
    leading = (batch, steps) if batch_first else (steps, batch)
    initial, dstate = ((normal(*of_h), normal(*of_c)) for _ in range(2))
    x, dy = normal(*leading, inputs), normal(*leading, directions * width)
    seed = int(rng.integers(2**64, dtype=np.uint64))
    return Case(name, inputs, hidden, proj_size, layers, directions, batch_first, options, seed, x, params,
                initial if state else None, lengths, dy, dstate)  # fmt: skip


@cache
def _expected(kind: str, name: Any) -> dict[str, np.ndarray]:
    case = alone(name) if kind == "alone" else combination(name)
    inferred, _ = plain_loop.run(case, training=False)
    trained, _ = plain_loop.run(case, training=True)
    differentiated = plain_torch.run(case)
    for key, value in trained.items():
        error = relative_error(differentiated[key], value)
        assert error < 1e-12, f"the plain loop and PyTorch's formulas differ by {error:.1e} in {key} of {case}"
    return differentiated | trained | {"inference " + key: value for key, value in inferred.items()}


def expected_alone(name: str) -> dict[str, np.ndarray]:
    """Every result of an option alone, under the names that `ours` uses."""
    return _expected("alone", name)


def expected_combination(seed: int) -> dict[str, np.ndarray]:
    """Every result of a combination, under the names that `ours` uses."""
    return _expected("combination", seed)


def ours(case: Case, backend, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Every result of the case by gpulstm on a backend: y, h, c, dx, dh, dc, "d" + each parameter's name in training,
    and "inference y", "inference h", "inference c"."""

    def array(value: Any) -> Any:
        return backend.array(_cast(value, dtype))

    x, params, state = array(case.x), array(case.params), array(case.state)
    how = {"lengths": case.lengths, "batch_first": case.batch_first, "options": case.options}
    inferred, inferred_state = lstm_inference(x, params, state, **how)
    y, final, cache = gl.lstm_forward(x, params, state, rng=case.rng, **how)
    dx, grads, dinitial = gl.lstm_backward(cache, array(case.dy), array(case.dstate))
    results = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
    results |= {"d" + name: value for name, value in grads.items()}
    results |= {"inference y": inferred, "inference h": inferred_state.h, "inference c": inferred_state.c}
    return backend.numpy(results)


def _cast(value: Any, dtype: str) -> Any:
    if isinstance(value, dict):
        return {key: _cast(item, dtype) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_cast(item, dtype) for item in value)
    return None if value is None else value.astype(dtype)


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what was expected; infinite where the shapes differ."""
    if value.shape != expected.shape:
        return np.inf
    norm = float(np.linalg.norm(expected))
    difference = float(np.linalg.norm(value.astype(np.float64) - expected))
    return difference / norm if norm else difference
