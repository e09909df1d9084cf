"""The checks of lesson 14."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Text
from lab.lesson_12_launching import build, gpu_differs, launch, told

UNTOUCHED = -7.0
GATES = ("i", "f", "g", "o")
NEAR = {"rtol": 1e-4, "atol": 1e-6}


def backward_data(rows, hidden, seed=0):
    """dh, dc, i, f, g, o, c, c_next, each (rows, hidden) float32: what lesson 09's gate_gradients takes."""
    rng = np.random.default_rng(seed)
    i, f, o = (rng.uniform(0.1, 0.9, (rows, hidden)) for _ in range(3))
    g, c, dh, dc = (rng.uniform(-0.9, 0.9, (rows, hidden)) for _ in range(4))
    return tuple(array.astype("float32") for array in (dh, dc, i, f, g, o, c, f * c + i * g))


def gate_gradients(dh, dc, i, f, g, o, c, c_next):
    """Lesson 09's."""
    shown = np.tanh(c_next)
    dc_next = dc + dh * o * (1 - shown**2)
    da_i = dc_next * g * i * (1 - i)
    da_f = dc_next * c * f * (1 - f)
    da_g = dc_next * i * (1 - g**2)
    da_o = dh * shown * o * (1 - o)
    return (da_i, da_f, da_g, da_o), dc_next * f


