# %% [markdown]
# # 04 · The forget gate
#
# A gate that keeps 95 of 100 sounds like a good memory. But it is asked again at each step. Today you find out how long a
# memory lives, and choose the gate for a life as long as you want.
#
# **Afterwards you can**
# - compute the half-life of a memory from its forget gate;
# - choose the forget gate, and the bias that gives it, for a wanted half-life;
# - say why one more in the bias makes a memory almost three times as long.

# %% tags=["start"]
from lab import check, figures, slider, start

xp = start()  # numpy, or cupy with a GPU; one number and its gate fit into numpy

# %%
import matplotlib.pyplot as plt
import numpy as np
from lab.lesson_04_drawings import decay
from lab.sentence import VECTORS, WORDS, trace

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# One number in the cell state. Nothing new is written, so at each step the forget gate $f$ takes its share, and that is all:
# $c' = f \cdot c$. Move the gate.

# %%
slider(decay, f=(0.5, 0.99, 0.01, 0.9))

# %% [markdown]
# The marks stand where a half, a quarter, an eighth is left. They are equally far apart: to lose half takes always the same
# time, whatever is still there. This time is the [half-life](glossary.ipynb#half-life).
#
# Note the name. A [forget gate](glossary.ipynb#forget-gate) of 1 forgets *nothing*, and one of 0 forgets everything. It should have been
# called keep gate.
#
# ## Predict first
#
# The unit *who* of our cell has a forget bias of 3. Without any other input its gate is $\sigma(3) = 0.953$.
#
# 1. After how many steps is half of John gone: 5, 14, or 50?
# 2. Then the bias is doubled, to 6. Is the half-life twice as long, or 20 times?
#
# ## Step by step
#
# First the slow way: multiply until less than half is left.

# %%
for bias in [3.0, 6.0]:
    f = gl.ops.sigmoid(np.array(bias))
    c, steps = 1.0, 0
    while c > 0.5:
        c = f * c
        steps += 1
    print(
        f"bias {bias:.0f}: the gate is {f:.4f}, and less than half is left after {steps} steps"
    )

# %% [markdown]
# **14, and 20 times.** With a gate of 0.953 half is gone after a little more than 14 steps, so the loop stops at 15. And twice the bias made the memory not twice as
# long, but about 20 times.
#
# Now the quick way. After $n$ steps $f^n$ is left. Half is left when
#
# $f^n = 0.5 \quad\Longleftrightarrow\quad n \ln f = \ln 0.5 \quad\Longleftrightarrow\quad n = \ln 0.5 / \ln f$

# %%
print("bias    gate   half-life")
for bias in range(-1, 8):
    f = gl.ops.sigmoid(np.array(float(bias)))
    print(f"{bias:4}  {f:6.4f}   {np.log(0.5) / np.log(f):9.1f}")

# %% [markdown]
# Look down the right column. A bias of 0 is a half-life of exactly one step. From there on each line is longer than the
# one before, soon by a factor of almost three: by $e = 2.718\ldots$, nearly. For $\sigma(b) = 1 / (1 + e^{-b})$ is about $1 -
# e^{-b}$ if $b$ is large, so what is lost at each step is $e^{-b}$, and one more in $b$ divides that by $e$.
#
# So all long memories live in the narrow stretch between 0.9 and 1. There a small difference in the gate is a large one in
# time: 0.99 and 0.999 are ten times apart. The bias spreads that stretch out, which makes it the better
# handle.
#
# ## Your turn: a gate for ten steps
#
# Which forget gate has a half-life of 10 steps? Give it to four digits at least, or as a formula.

# %% tags=["exercise"]
f_ten = 0.5  # ← your turn

# %%
check("04.gate-for-ten", f_ten)

# %% [markdown] tags=["hint"]
# After 10 steps $f^{10}$ is left, and that must be 0.5. Solve it for $f$.

# %% [markdown] tags=["hint"]
# The tenth root of 0.5. In Python a root is a power: `0.5 ** (1 / 10)`.

# %% tags=["solution"]
f_ten = 0.5 ** (1 / 10)

# %% [markdown]
# ## In a real cell
#
# Does an LSTM really do that? We make one with a single unit, no weights, and a forget bias. Its candidate is then
# $\tanh(0) = 0$: nothing is written. It begins with 1 in its cell state, and reads steps in which nothing happens.


# %%
def left_after(steps, bias):
    lstm = gl.LSTM(input_size=1, hidden_size=1, dtype="float64")
    none, biases = np.zeros((4, 1)), np.array([0, bias, 0, 0])  # rows: i, f, g, o
    lstm.load_state_dict({"weight_ih_l0": none, "weight_hh_l0": none, "bias_l0": biases})
    nothing = np.zeros((steps, 1))  # (time, features)
    state = gl.State(h=np.zeros((1, 1)), c=np.ones((1, 1)))
    _, state = lstm(nothing, state)
    return state.c[0, 0]


for steps in [14, 28, 42]:
    print(f"bias 3, after {steps} steps: {left_after(steps, 3.0):.2f} is left")

