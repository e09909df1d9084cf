"""The gradients of `plain_loop` by PyTorch's automatic differentiation.

The same papers' equations in PyTorch's own words (its layer_norm, its softsign, its clamp), one sequence at a time and
again without batch or padding. That these formulas and the plain loop's are the same ones is checked case by case:
their outputs are compared as well.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tests import plain_loop

torch.set_num_threads(1)


def run(case) -> dict[str, np.ndarray]:
    """y, h, c in training, and every gradient, under the names that `variant_cases.ours` uses."""
    params = {name: torch.tensor(p, requires_grad=True) for name, p in case.params.items()}
    x = torch.tensor(case.x, requires_grad=True)
    h0, c0 = (torch.tensor(part, requires_grad=True) for part in case.initial())
    y, h, c = forward(case, params, x.transpose(0, 1) if case.batch_first else x, h0, c0)
    y = y.transpose(0, 1) if case.batch_first else y
    loss = sum((out * torch.tensor(d)).sum() for out, d in zip((y, h, c), (case.dy, *case.dstate), strict=True))
    named = {"dx": x, "dh": h0, "dc": c0} | {"d" + name: p for name, p in params.items()}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if d is None else d for (name, leaf), d in zip(named.items(), found, strict=True)
    }
    return {name: value.detach().numpy() for name, value in ({"y": y, "h": h, "c": c} | gradients).items()}


def forward(case, params: dict[str, Tensor], x: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y (time, batch, directions * width) and the final states."""
    masks = plain_loop.Masks(case.options, case.rng)
    steps, batch, _ = x.shape
    lanes = case.num_layers * case.directions
    ys, finals = [], [[None] * lanes for _ in range(batch)]
    for n in range(batch):
        length = steps if case.lengths is None else int(case.lengths[n])
        inputs = [x[t, n] for t in range(length)]
        for layer in range(case.num_layers):
            columns = []
            for direction in range(case.directions):
                lane = layer * case.directions + direction
                weights = _weights(case, params, masks, layer, direction)
                outputs, h, c = [None] * length, h0[lane, n], c0[lane, n]
                for t in range(length)[:: -1 if direction or case.options.get("reverse") else 1]:
                    h, c = step(case, weights, masks, (2 * layer + direction, n), t, inputs[t], h, c)
                    outputs[t] = h
                columns.append(outputs)
                finals[n][lane] = (h, c)
            inputs = [torch.cat(parts) for parts in zip(*columns, strict=True)]
            if masks.dropout and layer < case.num_layers - 1:
                inputs = [v * _tensor(masks.between(layer, n, t, len(v))) for t, v in enumerate(inputs)]
        padding = torch.zeros(steps - length, case.directions * case.width, dtype=x.dtype)
        ys.append(torch.cat([torch.stack(inputs), padding]) if length else padding)
    h, c = (torch.stack([torch.stack([finals[n][k][part] for n in range(batch)]) for k in range(lanes)])
            for part in (0, 1))  # fmt: skip
    return torch.stack(ys, dim=1), h, c


def step(case, of: dict[str, Tensor], masks, where: tuple[int, int], t: int, x: Tensor, h: Tensor, c: Tensor):
    """h and c after one step of one sequence."""
    gate, candidate, cell = (_activation(case.options, which) for which in range(3))
    seen_h = h * _tensor(masks.hidden(*where, len(h))) if masks.on_hidden else h
    from_x, from_h = functional.linear(x, of["weight_ih"]), functional.linear(seen_h, of["weight_hh"])
    if "weight_norm_ih" in of:
        from_x = functional.layer_norm(from_x, from_x.shape, of["weight_norm_ih"])
        from_h = functional.layer_norm(from_h, from_h.shape, of["weight_norm_hh"])
    a_i, a_f, a_g, a_o = (from_x + from_h + of.get("bias", 0)).chunk(4)
    w_i, w_f, w_o = of["weight_peephole"].chunk(3) if "weight_peephole" in of else (0, 0, 0)
    i = gate(a_i + w_i * c)
    f = 1 - i if case.options.get("coupled") else gate(a_f + w_f * c)
    g = candidate(a_g)
    if masks.on_candidate:
        g = g * _tensor(masks.candidate(*where, t, len(g)))
    new_c = torch.addcmul(f * c, i, g)
    o = gate(a_o + w_o * new_c)
    shown_c = new_c
    if "weight_norm_c" in of:
        shown_c = functional.layer_norm(new_c, new_c.shape, of["weight_norm_c"], of["bias_norm_c"])
    new_h = o * cell(shown_c)
    if "weight_hr" in of:
        new_h = functional.linear(new_h, of["weight_hr"])
    if masks.zone_h:
        new_h = torch.where(torch.tensor(masks.keeps_h(*where, t, len(h))), h, new_h)
    if masks.zone_c:
        new_c = torch.where(torch.tensor(masks.keeps_c(*where, t, len(c))), c, new_c)
    return new_h, new_c


def _weights(case, params: dict[str, Tensor], masks, layer: int, direction: int) -> dict[str, Tensor]:
    suffix = f"_l{layer}" + ("_reverse" if direction else "")
    of = {name[: -len(suffix)]: p for name, p in params.items() if name.endswith(suffix)}
    if masks.weight_drop:
        rows = [masks.weight(2 * layer + direction, row, case.width) for row in range(4 * case.hidden_size)]
        of["weight_hh"] = of["weight_hh"] * _tensor(rows)
    return of


def _activation(options: dict, which: int):
    given = options.get("activations", ("sigmoid", "tanh", "tanh"))[which]
    name, *parameters = (given,) if isinstance(given, str) else given
    usual = (0.2, 0.5) if name == "hard_sigmoid" else (1.0, 0.0)
    alpha, beta = (*parameters, *usual[len(parameters) :])
    function = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softsign": functional.softsign,
        "affine": lambda a: alpha * a + beta,
        "hard_sigmoid": lambda a: functional.hardtanh(alpha * a + beta, 0.0, 1.0),
    }[name]
    clip = options.get("cell_clip")
    return function if clip is None else lambda a: function(torch.clamp(a, -clip, clip))


def _tensor(mask: list) -> Tensor:
    return torch.tensor(mask, dtype=torch.float64)
