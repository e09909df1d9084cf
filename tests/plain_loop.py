"""An LSTM with every option as a plain loop: one sequence, one unit, one number at a time.

Written from the papers' equations and from the ONNX operator's text, without a look at `gpulstm.variants`; the masks
alone are the library's, read off the counters that `gpulstm.masks` documents. There is no batch here and no padding: a
sequence of three steps is a loop over three steps.

    Sak, Senior and Beaufays 2014           the recurrent projection
    Gers, Schraudolph and Schmidhuber 2002  peepholes: i and f see c before the step, o sees it after
    Ba, Kiros and Hinton 2016               layer norm of W x, of W h and of c
    Gal and Ghahramani 2016                 one dropout mask for h along a whole sequence
    Semeniuta, Severyn and Barth 2016       dropout of the candidate, anew at each step
    Krueger et al. 2017                     zoneout
    Merity, Keskar and Socher 2018          DropConnect on the recurrent weights
    ONNX operator LSTM                      clip and activations: "on the input of activations"; input_forget: f = 1 - i
"""

import math
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from gpulstm import options as options_module
from gpulstm.masks import Draws

LAYER_NORM_EPSILON = 1e-5
Numbers = list[float]


class Masks:
    """What is random in one call, by its counters: lists of numbers, one for each unit of one sequence."""

    def __init__(self, options: dict, seed: int) -> None:
        checked = options_module.checked(**options)
        self.draws = Draws(checked, seed)
        self.zone_h, self.zone_c = _zones(options)
        self.dropout = options.get("dropout", 0.0)
        self.weight_drop = options.get("weight_drop", 0.0)
        recurrent, where = options.get("recurrent_dropout", 0.0), options.get("recurrent_dropout_on", "hidden")
        self.on_hidden = recurrent if where == "hidden" else 0.0
        self.on_candidate = recurrent if where == "candidate" else 0.0

    @cache  # noqa: B019 - a Masks lives as long as one test
    def _below(self, probability: float, word: int, count: int, sequence: int, time: int, stream: int) -> list[bool]:
        words = self.draws.words(np.arange(count), sequence, time, stream)[word]
        return [int(each) < probability * 2**32 for each in words]

    def _dropout(self, probability: float, word: int, *counter: int) -> Numbers:
        return [0.0 if low else 1 / (1 - probability) for low in self._below(probability, word, *counter)]

    def hidden(self, stream: int, sequence: int, count: int) -> Numbers:
        return self._dropout(self.on_hidden, 0, count, sequence, 2**32 - 1, stream)

    def candidate(self, stream: int, sequence: int, time: int, count: int) -> Numbers:
        return self._dropout(self.on_candidate, 2, count, sequence, time, stream)

    def keeps_h(self, stream: int, sequence: int, time: int, count: int) -> list[bool]:
        return self._below(self.zone_h, 0, count, sequence, time, stream)

    def keeps_c(self, stream: int, sequence: int, time: int, count: int) -> list[bool]:
        return self._below(self.zone_c, 1, count, sequence, time, stream)

    def between(self, layer: int, sequence: int, time: int, count: int) -> Numbers:
        return self._dropout(self.dropout, 0, count, sequence, time, 2**31 + layer)

    def weight(self, stream: int, row: int, columns: int) -> Numbers:
        return self._dropout(self.weight_drop, 0, columns, row, 0, 2**30 + stream)


@dataclass
class Formulas:
    """The activations of one case, and how near any of their inputs came to a place without a (second) derivative."""

    options: dict
    nearest_kink: float = field(default=math.inf)

    def gate(self, a: float) -> float:
        return self._activation(0, "sigmoid", a)

    def candidate(self, a: float) -> float:
        return self._activation(1, "tanh", a)

    def cell(self, a: float) -> float:
        return self._activation(2, "tanh", a)

    def _activation(self, which: int, usual: str, a: float) -> float:
        clip = self.options.get("cell_clip")
        if clip is not None:
            self._kink_at(abs(a) - clip)
            a = max(-clip, min(clip, a))
        given = self.options.get("activations", (usual,) * 3)[which]
        name, *parameters = (given,) if isinstance(given, str) else given
        if name == "sigmoid":
            return 1 / (1 + math.exp(-a))
        if name == "tanh":
            return math.tanh(a)
        if name == "relu":
            self._kink_at(a)
            return max(0.0, a)
        if name == "softsign":
            self._kink_at(a)
            return a / (1 + abs(a))
        if name == "affine":
            alpha, beta = (*parameters, *(1.0, 0.0)[len(parameters) :])
            return alpha * a + beta
        assert name == "hard_sigmoid", name
        alpha, beta = (*parameters, *(0.2, 0.5)[len(parameters) :])
        self._kink_at((alpha * a + beta) / alpha)
        self._kink_at((alpha * a + beta - 1) / alpha)
        return max(0.0, min(1.0, alpha * a + beta))

    def _kink_at(self, distance: float) -> None:
        """An exact zero does not count: it stands where a mask or a shut gate left nothing, and it stays one."""
        if distance != 0:
            self.nearest_kink = min(self.nearest_kink, abs(distance))


