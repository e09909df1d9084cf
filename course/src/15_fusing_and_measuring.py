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
# # 15 · Fusing and measuring
#
# In NumPy a step of the LSTM is a few lines, and each of them writes an array that the next one reads. On a GPU each
# line becomes a kernel. You have learned to write kernels; today you make four of them into **one**, and learn to say
# beforehand what that is worth: by counting bytes.
#
# **Afterwards you can**
# - count the bytes that a chain of kernels moves for each hidden unit;
# - fuse four kernels into one and prove that it loads 5 numbers for each hidden unit, not 11;
# - place a kernel under a roofline and tell whether memory or arithmetic holds it up.

# %% tags=["start"]
from lab import check, figures, kernels, slider, start

xp = start()  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import numpy as np
from lab import backend, lesson_15_drawings
from lab.lesson_12_launching import library_kernel
from lab.lesson_15_drawings import counted, per_unit, roofline, timeline
from lab.lessons.lesson_15 import a_step, step
from lab.stopwatch import seconds

# %% [markdown]
# ## The picture
#
# On the left an LSTM step after its matrix products, line by line as NumPy would do it. Solid arrows are read, dashed
# ones are written. On the right the same step as one kernel.

# %%
figures.show(*lesson_15_drawings.through_memory())

# %% [markdown]
# `a` holds the **preactivations**, $W_{ih} x + W_{hh} h + b$, four for each hidden unit, in the layout of lesson 13:
# `(rows, 4 * hidden)`.
#
# What a thread has in a variable lies in a [register](glossary.ipynb#register), on the chip, at its fingertips. But a variable lives no
# longer than its kernel. The next kernel is a new crowd of threads, and all that it inherits is what was written to
# memory.
#
# ## Predict first
#
# Count the numbers, not the arrows; `i f g o` are four.
#
# 1. How many numbers do the four kernels read for each hidden unit, and how many do they write?
# 2. And the one on the right?
#
# ## Four kernels
#
# A source may hold several kernels; one asks for each by its name. `__device__` marks a function that kernels call.

# %%
four_source = """
__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

extern "C" __global__ void activate(const float* a, float* gates, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;  // one thread for each gate
    if (index >= 4 * n) return;
    bool is_candidate = index / hidden % 4 == 2;
    float x = a[index];
    gates[index] = is_candidate ? tanhf(x) : sigmoid(x);
}

extern "C" __global__ void update_cell(
        const float* gates, const float* c, float* c_next, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    const float* gate = gates + index / hidden * 4 * hidden + index % hidden;
    c_next[index] = gate[hidden] * c[index] + gate[0] * gate[2 * hidden];
}

extern "C" __global__ void squash(const float* c_next, float* squashed, int n) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < n) squashed[index] = tanhf(c_next[index]);
}

extern "C" __global__ void show(
        const float* gates, const float* squashed, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    const float* gate = gates + index / hidden * 4 * hidden + index % hidden;
    h[index] = gate[3 * hidden] * squashed[index];
}
"""
NAMES = ("activate", "update_cell", "squash", "show")

# %% [markdown]
# Launched one after the other, each waits until the one before is done:


