"""An optimiser's running means: read from a checkpoint, put beside their parameters, and checked against them."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Array
from .pairs import alike

Moments = dict[str, tuple[Array, ...]]
"""A parameter's name -> its running means, in the optimiser's order."""


def parse(state: Any, moment_names: tuple[str, ...]) -> tuple[int, Any, Moments]:
    """(steps, learning rate, running means) of what `Optimiser.state_dict` gave, or a file in its form.

    Raises TypeError or ValueError where it is none, or another optimiser's.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict, as state_dict() gives it, got {type(state).__name__}")
    if set(state) != {"steps", "learning_rate", "arrays"}:
        raise ValueError(f"state must have the keys steps, learning_rate and arrays, got {', '.join(map(str, state))}")
    if not isinstance(state["arrays"], Mapping):
        raise TypeError(f"state['arrays'] must be a dict of arrays, got {type(state['arrays']).__name__}")
    found: dict[str, dict[str, Array]] = {}
    for key, array in state["arrays"].items():
        moment, bracket, name = str(key).partition("[")
        if moment not in moment_names:
            expected = " or ".join(f"{name}[...]" for name in moment_names) or "none at all"
            raise ValueError(
                f"state['arrays'] must have keys such as this optimiser's, {expected}, got {key!r}; is it the state of "
                f"another optimiser?"
            )
        arrays.require_array(f"state['arrays'][{key!r}]", array)
        found.setdefault(bracket + name, {})[moment] = copied(array, array)
    missing = [f"{moment}{name}" for name, given in found.items() for moment in moment_names if moment not in given]
    steps = _steps(state["steps"])
    if steps and moment_names and not found:
        missing = list(moment_names)
    if missing:
        raise ValueError(f"state['arrays'] must have all running means of a parameter: missing {', '.join(missing)}")
    read = {name: tuple(given[moment] for moment in moment_names) for name, given in found.items()}
    return steps, state["learning_rate"], read


def _steps(value: Any) -> int:
    try:
        steps = operator.index(value)
    except TypeError:
        raise TypeError(f"state['steps'] must be an integer, got {type(value).__name__}") from None
    if steps < 0:
        raise ValueError(f"state['steps'] must not be negative, got {steps}")
    return steps


def placed(loaded: Moments, params: Mapping[str, Array]) -> Moments:
    """Copies of ``loaded`` in the parameters' libraries and on their devices.

    Raises TypeError or ValueError unless there are means for each parameter and for no other, of its shape and dtype.
    Nothing loaded is fine: an optimiser that has not made a step yet has no means.
    """
    if not loaded:
        return {}
    problems = [f"missing {name}" for name in params if name not in loaded]
    problems += [f"unexpected {name}" for name in loaded if name not in params]
    if problems:
        raise ValueError(f"the loaded state must be that of params: {', '.join(problems)}")
    for name, means in loaded.items():
        for mean in means:
            expected, got = _kind(params[name]), _kind(mean)
            if expected != got:
                error = TypeError if expected[0] == got[0] else ValueError
                raise error(
                    f"the loaded state of params{name} must have its shape {expected[0]} and dtype {expected[1]}, got "
                    f"shape {got[0]} and dtype {got[1]}; nothing is cast silently"
                )
    return {name: tuple(copied(mean, params[name]) for mean in means) for name, means in loaded.items()}


def _kind(array: Array) -> tuple[tuple[int, ...], str]:
    return tuple(array.shape), arrays.dtype_name(array)


def check(kept: Moments, params: Mapping[str, Array], moment_names: tuple[str, ...]) -> None:
    """Raises TypeError or ValueError where a parameter is no longer what its running means were made for."""
    for name, parameter in params.items():
        for moment, mean in zip(moment_names, kept.get(name, ()), strict=False):
            if alike(mean, parameter):
                continue
            arrays.check_same({f"the optimiser's {moment}{name}": mean, f"params{name}": parameter})
            if mean.shape != parameter.shape:
                raise ValueError(
                    f"params{name} must keep its shape from step to step, {tuple(mean.shape)}, got "
                    f"{tuple(parameter.shape)}; a new model needs a new optimiser"
                )


def copied(values: Array, like: Array) -> Array:
    """A copy of ``values``, of any library, in ``like``'s library and on its device; same bits."""
    if arrays.library(values) == arrays.library(like) and arrays.device(values) == arrays.device(like):
        xp = arrays.namespace(like)
        with arrays.on_device_of(like):  # C order, which the kernels take for granted
            return (
                xp.array(values, order="C")
                if arrays.is_numpy(like) or arrays.is_cupy(like)
                else xp.asarray(values, copy=True)
            )
    return arrays.beside(np.array(arrays.to_numpy(values), order="C"), like, like.dtype)
