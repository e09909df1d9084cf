"""The ways between tensors and arrays: that nothing is copied, whose memory an output is, and on which stream.

``cupy-on-cpu`` runs the module over the real kernels on a CPU, across a bridge that copies into the stand-in's memory.
The real bridge to CuPy is checked in parts with CuPy's own arrays over host memory, and as a whole with ``--gpu``.
"""

import gc
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from gpulstm import functional
from gpulstm.interop import torch_bridges, torch_function
from gpulstm.interop.torch import LSTM
from tests import backends

BACKENDS = backends.KERNELS
DTYPES = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Tolerances are those of test_lstm_matches_torch.py."""


@pytest.fixture
def engine_arguments(monkeypatch):
    """(x, parameters, state) of every call that reached the engines, and what they gave."""
    seen: list[dict[str, Any]] = []

    def watched(name: str) -> Any:
        original = getattr(functional, name)

        def call(*, x: Any, params: Any, state: Any, **more: Any) -> Any:
            result = original(x=x, params=params, state=state, **more)
            seen.append({"x": x, "state": state, **params, "y": result[0], "final": result[1]})
            return result

        return call

    for name in ("forward", "inference"):
        monkeypatch.setattr(torch_function.functional, name, watched(name))
    return seen


class TestOnTheCpu:
    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("training", [False, True])
    def test_nothing_is_copied(self, engine_arguments, training, batch_first):
        module = LSTM(3, 5, 2, proj_size=2, peephole=True, batch_first=batch_first)
        x, h0, c0 = torch.randn(9, 7, 6)[::2, 1:4, ::2], torch.randn(2, 3, 2), torch.randn(2, 3, 5)
        x = x.transpose(0, 1) if batch_first else x
        with nullcontext() if training else torch.no_grad():
            y, (h, c) = module(x, (h0, c0))
        (seen,) = engine_arguments
        assert type(seen["x"]) is np.ndarray and seen["x"].strides == tuple(4 * n for n in x.stride())
        pairs = [(seen["x"], x), *zip(seen["state"], (h0, c0), strict=True)]
        pairs += [(seen[name], getattr(module, name)) for name in seen if name.startswith("weight")]
        pairs += [(seen["y"], y), *zip(seen["final"], (h, c), strict=True)]
        assert len(pairs) == 3 + 2 * 4 + 3
        for array, tensor in pairs:
            assert array.ctypes.data == tensor.data_ptr() and np.shares_memory(array, tensor.detach().numpy())

    def test_gradients_are_not_copied(self, monkeypatch):
        given: list[Any] = []
        original = functional.lstm_backward

        def backward(cache: Any, dy: Any, dstate: Any) -> Any:
            result = original(cache, dy, dstate)
            given.append((dy, result))
            return result

        monkeypatch.setattr(torch_function.functional, "lstm_backward", backward)
        module, x, dy = LSTM(3, 5, bias=False), torch.randn(4, 2, 3, requires_grad=True), torch.randn(4, 2, 5)
        y, _ = module(x)
        found = torch.autograd.grad(y, [x, module.weight_ih_l0, module.weight_hh_l0], dy)
        ((seen_dy, (dx, grads, _)),) = given
        assert seen_dy.ctypes.data == dy.data_ptr()
        for array, tensor in zip((dx, grads["weight_ih_l0"], grads["weight_hh_l0"]), found, strict=True):
            assert array.ctypes.data == tensor.data_ptr()

    def test_memory_outlives_the_tensors(self):
        """An output keeps its memory, and a graph keeps its inputs', when nobody else does."""
        torch.manual_seed(1)
        module = LSTM(3, 64, dtype=torch.float64)
        y = module(torch.ones(50, 8, 3, dtype=torch.float64))[0]
        kept = y.detach().clone()
        gc.collect()
        fill = [np.full((50, 8, 64), np.nan) for _ in range(8)]
        assert torch.equal(y, kept) and len(fill) == 8
        y.sum().backward()
        assert module.weight_ih_l0.grad.isfinite().all()

    def test_which_bridge(self):
        def of(*tensors: torch.Tensor) -> type:
            return type(torch_bridges.bridge_for(tensors))

        t = torch.zeros(2, 3)
        assert of(t, nn.Parameter(t)) is of(t.double()) is torch_bridges.NumpyBridge
        assert of(t.half()) is of(t.bfloat16()) is of(t.to("meta")) is of(t.to_sparse()) is type(None)

        class Named(torch.Tensor):
            """A subclass that keeps its memory to itself no more than a tensor does."""

        assert of(t.as_subclass(Named)) is torch_bridges.NumpyBridge


