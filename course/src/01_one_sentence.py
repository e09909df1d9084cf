# %% [markdown]
# # 01 · One sentence through one cell
#
# In lesson 00 the LSTM was a closed box. Today you open it, and push four words through it: **John likes black coffee**.
# The box is as small as it can be and still be interesting. Every number in it was chosen so that you can follow
# it with a pencil.
#
# **Afterwards you can**
# - compute the cell state and the hidden state of an LSTM by hand, word by word, from zero vectors;
# - name the six lines that every LSTM repeats at each step.

# %% tags=["start"]
from lab import check, figures, start

xp = start()  # numpy, or cupy with a GPU; four words fit into numpy

# %%
import numpy as np
from lab.sentence import FEATURES, GATES, PARAMS, UNITS, VECTORS, WORDS, trace

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
diagram = figures.strip(WORDS, above=[f"h after\n{word}" for word in WORDS])
figures.show(
    diagram.figure,
    alt="""The LSTM unrolled over the sentence. Four equal boxes stand in a row, one above
    each of the words John, likes, black, coffee. Two arrows, c and h, run from a box named
    zeros into the first LSTM box and from each LSTM box into the next. Above each box, an
    arrow leads up to the hidden state after that word.""",
)

# %% [markdown]
# Read it from left to right. Four boxes, but only **one** [cell](glossary.ipynb#cell): it is drawn once for each word, and
# the weights in it are the same each time. This way of drawing is called [unrolling](glossary.ipynb#unrolling).
# Two things travel from word to word:
#
# - **c**, the [cell state](glossary.ipynb#cell-state): the memory;
# - **h**, the [hidden state](glossary.ipynb#hidden-state): what the cell shows of it.
#
# Both are short vectors, and before the first word both are zero.
#
# ## Words as numbers
#
# A cell cannot read letters. So each word becomes a vector of three features. Here a human chose them; in a real network
# they are learnt.

# %%
print("         " + "  ".join(f"{name:>7}" for name in FEATURES))
for word, x in zip(WORDS, VECTORS, strict=True):
    print(f"{word:7}  " + "  ".join(f"{value:7}" for value in x))

# %% [markdown]
# *coffee* has two features at once: somewhat of a feeling, and rather dark.
#
# ## The six lines
#
# At each word the cell does the same. It gets $x$, the vector of the word, and $h$ and $c$ from the word before:
#
# ```text
# i  = σ(a_i)             input gate     how much to write
# f  = σ(a_f)             forget gate    how much to keep
# g  = tanh(a_g)          candidate      what to write
# o  = σ(a_o)             output gate    how much to show
#
# c' = f · c  +  i · g    cell state     keep some, write some
# h' = o · tanh(c')       hidden state   show some
# ```
#
# The dash marks the new states, those after the word. The sigmoid σ gives a number between 0 and 1: a
# [gate](glossary.ipynb#gate), which lets through a share. tanh gives a number between −1 and 1. (Both have lesson 03
# to themselves.) What goes into them, $a$, is a weighted sum of all that the cell sees, for each line with weights of its own:
#
# ```text
# a  = weight_ih · x  +  weight_hh · h  +  bias
# ```
#
# `weight_ih` leads from the input to the cell's units, `weight_hh` from the hidden state (`h` for hidden). The sum $a$ is called
# [preactivation](glossary.ipynb#preactivation). Ours has eight rows, because there are four lines with a
# weighted sum, and the cell has two [units](glossary.ipynb#unit). They are named after what they care about: *who* and *dark*.

# %%
columns = [*FEATURES, *(f"h {unit}" for unit in UNITS), "bias"]
print(" " * 18 + "  ".join(f"{name:>7}" for name in columns))
for row in range(8):
    numbers = [*PARAMS["weight_ih"][row], *PARAMS["weight_hh"][row], PARAMS["bias"][row]]
    name = f"{GATES[row // 2]} {UNITS[row % 2]}"
    print(f"{name:18}" + "  ".join(f"{number:7.0f}" for number in numbers))

