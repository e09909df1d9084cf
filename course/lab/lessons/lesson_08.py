"""The check of lesson 08."""

import numpy as np

import gpulstm as gl
from lab.exercises import answers, close, exercise, look, ok, same
from lab.kinds import Function


def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


def example(lengths, *, steps=5, inputs=3, hidden=4, zero_state=False):
    """Arguments of forward() for random numbers."""
    rng = np.random.default_rng(len(lengths))
    x = rng.normal(size=(steps, len(lengths), inputs))
    h, c = rng.uniform(-1, 1, size=(2, len(lengths), hidden)) * (0 if zero_state else 1)
    weights = rng.normal(size=(4 * hidden, inputs)), rng.normal(size=(4 * hidden, hidden)), rng.normal(size=4 * hidden)
    return x, h, c, np.array(lengths), *weights


def wanted_from(x, h, c, lengths, weight_ih, weight_hh, bias):
    """y, h and c of gl.LSTM."""
    lstm = gl.LSTM(x.shape[2], h.shape[1], dtype="float64")
    lstm.load_state_dict({"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh, "bias_l0": bias})
    y, state = lstm(x, (h[None], c[None]), lengths=lengths)
    return y, state.h[0], state.c[0]


def passed(
    x,
    h,
    c,
    lengths,
    weight_ih,
    weight_hh,
    bias,
    *,
    order="ifgo",
    silence=True,
    keep="hc",
    late=0,
    zero=False,
    from_zeros=False,
):
    """The loop; the options make the mistakes that the check knows."""
    if from_zeros:
        h, c = np.zeros_like(h), np.zeros_like(c)
    outputs = []
    for t in range(len(x)):
        a = x[t] @ weight_ih.T + h @ weight_hh.T + bias
        named = dict(zip(order, np.split(a, 4, axis=1), strict=True))
        c_new = sigmoid(named["f"]) * c + sigmoid(named["i"]) * np.tanh(named["g"])
        h_new = sigmoid(named["o"]) * np.tanh(c_new)
        running = (t < lengths + late)[:, None]
        outputs.append(np.where(running, h_new, 0.0) if silence else h_new)
        h = np.where(running, h_new, 0.0 if zero else h) if "h" in keep else h_new
        c = np.where(running, c_new, 0.0 if zero else c) if "c" in keep else c_new
    return np.stack(outputs), h, c


def mistakes(*given):
    """Pairs of the y, h and c that come out of a known mistake, and what to look at."""
    x, h, c, lengths, *weights = given
    right = passed(*given)
    everything = np.full_like(lengths, len(x))
    yield passed(*given, from_zeros=True), "It starts from zeros. Start from the h and c that you are given."
    yield passed(x, h, c, everything, *weights), "It runs on over the padding. What is over keeps its states."
    yield passed(*given, keep=""), "The output is silent after the end, but the states go on changing."
    yield passed(*given, keep="h"), "h stays after the end, but c goes on changing."
    yield passed(*given, keep="c"), "c stays after the end, but h goes on changing."
    yield passed(*given, silence=False), "The states are right, but y is not zero where a sequence is over."
    still = np.stack([right[0][min(t, n - 1), k] if n else h[k] for t in range(len(x)) for k, n in enumerate(lengths)])
    words = "The states are right, but y repeats the last h after the end. It should be zero there."
    yield (still.reshape(right[0].shape), *right[1:]), words
    yield passed(*given, late=1), "Each sequence runs one step too long. Step t runs if t < length: the first one is 0."
    yield passed(*given, late=-1), "Each sequence stops one step too early. Step t runs if t < length."
    yield passed(*given, zero=True), "The states become zero at the end. They should stay as they are."
    yield (right[0], right[0][-1], right[2]), "y is right, but the final h is y[-1]: zero for all that are over."
    yield (right[0], right[2], right[1]), "The final h and c are exchanged."
    no_bias = passed(x, h, c, lengths, *weights[:2], np.zeros_like(weights[2]))
    yield no_bias, "The bias is missing."
    yield passed(*given, order="ifog"), "The four parts come in the order i, f, g, o."


STAGES = (
    ("without padding", example((5, 5), zero_state=True)),
    ("from an initial state", example((5, 5, 5))),
    ("with lengths", example((3, 5, 1, 4))),
    ("with a sequence of length 0", example((2, 0, 5, 3, 1))),
)


def all_close(found, wanted):
    return all(close(one, other) for one, other in zip(found, wanted, strict=True))


def shape_trouble(y, wanted):
    """What is wrong with y before its values are."""
    if isinstance(y, list | tuple):
        return "y is a list of outputs. np.stack(y) makes an array (time, batch, hidden) of it."
    shape = getattr(y, "shape", None)
    time, batch, hidden = wanted.shape
    if shape == (batch, time, hidden) != (time, batch, hidden):
        return "y is (batch, time, hidden). Here time comes first."
    if shape == (batch, hidden):
        return "y holds one step alone. It should hold the outputs of all steps, (time, batch, hidden)."
    return ""


@exercise("08.forward")
def forward_pass(forward: Function()):
    """The loop over time, from an initial state, with lengths; like gl.LSTM."""
    for name, given in STAGES:
        result = forward(*given)
        if not isinstance(result, tuple | list) or len(result) != 3:
            yield look("forward() should return three arrays: return y, h, c.")
            return
        wanted = wanted_from(*given)
        trouble = shape_trouble(result[0], wanted[0])
        if all_close(result, wanted) and not trouble:
            yield ok(f"A batch {name}: equal to gl.LSTM.")
            continue
        for wrong, words in mistakes(*given):
            if not trouble and all_close(result, wrong):
                trouble = words
        if trouble:
            yield look(f"A batch {name}: not right yet. {trouble}")
            return
        for letter, found, want in zip(("y", "the final h", "the final c"), result, wanted, strict=True):
            finding = same(f"A batch {name}: {letter}", found, want)
            if not finding.right:
                yield finding
                return


@forward_pass.right
def as_in_the_solution():
    return answers(passed)


@forward_pass.right
def with_the_library():
    return answers(lambda *given: wanted_from(*given))


@forward_pass.right
def with_the_product_before_the_loop():
    def forward(x, h, c, lengths, weight_ih, weight_hh, bias):
        y, hidden = np.zeros((*x.shape[:2], h.shape[1])), h.shape[1]
        h, c, a_x = h.copy(), c.copy(), x @ weight_ih.T + bias
        for t in range(len(x)):
            on = lengths > t
            i, f, g, o = (a_x[t, on] + h[on] @ weight_hh.T).reshape(-1, 4, hidden).swapaxes(0, 1)
            c[on] = sigmoid(f) * c[on] + sigmoid(i) * np.tanh(g)
            h[on] = y[t, on] = sigmoid(o) * np.tanh(c[on])
        return y, h, c

    return answers(forward)


@forward_pass.wrong("as it stands", says="y is Ellipsis")
def empty():
    return answers(lambda x, h, c, *others: (..., h, c))


@forward_pass.wrong("no lengths", says="runs on over the padding")
def no_lengths():
    return answers(lambda x, h, c, lengths, *weights: passed(x, h, c, np.full_like(lengths, len(x)), *weights))


@forward_pass.wrong("starts from zeros", says="It starts from zeros")
def zeros():
    return answers(lambda *given: passed(*given, from_zeros=True))


@forward_pass.wrong("the output alone is masked", says="the states go on changing")
def output_alone():
    return answers(lambda *given: passed(*given, keep=""))


@forward_pass.wrong("c is not masked", says="c goes on changing")
def c_runs_on():
    return answers(lambda *given: passed(*given, keep="h"))


@forward_pass.wrong("h is not masked", says="h goes on changing")
def h_runs_on():
    return answers(lambda *given: passed(*given, keep="c"))


@forward_pass.wrong("the output is not masked", says="y is not zero where")
def loud():
    return answers(lambda *given: passed(*given, silence=False))


@forward_pass.wrong("the masked h as output", says="repeats the last h")
def repeats():
    def forward(x, h, c, lengths, *weights):
        y, final_h, final_c = passed(x, h, c, lengths, *weights)
        for t in range(len(x)):
            y[t] = np.where((t < lengths)[:, None], y[t], y[t - 1] if t else h)
        return y, final_h, final_c

    return answers(forward)


@forward_pass.wrong("one step too long", says="one step too long")
def too_long():
    return answers(lambda *given: passed(*given, late=1))


@forward_pass.wrong("states wiped out", says="The states become zero")
def wiped():
    return answers(lambda *given: passed(*given, zero=True))


@forward_pass.wrong("the last output as final h", says="the final h is y[-1]")
def last_output():
    def forward(*given):
        y, _, c = passed(*given)
        return y, y[-1], c

    return answers(forward)


@forward_pass.wrong("a list of outputs", says="np.stack")
def a_list():
    def forward(*given):
        y, h, c = passed(*given)
        return list(y), h, c

    return answers(forward)


@forward_pass.wrong("batch first", says="Here time comes first")
def batch_first():
    def forward(*given):
        y, h, c = passed(*given)
        return y.swapaxes(0, 1), h, c

    return answers(forward)


@forward_pass.wrong("the last step alone", says="one step alone")
def last_step():
    return answers(lambda *given: (passed(*given)[1], *passed(*given)[1:]))


@forward_pass.wrong("no bias", says="The bias is missing")
def no_bias():
    return answers(lambda *given: passed(*given[:-1], np.zeros_like(given[-1])))


@forward_pass.wrong("weights not transposed", says="raised ValueError")
def not_transposed():
    return answers(lambda x, h, c, lengths, weight_ih, *others: x[0] @ weight_ih)


@forward_pass.wrong("writes into the initial state", says="writes into its input")
def in_place():
    def forward(x, h, c, lengths, *weights):
        y, h[...], c[...] = passed(x, h, c, lengths, *weights)
        return y, h, c

    return answers(forward)


@forward_pass.wrong("forgets the states", says="should return three arrays")
def y_alone():
    return answers(lambda *given: passed(*given)[0])