@exercise("14.backward")
def backward(backward_source: Text()):
    """One step back, as lesson 09 has it."""
    kernel = build(backward_source, "backward_source")
    for rows, hidden, threads in ((5, 3, 8), (4, 32, 64)):
        data = dh, dc, *gates, c, c_next = backward_data(rows, hidden)
        da = np.full((rows, 4 * hidden), UNTOUCHED, "float32")
        dc_before = np.full((rows, hidden), UNTOUCHED, "float32")
        blocks = -(-c.size // threads)
        handed = (np.concatenate(gates, axis=1), c, c_next, dh, dc, da, dc_before, np.int32(c.size), np.int32(hidden))
        findings = launch(kernel, blocks, threads, *handed)
        if findings:
            must(look(told(*findings)))
        wanted, wanted_dc = gate_gradients(*data)
        known_mistakes(data, da, dc_before)
        for name, found, right in zip(GATES, np.split(da, 4, axis=1), wanted, strict=True):
            must(same(f"da_{name}", found, right, "Compare its formula, and where it is stored.", **NEAR))
        must(same("dc_before", dc_before, wanted_dc, "It is what goes on along the upper lane.", **NEAR))
        if trouble := gpu_differs(backward_source, blocks, threads, *handed, {"da": da, "dc_before": dc_before}):
            must(look(trouble))
        yield ok(f"{rows} rows of {hidden} hidden units: da_i, da_f, da_g, da_o and dc_before are those of lesson 09.")


def known_mistakes(data, da, dc_before):
    """Ends the check with the name of a mistake that its results give away."""
    dh, dc, i, f, g, o, c, c_next = data
    parts = dict(zip(GATES, np.split(da, 4, axis=1), strict=True))
    wanted, wanted_dc = gate_gradients(*data)
    right = dict(zip(GATES, wanted, strict=True))
    for name, found in (("da", da), ("dc_before", dc_before)):
        if (found == UNTOUCHED).all():
            must(look(f"{name} holds what it held before: no thread has written to it."))
    if close(dc_before, dc * f, **NEAR):
        must(look("dc_before knows nothing of dh: c' goes two ways, so what comes down from h' is added to dc."))
    if close(dc_before, dh * o * (1 - np.tanh(c_next) ** 2) * f, **NEAR):
        must(look("dc_before knows nothing of dc: what comes back along the upper lane is added in dc_next."))
    if close(dc_before, (dc + dh * o) * f, **NEAR):
        must(look("On the way from h' down to c' a curve is missing: the slope of tanh, 1 - tanh(c')^2."))
    if close(dc_before, wanted_dc / f, **NEAR):
        must(look("dc_before is not multiplied by the forget gate on its way to the step before."))
    if close(parts["o"], right["o"] / (o * (1 - o)), **NEAR):
        must(look("These are the gradients of the gates. The slopes of sigmoid, i (1 - i) and so on, come on top."))
    if close(parts["g"], right["g"] * g * (1 - g) / (1 - g**2), **NEAR):
        must(look("da_g: the candidate went through tanh, so its slope is 1 - g^2."))
    if close(parts["f"], right["f"] / c * c_next, **NEAR):
        must(look("da_f: the forget gate met the cell state before, c, and not c_next."))


HEAD = """
extern "C" __global__ void backward(
        const float* gates, const float* c, const float* c_next, const float* dh, const float* dc,
        float* da, float* dc_before, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    int first = index / hidden * 4 * hidden + index % hidden;
    float i = gates[first], f = gates[first + hidden];
    float g = gates[first + 2 * hidden], o = gates[first + 3 * hidden];
"""
GOOD = (
    HEAD
    + """
    float shown = tanhf(c_next[index]);
    float dc_next = dc[index] + dh[index] * o * (1.0f - shown * shown);
    da[first] = dc_next * g * i * (1.0f - i);
    da[first + hidden] = dc_next * c[index] * f * (1.0f - f);
    da[first + 2 * hidden] = dc_next * i * (1.0f - g * g);
    da[first + 3 * hidden] = dh[index] * shown * o * (1.0f - o);
    dc_before[index] = dc_next * f;
}
"""
)


def _backward_wrong(mistake, old, new, says):
    assert old in GOOD
    backward.wrong(mistake, says=says)(lambda: answers(GOOD.replace(old, new)))


@backward.right
def as_in_the_lesson():
    return answers(GOOD)


@backward.wrong("as it stands", says="da holds what it held before")
def untouched():
    return answers(HEAD + "}")


_backward_wrong("lane alone", "dc[index] + dh[index] * o * (1.0f - shown * shown)", "dc[index]", "knows nothing of dh")
_backward_wrong("lane forgotten", "dc[index] + ", "", "knows nothing of dc:")
_backward_wrong("no slope of tanh", " * (1.0f - shown * shown)", "", "a curve is missing")
_backward_wrong("no forget gate", "dc_next * f;", "dc_next;", "is not multiplied by the forget gate")
_backward_wrong("another slope for g", "(1.0f - g * g)", "g * (1.0f - g)", "its slope is 1 - g^2")
_backward_wrong("state after", "dc_next * c[index]", "dc_next * c_next[index]", "met the cell state before")
_backward_wrong("i and g swapped", "dc_next * g * i * (1.0f - i)", "dc_next * i * i * (1.0f - i)", "da_i at [0, 0]")
_backward_wrong("no guard", "if (index >= n) return;", "", "of block 1")
_backward_wrong("no dc_before", "dc_before[index] = dc_next * f;", "", "dc_before holds what it held before")


@backward.wrong("gradients of the gates", says="come on top")
def without_slopes():
    text = GOOD
    for slope in (" * i * (1.0f - i)", " * f * (1.0f - f)", " * (1.0f - g * g)", " * o * (1.0f - o)"):
        text = text.replace(slope, "")
    return answers(text)


LANES, COLUMNS = 8, 32


@exercise("14.column-sum")
def column_sum(column_sum_source: Text()):
    """The sum of each column by a tree in shared memory, with its barriers."""
    kernel = build(column_sum_source, "column_sum_source")
    for rows, columns in ((19, 40), (64, 32), (3, 1)):
        matrix = np.random.default_rng(rows).uniform(-1, 1, (rows, columns)).astype("float32")
        sums = np.full(columns, UNTOUCHED, "float32")
        blocks = -(-columns // COLUMNS)
        handed = (matrix, sums, np.int32(rows), np.int32(columns))
        findings = launch(kernel, blocks, (COLUMNS, LANES), *handed)
        judged(kernel, findings)
        what_is_summed(matrix, sums)
        must(
            same(
                f"{rows} rows, {columns} columns: sums",
                sums,
                matrix.sum(axis=0),
                "Is every lane folded in, once?",
                **NEAR,
            )
        )
        in_order = sums.copy()
        findings = launch(kernel, blocks, (COLUMNS, LANES), *handed, order="reverse")
        judged(kernel, findings)
        if not np.array_equal(in_order, sums):
            must(look("With the threads in reverse the sum has other bits: the order of adding is not fixed."))
        if trouble := gpu_differs(column_sum_source, blocks, (COLUMNS, LANES), *handed, {"sums": sums}):
            must(look(trouble))
        yield ok(f"{rows} rows, {columns} columns: the sums are right, in whatever order the threads come.")
    yield ok("No race: between a write and another thread's read there is always a barrier.")


def judged(kernel, findings):
    """Ends the check with what the simulator names; a missing barrier before what it causes."""
    for kind in ("out of bounds", "race", "divergent barrier"):
        for found in findings:
            if found.kind == kind and (kind != "race" or "part" in found.message):
                more = " Here a __syncthreads() is missing." if kind == "race" else ""
                must(look(told(found) + more))
    if findings:
        must(look(told(*findings)))
    if kernel.counts.atomics():
        must(look("Atomic additions do not keep an order. Here the tree is to add, place by place."))


def what_is_summed(matrix, sums):
    if (sums == UNTOUCHED).all():
        must(look("sums holds what it held before: after the tree, one lane must write what part[0] has."))
    first_lane = matrix[::LANES].sum(axis=0)
    if len(matrix) > 1 and close(sums, first_lane, **NEAR):
        must(look("These are the sums of lane 0 alone: the other seven lanes have not been folded in."))
    if len(matrix) >= 2 * LANES:
        lanes = np.array([matrix[lane::LANES].sum(axis=0) for lane in range(LANES)])
        if close(sums, lanes[0] + lanes[4], **NEAR):
            must(look("Only lanes 0 and 4 are in the sums: one round is not enough. How many halvings from 8 to 1?"))
        if close(sums, lanes[[0, 2, 4, 6]].sum(axis=0), **NEAR):
            must(look("The odd lanes are missing: the last round, with half = 1, did not happen."))


SUM_HEAD = """
extern "C" __global__ void column_sum(const float* matrix, float* sums, int rows, int columns) {
    __shared__ float part[8][32];
    int lane = threadIdx.y;
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < columns)
        for (int row = lane; row < rows; row += 8) sum += matrix[row * columns + column];
    part[lane][threadIdx.x] = sum;
"""
SUM_GOOD = (
    SUM_HEAD
    + """
    __syncthreads();
    for (int half = 4; half > 0; half /= 2) {
        if (lane < half) part[lane][threadIdx.x] += part[lane + half][threadIdx.x];
        __syncthreads();
    }
    if (lane == 0 && column < columns) sums[column] = part[0][threadIdx.x];
}
"""
)


def _sum_wrong(mistake, old, new, says):
    assert old in SUM_GOOD
    column_sum.wrong(mistake, says=says)(lambda: answers(SUM_GOOD.replace(old, new)))


@column_sum.right
def tree():
    return answers(SUM_GOOD)


@column_sum.right
def one_lane_adds_all():
    loop = """
    __syncthreads();
    if (lane == 0) {
        for (int other = 1; other < 8; other++) sum += part[other][threadIdx.x];
        if (column < columns) sums[column] = sum;
    }
}
"""
    return answers(SUM_HEAD + loop)


@column_sum.wrong("as it stands", says="sums holds what it held before")
def no_tree():
    return answers(SUM_HEAD + "}")


@column_sum.wrong("lane 0 alone", says="the other seven lanes")
def lane_zero():
    return answers(SUM_HEAD + "if (lane == 0 && column < columns) sums[column] = part[0][threadIdx.x];\n}")


@column_sum.wrong("atomics", says="Atomic additions do not keep an order")
def atomics():
    body = "if (lane == 0 && column < columns) sums[column] = 0.0f;\n __syncthreads();\n"
    return answers(SUM_HEAD + body + "if (column < columns) atomicAdd(&sums[column], sum);\n}")


_LOOP = "    __syncthreads();\n    for"
_IN_LOOP = "        __syncthreads();\n"
_sum_wrong("no barrier before the tree", _LOOP, "    for", "Here a __syncthreads() is missing.")
_sum_wrong("no barrier in the tree", _IN_LOOP, "", "Here a __syncthreads() is missing.")
_sum_wrong(
    "guard leaves before the barrier", "float sum =", "if (column >= columns) return;\n float sum =", "has ended before"
)
_sum_wrong("barrier for some", _IN_LOOP, "        if (lane < half) __syncthreads();\n", "not all threads reach this")
_sum_wrong("nobody rests", "if (lane < half) part", "part", "reads part[8][0]")
_sum_wrong("every lane writes", "lane == 0 && ", "", "writes sums[0] here")
_sum_wrong("no guard at the end", " && column < columns", "", "sums[40]")
_sum_wrong("ends too early", "half > 0", "half > 1", "The odd lanes are missing")
_sum_wrong("one round", "half /= 2", "half = 0", "one round is not enough")
