"""The check of lesson 13."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Function, Text, numbers
from lab.lesson_12_launching import build, gpu_differs, launch, told

UNTOUCHED = -7.0
BEST = 4.0  # sectors: 32 threads, 4 bytes each, 32 bytes a sector


def a_step(rows, hidden, seed=0):
    """Activated gates i, f, g, o and a cell state, each (rows, hidden) float32."""
    rng = np.random.default_rng(seed)
    i, f, o = (rng.uniform(0.1, 0.9, (rows, hidden)).astype("float32") for _ in range(3))
    g, c = (rng.uniform(-0.9, 0.9, (rows, hidden)).astype("float32") for _ in range(2))
    return i, f, g, o, c


def arranged(arrange, gates):
    """What ``arrange`` makes of the four gates, as a kernel would get it. Ends the check if that cannot be."""
    array = arrange(*gates)
    what = "arrange(i, f, g, o)"
    if numbers(array) is None:
        must(look(f"{what} should give an array of numbers: the four gates in one."))
    array, size = np.asarray(numbers(array)), 4 * gates[0].size
    if array.size != size:
        must(look(f"{what} has {array.size} elements, and four gates of shape {gates[0].shape} have {size}."))
    if not array.flags.c_contiguous:
        text = f"{what} is a view: transposed to look at, while the numbers still lie in the old order."
        must(look(f"{text} A kernel sees only how they lie; np.ascontiguousarray(...) moves them."))
    return array.astype("float32")


@exercise("13.cell-update")
def cell_update(arrange: Function(), cell_update_source: Text()):
    """The cell update, right and with 4 sectors for every request."""
    kernel = build(cell_update_source, "cell_update_source")
    for rows, hidden, threads in ((5, 3, 8), (32, 32, 128)):
        *gates, c = a_step(rows, hidden)
        c_next, h = np.full((2, rows, hidden), UNTOUCHED, "float32")
        array = arranged(arrange, gates)
        blocks = -(-c.size // threads)
        handed = (array, c, c_next, h, np.int32(c.size), np.int32(hidden))
        findings = launch(kernel, blocks, threads, *handed)
        if findings:
            must(look(told(*findings)))
        values(gates, c, c_next, h, hidden)
        if trouble := gpu_differs(cell_update_source, blocks, threads, *handed, {"c_next": c_next, "h": h}):
            must(look(trouble))
        yield ok(f"{rows} rows of {hidden} hidden units, {blocks} x {threads} threads: c_next and h are right.")
    yield from sectors(kernel)


def values(gates, c, c_next, h, hidden):
    i, f, g, o = gates
    wanted = f * c + i * g
    near = {"rtol": 1e-5, "atol": 1e-6}
    for name, array in (("c_next", c_next), ("h", h)):
        if (array == UNTOUCHED).all():
            must(look(f"{name} holds what it held before: no thread has written to it."))
    if close(c_next, i * c + f * g, **near):
        must(look("i and f are swapped: the forget gate belongs to the old cell state."))
    hint = f"With hidden = {hidden}: does the kernel look for each gate where arrange puts it?"
    must(same("c_next", c_next, wanted, hint, **near))
    if close(h, o * wanted, **near):
        must(look("h lacks its tanh: h = o * tanh(c_next)."))
    if close(h, o * np.tanh(c), **near):
        must(look("h shows the old cell state: it is o * tanh of the new one."))
    must(same("h", h, o * np.tanh(wanted), hint, **near))


def sectors(kernel):
    for name in ("gates", "c", "c_next", "h"):
        found = kernel.counts.sectors_per_request(name)
        if not kernel.counts.requests(name):
            yield look(f"This kernel has no array {name}: keep the names of its arguments.")
        elif found == BEST:
            yield ok(f"{name}: 4 sectors for each request of a warp.")
        else:
            first = kernel.accesses[(kernel.accesses["array"] == name) & (kernel.accesses["thread"] < 2)]
            first = first[first["request"] == first["request"][0]]["element"]
            apart = f" Threads 0 and 1 touch elements {first[0]} and {first[1]}." if len(first) == 2 else ""
            yield look(f"{name}: {found:.0f} sectors for each request of a warp, where 4 would do.{apart}")


HEAD = """
extern "C" __global__ void cell_update(
        const float* gates, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
"""
TAIL = """
    float cell = f * c[index] + i * g;
    c_next[index] = cell;
    h[index] = o * tanhf(cell);
}
"""
SIDE_BY_SIDE = """
    int row = index / hidden, unit = index % hidden;
    const float* gate = gates + row * 4 * hidden + unit;
    float i = gate[0], f = gate[hidden], g = gate[2 * hidden], o = gate[3 * hidden];
