# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 16 · One launch for all time steps
#
# Lesson 08 left two launches for each step: a matrix product, and everything else, which you fused in lesson 15. A
# sentence of a thousand words still costs two thousand launches, and each of them starts with nothing: it fetches the
# same weights again. Today you write a kernel that is launched **once**, fetches the weights once, and walks through
# time by itself.
#
# **Afterwards you can**
# - say where weights, $c$ and $h$ live at each step, with a launch for each step and with one for all;
# - count how often a weight is read in either case;
# - build a kernel with a grid barrier that computes a whole forward pass in one launch;
# - bring sums together that the lanes of a warp have in parts, and say why they have them in parts.

# %% tags=["start"]
from lab import check, figures, kernels, slider, start

xp = start()  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import time

import numpy as np
from lab import backend
from lab.lesson_16_inside import held_of_a, held_of_b, mma, quarters, tiles
from lab.lesson_16_launching import (
    launch_all,
    random_layer,
    where_weights_live,
    with_hidden,
)
from lab.sentence import PARAMS, VECTORS, WORDS

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# Above, a launch for each step. Below, one launch. Thick arrows are weights on their way from memory to the threads:

# %%
slider(where_weights_live, steps=(2, 5, 1, 3))

# %% [markdown]
# A thread's variables die with its kernel, so above everything goes to memory between two steps. Below, the kernel
# does not end. The weights stay in the variables of the threads, and so does $c$, because a hidden unit's $c$
# concerns nobody else. Only $h$ must come out: **every** unit needs the whole $h$ of the step before. The thick
# dotted lines are barriers at which all blocks wait for each other. A kernel that lives through all steps is called
# **persistent**.
#
# ## Predict first
#
# A layer with 8 hidden units has $4 \cdot 8 \cdot 8 = 256$ recurrent weights. It walks through 6 steps.
#
# 1. How many times is a weight loaded, all in all, with a launch for each step? And with one launch?
# 2. Somebody forgets the barrier. What can go wrong?
#
# ## A launch for each step
#
# The part of the sums that belongs to `x` does not wait for anything and is done before the loop (lesson 08): `a = x
# @ weight_ih.T + bias`, with the shape `(time, 4 * hidden)` for one sentence. What remains fits into one small
# kernel. One thread owns one hidden unit; its four sums go over all of $h$:

# %%
one_step_source = """
extern "C" __global__ void one_step(
        const float* a, const float* weight_hh, float* h, float* c, int t) {
    int unit = blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= HIDDEN) return;
    float sum[4];
    for (int gate = 0; gate < 4; gate++) {
        int row = gate * HIDDEN + unit;  // of weight_hh, which is (4*HIDDEN, HIDDEN)
        sum[gate] = a[t * 4 * HIDDEN + row];
        for (int k = 0; k < HIDDEN; k++)
            sum[gate] += weight_hh[row * HIDDEN + k] * h[t * HIDDEN + k];
    }
    float i = 1.0f / (1.0f + expf(-sum[0]));
    float f = 1.0f / (1.0f + expf(-sum[1]));
    float g = tanhf(sum[2]);
    float o = 1.0f / (1.0f + expf(-sum[3]));
    c[unit] = f * c[unit] + i * g;
    h[(t + 1) * HIDDEN + unit] = o * tanhf(c[unit]);
}
"""

# %% [markdown]
# `h` has a row more than there are steps: row 0 is the initial state, and row `t + 1` is what step `t` puts out.
# `HIDDEN` is a number that the compiler is to know beforehand; `with_hidden(source, 2)` writes `#define HIDDEN 2` in
# front of the source. (You will need it for an array of weights *inside* a thread, whose size must be fixed.)
#
# John likes black coffee, on two blocks of one thread. One block owns *who*, the other *dark*:

# %%
a = xp.asarray(VECTORS @ PARAMS["weight_ih"].T + PARAMS["bias"], dtype="float32")
weight_hh = xp.asarray(PARAMS["weight_hh"], dtype="float32")
h, c = xp.zeros((5, 2), dtype="float32"), xp.zeros(2, dtype="float32")

