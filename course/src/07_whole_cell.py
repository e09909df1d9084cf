# %% [markdown]
# # 07 · The whole cell, built both ways
#
# You have met the four parts: forget gate, input gate, candidate, output gate. Today you put them together. There are two
# ways to write the cell down, and books, papers and libraries use both. They look different and are the same, which you
# will prove.
#
# **Afterwards you can**
# - write a whole LSTM cell as a function, with one matrix on $[h, x]$ or with two;
# - show that the two ways agree, and take the weights from one to the other;
# - compute how many parameters an LSTM has, $4H(I + H + 1)$, before you build it;
# - translate a textbook's names into gpulstm's.

# %% tags=["start"]
from lab import check, figures, start

xp = start()  # numpy, or cupy with a GPU; only the stopwatch further down uses it

# %%
import time

import numpy as np
from lab import backend
from lab.lesson_07_matrix import whole_cell
from lab.sentence import PARAMS, VECTORS, trace

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
figures.show(*whole_cell(inputs=3, hidden=2))

# %% [markdown]
# Every square of `W`, and of the bias, is one number of our cell from lesson 01. Each row makes one weighted sum, and each gate has $H = 2$ rows, one for
# each unit. The four blocks of rows are the four parts: $i$, $f$, $g$, $o$, in this order.
#
# - **On the left:** put $h$ on top of $x$, which is written $[h, x]$ and said "h and x *concatenated*". One wide matrix multiplies
#   it.
# - **On the right:** cut that matrix at the line. `weight_hh` multiplies $h$ (`h` for hidden, from hidden to hidden), `weight_ih`
#   multiplies $x$ (from input to hidden), and the two results are added.
#
# ## Predict first
#
# 1. How many numbers can training turn in our cell, with $I = 3$ features and $H = 2$ units? Count the squares.
# 2. Now twice the units, $H = 4$, and the same features. Is it exactly twice as many numbers, more than twice, or four times?
#
# ## One matrix, two matrices
#
# Take the step from *John* to *likes*: $x$ is the vector of *likes*, $h$ and $c$ are what *John* has left.

# %%
steps = trace()  # from lesson 01
x, h, c = VECTORS[1], steps["h"][0], steps["c"][0]
weight_ih, weight_hh, bias = PARAMS["weight_ih"], PARAMS["weight_hh"], PARAMS["bias"]
print("weight_ih", weight_ih.shape, " weight_hh", weight_hh.shape, " bias", bias.shape)

two = weight_hh @ h + weight_ih @ x + bias  # two matrices

W = np.concatenate([weight_hh, weight_ih], axis=1)  # side by side: h comes first
hx = np.concatenate([h, x])
one = W @ hx + bias  # one matrix

print("W", W.shape, " [h, x]", hx.shape)
print("both ways:", np.allclose(one, two))

# %% [markdown]
# Why? A weighted sum does not mind in how many portions you add it up. Each row runs first over the columns of $h$, then over those
# of $x$. Done in one go that is the left form, done in two it is the right one:
#
# $$\sum_{k} W_{rk}\,[h, x]_k \;=\; \sum_{k \le H} W_{rk}\,h_k \;+\; \sum_{k > H} W_{rk}\,x_{k-H}$$
#
# That is the whole proof. The order inside must fit, of course: if $h$ lies on top, its columns must be the left ones.
#
# ## After the sums: everything by element
#
# The matrices are where units meet. After that, each unit is alone with its four numbers: sigmoid, tanh, `*` and `+`
# work element by element, on numbers in the same place. No `@` appears any more.

# %%
a_i, a_f, a_g, a_o = np.split(one, 4)  # (2,) each, in this order
for name, values in [("a_i", a_i), ("a_f", a_f), ("a_g", a_g), ("a_o", a_o)]:
    print(f"{name}: who {values[0]:5.2f}, dark {values[1]:5.2f}")

# %% [markdown]
# ## Your turn: the whole cell
#
# Write one step as a function, with one matrix: `weight` is $(4H, H + I)$ and multiplies $[h, x]$. It returns the new hidden state
# and the new cell state, in this order. The check tries it on cells of other sizes, too, so do not write a 2 or a 3 into it.
#
# And make that matrix for *our* cell of `weight_ih` and `weight_hh`.


