"""What torch.nn.LSTM makes of a random case: outputs, final states and every gradient, as NumPy arrays."""

from dataclasses import dataclass

import numpy as np
import torch

torch.set_num_threads(1)


@dataclass
class Case:
    """Sizes, options and arguments of one LSTM call; arrays are NumPy and time comes first unless batch_first."""

    seed: int
    dtype: str
    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    batch_first: bool
    x: np.ndarray
    params: dict
    state: tuple | None
    lengths: np.ndarray | None
    dy: np.ndarray | None
    dstate: tuple | None

    def __str__(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in vars(self).items() if not isinstance(v, (np.ndarray, dict, tuple)))


def random_case(seed: int, dtype: str) -> Case:
    """Case number ``seed``: the same sizes and values for either dtype, up to rounding."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice(np.arange(2, 13), size=2, replace=False)
    inputs, hidden = (int(n) for n in sizes)
    layers, directions = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    batch, steps = int(rng.integers(1, 10)), int(rng.integers(1, 41))
    bias, batch_first = bool(rng.random() < 0.8), bool(rng.random() < 0.3)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(dtype)

    params = {}
    for layer in range(layers):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
            width = inputs if layer == 0 else directions * hidden
            params["weight_ih" + suffix] = normal(4 * hidden, width) / np.sqrt(width).astype(dtype)
            params["weight_hh" + suffix] = normal(4 * hidden, hidden) / np.sqrt(hidden).astype(dtype)
            if bias:
                params["bias" + suffix] = normal(4 * hidden)
    state_shape = (layers * directions, batch, hidden)
    leading = (batch, steps) if batch_first else (steps, batch)
    x, dy = normal(*leading, inputs), normal(*leading, directions * hidden)
    state = (normal(*state_shape), normal(*state_shape)) if rng.random() < 0.8 else None
    lengths = rng.integers(0, steps + 1, size=batch) if rng.random() < 0.6 else None
    dstate = (normal(*state_shape), normal(*state_shape))
    return Case(
        seed, dtype, inputs, hidden, layers, directions == 2, bias, batch_first, x, params, state, lengths, dy, dstate
    )


def run(case: Case) -> dict[str, np.ndarray]:
    """Every result of the case by PyTorch, under the names that `ours` uses.

    PyTorch refuses a length of zero: such a sequence is left out and put back as what it must be, an output of zero,
    a state that passes through, and no gradient for anything but that state.
    """
    rows = np.arange(_batch(case)) if case.lengths is None else np.flatnonzero(case.lengths)
    time_first = case.x.swapaxes(0, 1) if case.batch_first else case.x
    dy = case.dy.swapaxes(0, 1) if case.batch_first else case.dy
    zeros = np.zeros_like(case.dstate[0])
    h, c = case.state or (zeros, zeros)
    results = {
        "y": np.zeros_like(dy),
        "h": h.copy(),
        "c": c.copy(),
        "dx": np.zeros_like(time_first),
        "dh": case.dstate[0].copy(),
        "dc": case.dstate[1].copy(),
    }
    gradients = {"d" + name: np.zeros_like(value) for name, value in case.params.items()}
    if rows.size:
        found, gradients = _run_rows(case, time_first[:, rows], h[:, rows], c[:, rows], dy[:, rows], rows)
        for name, value in found.items():
            results[name][:, rows] = value
    if case.batch_first:
        results["y"], results["dx"] = results["y"].swapaxes(0, 1), results["dx"].swapaxes(0, 1)
    return results | gradients


def _batch(case: Case) -> int:
    return case.x.shape[0 if case.batch_first else 1]


def _run_rows(case, x, h, c, dy, rows) -> tuple[dict, dict]:
    module = module_of(case)
    x, h, c = (torch.tensor(a, requires_grad=True) for a in (x, h, c))
    if case.lengths is None:
        y, (h_final, c_final) = module(x, (h, c))
    else:
        lengths = torch.tensor(case.lengths[rows])
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        packed_y, (h_final, c_final) = module(packed, (h, c))
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_y, total_length=x.shape[0])
    asked = [torch.tensor(a) for a in (dy, case.dstate[0][:, rows], case.dstate[1][:, rows])]
    torch.autograd.backward([y, h_final, c_final], asked)
    results = {"y": y, "h": h_final, "c": c_final, "dx": x.grad, "dh": h.grad, "dc": c.grad}
    kept = {name: p for name, p in module.named_parameters() if "bias_hh" not in name}
    gradients = {name.replace("bias_ih", "bias"): p.grad for name, p in kept.items()}
    return (
        {name: value.detach().numpy() for name, value in results.items()},
        {"d" + name: value.numpy() for name, value in gradients.items()},
    )


def module_of(case: Case) -> torch.nn.LSTM:
    """A torch.nn.LSTM with the case's parameters: our one bias goes into the first of its two."""
    module = torch.nn.LSTM(
        case.input_size,
        case.hidden_size,
        case.num_layers,
        bias=case.bias,
        bidirectional=case.bidirectional,
        dtype=getattr(torch, case.dtype),
    )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias_hh" in name:
                parameter.zero_()
            else:
                parameter.copy_(torch.tensor(case.params[name.replace("bias_ih", "bias")]))
    return module


def ours(case: Case, backend) -> dict[str, np.ndarray]:
    """Every result of the case by gpulstm on a backend, under the names that `run` uses; inference included."""
    import gpulstm as gl
    from gpulstm.functional import lstm_inference

    params, x = backend.array(case.params), backend.array(case.x)
    state, lengths = backend.array(case.state), case.lengths
    options = {"lengths": lengths, "batch_first": case.batch_first}
    inferred, inferred_state = lstm_inference(x, params, state, **options)
    y, final, cache = gl.lstm_forward(x, params, state, **options)
    dx, grads, dinitial = gl.lstm_backward(cache, backend.array(case.dy), backend.array(case.dstate))
    results = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
    results |= {"d" + name: value for name, value in grads.items()}
    results |= {"inference y": inferred, "inference h": inferred_state.h, "inference c": inferred_state.c}
    return backend.numpy(results)


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what was expected; infinite where the shapes differ."""
    if value.shape != expected.shape:
        return np.inf
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    difference = float(np.linalg.norm(value.astype(np.float64) - expected.astype(np.float64)))
    return difference / norm if norm else difference
