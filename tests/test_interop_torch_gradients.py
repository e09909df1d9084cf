"""Gradients of the module by PyTorch's own checks, and what its graph promises: tensors that were written to are
noticed, a graph serves as often as it is kept for, and gradients have gradients."""

import weakref
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from gpulstm import functional
from gpulstm.interop import torch_function
from gpulstm.interop.torch import LSTM

X = torch.Generator().manual_seed(3)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=X, dtype=torch.float64)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "projection": {"proj_size": 2, "num_layers": 2},
    "without bias, batch first": {"bias": False, "batch_first": True},
    "reverse": {"reverse": True},
    "peepholes and layer norm": {"peephole": True, "layer_norm": True},
    "zoneout in inference": {"zoneout": (0.3, 0.2)},
    "coupled, clipped, other activations": {
        "coupled": True,
        "cell_clip": 0.9,
        "activations": (("hard_sigmoid", 0.3, 0.4), "softsign", "tanh"),
    },
    "checkpoints": {"checkpoint_every": 2},
}
TWICE = ("plain", "two layers, both directions", "projection", "peepholes and layer norm", "zoneout in inference")
LENGTHS = (2, 0, 4)
FEEDS = ("whole", "lengths", "packed", "unbatched")


def problem(name: str, feed: str, *, steps: int = 4, batch: int = 3) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """A function of (x, h, c, *parameters) that gives (y, h, c), and its arguments."""
    torch.manual_seed(5)
    module = LSTM(2, 3, dtype=torch.float64, **CONFIGURATIONS[name]).eval()
    names, parameters = zip(*module.named_parameters(), strict=True)
    shape = (batch, steps, 2) if module.batch_first else (steps, batch, 2)
    width, count = module.proj_size or 3, module.num_layers * (1 + module.bidirectional)
    x, h, c = normal(*shape), normal(count, batch, width), normal(count, batch, 3)
    if feed == "unbatched":
        x, h, c = x[0] if module.batch_first else x[:, 0], h[:, 0], c[:, 0]

    def function(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, *parameters: torch.Tensor) -> tuple:
        named = dict(zip(names, parameters, strict=True))
        lengths, given = (LENGTHS if feed == "lengths" else None), x
        if feed == "packed":
            given = pack_padded_sequence(x, [2, 4, 1], batch_first=module.batch_first, enforce_sorted=False)
        y, state = torch.func.functional_call(module, named, (given, (h, c)), {"lengths": lengths})
        return y.data if isinstance(y, PackedSequence) else y, *state

    tensors = (x, h, c, *(p.detach() for p in parameters))
    return function, tuple(t.clone().requires_grad_() for t in tensors)


class TestGradcheck:
    @pytest.mark.parametrize("name", CONFIGURATIONS)
    def test_every_configuration(self, name):
        function, tensors = problem(name, "lengths")
        assert torch.autograd.gradcheck(function, tensors)

    @pytest.mark.parametrize("feed", FEEDS)
    def test_every_way_to_feed_it(self, feed):
        function, tensors = problem("two layers, both directions", feed)
        assert torch.autograd.gradcheck(function, tensors, fast_mode=True)

    @pytest.mark.parametrize("name", TWICE)
    def test_gradients_of_gradients(self, name):
        """In PyTorch's fast mode, which compares one random projection of the whole Jacobian."""
        function, tensors = problem(name, "whole")
        assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)

    @pytest.mark.parametrize("feed", ["lengths", "packed"])
    def test_gradients_of_gradients_with_lengths(self, feed):
        """Each element of the Jacobian."""
        function, tensors = problem("without bias, batch first", feed)
        assert torch.autograd.gradgradcheck(function, tensors)

    def test_of_one_tensor_that_is_input_and_state(self):
        """x, h and c depend on each other: each must get its own part of the gradient, once."""
        module = LSTM(3, 3, dtype=torch.float64)

        def function(x: torch.Tensor) -> tuple:
            y, state = module(x, (x[:1], 2 * x[:1]))
            return y, *state

        x = normal(4, 2, 3).requires_grad_()
        assert torch.autograd.gradcheck(function, (x,))
        assert torch.autograd.gradgradcheck(function, (x,))


def test_second_gradients_are_torchs():
    """A penalty on the gradient of x, as in a Wasserstein GAN's critic: its gradients for every parameter."""
    torch.manual_seed(1)
    theirs = torch.nn.LSTM(3, 4, 2, bidirectional=True, dtype=torch.float64)
    own = LSTM(3, 4, 2, bidirectional=True, dtype=torch.float64)
    own.load_state_dict(theirs.state_dict())
    x = normal(5, 2, 3)
    for module in (theirs, own):
        given = x.clone().requires_grad_()
        y, (_, c) = module(given)
        (dx,) = torch.autograd.grad((y * y).sum() + c.sum(), given, create_graph=True)
        ((dx.norm(dim=2) - 1) ** 2).sum().backward()
    for (name, wanted), found in zip(theirs.named_parameters(), own.parameters(), strict=True):
        # Rounding, 1e-16, times the thousand operations on the way there and back twice.
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-11, atol=1e-12, msg=name)


