"""The checks of lesson 22."""

import numpy as np

import gpulstm as gl
from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function

LOGITS = np.array([2.0, -1.0, 0.5, 3.0, 1.0, -4.0, 2.5])  # in no order, no two of them equal
DRAWS = 4000


def bits(p):
    p = np.asarray(p)
    p = p[p > 0]
    return -np.sum(p * np.log2(p)) + 0.0


def softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


def cut(logits, top_k):
    """All but the ``top_k`` largest at minus infinity."""
    return np.where(np.isin(np.arange(len(logits)), np.argsort(-logits)[:top_k]), logits, -np.inf)


def right_distribution(logits, temperature, top_k):
    return softmax(cut(logits, top_k) / temperature)


# ---- entropy ----


@exercise("22.entropy")
def entropy_in_bits(entropy: Function()):
    """The entropy of a distribution, in bits, with zeros among its probabilities."""
    half, four = entropy(np.array([0.5, 0.5])), entropy(np.full(4, 0.25))
    if close(half, np.log(2)):
        yield look("entropy([0.5, 0.5]) is 0.69: these are natural logarithms. Bits need np.log2.")
        return
    if close(half, -1.0):
        yield look(
            "entropy([0.5, 0.5]) is -1: logarithms of probabilities are negative. What does the formula begin with?"
        )
        return
    if close(half, 0.5) or close(half, [0.5, 0.5]):
        yield look(
            "entropy([0.5, 0.5]) is not yet 1. Each of the two adds 0.5 times 1 bit: is there a sum, not a mean?"
        )
        return
    yield must(same("entropy([0.5, 0.5])", half, 1.0, "A coin is one yes-or-no question."))
    yield must(same("entropy of four equal shares", four, 2.0, "Two questions decide among four."))
    certain = entropy(np.array([0.0, 1.0, 0.0]))
    if np.size(certain) == 1 and np.isnan(np.asarray(certain, dtype=float)).all():
        yield look("entropy([0, 1, 0]) is not a number: 0 * log2(0) is. Leave the zeros out: they add nothing.")
        return
    yield must(same("entropy([0, 1, 0])", certain, 0.0, "Nothing is open there."))
    p = softmax(LOGITS)
    yield same("entropy of seven different shares", entropy(p), bits(p))


@entropy_in_bits.right
def as_in_the_solution():
    def entropy(p):
        p = p[p > 0]
        return -np.sum(p * np.log2(p))

    return answers(entropy)


@entropy_in_bits.right
def with_where():
    return answers(lambda p: float(sum(-x * np.log2(x) for x in p if x > 0)))


@entropy_in_bits.wrong("as it stands", says="Ellipsis")
def empty():
    return answers(lambda p: ...)


@entropy_in_bits.wrong("natural logarithms", says="natural logarithms")
def nats():
    return answers(lambda p: -np.sum(p[p > 0] * np.log(p[p > 0])))


@entropy_in_bits.wrong("no minus", says="begin with")
def negative():
    return answers(lambda p: np.sum(p[p > 0] * np.log2(p[p > 0])))


@entropy_in_bits.wrong("a mean", says="not a mean")
def mean():
    return answers(lambda p: -np.mean(p[p > 0] * np.log2(p[p > 0])))


@entropy_in_bits.wrong("no sum", says="not a mean")
def no_sum():
    return answers(lambda p: -p * np.log2(p))


@entropy_in_bits.wrong("zero times infinity", says="Leave the zeros out")
def zeros():
    return answers(lambda p: -np.sum(p * np.log2(p)))


@entropy_in_bits.wrong("logarithms unweighted", says="should be 1")
def unweighted():
    return answers(lambda p: -np.sum(np.log2(p[p > 0])))


# ---- temperature and top-k ----


def after(logits, temperature, top_k):
    """A mistake: the temperature comes after the softmax and goes out again."""
    p = softmax(cut(logits, top_k)) / temperature
    return p / p.sum()