one_step = kernels.kernel(with_hidden(one_step_source, 2))
for t in range(4):
    one_step(2, 1, a, weight_hh, h, c, np.int32(t))

lstm = gl.LSTM(input_size=3, hidden_size=2, dtype="float64")
lstm.load_state_dict({f"{name}_l0": value for name, value in PARAMS.items()})
y, _ = lstm(VECTORS)
for word, ours, theirs in zip(WORDS, backend.to_numpy(h)[1:], y, strict=True):
    print(f"{word:7} {ours.round(3)}   gl.LSTM {theirs.round(3)}")

# %% [markdown]
# Right, with four launches. Now 8 hidden units and 6 steps in the simulator, which counts:

# %%
a, weight_hh = random_layer(steps=6, hidden=8)
h, c = np.zeros((7, 8), "float32"), np.zeros(8, "float32")
counted = kernels.simulate(with_hidden(one_step_source, 8))
loads = 0
for t in range(6):
    counted(2, 4, a, weight_hh, h, c, np.int32(t))  # 2 blocks of 4 threads
    loads += counted.counts.loads("weight_hh")
print(f"{weight_hh.size} weights, 6 launches, {loads} loads of a weight")

# %% [markdown]
# Six times each, the first half of the answer. A thousand steps would make it a thousand times.
#
# ## The barrier of the grid
#
# The end of a launch is more than an end. It is a promise: when the next one begins, all blocks are done, and what
# they wrote can be read. Without launches between the steps we need that promise inside the kernel. `__syncthreads()`
# of lesson 14 makes it within a block only. For all blocks there is `grid.sync()`. Here each block passes its number
# on to its neighbour:

# %%
relay_source = """
#include <cooperative_groups.h>
extern "C" __global__ void relay(int* left_by, int* found) {
    cooperative_groups::grid_group grid = cooperative_groups::this_grid();
    int me = blockIdx.x;
    left_by[me] = me;
    grid.sync();
    found[me] = left_by[(me + 1) % gridDim.x];
}
"""
found = xp.zeros(4, dtype="int32")
kernels.kernel(relay_source)(4, 1, xp.zeros(4, dtype="int32"), found)
print("with the barrier:", found)

without = kernels.simulate(relay_source.replace("grid.sync();", ""))
try:
    without(4, 1, np.zeros(4, "int32"), np.zeros(4, "int32"))
except kernels.KernelError as error:
    print("without:", error)

# %% [markdown]
# The barrier has three rules.
#
# - **Everybody must come**, also threads that have nothing to do. A guard that says `return` sends some home, and the
#   others may wait forever. So the work stands in `if (mine) { ... }`, and the barrier outside.
# - **All blocks must be on the GPU at the same time.** Normally a grid may be larger than the GPU; blocks then queue.
#   Here a block in the queue would be waited for by those who hold its seat. Such a launch is called *cooperative*;
#   CuPy is told by `kernels.kernel`, and too many blocks are refused.
# - **It costs time**, at every step. How much, you will see below.
#
# ## Your turn: one launch
#
# Turn `one_step` into `all_steps`. Fetch the thread's four rows of weights into `w`, keep `c` in a variable, and loop
# over `t`, with a barrier between the steps. The check tries sizes with idle threads, turns the order of the blocks
# around, and counts the loads.

# %% tags=["exercise"]
all_steps_source = """
#include <cooperative_groups.h>
extern "C" __global__ void all_steps(
        const float* a, const float* weight_hh, float* h, int steps) {
    cooperative_groups::grid_group grid = cooperative_groups::this_grid();
    int unit = blockIdx.x * blockDim.x + threadIdx.x;
    bool mine = unit < HIDDEN;  // else this thread only comes to the barriers
    float w[4][HIDDEN];         // this unit's row of each gate
    float c = 0;

    // ← your turn: fetch w, then the loop over t, with its barrier
}
"""

# %%
check("16.all-steps", all_steps_source)

