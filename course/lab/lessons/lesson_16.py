"""The checks of lesson 16."""

import numpy as np

from lab import kernels, sentence
from lab.exercises import answers, close, exercise, look, must, ok, same
from lab.kinds import Text
from lab.lesson_12_launching import FEW_ROUNDS, told
from lab.lesson_16_launching import forward_loop, launch_all, random_layer, sigmoid, tried, with_hidden

NEAR = {"rtol": 1e-4, "atol": 1e-5}


def the_sentence():
    """Lesson 01's sentence as a and weight_hh."""
    a = sentence.VECTORS @ sentence.PARAMS["weight_ih"].T + sentence.PARAMS["bias"]
    return a.astype("float32"), sentence.PARAMS["weight_hh"].astype("float32")


@exercise("16.all-steps")
def all_steps(all_steps_source: Text()):
    """One launch for all steps: right, without a race in any order, and with each weight read once."""
    for what, layer, threads in (
        ("the sentence, 2 blocks of 1 thread", the_sentence(), 1),
        ("6 steps of 8 hidden units, 2 blocks of 4 threads", random_layer(6, 8), 4),
        ("5 steps of 10 hidden units, 3 blocks of 4 threads", random_layer(5, 10, seed=1), 4),
    ):
        h, kernel = tried(all_steps_source, *layer, threads, on="simulator", strict=False)
        findings = kernel.findings
        if not findings:
            h, kernel = tried(all_steps_source, *layer, threads, on="simulator", order="reverse", strict=False)
            findings = findings or kernel.findings
        if not findings or not h[1:].any():
            values(what, h[1:], *layer)
        if findings:
            must(look(told(*findings)))
        yield ok(f"{what}: every h is right, whichever block is first.")
    yield weights_once(kernel.counts, len(layer[0]), layer[1].size)
    if trouble := gpu_differs(all_steps_source, *layer, h):
        yield look(trouble)


def values(what, h, a, weight_hh):
    if not h.any():
        must(look("h holds the zeros that it held before: no thread has written to row t + 1."))
    wanted = forward_loop(a, weight_hh)
    if not h[1:].any() and close(h[0], wanted[0], **NEAR):
        must(look("The first step is right, and the others were not computed: where is the loop over t?"))
    i, f, g, o = a.astype("float64").reshape(len(a), 4, -1).swapaxes(0, 1)
    if close(h[0], wanted[0], **NEAR) and close(h, without_memory(a, weight_hh), **NEAR):
        must(look("Each step begins with an empty cell state: c must live outside the loop over t."))
    if close(h, without_weights(a, weight_hh), **NEAR):
        must(look("h comes out as if weight_hh were zero: does each sum go over all k, with h of the step before?"))
    hint = "The first step is right." if close(h[0], wanted[0], **NEAR) else "Already the first step differs."
    must(same(f"{what}: h", h, wanted, f"{hint} Row t + 1 of h follows from row t.", **NEAR))


def without_memory(a, weight_hh):
    h, out = np.zeros(weight_hh.shape[1]), []
    for now in a:
        i, f, g, o = (now + weight_hh @ h).reshape(4, -1)
        h = sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(g))
        out.append(h)
    return np.array(out)


def without_weights(a, weight_hh):
    return forward_loop(a, np.zeros_like(weight_hh))


def weights_once(counts, steps, weights):
    loads = counts.loads("weight_hh")
    if loads == weights:
        return ok(f"weight_hh: {weights} weights, {loads} loads, for all {steps} steps together.")
    if loads == steps * weights:
        return look(
            f"weight_hh: {loads} loads for {weights} weights, each of them again at every step. "
            "Fetch them into w before the loop over t."
        )
    return look(f"weight_hh: {loads} loads for {weights} weights, where each needs to be read once, by one thread.")


def gpu_differs(source, a, weight_hh, wanted) -> str:
    """Nothing where there is no GPU, or it agrees with the simulator."""
    if kernels.kernel('extern "C" __global__ void k(int n) {}').on != "gpu":
        return ""
    try:
        h, _ = launch_all(source, a, weight_hh, 4)
    except kernels.KernelError as error:
        return told(*error.findings)
    right = np.allclose(h, wanted, **NEAR)
    return (
        "" if right else "h is right in the simulator, and the GPU has other numbers: does a block lean on another one?"
    )


