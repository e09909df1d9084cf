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
# # 13 · The cell update as a kernel
#
# With lesson 12 you can write the LSTM's heart as a kernel: $c' = f c + i g$ and $h = o \tanh c'$. It will be right at once.
# Whether it is *fast* is decided by something that no formula shows: in which order the numbers lie in memory. Today
# you see that order with your own eyes, and mend it.
#
# **Afterwards you can**
# - write the update of the cell state and the hidden state as one kernel;
# - compute how many memory sectors a warp's request takes from the index in a kernel;
# - mend a layout until every request takes 4 sectors, the least there is.

# %% tags=["start"]
from lab import check, kernels, slider, start

xp = start()  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import numpy as np
from lab import backend, sentence
from lab.lesson_12_launching import library_kernel
from lab.lesson_13_drawings import one_warp_reads, sectors_of_stride, show_accesses
from lab.lessons.lesson_13 import a_step
from lab.stopwatch import seconds

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# A GPU's threads walk in groups of 32, the **warps**. When a kernel says `x[i]`, a whole warp asks at once: that is one
# **request**. Memory, for its part, hands over no single numbers but **sectors** of 32 bytes, which is 8 numbers of float32.
# Here the threads of a warp read numbers side by side. Each number in a square is a thread:

# %%
slider(one_warp_reads, stride=(1, 16, 1, 1))

# %% [markdown]
# 32 numbers, 4 bytes each, are 128 bytes: 4 sectors, and every byte in them is wanted. It cannot be less. When neighbouring threads
# read neighbouring places like this, the access is **coalesced**.
#
# ## Predict first
#
# Now thread `t` reads `x[4 * t]`, every fourth number. How many sectors must come? And with `x[8 * t]`? And `x[16 * t]`?
#
# ## Sectors, counted

# %%
for stride in (1, 2, 4, 8, 16):
    sectors = sectors_of_stride(stride)
    wanted = 4 / sectors
    print(f"x[{stride:2} * t]: {sectors:2.0f} sectors, {wanted:5.1%} of the bytes are wanted")

# %% [markdown]
# Every fourth number: 16 sectors. Every eighth: 32, one for each thread, of which one eighth is wanted. From there on it gets no
# worse. The simulator counts like a GPU's profiler; if there is a slider above, move it.
#
# Why does it matter? A kernel like ours computes next to nothing: per hidden unit it reads 5 numbers, writes 2, and does a
# handful of operations. It spends its time waiting for memory. Eight times the sectors is, at worst, eight times the time.
#
# ## The cell update, first try
#
# One thread owns one hidden unit of one row (a row is one sequence of the batch). It needs its four gates. The most natural
# thing is to put them side by side, `i f g o` of unit 0, then `i f g o` of unit 1:


# %%
def interleave(i, f, g, o):  # each (rows, hidden)
    return np.stack([i, f, g, o], axis=-1)  # (rows, hidden, 4)


first_source = """
extern "C" __global__ void cell_update(
        const float* gates, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;  // counts units, row after row
    if (index >= n) return;                             // n = rows * hidden
    const float* gate = gates + 4 * index;              // now gate[0] is gates[4 * index]
    float i = gate[0];
    float f = gate[1];
    float g = gate[2];
    float o = gate[3];
    float cell = f * c[index] + i * g;
    c_next[index] = cell;
    h[index] = o * tanhf(cell);
}
"""

# %% [markdown]
# Two things are new. `if (...) return;` is the guard of lesson 12 the other way round: who has no unit leaves. And
# `gates + 4 * index` is a **pointer**: a place in the array, from which one counts on.
#
# Is it right? Take the running sentence. For each word lesson 01 knows the gates, the cell state before, and what comes out.

# %%
known = sentence.trace()
gates = interleave(known["i"], known["f"], known["g"], known["o"])
c_before = np.vstack([np.zeros((1, 2)), known["c"][:-1]])  # (4 words, 2 units)


def on_device(array):
    return xp.asarray(array, dtype="float32")


c_next, h = on_device(np.zeros((4, 2))), on_device(np.zeros((4, 2)))
cell_update = kernels.kernel(first_source)
cell_update(1, 32, on_device(gates), on_device(c_before), c_next, h, np.int32(8), np.int32(2))