# %% [markdown] tags=["hint"]
# First the weights: two loops, over `gate` and `k`, that put `weight_hh[(gate * HIDDEN + unit) * HIDDEN + k]` into
# `w[gate][k]`; only where `mine`. Then `for (int t = 0; t < steps; t++) { ... }` around nearly all of `one_step`.

# %% [markdown] tags=["hint"]
# Inside the loop: `if (mine) { ... }` with the body of `one_step`, in which `w[gate][k]` stands instead of
# `weight_hh[...]` and `c` instead of `c[unit]`. After the closing brace of the `if`, still in the loop:
# `grid.sync();`.

# %% tags=["solution"]
all_steps_source = """
#include <cooperative_groups.h>
extern "C" __global__ void all_steps(
        const float* a, const float* weight_hh, float* h, int steps) {
    cooperative_groups::grid_group grid = cooperative_groups::this_grid();
    int unit = blockIdx.x * blockDim.x + threadIdx.x;
    bool mine = unit < HIDDEN;  // else this thread only comes to the barriers
    float w[4][HIDDEN];         // this unit's row of each gate
    float c = 0;

    if (mine)
        for (int gate = 0; gate < 4; gate++)
            for (int k = 0; k < HIDDEN; k++)
                w[gate][k] = weight_hh[(gate * HIDDEN + unit) * HIDDEN + k];

    for (int t = 0; t < steps; t++) {
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
        grid.sync();
    }
}
"""

# %% [markdown]
# Through the sentence once more, in one launch: first in the simulator, which counts the loads and ends what would never
# end by itself, and then, where there is one, on the GPU:

# %%
a = (VECTORS @ PARAMS["weight_ih"].T + PARAMS["bias"]).astype("float32")
weight_hh = PARAMS["weight_hh"].astype("float32")
barriers = 0
try:
    _, counted = launch_all(all_steps_source, a, weight_hh, threads=1, on="simulator")
    h, _ = launch_all(all_steps_source, a, weight_hh, threads=1)
    for word, ours, theirs in zip(WORDS, h[1:], y, strict=True):
        print(f"{word:7} {ours.round(3)}   gl.LSTM {theirs.round(3)}")

    loads, barriers = counted.counts.loads("weight_hh"), counted.counts.grid_barriers
    print(f"{weight_hh.size} weights, {loads} loads, {barriers} barriers of the grid")
except kernels.KernelError as error:
    print("Not yet:", error)

# %% [markdown]
# With your kernel filled in, each weight is read once, whatever the number of steps: the second half of the answer.
#
# ## Why one launch wins
#
# **The launch.** This project measured on one NVIDIA H200 ([the notes](../benchmarks/results/notes.md) have the
# machine and the date; these are that GPU's numbers, not yours):
#
# | from one step to the next | µs |
# |---|---|
# | a kernel after a kernel, launched in a loop | 4.9 with one block, 6.8 with 132 |
# | a kernel after a kernel, recorded once as a *CUDA graph* and replayed | 0.83 to 1.14 |
# | a barrier of the grid inside one kernel | 1.03 to 1.15 |
#
# The barrier costs about a fifth of a launch from the loop. And look at the middle row: a recorded graph is as cheap.
# If launches were all, one would not need a persistent kernel.
#
# **The weights.** A graph reads them anew at every step; they come from the cache at best. The notes say that the
# cache gives 8.8 TB a second if each of the 132 multiprocessors (lesson 15) reads its own part. From that, computed and not measured:

# %%
registers = 132 * 65536 * 4  # multiprocessors, registers in each, bytes in a register
for hidden in (256, 1024, 2048):
    size = 4 * hidden * hidden * 4  # bytes
    fits = "fits" if size < registers else "does not fit"
    microseconds = size / 8.8e12 * 1e6
    print(
        f"H {hidden:4}: weights {size / 1e6:5.1f} MB, {fits} into {registers / 1e6:.0f} MB of",
        f"registers; once from the cache: {microseconds:.1f} µs",
    )

