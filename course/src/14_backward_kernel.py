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
# # 14 · The way back, and threads that wait
#
# Two kernels today, and then you have an LSTM's step there and back in CUDA C, matrix products aside. The first turns
# lesson 09's backward step into a kernel; there every thread still works for itself. The second sums up the gradient of
# the bias. A sum needs the numbers of *all* threads. So for the first time threads must work together, and
# **who needs another's number must wait until it is there.**
#
# **Afterwards you can**
# - write the backward kernel of one LSTM step;
# - sum the columns of a matrix with a tree in shared memory;
# - place the barriers, and find a missing one from what the simulator says.

# %% tags=["start"]
from lab import check, figures, kernels, start

xp = start()  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import numpy as np
from lab import backend, lesson_14_drawings
from lab.lesson_12_launching import library_kernel
from lab.lesson_14_drawings import show_column_tree, show_tree
from lab.lessons.lesson_14 import backward_data

# %% [markdown]
# ## The picture
#
# Eight threads hold one number each, in `part[0]` to `part[7]`. To sum them up, half of the threads each add one number of
# the other half. Then a quarter, then one thread. Dashed arrows cross from one thread's place to another's:

# %%
figures.show(*lesson_14_drawings.picture())

# %% [markdown]
# Such a tree is called a **reduction**. The thick lines are **barriers**: no thread goes on until all have arrived. Look at
# `part[1]` at the end of the second round. Thread 0 wants it in the third, but thread 1 must have finished it before.
#
# ## Predict first
#
# 1. A tree over 256 numbers: how many rounds? (One by one it would be 255 additions in a row.)
# 2. Somebody leaves the barrier between the rounds out. Is the sum then always wrong, sometimes wrong, or never?
#
# ## The formulas of the way back
#
# First the kernel in which nobody waits. This is `gate_gradients` of lesson 09, line by line; $dh$ is the gradient of $h'$, and
# $dc$ what comes back along the upper lane from the step after:


# %%
def gate_gradients(dh, dc, i, f, g, o, c, c_next):
    shown = np.tanh(c_next)
    dc_next = dc + dh * o * (1 - shown**2)
    da_i = dc_next * g * i * (1 - i)
    da_f = dc_next * c * f * (1 - f)
    da_g = dc_next * i * (1 - g**2)
    da_o = dh * shown * o * (1 - o)
    dc_before = dc_next * f
    return (da_i, da_f, da_g, da_o), dc_before


# %% [markdown]
# The kernel has the shape of lesson 13's: one thread owns one hidden unit of one row, and the gates lie as `(rows, 4 * hidden)`,
# gate after gate within a row. `da` lies exactly like `gates`.
#
# ## Your turn, first: the backward kernel
#
# Index, guard and gates are there. Write what is missing: two lines that compute, and five that store. Remember that in C a
# power is a product, `shown * shown`, and numbers are `1.0f`.

# %% tags=["exercise"]
backward_source = """
extern "C" __global__ void backward(
        const float* gates, const float* c, const float* c_next,
        const float* dh, const float* dc, float* da, float* dc_before, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    int first = index / hidden * 4 * hidden + index % hidden;  // of this unit's input gate
    float i = gates[first];
    float f = gates[first + hidden];
    float g = gates[first + 2 * hidden];
    float o = gates[first + 3 * hidden];

    // ← your turn: shown and dc_next, then da[first] and so on, and dc_before[index]
}
"""

# %%
check("14.backward", backward_source)

# %% [markdown] tags=["hint"]
# `float shown = tanhf(c_next[index]);` is the first of the two. Arrays of shape `(rows, hidden)` are read and written at `index`,
# those of shape `(rows, 4 * hidden)` at `first` and `hidden`, `2 * hidden`, `3 * hidden` further on.

# %% [markdown] tags=["hint"]
# `float dc_next = ...` may not have the name of an argument, and does not: the arguments are `dc` and `c_next`. Then
# `da[first + hidden] = dc_next * c[index] * f * (1.0f - f);` is the forget gate's line. The other three are like it.

