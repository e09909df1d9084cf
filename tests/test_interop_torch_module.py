"""The module as PyTorch's users handle modules: built, saved, loaded, copied, moved, parametrised, replicated."""

import copy
import io
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gpulstm as gl
from gpulstm.interop.torch import LSTM, convert_lstms

# PyTorch has two ways to compute an LSTM with projections on a CPU, and says which one it takes.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "projection, batch first": {"num_layers": 2, "proj_size": 2, "batch_first": True},
    "projection, both directions": {"bidirectional": True, "proj_size": 3},
    "without bias": {"bias": False},
}
OURS = {"peephole": True, "layer_norm": True, "zoneout": (0.1, 0.2), "cell_clip": 2.0, "dropout": 0.25}


def pair(*arguments: Any, seed: int = 4, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.LSTM, LSTM]:
    """A torch.nn.LSTM and ours, from the same seed."""
    modules = []
    for kind in (nn.LSTM, LSTM):
        torch.manual_seed(seed)
        modules.append(kind(*(arguments or (3, 5)), dtype=dtype, **options))
    return modules[0], modules[1]


def own_from(*arguments: Any, seed: int = 4, **options: Any) -> LSTM:
    torch.manual_seed(seed)
    return LSTM(*(arguments or (3, 5)), dtype=torch.float64, **options)


def batch(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64).to(dtype)


def flat(results: Any) -> list[torch.Tensor]:
    y, (h, c) = results
    return [y, h, c]


def assert_same(found: Any, wanted: Any) -> None:
    """Rounding, 1e-16, times the hundreds of operations from input to output."""
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


class TestConstructor:
    @pytest.mark.parametrize("name", SHAPES)
    def test_same_draws_names_and_results(self, name):
        theirs, own = pair(**SHAPES[name])
        assert list(own.state_dict()) == list(theirs.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), theirs.parameters(), strict=True))
        given = [t.clone().requires_grad_() for t in (batch(), batch())]
        results = [flat(module(x)) for module, x in zip((theirs, own), given, strict=True)]
        assert_same(results[1], results[0])
        gradients = []
        for module, x, result in zip((theirs, own), given, results, strict=True):
            sum(part.square().sum() for part in result).backward()
            gradients.append([x.grad, *(p.grad for p in module.parameters())])
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)

    def test_positions(self):
        theirs, own = (kind(3, 5, 2, False, True, 0.5, True, 2, "cpu", torch.float64) for kind in (nn.LSTM, LSTM))
        assert repr(own) == repr(theirs)
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
            assert getattr(own, name) == getattr(theirs, name), name
        assert own.proj_size == 2 and own.mode == "LSTM" and own.weight_ih_l0.dtype == torch.float64
        assert isinstance(own, nn.LSTM)
        own.flatten_parameters()

    def test_default_dtype(self):
        torch.set_default_dtype(torch.float64)
        try:
            assert LSTM(3, 5, peephole=True).weight_peephole_l0.dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)

    def test_own_parameters_and_repr(self):
        torch.manual_seed(3)
        module = LSTM(3, 5, 2, bidirectional=True, **OURS)
        core = gl.LSTM(3, 5, 2, bidirectional=True, **OURS)
        shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if "bias_" not in name}
        assert shapes == {name: p.shape for name, p in core.params.items() if "bias" not in name}
        assert module.bias_norm_c_l1_reverse.shape == (5,)
        assert (module.weight_norm_c_l1 == 1).all() and (module.bias_norm_c_l0 == 0).all()
        peephole = module.weight_peephole_l0_reverse
        assert peephole.abs().max() <= 5**-0.5 and peephole.unique().numel() == 15
        assert repr(module) == (
            "LSTM(3, 5, num_layers=2, dropout=0.25, bidirectional=True, cell_clip=2.0, zoneout=(0.1, 0.2), "
            "peephole=True, layer_norm=True)"
        )
        before = copy.deepcopy(module.state_dict())
        torch.manual_seed(3)
        module.reset_parameters()
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    def test_plain_parameters_are_torchs_whatever_else_there_is(self):
        theirs, _ = pair(3, 5, 2)
        own = own_from(3, 5, 2, layer_norm=True, peephole=True)
        assert all(torch.equal(value, own.state_dict()[name]) for name, value in theirs.state_dict().items())

    @pytest.mark.parametrize("options", [{"forget_bias": 2.0}, {"chrono": 20}, {"init": "glorot"}], ids=str)
    def test_beginnings(self, options):
        plain, module = own_from(3, 5, 2), own_from(3, 5, 2, **options)
        bias = (module.bias_ih_l1 + module.bias_hh_l1).detach()
        before = (plain.bias_ih_l1 + plain.bias_hh_l1).detach()
        i, f, rest = bias[:5], bias[5:10], bias[10:]
        if "forget_bias" in options:
            assert (f == 2.0).all() and torch.equal(i, before[:5]) and torch.equal(rest, before[10:])
            assert torch.equal(module.weight_hh_l1, plain.weight_hh_l1)
        elif "chrono" in options:
            assert torch.equal(i, -f) and (f > 0).all() and (f < np.log(19)).all() and f.unique().numel() == 5
            assert torch.equal(rest, before[10:])
        else:
            assert (f == 1.0).all() and (i == 0).all() and (rest == 0).all()
            w = module.weight_hh_l0.detach()
            torch.testing.assert_close(w.T @ w, torch.eye(5, dtype=w.dtype), rtol=0, atol=1e-14)
            bound = (6 / (20 + 3)) ** 0.5
            assert 0.8 * bound < module.weight_ih_l0.abs().max() <= bound

    def test_half_precision_and_meta(self):
        module = LSTM(3, 5, init="glorot", dtype=torch.bfloat16)
        assert module.weight_hh_l0.dtype == torch.bfloat16
        module = LSTM(3, 5, layer_norm=True, chrono=9, device="meta")
        assert module(batch(torch.float32).to("meta"))[0].shape == (4, 6, 5)
        module = module.to_empty(device="cpu")
        module.reset_parameters()
        assert (module.weight_norm_ih_l0 == 1).all() and module(batch(torch.float32))[0].isfinite().all()

    def test_one_layer_makes_no_use_of_dropout(self):
        with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
            module = LSTM(3, 5, dropout=0.5)
        x = batch(torch.float32)
        assert torch.equal(module(x)[0], module(x)[0])