# %%
def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


# %% tags=["exercise"]
weight = ...  # ← your turn: our cell's matrix, (8, 5)


def cell(x, h, c, weight, bias):
    return ..., ...  # ← your turn: the new h, the new c


# %%
check("07.cell", weight, cell)

# %% [markdown] tags=["hint"]
# The matrix stands three cells above. In the function: weighted sums as in `one`, four parts as in `np.split`, then the six lines of
# lesson 01.

# %% [markdown] tags=["hint"]
# `i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)` and `g = np.tanh(a_g)`. The new $c$ is $f \cdot c + i \cdot g$, and the new
# $h$ uses the *new* $c$.

# %% tags=["solution"]
weight = np.concatenate([weight_hh, weight_ih], axis=1)


def cell(x, h, c, weight, bias):
    a = weight @ np.concatenate([h, x]) + bias
    a_i, a_f, a_g, a_o = np.split(a, 4)
    i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
    g = np.tanh(a_g)
    c_new = f * c + i * g
    h_new = o * np.tanh(c_new)
    return h_new, c_new


# %% [markdown]
# gpulstm's own cell is `gl.LSTMCell`. It uses two matrices, and says the same:

# %%
gl_cell = gl.LSTMCell(input_size=3, hidden_size=2, dtype="float64")
gl_cell.params.update(PARAMS)
h_new, c_new = gl_cell(x, (h, c))
for name, found in [("h", h_new), ("c", c_new)]:
    print(f"{name} after likes: {found.round(3)}", end=" ")
    print("as in lesson 01:", np.allclose(found, steps[name][1]))

# %% [markdown]
# ## The textbook's names
#
# Some books give each gate a matrix of its own, on $[h, x]$, and call everything by capitals. It is the left form, cut
# between the blocks. With this table you can read them:
#
# | textbook | in words | here |
# |---|---|---|
# | `WFG` | weights of the forget gate, on $[h, x]$ | `lstm.gate("forget").weight`, $(H, H + I)$ |
# | `BFG` | bias of the forget gate | `lstm.gate("forget").bias`, $(H,)$ |
# | `FGOP` | forget gate's output, $\sigma(\text{WFG} \cdot [h, x] + \text{BFG})$ | $f$ |
# | `IPGOP` | input gate's output | $i$ |
# | `CNDCS` | candidate cell state | $g$ |
# | `OGOP` | output gate's output | $o$ |
# | `NEWCS` | new cell state, FGOP · (old cell state) + IPGOP · CNDCS | $c'$, the new `c` |
# | `NEWHS` | new hidden state, OGOP · tanh(NEWCS) | $h'$, the new `h` |
#
# `lstm.gate(...)` hands you each gate in that form: `"input"`, `"forget"`, `"candidate"` or `"output"`.

# %%
lstm = gl.LSTM(input_size=3, hidden_size=2, dtype="float64")
lstm.load_state_dict({f"{name}_l0": value for name, value in PARAMS.items()})

WFG, BFG = lstm.gate("forget")
FGOP = sigmoid(WFG @ np.concatenate([h, x]) + BFG)
print("columns of WFG: h who, h dark, person, feeling, dark")
print(WFG)
print("FGOP is f of lesson 01:", np.allclose(FGOP, steps["f"][1]))

gates = [lstm.gate(name).weight for name in ("input", "forget", "candidate", "output")]
print("all four stacked are W:", np.array_equal(np.concatenate(gates), W))

# %% [markdown]
# ## One product or eight?
#
# Written the textbook's way, but with `weight_ih` and `weight_hh` apart, a step has **eight** small matrix products: two for each of
# the four blocks. Stacked, they are one. The arithmetic is the same. Is the time?

# %% tags=["nbval-ignore-output"]
H = 64
rng = np.random.default_rng(0)
big = xp.asarray(rng.normal(size=(4 * H, 2 * H)).astype("float32"))
both = xp.asarray(rng.normal(size=(2 * H, 1)).astype("float32"))
gate_rows = [big[k * H : (k + 1) * H] for k in range(4)]
small = [
    xp.ascontiguousarray(part) for rows in gate_rows for part in (rows[:, :H], rows[:, H:])
]


