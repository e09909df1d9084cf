# %% [markdown]
# # 03 · Sigmoid and tanh
#
# Two curves make all the decisions in an LSTM. The gates come out of a sigmoid, the candidate out of a tanh. Today you
# write both so that no input can break them, and their slopes, which say when a gate can still learn.
#
# **Afterwards you can**
# - write the sigmoid and the tanh without overflow, for inputs as large as 1000;
# - write their slopes, and prove them with finite differences;
# - say when a gate is saturated, and what that costs.

# %% tags=["start"]
from lab import check, slider, start

xp = start()  # numpy, or cupy with a GPU; numpy is enough for two curves

# %%
import numpy as np
from lab.lesson_03_drawings import tangents

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# The short line touches the curve at one place $x$ and is as steep as the curve is there: its steepness is the
# [slope](glossary.ipynb#slope). Move it.

# %%
slider(tangents, x=(-6.0, 6.0, 0.5, 1.0))

# %% [markdown]
# - The [sigmoid](glossary.ipynb#sigmoid) σ goes from 0 to 1 and is 0.5 at zero: made for a *share*, so for gates.
# - The [tanh](glossary.ipynb#tanh) goes from −1 to 1 and is 0 at zero: made for a *value with a sign*, so for
#   the candidate.
# - In the grey parts the curve is nearly flat: its slope is less than a tenth of what it is at zero. There the curve is
#   [saturated](glossary.ipynb#saturation).
#
# ## Predict first
#
# 1. At zero, how many times steeper is tanh than σ: once, twice, four times?
# 2. A gate's weighted sum is 5, so the gate is at 0.993. The sum grows from 5 to 6. By how much does the gate move: by 0.1, 0.02,
#    or 0.004?
# 3. What does Python make of `1 / (1 + np.exp(-x))` at $x = -1000$: an error, `nan`, or the right number?
#
# ## The curves in numbers

# %%
for x in [-6, -3, 0, 3, 5, 6]:
    s, t = gl.ops.sigmoid(np.array(float(x))), np.tanh(x)
    print(f"x = {x:2}   sigmoid {s:6.4f}   tanh {t:7.4f}")

# %% [markdown]
# From 5 to 6 the gate moves by 0.0042. A whole unit more, and next to nothing happens.
#
# The two are the same curve in two sizes. Squeeze σ to half its width, stretch it to twice its height, and pull it down by one:

# %%
x = np.linspace(-10, 10, 1001)
print("tanh(x) is 2 sigmoid(2x) - 1:", np.allclose(np.tanh(x), 2 * gl.ops.sigmoid(2 * x) - 1))

# %% [markdown]
# Half the width and twice the height make it 2 · 2 = **four times** as steep. That was the first question.
#
# ## Where `exp` breaks
#
# The textbook writes $\sigma(x) = 1 / (1 + e^{-x})$. It can be written as $e^x / (1 + e^x)$ too: only multiply above
# and below by $e^x$. On paper they are equal.


# %%
def textbook(x):
    return 1 / (1 + np.exp(-x))


def also_textbook(x):
    return np.exp(x) / (1 + np.exp(x))


with np.errstate(over="ignore", invalid="ignore"):  # else NumPy would warn
    for x in np.array([-1000.0, 1000.0]):
        print(f"x = {x:5.0f}   {textbook(x)}   {also_textbook(x)}")

# %% [markdown]
# At −1000 the textbook gives **the right number**, 0. By luck: $e^{1000}$ is too large for float64, NumPy's usual kind of number, and becomes `inf`,
# and 1 / inf is 0. NumPy warns of this [overflow](glossary.ipynb#overflow) (here the warning is switched off). The other
# way of writing has bad luck: `inf / inf` is `nan`, *not a number*. One `nan` in a state, and soon all of them are.
#
# Is 1000 far-fetched? GPUs mostly compute in float32, and there `inf` begins early:

# %%
with np.errstate(over="ignore"):
    print(f"exp(88) = {np.exp(np.float32(88)):.1e}, exp(89) = {np.exp(np.float32(89))}")

# %% [markdown]
# The cure is one idea: **take exponentials of negative numbers only.** $e^{-|x|}$ lies between 0 and 1 for every $x$. If it
# becomes so small that it is rounded to zero, nothing bad happens.
#
# ## Your turn: without overflow
#
# Write both, for arrays of any shape, without a warning at any $x$.


# %% tags=["exercise"]
def sigmoid(x):
    return 1 / (1 + np.exp(-x))  # ← your turn


def tanh(x):
    return (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))  # ← and here


# %%
check("03.curves", sigmoid, tanh)

# %% [markdown] tags=["hint"]
# Let `e = np.exp(-np.abs(x))`. Where $x$ is positive, $e$ is $e^{-x}$, and the first formula needs just that. Where $x$ is
# negative, $e$ is $e^{x}$: take the other formula. `np.where` puts the two together. And tanh is a sigmoid in another size.

# %% [markdown] tags=["hint"]
# Both formulas have the same denominator, `1 + e`. Above it stands 1 where $x$ is positive, and `e` where it is negative.


# %% tags=["solution"]
def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def tanh(x):
    return 2 * sigmoid(2 * x) - 1


