"""Our options through the module: the same bits as `gpulstm.lstm_forward` gives for the same seed; the values
themselves are checked where the core is. And PyTorch's generator, modes and attributes decide what is drawn."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm.functional import lstm_inference
from gpulstm.interop.torch import LSTM
from tests import variant_cases


def module_of(case: variant_cases.Case) -> LSTM:
    kinds = {name.partition("_l")[0] for name in case.params}
    module = LSTM(
        case.input_size,
        case.hidden_size,
        case.num_layers,
        bias="bias" in kinds,
        batch_first=case.batch_first,
        bidirectional=case.directions == 2,
        proj_size=case.proj_size,
        dtype=torch.float64,
        peephole="weight_peephole" in kinds,
        layer_norm="weight_norm_ih" in kinds,
        **case.options,
    )
    values = {}
    for name, value in case.params.items():
        first = name.startswith("bias_l")
        values[name.replace("bias_l", "bias_ih_l") if first else name] = torch.tensor(value)
        values |= {name.replace("bias_l", "bias_hh_l"): torch.zeros(value.shape)} if first else {}
    module.load_state_dict(values)
    return module


def next_seed(torch_seed: int) -> int:
    """The masks' seed of the first call after ``torch.manual_seed(torch_seed)``; the generator stands as before it."""
    torch.manual_seed(torch_seed)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    torch.manual_seed(torch_seed)
    return seed


def check(case: variant_cases.Case) -> None:
    module = module_of(case)
    how = {"lengths": case.lengths, "batch_first": case.batch_first, "options": case.options}
    x = torch.tensor(case.x, requires_grad=True)
    state = None if case.state is None else tuple(torch.tensor(part, requires_grad=True) for part in case.state)
    seed = next_seed(11)
    y, (h, c) = module(x, state, lengths=case.lengths)
    torch.autograd.backward([y, h, c], [torch.tensor(d) for d in (case.dy, *case.dstate)])
    wanted_y, final, cache = gl.lstm_forward(case.x, case.params, case.state, rng=seed, **how)
    dx, grads, dinitial = gl.lstm_backward(cache, case.dy, case.dstate)
    found = {"y": y.detach(), "h": h.detach(), "c": c.detach(), "dx": x.grad}
    wanted = {"y": wanted_y, "h": final.h, "c": final.c, "dx": dx} | {"d" + name: grads[name] for name in grads}
    if state is not None:
        found |= {"dh": state[0].grad, "dc": state[1].grad}
        wanted |= {"dh": dinitial.h, "dc": dinitial.c}
    for name, parameter in module.named_parameters():
        if not name.startswith("bias_hh"):
            found["d" + name.replace("bias_ih", "bias")] = parameter.grad
    same_bits(found, wanted, case)

    torch.manual_seed(11)
    with torch.no_grad():
        y, (h, c) = module(x, state, lengths=case.lengths)
    same_bits({"y": y, "h": h, "c": c}, {name: wanted[name] for name in "yhc"}, case)

    module.eval()
    with torch.no_grad():
        y, (h, c) = module(x, state, lengths=case.lengths)
    inferred, final = lstm_inference(case.x, case.params, case.state, **how)
    same_bits({"y": y, "h": h, "c": c}, {"y": inferred, "h": final.h, "c": final.c}, case)
    with_graph = module(x, state, lengths=case.lengths)[0]
    assert with_graph.requires_grad and torch.allclose(with_graph, y, rtol=1e-12, atol=1e-13)


def same_bits(found: dict[str, torch.Tensor], wanted: dict[str, np.ndarray], case: variant_cases.Case) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.array_equal(found[name].numpy(), value), f"{name} in {case}"


@pytest.mark.parametrize("name", variant_cases.ALONE)
def test_each_option_alone(name):
    check(variant_cases.alone(name))


@pytest.mark.parametrize("seed", variant_cases.COVERING)
def test_combinations(seed):
    check(variant_cases.combination(seed))


def test_reverse_and_checkpoints():
    case = variant_cases.alone("plain", 2, 1)
    check(replace(case, options={"reverse": True}))
    module, other = LSTM(3, 4, 2, zoneout=0.3, checkpoint_every=2), LSTM(3, 4, 2, zoneout=0.3)
    other.load_state_dict(module.state_dict())
    assert "checkpoint_every=2" in repr(module)
    x = torch.randn(7, 2, 3, requires_grad=True)
    gradients = []
    for each in (module, other):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(each(x)[0].sum(), [x, *each.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


RANDOM: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.5},
    "recurrent_dropout": {"recurrent_dropout": 0.5},
    "zoneout": {"zoneout": 0.5},
    "weight_drop": {"weight_drop": 0.5},
}


class TestRandomness:
    @pytest.mark.parametrize("name", RANDOM)
    def test_the_seed_is_torchs(self, name):
        module, x = LSTM(3, 4, 2, **RANDOM[name]), torch.randn(5, 2, 3)
        torch.manual_seed(1)
        first, second = module(x)[0], module(x)[0]
        torch.manual_seed(1)
        assert torch.equal(module(x)[0], first) and not torch.equal(first, second)

    @pytest.mark.parametrize("name", ["nothing", *RANDOM])
    def test_the_generator_moves_on_only_where_something_is_drawn(self, name):
        module, x = LSTM(3, 4, 2, **RANDOM.get(name, {})), torch.randn(5, 2, 3)
        before = torch.get_rng_state()
        module.eval()(x)
        assert torch.equal(torch.get_rng_state(), before)
        module.train()(x)
        assert torch.equal(torch.get_rng_state(), before) == (name == "nothing")

    def test_attributes_can_be_changed_between_calls(self):
        """As those of torch.nn.LSTM can: schedules do."""
        module, x = LSTM(3, 4, 2, dropout=0.5, zoneout=0.5), torch.randn(5, 2, 3)
        assert not torch.equal(module(x)[0], module(x)[0])
        module.dropout, module.zoneout = 0, [0.0, 0]
        assert torch.equal(module(x)[0], module(x)[0])
        module.recurrent_dropout = 1.5
        with pytest.raises(ValueError, match="recurrent_dropout must be at least 0 and below 1, got 1.5"):
            module(x)

    def test_dropout_is_torchs_in_the_mean(self):
        """The masks differ, but keep the mean: over 400 draws, 4 standard errors of what one draw varies by."""
        torch.manual_seed(0)
        module, x = LSTM(3, 4, 2, dropout=0.5, dtype=torch.float64), torch.randn(3, 1, 3, dtype=torch.float64)
        theirs = torch.nn.LSTM(3, 4, 2, dropout=0.5, dtype=torch.float64)
        theirs.load_state_dict(module.state_dict())
        with torch.no_grad():
            draws = [torch.stack([m(x)[0].sum() for _ in range(400)]) for m in (module, theirs)]
        error = (draws[0].var() / 400 + draws[1].var() / 400).sqrt()
        assert error > 0 and (draws[0].mean() - draws[1].mean()).abs() < 4 * error
        assert 0.5 < draws[0].std() / draws[1].std() < 2
