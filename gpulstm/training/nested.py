"""Dicts of arrays, or of dicts of arrays: how a model's parameters and gradients are handed around."""

from collections.abc import Iterator, MutableMapping
from typing import Any

from ..arrays import Array, require_array

Nested = MutableMapping[str, Any]
"""Name -> array, or name -> another such dict."""


def leaves(name: str, tree: Nested) -> Iterator[tuple[str, MutableMapping[str, Array], str]]:
    """Each array's place: its full name for a message, the dict that holds it, and its key in that dict.

    Places rather than arrays, so that a caller can put another array there: some libraries' arrays cannot be changed.
    Raises TypeError for what is neither a dict nor an array.
    """
    if not isinstance(tree, MutableMapping):
        raise TypeError(f"{name} must be a dict of arrays, or of dicts of arrays, got {type(tree).__name__}")
    for key, value in tree.items():
        full_name = f"{name}[{key!r}]"
        if isinstance(value, MutableMapping):
            yield from leaves(full_name, value)
        else:
            require_array(full_name, value)
            yield full_name, tree, key