class CopyingBridge:
    """To the stand-in for CuPy, whose arrays must lie in its own memory."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy

    def __enter__(self) -> "CopyingBridge":
        return self

    def __exit__(self, *exc: Any) -> None:
        pass

    def array(self, tensor: torch.Tensor) -> Any:
        return self.cupy.asarray(tensor.detach().numpy())

    def tensor(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(array.get())


@contextmanager
def device_of(backend: Any, monkeypatch: pytest.MonkeyPatch):
    """The device whose tensors go to the backend's kernels."""
    if backend.name == backends.GPU:
        if not torch.cuda.is_available():
            pytest.fail("--gpu was asked for, and this PyTorch has no CUDA")
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # cuDNN would round float32 to 10 bits
        yield torch.device("cuda", torch.cuda.current_device())
    else:
        monkeypatch.setattr(torch_function, "bridge_for", lambda tensors: CopyingBridge(backend.xp))
        yield torch.device("cpu")


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "projection, batch first": {"proj_size": 2, "batch_first": True},
    "without bias": {"bias": False, "num_layers": 2},
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
class TestKernels:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("feed", ["whole", "packed", "unbatched"])
    @pytest.mark.parametrize("name", OPTIONS)
    def test_matches_torch(self, backend, name, feed, dtype, monkeypatch):
        with device_of(backend, monkeypatch) as device:
            torch.manual_seed(2)
            theirs, own = (kind(3, 5, dtype=dtype, device=device, **OPTIONS[name]) for kind in (nn.LSTM, LSTM))
            own.load_state_dict(theirs.state_dict())
            x = torch.randn(4, 3) if feed == "unbatched" else torch.randn(4, 4, 3)  # time or batch: both are 4
            results = []
            for module in (theirs, own):
                given = x.to(device, dtype).requires_grad_()
                packed = (
                    pack_padded_sequence(given, [2, 4, 1, 4], module.batch_first, False) if feed == "packed" else given
                )
                y, (h, c) = module(packed)
                y = y.data if feed == "packed" else y
                assert y.device == h.device == c.device == device
                loss = y.sin().sum() + (h.square()).sum() + c.sum()
                results.append((y, h, c, *torch.autograd.grad(loss, [given, *module.parameters()])))
            scale = DTYPES[dtype]
            for found, wanted in zip(results[1], results[0], strict=True):
                assert (found - wanted).norm() <= scale * (wanted.norm() + 1)

    @pytest.mark.parametrize(
        "options", [{"zoneout": 0.3, "layer_norm": True}, {"dropout": 0.4, "weight_drop": 0.2}], ids=str
    )
    def test_masks_are_the_cpus(self, backend, options, monkeypatch):
        """One seed, one set of masks, on any device; and in a second backward."""
        torch.manual_seed(2)
        module = LSTM(3, 5, 2, dtype=torch.float64, **options)
        x = torch.randn(4, 2, 3, dtype=torch.float64)
        torch.manual_seed(3)
        wanted = torch.autograd.grad(module(x, lengths=[4, 2])[0].sum(), list(module.parameters()))
        with device_of(backend, monkeypatch) as device:
            module.to(device)
            torch.manual_seed(3)
            y, _ = module(x.to(device), lengths=[4, 2])
            for _ in range(2):
                found = torch.autograd.grad(y.sum(), list(module.parameters()), retain_graph=True)
                for a, b in zip(found, wanted, strict=True):
                    torch.testing.assert_close(a.cpu(), b, rtol=1e-10, atol=1e-12)

    def test_gradients_of_gradients(self, backend, monkeypatch):
        with device_of(backend, monkeypatch) as device:
            torch.manual_seed(2)
            module = LSTM(2, 3, dtype=torch.float64, device=device)
            x = torch.randn(3, 2, 2, dtype=torch.float64, device=device, requires_grad=True)
            assert torch.autograd.gradcheck(lambda x: module(x)[0], (x,), fast_mode=True)
            assert torch.autograd.gradgradcheck(lambda x: module(x)[0], (x,), fast_mode=True)