# %% [markdown]
# A half, a quarter, an eighth, and a little more, for 14 steps are not quite 14.3. It does.
#
# ## Your turn: the bias
#
# A cell is not given its gate, but its bias. Write the function that turns a wanted half-life into the bias. Then try
# `left_after(10, forget_bias(10))` in a cell of your own.


# %% tags=["exercise"]
def forget_bias(half_life):
    f = 0.5 ** (1 / half_life)  # the gate
    return f  # ← your turn: and which bias gives this gate?


# %%
check("04.bias", forget_bias)

# %% [markdown] tags=["hint"]
# The gate is $f = 1 / (1 + e^{-b})$. Solve it for $b$: first turn both sides upside down, and take the logarithm last.

# %% [markdown] tags=["hint"]
# $1/f = 1 + e^{-b}$, so $e^{-b} = 1/f - 1 = (1 - f) / f$. This inverse of the sigmoid is called [logit](glossary.ipynb#logit).


# %% tags=["solution"]
def forget_bias(half_life):
    f = 0.5 ** (1 / half_life)
    return np.log(f / (1 - f))


# %% [markdown]
# ## A gate is not a constant
#
# So far the gate had the same value all the time. In a cell it depends on the word and on $h$, and can change at every step. What is
# left of something is then the **product** of all gates since it was written. After our sentence we let 20 empty
# words follow, vectors of zeros, and watch both units.

# %%
sentence = np.concatenate([VECTORS, np.zeros((20, 3))])
steps = trace(sentence)  # i, f, g, o, c, h by name, each (24 words, 2 units)

figure, axes = plt.subplots(figsize=(8, 3))
axes.plot(steps["c"][:, 0], marker="o", markersize=3, label="c who")
axes.plot(steps["c"][:, 1], marker="s", markersize=3, label="c dark")
axes.set_xticks(range(4), WORDS, rotation=45, ha="right")
axes.set(ylabel="cell state", ylim=(-0.2, 1))
figures.shade_between(axes, 3.5, 23.5, "20 empty words")
axes.legend(loc="upper right", framealpha=1)
c_who, c_dark = steps["c"].T
figures.show(
    figure,
    alt=f"""The two cell states over 24 words. c who, solid with round marks, is
    {c_who[0]:.2f} at John and falls slowly and evenly to {c_who[-1]:.2f} at the last word.
    c dark, dashed with square marks, rises at black to {c_dark[2]:.2f}, stays at coffee,
    and then falls to {c_dark[6]:.2f} within three empty words.""",
)
f_who, f_dark = steps["f"].T
print(f"forget gate of who:  between {f_who.min():.3f} and {f_who.max():.3f}")
print(f"forget gate of dark: between {f_dark.min():.3f} and {f_dark.max():.3f}")

# %% [markdown]
# *who* is a slow unit, *dark* a quick one. But look at *dark* once more: at *black* its gate opens to 0.731, at *coffee* it is at
# 0.5, and with no dark word it falls to 0.269. It keeps **as long as the talk is of dark things**, and then clears its
# memory. No constant could do that.
#
# An LSTM with both kinds of units holds some things for hundreds of steps, and others for two. That is why its biases
# may begin spread out, so that there are units for each length: `gl.LSTM(..., chrono=200)` does it, the
# [chrono initialisation](glossary.ipynb#chrono-initialisation).
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# A memory has a half-life of 10 steps. How much is left after 40?
#
# A sixteenth: 40 steps are four half-lives, and $0.5^4 = 0.0625$.

# %% [markdown] tags=["question"]
# Why not set all forget gates to 1, so that nothing is ever lost?
#
# Then nothing is ever cleared either, and whatever is written is added on top: over a long text $c$ may grow without limit, and
# its tanh saturates. The first LSTM of 1997 was like that. The forget gate was put in three years later, for this reason.

# %% [markdown] tags=["question"]
# The gate is 0.9 at nine steps and 0 at one step in between. What is left at the end?
#
# Nothing of what was there before that step: one factor of zero makes the whole product zero. To clear a memory takes one
# step; to keep it, all of them must agree.

# %% [markdown]
# ## In short
#
# - With nothing new written, the share $f^n$ is left after $n$ steps; the [half-life](glossary.ipynb#half-life) is
#   $\ln 0.5 / \ln f$.
# - For a wanted half-life $n$ take $f = 0.5^{1/n}$, and the [forget bias](glossary.ipynb#forget-bias) $\ln(f / (1 - f))$.
# - One more in a large bias makes the memory almost three times as long.
# - The [forget gate](glossary.ipynb#forget-gate) depends on the word and on $h$, so what is left is a product of gates that differ.
#
# ## What next
#
# In the sentence *who* lives longer than the 14.3 steps of the table: half of John is gone after 17. Print `steps["f"][:, 0]`, and find in the table of
# lesson 01 who lends it a hand.
#
# Then go on to [lesson 05](05_input_gate.ipynb): what is written, and how much of it.
