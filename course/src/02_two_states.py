# %% [markdown]
# # 02 · Cell state and hidden state
#
# An LSTM hands two vectors from word to word. Why two? Because remembering something and talking about it are different
# things. Today you find out, by meddling with one of them, who sees which.
#
# **Afterwards you can**
# - tell the cell state from the hidden state;
# - say which parts of a network see the one, and which the other;
# - set the gates so that something is kept and not shown.

# %% tags=["start"]
from lab import check, figures, start

xp = start()  # numpy, or cupy with a GPU; four words fit into numpy

# %%
import matplotlib.pyplot as plt
import numpy as np
from lab.lesson_02_drawings import belt_diagram
from lab.sentence import PARAMS, VECTORS, WORDS, trace

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
figures.show(
    belt_diagram().figure,
    alt="""One step of an LSTM as two lanes from left to right. The upper lane carries c: it
    passes a box 'times', which the forget gate f feeds from below, and a box 'plus',
    fed by i times g, and leaves as the new c. The lower lane begins with the old h and the
    word x, put together. They feed f, i, g and o. From the upper lane a branch goes down
    through tanh to a box 'times', where the output gate o meets it; what comes out is
    the new h. From the new h alone an arrow leads up to a box called layer above.""",
)

# %% [markdown]
# Two lanes:
#
# - The upper one is a conveyor belt: the [cell state](glossary.ipynb#cell-state) $c$ rides on it from word to word. On its way
#   a share of it is kept (times $f$), and something is put on (plus $i \cdot g$). Nothing else happens to it.
# - The lower one carries the [hidden state](glossary.ipynb#hidden-state) $h$. It is made anew at each word: a look at
#   the belt, through the tanh and the output gate. (The name is older than the LSTM, and unlucky here. *Hidden* means inside of the
#   network, neither its input nor its answer. Of the two states $h$ is the one that is *shown*.)
#
# Now follow the arrows *backwards* from the gates. They come from the lower lane. And the box *layer above* stands for
# everything outside: another LSTM, or the small linear layer that made the forecasts in lesson 00.
#
# ## Predict first
#
# We read *John likes* with the cell of lesson 01, and stop. Now somebody reaches in and takes 0.5 off the $c$ of *who*. Its $h$
# is left as it is. Then the cell reads on: *black*, *coffee*.
#
# 1. At *black*: which of $i$, $f$, $g$, $o$, and which of the new $c$ and $h$ come out different from before?
# 2. And at *coffee*?
#
# ## Meddling with the memory
#
# This is the step of lesson 01 as a function. `gate_activations` puts the sigmoid and the tanh around the sums.


# %%
def step(x, h, c, params=PARAMS):
    a = params["weight_ih"] @ x + params["weight_hh"] @ h + params["bias"]
    i, f, g, o = gl.ops.gate_activations(a).reshape(4, 2)
    c = f * c + i * g
    h = o * np.tanh(c)
    return {"i": i, "f": f, "g": g, "o": o, "c": c, "h": h}


def read_on(h, c, params=PARAMS):
    """Reads black and coffee from these states."""
    steps = []
    for x in VECTORS[2:]:
        steps.append(step(x, h, c, params))
        h, c = steps[-1]["h"], steps[-1]["c"]
    return steps


# %% [markdown]
# Read on twice, once as it was and once with the changed state, and compare.


# %%
def compare(one, other):
    print("          " + "  ".join(f"{name:7}" for name in "ifgoch"))
    for word, a, b in zip(WORDS[2:], one, other, strict=True):
        words = ["same" if np.allclose(a[name], b[name]) else "CHANGED" for name in "ifgoch"]
        print(f"{word:8}  " + "  ".join(f"{word:7}" for word in words))


after_likes = trace()["h"][1], trace()["c"][1]
h, c = after_likes
compare(read_on(h, c), read_on(h, c - [0.5, 0]))

# %% [markdown]
# At *black* all gates and the candidate are the same: **they do not see $c$**. Only the two states that are
# made *of* $c$ have changed. At *coffee* the forget gate and the output gate have changed too. They noticed it one word late, and
# only because $h$ had told them.
#
# (The input gate and the candidate stay the same here because their weights for the $h$ of *who* are zero in our
# cell. In general all four see all of $h$.)
#
# Now the other way round: $h$ of *who* is changed, and $c$ is left alone.

# %%
compare(read_on(h, c), read_on(h - [0.5, 0], c))

# %% [markdown]
# This time the gates notice at once.
#
# ## A secret
#
# What if the output gate of *who* is shut? Then its $h$ is zero whatever its $c$ is. We shut it with a bias of −30, and take
# 0.5 off its memory again.

# %%
shut = {name: value.copy() for name, value in PARAMS.items()}
shut["bias"][6] = -30  # the row "output gate who"

compare(read_on(h, c, shut), read_on(h, c - [0.5, 0], shut))

# %% [markdown]
# Only $c$ itself knows. The gates, the other unit, the rest of the network: nobody can tell. A memory with its output
# gate shut is a secret. It is kept all the same, and may be shown later.
#
# ## What gpulstm hands out

# %%
lstm = gl.LSTM(input_size=3, hidden_size=2, dtype="float64")
lstm.load_state_dict({f"{name}_l0": value for name, value in PARAMS.items()})
y, state = lstm(VECTORS)

print("y is the hidden state of every word:", np.allclose(y, trace()["h"]), y.shape)
print("state.h is the last of them:        ", np.allclose(state.h, y[-1]), state.h.shape)
print(
    "state.c is the last cell state:     ",
    np.allclose(state.c, trace()["c"][-1]),
    state.c.shape,
)