HEAD = """
#include <cooperative_groups.h>
extern "C" __global__ void all_steps(
        const float* a, const float* weight_hh, float* h, int steps) {
    cooperative_groups::grid_group grid = cooperative_groups::this_grid();
    int unit = blockIdx.x * blockDim.x + threadIdx.x;
    bool mine = unit < HIDDEN;
    float w[4][HIDDEN];
    float c = 0;
"""
FETCH = """
    if (mine)
        for (int gate = 0; gate < 4; gate++)
            for (int k = 0; k < HIDDEN; k++)
                w[gate][k] = weight_hh[(gate * HIDDEN + unit) * HIDDEN + k];
"""
STEP = """
        if (mine) {
            float sum[4];
            for (int gate = 0; gate < 4; gate++) {
                sum[gate] = a[(t * 4 + gate) * HIDDEN + unit];
                for (int k = 0; k < HIDDEN; k++) sum[gate] += w[gate][k] * h[t * HIDDEN + k];
            }
            float i = 1.0f / (1.0f + expf(-sum[0]));
            float f = 1.0f / (1.0f + expf(-sum[1]));
            float g = tanhf(sum[2]);
            float o = 1.0f / (1.0f + expf(-sum[3]));
            c = f * c + i * g;
            h[(t + 1) * HIDDEN + unit] = o * tanhf(c);
        }
"""
GOOD = HEAD + FETCH + "    for (int t = 0; t < steps; t++) {" + STEP + "        grid.sync();\n    }\n}\n"


@all_steps.right
def barrier_at_the_end():
    return answers(GOOD)


@all_steps.right
def barrier_at_the_beginning():
    source = GOOD.replace("        grid.sync();\n", "")
    return answers(source.replace("t++) {\n        if (mine)", "t++) {\n        grid.sync();\n        if (mine)"))


@all_steps.wrong("as it stands", says="h holds the zeros that it held before")
def untouched():
    return answers(HEAD + FETCH + "}\n")


@all_steps.wrong("no barrier", says="with no")
def no_barrier():
    return answers(GOOD.replace("grid.sync();", ""))


@all_steps.wrong("a barrier of the block only", says="with no grid barrier between them")
def block_barrier():
    return answers(GOOD.replace("grid.sync();", "__syncthreads();"))


@all_steps.wrong("the barrier only for who has a unit", says="not all threads reach this barrier of the grid")
def barrier_inside_the_guard():
    source = GOOD.replace("        grid.sync();\n", "")
    return answers(source.replace("* tanhf(c);\n", "* tanhf(c);\n            grid.sync();\n"))


@all_steps.wrong("a guard that returns", says="not all threads reach this barrier of the grid")
def early_return():
    return answers(GOOD.replace("    float w[4]", "    if (!mine) return;\n    float w[4]"))


@all_steps.wrong("weights again at each step", says="each of them again at every step")
def weights_inside():
    source = GOOD.replace("w[gate][k] * h", "weight_hh[(gate * HIDDEN + unit) * HIDDEN + k] * h")
    return answers(source.replace(FETCH, ""))


@all_steps.wrong("c inside the loop", says="Each step begins with an empty cell state")
def c_inside():
    return answers(GOOD.replace("    float c = 0;\n", "").replace("float sum[4];", "float sum[4]; float c = 0;"))


@all_steps.wrong("only the thread's own h", says="Row t + 1 of h follows from row t")
def own_h():
    return answers(GOOD.replace("h[t * HIDDEN + k]", "h[t * HIDDEN + unit]"))


@all_steps.wrong("no recurrent product", says="as if weight_hh were zero")
def no_product():
    product = "                for (int k = 0; k < HIDDEN; k++) sum[gate] += w[gate][k] * h[t * HIDDEN + k];\n"
    return answers(GOOD.replace(product, ""))


@all_steps.wrong("no guard at all", says="reads weight_hh[")
def no_guard():
    return answers(GOOD.replace("unit < HIDDEN", "true"))


@all_steps.wrong("writes over the row that others read", says="race")
def in_place():
    return answers(GOOD.replace("h[(t + 1) * HIDDEN + unit]", "h[t * HIDDEN + unit]"))


@all_steps.wrong("one step", says="where is the loop over t")
def one_step():
    return answers(GOOD.replace("t < steps", "t < 1"))


# ---- the sums of a unit's four lanes ----