class TestSaving:
    def test_state_dicts_both_ways(self):
        theirs, own = pair(3, 5, 2, bidirectional=True)
        other = own_from(3, 5, 2, bidirectional=True, seed=5)
        other.load_state_dict(theirs.state_dict(), strict=True)
        assert torch.equal(other(batch())[0], own(batch())[0])
        back = nn.LSTM(3, 5, 2, bidirectional=True, dtype=torch.float64)
        back.load_state_dict(other.state_dict(), strict=True)
        assert torch.equal(back.weight_hh_l1_reverse, theirs.weight_hh_l1_reverse)
        with pytest.raises(RuntimeError, match="Missing key.*weight_peephole_l0"):
            LSTM(3, 5, peephole=True).load_state_dict(nn.LSTM(3, 5).state_dict())

    def test_in_files(self):
        torch.manual_seed(4)
        module = LSTM(3, 5, 2, **OURS).eval()
        wanted = module(batch(torch.float32))[0]
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        other = LSTM(3, 5, 2, **OURS).eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        whole = torch.load(file, weights_only=False)
        for copied in (other, whole, pickle.loads(pickle.dumps(module)), copy.deepcopy(module), copy.copy(module)):
            assert torch.equal(copied(batch(torch.float32))[0], wanted)
            assert repr(copied) == repr(module) and not copied.training
        own = copy.deepcopy(module)
        with torch.no_grad():
            own.weight_peephole_l1 += 1
        assert torch.equal(module(batch(torch.float32))[0], wanted), "a deep copy has its own parameters"

    def test_a_core_layer_from_it(self):
        module = LSTM(3, 5, 2, bidirectional=True, peephole=True, dtype=torch.float64)
        core = gl.LSTM.from_torch(module)
        y, _ = core(batch().numpy())
        assert_same(module(batch())[0].detach(), torch.from_numpy(y))

    def test_moving(self):
        theirs, own = pair(dtype=torch.float32)
        own.double(), theirs.double()
        assert own(batch())[0].dtype == torch.float64
        assert_same(own(batch())[0], theirs(batch())[0])
        own.to(torch.float32)
        with pytest.raises(ValueError, match="RNN input dtype .*float64.* does not match weight dtype .*float32"):
            own(batch())