@pytest.fixture
def counted(monkeypatch):
    """How often the engine ran forward, and how many caches are alive."""
    ran = {"forward": 0, "alive": 0}
    original = functional.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        ran["forward"] += 1
        y, state, cache = original(*args, **kwargs)
        ran["alive"] += 1
        finalised = weakref.finalize(cache, lambda: ran.update(alive=ran["alive"] - 1))
        finalised.atexit = False
        return y, state, cache

    monkeypatch.setattr(torch_function.functional, "forward", forward)
    return ran


class TestGraph:
    def module(self, **options: Any) -> tuple[LSTM, torch.Tensor]:
        torch.manual_seed(2)
        return LSTM(3, 4, dtype=torch.float64, **options), normal(5, 2, 3).requires_grad_()

    def test_one_forward_and_one_backward(self, counted):
        module, x = self.module()
        y, _ = module(x)
        assert counted == {"forward": 1, "alive": 1}
        y.sum().backward()
        assert counted == {"forward": 1, "alive": 0}, "what is saved goes with the graph, not with y"

    def test_dropped_without_backward(self, counted):
        module, x = self.module()
        y, state = module(x)
        del y, state
        assert counted == {"forward": 1, "alive": 0}

    def test_backward_again_over_a_kept_graph(self, counted):
        """Random masks are those of the first time."""
        module, x = self.module(zoneout=0.4)
        y, _ = module(x)
        once, again = (torch.autograd.grad(y.sum(), [x, *module.parameters()], retain_graph=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
        assert counted["forward"] == 2
        y.sum().backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.sum().backward()

    def test_what_was_written_to_is_noticed(self):
        module, x = self.module()
        h0, c0 = normal(1, 2, 4), normal(1, 2, 4)
        for tensor in (x, h0, c0, module.weight_ih_l0, module.weight_hh_l0):
            y, _ = module(x, (h0, c0))
            with torch.no_grad():
                tensor += 1
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()

    def test_outputs_may_be_written_to(self):
        """The gradient is that of what came out, before it was written to."""
        module, x = self.module(batch_first=True)
        h0 = normal(1, 5, 4)
        y, (h, c) = module(x, (h0, h0))
        wanted = torch.autograd.grad((2 * y).sum() + h.sum() + (-c).sum(), x)
        y, (h, c) = module(x, (h0, h0))
        y.mul_(2), c.neg_()
        torch.testing.assert_close(torch.autograd.grad(y.sum() + h.sum() + c.sum(), x), wanted)

    @pytest.mark.parametrize("part", ["y", "h", "c"])
    def test_only_one_output_is_used(self, part):
        results = []
        torch.manual_seed(2)
        modules = [kind(3, 4, 2, dtype=torch.float64) for kind in (torch.nn.LSTM, LSTM)]
        modules[1].load_state_dict(modules[0].state_dict())
        x = normal(5, 2, 3).requires_grad_()
        for module in modules:
            y, (h, c) = module(x)
            results.append(
                torch.autograd.grad({"y": y, "h": h, "c": c}[part].square().sum(), [x, *module.parameters()])
            )
        torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)

    def test_no_gradient_is_made_up(self, monkeypatch):
        """An output that nobody used has no gradient, which saves reading one of zeros."""
        seen: list[Any] = []
        original = functional.lstm_backward

        def backward(cache: Any, dy: Any, dstate: Any) -> Any:
            seen.append((dy is None, *(part is None for part in dstate)))
            return original(cache, dy, dstate)

        monkeypatch.setattr(torch_function.functional, "lstm_backward", backward)
        module, x = self.module()
        y, (h, c) = module(x)
        for part in (y, h, c):
            part.sum().backward(retain_graph=True)
        assert seen == [(False, True, True), (True, False, True), (True, True, False)]

    def test_only_what_is_asked_for(self):
        module, x = self.module()
        module.requires_grad_(False)
        y, _ = module(x)
        y.sum().backward()
        assert x.grad is not None and all(p.grad is None for p in module.parameters())
        module.weight_hh_l0.requires_grad_(True)
        y, _ = module(x.detach())
        y.sum().backward()
        assert [name for name, p in module.named_parameters() if p.grad is not None] == ["weight_hh_l0"]

    def test_nothing_is_kept_where_no_gradient_can_be_asked_for(self, counted):
        module, x = self.module()
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                y, (h, c) = module(x)
            assert not (y.requires_grad or h.requires_grad or c.requires_grad)
        module.requires_grad_(False)
        assert not module(x.detach())[0].requires_grad
        assert counted["forward"] == 0

    def test_gradients_that_do_not_lie_in_a_row(self):
        """.sum() asks for a gradient of stride 0; a transposed use for a transposed one."""
        module, x = self.module()
        weights = normal(4, 2, 5)
        y, _ = module(x)
        expanded = torch.autograd.grad(y.sum(), x, retain_graph=True)
        plain = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
        torch.testing.assert_close(expanded, plain, rtol=0, atol=0)
        transposed = torch.autograd.grad((y.transpose(0, 2) * weights).sum(), x, retain_graph=True)
        plain = torch.autograd.grad(y, x, weights.transpose(0, 2).contiguous())
        torch.testing.assert_close(transposed, plain, rtol=0, atol=0)

    def test_inputs_that_do_not_lie_in_a_row(self):
        module, x = self.module(num_layers=2)
        wide = normal(2, 3, 10)
        strided = wide.permute(2, 0, 1)[::2].detach().requires_grad_()
        expanded = normal(5, 1, 3).expand(5, 2, 3).detach().requires_grad_()
        conjugate = torch.complex(normal(5, 2, 3), normal(5, 2, 3)).conj().imag.detach().requires_grad_()
        assert conjugate.is_neg(), "a tensor whose memory holds the opposite sign"
        for given in (strided, expanded, conjugate):
            copied = given.detach().resolve_neg().contiguous().requires_grad_()
            results = [module(t)[0] for t in (given, copied)]
            torch.testing.assert_close(*results, rtol=0, atol=0)
            gradients = [
                torch.autograd.grad(y.square().sum(), t)[0] for y, t in zip(results, (given, copied), strict=True)
            ]
            torch.testing.assert_close(*gradients, rtol=0, atol=0)


class TestCheckpointing:
    """`torch.utils.checkpoint`: the same numbers, the same masks, and nothing kept in between."""

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_results_and_memory(self, counted, reentrant):
        torch.manual_seed(2)
        module = LSTM(3, 4, 2, dropout=0.5, recurrent_dropout=0.3, dtype=torch.float64)
        x = normal(5, 2, 3).requires_grad_()
        torch.manual_seed(9)
        wanted = torch.autograd.grad(module(x)[0].square().sum(), [x, *module.parameters()])
        torch.manual_seed(9)
        y, _ = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=reentrant)
        assert counted["alive"] == 0
        y.square().sum().backward()
        found = [x.grad, *(p.grad for p in module.parameters())]
        torch.testing.assert_close(found, list(wanted), rtol=0, atol=0)

    def test_saved_tensors_elsewhere(self, counted):
        """As `torch.autograd.graph.save_on_cpu` does with a GPU's: what is saved is a copy, and comes back as one."""
        module = LSTM(3, 4, dtype=torch.float64)
        x = normal(5, 2, 3).requires_grad_()
        wanted = torch.autograd.grad(module(x)[0].sum(), x)
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
            y, _ = module(x)
        assert counted["alive"] == 0
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x), wanted, rtol=0, atol=0)


