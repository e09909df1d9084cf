# %% [markdown]
# # 17 · Dropout, recurrent dropout and zoneout
#
# A network that is trained for long on little data learns it by heart. One remedy is chance: in training, leave out
# something, each time something else, so that nothing can rely on one single unit. In a network with a memory the
# question is *what* to leave out, and *when*. Done wrongly, it wipes the memory.
#
# **Afterwards you can**
# - tell dropout, recurrent dropout and zoneout from each other by their masks;
# - write the mask of recurrent dropout, and scale it such that the mean stays;
# - say which of the three may touch the memory, and compare them on data.

# %% tags=["start"]
from lab import check, figures, start

xp = start("statsmodels")  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import matplotlib.pyplot as plt
import numpy as np
import statsmodels.api as sm
from lab import backend
from lab.lesson_17_drawings import masks as drawn_masks

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
figure, alt = drawn_masks()
figures.show(figure, alt=alt)

# %% [markdown]
# One row per unit, one column per time step. Dark squares are set to zero. Hatched squares keep what they had.
#
# ```text
#                   h′ ── dropout ──→ to the next layer: h′ or 0, another choice at each step
#                   ↑
#                ┌──────┐
#   c ──────────→│ cell │────────────→ c′      zoneout: the new state, or once more the old one
#   h ─ dropped ─│      │────────────→ h′
#          ↑     └──────┘
#   recurrent dropout: h or 0 on its way into the gates, the same choice in the whole sequence
# ```
#
# - [Dropout](glossary.ipynb#dropout) is for the way **up**, to the next layer.
# - [Recurrent dropout](glossary.ipynb#recurrent-dropout) is for the way **along** time. Its mask is drawn once for each sequence.
# - [Zoneout](glossary.ipynb#zoneout) never sets anything to zero: now and then a unit simply **skips a step**.
#
# ## Predict first
#
# Imagine a thousand memory cells that hold 1, with forget gates wide open and nothing new to write. Fifty steps pass, and
# the probability is one tenth. How many of the thousand still know anything, if their $c$ goes
#
# 1. through ordinary dropout, with a new mask at each step?
# 2. through zoneout?
#
# ## Dropout, and why it scales
#
# In training each value becomes zero with the probability `p`. The others are divided by `1 - p`. Why? So that the *mean*
# stays what it was, and the next layer does not have to get used to other values when training is over and nothing is
# dropped any more.

# %%
rng = np.random.default_rng(0)
dropout = gl.nn.Dropout(0.25)
ones = np.ones((1000, 8))

trained, _ = dropout.forward(ones, rng=0)  # in training
print("values in training:", np.unique(trained).round(2))
print(f"mean in training: {trained.mean():.2f}")
print("after training, dropout does nothing:", bool((dropout(ones) == ones).all()))

# %% [markdown]
# ## What a new mask at each step does to a memory
#
# Now the thousand cells. First ordinary dropout on $c$, with a new mask at each of fifty steps:

# %%
p, steps = 0.1, 50
c = np.ones(1000)
alive = []
for _ in range(steps):
    c = c * (rng.random(1000) >= p) / (1 - p)
    alive.append((c > 0).sum())
print(f"still know anything: {alive[-1]} of 1000; expected {1000 * (1 - p) ** steps:.1f}")
print(f"and those hold {c.max():.0f} instead of 1")

# %% [markdown]
# A few of a thousand, and these are two hundred times too loud, for each step scaled them up again. **One mask per step on the
# way along time erases the memory**: a tenth per step is nothing much, fifty tenths in a row are nearly everything. It is
# the factor below 1 of [lesson 10](10_vanishing_gradients.ipynb) again, drawn by lot.
#
# Now zoneout. A unit that is zoned out takes its *old* value instead of the new one:

# %%
c = np.ones(1000)
for _ in range(steps):
    new = c  # forget gate open, nothing written
    zoned_out = rng.random(1000) < p
    c = np.where(zoned_out, c, new)
print(f"still know anything: {(c > 0).sum()} of 1000, and they hold {c.max():.0f}")