# %% [markdown]
# So for a hidden size of 1024 a step would wait about 2 µs for weights alone. In a persistent kernel they lie in the
# registers already.
#
# **All together**, the persistent forward kernel of gpulstm needs, in training, for each step (measured, its first
# version): 2.0 µs with 256 hidden units and 32 sequences, 3.4 µs with 1024 units and one sequence, 8.5 µs with 1024
# units and 32 sequences.
#
# ### Where it does not win
#
# With 1024 units and 128 sequences a step takes 30.6 µs. There the product itself is the work, and launches hardly
# matter. With 2048 units the weights do not fit. So gpulstm took the loop for 2048 units, and for 1024 units with 256
# sequences. And with 64 units cuDNN, NVIDIA's own library, was ahead when the notes were written: it has a persistent
# kernel of its own.
#
# Weights that do not fit need not all leave the chip. Of the 67 MB for 2048 units,
# [`lstm_wide_forward`](../kernels/lstm_wide_forward.cu) keeps 45 MB in registers and shared memory, and reads the other 22 MB from the
# cache in each step: 2.5 µs by the rate above, instead of 7.6. That is computed; when this was written, nobody had measured it.
#
# ### If you have a GPU: microseconds a step
#
# A thread of yours keeps `4 * HIDDEN` weights, and has at most 255 registers. So this is for 32 hidden units, for
# which NVIDIA's compiler gives the solution above 168 registers. With many more units the weights would spill back
# into memory.


# %% tags=["nbval-ignore-output"]
def microseconds_a_step(run, steps):
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        xp.cuda.get_current_stream().synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds) / steps * 1e6


if xp is np:
    print("No GPU here, so there is nothing to time: the simulator counts, it does not hurry.")
elif not barriers:
    print("Your kernel does not go through the sentence yet, or has no barrier.")
else:
    steps = 1000
    a, weight_hh = map(xp.asarray, random_layer(steps, 32))
    h, c = xp.zeros((steps + 1, 32), dtype="float32"), xp.zeros(32, dtype="float32")
    step = xp.RawKernel(with_hidden(one_step_source, 32), "one_step")
    every = kernels.kernel(with_hidden(all_steps_source, 32))

    def one_by_one():
        for t in range(steps):
            step((4,), (8,), (a, weight_hh, h, c, np.int32(t)))

    def at_once():
        every(4, 8, a, weight_hh, h, np.int32(steps))

    print(f"a launch for each step: {microseconds_a_step(one_by_one, steps):.1f} µs a step")
    print(f"one launch:             {microseconds_a_step(at_once, steps):.1f} µs a step")

# %% [markdown]
# ## The one in gpulstm
#
# [`lstm_persistent_forward`](../kernels/lstm_persistent_forward.cu) does what yours does, with three differences. The
# 16 warps of a block share out each unit's sum, so that many more weights fit. It takes many sequences at once. And it
# has no grid barrier: each number of $h$ [says itself](../kernels/handover.cuh) whether it has arrived.
#
# How can a number do that? Before the launch every bit of `h` is set. `FFFFFFFF` as a float32 is a NaN, and one that a GPU's
# arithmetic never makes: its own NaN is `7FFFFFFF`. So whoever reads `FFFFFFFF` reads again. Here are four units of `h`, of
# which another block has written two:

# %%
row = np.full(4, 0xFFFFFFFF, "uint32")  # of h, as it is before the launch
print(row.view("float32"))
row.view("float32")[:2] = 0.25, -0.5  # written by their block
print(["wait" if word == 0xFFFFFFFF else "here" for word in row])

