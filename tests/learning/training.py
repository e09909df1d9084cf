"""`gpulstm.fit` on both engines of NumPy arrays: seed 0 with NumPy, all others with the LSTM compiled for CPUs, which
takes less time. What is learnt is then looked at through NumPy.

A test run trains each model once, half of them with either engine; the environment variable GPULSTM_MORE_SEEDS=1 makes
it three times, with both.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import gpulstm as gl
from tests import native_library

MORE = range(3) if os.environ.get("GPULSTM_MORE_SEEDS") else ()
WITH_NUMPY, COMPILED = MORE or (0,), MORE or (1,)  # seeds


@contextmanager
def compiled_lstm() -> Iterator[None]:
    """Within it NumPy arrays go through the compiled LSTM, or through NumPy as before where it does not compile."""
    compiled = native_library.compiled()
    try:
        library = compiled.__enter__()
    except RuntimeError:  # no compiler, or none for this source; tests/test_native.py says so
        yield
        return
    try:
        library.threads = 1  # other tests have the other cores
        yield
    finally:
        compiled.__exit__(None, None, None)


def fit(*arguments, rng: int, **options) -> None:
    """`gpulstm.fit` without its progress bar."""
    if rng == 0:
        gl.fit(*arguments, rng=rng, progress=False, **options)
        return
    with compiled_lstm():
        gl.fit(*arguments, rng=rng, progress=False, **options)
