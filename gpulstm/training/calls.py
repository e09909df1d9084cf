"""Calling what a user gave: a model, a loss, a metric, each with those keyword arguments that its signature names."""

import functools
import inspect
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from .. import arrays
from ..arrays import Array
from .batches import Batch
from .nested import Nested, leaves

LOSS_KEYWORDS = ("lengths", "target_lengths")


def named(function: Callable, names: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` that are arguments of the function, and that no functools.partial has settled."""
    try:
        arguments = inspect.signature(function).parameters
    except ValueError:  # written in C, without a signature
        return ()
    settled = function.keywords if isinstance(function, functools.partial) else {}
    return tuple(name for name in names if name in arguments and name not in settled)


class Compared:
    """A loss or a metric: ``compared(prediction, batch)``."""

    def __init__(self, name: str, function: Any) -> None:
        if not callable(function):
            raise TypeError(f"{name} must be a function of prediction and target, got {type(function).__name__}")
        self.function = function
        self.keywords = named(function, LOSS_KEYWORDS)

    def __call__(self, prediction: Array, batch: Batch, kind: str) -> Any:
        """``kind`` is what the targets are, see `gpulstm.training.Batches`.

        With one target for each sequence there may be no time steps for lengths to be about: then they are None.
        """
        timeless = kind == "sequences" and (prediction.ndim < 3 or prediction.shape[:2] != batch.x.shape[:2])
        given = {"lengths": None if timeless else batch.lengths, "target_lengths": batch.target_lengths}
        return self.function(prediction, batch.target, **{name: given[name] for name in self.keywords})


class Trained:
    """The model, checked, with the calls that training makes."""

    def __init__(self, model: Any) -> None:
        from ..lstm import LSTM

        if isinstance(model, LSTM):
            raise TypeError(
                "model must return a prediction and a cache from forward, and gl.LSTM returns its state as well; "
                "make a model of it: gl.nn.Sequential(lstm, gl.nn.Linear(lstm.hidden_size, outputs))"
            )
        if not isinstance(getattr(model, "params", None), MutableMapping):
            raise TypeError(f"model must have params, a dict of arrays, which {type(model).__name__} has not")
        for method in ("forward", "backward"):
            if not callable(getattr(model, method, None)):
                raise TypeError(f"model must have a method {method}, which {type(model).__name__} has not")
        self.model = model
        if not list(leaves("params", model.params)):
            raise ValueError("model must have parameters to train, got an empty dict of params")
        self.forward_keywords = named(model.forward, ("lengths", "rng"))
        self.call_keywords = named(model, ("lengths",)) if callable(model) else ()

    @property
    def params(self) -> Nested:
        return self.model.params

    @property
    def like(self) -> Array:
        """A parameter: the library and the device of all."""
        _, holder, key = next(leaves("params", self.params))
        return holder[key]

    @property
    def random(self) -> bool:
        return "rng" in self.forward_keywords

    def placed(self, batch: Batch) -> Batch:
        """The batch with x and target in the parameters' library, on their device; lengths stay on the host."""
        x, target, *lengths = batch
        like = self.like
        return Batch(_beside(x, like), _beside(target, like), *lengths)

    def forward(self, batch: Batch, rng: Any) -> tuple[Array, Any]:
        given = {"lengths": batch.lengths, "rng": rng}
        result = self.model.forward(batch.x, **{name: given[name] for name in self.forward_keywords})
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"model.forward must return (out, cache), got "
                f"{f'{len(result)} values' if isinstance(result, tuple) else type(result).__name__}"
            )
        return result

    def require_inference(self) -> None:
        if self.random and not callable(self.model):
            raise TypeError(
                f"model must be callable for validation, out = model(x): {type(self.model).__name__}.forward takes "
                f"rng, so what it returns is random"
            )

    def predict(self, batch: Batch) -> Array:
        """Inference: nothing random, nothing kept."""
        if not callable(self.model):
            return self.forward(batch, None)[0]
        return self.model(batch.x, **{name: getattr(batch, name) for name in self.call_keywords})


def _beside(values: Any, like: Array) -> Any:
    return arrays.beside(values, like) if arrays.is_numpy(values) and not arrays.is_numpy(like) else values