def lowest(logits, temperature, top_k):
    return softmax(-cut(-logits, top_k) / temperature)


def not_renormalised(logits, temperature, top_k):
    return np.where(np.isfinite(cut(logits, top_k)), softmax(logits / temperature), 0.0)


def zero_logits(logits, temperature, top_k):
    return softmax(np.where(np.isfinite(cut(logits, top_k)), logits / temperature, 0.0))


def sorted_ones(logits, temperature, top_k):
    p = right_distribution(logits, temperature, top_k)
    return np.sort(p[p > 0])[::-1]


MISTAKES = (
    (lambda a, t, k: softmax(cut(a, k) * t), "multiplied", "It grows with the temperature: divide by it."),
    (after, "after", "The temperature has no effect: divide the logits by it, before the softmax."),
    (lambda a, t, k: softmax(cut(a, k)), "ignored", "The temperature has no effect: divide the logits by it."),
)
TOP_K_MISTAKES = (
    (lambda a, t, k: softmax(a / t), "no effect", "top_k has no effect: all characters are still possible."),
    (lowest, "lowest", "These are the least likely ones. np.argsort begins with the smallest."),
    (lambda a, t, k: right_distribution(a, t, k + 1), "one too many", "That is one character too many."),
    (not_renormalised, "sum", "The right ones are kept, but the shares no longer add up to 1."),
    (zero_logits, "zero", "A logit of 0 is not impossible, for exp(0) is 1. Which logit has exp 0?"),
)


def first_known(found, known, *given):
    return next((look(words) for wrong, _, words in known if close(found, wrong(*given))), None)


class Fixed:
    """For gl.generate: a model whose logits are always these."""

    params = {}

    def stream(self, x, state=None):
        return np.broadcast_to(LOGITS, (*x.shape, len(LOGITS))), ()


@exercise("22.sampling")
def temperature_and_top_k(distribution: Function()):
    """The distribution that is drawn from, judged by values, by its entropy, and by what gl.generate draws."""
    everything = len(LOGITS)
    plain = distribution(LOGITS, 1.0, everything)
    if np.shape(plain) == LOGITS.shape and close(plain, LOGITS):
        yield look("These are still the logits. A softmax makes probabilities of them.")
        return
    yield must(same("At temperature 1, with all characters, the result", plain, softmax(LOGITS), "A plain softmax."))
    for temperature in (0.5, 2.0):
        found = distribution(LOGITS, temperature, everything)
        yield must(first_known(found, MISTAKES, LOGITS, temperature, everything) or ok_temperature(found, temperature))
    found = distribution(LOGITS, 1.0, 3)
    shorter = np.shape(found) == (3,)
    if shorter:
        yield look("There are 3 probabilities left. Return one for each character: 0 for those that are out.")
        return
    yield must(first_known(found, TOP_K_MISTAKES, LOGITS, 1.0, 3) or ok_top_k(found, 3))
    found = distribution(LOGITS, 2.0, 3)
    yield must(same("With both, temperature 2 and top_k 3, the result", found, right_distribution(LOGITS, 2.0, 3)))
    cold = distribution(LOGITS, 0.002, everything)
    if not np.isfinite(np.asarray(cold, dtype=float)).all():
        yield look("At temperature 0.002 it overflows: exp(1500) is infinite. Subtract the largest logit before exp.")
        return
    yield must(same("At temperature 0.002 the result", cold, right_distribution(LOGITS, 0.002, everything)))
    yield as_drawn(distribution(LOGITS, 0.7, 4))


def ok_temperature(found, temperature):
    wanted = right_distribution(LOGITS, temperature, len(LOGITS))
    finding = same(f"At temperature {temperature} the result", found, wanted)
    before, now = bits(softmax(LOGITS)), bits(wanted)
    if not finding.right:
        return finding
    return ok(f"Temperature {temperature}: the entropy goes from {before:.2f} to {now:.2f} bits.")


