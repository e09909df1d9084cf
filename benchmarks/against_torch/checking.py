"""Whether a side's results are right, before anybody asks how fast they came."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .grid import Cell
from .results import rounded
from .sides import TorchSide

# Norm of the difference over the norm of the reference.
TOLERANCES = {"float32": 1e-5, "tf32": 1e-3, "float16": 1e-2, "bfloat16": 1e-2}
SAME_FUNCTION = 0.1  # of another library's results
KEPT_BYTES = 2**30  # of a reference that may be needed once more


def relative_errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """By name; infinite where a result is missing or of another shape."""
    return {name: _relative_error(found.get(name), value) for name, value in expected.items()}


def _relative_error(value: torch.Tensor | None, expected: torch.Tensor) -> float:
    if value is None or value.shape != expected.shape:
        return math.inf
    expected = expected.double()
    norm = float(torch.linalg.vector_norm(expected))
    difference = float(torch.linalg.vector_norm(value.double() - expected))
    return difference / norm if norm else difference


def wrong(errors: dict[str, float], dtype: str) -> list[str]:
    """The names of those that are further off than the dtype excuses; NaN is."""
    return [name for name, error in errors.items() if not error <= TOLERANCES[dtype]]


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether both have the same names, and each the same bytes; a NaN equals itself."""

    def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
        return a.dtype == b.dtype and torch.equal(*(of.contiguous().view(torch.uint8) for of in (a, b)))

    return first.keys() == second.keys() and all(equal(first[name], second[name]) for name in first)


class References:
    """Results in float64, of the problem that was last asked for: float32 and TF32 cells have the same one."""

    def __init__(self) -> None:
        self.cell: Cell | None = None
        self.results: dict[str, torch.Tensor] = {}
        self.named = ""

    def of(self, cell: Cell, device: Any, theirs: TorchSide) -> tuple[dict[str, torch.Tensor], str]:
        """On the same device, and which LSTM they are of."""
        stored = dataclasses.replace(cell, dtype=cell.storage)
        if self.cell != stored:
            self.forget()
            self.results, self.named = _reference(cell, device, theirs)
            self.cell = stored
        found = self.results, self.named
        if sum(value.numel() * value.element_size() for value in self.results.values()) > KEPT_BYTES:
            self.forget()
        return found

    def forget(self) -> None:
        self.cell, self.results = None, {}


def _reference(cell: Cell, device: Any, theirs: TorchSide) -> tuple[dict[str, torch.Tensor], str]:
    device.allow_tf32(False)  # a float32 reference, if it comes to that, is not in TF32
    try:
        return theirs.as_double().results(), "torch.nn.LSTM in float64"
    except device.out_of_memory:
        pass  # and try again where the error, and with it what it holds, is gone
    device.release()
    return theirs.results(), f"torch.nn.LSTM in {cell.storage}"


def check(
    cell: Cell,
    device: Any,
    ours: Callable[[], dict[str, torch.Tensor]],
    theirs: TorchSide,
    references: References,
    others: Mapping[str, Callable[[], dict[str, torch.Tensor]]] | None = None,
) -> dict[str, Any]:
    """The errors of our results, and of PyTorch's own beside them, against PyTorch in float64 on the same device.

    ``ours`` is asked twice, to see whether it gives the same bits. ``others`` are the results of other libraries, which
    are asked for if ours are right. Whoever raises is not compared. They may be up to `SAME_FUNCTION` off: one that
    keeps its cell states in 16 bits is further off than ours may be, and a wrong one further yet.
    """
    reference, named = references.of(cell, device, theirs)
    device.allow_tf32(cell.dtype == "tf32")
    first = ours()
    errors, repeats = relative_errors(first, reference), same_bits(first, ours())
    del first
    of_torch = relative_errors(theirs.results(), reference)
    too_far = wrong(errors, cell.dtype)
    found = {
        "status": "wrong" if too_far else "timed",
        "reference": named,
        "tolerance": TOLERANCES[cell.dtype],
        "errors": {name: rounded(error) for name, error in errors.items()},
        "same_bits": repeats,
        "errors_of_torch": {name: rounded(error) for name, error in of_torch.items()},
        **({"wrong": too_far} if too_far else {}),
    }
    if not too_far:
        for name, results in (others or {}).items():
            found[name] = _check_other(results, reference)
    del reference
    device.release()
    return found


def _check_other(results: Callable[[], dict[str, torch.Tensor]], reference: dict[str, torch.Tensor]) -> dict[str, Any]:
    try:
        errors = relative_errors(results(), reference)
    except Exception as error:  # another library's failure is no reason not to time the two
        return {"status": "not compared", "message": next(iter(str(error).splitlines()), type(error).__name__)}
    too_far = [name for name, error in errors.items() if not error <= SAME_FUNCTION]
    found = {"status": "wrong" if too_far else "timed", "tolerance": SAME_FUNCTION}
    found["errors"] = {name: rounded(error) for name, error in errors.items()}
    return found | ({"wrong": too_far} if too_far else {})