"""
INTERLEAVED = """
    float i = gates[4 * index], f = gates[4 * index + 1], g = gates[4 * index + 2], o = gates[4 * index + 3];
"""
PLANES = "\n float i = gates[index], f = gates[n + index], g = gates[2 * n + index], o = gates[3 * n + index];"
GOOD = HEAD + SIDE_BY_SIDE + TAIL


def beside(i, f, g, o):
    return np.concatenate([i, f, g, o], axis=1)


def interleave(i, f, g, o):
    return np.stack([i, f, g, o], axis=-1)


@cell_update.right
def gate_after_gate_in_each_row():
    return answers(beside, GOOD)


@cell_update.right
def four_planes():
    return answers(lambda *gates: np.stack(gates), HEAD + PLANES + TAIL)


@cell_update.wrong("as it stands", says="gates: 16 sectors for each request of a warp, where 4 would do.")
def untouched():
    return answers(interleave, HEAD + INTERLEAVED + TAIL)


@cell_update.wrong("only the arrangement mended", says="does the kernel look for each gate where arrange puts it")
def only_arranged():
    return answers(beside, HEAD + INTERLEAVED + TAIL)


@cell_update.wrong("only the kernel mended", says="does the kernel look for each gate where arrange puts it")
def only_the_kernel():
    return answers(interleave, GOOD)


@cell_update.wrong("a view", says="np.ascontiguousarray(...) moves them")
def view():
    return answers(lambda *gates: np.moveaxis(interleave(*gates), -1, 0), HEAD + PLANES + TAIL)


@cell_update.wrong("rows run fastest", says="c: 32 sectors for each request of a warp, where 4 would do")
def rows_fastest():
    turned = """
    int rows = n / hidden, place = index;
    int row = place % rows, unit = place / rows;
    index = row * hidden + unit;
    const float* gate = gates + row * 4 * hidden + unit;
    float i = gate[0], f = gate[hidden], g = gate[2 * hidden], o = gate[3 * hidden];
"""
    return answers(beside, HEAD + turned + TAIL)


@cell_update.wrong("gates in another order", says="i and f are swapped")
def swapped():
    return answers(lambda i, f, g, o: beside(f, i, g, o), GOOD)


@cell_update.wrong("without tanh", says="h lacks its tanh")
def no_tanh():
    return answers(beside, GOOD.replace("tanhf(cell)", "cell"))


@cell_update.wrong("shows the old state", says="h shows the old cell state")
def old_state():
    return answers(beside, GOOD.replace("tanhf(cell)", "tanhf(c[index])"))


@cell_update.wrong("no guard", says="thread 7 of block 1")
def no_guard():
    return answers(beside, GOOD.replace("if (index >= n) return;", ""))


@cell_update.wrong("h is not written", says="h holds what it held before")
def no_h():
    return answers(beside, GOOD.replace("h[index] = o * tanhf(cell);", ""))


@cell_update.wrong("a gate is forgotten", says="has 45 elements, and four gates of shape (5, 3) have 60")
def three_gates():
    return answers(lambda i, f, g, o: np.concatenate([i, f, g], axis=1), GOOD)