# %% tags=["solution"]
backward_source = """
extern "C" __global__ void backward(
        const float* gates, const float* c, const float* c_next,
        const float* dh, const float* dc, float* da, float* dc_before, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;
    int first = index / hidden * 4 * hidden + index % hidden;  // of this unit's input gate
    float i = gates[first];
    float f = gates[first + hidden];
    float g = gates[first + 2 * hidden];
    float o = gates[first + 3 * hidden];

    float shown = tanhf(c_next[index]);
    float dc_next = dc[index] + dh[index] * o * (1.0f - shown * shown);
    da[first] = dc_next * g * i * (1.0f - i);
    da[first + hidden] = dc_next * c[index] * f * (1.0f - f);
    da[first + 2 * hidden] = dc_next * i * (1.0f - g * g);
    da[first + 3 * hidden] = dh[index] * shown * o * (1.0f - o);
    dc_before[index] = dc_next * f;
}
"""

# %% [markdown]
# ## Everybody adds to one place
#
# The bias is added in every row, at every step. So its gradient is the sum of `da` over all rows: each of the `4 * hidden`
# columns becomes one number. Begin with one column only, 200 numbers. The obvious kernel:

# %%
x = np.random.default_rng(0).uniform(-1, 1, 200).astype("float32")

obvious_source = """
extern "C" __global__ void sum(const float* x, float* total, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) total[0] += x[i];
}
"""
obvious = kernels.simulate(obvious_source)
try:
    obvious(7, 32, x, np.zeros(1, "float32"), np.int32(200))
except kernels.KernelError as error:
    print(error)

# %% [markdown]
# A **race**. `total[0] += x[i]` is three things: read, add, write. Two threads that read the same old value both write
# back their own sum, and one of the two is lost. On a GPU most of the additions would be lost, and each time
# different ones.
#
# `atomicAdd` makes the three things one that nobody can interrupt. That is right, but in what order do the threads come? In
# float32 that matters:

# %%
atomic = kernels.simulate(obvious_source.replace("total[0] += x[i]", "atomicAdd(total, x[i])"))
for order in ("in order", "reverse", "random"):
    total = np.zeros(1, "float32")
    atomic(7, 32, x, total, np.int32(200), order=order)
    print(f"{order:9} {total[0]:.7f}")

# %% [markdown]
# The same numbers, and other last digits, because each addition rounds. With atomics a training run can hardly be
# repeated bit by bit, and 200 threads stand in a queue besides.
#
# ## The tree
#
# Threads of one block have a small, fast memory in common, **shared memory**, and a barrier, `__syncthreads()`. Here is the
# kernel of the picture:

# %%
tree_source = """
extern "C" __global__ void tree(const float* x, float* total) {
    __shared__ float part[8];          // one for the whole block
    int t = threadIdx.x;
    part[t] = x[t];
    __syncthreads();                   // now all of part is filled
    for (int half = 4; half > 0; half /= 2) {
        if (t < half) part[t] += part[t + half];
        __syncthreads();               // now this round is done
    }
    if (t == 0) total[0] = part[0];
}
"""
eight = xp.arange(8, dtype="float32")  # 0 + 1 + ... + 7 is 28
total = xp.zeros(1, dtype="float32")
tree = kernels.kernel(tree_source)
tree(1, 8, eight, total)
print("total", backend.to_numpy(total)[0])

# %% [markdown]
# `half` goes 4, 2, 1: three rounds. 256 numbers need 8 rounds, for each round halves what is left: the first answer.
# (The loop ends with one barrier more than the picture has. Nobody needs that one: thread 0 then reads only what it wrote
# itself.)
#
# And without the barrier in the loop? In the simulator you can say `strict=False`, so that it goes on after a mistake, and in which order
# the threads come:

# %%
hurried_source = tree_source.replace("        __syncthreads();  ", "        // no barrier    ")
hurried = kernels.simulate(hurried_source)
for order in ("in order", "reverse"):
    total = np.zeros(1, "float32")
    hurried(1, 8, np.arange(8, dtype="float32"), total, strict=False, order=order)
    print(f"{order:9} total {total[0]}")
