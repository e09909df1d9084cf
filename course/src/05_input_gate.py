# %% [markdown]
# # 05 · Input gate and candidate: how much, and what
#
# The forget gate of lesson 04 decides what stays in the memory. But how does anything get in? An LSTM asks two questions
# at each step and answers them separately: **what** might be written, and **how much** of it.
#
# **Afterwards you can**
# - tell what the input gate does from what the candidate does, given their numbers;
# - write the line that changes the memory, $c' = f \cdot c + i \cdot g$;
# - choose the weights of a unit that writes a value only when a switch is on.

# %% tags=["start"]
from lab import check, figures, slider, start

xp = start()  # numpy, or cupy with a GPU; these few numbers stay in numpy

# %%
import numpy as np
from lab.lesson_05_valves import valves
from lab.sentence import PARAMS, WORDS, trace

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# Two pipes lead into the memory, and each has a valve. You can move all four numbers. (No sliders below? Then change the last
# of the four values in a line and run the cell again.)

# %%
slider(
    valves,
    c=(-1.0, 1.0, 0.1, 0.5),  # the cell state before
    f=(0.0, 1.0, 0.1, 0.9),  # forget gate
    i=(0.0, 1.0, 0.1, 0.3),  # input gate
    g=(-1.0, 1.0, 0.1, -0.8),  # candidate
)

# %% [markdown]
# The upper pipe is lesson 04: the [forget gate](glossary.ipynb#forget-gate) is the valve on what was there. The lower
# pipe is today's.
#
# - The [candidate](glossary.ipynb#candidate) $g$ is what flows in it: **what** might be written. It comes out of a tanh, so
#   it lies between −1 and 1. It can be negative (hatched).
# - The [input gate](glossary.ipynb#input-gate) $i$ is its valve: **how much** of the candidate gets through. It comes out
#   of a sigmoid, so it lies between 0, shut, and 1, open. A valve cannot turn a stream round: $i$ is never negative.
#
# Where the pipes meet, the streams are added:
#
# $$c' = f \cdot c + i \cdot g$$
#
# ## Predict first
#
# The memory is $c = 0.5$, and all of it is kept: $f = 1$. What is $c'$ in each of these four cases?
#
# | | input gate $i$ | candidate $g$ |
# |---|---|---|
# | A | 1 | 0 |
# | B | 0 | 1 |
# | C | 1 | −1 |
# | D | 0.5 | 0.5 |
#
# Which two leave the memory exactly as it was, and do they do so for the same reason? In which case has the memory
# turned into its opposite, although nothing was forgotten? Decide before you go on.

# %%
c, f = 0.5, 1.0
for case, i, g in [("A", 1.0, 0.0), ("B", 0.0, 1.0), ("C", 1.0, -1.0), ("D", 0.5, 0.5)]:
    written = i * g
    print(f"{case}: i = {i:.1f}, g = {g:4.1f}: writes {written:5.2f},", end=" ")
    print(f"new c = {f * c + written:5.2f}")

# %% [markdown]
# **A and B** leave the memory alone. In A the door is open and nobody comes in: the candidate is zero. In B somebody wants
# to come in, and the door is shut. **C** is the opposite of before: "writing" means adding, and a negative candidate takes
# away. So not only the forget gate can undo a memory.
#
# ## In the sentence
#
# Now the unit *dark* of our cell in **John likes black coffee**. Its input gate and its candidate have weights of their own,
# so they look at different things:

# %%
for name, row in [("input gate", 1), ("candidate", 5)]:
    person, feeling, dark = PARAMS["weight_ih"][row]
    who_h, dark_h = PARAMS["weight_hh"][row]
    print(
        f"{name:10}: person {person:2.0f}, feeling {feeling:2.0f}, dark {dark:2.0f},", end=" "
    )
    print(f"h who {who_h:.0f}, h dark {dark_h:.0f}, bias {PARAMS['bias'][row]:2.0f}")

# %%
steps = trace()  # from lesson 01: i, f, g, o, c, h of each word, each (4 words, 2 units)
DARK = 1
i, g, c = steps["i"][:, DARK], steps["g"][:, DARK], steps["c"][:, DARK]
rows = ["g: what", "i: how much", "i · g: is written", "c afterwards"]
values = [g, i, i * g, c]
axes = figures.gate_map(values, WORDS, rows, low=-1, high=1, title="What dark writes")
figures.show(
    axes.figure,
    alt=f"""A heat map with one column for each word and four rows, for the unit dark.
    {figures.say_map(values, WORDS, rows)} At likes the candidate is strongly negative, but
    hardly any of it is written, because the input gate is nearly shut.""",
)

# %% [markdown]
# Compare *likes* and *coffee*. The two candidates are equally strong: −0.76 says "bright", 0.76 says "dark". But at *likes* the
# valve stands at 0.12, and the memory gets −0.09. At *coffee* it stands at 0.50, and the memory gets four times as much. **The
# candidate has the opinion, the input gate has the say.**
#
# ## Your turn: write into the memory
#
# Write the line as a function. It gets the memory `c` before the step, the forget gate `f` (already between 0 and 1), and the
# two weighted sums `a_i` and `a_g` from which input gate and candidate are still to be made. It returns the new memory.


# %%
def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5  # lesson 03: this form never overflows


# %% tags=["exercise"]
def write(c, f, a_i, a_g):
    return ...  # ← your turn


# %%
check("05.write", write)

# %% [markdown] tags=["hint"]
# First make the two numbers: one goes through `sigmoid`, the other through `np.tanh`. Which of them may be negative?

