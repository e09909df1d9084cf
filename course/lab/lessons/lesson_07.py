"""The checks of lesson 07."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Array, Function
from lab.sentence import PARAMS, VECTORS, trace


def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


# ---- 07.cell ----


def step(x, h, c, weight, bias, *, order="ifgo", sums=None, squash=sigmoid):
    """h and c after one step; the options make the mistakes that the check knows."""
    a = weight @ np.concatenate([h, x]) + bias if sums is None else sums
    named = dict(zip(order, np.split(a, 4), strict=True))
    i, f, o = (squash(named[name]) for name in "ifo")
    c_new = f * c + i * np.tanh(named["g"])
    return o * np.tanh(c_new), c_new


def mistakes(x, h, c, weight, bias):
    """Pairs of the h and c that come out of a known mistake, and what to look at."""
    hx = np.concatenate([h, x])
    right_h, right_c = step(x, h, c, weight, bias)
    a_i, a_f, a_g, a_o = np.split(weight @ hx + bias, 4)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    yield (right_c, right_h), "h and c are exchanged: the new h is returned first."
    crossed = step(x, h, c, weight, bias, sums=weight @ np.concatenate([x, h]) + bias)
    yield crossed, "x lies on top of h. The matrix belongs to [h, x], with h first."
    yield step(x, h, c, weight, bias, sums=weight @ hx), "The bias is missing."
    for order in ("ifog", "figo", "igfo", "gifo", "fgio", "fiog"):
        words = f"The parts are taken in the order {', '.join(order)}. It is i, f, g, o."
        yield step(x, h, c, weight, bias, order=order), words
    yield (o * np.tanh(c), right_c), "c is right, but h is made of the old c."
    yield (o * right_c, right_c), "c is right, but the tanh is missing in h."
    yield (np.tanh(right_c), right_c), "c is right, but all of it is shown: the output gate is missing in h."
    bare = f * c + i * a_g
    yield (o * np.tanh(bare), bare), "The candidate is still a weighted sum. What comes around it?"
    soft = f * c + i * sigmoid(a_g)
    yield (o * np.tanh(soft), soft), "The candidate has a tanh, the three gates have a sigmoid."
    kept = c + i * g
    yield (o * np.tanh(kept), kept), "All of the old c is kept: the forget gate is missing."
    forgot = i * g
    yield (o * np.tanh(forgot), forgot), "Nothing of the old c is kept. Where is f * c?"
    swapped = i * c + f * g
    yield (o * np.tanh(swapped), swapped), "f belongs to the old c, and i to the candidate."


def example(inputs, hidden):
    rng = np.random.default_rng(inputs + 10 * hidden)
    x, h, c = rng.normal(size=inputs), rng.uniform(-1, 1, hidden), rng.normal(size=hidden)
    return x, h, c, rng.normal(size=(4 * hidden, hidden + inputs)), rng.normal(size=4 * hidden)


def joined():
    return np.concatenate([PARAMS["weight_hh"], PARAMS["weight_ih"]], axis=1)


def look_at_matrix(weight):
    if close(weight, joined()):
        return ok("weight is our cell's matrix on [h, x].")
    if close(weight, np.concatenate([PARAMS["weight_ih"], PARAMS["weight_hh"]], axis=1)):
        return look("weight has the columns of x on the left. In [h, x] h comes first, so its columns do.")
    if weight.shape != (8, 5):
        return look(f"weight should have the shape (8, 5), and has {weight.shape}. Put the two matrices side by side.")
    return look("weight is not our cell's matrix: weight_hh on the left, weight_ih on the right.")


@exercise("07.cell")
def whole_cell(weight: Array(), cell: Function()):
    """The joined matrix, and one step on [h, x]."""
    yield look_at_matrix(weight)
    ours = (VECTORS[1], trace()["h"][0], trace()["c"][0], joined(), PARAMS["bias"])
    cases = [("the step from John to likes", ours), ("4 features, 3 units", example(4, 3))]
    for name, given in [*cases, ("1 feature, 5 units", example(1, 5))]:
        result = cell(*given)
        if not isinstance(result, tuple | list) or len(result) != 2:
            yield look("cell() should return two arrays, the new h and the new c: return h_new, c_new.")
            return
        wanted = step(*given)
        right = all(close(found, want) for found, want in zip(result, wanted, strict=True))
        if not right:
            for wrong, words in mistakes(*given):
                if all(close(found, one) for found, one in zip(result, wrong, strict=True)):
                    yield look(f"cell() is not right yet. {words}")
                    return
        for letter, found, want in zip("hc", result, wanted, strict=True):
            yield must(same(f"{letter} of cell(), {name},", found, want))


@whole_cell.right
def as_in_the_solution():
    return answers(joined(), lambda x, h, c, weight, bias: step(x, h, c, weight, bias))


@whole_cell.right
def cut_into_two():
    def cell(x, h, c, weight, bias):
        H = len(h)
        a = weight[:, :H] @ h + weight[:, H:] @ x + bias
        i, f, g, o = a.reshape(4, H)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return [sigmoid(o) * np.tanh(c), c]

    return answers(joined(), cell)


def wrong_in(number):
    """A cell that makes one of the mistakes."""
    return answers(joined(), lambda *given: list(mistakes(*given))[number][0])


@whole_cell.wrong("as it stands", says="weight is still empty")
def empty():
    return answers(..., lambda x, h, c, weight, bias: (..., ...))


@whole_cell.wrong("only the matrix", says="nothing was returned")
def matrix_only():
    return answers(joined(), lambda x, h, c, weight, bias: (..., ...))


@whole_cell.wrong("the matrix the other way round", says="h comes first, so its columns do")
def matrix_crossed():
    return answers(np.concatenate([PARAMS["weight_ih"], PARAMS["weight_hh"]], axis=1), step)


@whole_cell.wrong("the matrices below each other", says="side by side")
def matrix_below():
    return answers(np.concatenate([PARAMS["weight_ih"].T, PARAMS["weight_hh"].T]), step)


@whole_cell.wrong("c and h exchanged", says="the new h is returned first")
def exchanged():
    return wrong_in(0)


@whole_cell.wrong("[x, h]", says="x lies on top of h")
def crossed():
    return wrong_in(1)


@whole_cell.wrong("no bias", says="The bias is missing")
def no_bias():
    return wrong_in(2)


@whole_cell.wrong("another order of the gates", says="It is i, f, g, o")
def other_order():
    return wrong_in(3)


@whole_cell.wrong("the old c in h", says="made of the old c")
def old_c():
    return answers(joined(), lambda x, h, c, w, b: (old_h(x, h, c, w, b), step(x, h, c, w, b)[1]))


def old_h(x, h, c, weight, bias):
    return sigmoid(np.split(weight @ np.concatenate([h, x]) + bias, 4)[3]) * np.tanh(c)


@whole_cell.wrong("no tanh in h", says="the tanh is missing in h")
def no_tanh():
    return wrong_in(10)


@whole_cell.wrong("the sizes of our cell written in", says="raised ValueError")
def fixed_sizes():
    return answers(joined(), lambda x, h, c, w, b: step(x[:3], h[:2], c[:2], w, b))


@whole_cell.wrong("forgets to return c", says="should return two arrays")
def only_h():
    return answers(joined(), lambda *given: step(*given)[0])


# ---- 07.count ----


@exercise("07.count")
def count_parameters(count: Function()):
    """4H(I + H + 1)."""
    for inputs, hidden in [(3, 2), (7, 5), (1, 16)]:
        found, wanted = count(inputs, hidden), 4 * hidden * (inputs + hidden + 1)
        known = {
            4 * hidden * (inputs + hidden): "That counts the weights. Each row also has a bias.",
            4
            * hidden
            * (inputs + hidden + 2): "That counts two biases for each row, as PyTorch has them. Here there is one.",
            hidden * (inputs + hidden + 1): "That counts one block of rows. There are four: i, f, g, o.",
            3 * hidden * (inputs + hidden + 1): "That counts the three gates. The candidate has weights, too.",
            4 * hidden * (inputs + hidden) + 1: "That counts a single bias. Each row has one of its own.",
            4 * hidden * (inputs + hidden) + hidden: "That counts the bias of one block. There are four blocks.",
            4 * hidden * (inputs + 1): "That counts only the weights on x, and the bias. What of those on h?",
            4 * inputs * (inputs + hidden + 1): "There are 4H rows: H and I are exchanged.",
        }
        for number, words in known.items():
            if number != wanted and close(found, number):
                yield look(f"For I = {inputs} and H = {hidden} you count {number}. {words}")
                return
        yield must(same(f"count({inputs}, {hidden})", found, wanted, "How many rows are there, and how long is each?"))


@count_parameters.right
def formula():
    return answers(lambda inputs, hidden: 4 * hidden * (inputs + hidden + 1))


@count_parameters.right
def by_the_arrays():
    return answers(lambda inputs, hidden: 4 * hidden * inputs + 4 * hidden * hidden + 4 * hidden)


@count_parameters.wrong("as it stands", says="nothing was returned")
def count_empty():
    return answers(lambda inputs, hidden: ...)


@count_parameters.wrong("no bias", says="Each row also has a bias")
def count_no_bias():
    return answers(lambda inputs, hidden: 4 * hidden * (inputs + hidden))


@count_parameters.wrong("two biases", says="as PyTorch has them")
def count_two_biases():
    return answers(lambda inputs, hidden: 4 * hidden * (inputs + hidden + 2))


@count_parameters.wrong("one gate", says="There are four")
def count_one_gate():
    return answers(lambda inputs, hidden: hidden * (inputs + hidden + 1))


@count_parameters.wrong("three gates", says="The candidate has weights, too")
def count_three_gates():
    return answers(lambda inputs, hidden: 3 * hidden * (inputs + hidden + 1))


@count_parameters.wrong("no weights on h", says="What of those on h")
def count_no_h():
    return answers(lambda inputs, hidden: 4 * hidden * (inputs + 1))


@count_parameters.wrong("our cell's number", says="count(7, 5)")
def count_constant():
    return answers(lambda inputs, hidden: 48)
