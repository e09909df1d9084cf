"""The check of lesson 12."""

import numpy as np

from lab.exercises import answers, exercise, look, must, same
from lab.kinds import Function, Text
from lab.lesson_12_launching import build, gpu_differs, launch, told

EXTREME = (-1000.0, -20.0, -1.0, 0.0, 1.0, 20.0, 1000.0)
UNTOUCHED = -7.0


def sigmoid_of(x):
    return (0.5 * np.tanh(0.5 * x.astype("float64")) + 0.5).astype("float32")


@exercise("12.sigmoid")
def sigmoid_kernel(sigmoid_source: Text(), blocks_for: Function()):
    """A kernel with index and guard, and the number of blocks that it needs."""
    yield from number_of_blocks(blocks_for)
    kernel = build(sigmoid_source, "sigmoid_source")
    for n, threads in ((20, 8), (32, 32), (1, 32), (100, 32)):
        x = np.resize(np.array(EXTREME, "float32"), n)
        y = np.full(n, UNTOUCHED, "float32")
        blocks = int(blocks_for(n, threads))
        handed = (x, y, np.int32(n))
        findings = launch(kernel, blocks, threads, *handed)
        what_was_written(y, n, threads)
        if findings:
            yield look(told(*findings))
            return
        yield from numbers(x, y, n, blocks, threads)
        if trouble := gpu_differs(sigmoid_source, blocks, threads, *handed, {"y": y}):
            yield look(trouble)


def number_of_blocks(blocks_for):
    for n, threads, blocks in ((20, 8, 3), (24, 8, 3), (1, 32, 1), (33, 32, 2)):
        found = blocks_for(n, threads)
        what = f"blocks_for({n}, {threads})"
        if isinstance(found, (float, np.floating)) and found == blocks:
            must(look(f"{what} is {found}, and a grid wants a whole number, {blocks}: // keeps it whole."))
        hint = "Too few, and the last elements have no thread." if n % threads else "It divides: no block more."
        hint = "" if found is None or found is ... else hint
        yield must(same(what, found, blocks, hint))


def what_was_written(y, n, threads):
    written = y != UNTOUCHED
    if not written.any():
        must(look("y holds what it held before: no thread has written to it. Is there a y[i] = ... in the kernel?"))
    if n > threads and not written[threads:].any() and written[:threads].all():
        text = f"y[{threads}] and all that follow were not written: every block works on the first {threads}."
        must(look(f"{text} Where does the block's number come in?"))
    if not written.all():
        first = int(np.argmin(written))
        must(look(f"With {n} elements and blocks of {threads}, y[{first}] was not written: what are i and the guard?"))


def numbers(x, y, n, blocks, threads):
    wanted = sigmoid_of(x)
    if np.isnan(y).any():
        must(look(f"At x = {x[np.isnan(y)][0]:g} the result is not a number: which exponential overflows there?"))
    found = same(
        f"n = {n}, {blocks} x {threads} threads: y",
        y,
        wanted,
        "The formula is that of lesson 03.",
        rtol=1e-5,
        atol=1e-7,
    )
    yield must(found)


GOOD = """
extern "C" __global__ void sigmoid(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 1.0f / (1.0f + expf(-x[i]));
}
"""


def up(n, threads):
    return -(-n // threads)


@sigmoid_kernel.right
def as_written():
    return answers(GOOD, up)


@sigmoid_kernel.right
def through_tanh_and_another_division():
    body = GOOD.replace("1.0f / (1.0f + expf(-x[i]))", "0.5f * tanhf(0.5f * x[i]) + 0.5f")
    return answers(body, lambda n, threads: (n + threads - 1) // threads)


@sigmoid_kernel.right
def leaves_early_and_steps_through():
    body = """
extern "C" __global__ void s(const float* x, float* y, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        y[i] = 1.0f / (1.0f + expf(-x[i]));
}
"""
    return answers(body, up)


@sigmoid_kernel.wrong("as it stands", says="nothing was returned")
def untouched():
    return answers('extern "C" __global__ void sigmoid(const float* x, float* y, int n) {\n}', lambda n, threads: ...)


@sigmoid_kernel.wrong("rounds down", says="blocks_for(20, 8) is 2 and should be 3")
def down():
    return answers(GOOD, lambda n, threads: n // threads)


@sigmoid_kernel.wrong("always one more", says="It divides: no block more.")
def one_more():
    return answers(GOOD, lambda n, threads: n // threads + 1)


@sigmoid_kernel.wrong("a float", says="a grid wants a whole number")
def ceiling():
    return answers(GOOD, lambda n, threads: np.ceil(n / threads))


@sigmoid_kernel.wrong("an empty body", says="no thread has written to it")
def empty():
    return answers('extern "C" __global__ void sigmoid(const float* x, float* y, int n) {\n}', up)


@sigmoid_kernel.wrong("forgets the block", says="every block works on the first 8")
def no_block():
    return answers(GOOD.replace("blockIdx.x * blockDim.x + ", ""), up)


@sigmoid_kernel.wrong("forgets the guard", says="20], and")
def no_guard():
    return answers(GOOD.replace("if (i < n) ", ""), up)


@sigmoid_kernel.wrong("guard one too far", says="20], and")
def one_too_far():
    return answers(GOOD.replace("i < n", "i <= n"), up)


@sigmoid_kernel.wrong("guard one too short", says="y[19] was not written")
def one_too_short():
    return answers(GOOD.replace("i < n", "i < n - 1"), up)


@sigmoid_kernel.wrong("overflows", says="At x = 1000 the result is not a number")
def overflows():
    return answers(GOOD.replace("1.0f / (1.0f + expf(-x[i]))", "expf(x[i]) / (1.0f + expf(x[i]))"), up)


@sigmoid_kernel.wrong("the other sign", says="The formula is that of lesson 03.")
def other_sign():
    return answers(GOOD.replace("-x[i]", "x[i]"), up)


@sigmoid_kernel.wrong("a semicolon is missing", says="is not a kernel yet")
def no_semicolon():
    return answers(GOOD.replace("threadIdx.x;", "threadIdx.x"), up)


@sigmoid_kernel.wrong("other arguments", says="takes 2 arguments")
def other_arguments():
    return answers(GOOD.replace(", int n", "").replace("i < n", "i < 20"), up)
