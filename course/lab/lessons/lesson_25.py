"""The checks of lesson 25."""

import numpy as np

from lab.exercises import answers, exercise, look, must, ok
from lab.kinds import Function

GATES = ("input", "forget", "candidate", "output")
HIDDEN = 3


def layer():
    import gpulstm as gl

    return gl.LSTM(2, HIDDEN, dtype="float64", rng=5)


def sigmoid(x):
    return 0.5 * np.tanh(0.5 * x) + 0.5


def look_at_gate(lstm, before: dict, gate: str):
    """What is right or wrong after `gate` was held open."""
    if any(lstm.params[name].shape != array.shape for name, array in before.items()):
        return look("The parameters should keep their shapes: write into rows of them.")
    here = GATES.index(gate) * HIDDEN
    rows = slice(here, here + HIDDEN)
    if all(np.array_equal(lstm.params[name], array) for name, array in before.items()):
        return look(f"Nothing in lstm.params has changed for the {gate} gate: write into its arrays.")
    for other, name in enumerate(GATES):
        theirs = slice(other * HIDDEN, (other + 1) * HIDDEN)
        if name != gate and any(not np.array_equal(lstm.params[k][theirs], a[theirs]) for k, a in before.items()):
            return look(
                f"For the {gate} gate, rows of another ({name}) were changed too. The order of the rows is i, f, g, o."
            )
    weights = [lstm.params[name][rows] for name in ("weight_ih_l0", "weight_hh_l0")]
    if any(np.any(weight != 0) for weight in weights):
        return look("The gate still listens to x or to h: which of its weights are not 0?")
    value = sigmoid(lstm.params["bias_l0"][rows])
    if value.max() < 0.01:
        return look("This gate is shut, not open: which sign has a bias that drives the sigmoid to 1?")
    if value.min() < 0.999:
        return look(f"The gate is {value.min():.2f}, not 1: the bias goes through the sigmoid first.")
    if (value * (1 - value)).max() > 1e-9:
        return look(
            "The gate is nearly 1, but the sigmoid still has a slope there, and training will move it: go further out."
        )
    return ok(f"The {gate} gate is 1, whatever it reads, and its slope is 0. The other gates are as they were.")


@exercise("25.hold-open")
def hold_open(hold_open: Function()):
    """Write a gate open for good."""
    for gate in ("input", "forget", "output"):
        lstm = layer()
        before = {name: array.copy() for name, array in lstm.params.items()}
        hold_open(lstm, gate)
        yield must(look_at_gate(lstm, before, gate))


def holder(bias=50.0, *, order=GATES, names=("weight_ih_l0", "weight_hh_l0")):
    def hold_open(lstm, gate):
        hidden = len(lstm.params["bias_l0"]) // 4
        first = order.index(gate) * hidden
        for name in names:
            lstm.params[name][first : first + hidden] = 0.0
        lstm.params["bias_l0"][first : first + hidden] = bias

    return answers(hold_open)


@hold_open.right
def far_out():
    return holder()


@hold_open.right
def further_out():
    return holder(1000.0)


@hold_open.wrong("as it stands", says="Nothing in lstm.params has changed")
def as_it_stands():
    return answers(lambda lstm, gate: None)


@hold_open.wrong("a bias of 1", says="through the sigmoid first")
def bias_of_one():
    return holder(1.0)


@hold_open.wrong("shut", says="shut, not open")
def shut():
    return holder(-50.0)


@hold_open.wrong("not far enough", says="still has a slope")
def near():
    return holder(10.0)


@hold_open.wrong("the weights are left", says="still listens")
def bias_only():
    return holder(names=())


@hold_open.wrong("the recurrent weights are left", says="still listens")
def hears_h():
    return holder(names=("weight_ih_l0",))


@hold_open.wrong("i, f, o, g", says="The order of the rows is i, f, g, o")
def other_order():
    return holder(order=("input", "forget", "output", "candidate"))


