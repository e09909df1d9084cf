"""An LSTM as one node of PyTorch's graph: our forward, and our backward."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import functional
from ..masks import Draws
from ..options import Options
from ..parameters import Layout
from .torch_bridges import Bridge, bridge_for

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Call:
    """What one call is made of beside its tensors."""

    layout: Layout
    options: Options  # those that act in this call's mode
    seed: int | None  # of the random masks: whoever runs the call again draws the same; None where nothing is drawn
    lengths: np.ndarray | None
    batch_first: bool
    checkpoint_every: int | None

    @property
    def mixes(self) -> bool:
        """Whether old and new states are mixed, as zoneout does in inference: no engine keeps what a gradient needs."""
        return self.seed is None and any(self.options.zoneout)

    def forward(self, x: Any, h: Any, c: Any, *params: Any) -> tuple:
        """(y, (h, c), cache), of arrays of any library."""
        draws = Draws(self.options, self.seed or 0)
        return functional.forward(
            **self._arguments(x, h, c, params), draws=draws, checkpoint_every=self.checkpoint_every
        )

    def inference(self, x: Any, h: Any, c: Any, *params: Any) -> tuple:
        """(y, (h, c)), and keeps nothing. The engines' inference knows no masks, so with them it is a forward."""
        if self.seed is not None:
            return self.forward(x, h, c, *params)[:2]
        return functional.inference(**self._arguments(x, h, c, params), draws=Draws(self.options, None))

    def by_equations(self, x: Any, h: Any, c: Any, *params: Any) -> tuple:
        """`inference` for arrays that run through the equations, masks included."""
        return functional.inference(**self._arguments(x, h, c, params), draws=Draws(self.options, self.seed))

    def gradients(self, cache: Any, dy: Any, dh: Any, dc: Any) -> tuple:
        """Of x, h, c and each parameter."""
        dx, grads, dstate = functional.lstm_backward(cache, dy, (dh, dc))
        return dx, *dstate, *(grads[name] for name in self.layout.shapes())

    def _arguments(self, x: Any, h: Any, c: Any, params: tuple) -> dict[str, Any]:
        return {
            "layout": self.layout,
            "x": x,
            "params": dict(zip(self.layout.shapes(), params, strict=True)),
            "state": None if h is None else (h, c),
            "lengths": self.lengths,
            "batch_first": self.batch_first,
        }


def run(call: Call, x: torch.Tensor, h: torch.Tensor | None, c: torch.Tensor | None, params: Tensors) -> Tensors:
    """y, h and c of an LSTM of tensors of one dtype and device; all of them differentiable, any number of times."""
    tensors = [t for t in (x, h, c, *params) if t is not None]
    bridge, differentiable = bridge_for(tensors), torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if bridge is None or (differentiable and call.mixes):
        # PyTorch's own operations, which differentiate themselves. All are of one dtype: autocast must not mix in.
        device = x.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            y, state = call.by_equations(x, h, c, *params)
        return y, *state
    if differentiable:
        return Recurrence.apply(call, x, h, c, *params)
    with bridge:
        y, state = call.inference(*_arrays(bridge, (x, h, c, *params)))
        return tuple(bridge.tensor(a) for a in (y, *state))


def _arrays(bridge: Bridge, tensors: tuple) -> tuple:
    return tuple(None if t is None else bridge.array(t) for t in tensors)


class Recurrence(torch.autograd.Function):
    """All layers and directions at once, in the engine of the tensors' device."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: torch.Tensor, h: Any, c: Any, *params: torch.Tensor) -> Tensors:
        ctx.set_materialize_grads(False)
        ctx.call = call
        y, state, cache = _train(call, x, h, c, params)
        # The cache rides on a tensor, so that it lives as long as PyTorch keeps what is saved here, and no longer:
        # where somebody saves something else in its place (activation checkpointing, save_on_cpu), it is gone at once,
        # and backward runs forward once more.
        token = x.new_empty(0)
        token.gpulstm_caches = [cache]  # type: ignore[attr-defined]
        ctx.save_for_backward(token, x, h, c, *params)
        return y, *state

    @staticmethod
    def backward(ctx: Any, dy: Any, dh: Any, dc: Any) -> tuple:  # type: ignore[override]
        token, x, h, c, *params = ctx.saved_tensors  # raises if one of them was written to since
        wanted = (False, *ctx.needs_input_grad[1:])
        if torch.is_grad_enabled():  # create_graph=True: the gradients must be differentiable themselves
            found = _differentiable_gradients(ctx.call, x, h, c, params, dy, dh, dc)
        else:
            try:
                cache = token.gpulstm_caches.pop()
            except (AttributeError, IndexError):  # kept elsewhere, or used up by an earlier backward
                cache = _train(ctx.call, x, h, c, params)[2]
            found = _gradients(ctx.call, cache, x, dy, dh, dc)
        return tuple(g if want else None for g, want in zip((None, *found), wanted, strict=True))


def _train(call: Call, x: torch.Tensor, h: Any, c: Any, params: Any) -> tuple:
    """y and the state as tensors, and the cache."""
    with _bridge(x) as bridge:
        y, state, cache = call.forward(*_arrays(bridge, (x, h, c, *params)))
        return bridge.tensor(y), tuple(map(bridge.tensor, state)), cache


def _gradients(call: Call, cache: Any, x: torch.Tensor, dy: Any, dh: Any, dc: Any) -> Tensors:
    with _bridge(x) as bridge:
        return tuple(map(bridge.tensor, call.gradients(cache, *_arrays(bridge, (dy, dh, dc)))))


def _bridge(x: torch.Tensor) -> Bridge:
    bridge = bridge_for([x])
    if bridge is None:
        raise RuntimeError(f"the gradient of an LSTM cannot be computed here on a {type(x).__name__} on {x.device}")
    return bridge


def _differentiable_gradients(call: Call, x: Any, h: Any, c: Any, params: Any, dy: Any, dh: Any, dc: Any) -> tuple:
    """`_gradients` in PyTorch's own operations."""
    *_, cache = call.forward(x, h, c, *params)
    return call.gradients(cache, dy, dh, dc)
