# %% [markdown]
# # 18 · Stacked, and from both ends
#
# One LSTM reads words. A second one can read what the first one says: that is a **stack**. And a second one can read the
# same words from the end: that is **bidirectional**. Both are made of parts that you already have.
#
# **Afterwards you can**
# - build a stack of two LSTMs by hand, and say what shape its weights and its states have;
# - make a forward LSTM read from the end, with two flips;
# - tell, for each output, which words it can have seen;
# - turn round a padded batch without turning the padding.

# %% tags=["start"]
from lab import check, figures, start

xp = start()  # numpy, or cupy with a GPU; these few numbers stay in numpy

# %%
import numpy as np
from lab.lesson_18_drawings import directions, layers
from lab.sentence import PARAMS, VECTORS, WORDS

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# **A stack.** The lower LSTM reads the words. Its [hidden state](glossary.ipynb#hidden-state) at each word is what the upper
# LSTM reads. Each [layer](glossary.ipynb#layer) has weights and states of its own.

# %%
figures.show(
    layers(WORDS),
    alt="""Four columns, one for each word of John likes black coffee. From below: the word,
    a box LSTM of layer 0, a box LSTM of layer 1, the output y. An arrow h goes up from box
    to box, and within each layer arrows c, h go from each word to the next one, left to
    right.""",
)

# %% [markdown]
# **Both ends.** Two LSTMs read the same words, one from John to coffee, the other from coffee to John. At each word their
# two hidden states are put side by side.

# %%
figures.show(
    directions(WORDS),
    alt="""Four columns, one for each word. From each word one arrow goes to a box LSTM of
    the forward row and one to a box LSTM of the backward row; both boxes have an arrow to
    the output y of that word. In the forward row the arrows between the words go from left
    to right, in the backward row, dashed, from right to left.""",
)

# %% [markdown]
# ## Predict first
#
# Somebody changes one word: John likes **white** coffee. At which of the four words does the output change
#
# - A. of one LSTM that reads forwards?
# - B. of one that reads backwards?
# - C. of a stack of two that read forwards?
# - D. of a stack of two layers that read from both ends?
#
# Follow the arrows in the pictures, and write down four lists of words.
#
# ## A stack by hand
#
# The lower LSTM is the cell of our sentence. The upper one is drawn at random: we ask who sees what, not who is clever.

# %%
lower_params = {name + "_l0": array for name, array in PARAMS.items()}
lower = gl.LSTM(3, 2, dtype="float64", rng=0)
lower.load_state_dict(lower_params)
upper = gl.LSTM(2, 2, dtype="float64", rng=18)  # its inputs are the 2 hidden units below

x = VECTORS[:, None, :]  # (4 words, 1 sentence, 3 features)
y_lower, state_lower = lower(x)
y_upper, state_upper = upper(y_lower)
print("y of layer 0", y_lower.shape, " y of layer 1", y_upper.shape)

# %% [markdown]
# That was all of it: the output of one is the input of the other. gpulstm has both in one object. The names of the upper
# layer's weights end in `_l1`:

# %%
stack = gl.LSTM(3, 2, num_layers=2, dtype="float64", rng=0)
of_upper = {name.replace("_l0", "_l1"): array for name, array in upper.params.items()}
stack.load_state_dict({**lower.params, **of_upper})

y_stack, state = stack(x)
print("the same as by hand:", np.allclose(y_stack, y_upper, rtol=0, atol=1e-12))
for name, array in stack.params.items():
    print(f"{name:13} {array.shape}")
print("state.h", state.h.shape, "(layers, batch, hidden)")

# %% [markdown]
# The output is that of the **top** layer alone. The state has both layers: `state.h[0]` is the lower one's at coffee,
# `state.h[1]` the upper one's. And the upper `weight_ih` is (8, 2), not (8, 3): it never sees a word.
#
# Why stack? Each layer can read what the one below has already put together. More layers also means more weights and more
# steps that wait for each other. Two or three are usual; whether they help is a question for held-out data.
#
# ## Your turn: read from the end
#
# You have an LSTM that reads forwards. Make it read from the end, *without touching its weights*. The outputs shall stand in
# the order of time: `y[0]` belongs to John, who was read last.


# %% tags=["exercise"]
def from_the_end(lstm, x):
    y, state = lstm(x)  # ← your turn: x is (time, batch, features)
    return y


# %%
check("18.from-the-end", from_the_end)

# %% [markdown] tags=["hint"]
# An LSTM reads in the order in which you hand it the words. In NumPy `x[::-1]` turns the first axis round.

# %% [markdown] tags=["hint"]
# Two flips: one of what goes in, one of what comes out. Without the second one `y[0]` is coffee's.


# %% tags=["solution"]
def from_the_end(lstm, x):
    y, state = lstm(x[::-1])
    return y[::-1]


# %% [markdown]
# In gpulstm this is `reverse=True`; no array is turned round in memory, the LSTM simply walks the other way. Two directions
# with weights of their own are `bidirectional=True`, and the names of the second one end in `_reverse`. Here both get the weights
# of our cell, so that we can compare what it understands from the front and from the end:

# %%
both = gl.LSTM(3, 2, bidirectional=True, dtype="float64", rng=0)
for name, array in PARAMS.items():
    both.params[name + "_l0"][...] = array
    both.params[name + "_l0_reverse"][...] = array

y, state = both(x)
print("y", y.shape, "(time, batch, 2 directions * hidden)")

backward = gl.LSTM(3, 2, reverse=True, dtype="float64", rng=0)
backward.load_state_dict(lower_params)
side_by_side = np.concatenate([y_lower, backward(x)[0]], axis=2)
print("two LSTMs side by side:", np.allclose(y, side_by_side, rtol=0, atol=1e-12))

# %%
rows = ["who, forward", "dark, forward", "who, backward", "dark, backward"]
values = y[:, 0].T  # (4, 4 words)
axes = figures.gate_map(values, WORDS, rows, low=-0.1, high=0.7, title="Hidden state")
figures.show(
    axes.figure,
    alt=f"""A heat map of the hidden states, one column for each word.
    {figures.say_map(values, WORDS, rows)} The forward unit who is not zero from John on;
    the backward one is zero everywhere but at John, because from the end he comes last.""",
)

# %% [markdown]
# Read the row *who, backward* from right to left. At likes it is zero: a reader from the end has met no person yet. The row
# *who, forward* at likes says 0.59: somebody likes something. **Each direction knows what the other one cannot know yet.** At
# every word, the two halves together have seen the whole sentence.
#
# ## One word changes
#
# Now the four predictions. A cross says that the output at that word has changed.

# %%
x_white = x.copy()
x_white[2, 0] = [0.0, 0.0, -1.0]  # white: the opposite of dark
deep = gl.LSTM(3, 2, 2, bidirectional=True, dtype="float64", rng=18)

print(" " * 24 + "  ".join(WORDS))
for name, lstm in [
    ("A. forwards", lower),
    ("B. backwards", backward),
    ("C. a stack, forwards", stack),
    ("D. a stack, both ways", deep),
]:
    changed = np.abs(lstm(x_white)[0] - lstm(x)[0]).max(axis=(1, 2)) > 1e-9  # (4 words,)
    crosses = ["x" if one else "-" for one in changed]
    print(
        f"{name:24}" + "  ".join(f"{c:{len(w)}}" for c, w in zip(crosses, WORDS, strict=True))
    )

# %% [markdown]
# - **A and C**: from black on. A stack sees no farther ahead than one layer: no arrow in its picture points to the left.
# - **B**: black and everything *before* it.
# - **D**: everywhere. One layer that reads from both ends is enough for that.
#
# So a [bidirectional](glossary.ipynb#bidirectional) LSTM says nothing before it has heard everything. For a sentence that
# lies before you that is fine. For a forecast it is forbidden: the backward half at today has read tomorrow's paper, which is
# [leakage](glossary.ipynb#leakage). For live speech it means waiting.
#
# **Where the summary stands.** Whoever needs one vector for the sentence takes the last hidden state of each
# direction. For the backward one that is at the *first* word:

# %%
print("forward half of state.h is y at coffee:", np.array_equal(state.h[0, 0], y[3, 0, :2]))
print("backward half of state.h is y at John: ", np.array_equal(state.h[1, 0], y[0, 0, 2:]))

# %% [markdown]
# `y[-1]` would be a trap: its backward half has read one single word. `gl.nn.LastStep(bidirectional=True)` takes each half
# where it belongs.
#
# ## Both at the same time
#
# The two directions need nothing from each other. So a GPU can let one half of its multiprocessors read from the front while
# the other half reads from the end. gpulstm does so, in one launch for all time steps ([lesson 16](16_one_launch.ipynb)), where half
# of the GPU has room for a direction and there is something to be gained; the numbers are the same to the last bit. `plan` says
# what would run, and why:

# %% tags=["nbval-ignore-output"]
if xp is np:
    print("No GPU here: numpy reads from the front first, and then from the end.")
else:
    wide = gl.LSTM(3, 32, bidirectional=True, xp=xp, rng=0)
    print(wide.plan(xp.zeros((100, 8, 3), dtype="float32")))

# %% [markdown]
# In a stack, the upper layer needs what the lower one puts out. But it does not need all of it before it begins! Follow the
# arrows in the first picture: the upper box at John has one arrow from below, and it is ready as soon as the lower box at John is.
# From then on both can work, the upper one a word behind:

# %%
stacked = [lower, upper]
states = [None, None]
read = [x, {}, {}]  # what each layer reads at each word, and then what comes out at the top
for wave in range(len(WORDS) + 1):
    busy = [layer for layer in (0, 1) if 0 <= wave - layer < len(WORDS)]
    done = []
    for layer in busy:
        word = read[layer][wave - layer][None]  # (1 time step, 1 sentence, features)
        done.append(stacked[layer](word, states[layer]))
    for layer, (y_word, state) in zip(busy, done, strict=True):
        read[layer + 1][wave - layer] = y_word[0]
        states[layer] = state
    print(f"wave {wave}:", ", ".join(f"layer {n} at {WORDS[wave - n]}" for n in busy))

