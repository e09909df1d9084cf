"""Learning rates that change in the course of training.

Each function here gives a schedule: a function of the step's number alone, counted from 0, so that a training that is
resumed at step n needs nothing but n::

    schedule = warmup_cosine(1e-3, warmup_steps=100, total_steps=2000)
    for step in range(first_step, 2000):
        optimiser.learning_rate = schedule(step)
        ...
        optimiser.step(params, grads)
"""

import math
import operator
from collections.abc import Callable

from .optimisers import not_negative

__all__ = ["constant", "cosine", "warmup", "warmup_cosine"]

Schedule = Callable[[int], float]


def constant(rate: float) -> Schedule:
    """``rate`` at every step."""
    rate = not_negative("rate", rate)

    def schedule(step: int) -> float:
        _count("step", step)
        return rate

    return schedule


def warmup(peak: float, warmup_steps: int) -> Schedule:
    """Rises linearly to ``peak``, which it has reached at step ``warmup_steps``, and stays there.

    ::

        rate(step) = peak * (step + 1) / (warmup_steps + 1)        for step <= warmup_steps

    Step 0 has peak / (warmup_steps + 1), so that the first step is no idle one. With 0 warm-up steps it is ``peak``.

    Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017.
    """
    peak, warmup_steps = not_negative("peak", peak), _count("warmup_steps", warmup_steps)

    def schedule(step: int) -> float:
        return peak * min(1.0, (_count("step", step) + 1) / (warmup_steps + 1))

    return schedule


def cosine(peak: float, total_steps: int, floor: float = 0.0) -> Schedule:
    """Falls from ``peak`` at step 0 to ``floor`` at step ``total_steps`` along half a cosine, and stays there.

    ::

        rate(step) = floor + (peak - floor) * (1 + cos(pi * step / total_steps)) / 2        for step <= total_steps

    Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017.
    """
    return warmup_cosine(peak, 0, total_steps, floor)


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int, floor: float = 0.0) -> Schedule:
    """`warmup` to ``peak``, then `cosine` down to ``floor``.

    Step 0 has peak / (warmup_steps + 1), step ``warmup_steps`` has ``peak``, step ``total_steps`` and all behind it
    have ``floor``: all three exactly. ``warmup_steps`` must be less than ``total_steps``.
    """
    rise, floor = warmup(peak, warmup_steps), not_negative("floor", floor)
    if floor > peak:
        raise ValueError(f"floor must be at most peak, {peak}, got {floor}")
    if _count("total_steps", total_steps) <= warmup_steps:
        least = f"more than warmup_steps, {warmup_steps}" if warmup_steps else "at least 1"
        raise ValueError(f"total_steps must be {least}, got {total_steps}")
    peak = float(peak)

    def schedule(step: int) -> float:
        if _count("step", step) <= warmup_steps:
            return rise(step)
        if step >= total_steps:
            return floor
        share = (step - warmup_steps) / (total_steps - warmup_steps)
        return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2

    return schedule


def _count(name: str, value: int) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got bool")
    if count < 0:
        raise ValueError(f"{name} must not be negative, got {count}")
    return count
