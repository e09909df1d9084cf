"""The parameters of several layers under one roof: ``0.weight_ih_l0``, ``1.weight``, as PyTorch names a model's."""

import re
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

from .. import arrays
from ..arrays import Array


def params_of(layer: Any) -> MutableMapping[str, Array]:
    """A layer's parameters; a layer without the attribute has none."""
    return getattr(layer, "params", {})


def split_name(name: Any) -> tuple[int, str]:
    """``"1.weight"`` as (1, "weight"); -1 for a name without a layer's number before its first dot."""
    number, _, key = str(name).partition(".")
    return (int(number) if re.fullmatch(r"0|[1-9][0-9]*", number) else -1), key


class FlatParameters(MutableMapping[str, Array]):
    """A live view on the layers' own dicts: an array that is set here is set in its layer, and the other way round.

    Names cannot be added or taken away, for they are the layers'.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers

    def __getitem__(self, name: str) -> Array:
        holder, key = self._place(name)
        return holder[key]

    def __setitem__(self, name: str, value: Array) -> None:
        holder, key = self._place(name)
        holder[key] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name!r} cannot be taken away from a model's parameters: its layer computes with it")

    def __iter__(self) -> Iterator[str]:
        for number, layer in enumerate(self._layers):
            for key in params_of(layer):
                yield f"{number}.{key}"

    def __len__(self) -> int:
        return sum(len(params_of(layer)) for layer in self._layers)

    def __repr__(self) -> str:
        shown = (f"{name}: {tuple(value.shape)} {arrays.dtype_name(value)}" for name, value in self.items())
        return "{" + ", ".join(shown) + "}"

    def _place(self, name: Any) -> tuple[MutableMapping[str, Array], str]:
        """The layer's dict and the key in it."""
        number, key = split_name(name)
        if 0 <= number < len(self._layers):
            holder = params_of(self._layers[number])
            if key in holder:
                return holder, key
        raise KeyError(name)
