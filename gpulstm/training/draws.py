"""Randomness without a state: each draw has its own generator, made from the run's seed, what it is for, and a counter.

So the seed and the number of the step are the whole random state of a training run: who continues at step 1000 draws
what the run would have drawn there.
"""

import numpy as np

_PURPOSES = {"order": 0, "masks": 1, "batch": 2, "validation": 3}


def generator(seed: int, purpose: str, counter: int = 0) -> np.random.Generator:
    """The generator for ``purpose`` at ``counter``: an epoch for "order", a step for "masks" and "batch"."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_PURPOSES[purpose], counter)))
