"""The check of lesson 15."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Text
from lab.lesson_12_launching import build, gpu_differs, launch, told

UNTOUCHED = -7.0


def a_step(rows, hidden, seed=0):
    """Preactivations (rows, 4 * hidden) and a cell state (rows, hidden), float32."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-3, 3, (rows, 4 * hidden)).astype("float32")
    return a, rng.uniform(-0.9, 0.9, (rows, hidden)).astype("float32")


def sigmoid(x):
    return 0.5 * np.tanh(0.5 * x) + 0.5


def step(a, c):
    """c_next and h, as the kernel should compute them."""
    i, f, g, o = np.split(a.astype("float64"), 4, axis=1)
    c_next = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c_next, sigmoid(o) * np.tanh(c_next)


@exercise("15.fused")
def fused(fused_source: Text()):
    """One kernel for the whole step: right, and with 5 loads and 2 stores for each hidden unit."""
    kernel = build(fused_source, "fused_source")
    for rows, hidden, threads in ((5, 3, 8), (32, 32, 128)):
        a, c = a_step(rows, hidden)
        c_next, h = np.full((2, rows, hidden), UNTOUCHED, "float32")
        blocks = -(-c.size // threads)
        handed = (a, c, c_next, h, np.int32(c.size), np.int32(hidden))
        findings = launch(kernel, blocks, threads, *handed)
        if findings:
            must(look(told(*findings)))
        values(a, c, c_next, h, hidden)
        if trouble := gpu_differs(fused_source, blocks, threads, *handed, {"c_next": c_next, "h": h}):
            must(look(trouble))
        yield ok(f"{rows} rows of {hidden} hidden units, {blocks} x {threads} threads: c_next and h are right.")
    yield from moved(kernel.counts, c.size)


def values(a, c, c_next, h, hidden):
    near = {"rtol": 1e-4, "atol": 1e-5}
    for name, array in (("c_next", c_next), ("h", h)):
        if (array == UNTOUCHED).all():
            must(look(f"{name} holds what it held before: no thread has written to it."))
    known_mistakes(a, c, c_next, near)
    wanted_c, wanted_h = step(a, c)
    hint = f"With hidden = {hidden}: where does each gate's preactivation lie in a?"
    must(same("c_next", c_next, wanted_c, hint, **near))
    if close(h, np.split(a, 4, axis=1)[3] * np.tanh(wanted_c), **near):
        must(look("h uses the output gate as it comes: a holds preactivations, so it needs its sigmoid."))
    if close(h, sigmoid(np.split(a, 4, axis=1)[3]) * wanted_c, **near):
        must(look("h lacks its tanh: h = o * tanh(c_next)."))
    if close(h, sigmoid(np.split(a, 4, axis=1)[3]) * np.tanh(c), **near):
        must(look("h shows the old cell state: it is o * tanh of the new one."))
    must(same("h", h, wanted_h, hint, **near))


def known_mistakes(a, c, c_next, near):
    i, f, g, o = np.split(a.astype("float64"), 4, axis=1)
    if close(c_next, f * c + i * g, **near):
        must(look("The gates are used as they come: a holds preactivations. Where are sigmoid and tanh?"))
    if close(c_next, sigmoid(f) * c + sigmoid(i) * sigmoid(g), **near):
        must(look("The candidate g went through the sigmoid: it is the one that takes tanh."))
    if close(c_next, sigmoid(i) * c + sigmoid(f) * np.tanh(g), **near):
        must(look("i and f are swapped: the order in a is i, f, g, o."))
    if close(c_next, sigmoid(f) * c + sigmoid(i) * np.tanh(o), **near):
        must(look("The candidate was taken from the output gate's place: the order in a is i, f, g, o."))


def moved(counts, n):
    """What went through memory for each hidden unit."""
    again = counts.loads("c_next") + counts.loads("h")
    if again:
        text = "The kernel reads back from memory what it has just computed itself"
        yield look(f"{text}: c_next or h is loaded for each unit. Keep the value in a variable.")
    for name, wanted in (("a", 4), ("c", 1)):
        found = counts.loads(name) / n
        if found == wanted:
            yield ok(f"{name}: {wanted} {'load' if wanted == 1 else 'loads'} for each hidden unit.")
        else:
            hint = "Read it once, and keep it in a float."
            yield look(f"{name}: {found:.3g} loads for each hidden unit, where {wanted} would do. {hint}")
    if (stores := counts.stores() / n) == 2:
        yield ok("2 stores for each hidden unit, c_next and h.")
    else:
        yield look(f"{stores:.3g} stores for each hidden unit, where 2 would do: c_next once, h once, nothing else.")
    for name in ("a", "c", "c_next", "h"):
        found = counts.sectors_per_request(name)
        if found > 4:
            yield look(f"{name}: {found:.0f} sectors for each request of a warp, where 4 would do (lesson 13).")


HEAD = """
extern "C" __global__ void lstm_step(
        const float* a, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    const float* mine = a + index / hidden * 4 * hidden + index % hidden;
"""
GATES = """
    float i = 1.0f / (1.0f + expf(-mine[0]));
    float f = 1.0f / (1.0f + expf(-mine[hidden]));
    float g = tanhf(mine[2 * hidden]);
    float o = 1.0f / (1.0f + expf(-mine[3 * hidden]));
"""
TAIL = """
    float cell = f * c[index] + i * g;
    c_next[index] = cell;
    h[index] = o * tanhf(cell);
}
"""
GOOD = HEAD + GATES + TAIL


@fused.right
def variables():
    return answers(GOOD)


@fused.right
def a_helper_and_other_order():
    helper = "\n__device__ float sigmoid(float x) { return 0.5f * tanhf(0.5f * x) + 0.5f; }"
    body = GATES.replace("1.0f / (1.0f + expf(-", "sigmoid(").replace("]));", "]);")
    return answers(helper + HEAD + body + TAIL.replace("f * c[index] + i * g", "i * g + f * c[index]"))


@fused.wrong("as it stands", says="c_next holds what it held before")
def untouched():
    return answers(HEAD + "}\n")


@fused.wrong("reads c_next back", says="reads back from memory what it has just computed")
def through_memory():
    tail = "\n c_next[index] = f * c[index] + i * g;\n h[index] = o * tanhf(c_next[index]);\n}\n"
    return answers(HEAD + GATES + tail)


@fused.wrong("reads a preactivation twice", says="a: 5 loads for each hidden unit, where 4 would do")
def twice():
    stable = "float i = mine[0] > 0 ? 1.0f / (1.0f + expf(-mine[0])) : 1.0f - 1.0f / (1.0f + expf(mine[0]));"
    return answers(GOOD.replace("float i = 1.0f / (1.0f + expf(-mine[0]));", stable))


@fused.wrong("stores a half-finished cell state", says="3 stores for each hidden unit, where 2 would do")
def twice_stored():
    return answers(GOOD.replace("    float cell", "    c_next[index] = f * c[index];\n    float cell"))


@fused.wrong("no sigmoid", says="a holds preactivations. Where are sigmoid and tanh?")
def raw():
    gates = "\n float i = mine[0], f = mine[hidden], g = mine[2 * hidden], o = mine[3 * hidden];"
    return answers(HEAD + gates + TAIL)


@fused.wrong("sigmoid on all four", says="The candidate g went through the sigmoid")
def all_sigmoid():
    return answers(GOOD.replace("tanhf(mine[2 * hidden])", "1.0f / (1.0f + expf(-mine[2 * hidden]))"))


@fused.wrong("the order of other books", says="The candidate was taken from the output gate's place")
def ifog():
    return answers(GOOD.replace("tanhf(mine[2 * hidden])", "tanhf(mine[3 * hidden])"))


@fused.wrong("i and f swapped", says="i and f are swapped")
def swapped():
    return answers(
        GOOD.replace("float i =", "float j =").replace("float f =", "float i =").replace("float j", "float f")
    )


@fused.wrong("h without tanh", says="h lacks its tanh")
def no_tanh():
    return answers(GOOD.replace("o * tanhf(cell)", "o * cell"))


@fused.wrong("interleaved", says="With hidden = 3: where does each gate's preactivation lie")
def interleaved():
    return answers(GOOD.replace("index / hidden * 4 * hidden + index % hidden", "4 * index").replace("hidden]", "1]"))


@fused.wrong("no guard", says="reads a[")
def no_guard():
    return answers(GOOD.replace("    if (index >= n) return;\n", ""))