def run(case, *, training: bool) -> tuple[dict[str, np.ndarray], float]:
    """y, h and c of a `variant_cases.Case`, and the distance to the nearest kink of an activation."""
    x = case.x.swapaxes(0, 1) if case.batch_first else case.x
    steps, batch, _ = x.shape
    masks = Masks(case.options, case.rng) if training else None
    formulas = Formulas(case.options)
    h_final, c_final = (np.array(part) for part in case.initial())
    y = np.zeros((steps, batch, case.directions * case.width))
    for n in range(batch):
        length = steps if case.lengths is None else int(case.lengths[n])
        inputs = [list(map(float, x[t, n])) for t in range(length)]
        for layer in range(case.num_layers):
            outputs = [[0.0] * (case.directions * case.width) for _ in range(length)]
            for direction in range(case.directions):
                lane = layer * case.directions + direction
                one = Sequence(case, formulas, masks, layer, direction, n)
                h, c = list(map(float, h_final[lane, n])), list(map(float, c_final[lane, n]))
                for t in range(length)[:: -1 if direction or case.options.get("reverse") else 1]:
                    h, c = one.step(t, inputs[t], h, c)
                    outputs[t][direction * case.width : (direction + 1) * case.width] = h
                h_final[lane, n], c_final[lane, n] = h, c
            inputs = outputs
            if training and masks.dropout and layer < case.num_layers - 1:
                for t in range(length):
                    kept = masks.between(layer, n, t, len(inputs[t]))
                    inputs[t] = [value * mask for value, mask in zip(inputs[t], kept, strict=True)]
        for t in range(length):
            y[t, n] = inputs[t]
    return {"y": y.swapaxes(0, 1) if case.batch_first else y, "h": h_final, "c": c_final}, formulas.nearest_kink


class Sequence:
    """One sequence on its way through one layer in one direction."""

    def __init__(self, case, formulas: Formulas, masks: Masks | None, layer: int, direction: int, sequence: int):
        self.case, self.formulas, self.masks, self.sequence = case, formulas, masks, sequence
        self.stream = 2 * layer + direction
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        self.of = {name[: -len(suffix)]: p.tolist() for name, p in case.params.items() if name.endswith(suffix)}
        if masks and masks.weight_drop:
            dropped = [masks.weight(self.stream, row, case.width) for row in range(4 * case.hidden_size)]
            self.of["weight_hh"] = [_times(w, mask) for w, mask in zip(self.of["weight_hh"], dropped, strict=True)]

    def step(self, t: int, x: Numbers, h: Numbers, c: Numbers) -> tuple[Numbers, Numbers]:
        """h and c after a step from what they were before."""
        masks, of, f = self.masks, self.of, self.formulas
        hidden, where = self.case.hidden_size, (self.stream, self.sequence)
        seen_h = _times(h, masks.hidden(*where, len(h))) if masks and masks.on_hidden else h
        from_x = [_dot(row, x) for row in of["weight_ih"]]
        from_h = [_dot(row, seen_h) for row in of["weight_hh"]]
        if "weight_norm_ih" in of:
            from_x = _times(of["weight_norm_ih"], _layer_norm(from_x))
            from_h = _times(of["weight_norm_hh"], _layer_norm(from_h))
        bias = of.get("bias", [0.0] * (4 * hidden))
        a = [p + r + b for p, r, b in zip(from_x, from_h, bias, strict=True)]
        peephole = of.get("weight_peephole", [0.0] * (3 * hidden))
        keep_candidate = [1.0] * hidden
        if masks and masks.on_candidate:
            keep_candidate = masks.candidate(*where, t, hidden)

        new_c, output_gate = [], []
        for j in range(hidden):
            input_gate = f.gate(a[j] + peephole[j] * c[j])
            if self.case.options.get("coupled"):
                forget_gate = 1 - input_gate
            else:
                forget_gate = f.gate(a[hidden + j] + peephole[hidden + j] * c[j])
            candidate = f.candidate(a[2 * hidden + j]) * keep_candidate[j]
            new_c.append(forget_gate * c[j] + input_gate * candidate)
            output_gate.append(f.gate(a[3 * hidden + j] + peephole[2 * hidden + j] * new_c[j]))
        shown_c = new_c
        if "weight_norm_c" in of:
            shown_c = _times(of["weight_norm_c"], _layer_norm(new_c))
            shown_c = [value + beta for value, beta in zip(shown_c, of["bias_norm_c"], strict=True)]
        new_h = [output_gate[j] * f.cell(shown_c[j]) for j in range(hidden)]
        if "weight_hr" in of:
            new_h = [_dot(row, new_h) for row in of["weight_hr"]]
        return self._zoneout(t, h, new_h, c, new_c)

    def _zoneout(self, t: int, h: Numbers, new_h: Numbers, c: Numbers, new_c: Numbers) -> tuple[Numbers, Numbers]:
        masks, where = self.masks, (self.stream, self.sequence, t)
        if masks is None:  # in expectation, as dropout's inference
            zone_h, zone_c = _zones(self.case.options)
            return (
                [zone_h * old + (1 - zone_h) * new for old, new in zip(h, new_h, strict=True)],
                [zone_c * old + (1 - zone_c) * new for old, new in zip(c, new_c, strict=True)],
            )
        if masks.zone_h:
            kept = masks.keeps_h(*where, len(h))
            new_h = [h[j] if kept[j] else new_h[j] for j in range(len(h))]
        if masks.zone_c:
            kept = masks.keeps_c(*where, len(c))
            new_c = [c[j] if kept[j] else new_c[j] for j in range(len(c))]
        return new_h, new_c


def _zones(options: dict) -> tuple[float, float]:
    zone = options.get("zoneout", 0.0)
    return zone if isinstance(zone, tuple) else (zone, zone)


def _dot(row: Numbers, column: Numbers) -> float:
    return math.fsum(w * v for w, v in zip(row, column, strict=True))


def _times(first: Numbers, second: Numbers) -> Numbers:
    return [a * b for a, b in zip(first, second, strict=True)]


def _layer_norm(a: Numbers) -> Numbers:
    mean = math.fsum(a) / len(a)
    variance = math.fsum((value - mean) ** 2 for value in a) / len(a)
    return [(value - mean) / math.sqrt(variance + LAYER_NORM_EPSILON) for value in a]