def microseconds(products, repeats=300):
    backend.to_numpy(products()[0])  # warm up; and on a GPU, wait until it is done
    began = time.perf_counter()
    for _ in range(repeats):
        results = products()
    backend.to_numpy(results[0])
    return (time.perf_counter() - began) / repeats * 1e6


print(f"one product:    {microseconds(lambda: [big @ both]):5.0f} microseconds")
eight = [(part, both[H:] if k % 2 else both[:H]) for k, part in enumerate(small)]
print(f"eight products: {microseconds(lambda: [w @ v for w, v in eight]):5.0f} microseconds")

# %% [markdown]
# The numbers are your machine's, so they differ from mine, and from run to run. Each product costs something before its
# arithmetic begins: a Python call, and on a GPU a [kernel launch](glossary.ipynb#kernel-launch). With small matrices that
# is most of the time, and it is why gpulstm, PyTorch and Keras all stack the four gates.
#
# And why do gpulstm and PyTorch keep **two** matrices, and not one? Because all $x$ are known beforehand, and $h$ is not. `weight_ih` can
# be applied to all words of the sentence in one large product, before the first step. Only `weight_hh` must wait. You do that in lesson 08.
#
# ## Your turn: count the screws
#
# Write the number of parameters of an LSTM layer with $I$ = `inputs` features and $H$ = `hidden` units: all weights, and one bias for each row. Your
# answer to the prediction is in it.


# %% tags=["exercise"]
def count(inputs, hidden):
    return ...  # ← your turn


# %%
check("07.count", count)

# %% [markdown] tags=["hint"]
# How many rows has the picture, and how many squares has each row, with the one for the bias?

# %% [markdown] tags=["hint"]
# There are $4H$ rows: four blocks of $H$. Each row has one square for each number in $[h, x]$, and one for the bias.


# %% tags=["solution"]
def count(inputs, hidden):
    return 4 * hidden * (inputs + hidden + 1)


# %% [markdown]
# Three layers, counted by gpulstm itself:

# %%
for inputs, hidden in [(3, 2), (3, 4), (100, 256)]:
    params = gl.LSTM(inputs, hidden).params
    total = sum(value.size for value in params.values())
    parts = ", ".join(f"{name} {value.size}" for name, value in params.items())
    print(f"I = {inputs:3}, H = {hidden:3}: {total:6} parameters ({parts})")

# %% [markdown]
# **1.** 48 in our cell: 24 and 16 squares, and 8 for the bias. **2.** With $H = 4$ it is 128, *more than twice* and less than four times
# as many. Twice the rows makes everything double, and `weight_hh` also gets twice the columns. The larger $H$ is
# compared with $I$, the closer it comes to four times.
#
# (PyTorch keeps two biases, one for each matrix, that are simply added. So it counts $4H(I + H + 2)$, and can do nothing more with
# them.)
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# A book writes $W \cdot [x, h]$, with $x$ on top. How do you take its weights over?
#
# The columns must change places: its first $I$ columns are `weight_ih`, its last $H$ are `weight_hh`. The rows stay, if its
# gates come in the order i, f, g, o; check that, too, for there are libraries with another order.

# %% [markdown] tags=["question"]
# Where in the cell does one unit learn anything about another one?
#
# Only in `weight_hh`, through $h$. Everything after the weighted sums goes element by element.

# %% [markdown] tags=["question"]
# Does an LSTM need more parameters for longer sentences?
#
# No. The length of the sentence does not occur in $4H(I + H + 1)$: the same weights are used at every step.

# %% [markdown]
# ## In short
#
# - A [cell](glossary.ipynb#cell) is one weighted sum for each unit and gate, then everything element by element:
#   $c' = f \cdot c + i \cdot g$, and $h' = o \cdot \tanh(c')$.
# - One matrix on $[h, x]$, or two, one on $h$ and one on $x$: the same [weights](glossary.ipynb#weight), cut or not.
# - It has $4H(I + H + 1)$ [parameters](glossary.ipynb#parameter), whatever the length of the sequence.
# - `lstm.gate("forget")` gives the textbook's view of gpulstm's weights.
#
# ## What next
#
# How many units can you afford with a million parameters and $I = 100$? Guess, then try with `count`, or solve the equation.
#
# One step works. [Lesson 08](08_forward_pass.ipynb) takes it through time, and through many sentences of different lengths at once.