# %% [markdown]
# Each row is one weighted sum. The first three columns are weights for the word, the next two for $h$, the last is the bias.
# Take the first row: *input gate who* is −2 without anything, and 4 higher for a person. So it is nearly shut for most
# words, and opens for John. The second row does the same for what is dark.
#
# ## Predict first
#
# Look at the rows of *who*: what opens its input gate, what its forget gate does all the time (bias 3), when its output gate
# opens. Then guess, before you go on:
#
# 1. After *coffee*, three words later: does the memory of *who*, its $c$, still hold most of John?
# 2. After which of the four words does *who* show most, that is, where is its $h$ largest?
#
# ## Step 1: John
#
# First the unit *who* alone, with plain numbers. $h$ and $c$ are zero, and of John's features only *person* is 1. So each
# weighted sum is the number in the column *person*, plus the bias.


# %%
def sigmoid(a):
    return 1 / (1 + np.exp(-a))


i = sigmoid(4 * 1 - 2)  # wide open: write
f = sigmoid(0 * 1 + 3)  # nearly open: keep what is there
g = np.tanh(2 * 1)  # what to write: a person, here it is
o = sigmoid(0 * 1 - 1)  # rather shut: show little
print(f"i = {i:.3f}, f = {f:.3f}, g = {g:.3f}, o = {o:.3f}")

c = f * 0 + i * g  # nothing to keep yet, for c was 0
h = o * np.tanh(c)
print(f"c = {c:.3f}, h = {h:.3f}")

# %% [markdown]
# John is in the memory (0.849), and the cell shows little of him (0.186).
#
# Now both units together. NumPy's `@` makes all eight weighted sums at once, and `reshape(4, 2)` puts them into four
# lines of two: one line for each of $i$, $f$, $g$, $o$, in this order; one column for each unit.

# %%
h0, c0 = np.zeros(2), np.zeros(2)

a = PARAMS["weight_ih"] @ VECTORS[0] + PARAMS["weight_hh"] @ h0 + PARAMS["bias"]  # (8,)
a_i, a_f, a_g, a_o = a.reshape(4, 2)

i1, f1, o1 = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
g1 = np.tanh(a_g)
c1 = f1 * c0 + i1 * g1
h1 = o1 * np.tanh(c1)
for name, value in [("i", i1), ("f", f1), ("g", g1), ("o", o1), ("c", c1), ("h", h1)]:
    print(f"{name}   who {value[0]:.3f}   dark {value[1]:.3f}")

# %% [markdown]
# The left column is what you have just seen. In the right one, $c$ is zero: the candidate of *dark* is 0, so there was
# nothing to write.
#
# ## Your turn: step 2, *likes*
#
# Compute the six lines for the second word, for both units. The word is `VECTORS[1]`; the states before it are `h1` and `c1`.
#
# Do it by hand at least for $f$ of *who*: take its row of the table, and mind that $h$ is no longer zero. Then write it in
# Python. Each answer is an array of two numbers, *who* and *dark*. You can run the check with some lines filled in: it
# looks at each on its own.

# %% tags=["exercise"]
i2 = ...  # ← your turn, six lines
f2 = ...
g2 = ...
o2 = ...
c2 = ...
h2 = ...

# %%
check("01.step-two", i2, f2, g2, o2, c2, h2)

# %% [markdown] tags=["hint"]
# The eight weighted sums are made as in step 1. Two things are different: the word, and the states that come before it.

# %% [markdown] tags=["hint"]
# By hand, for $f$ of *who*: nothing for the word, for its three weights are 0; 1 times the 0.186 that *who* showed; plus the
# bias 3. So $f = \sigma(3.186) = 0.960$. And $c$ of *who* is then 0.960 · 0.849 and what is newly written.

# %% tags=["solution"]
a = PARAMS["weight_ih"] @ VECTORS[1] + PARAMS["weight_hh"] @ h1 + PARAMS["bias"]
a_i, a_f, a_g, a_o = a.reshape(4, 2)

i2, f2, o2 = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
g2 = np.tanh(a_g)
c2 = f2 * c1 + i2 * g2
h2 = o2 * np.tanh(c2)

# %% [markdown]
# ## The rest of the sentence
#
# Nothing new comes. A loop does the same six lines for each word, and hands $h$ and $c$ on. It is the whole LSTM.

