"""What the module refuses: PyTorch's own exceptions where it has them, and arguments by their names everywhere."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from gpulstm.interop import torch_bridges
from gpulstm.interop.torch import LSTM


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


PACKED = pack_padded_sequence(tensor(5, 2, 3), [5, 3])

CALLS: dict[str, tuple[Any, ...]] = {
    "four axes": (tensor(1, 5, 2, 3),),
    "one axis": (tensor(3),),
    "inputs": (tensor(5, 2, 4),),
    "dtype": (tensor(5, 2, 3, dtype=torch.float64),),
    "integers": (torch.ones(5, 2, 3, dtype=torch.int64),),
    "h": (tensor(5, 2, 3), (tensor(1, 3, 4), tensor(1, 2, 4))),
    "c": (tensor(5, 2, 3), (tensor(1, 2, 4), tensor(1, 2, 5))),
    "unbatched state": (tensor(5, 2, 3), (tensor(1, 4), tensor(1, 4))),
    "batched state": (tensor(5, 3), (tensor(1, 1, 4), tensor(1, 1, 4))),
    "packed inputs": (pack_padded_sequence(tensor(5, 2, 4), [5, 3]),),
    "state of a packed sequence": (PACKED, (tensor(1, 3, 4), tensor(1, 3, 4))),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_torch_refuses_is_refused_alike(name):
    theirs, own = nn.LSTM(3, 4), LSTM(3, 4)
    with pytest.raises((RuntimeError, ValueError)) as wanted:
        theirs(*CALLS[name])
    with pytest.raises(wanted.type) as found:
        own(*CALLS[name])
    if "packed" not in name:  # there PyTorch speaks of its matrix products
        assert str(found.value) == str(wanted.value)


CONSTRUCTIONS: dict[str, tuple[tuple, dict[str, Any]]] = {
    "input_size": ((0, 4), {}),
    "hidden_size": ((3, "4"), {}),
    "num_layers": ((3, 4, 0), {}),
    "bias": ((3, 4), {"bias": 1}),
    "batch_first": ((3, 4), {"batch_first": None}),
    "dropout": ((3, 4, 2), {"dropout": 1.5}),
    "proj_size": ((3, 4), {"proj_size": 4}),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_constructions_that_torch_refuses(name):
    arguments, options = CONSTRUCTIONS[name]
    with pytest.raises((TypeError, ValueError)) as wanted:
        nn.LSTM(*arguments, **options)
    with pytest.raises(wanted.type, match=re.escape(str(wanted.value))):
        LSTM(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0, "num_layers": 2}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"recurrent_dropout_on": "cell"}, "recurrent_dropout_on must be 'hidden' or 'candidate'"),
        ({"layer_norm": True, "bias": False}, "layer_norm must come with bias=True"),
        ({"reverse": True, "bidirectional": True}, "reverse must be False with bidirectional=True"),
        ({"forget_bias": 1.0, "bias": False}, "forget_bias must be None without a bias"),
        ({"activations": ("sigmoid", "gelu", "tanh")}, "activations[1] (candidate) must be one of"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"cell_clip": -1}, "cell_clip must be positive and finite, got -1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_our_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LSTM(3, 4, **options)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (([[[1.0] * 3]],), TypeError, "input must be a torch.Tensor or a PackedSequence, got list"),
        ((tensor(5, 2, 3), tensor(2, 1, 2, 4)), TypeError, "hx must be a pair of tensors (h, c), got Tensor"),
        (
            (tensor(5, 2, 3), (tensor(1, 2, 4), None)),
            TypeError,
            "hx must be a pair of tensors (h, c), got Tensor, None",
        ),
        ((tensor(5, 2, 3), ()), TypeError, "hx must be a pair of tensors (h, c), got nothing in it"),
        (
            (tensor(5, 2, 3), (tensor(1, 2, 4), tensor(1, 2, 4, dtype=torch.float64))),
            TypeError,
            "hx[1] must have input's dtype torch.float32, got torch.float64",
        ),
        (
            (tensor(5, 2, 3), (tensor(1, 2, 4).to("meta"), tensor(1, 2, 4))),
            ValueError,
            "hx[0] must be on input's device cpu, got meta",
        ),
        (
            (pack_padded_sequence(tensor(5, 2, 3), [3, 5], enforce_sorted=False), (tensor(1, 3, 4), tensor(1, 3, 4))),
            RuntimeError,
            "Expected hidden[0] size (1, 2, 4), got [1, 3, 4]",
        ),
        ((tensor(5, 2, 3).to("meta"),), ValueError, "input must be on the parameters' device cpu, got meta"),
        (
            (PackedSequence(tensor(3, 3), torch.tensor([1, 2])),),
            ValueError,
            "input.batch_sizes must be positive and must not grow, got [1, 2]",
        ),
        (
            (PackedSequence(tensor(4, 3), torch.tensor([2, 1])),),
            ValueError,
            "input.batch_sizes must add up to the rows of input.data, 4, got 3",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_by_their_names(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        LSTM(3, 4)(*given)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([5, 6], ValueError, "lengths must be between 0 and the number of time steps 5, got 6 for sequence 1"),
        ([5], ValueError, "lengths must have shape (batch,) = (2,), got (1,)"),
        (torch.tensor([5.0, 3.0]), TypeError, "lengths must be integers"),
    ],
    ids=["too long", "too few", "floats"],
)
def test_lengths(lengths, error, message):
    with pytest.raises(error, match=re.escape(message)):
        LSTM(3, 4)(tensor(5, 2, 3), lengths=lengths)


def test_lengths_twice():
    with pytest.raises(ValueError, match="lengths must be None for a PackedSequence, which has its own lengths"):
        LSTM(3, 4)(PACKED, lengths=[5, 3])


def test_parameters_that_do_not_fit_together():
    module = LSTM(3, 4, 2)
    module.weight_hh_l1 = nn.Parameter(module.weight_hh_l1.detach().double())
    with pytest.raises(TypeError, match="weight_hh_l1 must have weight_ih_l0's dtype torch.float32, got torch.float64"):
        module(tensor(5, 2, 3))
    module.weight_hh_l1 = nn.Parameter(tensor(16, 4).to("meta"))
    with pytest.raises(ValueError, match="weight_hh_l1 must be on weight_ih_l0's device cpu, got meta"):
        module(tensor(5, 2, 3))
    module.weight_hh_l1 = nn.Parameter(tensor(4, 16))
    with pytest.raises(ValueError, match="weight_hh_l1 must have shape .*transposed"):
        module(tensor(5, 2, 3))


def test_a_gpu_without_cupy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with (
        pytest.raises(ImportError, match=re.escape('pip install "gpulstm[cuda12x]" or "gpulstm[cuda13x]"')),
        torch_bridges.CupyBridge(torch.device("cuda", 0)),
    ):
        pass