def ok_top_k(found, top_k):
    wanted = right_distribution(LOGITS, 1.0, top_k)
    finding = same(f"With top_k {top_k} the result", found, wanted, "The largest logits stay, the others get 0.")
    if not finding.right:
        return finding
    most = np.log2(top_k)
    return ok(
        f"top_k {top_k}: the entropy is {bits(wanted):.2f} bits. More than log2({top_k}) = {most:.2f} it cannot be."
    )


def as_drawn(found):
    """Whether gl.generate, asked very often, draws these shares."""
    drawn = gl.generate(Fixed(), np.zeros((1, DRAWS), np.int32), 1, temperature=0.7, top_k=4, rng=0)
    shares = np.bincount(drawn[:, 0], minlength=len(LOGITS)) / DRAWS
    if np.shape(found) == shares.shape and np.abs(shares - found).max() < 0.03:
        return ok(f"{DRAWS} characters drawn by gl.generate have your shares, to within 0.03.")
    return look("gl.generate draws other shares at temperature 0.7 with top_k 4. What differs when both are used?")


@temperature_and_top_k.right
def with_infinity():
    def distribution(logits, temperature, top_k):
        scaled = logits / temperature
        smallest_kept = np.sort(scaled)[-top_k]
        scaled = np.where(scaled >= smallest_kept, scaled, -np.inf)
        e = np.exp(scaled - scaled.max())
        return e / e.sum()

    return answers(distribution)


@temperature_and_top_k.right
def renormalised():
    def distribution(logits, temperature, top_k):
        p = softmax(logits / temperature)
        p[np.argsort(p)[:-top_k]] = 0.0 if top_k < len(p) else p[np.argsort(p)[:-top_k]]
        return p / p.sum()

    return answers(distribution)


@temperature_and_top_k.wrong("as it stands", says="no effect")
def untouched():
    return answers(lambda logits, temperature, top_k: softmax(logits))


@temperature_and_top_k.wrong("still the logits", says="still the logits")
def logits_alone():
    return answers(lambda logits, temperature, top_k: logits / temperature)


@temperature_and_top_k.wrong("multiplied", says="divide by it")
def multiplied():
    return answers(lambda a, t, k: softmax(cut(a, k) * t))


@temperature_and_top_k.wrong("after the softmax", says="before the softmax")
def too_late():
    return answers(after)


@temperature_and_top_k.wrong("no top_k", says="top_k has no effect")
def without_top_k():
    return answers(lambda a, t, k: softmax(a / t))


@temperature_and_top_k.wrong("the lowest ones", says="least likely")
def the_lowest():
    return answers(lowest)


@temperature_and_top_k.wrong("one too many", says="one character too many")
def one_more():
    return answers(lambda a, t, k: right_distribution(a, t, k + 1))


@temperature_and_top_k.wrong("not renormalised", says="add up to 1")
def no_sum_of_one():
    return answers(not_renormalised)


@temperature_and_top_k.wrong("the others have logit 0", says="Which logit has exp 0?")
def zeros_for_the_rest():
    return answers(lambda a, t, k: zero_logits(a, t, k) if k < len(a) else softmax(a / t))


@temperature_and_top_k.wrong("only the kept ones", says="3 probabilities left")
def only_kept():
    return answers(lambda a, t, k: sorted_ones(a, t, k) if k < len(a) else softmax(a / t))


@temperature_and_top_k.wrong("the temperature alone without top_k", says="With both")
def either():
    return answers(lambda a, t, k: softmax(a / t) if k == len(a) else softmax(cut(a, k)))


@temperature_and_top_k.wrong("overflows when cold", says="overflows")
def overflows():
    def distribution(logits, temperature, top_k):
        e = np.exp(cut(logits, top_k) / temperature)
        return e / e.sum()

    return answers(distribution)


@temperature_and_top_k.wrong("writes into the logits", says="writes into its input")
def in_place():
    def distribution(logits, temperature, top_k):
        logits[np.argsort(-logits)[top_k:]] = -np.inf
        return softmax(logits / temperature)

    return answers(distribution)
