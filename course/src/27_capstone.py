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
# # 27 · Capstone: your own layer and its kernel
#
# You know every gate, you have gone forward and backward, and you have written kernels for both. Now leave the LSTM.
# In this last lesson you design a layer that is *yours*, prove that its gradient is right, write its kernel, and get
# a sheet that says what has been tried and what came out.
#
# **Afterwards you can**
# - write the forward and the backward step of a recurrent layer that nobody has written for you;
# - prove both with a gradient check;
# - write its kernel and prove it: values, bounds, races, sectors, bytes;
# - tell what such proofs say from what they do not.

# %% tags=["start"]
from lab import check, figures, kernels, start

xp = start()  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import numpy as np
from lab import lesson_27_training
from lab.lesson_27_rubric import kernel_passes, rubric
from lab.lesson_27_training import chart, trained
from lab.stopwatch import seconds

# %% [markdown]
# ## The picture
#
# A recurrent layer needs matrix products, a loop over time and a sum of gradients. You have written all that in
# lessons 08 and 09, and it is the same for every layer. What makes the difference are the grey boxes:

# %%
figures.show(*lesson_27_training.contract())

# %% [markdown]
# ## Predict first
#
# Take an LSTM, and let one gate do the work of two: $i = 1 - f$. What is forgotten makes room, and nothing else does.
# These are **coupled gates**.
#
# 1. How many parameters has it, compared with the LSTM's $4H(I + H + 1)$?
# 2. The LSTM's cell state can grow beyond 1. Can that of coupled gates?
#
# ## The form, with the LSTM in it
#
# A step has three parts. All arrays are `(rows, hidden)`, only `a` is `(rows, GATES * hidden)`, gate after gate
# within a row. First the LSTM, put together from lessons 07, 09 and 15:


# %%
def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


