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
# # 12 · Your first kernel
#
# Until now NumPy did the computing, and you wrote `sigmoid(x)` for a whole array. From here on you write what happens
# *inside* such a call, the way a GPU wants it: as a **kernel**, a small function in CUDA C that a great many threads run at
# the same time, each for an element of its own.
#
# You need no GPU. With one, these cells run on it. Without one, they run in the course's simulator, which plays the
# threads one after another. It is slow, but it sees everything, and it names the thread that goes wrong. You need no C
# either: it looks like Python with types, braces and semicolons.
#
# **Afterwards you can**
# - compute which element a thread owns from its block and its place in the block;
# - choose how many blocks an array of any size needs;
# - write, launch and check a kernel that is right on sizes that do not divide.

# %% tags=["start"]
from lab import check, kernels, slider, start

xp = start()  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import numpy as np
from lab import backend
from lab.lesson_12_drawings import grid_over_array
from lab.lesson_12_launching import library_kernel

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# Threads come in **blocks** of equal size, and all blocks together are the **grid**. Lay the grid over the array:

# %%
slider(grid_over_array, elements=(1, 24, 1, 20), threads=(4, 12, 1, 8))

# %% [markdown]
# Here 20 elements meet blocks of 8 threads. Blocks are not cut, so three of them are laid down, and the last one sticks
# out: its hatched threads have no element.
#
# Each thread knows only this about itself:
#
# | name in CUDA C | meaning | in the picture |
# |---|---|---|
# | `threadIdx.x` | its place in its block | the number in the lower square |
# | `blockIdx.x` | the number of its block | below the block |
# | `blockDim.x` | threads in a block | 8 |
# | `gridDim.x` | blocks in the grid | 3 |
#
# (The `.x` is there because a grid can also have a second and a third direction, `.y` and `.z`.)
#
# ## Predict first
#
# 1. Which element lies above thread 5 of block 1?
# 2. How many of the 24 threads have nothing to do?
# 3. A kernel forgets about them, and every thread writes to "its" element. What happens?
#
# ## A kernel that says who computes what
#
# The first kernel puts no sigmoid into the array, only the writer's name: `100 * block + thread`. A kernel is a text.

# %%
who_source = """
extern "C" __global__ void who(float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 100 * blockIdx.x + threadIdx.x;
}
"""
who = kernels.kernel(who_source)

n = 20
y = xp.zeros(n, dtype="float32")
who(3, 8, y, np.int32(n))  # 3 blocks of 8 threads
print(backend.to_numpy(y).astype(int))

# %% [markdown]
# Element 13 holds 105: it was written by thread 5 of block 1, for 1 · 8 + 5 = 13. That is the answer to the first question.
#
# Word by word:
#
# - `extern "C" __global__ void who(...)`: a kernel with the name `who`. It returns nothing, `void`; it writes into an array.
# - `float* y`: an array of float32 numbers. `int n`: a whole number. A kernel does not know how long `y` is, so it is told.
#   Arrays that are only read are written `const float* x`.
# - `int i = ...`: **the thread index**, the sum above. Nearly every kernel begins with this line.
# - `if (i < n)`: **the guard**. Threads without an element do nothing.
# - `who(3, 8, y, np.int32(n))`: **the launch**: blocks, threads in a block, arguments. Say `np.int32` for an `int`: a GPU
#   takes the bytes as they come, and a number of another type would be other bytes.
#
# Nobody loops over the elements. The loop has become the grid.
#
# ## Without the guard
#
# Four threads have no element: the second answer. And when they write all the same?

# %%
careless_source = who_source.replace("if (i < n) ", "")
careless = kernels.simulate(careless_source)
try:
    careless(3, 8, xp.zeros(n, dtype="float32"), np.int32(n))
except kernels.KernelError as error:
    print(error)

# %% [markdown]
# The simulator stops at the first thread that leaves the array. **A GPU would say nothing.** It would write into
# whatever lies behind `y`, perhaps another array of yours, and you would look for the mistake somewhere else. That is why the
# cell above says `kernels.simulate`, which never goes to the GPU, while `kernels.kernel` takes the GPU if there is one.
#
# ## Too few blocks, too many blocks

# %%
for blocks in (2, 3, 4):
    y = xp.zeros(n, dtype="float32")
    who(blocks, 8, y, np.int32(n))
    y = backend.to_numpy(y).astype(int)
    print(f"{blocks} blocks: {blocks * 8} threads, the last elements are {y[-5:]}")

# %% [markdown]
# With two blocks the last four elements stay zero, and no error is raised. With four, the guard holds eight more threads
# back, and everything is right: too many blocks only cost a little time. So the number of blocks is $n$ divided by the block's
# size, rounded **up**.
#
# ## Who is first?
#
# The simulator runs thread 0, then thread 1, and so on. A GPU runs thousands at once, in an order that nobody knows. Does
# it matter here? In the simulator you can turn the order around, or shuffle it:

# %%
simulated = kernels.simulate(who_source)
for order in ("in order", "reverse", "random"):
    y = xp.zeros(n, dtype="float32")
    simulated(3, 8, y, np.int32(n), order=order)
    print(f"{order:9}", backend.to_numpy(y).astype(int)[:12], "...")

