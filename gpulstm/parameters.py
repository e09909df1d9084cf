"""The names and shapes of an LSTM's parameters, and checks against them.

Names and shapes are PyTorch's; gate order along the 4*hidden axis is i, f, g, o. There is one bias where PyTorch
keeps two, because their sum is all that the equations see.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import NamedTuple

from . import arrays
from .arrays import Array

GATES = ("input", "forget", "candidate", "output")
"""Rows k*hidden to (k+1)*hidden of a weight belong to the k-th of these: i, f, g, o."""


class State(NamedTuple):
    """What an LSTM hands on: hidden state ``h`` and cell state ``c``, each (layers * directions, batch, hidden).

    With a projection h has ``proj_size`` features. Of a `gpulstm.LSTMCell` both are (batch, hidden).
    """

    h: Array
    c: Array


class Weights(NamedTuple):
    """The parameters of one layer in one direction."""

    input: Array  # (4*hidden, inputs)
    recurrent: Array  # (4*hidden, hidden)
    bias: Array | None  # (4*hidden,)
    projection: Array | None = None  # (proj, hidden)
    peephole: Array | None = None  # (3*hidden,): w_i, w_f, w_o
    gain_input: Array | None = None  # (4*hidden,), with layer norm; and so are the three below
    gain_recurrent: Array | None = None  # (4*hidden,)
    gain_cell: Array | None = None  # (hidden,)
    bias_cell: Array | None = None  # (hidden,)


KINDS = (
    "weight_ih",
    "weight_hh",
    "bias",
    "weight_hr",
    "weight_peephole",
    "weight_norm_ih",
    "weight_norm_hh",
    "weight_norm_c",
    "bias_norm_c",
)
"""Names of a layer's parameters without their suffix, in the order of the fields of `Weights`."""


