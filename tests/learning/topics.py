"""English that every Python brings along: the help on its language, some 460 thousand characters.

Python 3.11, 3.12 and 3.13 have slightly different ones. Characters are numbered in the order of Unicode.
"""

import pydoc_data.topics

import numpy as np

HELD_OUT = 40_000  # characters at the end, about a twelfth: nothing is trained on them

TEXT = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
ALPHABET = "".join(sorted(set(TEXT)))


def encoded(text):
    """(time,) int32 character numbers of a text."""
    return np.array([ALPHABET.index(character) for character in text], np.int32)


def decoded(numbers):
    return "".join(ALPHABET[number] for number in numbers)


def halves():
    """The numbers of the text to train on, and of the held-out text, which follows it."""
    numbers = encoded(TEXT)
    return numbers[:-HELD_OUT], numbers[-HELD_OUT:]


def pieces(numbers, length):
    """Inputs and targets (pieces, length): a piece's targets are the characters that follow each of its own."""
    count = (len(numbers) - 1) // length
    return numbers[: count * length].reshape(count, length), numbers[1 : count * length + 1].reshape(count, length)


def of_pairs(train, held_out):
    """Nats a character on ``held_out`` of a model that counts pairs of characters: what one sees without a memory.

    A pair's probability is its share of all pairs with the same first character, mixed with the second character's own.
    """
    size = len(ALPHABET)
    alone = (np.bincount(train, minlength=size) + 1) / (len(train) + size)
    pairs = np.bincount(train[:-1] * size + train[1:], minlength=size * size).reshape(size, size)
    p = (pairs + 2 * alone) / (pairs.sum(axis=1, keepdims=True) + 2)
    return float(-np.log(p[held_out[:-1], held_out[1:]]).mean())