in_waves = np.stack([read[2][t] for t in range(len(WORDS))])
print("the same as the stack:", np.allclose(in_waves, y_stack, rtol=0, atol=1e-12))

# %% [markdown]
# Five waves instead of eight steps one after the other. With $T$ words and $L$ layers it takes $T + L - 1$ waves instead of
# $T \cdot L$ steps: for a hundred words, two layers take hardly longer than one. Within a wave no box waits for another: all of
# `done` is made before anything of it is put away. On a GPU each layer has multiprocessors of its own, and the upper layer takes each
# number from the lower one as soon as it is there. gpulstm does so where the GPU has room for all layers' weights at once and
# there is something to be gained. Backward it is the same picture with the arrows turned round: the upper layer begins, at the
# last word.

# %% [markdown]
# ## Your turn: sentences of different lengths
#
# In a batch, short sentences are filled up with zeros behind their end ([padding](glossary.ipynb#padding)). Turn such a batch
# round with `x[::-1]`, and a short sentence begins with a row of zeros. The LSTM reads them, its biases move its states, and the
# first real word no longer finds zeros.
#
# Write the flip that turns each sentence round within its own length, and leaves the padding behind it. A length may be 0: then
# nothing moves.


# %% tags=["exercise"]
def flip_each(x, lengths):
    """x (time, batch, features), lengths (batch,)."""
    return x[::-1]  # ← your turn


# %%
check("18.flip-each", flip_each)

# %% [markdown] tags=["hint"]
# Go through the batch: `for n, length in enumerate(lengths)`. Sentence `n` is `x[:length, n]`. Begin with `flipped = x.copy()`, so
# that the padding is there already, and x stays as it is.

# %% [markdown] tags=["hint"]
# Inside of the loop one line: `flipped[:length, n] = ` the same piece of x, with `[::-1]` behind it.


# %% tags=["solution"]
def flip_each(x, lengths):
    """x (time, batch, features), lengths (batch,)."""
    flipped = x.copy()
    for n, length in enumerate(lengths):
        flipped[:length, n] = x[:length, n][::-1]
    return flipped


# %% [markdown]
# gpulstm needs only the lengths. See how much it matters: an LSTM with random weights reads "John likes" from the end, alone
# and then in a batch beside a longer sentence, with the lengths and without.

# %%
batch = np.zeros((4, 2, 3))
batch[:, 0] = VECTORS  # John likes black coffee
batch[:2, 1] = VECTORS[:2]  # John likes, and two rows of padding

reader = gl.LSTM(3, 2, reverse=True, dtype="float64", rng=18)
alone = reader(VECTORS[:2, None])[0][:, 0]  # (2 words, 2 units)
with_lengths = reader(batch, lengths=np.array([4, 2]))[0][:2, 1]
without = reader(batch)[0][:2, 1]
print(f"with lengths, it differs from alone by    {np.abs(with_lengths - alone).max():.3f}")
print(f"without lengths, it differs from alone by {np.abs(without - alone).max():.3f}")

# %% [markdown]
# (The hand-made cell of our sentence would not have shown it: its candidates have no bias, so at zeros it writes nothing.
# A trained LSTM nearly always does.)
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# A stack of 3 layers with 100 inputs and 50 units: what shape has the `weight_ih` of each layer? And if it is bidirectional?
#
# (200, 100), (200, 50), (200, 50). Bidirectional: (200, 100) for both directions of layer 0, then (200, 100) again, because
# layers 1 and 2 read both directions of the layer below, 2 · 50 numbers.

# %% [markdown] tags=["question"]
# Somebody shows a bidirectional LSTM that foretells tomorrow's temperature, almost without an error. What do you look at first?
#
# Whether the backward direction reads the very days that are to be foretold. If the whole record goes in at once, it does:
# leakage.

# %% [markdown] tags=["question"]
# Could the two directions share their weights?
#
# They could, as ours here did, and half of the weights would be saved. It is rarely done: what follows a word tells
# other things than what precedes it, so each direction learns its own.

# %% [markdown]
# ## In short
#
# - A stack: the hidden states of one [layer](glossary.ipynb#layer) are the inputs of the next. The output is the top layer's,
#   the state has all.
# - Reading from the end: flip, run, flip back.
# - [Bidirectional](glossary.ipynb#bidirectional): both hidden states side by side, and every output has seen everything. Not for
#   forecasts.
# - In a padded batch each sequence ends at its own length; a plain flip would put the [padding](glossary.ipynb#padding) first.
#
# ## What next
#
# Let the sentence end with John: "black coffee likes John", `VECTORS[[2, 3, 1, 0]]`. Predict the rows *who, forward* and *who, backward*, and draw
# the map again.
#
# Then one LSTM that reads, and another that writes: [lesson 19](19_translation.ipynb), translation.
