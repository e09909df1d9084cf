"""Two tasks of Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 1997, as random batches.

Each function draws from a generator of NumPy, so that training may have new sequences at each step.
"""

import numpy as np

from gpulstm.training import Batch

ALPHABET = "abcdXYEB"
DISTRACTORS, X, START, TRIGGER = 4, 4, 6, 7  # how many of the alphabet's first are distractors; places of X, E, B
SHORTEST, LONGEST = 100, 110
FIRST_MARK, SECOND_MARK = (10, 20), (50, 60)  # the earliest and the latest step


def adding(rng: np.random.Generator, sequences: int, steps: int) -> Batch:
    """The adding problem: two of many numbers are marked, and their sum is asked for at the end.

    Each step has a number from [0, 1] and a mark, which is 1 at one step of the sequence's first half and one of its
    second half, and 0 at all others. Always to answer 1 has a mean squared error of 1/6: twice a number's variance.

    Experiment 4; with numbers from [0, 1] and two marks only, as in Arjovsky, Shah and Bengio, Unitary evolution
    recurrent neural networks, ICML 2016.

    x : (steps, sequences, 2) number and mark        target : (sequences, 1)
    """
    numbers, marks = rng.random((steps, sequences)), np.zeros((steps, sequences))
    for first, last in [(0, steps // 2), (steps // 2, steps)]:
        marks[rng.integers(first, last, sequences), np.arange(sequences)] = 1
    sums = (numbers * marks).sum(axis=0)
    return Batch(np.stack([numbers, marks], axis=-1).astype(np.float32), sums[:, None].astype(np.float32))


def temporal_order(rng: np.random.Generator, sequences: int) -> Batch:
    """Temporal order: two marks came among distractors, and which ones in which order is asked for at the end.

    100 to 110 symbols, the first E, the last B, the others random of a, b, c, d, but for two marks: X or Y at one of
    the steps 10 to 20, and X or Y at one of the steps 50 to 60. Four classes: XX, XY, YX, YY.

    Experiment 6a.

    x : (110, sequences, 8) one-hot, zeros past the end        target : (sequences,) integers from 0 to 3
    """
    everyone = np.arange(sequences)
    lengths = rng.integers(SHORTEST, LONGEST + 1, sequences)
    symbols = rng.integers(0, DISTRACTORS, (LONGEST, sequences))
    symbols[0], symbols[lengths - 1, everyone] = START, TRIGGER
    is_y = rng.integers(0, 2, (2, sequences))
    for mark, (earliest, latest) in zip(is_y, (FIRST_MARK, SECOND_MARK), strict=True):
        symbols[rng.integers(earliest, latest + 1, sequences), everyone] = X + mark
    x = np.eye(len(ALPHABET), dtype=np.float32)[symbols]
    x[np.arange(LONGEST)[:, None] >= lengths] = 0
    return Batch(x, 2 * is_y[0] + is_y[1], lengths)
