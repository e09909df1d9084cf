"""The same 200 random configurations as the core's, through the module: outputs, final states and every gradient, of
both biases, against torch.nn.LSTM. Tolerances are those of test_lstm_matches_torch.py, for its reasons.

Each case with lengths is run with ``lengths=``, and where none of them is zero, which PyTorch refuses, as a
PackedSequence too.
"""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gpulstm.interop.torch import LSTM
from tests import torch_reference

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
CHUNK = 50


def module_of(case: torch_reference.Case) -> LSTM:
    """The case's bias stands in both of PyTorch's: a quarter in the first one, the rest in the second one."""
    sizes = (case.input_size, case.hidden_size, case.num_layers, case.bias, case.batch_first)
    module = LSTM(*sizes, bidirectional=case.bidirectional, dtype=getattr(torch, case.dtype))
    values = {}
    for name, value in case.params.items():
        if name.startswith("bias"):
            values[name.replace("bias", "bias_ih")] = torch.tensor(value) * 0.25
            values[name.replace("bias", "bias_hh")] = torch.tensor(value) * 0.75
        else:
            values[name] = torch.tensor(value)
    module.load_state_dict(values)
    return module


def results(case: torch_reference.Case, *, packed: bool) -> dict[str, np.ndarray]:
    """Every result under the names of `torch_reference.run`, inference included, and the second bias by itself."""
    module = module_of(case)
    x = torch.tensor(case.x, requires_grad=True)
    given = case.state or tuple(np.zeros_like(part) for part in case.dstate)
    h0, c0 = (torch.tensor(part, requires_grad=True) for part in given)
    state = (h0, c0) if case.state is not None else None

    def call():
        if not packed:
            return module(x, state, lengths=case.lengths)
        lengths = torch.tensor(case.lengths)
        sequence = pack_padded_sequence(x, lengths, batch_first=case.batch_first, enforce_sorted=False)
        y, final = module(sequence, state)
        steps = x.shape[1 if case.batch_first else 0]
        return pad_packed_sequence(y, batch_first=case.batch_first, total_length=steps)[0], final

    with torch.no_grad():
        inferred, (h_inferred, c_inferred) = call()
    y, (h, c) = call()
    torch.autograd.backward([y, h, c], [torch.tensor(d) for d in (case.dy, *case.dstate)])
    found = {"y": y, "h": h, "c": c, "dx": x.grad}
    found |= {} if state is None else {"dh": h0.grad, "dc": c0.grad}
    found |= {"inference y": inferred, "inference h": h_inferred, "inference c": c_inferred}
    for name, parameter in module.named_parameters():
        found["d" + name.replace("bias_ih", "bias")] = parameter.grad
    return {name: value.detach().numpy() for name, value in found.items()}


def check(case: torch_reference.Case, found: dict[str, np.ndarray], reference: dict[str, np.ndarray], how: str) -> None:
    own = {name.removeprefix("inference ").replace("bias_hh", "bias") for name in found}
    assert own == set(reference) - (set() if case.state else {"dh", "dc"}), f"{how}, {case}"
    for name, value in found.items():
        wanted = reference[name.removeprefix("inference ").replace("bias_hh", "bias")]
        assert value.dtype == wanted.dtype, name
        error = torch_reference.relative_error(value, wanted)
        assert error <= TOLERANCE[case.dtype], f"{name} is off by {error:.2e} with {how} in {case}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("first", range(0, 200, CHUNK))
def test_matches(first, dtype):
    packed = 0
    for seed in range(first, first + CHUNK):
        case = torch_reference.random_case(seed, dtype)
        reference = torch_reference.run(case)
        check(case, results(case, packed=False), reference, "lengths=")
        if case.lengths is not None and case.lengths.min() > 0:
            check(case, results(case, packed=True), reference, "a PackedSequence")
            packed += 1
    assert packed >= CHUNK // 10, "hardly any case ran as a PackedSequence"