# %% [markdown]
# `y`, the output, is made of hidden states only: that is all that a layer above gets. `state` has both, because
# whoever wants to go on reading later needs both. The cell states of the words in between are not handed out at all.
#
# ## Your turn: who sees which?
#
# Write `"c"` or `"h"` in each line.

# %% tags=["exercise"]
forget_gate_reads = ...  # ← your turn: which of the old states, "c" or "h"?
candidate_reads = ...
belt_keeps_some_of = ...
layer_above_reads = ...

# %%
check("02.who-sees", forget_gate_reads, candidate_reads, belt_keeps_some_of, layer_above_reads)

# %% [markdown] tags=["hint"]
# Find each in the picture, and follow its arrows backwards.

# %% [markdown] tags=["hint"]
# In the first experiment $c$ was changed. What was the same at *black* does not read it.

# %% tags=["solution"]
forget_gate_reads = "h"
candidate_reads = "h"
belt_keeps_some_of = "c"
layer_above_reads = "h"

# %% [markdown]
# ## Your turn: keep it, and hide it
#
# Here is one unit as a belt, and *you* are its gates. Each word offers a candidate: John 0.96, the others something that
# nobody needs. Set the three gates, four numbers each, one for each word, so that

# - $c$ is 0.96 after *John* **and stays so**, up to the end;
# - $h$ is zero at every word.
#
# A gate may be anything from 0, shut, to 1, open.


# %%
def belt(i, f, g, o):
    c, cs, hs = 0.0, [], []
    for t in range(4):
        c = f[t] * c + i[t] * g[t]
        cs.append(c)
        hs.append(o[t] * np.tanh(c))
    return np.array(cs), np.array(hs)


g = np.array([0.96, -0.5, 0.7, -0.9])  # what each word offers

# %% tags=["exercise"]
#            John likes black coffee
i = np.array([1.0, 1.0, 1.0, 1.0])  # ← your turn, three lines
f = np.array([0.5, 0.5, 0.5, 0.5])
o = np.array([1.0, 1.0, 1.0, 1.0])

# %%
check("02.keep-and-hide", i, f, o)

# %% [markdown] tags=["hint"]
# Take them one after the other. Which gate brings John onto the belt, and when must it be shut? Which one keeps him there? Which one
# hides him?

# %% [markdown] tags=["hint"]
# At *John*, $c = f \cdot 0 + i \cdot 0.96$. At each later word $c$ must come out as it went in: of $f \cdot c + i \cdot g$,
# what must $f$ be, and what $i$?

# %% tags=["solution"]
#            John likes black coffee
i = np.array([1.0, 0.0, 0.0, 0.0])
f = np.array([1.0, 1.0, 1.0, 1.0])
o = np.array([0.0, 0.0, 0.0, 0.0])

# %% [markdown]
# This is what your gates do. Come back to this cell whenever you have changed them.

# %%
cs, hs = belt(i, f, g, o)
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.plot(WORDS, cs, marker="o", label="c, on the belt")
axes.plot(WORDS, hs, marker="s", label="h, shown")
axes.set(ylim=(-1.05, 1.05), ylabel="value")
axes.axhline(0, color="0.7", linewidth=0.8)
axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.2), frameon=False)
figures.show(
    figure,
    alt=f"""Two lines over the four words, for the gates as they are set now. c, solid with
    round marks: {", ".join(f"{value:.2f}" for value in cs)}. h, dashed with square marks:
    {", ".join(f"{value:.2f}" for value in hs)}.""",
)

# %% [markdown]
# Here you could set a gate to 0 or 1 exactly. A real gate comes out of a sigmoid, which only gets close to them. How close, and
# what that costs, is the next lesson.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# Two cells differ in $c$ but not in $h$, and read the same word. Are their forget gates the same at this word?
#
# Yes. The forget gate sees the word and the old $h$, and those are equal. At the next word it may differ, if the output gate let
# something of the difference out.

# %% [markdown] tags=["question"]
# You stop after a thousand words and want to go on tomorrow. What must you store: `state.h`, `state.c`, or both?
#
# Both. Without $c$ the memory is gone. Without $h$ the gates of the next word would see zeros, and open wrongly.

# %% [markdown] tags=["question"]
# $h$ of a unit is 0. Does that mean that it remembers nothing?
#
# No. Either there is nothing on its belt, or its output gate is shut. From outside you cannot tell which.

# %% [markdown]
# ## In short
#
# - The [cell state](glossary.ipynb#cell-state) is the memory. It rides along, is multiplied by the
#   [forget gate](glossary.ipynb#forget-gate), and added to. Only the cell itself sees it.
# - The [hidden state](glossary.ipynb#hidden-state) is what the cell shows of it. The gates of the next word see it, and so do the
#   layers above.
# - What is changed in $c$ reaches the gates one word later, and only as far as the [output gate](glossary.ipynb#output-gate)
#   lets it out.
# - To keep something without showing it: input gate 0, forget gate 1, output gate 0.
#
# ## What next
#
# Some LSTMs let their gates see $c$ as well: such a connection is called a [peephole](glossary.ipynb#peephole). Which of the words
# `same` in the first experiment would it turn into `CHANGED`? To try it, put `+ [0, 0, c[0], c[1], 0, 0, 0, 0]` at the end
# of the line that computes `a`. Which gate sees it then?
#
# Then go on to [lesson 03](03_sigmoid_and_tanh.ipynb): the two curves of which gates are made.