@hold_open.wrong("all gates", says="The order of the rows is i, f, g, o")
def everything():
    def hold_open(lstm, gate):
        for array in lstm.params.values():
            array[:] = 50.0

    return answers(hold_open)


@hold_open.wrong("a copy was changed", says="write into its arrays")
def copy_changed():
    def hold_open(lstm, gate):
        first = GATES.index(gate) * HIDDEN
        bias = lstm.params["bias_l0"].copy()
        bias[first : first + HIDDEN] = 50.0

    return answers(hold_open)


ERRORS = {
    "full": [1.0, 2.0, 3.0],
    "a little worse": [2.5, 2.9, 3.2],
    "worse": [2.8, 4.0, 90.0],
    "one wild seed": [0.9, 1.0, 60.0],
    "better": [0.5, 0.6, 0.7],
    "worst": [3.2, 9.0, 40.0],
}
WANTED = ["worst", "worse"]


@exercise("25.rank")
def rank(rank: Function()):
    """The variants whose middle seed is worse than the full LSTM's worst, the worst first."""
    said = rank(ERRORS)
    if not isinstance(said, list | tuple) or not all(isinstance(name, str) for name in said):
        yield look("rank should return a list of names.")
        return
    names = list(said)
    if "full" in names:
        yield look("The full LSTM itself is in the list. It is what the others are compared with.")
    elif "better" in names:
        yield look("Here is one whose errors are all *smaller* than the full LSTM's.")
    elif "one wild seed" in names:
        yield look("Here is one that is good but for one wild seed. The mean is moved by it, the median is not.")
    elif "a little worse" in names:
        yield look("Here is one whose median lies inside the range of the full LSTM: that may be the luck of a seed.")
    elif sorted(names) != sorted(WANTED):
        yield look("Of the made-up errors of this check, some are missing whose median is above the full LSTM's worst.")
    elif names != WANTED:
        yield look("The right names, but the one with the largest median should come first.")
    else:
        yield ok("Beyond the luck of a seed, and the worst first.")
        other = list(rank({"full": [5.0, 6.0, 7.0], "open": [5.5, 6.5, 9.0]}))
        yield ok("And none where the seeds overlap.") if other == [] else look("Where all overlap, the list is empty.")


def missed(errors, *, limit=max, middle=np.median, reverse=True, key=np.median):
    border = limit(errors["full"])
    names = [name for name, seeds in errors.items() if name != "full" and middle(seeds) > border]
    return sorted(names, key=lambda name: key(errors[name]), reverse=reverse)


@rank.right
def beyond_the_seeds():
    return answers(missed)


@rank.wrong("as it stands", says="some are missing")
def no_names():
    return answers(lambda errors: [])


@rank.wrong("all of them", says="The full LSTM itself")
def all_names():
    return answers(lambda errors: sorted(errors, key=lambda name: np.median(errors[name]), reverse=True))


@rank.wrong("without the full one", says="*smaller*")
def others():
    def rank(errors):
        return sorted(set(errors) - {"full"}, key=lambda name: np.median(errors[name]), reverse=True)

    return answers(rank)


@rank.wrong("means instead of medians", says="one wild seed")
def means():
    return answers(lambda errors: missed(errors, middle=np.mean))


@rank.wrong("median against median", says="inside the range of the full LSTM")
def against_the_median():
    return answers(lambda errors: missed(errors, limit=np.median))


@rank.wrong("the best seed against the worst", says="some are missing")
def best_against_worst():
    return answers(lambda errors: missed(errors, middle=min))


@rank.wrong("the best first", says="largest median should come first")
def upwards():
    return answers(lambda errors: missed(errors, reverse=False))


@rank.wrong("in the order of the means", says="largest median should come first")
def by_mean():
    return answers(lambda errors: missed(errors, key=np.mean))


@rank.wrong("numbers instead of names", says="list of names")
def numbers_only():
    return answers(lambda errors: [np.median(seeds) for seeds in errors.values()])
