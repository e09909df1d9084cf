"""The embedded Reber grammar: strings whose last symbol but one repeats the second, with another grammar in between.

::

    embedded   B T reber T E  or  B P reber P E
    reber      B, then the edges of `NODES` from the first to the last node

To say what may follow is easy for most symbols, because the grammar shows at each node where one is. For the last
symbol but one it takes the memory of the second, across all that came in between.

Reber, Implicit learning of artificial grammars, 1967; Smith and Zipser, Learning sequential structure with the
real-time recurrent learning algorithm, 1989; Hochreiter and Schmidhuber, Long short-term memory, Neural Computation
1997, experiment 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpulstm.training import Batch

SYMBOLS = "BTPSXVE"
NODES = (  # symbol -> the node that its edge leads to; a symbol is chosen evenly among a node's
    {"T": 1, "P": 2},
    {"S": 1, "X": 3},
    {"T": 2, "V": 4},
    {"X": 2, "S": 5},
    {"P": 3, "V": 5},
    {"E": None},
)


class String(NamedTuple):
    symbols: str
    legal: tuple[str, ...]  # legal[t]: the symbols that may follow symbols[: t + 1]; none for the last one


def string(rng: np.random.Generator) -> String:
    """A random string of the embedded grammar."""
    outer = "TP"[rng.integers(2)]
    symbols, legal = ["B", outer, "B"], ["TP", "B"]
    node: int | None = 0
    while node is not None:
        edges = NODES[node]
        legal.append("".join(edges))
        symbols.append(legal[-1][rng.integers(len(edges))])
        node = edges[symbols[-1]]
    return String("".join([*symbols, outer, "E"]), (*legal, outer, "E"))


def strings(rng: np.random.Generator, count: int) -> list[String]:
    return [string(rng) for _ in range(count)]


def batch(given: Sequence[String]) -> Batch:
    """Every symbol but the last as x, every one but the first as target, both (time, strings) numbers in `SYMBOLS`."""
    lengths = np.array([len(one.symbols) - 1 for one in given])
    numbers = np.zeros((lengths.max() + 1, len(given)), np.int64)
    for column, one in zip(numbers.T, given, strict=True):
        column[: len(one.symbols)] = [SYMBOLS.index(symbol) for symbol in one.symbols]
    return Batch(numbers[:-1], numbers[1:], lengths)


def legal(given: Sequence[String]) -> np.ndarray:
    """(time, strings, symbols) booleans: what may follow. All False past a string's end."""
    found = np.zeros((max(len(one.legal) for one in given), len(given), len(SYMBOLS)), bool)
    for k, one in enumerate(given):
        for t, allowed in enumerate(one.legal):
            found[t, k, [SYMBOLS.index(symbol) for symbol in allowed]] = True
    return found