# %%
def four_launches(a, c, make):
    """c_next, h and the four kernels; make is kernels.kernel or kernels.simulate."""
    n, hidden = np.int32(c.size), np.int32(c.shape[1])
    gates, c_next, squashed, h = (xp.empty_like(like) for like in (a, c, c, c))
    activate, update_cell, squash, show = four = [make(four_source, name) for name in NAMES]
    blocks = -(-c.size // 128)
    activate(4 * blocks, 128, a, gates, n, hidden)
    update_cell(blocks, 128, gates, c, c_next, n, hidden)
    squash(blocks, 128, c_next, squashed, n)
    show(blocks, 128, gates, squashed, h, n, hidden)
    return c_next, h, four


a, c = (xp.asarray(array) for array in a_step(rows=32, hidden=32))  # random
c_next, h, _ = four_launches(a, c, kernels.kernel)
wanted_c, wanted_h = step(backend.to_numpy(a), backend.to_numpy(c))  # in NumPy
print("c_next right:", np.allclose(backend.to_numpy(c_next), wanted_c, atol=1e-5))
print("h right:     ", np.allclose(backend.to_numpy(h), wanted_h, atol=1e-5))

# %% [markdown]
# ## The bytes, counted
#
# The simulator counts loads and stores, wherever the values came from. For each hidden unit:

# %%
_, _, four = four_launches(a, c, kernels.simulate)
parts = [(one.name, *per_unit(one.counts, c.size)) for one in four]
for name, loads, stores in parts:
    print(f"{name:12} {loads:3.0f} loads {stores:3.0f} stores")
loads, stores = (sum(part[k] for part in parts) for k in (1, 2))
print(
    f"{'together':12} {loads:3.0f} loads {stores:3.0f} stores, {4 * (loads + stores):.0f} bytes"
)

# %% [markdown]
# That is the answer to the first question: 11 and 7, which makes 72 bytes of float32. As a timeline, in which time is
# counted in bytes:

# %%
figures.show(*timeline(("four kernels", parts)))

# %% [markdown]
# Of all this, five numbers are news from outside, four preactivations and $c$, and two are results, $c'$ and $h$.
# That is the second answer: 5 and 2, or 28 bytes. Everything else goes to memory only to be fetched again.
#
# ## Your turn: one kernel
#
# Write the whole step as one kernel. The thread owns one hidden unit of one row, and `mine` is the place of its first
# preactivation. Each number may be read once and only what is needed later may be written: 5 loads and 2 stores. The
# check counts.

# %% tags=["exercise"]
fused_source = """
extern "C" __global__ void lstm_step(
        const float* a, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    const float* mine = a + index / hidden * 4 * hidden + index % hidden;

    // ← your turn: four gates, the new cell state, two stores
}
"""

# %%
check("15.fused", fused_source)

# %% [markdown] tags=["hint"]
# What was an array becomes a variable: `float i = ...;`, `float f = ...;`, and so on, then `float cell = ...;`. A
# variable that you use twice costs nothing the second time; `c_next[index]`, read after it was written, costs a load.

# %% [markdown] tags=["hint"]
# `float i = 1.0f / (1.0f + expf(-mine[0]));` is the first gate. The forget gate's preactivation is `mine[hidden]`,
# the candidate's `mine[2 * hidden]`, and it gets `tanhf`. The end is that of lesson 13's kernel.

# %% tags=["solution"]
fused_source = """
extern "C" __global__ void lstm_step(
        const float* a, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    const float* mine = a + index / hidden * 4 * hidden + index % hidden;

    float i = 1.0f / (1.0f + expf(-mine[0]));
    float f = 1.0f / (1.0f + expf(-mine[hidden]));
    float g = tanhf(mine[2 * hidden]);
    float o = 1.0f / (1.0f + expf(-mine[3 * hidden]));
    float cell = f * c[index] + i * g;
    c_next[index] = cell;
    h[index] = o * tanhf(cell);
}
"""

# %% [markdown]
# Yours, below the four, as soon as there is something to draw:

# %%
counts = counted(fused_source)  # None while the kernel is empty
if counts:
    figures.show(*timeline(("four kernels", parts), ("yours", [("", *per_unit(counts, 1024))])))

# %% [markdown]
# At its best the fused kernel needs 28 bytes instead of 72, 2.6 times fewer, and one launch instead of four. That is
# a count. What does it say about seconds?
#
# ## The roofline
#
# A kernel needs two things, bytes and arithmetic. Whichever takes longer is its limit. The arithmetic of a kernel
# divided by its bytes says which one it is, and the **roofline** is the picture of that. Here is the roof of one
# NVIDIA H200, as [this project measured it](../benchmarks/results/notes.md): it copies 4.30 TB a second, and does 53
# trillion float32 operations a second (on other GPUs both are other numbers, but the picture is the same).

# %%
operations = sum(one.counts.flops for one in four)
points = {"four kernels": operations / sum(one.counts.bytes_wanted() for one in four)}
if counts:
    points["your kernel"] = counts.flops / counts.bytes_wanted()
for name, intensity in points.items():
    print(f"{name}: {intensity:.2f} operations for each byte")


def under_the_roof(batch):
    return roofline(points, batch)


slider(under_the_roof, batch=(1, 256, 1, 32))

# %% [markdown]
# Where the line bends, at 12 operations for each byte, this GPU is in balance. A kernel further left waits for
# memory; what it computes in the meantime is free. Our step is far to the left, fused or not. So its time is its
# bytes divided by the bandwidth, and fewer bytes are **all** that helps.
#
# The point of the matrix product is that of $W_{hh} h$ at a hidden size of 1024, computed as if each number were
# moved once. With a batch of 1 every weight is fetched for two operations only. With a larger batch each weight is
# used for all rows, and the point moves to the right.
#
# Four honest words. The points say what is possible *at most*; nobody has measured them here. The simulator counts an
# exponential as one operation, which flatters. It counts what you wrote, and a compiler may spare a load or two. And
# it leaves caches aside: a GPU may still find in them what the kernel before has written, if it is small enough, so
# four kernels can lose less than the count says.
#
# ## The other cost: the launch
#
# The same measurements say what an empty kernel after an empty kernel costs, launched from Python in a loop: 4.9 µs
# for one block, 6.8 µs for 132, which is one for each of that GPU's [multiprocessors](glossary.ipynb#multiprocessor), the parts of it on which
# blocks run. Next to that, how long do the bytes take? This is computed from those measured figures, for a hidden
# size of 1024:

# %%
for rows in (1, 32, 1024):
    four_times, once = (each * rows * 1024 / 4.30e12 * 1e6 for each in (72, 28))
    print(
        f"{rows:4} rows: four kernels {four_times:6.3f} µs of bytes, 4 x 4.9 µs of launches;",
        f"one kernel {once:6.3f} µs and 4.9 µs",
    )

# %% [markdown]
# The processor prepares the next launch while the GPU still works, so the larger of the two counts, roughly, and not
# the sum. With 1 or 32 rows it is the launches by far: there the three launches that fusing saves are worth more than
# all its bytes. With a thousand rows both count.
#
# And an LSTM takes such a step for each word. What if even the *one* launch a step could go? That is lesson 16.
#
# ## Your own machine
#
# These numbers are yours: this cell measures, on the GPU or on the processor, what a copy and a matrix product reach
# here. A GPU gets more to do: what fits into its cache, or is over sooner than Python has asked for it, would say little
# about its memory. The outputs stored in this notebook are those of the processor that built it.

# %% tags=["nbval-ignore-output"]
elements, side = (8_000_000, 1024) if xp is np else (64_000_000, 4096)
big, target = xp.ones(elements, dtype="float32"), xp.zeros(elements, dtype="float32")
bandwidth = 2 * big.nbytes / seconds(lambda: xp.copyto(target, big), xp, times=5)
square = xp.ones((side, side), dtype="float32")
speed = 2 * side**3 / seconds(lambda: square @ square, xp, times=5)
print(f"{bandwidth / 1e9:.0f} GB a second, {speed / 1e9:.0f} billion operations a second")
print(f"In balance at {speed / bandwidth:.0f} operations for each byte.")

# %% [markdown]
# And the two versions against each other. It takes a GPU: the simulator plays threads one after another, so its
# seconds say nothing.

# %% tags=["nbval-ignore-output"]
if xp is np:
    print("No GPU here, so there is nothing to time: the simulator counts, it does not hurry.")
elif not counts:
    print("There is nothing to time yet: your kernel is not ready.")
else:
    from cupyx.profiler import benchmark

    rows, units = 16384, 1024
    a, c = (xp.zeros((rows, width), dtype="float32") for width in (4 * units, units))
    gates, c_next, squashed, h = (xp.empty_like(like) for like in (a, c, c, c))
    n, hidden, blocks = np.int32(c.size), np.int32(units), c.size // 128
    activate, update_cell, squash, show = (xp.RawKernel(four_source, name) for name in NAMES)
    one = xp.RawKernel(fused_source, "lstm_step")

    def run_four():
        activate((4 * blocks,), (128,), (a, gates, n, hidden))
        update_cell((blocks,), (128,), (gates, c, c_next, n, hidden))
        squash((blocks,), (128,), (c_next, squashed, n))
        show((blocks,), (128,), (gates, squashed, h, n, hidden))

    def run_one():
        one((blocks,), (128,), (a, c, c_next, h, n, hidden))

    for run in (run_four, run_one):
        taken = np.median(benchmark(run, n_repeat=50).gpu_times)  # in seconds
        print(f"{run.__name__}: {taken * 1e6:.0f} µs on the GPU")

# %% [markdown]
# `cupyx.profiler.benchmark` comes with CuPy. It repeats, warms up first, and gives the processor's time and the GPU's
# apart. For more, NVIDIA has two programs, and you know now what to look for in each:
#
# | program | shows | you know it from |
# |---|---|---|
# | `nsys` (Nsight Systems) | the timeline: a bar for each kernel, and the gaps between them | the picture of bars above |
# | `ncu` (Nsight Compute) | one kernel: sectors for each request, bytes, its place under the roofline | `report()` and the roofline |
#
# ## The one in gpulstm
#
# [`lstm_forward_step`](../kernels/lstm_forward_step.cu) is the twin of your kernel. It can add the bias, mind the
# lengths of lesson 08 and, for training, keep the gates for the way back. Its loads and stores for each hidden unit:

# %%
for keep in (0, 1):
    theirs = kernels.simulate(library_kernel("lstm_forward_step.cu", KEEP=keep))
    a, c = a_step(rows=32, hidden=32)
    cells, hiddens, y, unused = c.copy(), c.copy(), c.copy(), np.zeros(1, "float32")
    lengths = np.zeros(1, "int32")
    # step, time, two slots, batch, hidden, y's width, offset
    numbers = (0, 0, 0, 0, 32, 32, 32, 0)
    theirs(8, 128, a, unused, cells, hiddens, y, lengths, *map(np.int32, numbers))
    print(
        "KEEP" if keep else "    ", *(f"{many:.0f}" for many in per_unit(theirs.counts, c.size))
    )

# %% [markdown]
# Five loads, like yours. It stores three numbers and not two, because $h$ goes both to the output and to the next
# step's product. With `KEEP` the four activated gates are stored as well, because the way back needs them.
#
# ## Three questions

# %% [markdown] tags=["question"]
# Somebody fuses only `update_cell`, `squash` and `show`, and leaves `activate` alone. How many bytes for each hidden
# unit?
#
# 60. `activate` keeps its 4 + 4. The rest reads four gates and $c$ and writes two: 5 + 2. Together 15 numbers.

# %% [markdown] tags=["question"]
# Your GPU's maker sells a new one with twice the arithmetic and the same bandwidth. What becomes of the fused kernel?
#
# Nothing. It is on the slope, where only bandwidth counts. The bend of the roof moves to the right.

# %% [markdown] tags=["question"]
# Why not fuse the matrix product into the step as well?
#
# It can be done, but it is another kind of work: each $h$ is needed by *all* hidden units, so threads must wait for
# each other, across all blocks. That is what lesson 16 does.

# %% [markdown]
# ## In short
#
# - A [fused kernel](glossary.ipynb#fused-kernel) keeps in registers what would go to memory and back. Here: 5 loads
#   and 2 stores for each hidden unit, not 11 and 7.
# - The [roofline](glossary.ipynb#roofline) says what holds a kernel up. The LSTM's step, fused, does about half an
#   operation for each byte, and waits for [bandwidth](glossary.ipynb#bandwidth).
# - A [kernel launch](glossary.ipynb#kernel-launch) costs microseconds, whatever the kernel does.
# - A count is the same everywhere; a time belongs to a machine. Say which of the two you have.
#
# ## What next
#
# Let your kernel write `h` twice, once into a second array `y`. Predict loads, stores and bytes before you count
# them. Then let the launches go: [lesson 16](16_one_launch.ipynb).
