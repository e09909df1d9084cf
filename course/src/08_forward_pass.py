# %% [markdown]
# # 08 · The forward pass, over time and batch
#
# One cell, one step: you have that. A real LSTM reads whole sentences, and many of them at once. They do not
# all have the same length, and that is where home-made LSTMs easily go wrong. Yours will not.
#
# **Afterwards you can**
# - write the forward pass over time for a whole batch, from any initial state;
# - explain why zeros as padding change the memory, and mask them so that they do not;
# - read which gates opened at which word.

# %% tags=["start"]
from lab import check, figures, start

xp = start()  # numpy, or cupy with a GPU; three short sentences fit into numpy

# %%
import numpy as np
from lab.lesson_08_batch import batch
from lab.sentence import PARAMS, UNITS, VECTORS, WORDS, trace

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# First what a forward pass leaves behind, for the one sentence that you know: all three gates, at every word, for both
# units.

# %%
steps = trace()  # from lesson 01
names = [("i", "input"), ("f", "forget"), ("o", "output")]
rows = [f"{name} gate {unit}" for _, name in names for unit in UNITS]
values = np.concatenate([steps[letter].T for letter, _ in names])  # (6, 4 words)
axes = figures.gate_map(values, WORDS, rows, title="Which gate opens at which word?")
figures.show(
    axes.figure,
    alt=f"""A heat map with one column for each word and six rows; dark is open. For each of the
    three gates there is a row for the unit who and one for the unit dark.
    {figures.say_map(values, WORDS, rows)} The forget gate of who is open all the time. The
    input gate of who opens at John alone, that of dark at black and half at coffee.""",
)

# %% [markdown]
# You can read it like a score. The input gate of *who* opens once, at *John*; its forget gate is held down throughout; its output
# gate opens at *likes*, and somewhat at *coffee*. The input gate of *dark* waits for *black*.
#
# Now three sentences at once, a [batch](glossary.ipynb#batch):

# %%
SENTENCES = [
    ["John", "likes", "black", "coffee"],
    ["John", "likes", "coffee"],
    ["black", "coffee"],
]
figures.show(*batch(SENTENCES))

# %% [markdown]
# An array has no ragged edge. So the short sentences are filled up with zeros, which is called
# [padding](glossary.ipynb#padding). The array is `(time, batch, features)`: `x[t]` is one column of the picture, the words that
# all sentences have at step `t`.
#
# ## Predict first
#
# *black coffee* is over after two steps. Two columns of zeros follow. Suppose that the loop just goes on over them.
#
# After *coffee* the memory of *dark* is 0.77. What is it two zeros later? Still 0.77, since nothing was said? Or
# something else? Look at the row of its forget gate above and commit yourself.
#
# ## From one sentence to a batch

# %%
x = np.zeros((4, 3, 3))  # (time, batch, features)
for n, sentence in enumerate(SENTENCES):
    for t, word in enumerate(sentence):
        x[t, n] = VECTORS[WORDS.index(word)]
lengths = np.array([len(sentence) for sentence in SENTENCES])
print("x", x.shape, " lengths", lengths)

# %% [markdown]
# Only one line of the cell changes. A word used to be a vector, `weight @ x`. Now a step has a matrix of words, one in each
# row, so the weights come from the right and are transposed: `x[t] @ weight_ih.T`. States are `(batch, hidden)`.
# Everything after that line went element by element anyway.


# %%
def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


def step(x_t, h, c, weight_ih, weight_hh, bias):
    """One step of all sentences: x_t (batch, features), h and c (batch, hidden)."""
    a = x_t @ weight_ih.T + h @ weight_hh.T + bias  # (batch, 4*hidden)
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
    c = sigmoid(a_f) * c + sigmoid(a_i) * np.tanh(a_g)
    return sigmoid(a_o) * np.tanh(c), c


# %% [markdown]
# And the loop that knows nothing of lengths. We watch *dark* in the last sentence:

# %%
DARK = 1
h, c = np.zeros((3, 2)), np.zeros((3, 2))
for t in range(4):
    h, c = step(x[t], h, c, **PARAMS)
    heard = SENTENCES[2][t] if t < lengths[2] else "(padding)"
    print(f"t = {t}: {heard:10} c of dark = {c[2, DARK]:.2f}")

# %% [markdown]
# Were you right? **Zeros are not nothing.** A word of zeros adds nothing to the weighted sums, but the biases and $h$ are still
# there. The forget gate of *dark* then stands at $\sigma(-1) = 0.27$, so each zero costs the memory most of what it has. The same
# sentence would mean something else in a batch with longer ones. That must not be.
#
# ## Three rules for what is over
#
# A sentence runs at step `t` if `t < length`. gpulstm, like PyTorch with packed sequences, promises for each sentence:
#
# 1. While it runs, everything goes as always.
# 2. Once it is over, its states stay **as they are**. So the final state is that of its own last word.
# 3. Once it is over, its output is **zero**.
#
# To treat some rows one way and the others another way is called [masking](glossary.ipynb#masking). NumPy has
# `np.where(condition, a, b)`: where the condition holds it takes from `a`, elsewhere from `b`.

# %%
for t in range(4):
    running = t < lengths  # (batch,)
    print(f"t = {t}: {running}")
print("as a column, to go with (batch, hidden):", running[:, None].shape)

# %% [markdown]
# ## Your turn: the forward pass
#
# Write it all: the loop over time, from the initial states `h` and `c` that you are given, with the three rules. Return `y`
# `(time, batch, hidden)`, all outputs, and the final `h` and `c`.
#
# You may use `step` from above. The check compares with `gl.LSTM`, in three stages: a batch without padding, an initial
# state that is not zero, and lengths.


