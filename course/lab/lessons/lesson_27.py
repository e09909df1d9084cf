"""The checks of lesson 27, the same for every layer that a learner may think of."""

import numpy as np

from lab import lesson_27_rubric as rubric
from lab.exercises import answers, exercise, look, must
from lab.kernels import KernelError
from lab.kinds import Function, Number, Text
from lab.lesson_12_launching import build, told


def whole(gates: float) -> int:
    if gates != int(gates) or not 1 <= gates <= 8:
        must(look(f"shapes: GATES should be a whole number from 1 to 8, and is {gates:g}."))
    return int(gates)


@exercise("27.calculus")
def calculus(GATES: Number(), forward: Function(), backward: Function()):  # noqa: N803
    """Forward and backward of a step: whatever it is, it must be whole, sound, its own, and rightly differentiated."""
    gates = whole(GATES)
    yield must(rubric.shapes(gates, forward, backward))
    yield must(rubric.every_gate(gates, forward))
    yield must(rubric.memory(gates, forward))
    yield rubric.in_range(gates, forward)
    yield rubric.own(gates, forward)
    yield rubric.gradient(gates, forward, backward)


@exercise("27.kernel")
def kernel(GATES: Number(), forward: Function(), kernel_source: Text()):  # noqa: N803
    """The kernel of the step: as forward, without a mistake of any thread, and with no byte too many."""
    gates = whole(GATES)
    built = build(kernel_source, "kernel_source")
    try:
        yield from rubric.findings_of(built, gates, forward)
    except KernelError as error:
        yield look(f"bounds and races: {told(*error.findings)}")


# ---- examples ----

sigmoid = rubric.sigmoid


def coupled(a, c):
    f, g, o = np.split(a, 3, axis=1)
    f, g, o = sigmoid(f), np.tanh(g), sigmoid(o)
    c_next = f * c + (1 - f) * g
    return o * np.tanh(c_next), c_next


def coupled_back(a, c, dh, dc, along=1.0, down=1.0, sign=1.0, slope=True):
    f, g, o = np.split(a, 3, axis=1)
    f, g, o = sigmoid(f), np.tanh(g), sigmoid(o)
    shown = np.tanh(f * c + (1 - f) * g)
    dc_next = along * dc + down * dh * o * (1 - shown**2)
    da_f = dc_next * (c - g) * (f * (1 - f) if slope else 1)
    da_g = dc_next * (1 - f) * (1 - g**2)
    da_o = down * dh * shown * o * (1 - o)
    return sign * np.concatenate([da_f, da_g, da_o], axis=1), sign * dc_next * f


def minimal(a, c):
    f, g = np.split(a, 2, axis=1)
    c_next = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(g)
    return c_next, c_next.copy()


def minimal_back(a, c, dh, dc):
    f, g = np.split(a, 2, axis=1)
    f, g = sigmoid(f), np.tanh(g)
    both = dh + dc
    return np.concatenate([both * (c - g) * f * (1 - f), both * (1 - f) * (1 - g**2)], axis=1), both * f


