"""Whether results are right and repeat themselves, before anybody asks how fast they came."""

import math

import torch

from benchmarks.against_torch import checking, cpu, grid, sides


def test_what_is_missing_or_of_another_shape_is_wrong():
    expected = {"y": torch.ones(2, 3), "h": torch.ones(3), "c": torch.ones(1)}
    errors = checking.relative_errors({"y": torch.ones(3, 2), "c": torch.ones(1)}, expected)
    assert errors == {"y": math.inf, "h": math.inf, "c": 0}
    assert checking.wrong(errors, "float32") == ["y", "h"]


def test_a_nan_has_the_same_bits_as_itself():
    one, other = torch.tensor([math.nan, 1.0]), torch.tensor([1.0, -0.0])
    assert checking.same_bits({"y": one}, {"y": one.clone()})
    assert not checking.same_bits({"y": other}, {"y": other.abs()})  # zeros of two signs
    assert not checking.same_bits({"y": one}, {"y": one, "h": one})


def test_the_reference_of_float32_is_that_of_tf32(monkeypatch):
    made, right = [], checking._reference
    monkeypatch.setattr(checking, "_reference", lambda cell, *others: made.append(cell.dtype) or right(cell, *others))
    theirs = sides.TorchSide.of(grid.Cell("lengths", "float32", 6, 3, 5), "cpu")
    references = checking.References()
    for dtype in ("float32", "tf32", "float16", "float32"):
        cell = grid.Cell("lengths", dtype, 6, 3, 5)
        found, named = references.of(cell, cpu.Cpu(), theirs)
        assert found["y"].dtype.is_floating_point and named == "torch.nn.LSTM in float64"
    assert made == ["float32", "float16", "float32"]
    monkeypatch.setattr(checking, "KEPT_BYTES", 0)
    references.of(grid.Cell("lengths", "tf32", 6, 3, 5), cpu.Cpu(), theirs)
    assert references.results == {}
