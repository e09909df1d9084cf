"""Calls of every kind: packed in any order, empty, in other dtypes, under autocast, compiled, traced, exported."""

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from gpulstm.interop.torch import LSTM

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")


def pair(*, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.LSTM, LSTM]:
    torch.manual_seed(6)
    theirs, own = (kind(3, 5, 2, dtype=dtype, **options) for kind in (nn.LSTM, LSTM))
    own.load_state_dict(theirs.state_dict())
    return theirs, own


def normal(*shape: int, seed: int = 7, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_same(found: Any, wanted: Any) -> None:
    """Rounding, 1e-16, times the hundreds of operations from input to output."""
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


class TestPackedSequences:
    @pytest.mark.parametrize("lengths", [[4, 6, 1], [6, 4, 1], [5, 5, 5], [2]], ids=str)
    @pytest.mark.parametrize("options", [{"bidirectional": True}, {"proj_size": 2, "batch_first": True}], ids=str)
    def test_order_states_and_gradients(self, lengths, options):
        results = []
        for module in pair(**options):
            sequences = [normal(n, 3, seed=n).requires_grad_() for n in lengths]
            count, batch = 2 * (1 + module.bidirectional), len(lengths)
            state = tuple(normal(count, batch, size).requires_grad_() for size in (module.proj_size or 5, 5))
            packed = pack_sequence(sequences, enforce_sorted=lengths == sorted(lengths, reverse=True))
            y, (h, c) = module(packed, state)
            assert isinstance(y, PackedSequence) and torch.equal(y.batch_sizes, packed.batch_sizes)
            for part in ("sorted_indices", "unsorted_indices"):
                found, wanted = getattr(y, part), getattr(packed, part)
                assert found is wanted or torch.equal(found, wanted)
            loss = sum((part * normal(*part.shape)).sum() for part in (y.data, h, c))
            gradients = torch.autograd.grad(loss, [*sequences, *state, *module.parameters()])
            results.append((y.data, h, c, *gradients))
        torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)

    def test_without_a_state_and_with_none_recorded(self):
        theirs, own = pair()
        packed = pack_padded_sequence(normal(6, 3, 3), [3, 6, 2], enforce_sorted=False)
        with torch.no_grad():
            (y, state), (wanted, wanted_state) = own(packed), theirs(packed)
        assert_same((y.data, *state), (wanted.data, *wanted_state))

    def test_the_same_as_lengths(self):
        _, own = pair(bidirectional=True)
        x, lengths = normal(6, 3, 3), [4, 6, 1]
        packed, state = own(pack_padded_sequence(x, lengths, enforce_sorted=False))
        y, other = own(x, lengths=lengths)
        assert_same((pad_packed_sequence(packed)[0], *state), (y, *other))

    @pytest.mark.parametrize(
        "given",
        [
            [4, 0, 1],
            (4, 0, 1),
            np.array([4, 0, 1]),
            torch.tensor([4, 0, 1]),
            torch.tensor([4, 0, 1], dtype=torch.uint8),
        ],
        ids=["list", "tuple", "array", "tensor", "bytes"],
    )
    def test_forms_of_lengths(self, given):
        _, own = pair()
        y, (h, _) = own(normal(6, 3, 3), lengths=given)
        assert (y[4:, 0] == 0).all() and (y[:, 1] == 0).all() and (y[3, 0] != 0).all() and (h[:, 1] == 0).all()
        assert_same(y[0, 2], h[1, 2])

    def test_unbatched(self):
        theirs, own = pair(batch_first=True, bidirectional=True)
        state = (normal(4, 5), normal(4, 5, seed=1))
        (y, final), (wanted, wanted_final) = own(normal(6, 3), state), theirs(normal(6, 3), state)
        assert_same((y, *final), (wanted, *wanted_final))
        y, _ = own(normal(6, 3), lengths=4)
        assert (y[4:] == 0).all() and (y[:4] != 0).all()