def lstm_back(a, c, dh, dc):
    i, f, g, o = np.split(a, 4, axis=1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    shown = np.tanh(f * c + i * g)
    d = dc + dh * o * (1 - shown**2)
    da = [d * g * i * (1 - i), d * c * f * (1 - f), d * i * (1 - g**2), dh * shown * o * (1 - o)]
    return np.concatenate(da, axis=1), d * f


HEAD = """
extern "C" __global__ void layer_step(
        const float* a, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
"""
COUPLED = (
    HEAD
    + """
    const float* mine = a + index / hidden * 3 * hidden + index % hidden;
    float f = 1.0f / (1.0f + expf(-mine[0]));
    float g = tanhf(mine[hidden]);
    float o = 1.0f / (1.0f + expf(-mine[2 * hidden]));
    float cell = f * c[index] + (1.0f - f) * g;
    c_next[index] = cell;
    h[index] = o * tanhf(cell);
}
"""
)
MINIMAL = (
    HEAD
    + """
    const float* mine = a + index / hidden * 2 * hidden + index % hidden;
    float f = 1.0f / (1.0f + expf(-mine[0]));
    float cell = f * c[index] + (1.0f - f) * tanhf(mine[hidden]);
    c_next[index] = cell;
    h[index] = cell;
}
"""
)


@calculus.right
def coupled_gates():
    return answers(3, coupled, coupled_back)


@calculus.right
def minimal_gates():
    return answers(2, minimal, minimal_back)


@calculus.wrong("as it stands", says="shapes: the first result of forward(a, c) is still empty")
def untouched():
    return answers(3, lambda a, c: (..., ...), lambda a, c, dh, dc: (..., ...))


@calculus.wrong("only h is returned", says="forward(a, c) should return two arrays")
def one_result():
    return answers(3, lambda a, c: coupled(a, c)[0], coupled_back)


@calculus.wrong("only forward", says="backward(a, c, dh, dc) should return two arrays")
def only_forward():
    return answers(3, coupled, lambda a, c, dh, dc: ...)


@calculus.wrong("the LSTM itself", says="own: these are the LSTM's own numbers")
def the_lstm():
    return answers(4, rubric.lstm_forward, lstm_back)


@calculus.wrong("what comes along the lane is forgotten", says="right, if dc were zero")
def no_lane():
    return answers(3, coupled, lambda *given: coupled_back(*given, along=0.0))


@calculus.wrong("h's blame is forgotten", says="right, if dh were zero")
def no_show():
    return answers(3, coupled, lambda *given: coupled_back(*given, down=0.0))


@calculus.wrong("a slope is missing", says="gradient: wrong is gate 0 of da; everything else agrees")
def no_slope():
    return answers(3, coupled, lambda *given: coupled_back(*given, slope=False))


@calculus.wrong("h and c_next in the other order", says="right, if h and c_next changed places")
def other_order():
    return answers(3, lambda a, c: coupled(a, c)[::-1], coupled_back)


@calculus.wrong("all signs", says="every sign is the wrong way round")
def signs():
    return answers(3, coupled, lambda *given: coupled_back(*given, sign=-1.0))


@calculus.wrong("the input gate's share is forgotten", says="gradient: wrong is gate 0 of da")
def only_the_old_way():
    def back(a, c, dh, dc):
        da, dc_before = coupled_back(a, c, dh, dc)
        f, g, o = np.split(a, 3, axis=1)
        rest = da.copy()
        rest[:, : c.shape[1]] *= c / (c - np.tanh(g))
        return rest, dc_before

    return answers(3, coupled, back)


@calculus.wrong("overflows", says="range: with all of a at -1000 NumPy warns")
def overflows():
    def forward(a, c):
        f, g = np.split(a, 2, axis=1)
        f = 1 / (1 + np.exp(-f))
        c_next = f * c + (1 - f) * np.tanh(g)
        return c_next, c_next

    return answers(2, forward, minimal_back)


@calculus.wrong("a gate too many", says="gate 2 of a, columns 8 to 11 of 12, changes neither h nor c_next")
def too_many():
    def back(a, c, dh, dc):
        h = c.shape[1]
        da, dc_before = minimal_back(a[:, : 2 * h], c, dh, dc)
        return np.concatenate([da, 0 * c], axis=1), dc_before

    return answers(3, lambda a, c: minimal(a[:, : 2 * c.shape[1]], c), back)


@calculus.wrong("gates interleaved", says="Gates lie one after the other")
def interleaved():
    def sorted_(a, c):
        return np.concatenate([a[:, k::3] for k in range(3)], axis=1)

    def back(a, c, dh, dc):
        da, dc_before = coupled_back(sorted_(a, c), c, dh, dc)
        return np.stack(np.split(da, 3, axis=1), axis=2).reshape(a.shape), dc_before

    return answers(3, lambda a, c: coupled(sorted_(a, c), c), back)


@calculus.wrong("no memory", says="this layer forgets everything")
def forgetful():
    def forward(a, c):
        return np.tanh(a), np.tanh(a)

    return answers(1, forward, lambda a, c, dh, dc: ((dh + dc) * (1 - np.tanh(a) ** 2), 0 * c))


@calculus.wrong("h and c in one", says="the first result of forward(a, c) should have the shape (3, 4), and has (3, 8)")
def stacked():
    return answers(2, lambda a, c: (np.concatenate(minimal(a, c), axis=1), c), minimal_back)


@calculus.wrong("half a gate", says="GATES should be a whole number")
def half():
    return answers(2.5, minimal, minimal_back)


@kernel.right
def coupled_kernel():
    return answers(3, coupled, COUPLED)


@kernel.right
def minimal_kernel():
    return answers(2, minimal, MINIMAL)


@kernel.wrong("as it stands", says="h holds what it held before")
def untouched_kernel():
    return answers(3, coupled, HEAD + "}\n")


@kernel.wrong("no forward yet", says="there is nothing to compare the kernel with")
def no_forward():
    return answers(3, lambda a, c: ..., COUPLED)


@kernel.wrong("no guard", says="bounds and races: Line")
def no_guard():
    return answers(3, coupled, COUPLED.replace("    if (index >= n) return;\n", ""))


@kernel.wrong("the LSTM's four gates", says="reads a[48], and a has 45 elements")
def four_gates():
    return answers(3, coupled, COUPLED.replace("index / hidden * 3 *", "index / hidden * 4 *"))


@kernel.wrong("another order of gates", says="numbers: with 5 rows of 3 units h[0, 0]")
def order():
    swapped = COUPLED.replace("mine[0]", "mine[H]").replace("tanhf(mine[hidden])", "tanhf(mine[0])")
    return answers(3, coupled, swapped.replace("mine[H]", "mine[hidden]"))


@kernel.wrong("interleaved on both sides", says="sectors: a takes 12 for each request")
def interleaved_kernel():
    def forward(a, c):
        rows, hidden = c.shape
        return coupled(np.concatenate([a[:, k::3] for k in range(3)], axis=1), c)

    source = COUPLED.replace("a + index / hidden * 3 * hidden + index % hidden", "a + 3 * index")
    return answers(3, forward, source.replace("[2 * hidden]", "[2]").replace("[hidden]", "[1]"))


@kernel.wrong("through memory", says="bytes: c_next has 1 load for each hidden unit, where 0 would do")
def through_memory():
    return answers(3, coupled, COUPLED.replace("tanhf(cell)", "tanhf(c_next[index])"))


@kernel.wrong("reads a twice", says="bytes: a has 4 loads for each hidden unit, where 3 would do")
def twice():
    return answers(3, coupled, COUPLED.replace("(1.0f - f)", "1.0f / (1.0f + expf(mine[0]))"))


@kernel.wrong("leans on its neighbour", says="bounds and races: Line")
def neighbour():
    return answers(3, coupled, COUPLED.replace("* tanhf(cell);", "* tanhf(cell) + 0 * c_next[(index + 1) % n];"))
