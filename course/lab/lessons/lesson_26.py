"""The checks of lesson 26."""

import numpy as np

import gpulstm as gl
from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function, described
from lab.lesson_26_columns import stranger

NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_l0")


def named(found):
    """A finding: a dict of our three names."""
    if not isinstance(found, dict):
        if found is None or found is ...:
            return look("A dict of three arrays should come back, and nothing comes back yet.")
        return look(f"A dict of three arrays should come back, and it is {described(found)}.")
    missing = [name for name in NAMES if name not in found]
    more = [str(name) for name in found if name not in NAMES]
    if missing or more:
        text = f"{', '.join(missing)} is missing. " if missing else ""
        text += f"{', '.join(sorted(more)[:4])} is none of gpulstm's names. " if more else ""
        return look(f"{text}gpulstm has {', '.join(NAMES)}.")
    return ok("The three names are right.")


# ---- 26.two-biases ----


def pytorch(seed=0, inputs=3, hidden=5):
    rng = np.random.default_rng(seed)
    return {
        "weight_ih_l0": rng.normal(size=(4 * hidden, inputs)),
        "weight_hh_l0": rng.normal(size=(4 * hidden, hidden)),
        "bias_ih_l0": rng.normal(size=4 * hidden),
        "bias_hh_l0": rng.normal(size=4 * hidden),
    }


@exercise("26.two-biases")
def two_biases(ours: Function()):
    """PyTorch's four arrays as our three."""
    theirs = pytorch()
    found = ours(theirs)
    yield must(named(found))
    first, second = theirs["bias_ih_l0"], theirs["bias_hh_l0"]
    for name in NAMES[:2]:
        if close(found[name], theirs[name].T):
            yield look(f"{name} is transposed. PyTorch's shapes are ours.")
            return
        yield must(same(name, found[name], theirs[name], "It is the same array in PyTorch."))
    mistakes = [
        (first, "That is the first of the two biases. The second one pushes the gates just as much."),
        (second, "That is the second of the two biases. The first one pushes the gates just as much."),
        ((first + second) / 2, "That is their mean. How do the two stand in PyTorch's formula?"),
        (np.concatenate([first, second]), "They stand one after the other now. How do they stand in the formula?"),
        (np.stack([first, second]), "They stand beside each other now. How do they stand in the formula?"),
        (first - second, "One is taken away from the other. Both are added to the same weighted sum."),
        (first * second, "They are multiplied. Both are added to the same weighted sum."),
    ]
    for wrong, words in mistakes:
        if close(found["bias_l0"], wrong):
            yield look(f"bias_l0 is not right yet. {words}")
            return
    yield same("bias_l0", found["bias_l0"], first + second, "Both are added to the same weighted sum.")


def renamed(bias):
    def ours(theirs):
        kept = {name: theirs[name] for name in NAMES[:2]}
        return {**kept, "bias_l0": bias(theirs["bias_ih_l0"], theirs["bias_hh_l0"])}

    return answers(ours)


@two_biases.right
def added():
    return renamed(lambda first, second: first + second)


@two_biases.wrong("as they come", says="bias_l0 is missing")
def as_they_come():
    return answers(lambda theirs: dict(theirs))


@two_biases.wrong("the exercise as it stands", says="nothing comes back yet")
def nothing():
    return answers(lambda theirs: ...)


@two_biases.wrong("the first one alone", says="The second one pushes")
def first_alone():
    return renamed(lambda first, second: first)


@two_biases.wrong("their mean", says="That is their mean")
def mean():
    return renamed(lambda first, second: (first + second) / 2)


@two_biases.wrong("one after the other", says="one after the other")
def joined():
    return renamed(lambda first, second: np.concatenate([first, second]))


@two_biases.wrong("a plus between tuples of names", says="should be numbers")
def of_names():
    return renamed(lambda first, second: "bias_ih_l0" + "bias_hh_l0")


@two_biases.wrong("transposed weights", says="is transposed")
def transposed():
    return answers(
        lambda theirs: {
            "weight_ih_l0": theirs["weight_ih_l0"].T,
            "weight_hh_l0": theirs["weight_hh_l0"].T,
            "bias_l0": theirs["bias_ih_l0"] + theirs["bias_hh_l0"],
        }
    )


# ---- 26.same-numbers ----


def reordered(array, order):
    """Four blocks of rows in another order."""
    blocks = np.split(array, 4)
    return np.concatenate([blocks[k] for k in order])


def outputs(params, x):
    """What gpulstm's LSTM with these parameters gives; or the finding that says why they do not fit."""
    hidden = params["weight_hh_l0"].shape[-1]
    lstm = gl.LSTM(x.shape[-1], hidden, dtype="float64", rng=0)
    try:
        lstm.load_state_dict({name: np.asarray(params[name], dtype="float64") for name in NAMES})
    except (ValueError, TypeError) as error:
        return None, look(" ".join(str(error).split())[:250] + ".")
    return lstm(x)[0], None


