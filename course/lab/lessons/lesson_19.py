"""The check of lesson 19."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function

LENGTHS = np.array([5, 3, 1, 4])


def scores():
    """(3 target words, 4 sentences, 5 source words)."""
    return np.random.default_rng(19).normal(size=(3, 4, 5))


def counts(shape, lengths):
    return np.broadcast_to(np.arange(shape[2]) < lengths[:, None], shape)


def right(scores, lengths):
    hidden = np.where(counts(scores.shape, lengths), scores, -np.inf)
    powers = np.exp(hidden - hidden.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def plain(scores, axis=-1):
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


@exercise("19.masked-softmax")
def masked_softmax(weights: Function()):
    """A softmax over the source words that a sentence has."""
    given = scores()
    found, wanted = weights(given, LENGTHS), right(given, LENGTHS)
    there = counts(given.shape, LENGTHS)
    yield must(same("The shape", np.shape(found), given.shape, "One weight for each score."))
    if close(found, plain(given)):
        yield look("The pads get weights, too. Sentence 1 has 3 words, and here is something behind its end.")
        return
    if close(found, plain(np.where(there, given, 0.0))):
        yield look("A score of 0 is no small score: e to the power of 0 is 1. Which score has the power 0?")
        return
    if close(found, np.where(there, plain(given), 0.0)):
        yield look("The pads are 0, but the rest of a row no longer sums to 1: the pads still count in the sum below.")
        return
    if close(found, plain(np.where(there, given, -np.inf), axis=0)):
        yield look("That is a softmax over the French words. Each French word shares itself out over the English ones.")
        return
    values = np.asarray(found, dtype=float)
    if not np.isfinite(values).all():
        yield look(
            "There are values that are not finite. Does a row have only pads left, or is something divided by 0?"
        )
        return
    if np.any(values[~there] != 0):
        yield look("Behind the end of a sentence there are weights that are not 0.")
        return
    yield ok("What is behind a sentence's end gets the weight 0.")
    if not np.allclose(values.sum(axis=-1), 1.0, rtol=0, atol=1e-9):
        yield look(f"A row should sum to 1, and here is one that sums to {values.sum(axis=-1).ravel()[0]:.3f}.")
        return
    yield ok("Each row sums to 1.")
    yield must(same("The table of weights", found, wanted, "e to the power of the score, shared out over the row."))
    high = np.full((1, 2, 3), 1000.0)
    high[0, :, 2] = 999.0
    lengths = np.array([3, 2])
    yield must(
        same(
            "For scores of 1000 the result",
            weights(high, lengths),
            right(high, lengths),
            "exp(1000) overflows: see hint 2.",
        )
    )
    padded = np.array([[[1.0, 2.0, 5000.0]]])
    one = np.array([2])
    hint = "The largest score stands on a pad here. It must not be the one that is taken away from all others."
    yield same("With a high score on a pad the result", weights(padded, one), right(padded, one), hint)


@masked_softmax.right
def with_infinity():
    return answers(right)


@masked_softmax.right
def by_sentence():
    def weights(scores, lengths):
        found = np.zeros(scores.shape)
        for n, length in enumerate(lengths):
            found[:, n, :length] = plain(scores[:, n, :length])
        return found

    return answers(weights)


@masked_softmax.right
def with_a_large_number():
    return answers(lambda scores, lengths: plain(np.where(counts(scores.shape, lengths), scores, -1e9)))


@masked_softmax.wrong("the exercise as it stands", says="The pads get weights, too")
def no_mask():
    return answers(lambda scores, lengths: np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True))


@masked_softmax.wrong("scores of zero", says="no small score")
def zero_scores():
    return answers(lambda scores, lengths: plain(scores * counts(scores.shape, lengths)))


@masked_softmax.wrong("masked afterwards", says="no longer sums to 1")
def masked_afterwards():
    return answers(lambda scores, lengths: plain(scores) * counts(scores.shape, lengths))


@masked_softmax.wrong("over the French words", says="over the French words")
def wrong_axis():
    return answers(lambda scores, lengths: plain(np.where(counts(scores.shape, lengths), scores, -np.inf), axis=0))


@masked_softmax.wrong("everything sums to 1", says="A row should sum to 1")
def one_sum():
    def weights(scores, lengths):
        powers = np.where(counts(scores.shape, lengths), np.exp(scores), 0.0)
        return powers / powers.sum()

    return answers(weights)


@masked_softmax.wrong("without the exponential", says="e to the power of the score")
def shares():
    def weights(scores, lengths):
        positive = np.where(counts(scores.shape, lengths), scores - scores.min() + 1, 0.0)
        return positive / positive.sum(axis=-1, keepdims=True)

    return answers(weights)


@masked_softmax.wrong("one word too many", says="Behind the end of a sentence")
def one_too_many():
    return answers(lambda scores, lengths: right(scores, np.minimum(lengths + 1, scores.shape[2])))


@masked_softmax.wrong("overflows", says="For scores of 1000")
def overflows():
    def weights(scores, lengths):
        powers = np.where(counts(scores.shape, lengths), np.exp(scores), 0.0)
        return powers / powers.sum(axis=-1, keepdims=True)

    return answers(weights)


@masked_softmax.wrong("the maximum of a pad", says="stands on a pad")
def maximum_of_a_pad():
    def weights(scores, lengths):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True)) * counts(scores.shape, lengths)
        return powers / powers.sum(axis=-1, keepdims=True)

    return answers(weights)