class TestOtherPeoplesTools:
    def test_functional_call(self):
        theirs, own = pair()
        given = {name: p.detach() + 0.1 for name, p in own.named_parameters()}
        found, wanted = (torch.func.functional_call(module, given, (batch(),))[0] for module in (own, theirs))
        assert_same(found, wanted)
        assert_same(own(batch())[0], theirs(batch())[0])

    def test_parametrizations(self):
        modules = pair()
        results = []
        for module in modules:
            nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
            nn.utils.parametrizations.weight_norm(module, "weight_ih_l0")
            with torch.no_grad():
                module.parametrizations.weight_hh_l0.original0.mul_(1.5)
            y, _ = module(batch())
            y.sum().backward()
            results.append((y, [p.grad for p in module.parameters()]))
            assert isinstance(module, nn.LSTM)
        torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)

    @pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
    def test_weight_norm_as_it_was(self):
        theirs, own = pair()
        for module in (theirs, own):
            nn.utils.weight_norm(module, "weight_hh_l0")
            with torch.no_grad():
                module.weight_hh_l0_g.mul_(2)
        assert_same(own(batch())[0], theirs(batch())[0])

    def test_shared_parameters(self):
        theirs, own = pair()
        for module in (theirs, own):
            module.bias_hh_l0 = module.bias_ih_l0
            module(batch())[0].sum().backward()
        torch.testing.assert_close(own.bias_ih_l0.grad, theirs.bias_ih_l0.grad, rtol=1e-11, atol=1e-12)
        assert len(list(own.parameters())) == 3

    def test_hooks(self):
        own, seen = own_from(), []
        own.register_forward_pre_hook(lambda module, given: (2 * given[0],))
        own.register_forward_hook(lambda module, given, result: seen.append(result[0].shape))
        own.register_full_backward_hook(lambda module, into, out: seen.append(into[0].shape))
        x = batch().requires_grad_()
        y, _ = own(x)
        y.sum().backward()
        assert seen == [(4, 6, 5), (4, 6, 3)]
        assert_same(y, own_from()(2 * x)[0])

    def test_in_a_sequence_of_modules(self):
        class Output(nn.Module):
            def forward(self, results: tuple) -> torch.Tensor:
                return results[0]

        theirs, own = (nn.Sequential(nn.Linear(3, 3), module, Output(), nn.Linear(5, 2)).double() for module in pair())
        own.load_state_dict(theirs.state_dict())
        assert_same(own(batch()), theirs(batch()))

    def test_data_parallel_without_a_gpu(self):
        theirs, own = pair()
        assert_same(nn.DataParallel(own)(batch())[0], theirs(batch())[0])

    def test_replicas_at_the_same_time(self):
        """As DataParallel makes them: shallow copies with tensors, not parameters, in the parameters' places."""
        own = own_from(3, 5, 2, bidirectional=True, peephole=True)
        halves, replicas = batch().split(3, dim=1), []
        for _ in halves:
            replica = own._replicate_for_data_parallel()
            for name, parameter in own.named_parameters():
                setattr(replica, name, parameter.clone())
            replicas.append(replica)
        results: dict[int, Any] = {}

        def work(n: int) -> None:
            for _ in range(5):
                results[n] = replicas[n](halves[n])[0]

        threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        y = torch.cat([results[0], results[1]], dim=1)
        assert_same(y, own(batch())[0])
        found = torch.autograd.grad(y.square().sum(), list(own.parameters()))
        wanted = torch.autograd.grad(own(batch())[0].square().sum(), list(own.parameters()))
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


class TestTakingOver:
    def test_from_torch(self):
        theirs, _ = pair(3, 5, 2, bidirectional=True, batch_first=True)
        theirs.eval()
        own = LSTM.from_torch(theirs)
        assert type(own) is LSTM and repr(own) == repr(theirs) and not own.training
        assert all(a is b for a, b in zip(own.parameters(), theirs.parameters(), strict=True))
        assert_same(own(batch())[0], theirs(batch())[0])
        own.reset_parameters()

    def test_draws_nothing_and_takes_options(self):
        theirs, _ = pair(3, 5, 2, proj_size=2)
        torch.manual_seed(1)
        state = torch.get_rng_state()
        own = LSTM.from_torch(theirs, zoneout=0.5, layer_norm=True)
        assert own.zoneout == (0.5, 0.5) and (own.weight_norm_c_l1 == 1).all()
        assert {p.device.type for p in own.parameters()} == {"cpu"} and own.weight_norm_c_l1.dtype == torch.float64
        LSTM.from_torch(theirs)
        torch.manual_seed(1)
        LSTM.from_torch(theirs)
        assert torch.equal(torch.get_rng_state(), state)

    def test_whole_models(self):
        model = nn.ModuleDict({"a": nn.LSTM(3, 5, dropout=0.0), "b": nn.Sequential(nn.LSTM(5, 4), nn.GRU(4, 4))})
        model["again"] = model["a"]
        before = list(model.parameters())
        assert convert_lstms(model, zoneout=0.1) is model
        assert type(model["a"]) is LSTM and model["again"] is model["a"] and type(model["b"][0]) is LSTM
        assert model["b"][0].zoneout == (0.1, 0.1) and type(model["b"][1]) is nn.GRU
        assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
        assert type(convert_lstms(nn.LSTM(3, 5))) is LSTM

    def test_refused(self):
        hooked, computed = nn.LSTM(3, 5), nn.LSTM(3, 5)
        hooked.register_forward_hook(lambda *_: None)
        nn.utils.parametrizations.weight_norm(computed, "weight_hh_l0")
        for module, reason in ((hooked, "_forward_hooks"), (computed, "weight norm or a parametrization")):
            with pytest.raises(ValueError, match=f"must be plain to be taken over.*{reason}"):
                LSTM.from_torch(module)
        with pytest.raises(TypeError, match="must be a torch.nn.LSTM, got GRU"):
            LSTM.from_torch(nn.GRU(3, 5))
        with pytest.raises(TypeError, match="takes no init, chrono"):
            LSTM.from_torch(nn.LSTM(3, 5), chrono=10, init="glorot")
        with pytest.raises(TypeError, match="must be a torch.nn.Module, got dict"):
            convert_lstms({})