class TestTransforms:
    """`torch.func` and forward mode, which look through every operation: PyTorch's own are used there."""

    def test_vmap_of_grad(self):
        torch.manual_seed(2)
        module = LSTM(3, 4, 2, dtype=torch.float64)
        parameters, x = dict(module.named_parameters()), normal(6, 5, 3)  # six sequences of five steps

        def loss(parameters: dict, x: torch.Tensor) -> torch.Tensor:
            y, (_, c) = torch.func.functional_call(module, parameters, (x,))
            return y.sin().sum() + c.sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        for n in range(len(x)):
            wanted = torch.autograd.grad(loss(parameters, x[n]), list(parameters.values()))
            for found, expected in zip(each.values(), wanted, strict=True):
                torch.testing.assert_close(found[n], expected, rtol=1e-11, atol=1e-12)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's own use of it
    def test_jvp(self):
        torch.manual_seed(2)
        module, x, tangent = LSTM(3, 4, dtype=torch.float64), normal(5, 2, 3), normal(5, 2, 3)
        jacobian = torch.autograd.functional.jacobian(lambda x: module(x)[0], x)
        wanted = torch.tensordot(jacobian, tangent, 3)
        _, found = torch.func.jvp(lambda x: module(x)[0], (x,), (tangent,))
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
        with torch.autograd.forward_ad.dual_level():
            y, _ = module(torch.autograd.forward_ad.make_dual(x, tangent))
            found = torch.autograd.forward_ad.unpack_dual(y).tangent
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_batch_without_sequences_has_gradients_of_zero(dtype):
    """As the last share of a batch that does not divide evenly; in bfloat16 PyTorch's own operations run."""
    module = LSTM(2, 3, num_layers=2, zoneout=0.1, dtype=dtype)
    y, (h, c) = module(torch.zeros(4, 0, 2, dtype=dtype))
    (y.sum() + h.sum() + c.sum()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