def lstm_forward(a, c):
    i, f, g, o = np.split(a, 4, axis=1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c_next = f * c + i * g
    return o * np.tanh(c_next), c_next


def lstm_backward(a, c, dh, dc):
    """dh is the gradient of h, dc what comes back along the lane. Gives da and dc_before."""
    i, f, g, o = np.split(a, 4, axis=1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)  # once more, from a
    shown = np.tanh(f * c + i * g)
    dc_next = dc + dh * o * (1 - shown**2)
    da_i = dc_next * g * i * (1 - i)
    da_f = dc_next * c * f * (1 - f)
    da_g = dc_next * i * (1 - g**2)
    da_o = dh * shown * o * (1 - o)
    return np.concatenate([da_i, da_f, da_g, da_o], axis=1), dc_next * f


lstm_source = """
extern "C" __global__ void layer_step(
        const float* a, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;  // n = rows * hidden
    const float* mine = a + index / hidden * 4 * hidden + index % hidden;  // 4 gates
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
# ## The sheet
#
# `rubric` tries a layer and fills in the sheet. This is the LSTM's:

# %%
rubric(4, lstm_forward, lstm_backward, lstm_source, "It was there already.")

# %% [markdown]
# One line stays open, and rightly so. Read the others: each of them was a lesson. *range* was lesson 03, *gradient*
# 09, *bounds and races* 12 and 14, *sectors* 13, *bytes* 15.
#
# ## What will yours be?
#
# One rule: a hidden unit's step uses only the unit's own numbers of `a` and `c`. (What it should know of the others
# comes to it through the matrix product.) Everything else is up to you. Some ideas:
#
# | idea | gates | what changes |
# |---|---|---|
# | coupled gates | f, g, o | $i = 1 - f$ |
# | nothing to hide | i, f, g | $h = \tanh c'$, no output gate |
# | two are enough | f, g | coupled, and $h = c'$ |
# | the output gate looks | i, f, g, o | $o = \sigma(a_o + c')$ |
# | another bend | i, f, g, o | $c' / (1 + \lvert c' \rvert)$ instead of $\tanh c'$ |
#
# The first two have been studied: [Greff and others](https://arxiv.org/abs/1503.04069) took the LSTM apart piece by
# piece. Coupled gates hardly hurt; leaving the output gate out hurt in two of their three tasks. The third is close
# to the [minimal gated unit](https://arxiv.org/abs/1603.09420).
#
# If you are undecided, take coupled gates. The hints and the folded solution are for them.
#
# ## Your turn: the calculus
#
# Say how many gates there are, with which bias each begins (lesson 10: a forget gate of 1 remembers from the start),
# and what the idea is for. Then write both directions. Do the derivation on paper first; it takes a few lines.

# %% tags=["exercise"]
GATES = 3  # ← your turn, with all that follows
START = (0.0, 0.0, 0.0)  # the bias that each gate begins with
WHY = ""  # one sentence: what is the idea for?


def forward(a, c):
    h = ...
    c_next = ...
    return h, c_next


def backward(a, c, dh, dc):
    da = ...
    dc_before = ...
    return da, dc_before


# %%
check("27.calculus", GATES, forward, backward)

# %% [markdown] tags=["hint"]
# Begin with `lstm_forward` and delete `i`. For the way back: $c' = f c + (1 - f) g$ has $f$ in it twice, so two
# blames meet there. What is the slope of $c'$ with respect to $f$?

# %% [markdown] tags=["hint"]
# It is $c - g$. So `da_f = dc_next * (c - g) * f * (1 - f)`. In `da_g` there stands `(1 - f)` where the LSTM has `i`.
# The output gate and `dc_before` stay as they are.

# %% tags=["solution"]
GATES = 3  # f, g, o
START = (1.0, 0.0, 0.0)
WHY = "One gate less: what is forgotten makes room for what is new."


def forward(a, c):
    f, g, o = np.split(a, 3, axis=1)
    f, g, o = sigmoid(f), np.tanh(g), sigmoid(o)
    c_next = f * c + (1 - f) * g
    return o * np.tanh(c_next), c_next


def backward(a, c, dh, dc):
    f, g, o = np.split(a, 3, axis=1)
    f, g, o = sigmoid(f), np.tanh(g), sigmoid(o)
    shown = np.tanh(f * c + (1 - f) * g)
    dc_next = dc + dh * o * (1 - shown**2)
    da_f = dc_next * (c - g) * f * (1 - f)  # c' has f in it twice
    da_g = dc_next * (1 - f) * (1 - g**2)
    da_o = dh * shown * o * (1 - o)
    return np.concatenate([da_f, da_g, da_o], axis=1), dc_next * f


# %% [markdown]
# ## Your turn: the kernel
#
# The same step for the GPU. One thread owns one hidden unit of one row. The check compares it with *your* `forward`,
# in three orders of the threads, and counts.

# %% tags=["exercise"]
kernel_source = """
extern "C" __global__ void layer_step(
        const float* a, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;

    // ← your turn
}
"""

# %%
check("27.kernel", GATES, forward, kernel_source)

# %% [markdown] tags=["hint"]
# `mine` in `lstm_source` has a 4 in it, the number of gates. With three gates it is a 3.

# %% [markdown] tags=["hint"]
# For coupled gates: `float f = ...` from `mine[0]`, `float g = tanhf(mine[hidden]);`, `float o = ...` from `mine[2 *
# hidden]`, and `float cell = f * c[index] + (1.0f - f) * g;`. Then the two stores.

# %% tags=["solution"]
kernel_source = """
extern "C" __global__ void layer_step(
        const float* a, const float* c, float* c_next, float* h, int n, int hidden) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= n) return;

    const float* mine = a + index / hidden * 3 * hidden + index % hidden;
    float f = 1.0f / (1.0f + expf(-mine[0]));
    float g = tanhf(mine[hidden]);
    float o = 1.0f / (1.0f + expf(-mine[2 * hidden]));
    float cell = f * c[index] + (1.0f - f) * g;
    c_next[index] = cell;
    h[index] = o * tanhf(cell);
}
"""

# %% [markdown]
# ## Your sheet

# %%
rubric(GATES, forward, backward, kernel_source, WHY)

# %% [markdown]
# ## Does it learn?
#
# A right gradient of a poor idea is still right. So let the layer learn something: eight symbols go by, and in the
# end it is asked which was the **first** of them. This is a toy that tests one thing, whether a memory lasts. 8
# hidden units, 250 updates, three [seeds](glossary.ipynb#seed), beside an LSTM whose forget gate begins with a bias
# of 1:

# %%
layers = {
    "LSTM": (4, lstm_forward, lstm_backward, (0, 1, 0, 0)),
    "your layer": (GATES, forward, backward, START),
}
results = trained(layers)
for name, (_, _, right) in results.items():
    well = sum(share > 0.9 for share in right)
    print(f"{name}: {well} of 3 seeds answer more than nine in ten new sequences right")

# %%
figures.show(*chart(results))

# %% [markdown]
# Where this is (nearly) perfect, it is a perfect score on a toy task, and no more than that. Three seeds do not say
# which of two layers is better either. What would: real data, a validation split, the same number of *parameters* on
# both sides, and more seeds. Lessons [20](20_honest_forecasts.ipynb), [21](21_leakage.ipynb) and
# [25](25_ablation.ipynb) are about that.
#
# With coupled gates there are $3H(I + H + 1)$ parameters, three quarters of the LSTM's: 312 for 416 here. That is the
# first answer. The second: no. If $c$ and $g$ are between −1 and 1, then so is $f c + (1 - f) g$, for it lies between
# the two. An LSTM can count in its cell state; coupled gates only mix.
#
# ### If you have a GPU: the speed badge
#
# A step waits for memory (lesson 15), so the best it can reach is about the speed of a copy. How close does your
# kernel come?

# %% tags=["nbval-ignore-output"]
if xp is np:
    print("No GPU here, so there is nothing to time: the simulator counts, it does not hurry.")
elif not kernel_passes(GATES, forward, kernel_source):
    print("Your kernel does not pass its check yet: what is not right needs no badge.")
else:
    rows, hidden = 16384, 1024
    a = xp.zeros((rows, GATES * hidden), dtype="float32")
    c = xp.zeros((rows, hidden), dtype="float32")
    c_next, h, copied = xp.empty_like(c), xp.empty_like(c), xp.empty_like(a)
    step = xp.RawKernel(kernel_source, kernels.kernel(kernel_source).name)

    def one_step():
        step((c.size // 256,), (256,), (a, c, c_next, h, np.int32(c.size), np.int32(hidden)))

    mine = (a.nbytes + 3 * c.nbytes) / seconds(one_step, xp) / 1e9
    copy = 2 * a.nbytes / seconds(lambda: xp.copyto(copied, a), xp) / 1e9
    print(f"your kernel {mine:.0f} GB a second, a copy {copy:.0f}: {mine / copy:.0%}")

# %% [markdown]
# ## What no sheet can say
#
# Answer these yourself, in writing, in a cell below this one. They are the half of the work that cannot be ticked off
# by a program.
#
# - What do you expect the idea to be good for, and what would show that you were wrong?
# - What does it cost: parameters, bytes a step, something that the LSTM can do and it cannot?
# - Whom would you ask to try to break it?
#
# ## Three questions

# %% [markdown] tags=["question"]
# The gradient check passes. Name a mistake that it cannot find.
#
# One in the idea, and one in `forward`: it compares `backward` with what `forward` *does*, not with what you meant.
# It also looks at a few random points only. A kink, such as that of a ReLU at 0, is seldom hit.

# %% [markdown] tags=["question"]
# The kernel passes all four lines in the simulator. What remains open?
#
# The seconds: caches, registers and how busy the GPU is are not simulated. And sizes that were not tried. The
# kernel's index is an `int`, for instance, so from $2^{31}$ elements on it breaks.

# %% [markdown] tags=["question"]
# Your layer beats the LSTM on the toy, with all three seeds. What do you write down?
#
# Exactly that: which toy, how many units, parameters, updates and seeds, and what each layer began with. And that you
# chose the toy. It is a reason to go on measuring, not a result about layers.

# %% [markdown]
# ## In short
#
# - A recurrent layer is a step, `forward` and `backward`, in a loop that is always the same. The LSTM is one such
#   step; [coupled gates](glossary.ipynb#coupled-gates) are another.
# - The [gradient check](glossary.ipynb#gradient-check) proves `backward` against `forward`, whatever the layer.
# - The [simulator](glossary.ipynb#simulator) proves the [kernel](glossary.ipynb#kernel): bounds,
#   [races](glossary.ipynb#race), [sectors](glossary.ipynb#memory-sector), bytes.
# - Whether the idea is any good, only honest measurements say.
#
# And the whole course, in one breath: the [forget gate](glossary.ipynb#forget-gate) says what share of the memory
# stays. The [input gate](glossary.ipynb#input-gate) says how much is written, and the
# [candidate](glossary.ipynb#candidate) says what. The [output gate](glossary.ipynb#output-gate) says what is shown.
# The [cell state](glossary.ipynb#cell-state) is the memory, which only the unit itself sees, and the [hidden
# state](glossary.ipynb#hidden-state) is what it shows to all the others. You have written all of it, forward and
# backward.
#
# ## What next
#
# Take another row of the table, or write the backward kernel of your layer after the example of [lesson
# 14](14_backward_kernel.ipynb). Predict how many loads and stores it has. And see on [the map](00_welcome.ipynb) what
# is still open.