class TestCupyWithoutAGpu:
    """CuPy's own classes over host memory: as long as nothing is launched they ask for no device."""

    @pytest.fixture
    def cupy(self):
        return pytest.importorskip("cupy", reason='CuPy is not installed: pip install "gpulstm[kernelcheck]"')

    @pytest.fixture
    def bridge(self, cupy, monkeypatch):
        """Within its context, on "device 0", which is the CPU, and the stream at address 4096."""
        entered: list[Any] = []

        @contextmanager
        def entering(*what: Any):
            entered.append(what)
            yield
            entered.append("left")

        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: type("Stream", (), {"cuda_stream": 4096})())
        monkeypatch.setattr(torch.cuda, "device", entering)
        monkeypatch.setattr(cupy.cuda, "Device", entering)
        streams = type("Stream", (), {"from_external": lambda stream: entering(stream.__cuda_stream__())})
        monkeypatch.setattr(cupy.cuda, "Stream", streams)
        bridge = torch_bridges.CupyBridge(torch.device("cpu", 0))
        with bridge:
            assert entered == [(bridge.device,), (0,), ((0, 4096),)]
            yield bridge
        assert entered[3:] == ["left"] * 3

    def test_outputs_are_torchs_memory(self, cupy, bridge):
        array = cupy.empty((4, 3, 5), "f4")
        tensor = bridge.tensor(array.swapaxes(0, 1)[1:])
        assert tensor.shape == (2, 4, 5) and tensor.stride() == (5, 15, 1) and tensor.dtype == torch.float32
        assert tensor.data_ptr() == array.data.ptr + 5 * 4 and not tensor._is_view()
        assert tensor.untyped_storage().nbytes() == array.nbytes
        double = cupy.empty((2, 3), "f8")
        assert bridge.tensor(double).dtype == torch.float64 and double.data.ptr != array.data.ptr

    def test_blocks_live_as_long_as_somebody_uses_them(self, cupy, bridge):
        array = cupy.empty((4, 3), "f4")
        tensor = bridge.tensor(array)
        tensor.fill_(7)
        del array
        gc.collect()
        assert len(bridge._blocks) == 0, "scratch would be kept until the context is left"
        assert (tensor == 7).all()
        array = cupy.empty((4, 3), "f4")
        gc.collect()
        assert list(bridge._blocks) == [array.data.ptr]

    def test_empty_arrays(self, cupy, bridge):
        tensor = bridge.tensor(cupy.empty((4, 0, 5), "f8"))
        assert tensor.shape == (4, 0, 5) and tensor.dtype == torch.float64

    def test_no_warning_and_the_allocator_is_put_back(self, cupy, bridge):
        """ExternalStream warns that it is deprecated, which the tests would turn into an error."""
        assert cupy.cuda.get_allocator() == bridge._allocate

    def test_without_the_context_the_allocator_is_cupys(self, cupy):
        assert cupy.cuda.get_allocator() != torch_bridges.CupyBridge._allocate


class TestOnAGpu:
    BACKENDS = (backends.GPU,)

    def test_nothing_is_copied(self, backend, engine_arguments, monkeypatch):
        with device_of(backend, monkeypatch) as device:
            module, x = LSTM(3, 5, 2, device=device), torch.randn(4, 6, 3, device=device)[:, ::2]
            y, (h, c) = module(x)
            (seen,) = engine_arguments
            assert seen["x"].data.ptr == x.data_ptr() and seen["y"].data.ptr == y.data_ptr()
            assert [part.data.ptr for part in seen["final"]] == [h.data_ptr(), c.data_ptr()]
            for name in ("weight_ih_l0", "weight_hh_l1"):
                assert seen[name].data.ptr == getattr(module, name).data_ptr()

    def test_memory_is_torchs(self, backend, monkeypatch):
        with device_of(backend, monkeypatch) as device:
            module, x = LSTM(32, 64, device=device), torch.randn(100, 16, 32, device=device)
            pool = backend.xp.get_default_memory_pool().used_bytes()
            before = torch.cuda.memory_allocated(device)
            y, _ = module(x)
            assert torch.cuda.memory_allocated(device) - before >= y.nbytes + 100 * 16 * 4 * 64 * 4
            assert backend.xp.get_default_memory_pool().used_bytes() == pool
            y.record_stream(torch.cuda.Stream(device))
            del y, _
            torch.cuda.synchronize(device)
            assert torch.cuda.memory_allocated(device) - before < 100 * 16 * 64 * 4

    def test_current_stream(self, backend, monkeypatch):
        """On a stream of its own, behind work that takes a while: on any other stream x would be read too early."""
        with device_of(backend, monkeypatch) as device:
            torch.manual_seed(2)
            module, wanted_x = LSTM(64, 64, device=device), torch.randn(8, 16, 64, device=device)
            wanted, _ = module(wanted_x)
            wanted_dx = torch.autograd.grad(wanted.sum(), module.weight_ih_l0)[0]
            large, x = torch.randn(4096, 4096, device=device), torch.full_like(wanted_x, torch.nan)
            torch.cuda.synchronize(device)
            stream = torch.cuda.Stream(device)
            with torch.cuda.stream(stream):
                for _ in range(20):
                    large = large @ large / 4096
                x.copy_(wanted_x)
                y, _ = module(x)
                dx = torch.autograd.grad(y.sum(), module.weight_ih_l0)[0]
            stream.synchronize()
            assert torch.equal(y, wanted) and torch.equal(dx, wanted_dx)
            assert backend.xp.cuda.get_current_stream().ptr == 0, "CuPy's own current stream is back"

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_autocast_and_half_precision(self, backend, dtype, monkeypatch):
        with device_of(backend, monkeypatch) as device:
            module, x = LSTM(3, 5, device=device), torch.randn(4, 2, 3, device=device)
            with torch.autocast("cuda", dtype=dtype):
                y, (h, c) = module(x)
            assert torch.equal(y, module(x)[0].to(dtype)) and h.dtype == c.dtype == dtype
            assert module.to(dtype)(x.to(dtype))[0].dtype == dtype