# %% [markdown]
# Two numbers may become visible in either order, so no number says anything about another one; each is asked for itself.
# From one block to one other that took 0.27 µs in the notes. All to all, 1024 numbers between 132 blocks, it took 1.06 µs:
# as long as a barrier of the grid alone, after which you would only *begin* to read.
#
# With that you know how gpulstm's larger layers go through time. What follows is for those who want to read
# [the kernels](../kernels/README.md) for small ones, too. Lesson 17 does not need it.
#
# ## Small layers: a block for itself
#
# For up to 96 units all of `weight_hh`, in float32, fits into the registers of one block. Then no block waits for another:
# [`lstm_resident_forward`](../kernels/lstm_resident_forward.cu) gives each of them a sequence of its own, $h$ stays in
# shared memory, and one `__syncthreads()` a step is enough. What can still be slow?
#
# Take 64 units: 256 rows of weights, so a thread for each row, and 64 weights in each. All of them need all of $h$. A thread
# can load four numbers at once, 16 bytes. But on the way from shared memory to the registers a multiprocessor moves 128 bytes
# a cycle, and a warp wants 32 times 16, four cycles, even if all its threads want the *same* 16 bytes: each must have them.
# That is how [this project's model](../benchmarks/multiprocessor.py) counts, not a measurement:

# %%
warps, multiplications = 8, 64  # 256 threads; each thread multiplies 64 weights
for what, loads in (("a row for each lane", 16), ("a quarter of each row", 4)):
    print(f"{what:22} {warps * loads * 4:4} cycles a step on the way from shared memory")
cycles = warps * multiplications // 4  # four warps at a time
print(f"{'the multiplications':22} {cycles:4} cycles")

# %% [markdown]
# With a row for each thread, fetching $h$ would take four times as long as multiplying. The second line is the way out. Four
# neighbouring **lanes** (threads of a warp) own a unit together. Here are the weights of one unit, shared out in both ways:

# %%
figures.show(*quarters())

# %% [markdown]
# On the right a lane has as many weights as on the left. But it needs a quarter of $h$ only, and uses each number of it
# four times. The price: it has a quarter of four sums, and wants one whole sum. Lanes can look into each other's
# registers: a **[shuffle](glossary.ipynb#shuffle)**, `__shfl_xor_sync(0xffffffff, value, 1)`, gives each lane the `value` of its neighbour, 0 of 1 and 1
# of 0, 2 of 3 and 3 of 2. With a 2 at the end, 0 swaps with 2, and 1 with 3. (`0xffffffff` says that the whole warp takes part.)
#
# ## Your turn, once more: four quarters
#
# In C, `j ^ lane` flips those bits of `j` that are set in `lane`. The kernel numbers its sums like this:
#
# | | `sum[0]` | `sum[1]` | `sum[2]` | `sum[3]` |
# |---|---|---|---|---|
# | lane 0 | i | f | g | o |
# | lane 1 | f | i | o | g |
# | lane 2 | g | o | i | f |
# | lane 3 | o | g | f | i |
#
# So `sum[0]` is of the lane's own gate. Bring together what belongs to it. Three shuffles are enough, without an `if`.

# %% tags=["exercise"]
quarters_source = """
extern "C" __global__ void quarters(const float* weight_hh, const float* h, float* sums) {
    __shared__ float now[HIDDEN];
    int unit = threadIdx.x / 4;
    int lane = threadIdx.x % 4;
    if (threadIdx.x < HIDDEN) now[threadIdx.x] = h[threadIdx.x];
    __syncthreads();

    float sum[4] = {0, 0, 0, 0};  // a quarter each; sum[j] is of gate j ^ lane
    for (int k = lane * HIDDEN / 4; k < (lane + 1) * HIDDEN / 4; k++) {
        float number = now[k];  // read once, used four times
        for (int j = 0; j < 4; j++)
            sum[j] += weight_hh[((j ^ lane) * HIDDEN + unit) * HIDDEN + k] * number;
    }
    // ← your turn: three shuffles, until sum[0] has all four quarters
    sums[lane * HIDDEN + unit] = sum[0];
}
"""

# %%
check("16.quarters", quarters_source)

# %% [markdown] tags=["hint"]
# Look at lanes 0 and 1. What lane 0 has of gate f, lane 1's gate, stands in `sum[1]`; what lane 1 has of gate i stands in `sum[1]`,
# too. So `float other = __shfl_xor_sync(0xffffffff, sum[1], 1);` gives either what it lacks.