@exercise("16.quarters")
def quarters(quarters_source: Text()):
    """Every lane has the whole sum of its own gate, and has read a quarter of h."""
    for hidden in (8, 16):
        _, weight_hh = random_layer(1, hidden, seed=hidden)
        h = np.random.default_rng(hidden).normal(size=hidden).astype("float32")
        sums = np.zeros(4 * hidden, "float32")
        try:
            kernel = kernels.simulate(with_hidden(quarters_source, hidden))
            kernel(1, 4 * hidden, weight_hh, h, sums, limit=FEW_ROUNDS)
        except kernels.KernelError as error:
            must(look(told(*error.findings)))
        of_lanes = (weight_hh * h).reshape(4, hidden, 4, hidden // 4).sum(-1)  # (gates, units, lanes)
        gates = np.arange(4)
        for distance, has in ((0, "its own lane's quarter"), (1, "two quarters, its own lane's and the neighbour's")):
            parts = of_lanes[gates, :, gates] + (distance > 0) * of_lanes[gates, :, gates ^ distance]
            if close(sums, parts.ravel(), **NEAR):
                must(look(f"Each sum has only {has}."))
        hint = "Which lane has the missing quarters, and under which number?"
        must(same(f"{hidden} units: sums", sums, weight_hh @ h, hint, **NEAR))
        yield ok(f"{hidden} units, 4 lanes each: every lane has the whole sum of its own gate.")
    loads = kernel.counts.shared_loads("now")
    if loads == 4 * hidden * hidden // 4:
        yield ok(f"now: {loads} loads by {4 * hidden} lanes, {loads // (4 * hidden)} each, not {hidden}.")
    else:
        yield look(f"now: {loads} loads, where a quarter of h for each of {4 * hidden} lanes is {hidden * hidden}.")


QUARTERS = """
extern "C" __global__ void quarters(const float* weight_hh, const float* h, float* sums) {
    __shared__ float now[HIDDEN];
    int unit = threadIdx.x / 4;
    int lane = threadIdx.x % 4;
    if (threadIdx.x < HIDDEN) now[threadIdx.x] = h[threadIdx.x];
    __syncthreads();
    float sum[4] = {0, 0, 0, 0};
    for (int k = lane * HIDDEN / 4; k < (lane + 1) * HIDDEN / 4; k++) {
        float number = now[k];
        for (int j = 0; j < 4; j++)
            sum[j] += weight_hh[((j ^ lane) * HIDDEN + unit) * HIDDEN + k] * number;
    }
    SHUFFLES
    sums[lane * HIDDEN + unit] = sum[0];
}
"""
PAIR = "float a = __shfl_xor_sync(0xffffffff, sum[1], 1); sum[0] += a;"
OTHER_PAIR = "float b = __shfl_xor_sync(0xffffffff, sum[3], 1); sum[2] += b;"
ACROSS = "float c = __shfl_xor_sync(0xffffffff, sum[2], 2); sum[0] += c;"


def shuffled(*lines):
    return QUARTERS.replace("SHUFFLES", "\n    ".join(lines))


@quarters.right
def three_shuffles():
    return answers(shuffled(PAIR, OTHER_PAIR, ACROSS))


@quarters.right
def straight_from_the_other_lanes():
    return answers(shuffled(PAIR, ACROSS, "float d = __shfl_xor_sync(0xffffffff, sum[3], 3); sum[0] += d;"))


@quarters.wrong("as it stands", says="only its own lane's quarter")
def no_shuffle():
    return answers(shuffled("// your turn"))


@quarters.wrong("one shuffle", says="and the neighbour's")
def one_shuffle():
    return answers(shuffled(PAIR))


@quarters.wrong("the second pair left out", says="missing quarters")
def half_of_the_others():
    return answers(shuffled(PAIR, ACROSS))


@quarters.wrong("distances mixed up", says="missing quarters")
def mixed_up():
    return answers(shuffled(PAIR, OTHER_PAIR, ACROSS).replace("sum[2], 2)", "sum[2], 1)"))


@quarters.wrong("a shuffle that only some lanes reach", says="not all threads reach")
def some_lanes():
    return answers(shuffled(f"if (lane < 2) {{ {PAIR} }}", OTHER_PAIR, ACROSS))


@quarters.wrong("every lane reads all of h", says="loads, where a quarter")
def all_of_h():
    whole = shuffled("sums[lane * HIDDEN + unit] = sum[0]; return;")
    whole = whole.replace("k = lane * HIDDEN / 4; k < (lane + 1) * HIDDEN / 4;", "k = 0; k < HIDDEN;")
    return answers(whole)