# %% tags=["exercise"]
def forward(x, h, c, lengths, weight_ih, weight_hh, bias):
    y = ...  # ← your turn
    return y, h, c


# %%
check("08.forward", forward)

# %% [markdown] tags=["hint"]
# First without lengths: a list `outputs = []`, a loop `for t in range(len(x))`, in it one call of `step`, an `append`, and in the end
# `np.stack(outputs)`. That passes the first two stages.

# %% [markdown] tags=["hint"]
# Do not write `h, c = step(...)`, but `h_new, c_new = step(...)`: you need the old ones, too. With `running` as a column,
# `np.where` is needed three times at each step: for the output (new or zero), for `h` and for `c` (new or old).


# %% tags=["solution"]
def forward(x, h, c, lengths, weight_ih, weight_hh, bias):
    outputs = []
    for t in range(len(x)):
        h_new, c_new = step(x[t], h, c, weight_ih, weight_hh, bias)
        running = (t < lengths)[:, None]  # (batch, 1)
        outputs.append(np.where(running, h_new, 0.0))
        h = np.where(running, h_new, h)
        c = np.where(running, c_new, c)
    return np.stack(outputs), h, c


# %% [markdown]
# ## The same with gpulstm
#
# `gl.LSTM` takes the array and the lengths, in any order, and does what your function does.

# %%
lstm = gl.LSTM(input_size=3, hidden_size=2, dtype="float64")
lstm.load_state_dict({f"{name}_l0": value for name, value in PARAMS.items()})
y, state = lstm(x, lengths=lengths)
print("y", y.shape, " state.h", state.h.shape, " state.c", state.c.shape)  # the 1 is for layers

for n, sentence in enumerate(SENTENCES):
    alone, _ = lstm(x[: lengths[n], n])  # without the others, without padding
    same = np.allclose(y[: lengths[n], n], alone)
    print(f"{' '.join(sentence):24} as if it were alone: {same}")

# %%
# a row for each sentence and unit, a column for each step
shown = y.transpose(1, 2, 0).reshape(6, 4)
rows = [f"sentence {n}, {unit}" for n in range(3) for unit in UNITS]
columns = [f"t = {t}" for t in range(4)]
axes = figures.gate_map(shown, columns, rows, title="y: what is shown")
figures.show(
    axes.figure,
    alt=f"""A heat map of the output y, with a column for each of four steps and a row for each
    of three sentences and two units. {figures.say_map(shown, columns, rows)} Sentence 1 is
    zero from t = 3 on, and sentence 2 from t = 2 on, because they are over.""",
)

# %% [markdown]
# Each sentence is what it would be alone, and after its end there are zeros. (*who* in sentence 2 is zero for another reason:
# nobody is named there.)
#
# ## What can be done before the loop
#
# $h$ must be waited for, $x$ not: all words are there from the start. So the part of the weighted sums that belongs to `weight_ih` can
# be made for all steps at once, in one large matrix product, a [GEMM](glossary.ipynb#gemm).

# %%
weight_ih, bias = PARAMS["weight_ih"], PARAMS["bias"]
every_word = x.reshape(12, 3)  # 4 steps times 3 sentences
before_the_loop = (every_word @ weight_ih.T + bias).reshape(4, 3, 8)
in_the_loop = np.stack([x[t] @ weight_ih.T + bias for t in range(4)])
print("the same:", np.allclose(before_the_loop, in_the_loop))

# %% [markdown]
# gpulstm does this. What is left for each step is one product with `weight_hh`, and everything element by element. On a
# GPU that makes **two** [kernel launches](glossary.ipynb#kernel-launch) a step: one for the product, and one
# [fused kernel](glossary.ipynb#fused-kernel) for sigmoid, tanh, `*`, `+` and the lengths together. (For layers that fit onto the chip
# it can do better still: lesson 16.) Written line by line, as above, each operation would be a launch of its own: count them
# in `step` and `forward`, and you will find about two dozen.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# Why is the batch so useful? The loop over time stays as long as before.
#
# Each step does its product for all sentences at once. The weights are fetched once and used for all of them, and a large product uses
# a processor or a GPU far better than many small ones. Only time must be gone through one by one.

# %% [markdown] tags=["question"]
# You need one vector for each sentence, and take `y[-1]`. What is wrong?
#
# For all sentences but the longest it is zero: they are over by then. The final `h` is what you want: it is the
# output at each sentence's own last word.

# %% [markdown] tags=["question"]
# Could one pad with a special vector instead, so that the memory stays as it is?
#
# Not in general. All forget gates would have to be exactly 1 and all input gates exactly 0 at that vector, and a sigmoid reaches
# neither. Masking costs next to nothing and is exact.

# %% [markdown]
# ## In short
#
# - The [forward pass](glossary.ipynb#forward-pass) is one loop over time; all sentences of the [batch](glossary.ipynb#batch) take
#   each step together. Arrays are (time, batch, features).
# - [Padding](glossary.ipynb#padding) with zeros is not nothing: the biases go on working. [Masking](glossary.ipynb#masking) by
#   length keeps the states and silences the output.
# - The loop starts from an [initial state](glossary.ipynb#initial-state) and ends with a final one, each sentence's own.
# - All of $x$ can be multiplied before the loop; only $h$ must wait.
#
# ## What next
#
# Give `gl.LSTM` the final state of one call as the initial state of the next:
# `y1, state = lstm(x[:2])`, then `y2, _ = lstm(x[2:], state)`. Predict: are `y1` and `y2` together the `y` of `lstm(x)`?
#
# You can read a sentence forwards. To *learn*, the error must travel backwards through the same steps:
# [lesson 09](09_backward_pass.ipynb).