class TestNothingToDo:
    def test_no_sequence(self):
        theirs, own = pair(bidirectional=True)
        x = normal(4, 0, 3).requires_grad_()
        y, (h, c) = own(x)
        assert y.shape == theirs(x)[0].shape == (4, 0, 10) and h.shape == c.shape == (4, 0, 5)
        (y.sum() + h.sum()).backward()
        assert x.grad.shape == x.shape and (own.weight_hh_l1.grad == 0).all()

    def test_no_time(self):
        """PyTorch refuses it; here the state passes through, and so does its gradient."""
        _, own = pair()
        h0, c0 = normal(2, 3, 5).requires_grad_(), normal(2, 3, 5, seed=1).requires_grad_()
        y, (h, c) = own(normal(0, 3, 3), (h0, c0))
        assert y.shape == (0, 3, 5) and torch.equal(h, h0) and torch.equal(c, c0)
        (2 * h + 3 * c).sum().backward()
        assert (h0.grad == 2).all() and (c0.grad == 3).all() and (own.weight_ih_l0.grad == 0).all()


class TestOtherDtypes:
    @pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)], ids=str)
    def test_half_precision(self, dtype, bound):
        """PyTorch's own operations. The parameters are rounded by half a unit, and so is each of the 3 + 5 products'
        terms and each step's state: 6 steps and 2 layers of values below 1 add up to some 20 units."""
        _, own = pair(dtype=torch.float32)
        x = normal(6, 2, 3, dtype=torch.float32)
        wanted = own(x)[0]
        lower, given = copy.deepcopy(own).to(dtype), x.to(dtype).requires_grad_()
        y, (h, c) = lower(given, lengths=[6, 4])
        assert y.dtype == h.dtype == c.dtype == dtype
        assert (y[:, 0].float() - wanted[:, 0]).abs().max() < 20 * bound
        y.sum().backward()
        assert given.grad.dtype == lower.weight_hh_l1.grad.dtype == dtype and given.grad.abs().max() > 0

    def test_meta(self):
        own = LSTM(3, 5, 2, proj_size=2, bidirectional=True, dropout=0.5, device="meta")
        y, (h, c) = own(torch.empty(4, 2, 3, device="meta"))
        assert y.is_meta and (y.shape, h.shape, c.shape) == ((4, 2, 4), (4, 2, 2), (4, 2, 5))


