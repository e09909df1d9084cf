# %% [markdown]
# # 06 · Output gate: hide, then reveal
#
# To know something is not yet to say it. An LSTM keeps its memory to itself, and a third valve decides at each step how
# much of it the others get to see. What is not shown is not lost: it waits.
#
# **Afterwards you can**
# - compute the hidden state from the memory and the output gate;
# - hide a memory for three steps and reveal it at the fourth, without losing it;
# - predict who notices when a memory is hidden, and who does not.

# %% tags=["start"]
from lab import check, figures, start

xp = start()  # numpy, or cupy with a GPU; these few numbers stay in numpy

# %%
import matplotlib.pyplot as plt
import numpy as np
from lab.sentence import PARAMS, UNITS, VECTORS, WORDS, trace

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# Above: what our cell from lesson 01 could show after each word. In the middle: the valve. Below: what it does show.

# %%
steps = trace()  # i, f, g, o, c, h of each word, each (4 words, 2 units)
inside = np.tanh(steps["c"])

figure, axes = plt.subplots(3, 1, figsize=(5.4, 4.6))
maps = [
    ("kept inside: tanh(c)", inside),
    ("times the output gate: o", steps["o"]),
    ("is shown: h", steps["h"]),
]
for one, (title, values) in zip(axes, maps, strict=True):
    figures.gate_map(values.T, WORDS, UNITS, title=title, axes=one)
said = [figures.say_map(values.T, WORDS, UNITS) for _, values in maps]
figures.show(
    figure,
    alt=f"""Three heat maps above each other, with a column for each word and a row for each
    of the units who and dark. Kept inside: {said[0]} Output gate: {said[1]} Shown, the
    product of the two: {said[2]} The memory of who is dark in all columns; shown it is most
    at likes, some at coffee, and little at John and black.""",
)

# %% [markdown]
# Look at the row *who*. Above, John is there from the first word to the last. Below, he comes and goes. Field by field,
# the first map times the second is the third:
#
# $$h = o \cdot \tanh(c)$$
#
# The [output gate](glossary.ipynb#output-gate) $o$ is a sigmoid, so it lies between 0, hidden, and 1, shown. The
# formula reads the [cell state](glossary.ipynb#cell-state) $c$ and leaves it as it is: showing a memory does not use it up. (Mind the
# name: $h$, the *hidden state*, is what is shown. What is hidden here is hidden in $c$.)
#
# ## Predict first
#
# We shut the output gate of *who* for the whole sentence. John is never shown, at no word.
#
# 1. What is the memory of *who*, its $c$, after *coffee*? It was 0.76. Now about the same, clearly less, or zero?
# 2. And the unit *dark*, whose weights we do not touch: does it notice?
#
# A hint to think about: which numbers does a cell look at when it makes its gates?
#
# ## Shut it
#
# Row 6 of the weights belongs to the output gate of *who* (two rows for each of $i$, $f$, $g$, $o$). We make its
# weighted sum −30, whatever comes. $\sigma(-30)$ is zero for all that matters.

# %%
OUTPUT_WHO = 6


def with_output_gate(word_weights, h_weights, bias):
    """The weights of our cell, but for the output gate of who."""
    params = {name: value.copy() for name, value in PARAMS.items()}
    params["weight_ih"][OUTPUT_WHO] = word_weights  # person, feeling, dark
    params["weight_hh"][OUTPUT_WHO] = h_weights  # h who, h dark
    params["bias"][OUTPUT_WHO] = bias
    return params


shut = trace(params=with_output_gate([0, 0, 0], [0, 0], -30))
for name in "hc":
    for k, unit in enumerate(UNITS):
        before, after = steps[name][-1, k], shut[name][-1, k]
        print(f"{name} {unit:4} after coffee: was {before:.2f}, is {after:.2f}")

# %% [markdown]
# **1. About the same:** 0.73 instead of 0.76. John is as good as complete in the memory, and nobody has seen him. (Why not
# exactly the same? The forget gate of *who* also listens to $h$ of *who*, with a weight of 1 in the table of lesson 01: what is
# shown is kept a little better. That help is missing now.)
#
# **2. It notices.** *dark* shows 0.31 instead of 0.38. Its output gate listens to $h$ of *who*, with a weight of 2: it
# shows more if somebody is there. And to its eyes nobody is. It cannot look behind the curtain.
#
# That is the division of labour. All gates of all units, the next layer and whatever else is attached see only the
# [hidden state](glossary.ipynb#hidden-state) $h$:
#
# ```text
#                       who sees it?
#   c of a unit         the unit itself, and nobody else:  f · c + ...,  tanh(c)
#   h of a unit         all gates of all units at the next step, the layer above, the output
# ```
#
# So a unit can carry something through a long sentence without disturbing anyone, and speak up when it is time.
# Is gpulstm of the same opinion about the shut gate?

# %%
params = with_output_gate([0, 0, 0], [0, 0], -30)
lstm = gl.LSTM(input_size=3, hidden_size=2, dtype="float64")
lstm.load_state_dict({f"{name}_l0": value for name, value in params.items()})
# y: what is shown after each word; state.c: what is remembered at the end
y, state = lstm(VECTORS)
print("shown:     ", np.allclose(y, shut["h"]))
print("remembered:", np.allclose(state.c, shut["c"][-1]))