# %% [markdown]
# Always the same, because no thread reads what another one writes. That is the rule for this lesson and the next:
# **each thread writes to its own place.** Lesson 14 is about what to do when threads must work together.
#
# ## Your turn: the sigmoid
#
# Write the kernel that sets `y[i]` to the sigmoid of `x[i]`, $1 / (1 + e^{-x})$, and the function that says how many blocks
# `n` elements need. The check launches both on sizes that divide and on sizes that do not. If it names a line, count
# from the opening `"""`: the line after it is line 2.
#
# What you need of C: `expf(a)` is the exponential and `tanhf(a)` the tanh of a `float`; `1.0f` is a float32 one (plain `1.0`
# has 64 bits and makes the GPU work harder); every statement ends with a semicolon; and `//`, which rounds down in Python, begins
# a comment in C.


# %% tags=["exercise"]
sigmoid_source = """
extern "C" __global__ void sigmoid(const float* x, float* y, int n) {
    // ← your turn: the index, the guard, and one line that writes y
}
"""


def blocks_for(n, threads):
    return ...  # ← your turn: a whole number


# %%
check("12.sigmoid", sigmoid_source, blocks_for)

# %% [markdown] tags=["hint"]
# The kernel differs from `who` in its arguments, which are there already, and in what stands right of `y[i] =`. For the blocks:
# Python's `//` rounds down. Which number can you add to `n` beforehand, so that it rounds up, but not too far?

# %% [markdown] tags=["hint"]
# `int i = blockIdx.x * blockDim.x + threadIdx.x;`, then `if (i < n) y[i] = 1.0f / (...);`. And `(n + threads - 1) // threads`
# rounds up; so does `-(-n // threads)`.


# %% tags=["solution"]
sigmoid_source = """
extern "C" __global__ void sigmoid(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 1.0f / (1.0f + expf(-x[i]));
}
"""


def blocks_for(n, threads):
    return (n + threads - 1) // threads


# %% [markdown]
# ## The one in gpulstm
#
# Behind `gl.ops.sigmoid` stands, on a GPU, [such a kernel](../kernels/elementwise.cu). It is written for float32 and float64,
# which it calls `real`, but you can read it now: index, guard, one line. Its length is
# a `long long`, a whole number of 64 bits, so it gets `np.int64`. Here it runs where yours does, on 1000 numbers.
# Blocks of 256 threads are a usual size: full warps, which the next lesson explains, and plenty of them.

# %%
theirs = kernels.kernel(library_kernel("elementwise.cu"), "sigmoid")

n = 1000
x = xp.linspace(-8, 8, n, dtype="float32")
y = xp.zeros(n, dtype="float32")
theirs(4, 256, x, y, np.int64(n))

difference = np.abs(backend.to_numpy(y) - backend.to_numpy(gl.ops.sigmoid(x)))
print("same as gl.ops.sigmoid:", difference.max() < 1e-6)

# %% [markdown]
# It uses $\frac12 \tanh\frac x2 + \frac12$. In NumPy the plain formula complains at $x = -1000$ (lesson 03), because $e^{1000}$
# overflows. In the kernel above the overflow gives infinity, one over infinity is 0, and 0 is right. Both forms pass the check.
#
# ## Three questions

# %% [markdown] tags=["question"]
# An array has 1,000,000 elements, a block 256 threads. Which element does thread 10 of block 1000 own?
#
# 1000 · 256 + 10 = 256,010.

# %% [markdown] tags=["question"]
# How many blocks does that array need, and how many threads stop at the guard?
#
# 1,000,000 / 256 = 3906.25, so 3907 blocks. That makes 1,000,192 threads, of which 192 stop.

# %% [markdown] tags=["question"]
# Somebody writes a running sum as `if (i > 0 && i < n) y[i] = y[i - 1] + x[i];`. If the threads run one after another, in
# order, the sum comes out right. Why is the kernel wrong?
#
# Thread `i` reads what thread `i - 1` writes, and nothing says that the other one is done. In order it happens to be;
# on a GPU it is chance. It is a race, and the simulator names it unless you tell it to go on.

# %% [markdown]
# ## In short
#
# - A [kernel](glossary.ipynb#kernel) is written for one [thread](glossary.ipynb#thread); the
#   [grid](glossary.ipynb#grid) of all blocks takes the place of the loop.
# - The index: `blockIdx.x * blockDim.x + threadIdx.x`. The number of [blocks](glossary.ipynb#block): $n$ over the block's
#   size, rounded up.
# - The [guard](glossary.ipynb#guard) `if (i < n)` holds back the threads that have no element. Without it a GPU writes
#   where it must not, and says nothing.
# - No order is promised. Each thread writes to its own place.
#
# ## What next
#
# Launch `who` with `(5, 4, y, np.int32(20))`, and predict what stands in element 13 before you look. Then write the whole cell
# update as one kernel, and see what memory makes of it: [lesson 13](13_cell_kernel.ipynb).