print("   c          c of lesson 01      h          h of lesson 01")
for word in range(4):
    ours = [backend.to_numpy(c_next)[word], known["c"][word]]
    ours += [backend.to_numpy(h)[word], known["h"][word]]
    print("  ".join(f"{a:6.3f} {b:6.3f}  " for a, b in ours), sentence.WORDS[word])

# %% [markdown]
# Right, for all four words. And now the memory, with 32 rows of 32 hidden units:

# %%
i, f, g, o, c = a_step(rows=32, hidden=32)  # random, all in the range of gates and states
c_next, h = np.zeros_like(c), np.zeros_like(c)
n, hidden = np.int32(c.size), np.int32(32)

counted = kernels.simulate(first_source)
counted(8, 128, interleave(i, f, g, o), c, c_next, h, n, hidden)
counted.report()

# %%
show_accesses(first_source, interleave)

# %% [markdown]
# The accesses to `c`, `c_next` and `h` are perfect: 4 sectors. But each of the four reads from `gates` takes 16: thread `t` reads
# `gates[4 * t]`, and that is the second row of the table above. Hatched is what comes along although *this* request does
# not want it.
#
# An honest word: the next three requests do want the hatched numbers, and a GPU has caches that may still hold them, so the loss in
# seconds is smaller than the count says. It is certain only that every request takes four times as many sectors as it must. The
# simulator leaves caches aside.
#
# ## Your turn: mend the layout
#
# Below stands the first try once more. Change both the arrangement and the kernel, so that every request of a warp takes 4
# sectors. The kernel's arguments stay as they are; only where a gate lies may change. The check counts.


# %% tags=["exercise"]
def arrange(i, f, g, o):  # each (rows, hidden), NumPy
    return np.stack([i, f, g, o], axis=-1)  # ← your turn: where do the gates lie?


cell_update_source = """
extern "C" __global__ void cell_update(
        const float* gates, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    const float* gate = gates + 4 * index;  // ← your turn: where does it look?
    float i = gate[0];
    float f = gate[1];
    float g = gate[2];
    float o = gate[3];
    float cell = f * c[index] + i * g;
    c_next[index] = cell;
    h[index] = o * tanhf(cell);
}
"""

# %%
check("13.cell-update", arrange, cell_update_source)

# %% [markdown] tags=["hint"]
# Thread `t` and thread `t + 1` have neighbouring units. So the input gates of neighbouring units must be neighbours, then all
# forget gates, and so on. `np.concatenate` does that within each row: `(rows, 4 * hidden)`.

# %% [markdown] tags=["hint"]
# A row has `4 * hidden` numbers now. With `int row = index / hidden;` (in C, `/` between whole numbers rounds down) and
# `int unit = index % hidden;` the input gate lies at `gates + row * 4 * hidden + unit`. The other three lie `hidden` further on each.


# %% tags=["solution"]
def arrange(i, f, g, o):  # each (rows, hidden), NumPy
    return np.concatenate([i, f, g, o], axis=1)  # (rows, 4 * hidden)


cell_update_source = """
extern "C" __global__ void cell_update(
        const float* gates, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    int row = index / hidden;
    int unit = index % hidden;
    const float* gate = gates + row * 4 * hidden + unit;
    float i = gate[0];
    float f = gate[hidden];
    float g = gate[2 * hidden];
    float o = gate[3 * hidden];
    float cell = f * c[index] + i * g;
    c_next[index] = cell;
    h[index] = o * tanhf(cell);
}
"""

# %% [markdown]
# Your own accesses, drawn: the first request of the first warp.

# %%
show_accesses(cell_update_source, arrange)

# %% [markdown]
# ## The one in gpulstm
#
# In gpulstm, as in most LSTM libraries, the gates lie as `(rows, 4 * hidden)`: within a row all input gates, all forget gates, all
# candidates, all output gates. That is also how the matrix product with `weight_ih (4H, I)` delivers them, so nobody has to
# rearrange anything. [The kernel](../kernels/cell_update.cu) is the twin of yours. Here are its sectors, and its numbers
# against `gl.ops.cell_update`:

