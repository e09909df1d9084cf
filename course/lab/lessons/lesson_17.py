"""The check of lesson 17."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok
from lab.kinds import Function, numbers

PROBABILITY, STEPS, BATCH, UNITS = 0.2, 7, 40, 500


@exercise("17.sequence-masks")
def sequence_masks(sequence_masks: Function()):
    """The masks of recurrent dropout: one for each sequence, the mean kept."""
    mask = numbers(sequence_masks(np.random.default_rng(17), PROBABILITY, STEPS, BATCH, UNITS))
    if mask is None or mask.size == 0:
        yield look("It should return an array of numbers.")
        return
    if mask.shape != (STEPS, BATCH, UNITS):
        wanted = f"(steps, batch, units) = {(STEPS, BATCH, UNITS)}"
        yield look(
            f"The shape should be {wanted}, and is {mask.shape}. np.repeat(mask[None], steps, axis=0) adds time."
        )
        return
    yield must(same_at_each_step(mask))
    yield must(different_sequences(mask))
    yield must(share(mask))
    yield must(scale(mask))
    again = numbers(sequence_masks(np.random.default_rng(18), PROBABILITY, STEPS, BATCH, UNITS))
    if close(again, mask):
        yield look("Another rng gives the same masks. Draw from the rng that is given.")


def same_at_each_step(mask):
    if (mask == mask[0]).all():
        return ok("Each sequence has the same mask at all steps.")
    if (mask == mask[:, :1]).all():
        return look("It is the same for all sequences and new at each step. It should be the other way round.")
    return look("The mask is new at each step. Draw it without a time axis, and repeat it along time.")


def different_sequences(mask):
    if (mask == mask[:, :1]).all():
        return look("All sequences of the batch have the same mask. Each should have its own.")
    if (mask == mask[:, :, :1]).all():
        return look("All units of a sequence share one lot: the whole sequence is dropped or kept. Draw for each unit.")
    return ok("Different sequences have different masks.")


def share(mask):
    dropped = (mask == 0).mean()
    if abs(dropped - PROBABILITY) < 0.02:
        return ok(f"About {PROBABILITY:.0%} are zero, as asked.")
    if abs(dropped - (1 - PROBABILITY)) < 0.02:
        return look(
            f"{1 - PROBABILITY:.0%} are zero, and {PROBABILITY:.0%} were asked for. Which way round is the comparison?"
        )
    return look(
        f"With the probability {PROBABILITY} a share of {dropped:.2f} is zero. How often is rng.random() below p?"
    )


def scale(mask):
    kept = np.unique(mask[mask != 0])
    wanted = 1 / (1 - PROBABILITY)
    if kept.size == 1 and np.isclose(kept[0], wanted):
        return ok("The mean is kept.")
    if kept.size > 1:
        return look("The kept ones have different values. A mask has only two: zero, and one other.")
    if np.isclose(kept[0], 1):
        return look(f"The kept ones are 1, so the mean is only {1 - PROBABILITY}. Divide, such that the mean is 1.")
    if np.isclose(kept[0], 1 / PROBABILITY):
        return look("That divides by the share that is dropped. The mean is kept by the share that is kept.")
    if np.isclose(kept[0], 1 - PROBABILITY):
        return look("That makes the kept ones smaller. They must grow to make up for the dropped ones.")
    return look(f"The kept ones are {kept[0]:.3g}. What must they be for a mean of 1?")


def drawn(rng, probability, steps, shape, factor=None):
    """A mask of ``shape``, with 1 where an axis is shared, over time and batch."""
    keep = rng.random(shape) >= probability
    mask = keep * (1 / (1 - probability) if factor is None else factor)
    return np.broadcast_to(mask, (steps, BATCH, UNITS)).copy()


@sequence_masks.right
def repeated():
    def masks(rng, probability, steps, batch, units):
        return np.repeat((rng.random((batch, units)) >= probability)[None] / (1 - probability), steps, axis=0)

    return answers(masks)


@sequence_masks.right
def by_choice():
    def masks(rng, probability, steps, batch, units):
        mask = rng.choice([0.0, 1 / (1 - probability)], p=[probability, 1 - probability], size=(batch, units))
        return np.broadcast_to(mask, (steps, batch, units))

    return answers(masks)


@sequence_masks.wrong("as it stands", says="new at each step. Draw it without")
def unsolved():
    return answers(lambda rng, p, steps, batch, units: (rng.random((steps, batch, units)) >= p) * 1.0)


@sequence_masks.wrong("one mask for the batch", says="All sequences of the batch have the same mask")
def whole_batch():
    return answers(lambda rng, p, steps, batch, units: drawn(rng, p, steps, (1, 1, units)))


@sequence_masks.wrong("the wrong axis repeated", says="the other way round")
def wrong_axis():
    return answers(lambda rng, p, steps, batch, units: drawn(rng, p, steps, (steps, 1, units)))


@sequence_masks.wrong("whole sequences dropped", says="All units of a sequence share one lot")
def whole_sequences():
    return answers(lambda rng, p, steps, batch, units: drawn(rng, p, steps, (1, batch, 1)))


@sequence_masks.wrong("not scaled", says="so the mean is only")
def not_scaled():
    return answers(lambda rng, p, steps, batch, units: drawn(rng, p, steps, (1, batch, units), 1.0))


@sequence_masks.wrong("scaled by the dropped share", says="the share that is dropped")
def dropped_share():
    return answers(lambda rng, p, steps, batch, units: drawn(rng, p, steps, (1, batch, units), 1 / p))


@sequence_masks.wrong("made smaller", says="They must grow")
def smaller():
    return answers(lambda rng, p, steps, batch, units: drawn(rng, p, steps, (1, batch, units), 1 - p))


@sequence_masks.wrong("keeps what it should drop", says="Which way round is the comparison")
def turned():
    return answers(lambda rng, p, steps, batch, units: drawn(rng, 1 - p, steps, (1, batch, units), 1 / (1 - p)))


@sequence_masks.wrong("no time axis", says="np.repeat(mask[None]")
def no_time():
    return answers(lambda rng, p, steps, batch, units: drawn(rng, p, 1, (1, batch, units))[0])


@sequence_masks.wrong("another generator", says="Draw from the rng that is given")
def own_generator():
    return answers(lambda rng, p, steps, b, units: drawn(np.random.default_rng(0), p, steps, (1, b, units)))