# %% [markdown]
# `np.tanh` is safe by itself. gpulstm therefore goes the other way round and makes the sigmoid of a tanh, $\sigma(x) =
# \tanh(x/2) / 2 + 1/2$: one line, no `where`. It stands in [its equations](../gpulstm/equations.py).
#
# ## Slopes
#
# Training turns the weights bit by bit and watches what comes out. The slope says how much comes out per bit turned.
# You can measure one with two values close to each other, by [finite differences](glossary.ipynb#finite-differences):


# %%
def measured_slope(curve, x, step=1e-5):
    return (curve(x + step) - curve(x - step)) / (2 * step)


x = np.array([0.0, 1.0, 2.0, 4.0, 6.0])
print("x            ", "".join(f"{value:8.0f}" for value in x))
print("sigmoid slope", "".join(f"{s:8.4f}" for s in measured_slope(gl.ops.sigmoid, x)))
print("tanh slope   ", "".join(f"{s:8.4f}" for s in measured_slope(np.tanh, x)))

# %% [markdown]
# A measured slope costs two evaluations and is a little inexact. There are formulas, and they are short. The rules of
# calculus give, for $\sigma(x) = \dfrac{1}{1 + e^{-x}}$, the slope $\sigma'(x) = \dfrac{e^{-x}}{(1 + e^{-x})^2}$.
#
# Like this it can overflow. But it is a product of two fractions: $\dfrac{1}{1 + e^{-x}}$, which you know, and
# $\dfrac{e^{-x}}{1 + e^{-x}}$. And what must be added to the first to make 1? Just the second.
#
# ## Your turn: the slopes
#
# Write the slopes as functions of $x$. Use the safe curves `gl.ops.sigmoid` and `np.tanh`, and no `exp`.


# %% tags=["exercise"]
def sigmoid_slope(x):
    return ...  # ← your turn


def tanh_slope(x):
    return ...  # ← and here


# %%
check("03.slopes", sigmoid_slope, tanh_slope)

# %% [markdown] tags=["hint"]
# With $s = \sigma(x)$ the two fractions are $s$ and $1 - s$. For tanh the rule is as short, with a square in it. Which number does it give
# at zero, and which far out?

# %% [markdown] tags=["hint"]
# With $t = \tanh(x) = 2 \sigma(2x) - 1$, its slope is $4 s (1 - s)$ where $s = \sigma(2x) = (1 + t) / 2$. Put that in.


# %% tags=["solution"]
def sigmoid_slope(x):
    s = gl.ops.sigmoid(x)
    return s * (1 - s)


def tanh_slope(x):
    t = np.tanh(x)
    return 1 - t * t


# %% [markdown]
# Both slopes are written with the *value* of the curve alone. So whoever has kept the value need not keep $x$: the
# [backward kernel](../kernels/lstm_backward_step.cu) of gpulstm reads the finished gates, and never needs their weighted sums.
#
# ## What saturation costs
#
# Three gates should open. All are shut, one by −2, one by −4, one by −8. Each round of training moves the weighted sum by
# the slope. (Real training, in lesson 11, has more factors, but the slope is one of them.) After how many rounds is the
# gate half open? Guess, then run.


# %%
def rounds_until_open(x):
    rounds = 0
    while x < 0:
        s = gl.ops.sigmoid(np.array(x))
        x += s * (1 - s)
        rounds += 1
    return rounds


for x in [-2.0, -4.0, -8.0]:
    gate = gl.ops.sigmoid(np.array(x))
    print(f"from {x:.0f}, where the gate is {gate:.4f}: {rounds_until_open(x)} rounds")

# %% [markdown]
# A saturated gate is a firm decision, and it is hard to talk it out of it: near −8 one more unit of distance makes the way
# almost three times as long. That is why weights begin small, where the curves are steep.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# What is the largest slope of σ, where is it, and what is the value of σ there?
#
# 0.25, at zero, where σ is 0.5. From $s(1 - s)$ you see it at once: the product of two numbers that sum to one is largest when
# they are equal.

# %% [markdown] tags=["question"]
# Why not a sigmoid for the candidate?
#
# It cannot be negative. The cell state could only ever grow by what is written, and *less of it* could not be said.

# %% [markdown] tags=["question"]
# `np.where(x > 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x)))` chooses the right formula everywhere. Why does it warn all
# the same?
#
# `np.where` chooses between two *finished* arrays. Both formulas have been computed for all $x$ by then, the overflowing ones too.

# %% [markdown]
# ## In short
#
# - The [sigmoid](glossary.ipynb#sigmoid) makes a share, 0 to 1; the [tanh](glossary.ipynb#tanh) a value with a sign, −1 to 1.
#   They are one curve in two sizes.
# - Take exponentials of negative numbers only, and nothing can [overflow](glossary.ipynb#overflow).
# - Slopes: $s(1 - s)$ and $1 - t^2$, from the values alone.
# - Far from zero the curves are [saturated](glossary.ipynb#saturation): the slope is almost zero, and learning almost stands still.
#
# ## What next
#
# At which $x$ does σ in float32 become *exactly* 1? Guess, then try `gl.ops.sigmoid(np.float32([10, 15, 16, 17, 20])) == 1`. (float32
# keeps about seven digits.) What is the slope then?
#
# Then go on to [lesson 04](04_forget_gate.ipynb): what one sigmoid, the forget gate, does when it is applied again and again.