@dataclass(frozen=True)
class Layout:
    """Which parameters there are: everything that can be read off their names and shapes."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    proj_size: int = 0
    peephole: bool = False
    layer_norm: bool = False

    @cached_property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @cached_property
    def width(self) -> int:
        """Features of the hidden state, and so of one direction's output: the projection's, if there is one."""
        return self.proj_size or self.hidden_size

    @cached_property
    def output_size(self) -> int:
        return self.directions * self.width

    @cached_property
    def is_plain(self) -> bool:
        """Whether one step is what `gpulstm.equations` says and no more."""
        return not (self.proj_size or self.peephole or self.layer_norm)

    def state_shapes(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Shapes of h and c."""
        count = self.num_layers * self.directions
        return (count, batch, self.width), (count, batch, self.hidden_size)

    def suffixes(self) -> Iterator[tuple[int, str]]:
        """(layer, name suffix) of each layer and direction, in the order of the state's first axis."""
        for layer in range(self.num_layers):
            yield layer, f"_l{layer}"
            if self.bidirectional:
                yield layer, f"_l{layer}_reverse"

    @lru_cache(maxsize=256)  # noqa: B019 - a layout is a few numbers, and every call of a layer asks
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameter name -> shape. Not to be written to."""
        found: dict[str, tuple[int, ...]] = {}
        hidden = self.hidden_size
        for layer, suffix in self.suffixes():
            inputs = self.input_size if layer == 0 else self.output_size
            of_kind = {
                "weight_ih": (4 * hidden, inputs),
                "weight_hh": (4 * hidden, self.width),
                "bias": (4 * hidden,),
                "weight_hr": (self.proj_size, hidden),
                "weight_peephole": (3 * hidden,),
                "weight_norm_ih": (4 * hidden,),
                "weight_norm_hh": (4 * hidden,),
                "weight_norm_c": (hidden,),
                "bias_norm_c": (hidden,),
            }
            found |= {kind + suffix: of_kind[kind] for kind in self.kinds()}
        return MappingProxyType(found)

    @cached_property
    def checklist(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """`shapes` once more, to go through quickly."""
        return tuple(self.shapes().items())

    @cached_property
    def _names(self) -> tuple[tuple[str | None, ...], ...]:
        """For each layer and direction, its parameters' names in the order of `Weights`' fields, None for those that
        there are not; the fields that default to None are left out at the end."""
        kinds = self.kinds()
        fields = KINDS if set(kinds) - set(KINDS[:3]) else KINDS[:3]
        return tuple(tuple(k + suffix if k in kinds else None for k in fields) for _, suffix in self.suffixes())

    def shapes_of_state(self, batch: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of h and c as a caller has them: without a batch axis where ``batch`` is None."""
        count = self.num_layers * self.directions
        if batch is None:
            return (count, self.width), (count, self.hidden_size)
        return (count, batch, self.width), (count, batch, self.hidden_size)

    def kinds(self) -> list[str]:
        """The parameters that each layer and direction has, named without the suffix."""
        there = {"bias": self.bias, "weight_hr": self.proj_size, "weight_peephole": self.peephole}
        return [kind for kind in KINDS if there.get(kind, self.layer_norm if "norm" in kind else True)]

    def weights(self, params: Mapping[str, Array]) -> list[Weights]:
        """The parameters layer by layer and direction by direction."""
        return [Weights(*[None if name is None else params[name] for name in names]) for names in self._names]

    def named(self, gradients: list[Weights]) -> dict[str, Array]:
        """The inverse of `weights`: one dict under the parameters' names."""
        found: dict[str, Array] = {}
        for names, gradient in zip(self._names, gradients, strict=True):
            for name, array in zip(names, gradient):  # noqa: B905 - `_names` may be shorter than `Weights`
                if name is not None:
                    found[name] = array
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
        # Any parameter of a kind says that the kind belongs here, so that what is missing beside it gets reported.
        there = [found for name in params if (found := re.fullmatch(r"(\w+)_l(\d+)(_reverse)?", str(name)))]
        kinds = {found[1] for found in there if found[1] in KINDS}
        products = [found for found in there if found[1] in ("weight_ih", "weight_hh")]  # no layer is without
        input_size, hidden_size, proj_size = _sizes(params)
        layout = cls(
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=max(int(found[2]) for found in products) + 1,
            bidirectional=any(found[3] for found in products),
            bias="bias" in kinds,
            proj_size=proj_size,
            peephole="weight_peephole" in kinds,
            layer_norm=any("norm" in kind for kind in kinds),
        )
        layout.check(params)
        return layout

    def check(self, params: Mapping[str, Array]) -> None:
        """Raises ValueError that lists every missing, unexpected or mis-shaped parameter, TypeError for a non-array."""
        expected = self.shapes()
        if len(params) == len(expected) and all(
            name in params and arrays.is_array(params[name]) and tuple(params[name].shape) == shape
            for name, shape in expected.items()
        ):
            return
        problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in params]
        problems += [f"unexpected {name}" for name in params if name not in expected]
        for name, shape in expected.items():
            if name in params:
                arrays.require_array(name, params[name])
                problem = shape_problem(name, params[name], shape, projected=self.proj_size > 0)
                problems += [problem] if problem else []
        if problems:
            raise ValueError(f"params do not fit: {listing(problems)}{two_biases_hint(params)}")


def shape_problem(name: str, array: Array, shape: tuple[int, ...], *, projected: bool = False) -> str | None:
    """What is wrong with an array's shape, in words, or None."""
    got = tuple(array.shape)
    if got == shape:
        return None
    symbols = {
        "weight_ih": "(4*hidden, inputs)",
        "weight_hh": "(4*hidden, proj)" if projected else "(4*hidden, hidden)",
        "weight_hr": "(proj, hidden)",
        "weight_peephole": "(3*hidden,)",
        "weight_norm_c": "(hidden,)",
        "bias_norm_c": "(hidden,)",
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


def _sizes(params: Mapping[str, Array]) -> tuple[int, int, int]:
    """(input_size, hidden_size, proj_size) as the weights of layer 0 say. Where one is transposed or disagrees, the
    sizes that the others agree on, so that the one that is wrong gets reported."""
    rows, columns = params["weight_hh_l0"].shape
    height, width = params["weight_ih_l0"].shape
    projection = params.get("weight_hr_l0")
    proj = 0
    if projection is not None:
        arrays.require_array("weight_hr_l0", projection)
        hidden = rows // 4 if rows == height else columns
        proj = projection.shape[0] if projection.ndim == 2 and projection.shape[0] < hidden else columns
    else:
        hidden = rows if columns == 4 * rows else columns
    return (height if width == 4 * hidden != height else width), hidden, proj


def _listing(params: Mapping[str, Array]) -> str:
    names = sorted(str(name) for name in params)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "an empty dict"