print(hurried.findings[0])

# %%
show_tree(hurried)

# %% [markdown]
# **Sometimes wrong.** In one order the result is 7, in the other it happens to be 28. That is the worst kind of mistake: on a
# GPU it may pass every test today, and fail next year on another one. The simulator does not go by the result. It looks
# at who touched which place since the last barrier, and so it names the race in *either* order: the line, the two threads, the
# place. Read the message once more and find `part[1]` in the picture.
#
# Two rules follow:
# - between a write and another thread's read, or write, of the same place there is a barrier;
# - **all** threads of the block come to each barrier. None may have returned before, and it may not stand in an `if` that only
#   some of them enter. That is why in the tree the `if` stands around the addition alone. (Newer GPUs may forgive threads that have
#   returned. Do not lean on it.)
#
# ## Your turn: the sums of all columns
#
# The bias gradient has `4 * hidden` columns and any number of rows. A block takes 32 columns, so that a warp reads 32
# neighbours (lesson 13), and it has 8 **lanes** of threads for them: lane 0 adds up the rows 0, 8, 16, ..., lane 1 the rows 1, 9,
# 17, ... (These lanes have nothing to do with the upper lane, on which $c$ travels.) A block has two directions for that, `(32, 8)`: `threadIdx.x` is the column in the block, `threadIdx.y` the lane.
#
# Then each column has 8 partial sums, in `part[0][...]` to `part[7][...]`. Write the rest: the tree over the lanes, its barriers,
# and the last line, which stores the sum of each column.

# %% tags=["exercise"]
column_sum_source = """
extern "C" __global__ void column_sum(const float* matrix, float* sums, int rows, int columns) {
    __shared__ float part[8][32];
    int lane = threadIdx.y;
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < columns)
        for (int row = lane; row < rows; row += 8) sum += matrix[row * columns + column];
    part[lane][threadIdx.x] = sum;
    // ← your turn: fold the lanes, with barriers, and write sums[column]
}
"""

# %%
check("14.column-sum", column_sum_source)

# %% [markdown] tags=["hint"]
# It is the tree from above: in place of `t` stands `lane`, and `part` has a second index, `[threadIdx.x]`, which stays the same
# everywhere. Every column is folded at the same time.

# %% [markdown] tags=["hint"]
# A barrier, then `for (int half = 4; half > 0; half /= 2) { ... }` with an addition `if (lane < half)` and a barrier that is
# outside of that `if`. At the end only lane 0 writes, and only where there is a column: `if (lane == 0 && column < columns)`.

# %% tags=["solution"]
column_sum_source = """
extern "C" __global__ void column_sum(const float* matrix, float* sums, int rows, int columns) {
    __shared__ float part[8][32];
    int lane = threadIdx.y;
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < columns)
        for (int row = lane; row < rows; row += 8) sum += matrix[row * columns + column];
    part[lane][threadIdx.x] = sum;
    __syncthreads();
    for (int half = 4; half > 0; half /= 2) {
        if (lane < half) part[lane][threadIdx.x] += part[lane + half][threadIdx.x];
        __syncthreads();
    }
    if (lane == 0 && column < columns) sums[column] = part[0][threadIdx.x];
}
"""

# %% [markdown]
# Your own tree, for the first column. The places are the lanes:

# %%
show_column_tree(column_sum_source)

# %% [markdown]
# ## The ones in gpulstm
#
# [`lstm_backward_step`](../kernels/lstm_backward_step.cu) is the twin of your first kernel. To save memory it writes the
# gradients over the gates, and `dc_before` over `dc`. [`column_sum`](../kernels/column_sum.cu) is the twin of your second; it can also
# share tall matrices among several blocks. Here both run, one after the other, and are compared with NumPy.

# %%
dh, dc, i, f, g, o, c, c_next = backward_data(rows=20, hidden=10)
wanted, wanted_dc = gate_gradients(dh, dc, i, f, g, o, c, c_next)