# %% [markdown]
# All of them. Zoneout disturbs *change*, never memory: keeping is what it does. After training there is no lot to draw; then
# each state is the mean of what would have happened, `p` times the old one and `1 - p` times the new one.
#
# Recurrent dropout goes a third way. It leaves $c$ alone and drops $h$ on its way into the gates. And it draws
# **once per sequence**: in this sequence the gates do without these units from the first step to the last. So the network
# that reads the sequence is a smaller one, but it stays the same one (Gal and Ghahramani, 2016).
#
# ## Your turn: one mask per sequence
#
# Write the masks of recurrent dropout for a batch. `rng.random(shape)` gives numbers between 0 and 1. The result has the
# shape `(steps, batch, units)`, and:
#
# - is 0 with the given probability, and else what keeps the mean;
# - is the same at each step of a sequence;
# - is different for different sequences of the batch.


# %% tags=["exercise"]
def sequence_masks(rng, probability, steps, batch, units):
    keep = (
        rng.random((steps, batch, units)) >= probability
    )  # ← your turn: this is new at each step
    return keep * 1.0


# %%
check("17.sequence-masks", sequence_masks)

# %% [markdown] tags=["hint"]
# Draw fewer numbers: one for each unit of each sequence. They have no time axis yet. `np.repeat(mask[None], steps, axis=0)` or
# `np.broadcast_to` gives them one.

# %% [markdown] tags=["hint"]
# The mean of the mask should be 1. A share of `1 - probability` is kept: what must the kept ones be divided by?


# %% tags=["solution"]
def sequence_masks(rng, probability, steps, batch, units):
    keep = rng.random((batch, units)) >= probability
    mask = keep / (1 - probability)
    return np.repeat(mask[None], steps, axis=0)


# %% [markdown]
# ## In gpulstm
#
# They are options of the layer: `gl.LSTM(..., recurrent_dropout=0.3)`, `zoneout=0.3`, or `zoneout=(0.1, 0.3)` for $h$ and $c$.
# They act in `forward`, which is for training, and not in `lstm(x)`. On a GPU no mask waits for the way back: kernels draw it
# anew from the seed and the unit's place wherever it is needed, forward and backward.
#
# Is it really *one* mask per sequence? Look at the gradient of `weight_hh`. A column of it belongs to one unit of $h$. It is
# exactly zero if this unit was dropped at *every* step. With a new mask at each of 40 steps that would never happen.

# %%
x = np.random.default_rng(1).normal(size=(40, 1, 4))  # one sequence
lstm = gl.LSTM(4, 200, recurrent_dropout=0.3, dtype="float64", rng=0)
y, _, cache = lstm.forward(x, rng=0)
_, grads, _ = lstm.backward(cache, np.ones_like(y))
never_used = (grads["weight_hh_l0"] == 0).all(axis=0)
print(f"units of h that no step has used: {never_used.mean():.0%}")

lstm = gl.LSTM(4, 200, zoneout=(0.3, 0.0), dtype="float64", rng=0)
y, _, _ = lstm.forward(x, rng=0)
print(f"values of h that are those of the step before: {(y[1:] == y[:-1]).mean():.0%}")

# %% [markdown]
# ## Does it help?
#
# The sunspots once more, with little to learn from: the years before 1920, in nine pieces of 22 years. And with far too
# much training, 150 epochs, such that the plain LSTM begins to learn them by heart. Each is trained from two seeds. One
# rival draws no lots at all: it simply stops after 30 epochs.

# %%
sunspots = sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()
roots, known = np.sqrt(sunspots), 220  # 1700 to 1919
mean, spread = roots[:known].mean(), roots[:known].std()
series = ((roots - mean) / spread)[:, None]  # (time, features)

starts = range(0, known - 22, 22)
inputs = np.stack([series[first : first + 22] for first in starts])
targets = np.stack([series[first + 1 : first + 23] for first in starts])


def train(seed, dropout=0.0, epochs=150, **options):
    """The error on the learning pieces, and on the years held out, in sunspots."""
    lstm = gl.LSTM(1, 32, dtype="float64", xp=xp, rng=seed, **options)
    linear = gl.nn.Linear(32, 1, dtype="float64", xp=xp, rng=seed)
    model = gl.nn.Sequential(lstm, gl.nn.Dropout(dropout), linear)
    adam = gl.training.Adam(0.05)
    mse = gl.nn.mean_squared_error
    settings = dict(batch_size=9, optimiser=adam, clip_norm=1.0, rng=seed, progress=False)
    gl.fit(model, mse, (inputs, targets), epochs=epochs, **settings)

    def error(x, truth):
        forecast = backend.to_numpy(model(xp.asarray(x))) * spread + mean
        return np.abs(np.maximum(forecast, 0) ** 2 - (truth * spread + mean) ** 2)

    learnt = error(inputs.swapaxes(0, 1), targets.swapaxes(0, 1)).mean()
    held_out = error(series[:-1, None], series[1:, None])[known - 1 :].mean()
    return learnt, held_out


