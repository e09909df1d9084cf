"""The names and shapes of an LSTM's parameters, and checks against them.

Names and shapes are PyTorch's; gate order along the 4*hidden axis is i, f, g, o. There is one bias where PyTorch
keeps two, because their sum is all that the equations see.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from . import arrays
from .arrays import Array

GATES = ("input", "forget", "candidate", "output")
"""Rows k*hidden to (k+1)*hidden of a weight belong to the k-th of these: i, f, g, o."""


class State(NamedTuple):
    """What an LSTM hands on: hidden state ``h`` and cell state ``c``, each (layers * directions, batch, hidden)."""

    h: Array
    c: Array


class Weights(NamedTuple):
    """The parameters of one layer in one direction."""

    input: Array  # (4*hidden, inputs)
    recurrent: Array  # (4*hidden, hidden)
    bias: Array | None  # (4*hidden,)


@dataclass(frozen=True)
class Layout:
    """Which parameters there are: everything that can be read off their names and shapes."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        return self.directions * self.hidden_size

    def suffixes(self) -> Iterator[tuple[int, str]]:
        """(layer, name suffix) of each layer and direction, in the order of the state's first axis."""
        for layer in range(self.num_layers):
            yield layer, f"_l{layer}"
            if self.bidirectional:
                yield layer, f"_l{layer}_reverse"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape."""
        found: dict[str, tuple[int, ...]] = {}
        rows = 4 * self.hidden_size
        for layer, suffix in self.suffixes():
            found["weight_ih" + suffix] = (rows, self.input_size if layer == 0 else self.output_size)
            found["weight_hh" + suffix] = (rows, self.hidden_size)
            if self.bias:
                found["bias" + suffix] = (rows,)
        return found

    def weights(self, params: Mapping[str, Array]) -> list[Weights]:
        """The parameters layer by layer and direction by direction."""
        return [
            Weights(params["weight_ih" + s], params["weight_hh" + s], params.get("bias" + s))
            for _, s in self.suffixes()
        ]

    def named(self, gradients: list[Weights]) -> dict[str, Array]:
        """The inverse of `weights`: one dict under the parameters' names."""
        found: dict[str, Array] = {}
        for (_, suffix), gradient in zip(self.suffixes(), gradients, strict=True):
            found["weight_ih" + suffix] = gradient.input
            found["weight_hh" + suffix] = gradient.recurrent
            if self.bias:
                found["bias" + suffix] = gradient.bias
        return found

    @classmethod
    def of(cls, params: Mapping[str, Array]) -> "Layout":
        """Reads the layout off ``params`` and checks that they fit it.

        Raises TypeError or ValueError that lists everything missing, unexpected or mis-shaped.
        """
        if not isinstance(params, Mapping):
            raise TypeError(f"params must be a dict of arrays such as lstm.params, got {type(params).__name__}")
        for name in ("weight_ih_l0", "weight_hh_l0"):
            if name not in params:
                raise ValueError(f"params must have '{name}', got {_listing(params)}{two_biases_hint(params)}")
            arrays.require_array(name, params[name])
            if params[name].ndim != 2 or 0 in params[name].shape:
                raise ValueError(f"{name} must have 2 axes, none of them empty, got shape {tuple(params[name].shape)}")
        layers = [int(found[1]) for name in params if (found := re.fullmatch(r"weight_ih_l(\d+)", str(name)))]
        input_size, hidden_size = _sizes(params)
        layout = cls(
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=max(layers) + 1,
            bidirectional="weight_ih_l0_reverse" in params,
            bias="bias_l0" in params,
        )
        layout.check(params)
        return layout

    def check(self, params: Mapping[str, Array]) -> None:
        """Raises ValueError that lists every missing, unexpected or mis-shaped parameter, TypeError for a non-array."""
        expected = self.shapes()
        problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in params]
        problems += [f"unexpected {name}" for name in params if name not in expected]
        for name, shape in expected.items():
            if name in params:
                arrays.require_array(name, params[name])
                problem = shape_problem(name, params[name], shape)
                problems += [problem] if problem else []
        if problems:
            raise ValueError(f"params do not fit: {listing(problems)}{two_biases_hint(params)}")


def shape_problem(name: str, array: Array, shape: tuple[int, ...]) -> str | None:
    """What is wrong with an array's shape, in words, or None."""
    got = tuple(array.shape)
    if got == shape:
        return None
    symbols = {
        "weight_ih": "(4*hidden, inputs)",
        "weight_hh": "(4*hidden, hidden)",
    }
    kind = name.partition("_l")[0]
    hint = "; is it transposed?" if got == shape[::-1] and len(shape) == 2 else ""
    return f"{name} must have shape {symbols.get(kind, '(4*hidden,)')} = {shape}, got {got}{hint}"


def listing(problems: list[str]) -> str:
    """All of them in one line, or the first ones where they would fill a screen."""
    shown, more = problems[:20], len(problems) - 20
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def two_biases_hint(params: Mapping[str, Array]) -> str:
    """PyTorch's names are the likeliest foreign ones: say which function takes them."""
    if any(str(name).startswith(("bias_ih_l", "bias_hh_l")) for name in params):
        return "; these are PyTorch's names with two biases: LSTM.load_state_dict or LSTM.from_torch adds them up"
    return ""


def _sizes(params: Mapping[str, Array]) -> tuple[int, int]:
    """(input_size, hidden_size) as the weights of layer 0 say. Where they are transposed or disagree, the sizes that
    most of them agree on, so that the one that is wrong gets reported."""
    rows, columns = params["weight_hh_l0"].shape
    hidden = rows if columns == 4 * rows else columns
    height, width = params["weight_ih_l0"].shape
    return (height if width == 4 * hidden != height else width), hidden


def _listing(params: Mapping[str, Array]) -> str:
    names = sorted(str(name) for name in params)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "an empty dict"