@exercise("26.same-numbers")
def same_numbers(from_stranger: Function()):
    """The stranger's arrays as our three, judged by the output that comes with the file."""
    file = stranger()
    found = from_stranger(file)
    yield must(named(found))
    for name in NAMES:
        if not isinstance(found[name], np.ndarray) or found[name].dtype.kind != "f":
            yield look(f"{name} should be an array of numbers, and is {described(found[name])}.")
            return
    hidden = file["R"].shape[1]
    if found["weight_hh_l0"].ndim != 2 or found["weight_hh_l0"].shape != file["R"].shape:
        yield look(f"weight_hh_l0 should have the shape {file['R'].shape}: R with its blocks in another order.")
        return
    y, trouble = outputs(found, file["example_x"].astype("float64"))
    if trouble:
        yield trouble
        return
    yield ok("gpulstm takes the arrays: names and shapes fit.")
    gap = np.abs(y - file["example_y"]).max()
    if gap < 1e-6:
        yield ok("On the stranger's example the outputs differ by less than 0.000001.")
    else:
        yield look(f"But the outputs differ, by up to {gap:.2f}. {why(file, found, hidden)}")
        return
    other = stranger(seed=7, sizes=(2, 3), dtype="float64")
    y, trouble = outputs(from_stranger(other), other["example_x"])
    if trouble or not np.abs(y - other["example_y"]).max() < 1e-6:
        yield look("With another file, of 2 inputs and 3 units, it goes wrong. Is a size written down as a number?")
        return
    yield ok("And so it is with a file of other sizes.")


def why(file, found, hidden):
    """What the mistake is, as far as the arrays tell."""
    in_order, inverse = (0, 2, 3, 1), (0, 3, 1, 2)
    first, second = file["B"][: 4 * hidden], file["B"][4 * hidden :]
    right = {"weight_ih_l0": file["W"], "weight_hh_l0": file["R"], "bias_l0": first + second}
    if all(close(found[name], right[name]) for name in right):
        return "The blocks of rows still lie in the stranger's order."
    if all(close(found[name], reordered(right[name], inverse)) for name in NAMES):
        return "That is the way from ours to the stranger's: you need the way back. Where does ours find its f?"
    if close(found["bias_l0"], right["bias_l0"]):
        return "The weights are in another order than the bias: its blocks must move, too."
    if any(close(found["bias_l0"], reordered(part, in_order)) for part in (first, second)):
        return "The bias is only one half of B. What was it about PyTorch's two?"
    unmoved = [name for name in NAMES[:2] if close(found[name], right[name])]
    if unmoved:
        return f"The blocks of {unmoved[0]} still lie in the stranger's order."
    return "Look at the picture: which of the stranger's blocks is our second one, our third, our fourth?"


def solution(order, bias=lambda first, second: first + second, move_bias=True):
    def from_stranger(file):
        hidden = file["R"].shape[1]
        both = bias(file["B"][: 4 * hidden], file["B"][4 * hidden :])
        return {
            "weight_ih_l0": reordered(file["W"], order),
            "weight_hh_l0": reordered(file["R"], order),
            "bias_l0": reordered(both, order) if move_bias else both,
        }

    return answers(from_stranger)


@same_numbers.right
def moved():
    return solution((0, 2, 3, 1))


@same_numbers.wrong("as they lie", says="still lie in the stranger's order")
def unmoved():
    return solution((0, 1, 2, 3))


@same_numbers.wrong("the way there instead of back", says="the way back")
def way_there():
    return solution((0, 3, 1, 2))


@same_numbers.wrong("the bias stays", says="must move, too")
def bias_stays():
    return solution((0, 2, 3, 1), move_bias=False)


@same_numbers.wrong("half of the bias", says="one half of B")
def half():
    return solution((0, 2, 3, 1), bias=lambda first, second: first)


@same_numbers.wrong("all of B", says="bias_l0 must have shape")
def all_of_b():
    def from_stranger(file):
        weights = solution((0, 2, 3, 1)).positional[0](file)
        return {**weights, "bias_l0": file["B"]}

    return answers(from_stranger)


@same_numbers.wrong("f and o exchanged alone", says="which of the stranger's blocks")
def exchanged():
    return solution((0, 2, 1, 3))


@same_numbers.wrong("transposed", says="weight_hh_l0 should have the shape")
def turned():
    def from_stranger(file):
        right = solution((0, 2, 3, 1)).positional[0](file)
        return {name: value.T for name, value in right.items()}

    return answers(from_stranger)


@same_numbers.wrong("a size as a number", says="Is a size written down")
def fixed_size():
    def from_stranger(file):
        both = file["B"][:16] + file["B"][16:] if file["B"].size == 32 else file["B"][:12] + 0
        arrays = {"weight_ih_l0": file["W"], "weight_hh_l0": file["R"], "bias_l0": both}
        return {name: reordered(value, (0, 2, 3, 1)) for name, value in arrays.items()}

    return answers(from_stranger)


@same_numbers.wrong("the exercise as it stands", says="nothing comes back yet")
def still_empty():
    return answers(lambda file: ...)