gates = np.concatenate([i, f, g, o], axis=1)  # (rows, 4 * hidden); becomes da
cells = np.stack([c, c_next])  # (2 times, rows, hidden)
nothing = np.zeros(1, "float32"), np.zeros(1, "int32")  # dy and lengths, not used here
sizes = [
    np.int32(size) for size in (0, 0, 1, 20, 10, 10, 0)
]  # step, two times, rows, hidden, ...

step = kernels.simulate(library_kernel("lstm_backward_step.cu"))
step(1, 256, gates, cells, nothing[0], dh, dc, nothing[1], *sizes)
print(
    "da as in lesson 09:       ", np.allclose(gates, np.concatenate(wanted, axis=1), atol=1e-6)
)
print("dc_before as in lesson 09:", np.allclose(dc, wanted_dc, atol=1e-6))

# %%
bias_gradient = np.zeros(40, "float32")
column_sum = kernels.simulate(library_kernel("column_sum.cu"))
column_sum(2, (32, 8), gates, bias_gradient, np.int64(20), np.int32(40), np.int64(20))
print("the bias gradient:        ", np.allclose(bias_gradient, gates.sum(axis=0), atol=1e-5))
print("barriers in a block:      ", column_sum.counts.barriers)

# %% [markdown]
# Four barriers: one before the tree, and one after each of its three rounds. No kernel of gpulstm adds floating-point
# numbers atomically, so the same training on the same device gives the same bits.
#
# ### If you have a GPU: atomics against the tree
#
# This cell sums a million numbers twenty times with atomics, on the GPU, and counts how many different results come out. Without one it says
# so.

# %% tags=["nbval-ignore-output"]
race_of_atomics = kernels.kernel(
    obvious_source.replace("total[0] += x[i]", "atomicAdd(total, x[i])")
)
if race_of_atomics.on == "gpu":
    many = xp.asarray(np.random.default_rng(0).random(1_000_000, dtype="float32"))
    results = set()
    for _ in range(20):
        total = xp.zeros(1, dtype="float32")
        race_of_atomics(3907, 256, many, total, np.int32(many.size))
        results.add(float(total[0]))
    print(len(results), "different sums in 20 launches")
else:
    print("No GPU here. The order of the simulator's threads above has shown the same.")

# %% [markdown]
# ## Three questions

# %% [markdown] tags=["question"]
# Why does the backward kernel need no barrier, and the column sum some?
#
# In the backward kernel each thread reads only what was there before the launch, and writes only to its own places. In the sum,
# threads read what other threads of the same launch have written.

# %% [markdown] tags=["question"]
# The guard of lesson 13 was `if (index >= n) return;`. Why may `column_sum` not begin with `if (column >= columns) return;`?
#
# Because the threads that have returned never come to the barriers, and all threads of a block must. The guard stands around
# the reads and the last write instead; threads without a column add up nothing and come along.

# %% [markdown] tags=["question"]
# `__syncthreads()` holds for one block. How can the sums of several blocks be added up in a fixed order?
#
# Each block stores its partial sums, and a second launch adds those: the end of a launch is a barrier for everybody. Or all
# blocks meet at a barrier of the whole grid, which comes in lesson 16.

# %% [markdown]
# ## In short
#
# - The backward step is a kernel like the forward one: a thread per unit, no waiting.
# - A [reduction](glossary.ipynb#reduction) in a tree needs $\log_2 n$ rounds, and its order is always the same. With
#   [atomic operations](glossary.ipynb#atomic-operation) the order, and so the last bits, is chance.
# - A [race](glossary.ipynb#race): one thread writes, another one touches the same place, and no
#   [barrier](glossary.ipynb#barrier) stands between them. The result is *sometimes* right.
# - All threads of the block come to each barrier.
# - Threads of a block share numbers in [shared memory](glossary.ipynb#shared-memory), which begins as garbage.
#
# ## What next
#
# In the tree, move the barrier into the `if`, and predict what the simulator calls it. Then try `half = 1, 2, 4` instead of 4, 2, 1, with
# `if (t % (2 * half) == 0)`. Is it still right? You have now written forward and backward; in [the next
# lesson](15_fusing_and_measuring.ipynb) you put four kernels into one and count what that saves.