class TestAutocast:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
    def test_result_is_rounded_once(self, given, dtype):
        """torch.nn.LSTM gives bfloat16 under bfloat16's autocast and computes in it; so does this, but in float32."""
        theirs, own = pair(dtype=torch.float32)
        x, h0 = normal(6, 2, 3, dtype=given), normal(2, 2, 5, dtype=given)
        with torch.autocast("cpu", dtype=dtype):
            y, (h, c) = own(x, (h0, h0))
            if dtype == torch.bfloat16:
                assert theirs(x, (h0.float(), h0.float()))[0].dtype == y.dtype
        wanted, (wanted_h, wanted_c) = own(x.float(), (h0.float(), h0.float()))
        for found, value in ((y, wanted), (h, wanted_h), (c, wanted_c)):
            assert torch.equal(found, value.to(dtype))
        y.float().sum().backward()
        found = [p.grad.clone() for p in own.parameters()]
        own.zero_grad()
        wanted.sum().backward()
        # The gradient that comes back is rounded with y: exact here, because it is all ones.
        assert all(torch.equal(a, p.grad) for a, p in zip(found, own.parameters(), strict=True))

    def test_in_a_model(self):
        """An Embedding's float32 and a Linear's bfloat16 both come in; training goes down."""
        torch.manual_seed(1)
        model = nn.ModuleList([nn.Embedding(7, 6), nn.Linear(6, 3), LSTM(3, 5, 2), nn.Linear(5, 7)])
        optimiser, tokens = torch.optim.Adam(model.parameters(), 0.05), torch.randint(7, (6, 4))
        losses = []
        for _ in range(20):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y, _ = model[2](model[1](model[0](tokens)))
                loss = nn.functional.cross_entropy(model[3](y).flatten(0, 1), tokens.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert y.dtype == torch.bfloat16 and losses[-1] < 0.8 * losses[0]

    def test_float64_stays(self):
        theirs, own = pair()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_same(own(normal(4, 2, 3))[0], theirs(normal(4, 2, 3))[0])

    def test_parameters_of_half_precision(self):
        """PyTorch's own operations, in which autocast must change nothing on the way."""
        _, own = pair(dtype=torch.bfloat16)
        x = normal(4, 2, 3, dtype=torch.float32)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                y, _ = own(x)
            assert torch.equal(y, own(x.bfloat16())[0].to(dtype))


class Front(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


class Model(nn.Module):
    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        self.front, self.lstm, self.after = Front(), lstm, nn.Linear(5, 2)

    def forward(self, x: torch.Tensor, lengths: Any = None) -> torch.Tensor:
        y, (h, c) = self.lstm(self.front(x), lengths=lengths)
        return self.after(torch.tanh(y)).sum() + (h * c).sum()


class TestCompilers:
    @pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
    )  # TorchDynamo's
    @pytest.mark.parametrize(("compiler", "allow_rnn"), [("eager", False), ("eager", True), ("aot_eager", False)])
    def test_compile(self, compiler, allow_rnn):
        """TorchDynamo compiles what does not see the LSTM, and if it is told that LSTMs are allowed, what stands before
        and after the call as well; the call itself in no case."""
        torch._dynamo.reset()
        torch.manual_seed(1)
        model = Model(LSTM(3, 5, 2, peephole=True))
        graphs: list[str] = []

        def compiler_of(graph: torch.fx.GraphModule, inputs: list) -> Any:
            graphs.append(graph.code)
            return torch._dynamo.lookup_backend(compiler)(graph, inputs)

        compiled = torch.compile(model, backend=compiler_of)
        for steps, lengths in ((4, None), (6, [2, 6])):
            x = normal(steps, 2, 3, dtype=torch.float32).requires_grad_()
            results = []
            for each in (model, compiled):
                with torch._dynamo.config.patch(allow_rnn=allow_rnn):
                    loss = each(x, lengths)
                results.append((loss, *torch.autograd.grad(loss, [x, *model.parameters()])))
            torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)  # float32; sums come in another order
        assert any("relu" in code for code in graphs)
        assert any("tanh" in code for code in graphs) == allow_rnn
        torch._dynamo.reset()

    def test_compile_the_module_itself(self):
        torch._dynamo.reset()
        _, own = pair()
        assert_same(torch.compile(own, backend="eager")(normal(4, 2, 3))[0], own(normal(4, 2, 3))[0])
        torch._dynamo.reset()

    def test_dynamo_is_not_imported_for_nothing(self):
        code = (
            "import sys, torch\n"
            "from gpulstm.interop.torch import LSTM\n"
            "LSTM(3, 5)(torch.zeros(2, 1, 3))[0].sum().backward()\n"
            "assert 'torch._dynamo' not in sys.modules and 'cupy' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning", "ignore:.*torch.jit.trace_method")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    def test_trace(self):
        """Through PyTorch's operations, so that nothing is recorded as a constant."""
        _, own = pair(bidirectional=True)
        traced = torch.jit.trace(own, (normal(4, 2, 3),))
        assert_same(traced(normal(4, 2, 3, seed=1))[0], own(normal(4, 2, 3, seed=1))[0])

    def test_export(self):
        _, own = pair(bidirectional=True)
        program = torch.export.export(own.eval(), (normal(4, 2, 3),)).module()
        assert_same(program(normal(4, 2, 3, seed=1))[0], own(normal(4, 2, 3, seed=1))[0])