# %% [markdown] tags=["hint"]
# After that, `sum[0]` has two quarters. The other two are with the lane whose number differs by 2, in its `sum[2]` and in its
# neighbour's `sum[3]`. First bring these two together in `sum[2]`, then fetch `sum[2]` from there.

# %% tags=["solution"]
quarters_source = """
extern "C" __global__ void quarters(const float* weight_hh, const float* h, float* sums) {
    __shared__ float now[HIDDEN];
    int unit = threadIdx.x / 4;
    int lane = threadIdx.x % 4;
    if (threadIdx.x < HIDDEN) now[threadIdx.x] = h[threadIdx.x];
    __syncthreads();

    float sum[4] = {0, 0, 0, 0};  // a quarter each; sum[j] is of gate j ^ lane
    for (int k = lane * HIDDEN / 4; k < (lane + 1) * HIDDEN / 4; k++) {
        float number = now[k];  // read once, used four times
        for (int j = 0; j < 4; j++)
            sum[j] += weight_hh[((j ^ lane) * HIDDEN + unit) * HIDDEN + k] * number;
    }
    float own = __shfl_xor_sync(0xffffffff, sum[1], 1);
    float others = __shfl_xor_sync(0xffffffff, sum[3], 1);
    sum[0] += own;
    sum[2] += others;
    float half = __shfl_xor_sync(0xffffffff, sum[2], 2);
    sum[0] += half;
    sums[lane * HIDDEN + unit] = sum[0];
}
"""

# %% [markdown]
# Those are the lines of [`quarter_products.cuh`](../kernels/quarter_products.cuh). (There the weights come from registers and
# the four loads of a lane are four numbers wide.) With its whole sum each lane makes *one* gate; three more shuffles, and all four
# have the unit's new $c$ and $h$.
#
# **Layer norm** in such a kernel costs a second barrier. It divides every sum by the spread of *all* of them, so all must
# have been added up before the first gate can be made. (The cell states are normalised as well, without a third one: each warp makes
# all of them for itself.) At least the mean costs nothing: take off each column's mean from the
# weights beforehand, and the sums have the mean 0, whatever $h$ is:

# %%
_, weight_hh = random_layer(1, 16)
h = np.random.default_rng(3).normal(size=16)
centred = weight_hh - weight_hh.mean(axis=0)
print(f"mean of all 64 sums: {(weight_hh @ h).mean():.3f}")
print(f"with centred weights: {abs((centred @ h).mean()):.3f}")

# %% [markdown]
# ## Sixteen bits: the tensor cores
#
# At 128 units `weight_hh` has 65536 numbers: in float32 they would take every register of the multiprocessor, with 16 bits each
# half of them. And for numbers of 16 bits there is something faster than lanes that multiply: the **[tensor cores](glossary.ipynb#tensor-core)**. One instruction of a warp,
# `mma`, multiplies a tile of 16 x 16 numbers by one of 16 x 8, and sums in float32. Each of the 32 lanes holds a piece of each
# tile and gets four of the 128 sums. Which ones is built into the hardware:
# the lane with the number $4 g + t$ gets rows $g$ and $g + 8$ of columns $2 t$ and $2 t + 1$. (So the kernels call them; this
# $g$ is no gate.)
#
# So put the rows in an order that suits. [`lstm_resident_tensor_forward`](../kernels/lstm_resident_tensor_forward.cu) makes
# two tiles of the rows of 8 units. Each square says which lane gets that sum:

# %%
figures.show(*tiles())

# %% [markdown]
# Lane 13 gets all four sums of unit 3, and makes its cell without asking anyone. The product has eight columns, whether one needs
# them or not: with up to four sequences in a block each stands there twice. With one sequence it stands there eight times; then all
# four lanes of a unit have the same four sums, and each makes one gate of them.
#
# [A model in NumPy](lab/lesson_16_inside.py) knows what each lane holds, and makes the product of nothing else. Four sequences, 8 of 16
# units, numbers small enough to be exact:

# %%
rng = np.random.default_rng(0)
weights = rng.integers(-4, 5, size=(4, 16, 16)).astype("float16")  # (gates, units, hidden)
h = rng.integers(-4, 5, size=(4, 16)).astype("float16")  # (sequences, hidden)