# %% [markdown]
# ## Your turn: hide three steps, then reveal
#
# First the valve alone, by hand. The memory of *who* during the sentence is given. Choose the four **weighted sums**
# $a_o$ that go into the sigmoid, so that John
# - is hidden after *John*, *likes* and *black*: $h$ is at most 0.01;
# - is shown after *coffee*: $h$ is at least 95 % of $\tanh(c)$.
#
# And compute $h$ from them.


# %%
def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


c_who = steps["c"][:, 0]
print("c of who:", c_who.round(2))

# %% tags=["exercise"]
#               John likes black coffee
a_o = np.array([0.0, 0.0, 0.0, 0.0])  # ← your turn: four numbers, and h
h_who = ...

# %%
check("06.hide", a_o, h_who)

# %% [markdown] tags=["hint"]
# $\sigma(0)$ is 0.5: with zeros every valve stands half open. Which numbers bring a sigmoid near 0, and which near 1?

# %% [markdown] tags=["hint"]
# $\sigma(-10)$ is 0.00005 and $\sigma(10)$ is 0.99995. For $h$ you need three things: `sigmoid(a_o)`, `np.tanh(c_who)`, and one
# multiplication.

# %% tags=["solution"]
#               John   likes  black coffee
a_o = np.array([-10.0, -10.0, -10.0, 10.0])
h_who = sigmoid(a_o) * np.tanh(c_who)

# %% [markdown]
# ## Your turn: let the cell do it
#
# A real cell has nobody at the valve. It has a row of weights. Find six numbers for the output gate of *who*, so that the
# cell *itself* keeps John hidden after the first three words ($h$ at most 0.05) and shows him after *coffee* ($h$ at
# least 0.5).
#
# What you start from is the row as it was. This one takes a moment's thought, so first look at what the row can see at each
# word: the word's three features, and what was shown after the word *before*.

# %%
print("          person feeling  dark | h who  h dark   before the word, with who hidden")
before = np.vstack([np.zeros(2), shut["h"][:-1]])
for word, x, h in zip(WORDS, VECTORS, before, strict=True):
    print(
        f"{word:8}"
        + "".join(f"{n:8.2f}" for n in x)
        + " |"
        + "".join(f"{n + 0:7.2f}" for n in h)
    )

# %% tags=["exercise"]
#               person feeling dark h_who h_dark bias
row = np.array([0.0, 3.0, 0.0, 0.0, 0.0, -1.0])  # ← your turn: six numbers

# %%
mine = trace(params=with_output_gate(row[:3], row[3:5], row[5]))
for word, h, c in zip(WORDS, mine["h"][:, 0], mine["c"][:, 0], strict=True):
    print(f"after {word:7} shows {h:.2f}, remembers {c:.2f}")
check("06.reveal", row)

# %% [markdown] tags=["hint"]
# The word alone is not enough. *coffee* is exactly half *likes* and half *black*, so its weighted sum is the mean of theirs. If both
# are far below zero, their mean is not above. Which other column tells *coffee* from the three words before it?

# %% [markdown] tags=["hint"]
# The column *h dark*: 0.33 before *coffee*, and never above zero earlier. So: a negative bias that keeps the gate shut, and a weight for
# *h dark* that is large enough to outdo it. 0.33 times the weight plus the bias should be about 4.

# %% tags=["solution"]
#               person feeling dark h_who h_dark bias
row = np.array([0.0, 0.0, 0.0, 0.0, 30.0, -5.0])

# %% [markdown]
# In words: *speak of John once something dark has been shown*. No single word says that. The gate can, because it
# sees $h$, and $h$ carries what came before. That is how gates of one unit steer those of another.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# You shut the output gate of *who* at *likes* only. What changes at *likes*, and what at *black*? The table of lesson 01 helps.
#
# At *likes* only $h$ of *who*, which is zero now. At *black* the two gates that listen to it: the forget gate of *who*, and
# with it $c$ and $h$ of *who*; and the output gate of *dark*, and with it $h$ of *dark*. The rest stays.

# %% [markdown] tags=["question"]
# A memory has grown to $c = 5$. How large can $h$ become, and what is the tanh good for?
#
# Below 1, for $\tanh(5) = 0.9999$. The memory may count as far as it likes, and yet everybody who listens always gets
# numbers between −1 and 1.

# %% [markdown] tags=["question"]
# Forget gate shut or output gate shut: after either, $h$ is near zero. Where is the difference?
#
# The output gate acts on this step's $h$ only: open it at the next step, and the memory is visible again. What the forget
# gate has erased does not come back. (And with the forget gate shut, $h$ is near zero only if nothing new is written.)

# %% [markdown]
# ## In short
#
# - $h = o \cdot \tanh(c)$: the [output gate](glossary.ipynb#output-gate) says how much of the memory is shown.
# - Hiding does not erase. The [cell state](glossary.ipynb#cell-state) goes on behind a shut gate.
# - Everybody else sees only the [hidden state](glossary.ipynb#hidden-state), the gates of all units included. So what is hidden has
#   no effect on others until it is shown.
#
# ## What next
#
# Make *who* show John only while he is **not** spoken of: at all words but *John*. Which of the six numbers must change?
# Predict, then try it with `with_output_gate`.
#
# You now know all the parts: forget gate, input gate, candidate, output gate, cell state and hidden state.
# [Lesson 07](07_whole_cell.ipynb) puts them together, in two ways, and counts the screws.