# %%
h, c = np.zeros(2), np.zeros(2)
for word, x in zip(WORDS, VECTORS, strict=True):
    a = PARAMS["weight_ih"] @ x + PARAMS["weight_hh"] @ h + PARAMS["bias"]
    a_i, a_f, a_g, a_o = a.reshape(4, 2)
    c = sigmoid(a_f) * c + sigmoid(a_i) * np.tanh(a_g)
    h = sigmoid(a_o) * np.tanh(c)
    print(f"{word:7}  c = {c[0]:5.2f} {c[1]:5.2f}   h = {h[0]:5.2f} {h[1]:5.2f}")

# %%
steps = trace()  # the same loop, which keeps everything: (4 words, 2 units) for each name
values = [steps["c"][:, 0], steps["h"][:, 0], steps["c"][:, 1], steps["h"][:, 1]]
rows = ["c who", "h who", "c dark", "h dark"]
axes = figures.gate_map(values, WORDS, rows, title="Memory and what is shown of it")
figures.show(
    axes.figure,
    alt=f"""A heat map with one column for each word and four rows.
    {figures.say_map(values, WORDS, rows)} The row c who is dark from the first word to the
    last. The row h who is dark only at likes and, less, at coffee. Both rows of dark are
    white up to likes and dark from black on.""",
)

# %% [markdown]
# Were you right?
#
# 1. **Yes.** $c$ of *who* falls from 0.85 to 0.76 and no further. Its forget gate stays above 0.95, so each word costs it
#    less than a twentieth.
# 2. **After *likes*.** There $h$ of *who* is 0.59, three times as much as after *John* himself. The memory was there
#    already; it is the output gate that opened, because it listens to *feeling*.
#
# And *dark*? It sleeps until *black*. After *likes* there is a small −0.09: the candidate said "bright", and the
# input gate, nearly shut, let a little of it in.
#
# ## Is that really an LSTM?
#
# Hand the same numbers to gpulstm, which knows nothing of *who* and *dark*.

# %%
lstm = gl.LSTM(input_size=3, hidden_size=2, dtype="float64")
# the names end in l0, for layer 0: ours is the only one
lstm.load_state_dict({f"{name}_l0": value for name, value in PARAMS.items()})
y, state = lstm(VECTORS)  # y: the hidden state after each word, (4, 2)

print("h after each word is the same:", np.allclose(y, steps["h"]))
print("c after coffee is the same:   ", np.allclose(state.c, c))

# %% [markdown]
# It is. Large LSTMs have a thousand units instead of two, and their weights come from training. The six lines stay.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# In step 1 neither the forget gate nor any of `weight_hh` had an effect. Why?
#
# Both are multiplied by zero: the forget gate by the old $c$, `weight_hh` by the old $h$. From the second word on they count.

# %% [markdown] tags=["question"]
# How many numbers does our cell take along from word to word? And in a text of a thousand words?
#
# Four: two of $c$ and two of $h$. In a long text as many. Whatever the cell is to know about the past must fit in there.

# %% [markdown] tags=["question"]
# Somebody computes $h' = o \cdot c'$. At which words would you notice it most?
#
# Where $c'$ is large. tanh hardly changes small numbers, but it makes 0.82 into 0.67. So *who* would be wrong at each
# word, by about a fifth, and *dark* at *likes* by almost nothing.

# %% [markdown]
# ## In short
#
# - An LSTM is one [cell](glossary.ipynb#cell) that is applied to each word in turn, with the same weights.
# - At each step it computes three [gates](glossary.ipynb#gate) and a [candidate](glossary.ipynb#candidate) from the word and
#   the old hidden state, and from these the two new states.
# - $c' = f \cdot c + i \cdot g$: the [cell state](glossary.ipynb#cell-state) keeps some and writes some.
# - $h' = o \cdot \tanh(c')$: the [hidden state](glossary.ipynb#hidden-state) shows some of it.
# - Our cell's numbers were chosen by hand, and so are its talents. Real ones are learnt.
#
# ## What next
#
# Let the sentence run in another order: `trace(VECTORS[[2, 3, 1, 0]])["c"]` reads *black coffee likes John*. Predict first
# what is left of *dark* at the end. (Its forget gate is 0.27 at words that are not dark.)
#
# Then go on to [lesson 02](02_two_states.ipynb): why two states, and who sees which?