# %% [markdown] tags=["hint"]
# Two products, then one sum. All of it is element by element, with `*` and `+`: each unit has its own memory and its own
# two valves.


# %% tags=["solution"]
def write(c, f, a_i, a_g):
    i = sigmoid(a_i)  # how much
    g = np.tanh(a_g)  # what
    return f * c + i * g


# %% [markdown]
# gpulstm has this line, too, together with the one for $h$. On a GPU it is one kernel for all units at once:

# %%
gates = np.concatenate([steps["i"][2], steps["f"][2], steps["g"][2], steps["o"][2]])  # black
c_new, h_new = gl.ops.cell_update(gates, steps["c"][1])  # c after likes
print("c after black as in the map:", np.allclose(c_new, steps["c"][2]))

# %% [markdown]
# ## Why two numbers, and not one?
#
# Could a single tanh not say "write 0.38" at once? Here is a task that it cannot do. A unit sees two features, a **switch**
# (0 or 1) and a **value** (−1 or 1). With the switch on it shall write the value; with the switch off, nothing:
#
# | switch | value | to write |
# |---|---|---|
# | 0 | −1 | 0 |
# | 0 | 1 | 0 |
# | 1 | −1 | −1 |
# | 1 | 1 | 1 |
#
# Try it with one tanh, $\tanh(w_1 \cdot \text{switch} + w_2 \cdot \text{value} + b)$, and all weights between −3
# and 3 in steps of 0.05. How well does the best of nearly two million do? We judge each by the worst of its four errors.

# %%
inputs = np.array([[0, -1], [0, 1], [1, -1], [1, 1]], dtype=float)  # switch, value
wanted = np.array([0, 0, -1, 1], dtype=float)

some = np.linspace(-3, 3, 121)
w1, w2, b = np.meshgrid(some, some, some, indexing="ij")
worst = np.zeros(w1.shape)
for (switch, value), target in zip(inputs, wanted, strict=True):
    error = np.abs(np.tanh(w1 * switch + w2 * value + b) - target)
    worst = np.maximum(worst, error)
print(f"{worst.size} choices of weights, the best one is wrong by {worst.min():.2f}")

# %% [markdown]
# By 0.50: the best that it can do is to write half a value in all four cases. The reason is the plus sign. In a weighted sum the
# value pushes just as hard with the switch off as with the switch on. To *silence* one number by another,
# **multiply** them. That is what a gate is.
#
# ## Your turn: the switch
#
# Now with two: an input gate and a candidate, each with its own three numbers: the weight of the switch, the weight
# of the value, the bias. Choose them so that what is written is never wrong by more than 0.05.

# %% tags=["exercise"]
#                      switch value bias
input_gate = np.array([0.0, 0.0, 0.0])  # ← your turn: six numbers
candidate = np.array([0.0, 0.0, 0.0])


# %%
def written(input_gate, candidate):
    i = sigmoid(inputs @ input_gate[:2] + input_gate[2])
    g = np.tanh(inputs @ candidate[:2] + candidate[2])
    return i * g


print("is written:", written(input_gate, candidate).round(2) + 0.0)
print("wanted:    ", wanted)
check("05.switch", input_gate, candidate)

# %% [markdown] tags=["hint"]
# Divide the work. *How much* depends on the switch alone; *what* depends on the value alone. So two of the six weights
# can stay zero.

# %% [markdown] tags=["hint"]
# $\sigma(0)$ is 0.5, half open. With the switch off only the bias pushes the input gate, so the bias must be well below zero,
# and the weight of the switch must outdo it. $\sigma(-5) = 0.007$, $\sigma(5) = 0.993$, $\tanh(3) = 0.995$.

# %% tags=["solution"]
#                      switch value bias
input_gate = np.array([10.0, 0.0, -5.0])  # how much: shut, unless the switch is on
candidate = np.array([0.0, 3.0, 0.0])  # what: the value

# %% [markdown]
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# The candidate of a unit is 0.9 at every step. Does its memory fill up?
#
# Only if the input gate opens. With $i$ near zero nothing arrives, whatever the candidate says.

# %% [markdown] tags=["question"]
# With $i = 0.5$ and $g = 0.4$ a unit writes 0.2. With which other pair does it write the same? Can the memory tell the two apart?
#
# With $i = 1$ and $g = 0.2$, or $i = 0.25$ and $g = 0.8$. The memory cannot tell: only the product arrives. But the two
# have weights of their own, so another word may change the one and not the other.

# %% [markdown] tags=["question"]
# With $f = 1$, $i = 1$ and $g = 1$ at each step, where does $c$ go, and is there a limit?
#
# It grows by one at each step, without limit. tanh bounds what is written in *one* step, not the sum. That makes an LSTM able
# to count. What the outside sees is bounded again, by the tanh of the output: lesson 06.

# %% [markdown]
# ## In short
#
# - The [candidate](glossary.ipynb#candidate) says *what* might be written: a [tanh](glossary.ipynb#tanh), between −1 and 1.
# - The [input gate](glossary.ipynb#input-gate) says *how much* of it: a [sigmoid](glossary.ipynb#sigmoid), between 0 and 1.
# - Their product is added to what the [forget gate](glossary.ipynb#forget-gate) has left: $c' = f \cdot c + i \cdot g$.
# - One weighted sum cannot let one number silence another. A product can, and that is why there are gates.
#
# ## What next
#
# Let the forget gate be one minus the input gate, as some LSTMs do ([coupled gates](glossary.ipynb#coupled-gates)):
# `f = 1 - i` in the four cases above. Predict what becomes of A and C, and try it.
#
# The memory can now keep and write. Who gets to see it? [Lesson 06](06_output_gate.ipynb): the output gate.