# %%
library_source = library_kernel("cell_update.cu")
theirs = kernels.simulate(library_source, "cell_update")
side_by_side = np.concatenate([i, f, g, o], axis=1)  # (rows, 4 * hidden)
theirs(8, 128, side_by_side, c, c_next, h, np.int64(n), hidden)
for name in ("gates", "c", "c_next", "h"):
    print(f"{name:7} {theirs.counts.sectors_per_request(name):.0f} sectors per request")

wanted_c, wanted_h = gl.ops.cell_update(side_by_side, c)
print("c as in gl.ops:", np.allclose(c_next, wanted_c), " h:", np.allclose(h, wanted_h))

# %% [markdown]
# For training and inference gpulstm goes one step further: [`lstm_forward_step`](../kernels/lstm_forward_step.cu) does the
# gates' sigmoid and tanh in the same kernel, before it uses them. Such *fusing* is the subject of lesson 15.
#
# ### If you have a GPU: the bandwidth
#
# Sectors are a count; seconds are what one waits for. This cell measures both layouts with 470 million bytes. Without a GPU it
# says so and does nothing. Compare with the bandwidth that your GPU's maker promises.
#
# A launch comes back to Python before the GPU is done, so a clock around it would say nothing. And whoever waits for each
# launch's end measures the waiting, too. Hence [`seconds`](lab/stopwatch.py): it launches twenty times in a row, and two *events*, marks in
# the queue of what the GPU has to do, say what lies between them.


# %% tags=["nbval-ignore-output"]
def gigabytes_a_second(source, number, rows=16384, hidden=1024):
    gates = xp.zeros((rows, 4 * hidden), dtype="float32")
    c, c_next, h = (xp.zeros((rows, hidden), dtype="float32") for _ in range(3))
    arguments = gates, c, c_next, h, number(c.size), np.int32(hidden)
    kernel = xp.RawKernel(source, "cell_update")  # CuPy's own: it does not wait for the end
    taken = seconds(lambda: kernel((c.size // 256,), (256,), arguments), xp)
    return 28 * c.size / taken / 1e9  # 7 numbers of 4 bytes for each unit


if cell_update.on == "gpu":
    print(f"interleaved:  {gigabytes_a_second(first_source, np.int32):.0f} GB a second")
    print(f"side by side: {gigabytes_a_second(library_source, np.int64):.0f} GB a second")
else:
    print("No GPU here, so there is nothing to time: the simulator counts, it does not hurry.")

# %% [markdown]
# ## Three questions

# %% [markdown] tags=["question"]
# A warp reads `x[t + 1]` instead of `x[t]`, still side by side, one place further. How many sectors?
#
# Five: 128 bytes that do not begin at the border of a sector touch one more. One lost in five is cheap; it is the strides that
# are dear.

# %% [markdown] tags=["question"]
# Somebody numbers the threads the other way: `row = index % rows; unit = index / rows`. The results are the same. What about the
# sectors?
#
# Neighbouring threads then have the same unit of different rows, and their numbers lie `hidden` or `4 * hidden` apart. With 32
# rows or more and a hidden size of at least 8 that makes 32 sectors for each request, for `c` and `h` too. The formulas do not show it; the index does.

# %% [markdown] tags=["question"]
# All 32 threads of a warp read the same number, `bias[0]`. How many sectors?
#
# One. The memory delivers the sector once, and all threads take from it.

# %% [markdown]
# ## In short
#
# - A [warp](glossary.ipynb#warp) of 32 threads asks together; memory answers in
#   [sectors](glossary.ipynb#memory-sector) of 32 bytes.
# - [Coalesced](glossary.ipynb#coalescing) means: neighbouring threads, neighbouring places. For float32 that is 4 sectors a request;
#   every fourth place takes 16, every eighth 32.
# - The gates lie as `(rows, 4 * hidden)`, in the order i, f, g, o, so that each gate is read side by side.
# - The update reads 5 numbers a unit and writes 2. It waits for [bandwidth](glossary.ipynb#bandwidth), not for arithmetic.
#
# ## What next
#
# In your kernel, let `index` begin at the other end, `n - 1 - (...)`, with a guard that fits. Predict the sectors before you count them. Then comes the way back:
# [lesson 14](14_backward_kernel.ipynb), in which threads must wait for each other.