i, f, g, o = weights[:, :8]  # the rows of units 0 to 7
columns = held_of_b(np.repeat(h.T, 2, axis=1))  # each sequence twice
left = mma(held_of_a(np.concatenate([i, f])), columns)  # (32 lanes, 4 sums)
right = mma(held_of_a(np.concatenate([g, o])), columns)

wanted = weights @ h.T  # (gates, units, sequences)
print("lane 13:", left[13, [0, 2]], right[13, [0, 2]], " wanted:", wanted[:, 3, 1])
sums = np.stack([left[:, 0], left[:, 2], right[:, 0], right[:, 2]])  # (gates, 32 lanes)
print("all lanes:", np.array_equal(sums, wanted[:, :8].reshape(4, 32)))

# %% [markdown]
# ### Reading the kernels
#
# Their files' names begin with `lstm_`. Begin each with its head, which says *who owns what*;
# [their list](../kernels/README.md) has all of them.
#
# | kernel | what you know of it |
# |---|---|
# | [persistent](../kernels/lstm_persistent_forward.cu) | your `all_steps`, and numbers that say themselves whether they are there; its sums go through tensor cores, too |
# | [resident](../kernels/lstm_resident_forward.cu) | your `quarters`, in a loop over time |
# | [resident, layer norm](../kernels/lstm_resident_layer_norm_forward.cu) | the same with two barriers |
# | [resident, 16 bits](../kernels/lstm_resident_tensor_forward.cu) | the two tiles above |
# | [wide](../kernels/lstm_wide_forward.cu) | weights of which only a part fits |
# | [cluster](../kernels/lstm_cluster_forward.cu) | new: blocks that write into each other's shared memory |
#
# Each has a twin for the way back, with `backward` in its name. The first two were timed on a GPU, in their first
# versions. Of the others nobody had a time when this was written; the notes say what is expected of them.
#
# ## Three questions

# %% [markdown] tags=["question"]
# Your kernel writes row `t + 1` of `h` and reads row `t`. Could one row do, over and over?
#
# Not with this barrier alone: a fast block would write the new value before a slow one has read the old. Two rows
# that take turns are enough, because nobody can be more than one barrier ahead.

# %% [markdown] tags=["question"]
# Why does $c$ not need the barrier?
#
# Unit $k$'s cell state depends on its own old one and on gates that it computed itself. No other thread reads it.
# What is shared goes through $h$.

# %% [markdown] tags=["question"]
# A colleague launches your kernel with twice as many blocks as the GPU can hold. What would happen if nobody refused?
#
# The blocks that run wait at the barrier for those in the queue, and those wait for a free place. Nothing ever ends:
# a deadlock.

# %% [markdown]
# ## In short
#
# - A [persistent kernel](glossary.ipynb#persistent-kernel) is launched once for all [time
#   steps](glossary.ipynb#time-step). Weights and [cell state](glossary.ipynb#cell-state) stay in registers; only the
#   [hidden state](glossary.ipynb#hidden-state) goes through memory.
# - It saves a [kernel launch](glossary.ipynb#kernel-launch) at each step, and it reads each weight once instead of
#   once a step.
# - It needs a [grid barrier](glossary.ipynb#grid-barrier), to which every thread must come, and all blocks at the
#   same time on the GPU.
# - It pays for weights that fit on the chip and for few sequences. With much arithmetic in a step the loop does as
#   well. Of weights that do not fit, a part may stay on the chip.
# - Where all weights fit into one block, no block waits for another. Then what is read from shared memory should serve
#   several times: four lanes own a unit, or a [tensor core](glossary.ipynb#tensor-core) multiplies whole tiles.
#
# ## What next
#
# Give your kernel an initial state: `c` from an array, and row 0 of `h` not zero. Predict which lines change (beside
# the new argument there is one). The kernels are done; from here on it is about what one builds with them. [Lesson 17](17_dropout.ipynb)
# begins with forgetting on purpose.