# %%
rivals = {
    "plain LSTM": {},
    "stopped early": {"epochs": 30},
    "dropout 0.3": {"dropout": 0.3},
    "recurrent dropout 0.3": {"recurrent_dropout": 0.3},
    "zoneout 0.3": {"zoneout": 0.3},
}
results = {
    name: np.array([train(seed, **options) for seed in (0, 1)])
    for name, options in rivals.items()
}
for name, values in results.items():
    learnt, held_out = values.mean(axis=0)
    seeds = " and ".join(f"{value:.0f}" for value in values[:, 1])
    print(f"{name:22} learning years {learnt:2.0f}   held out {held_out:2.0f} ({seeds})")

# %%
names, values = list(results), np.array([value.mean(axis=0) for value in results.values()])
figure, axes = plt.subplots(figsize=(7.5, 3.2))
place = np.arange(len(names))
for k, label in enumerate(("learning years", "years held out")):
    axes.barh(
        place + 0.38 * k - 0.19,
        values[:, k],
        height=0.36,
        label=label,
        facecolor=figures.GREYS[2 * k],
        edgecolor="black",
        hatch=figures.HATCHES[k],
    )
axes.set(xlabel="misses by, in sunspots", yticks=place, yticklabels=names)
axes.invert_yaxis()
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
told = [f"{name}: {a:.0f} and {b:.0f}" for name, (a, b) in zip(names, values, strict=True)]
figures.show(
    figure,
    alt=f"""Pairs of bars, the error on the learning years and on those held out, in
    sunspots. {"; ".join(told)}. The plain LSTM has the smallest error on what it learnt from
    and the largest on what it did not.""",
)

# %% [markdown]
# The plain LSTM knows its own years almost by heart, and is the worst of all on those that it has not seen. That gap is called
# [overfitting](glossary.ipynb#overfitting). Each of the three remedies makes learning worse *and* the judgement better.
#
# And now the honest part. **The simplest remedy wins here: stop earlier.** (30 epochs were a guess; to choose
# them properly you would hold back some learning years, for [validation](glossary.ipynb#validation). `gl.fit` has `patience=`
# for that.) And two seeds on one short record are little evidence: in a rehearsal with 48 units and 100 epochs, ordinary
# dropout came out *behind* the plain LSTM. So take from this chart that leaving out can help against learning by heart,
# not which way is best. That has to be measured for each problem anew.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# A forecast comes out differently each time you run it on the same input. What was forgotten?
#
# To switch the chance off. In gpulstm `forward` is for training and draws masks, `lstm(x)` and `model(x)` do not. In PyTorch
# it is `model.eval()`.

# %% [markdown] tags=["question"]
# Somebody scales by `1 - p` when the network is used, instead of by `1 / (1 - p)` in training. Is that wrong?
#
# No, that is how dropout began: the mean agrees as well. But then everybody who uses the network must know of it. Scaling
# in training leaves the finished network as it is.

# %% [markdown] tags=["question"]
# Why does zoneout not divide by anything?
#
# It does not set anything to zero. A zoned-out unit has a sensible value, the one from the step before.

# %% [markdown]
# ## In short
#
# - [Dropout](glossary.ipynb#dropout), with a new mask at each step, belongs between layers. On the way along time it erases
#   the memory.
# - [Recurrent dropout](glossary.ipynb#recurrent-dropout) drops units of the hidden state with one mask per sequence, and
#   leaves the [cell state](glossary.ipynb#cell-state) alone.
# - [Zoneout](glossary.ipynb#zoneout) lets units keep their old value at random. It disturbs change, not memory.
# - Kept values are divided by `1 - p`, so that the mean stays; after training nothing is dropped.
# - All three are against [overfitting](glossary.ipynb#overfitting). Where there is none, they only slow learning down.
#
# ## What next
#
# Add the rival `{"dropout": 0.3, "zoneout": 0.3}`, or use a probability of 0.6, and predict first: does more help more?
#
# Then go on to [lesson 18](18_stacked_bidirectional.ipynb): layers on top of each other, and reading from both ends.
