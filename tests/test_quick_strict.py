"""The short way to compare dtypes of array-api-strict answers as the long one does, and refuses what was refused."""

import array_api_strict as xp
import numpy as np
import pytest

from tests import quick_strict

NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
         "float32", "float64", "complex64", "complex128")  # fmt: skip


def test_it_is_in_place():
    assert type(xp.float64).__eq__ is quick_strict._equal


@pytest.mark.parametrize("first", NAMES)
def test_dtypes_are_equal_as_before(first):
    for second in NAMES:
        one, two = getattr(xp, first), getattr(xp, second)
        assert (one == two) is (first == second) is quick_strict._compare(one, two)
        assert (xp.zeros(1, dtype=one).dtype == two) is (first == second)


def test_a_dtype_of_numpy_is_still_told_apart():
    with pytest.warns(UserWarning, match="NumPy native dtype"):
        assert xp.float64 != np.dtype("float64")
    assert xp.float64 != "float64"


@pytest.mark.parametrize(
    "refused",
    [
        lambda: xp.zeros(2, dtype=xp.int32) + xp.zeros(2),
        lambda: xp.zeros(2, dtype=xp.bool) * 1.0,
        lambda: xp.zeros(2, dtype=xp.int64) + 0.5,
        lambda: xp.tanh(xp.zeros(2, dtype=xp.int64)),
        lambda: ~xp.zeros(2),
        lambda: xp.asarray(np.zeros(2, np.float16)),
    ],
)
def test_what_the_standard_does_not_have_is_refused(refused):
    with pytest.raises(TypeError):
        refused()
