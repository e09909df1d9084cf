"""What an LSTM can do beyond the plain one, checked once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from . import activations
from .activations import SIGMOID, TANH, Activation
from .parameters import Layout


@dataclass(frozen=True)
class Options:
    """Options that are not visible in the parameters' names and shapes.

    dropout, recurrent_dropout, weight_drop and zoneout act in training alone; see `gpulstm.masks`.
    """

    reverse: bool = False  # a single direction reads each sequence from its end
    coupled: bool = False  # f = 1 - i: one gate decides what to keep and what to write
    cell_clip: float | None = None  # bounds what goes into every activation, as ONNX's clip
    activations: tuple[Activation, Activation, Activation] = (SIGMOID, TANH, TANH)  # of gates, candidate, cell
    dropout: float = 0.0  # of a layer's output on its way to the next layer
    recurrent_dropout: float = 0.0
    recurrent_dropout_on: str = "hidden"  # "hidden" (Gal and Ghahramani 2016) or "candidate" (Semeniuta et al. 2016)
    zoneout: tuple[float, float] = (0.0, 0.0)  # probabilities that h and c keep their old value (Krueger et al. 2017)
    weight_drop: float = 0.0  # of single entries of weight_hh (Merity et al. 2018)
    tf32: bool = False  # float32 products on a GPU may round their factors to TF32

    @property
    def is_random(self) -> bool:
        """Whether training draws random masks."""
        return any((self.dropout, self.recurrent_dropout, self.weight_drop, *self.zoneout))

    @cached_property
    def plain_steps(self) -> tuple[bool, bool]:
        """Whether a step is the plain LSTM's, in inference and in training."""
        return self.of_step(training=False) == PLAIN, self.of_step(training=True) == PLAIN

    @cached_property
    def is_plain_in_one_step(self) -> bool:
        """Whether a single step in inference is the plain LSTM's, with products in full."""
        return self.plain_steps[False] and not (self.tf32 or self.reverse)

    @lru_cache(maxsize=256)  # noqa: B019 - options are a few numbers, and every call of a layer asks
    def of_step(self, *, training: bool) -> "Options":
        """What is left of the options within one time step: the order of the steps and dropout between layers act
        outside of it, in inference no dropout acts at all, and TF32 is how the engines multiply, not what."""
        kept = replace(self, reverse=False, dropout=0.0, tf32=False)
        if not training:
            kept = replace(kept, recurrent_dropout=0.0, weight_drop=0.0)
        return kept if kept.recurrent_dropout else replace(kept, recurrent_dropout_on=PLAIN.recurrent_dropout_on)

    def changed(self) -> list[str]:
        """Names of the options that differ from the plain LSTM's."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


PLAIN = Options()


def checked(
    *,
    reverse: Any = False,
    coupled: Any = False,
    cell_clip: Any = None,
    activations: Any = ("sigmoid", "tanh", "tanh"),
    dropout: Any = 0.0,
    recurrent_dropout: Any = 0.0,
    recurrent_dropout_on: Any = "hidden",
    zoneout: Any = 0.0,
    weight_drop: Any = 0.0,
    tf32: Any = False,
) -> Options:
    """`Options` from what a user wrote. Raises TypeError or ValueError that names the option and the reason."""
    if recurrent_dropout_on not in ("hidden", "candidate"):
        raise ValueError(f"recurrent_dropout_on must be 'hidden' or 'candidate', got {recurrent_dropout_on!r}")
    for name, flag in (("reverse", reverse), ("coupled", coupled), ("tf32", tf32)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")
    zones = zoneout if isinstance(zoneout, (tuple, list)) else (zoneout, zoneout)
    if len(zones) != 2:
        raise ValueError(f"zoneout must be one probability, or a pair for h and c, got {zoneout!r}")
    zone_h, zone_c = (_probability("zoneout", z, "a state that always keeps its value learns nothing") for z in zones)
    return Options(
        reverse=reverse,
        coupled=coupled,
        cell_clip=_clip(cell_clip),
        activations=_activations(activations),
        dropout=_probability("dropout", dropout),
        recurrent_dropout=_probability("recurrent_dropout", recurrent_dropout),
        recurrent_dropout_on=recurrent_dropout_on,
        zoneout=(zone_h, zone_c),
        weight_drop=_probability("weight_drop", weight_drop),
        tf32=tf32,
    )


def _probability(name: str, value: Any, why: str = "at 1 nothing would be left to scale up") -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a probability, got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}; {why}")
    return float(value)


def _clip(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"cell_clip must be a positive number or None, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"cell_clip must be positive and finite, got {value}; None switches it off")
    return float(value)


def _activations(value: Any) -> tuple[Activation, Activation, Activation]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 3:
        raise ValueError(f"activations must be three: of the gates, the candidate and the cell, got {value!r}")
    names = ("activations[0] (gates)", "activations[1] (candidate)", "activations[2] (cell)")
    gate, candidate, cell = (activations.named(what, each) for what, each in zip(names, value, strict=True))
    return gate, candidate, cell


def as_options(given: Any) -> Options:
    """`Options` from a dict of them, checked. Raises TypeError or ValueError that names the option."""
    if isinstance(given, Options):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"options must be a dict such as {{'zoneout': 0.1}}, got {type(given).__name__}")
    known = [field.name for field in fields(Options)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(
            f"options must be among {', '.join(known)}, got option {', '.join(map(repr, unknown))}; sizes, bias, "
            f"peephole, layer_norm and proj_size are read off params"
        )
    return checked(**given)


def refuse_contradictions(layout: Layout, options: Options) -> None:
    """Raises ValueError for options that contradict each other or the sizes, with the reason."""
    if layout.proj_size >= layout.hidden_size:
        raise ValueError(
            f"proj_size must be below hidden_size {layout.hidden_size}, got {layout.proj_size}; "
            f"a projection makes the hidden state smaller"
        )
    if layout.layer_norm and not layout.bias:
        raise ValueError(
            "layer_norm must come with bias=True: without a bias the normalised gates would all be centred on zero"
        )
    refuse_two_reverses(layout, options)
    if options.dropout and layout.num_layers == 1:
        raise ValueError(
            f"dropout must be 0 with one layer, got {options.dropout}: it acts between layers; "
            f"recurrent_dropout and zoneout act within one"
        )


def refuse_tf32(options: Options, dtype: str) -> None:
    """Raises ValueError for TF32 with anything but float32."""
    if options.tf32 and dtype != "float32":
        raise ValueError(
            f"tf32 must be False with dtype {dtype}, got True: it lets products of float32 round their factors"
        )


def refuse_two_reverses(layout: Layout, options: Options) -> None:
    """Raises ValueError where both directions would read from the end."""
    if options.reverse and layout.bidirectional:
        raise ValueError(
            "reverse must be False with bidirectional=True: of two directions the second one is the reverse already"
        )
