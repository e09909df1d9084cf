"""array-api-strict without its most frequent work, so that the tests on its arrays take half as long.

For each array that it makes it compares the dtype with ten others, slowly. What it accepts and refuses stays: one of
its dtypes and another are equal if what they stand for is, and any other comparison goes its own way, warning and all.
"""

import array_api_strict
from array_api_strict import _array_object

_DType = type(array_api_strict.float64)
_compare = _DType.__eq__


def _equal(self, other: object) -> bool:
    return self._np_dtype == other._np_dtype if type(other) is _DType else _compare(self, other)


def speed_up() -> None:
    """Once for a process; nothing where another version has other names for these."""
    if _DType.__eq__ is _equal or not hasattr(array_api_strict.float64, "_np_dtype"):
        return
    _DType.__eq__ = _equal
    for name in ("_all_dtypes", "_boolean_dtypes", "_floating_dtypes", "_integer_dtypes"):
        if hasattr(_array_object, name):
            setattr(_array_object, name, frozenset(getattr(_array_object, name)))
    categories = getattr(_array_object, "_dtype_categories", {})
    categories.update({name: frozenset(dtypes) for name, dtypes in categories.items()})
