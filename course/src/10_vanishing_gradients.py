# %% [markdown]
# # 10 · Vanishing, exploding, and the forget bias
#
# "The LSTM solves the vanishing gradient." You will read this sentence in many places. Today you measure whether it is
# true, and find that it hangs above all on one number, which most libraries choose without asking you.
#
# **Afterwards you can**
# - measure how much of a gradient is left after any number of steps back;
# - tell vanishing from exploding, and predict from the forget gate which of them to expect;
# - choose a forget bias for the distance that your network has to bridge.

# %% tags=["start"]
from lab import check, figures, slider, start

xp = start()  # numpy, or cupy with a GPU; these networks are small, so numpy it is

# %%
import matplotlib.pyplot as plt
import numpy as np

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# On its way back a gradient is multiplied by something at each step. Say that this something were always the same number:


# %%
def draw(factor):
    lag = np.arange(100)
    figure, axes = plt.subplots(figsize=(6.5, 3.2))
    axes.semilogy(lag, factor**lag)
    axes.axhline(1, color="0.6", linewidth=0.8)
    axes.set(xlabel="lag: steps back", ylabel="left of the gradient", ylim=(1e-32, 1e8))
    axes.set_title(f"A gradient times {factor:.2f} at each step")
    alt = f"""What is left of a gradient over 0 to 99 steps back, on a logarithmic axis, if each
    step multiplies it by {factor:.2f}: a straight line from 1 to {factor**99:.0e}."""
    return figure, alt


slider(draw, factor=(0.5, 1.2, 0.01, 0.9))

# %% [markdown]
# A straight line, for the axis is logarithmic: each tick is a factor of a hundred thousand. Move the slider. 0.9 sounds
# harmless, and leaves three hundred-thousandths after 99 steps. 0.5 leaves a number with thirty zeros, too small to teach anything: that is a
# [vanishing gradient](glossary.ipynb#vanishing-gradient). 1.1 turns it into twelve thousand: an
# [exploding gradient](glossary.ipynb#exploding-gradient). **Only a factor very close to 1 survives a hundred steps.**
#
# ## Predict first
#
# Real networks multiply by a matrix, another one at each step. Four of them are to be measured, all of 32 units, with
# fresh random weights, as before any training:
#
# - a plain **tanh network**: $h' = \tanh(W x + U h)$, no gates;
# - an **LSTM** whose forget gate has the bias **0**, another with **1**, another with **4**.
#
# A sigmoid makes $\sigma(0) = 0.50$, $\sigma(1) = 0.73$ and $\sigma(4) = 0.98$ of these. Now guess:
#
# 1. Is the LSTM with bias 0 better than the plain tanh network at lag 99?
# 2. Which of the four bring at least a hundredth of the gradient back over 99 steps?
#
# ## Measure
#
# Run 100 steps forward on random inputs. Then put a random gradient on the last hidden state, and walk back step by step,
# as in [lesson 09](09_backward_pass.ipynb). At each step note the length (norm) of the gradient. It starts as 1.

# %%
HIDDEN, INPUTS, BATCH, STEPS = 32, 4, 8, 100


def beginning(seed):
    """Random inputs (time, batch, inputs), and a gradient of the last h, of norm 1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(STEPS, BATCH, INPUTS))
    dh = rng.normal(size=(BATCH, HIDDEN))
    return x, dh / np.linalg.norm(dh)


def tanh_norms(seed=0, scale=1.0):
    """Norms of the gradient at lag 0, 1, ..., 99 in a tanh network."""
    x, dh = beginning(seed)
    k = 1 / np.sqrt(HIDDEN)  # PyTorch's way to begin: between -k and k
    rng = np.random.default_rng(seed + 1)
    W = rng.uniform(-k, k, size=(HIDDEN, INPUTS))
    U = rng.uniform(-k, k, size=(HIDDEN, HIDDEN)) * scale

    h, hs = np.zeros((BATCH, HIDDEN)), []
    for x_t in x:
        h = np.tanh(x_t @ W.T + h @ U.T)
        hs.append(h)
    norms = [1.0]
    for h in hs[:0:-1]:  # from the last step back to the second
        dh = (dh * (1 - h**2)) @ U  # slope of tanh, then the recurrent weights
        norms.append(np.linalg.norm(dh))
    return np.array(norms)


# %% [markdown]
# For the LSTM, gpulstm's cell does the steps. Its gradient has two lanes, $dh$ and $dc$; we take the norm of both together.


# %%
def lstm_norms(forget_bias, seed=0, scale=1.0):
    """The same for an LSTM whose other biases are zero."""
    x, dh = beginning(seed)
    cell = gl.LSTMCell(INPUTS, HIDDEN, dtype="float64", rng=seed + 1)
    cell.params["weight_hh"] *= scale
    cell.params["bias"][:] = 0
    cell.params["bias"][HIDDEN : 2 * HIDDEN] = forget_bias  # gate order i, f, g, o

    state, caches = (np.zeros((BATCH, HIDDEN)), np.zeros((BATCH, HIDDEN))), []
    for x_t in x:
        state, cache = cell.forward(x_t, state)
        caches.append(cache)
    dstate, norms = (dh, np.zeros_like(dh)), [1.0]
    for cache in caches[:0:-1]:
        _, _, dstate = cell.backward(cache, dstate)
        norms.append(np.sqrt(sum((d**2).sum() for d in dstate)))
    return np.array(norms)


# %%
norms = {"tanh network": tanh_norms()}
for bias in (0, 1, 4):
    norms[f"LSTM, forget bias {bias}"] = lstm_norms(bias)

# %%
figure, axes = plt.subplots(figsize=(7.5, 4))
for name, values in norms.items():
    axes.semilogy(values, label=f"{name}: {values[99]:.0e}")
axes.axhline(1, color="0.6", linewidth=0.8)
axes.set(xlabel="lag: steps back", ylabel="norm of the gradient")
axes.set_title("What is left of a gradient")
axes.legend(title="and at lag 99", loc="lower left")
figures.show(
    figure,
    alt=f"""Norm of the gradient over 0 to 99 steps back, on a logarithmic axis, for four
    networks. Two lines fall together and almost straight to the bottom: the tanh network, to
    {norms["tanh network"][99]:.0e}, and the LSTM with forget bias 0, to
    {norms["LSTM, forget bias 0"][99]:.0e}. The LSTM with forget bias 1 falls more slowly, to
    {norms["LSTM, forget bias 1"][99]:.0e}. The one with forget bias 4 first sinks a little
    and then rises, to {norms["LSTM, forget bias 4"][99]:.0e}.""",
)

# %% [markdown]
# Were you right?
#
# 1. **No, not so that it would matter.** Both have lost more than twenty powers of ten. An LSTM with a forget bias of 0 forgets
#    half of its memory at each step, and half of its gradient.
# 2. **Only the one with bias 4.** And it does not just keep the gradient, it *grows* it.
#
# So the sentence from the beginning is half the truth. The LSTM gives the gradient a lane on which it is multiplied by
# the forget gate alone. What it does there depends on the gate. And PyTorch starts with a forget bias near **0**, Keras with
# **1**: gpulstm follows the first, unless you say `forget_bias=` or `init="glorot"`.
#
# ## Can you tell it from the forget gate?
#
# If the lane were all there is, $\sigma(b)^{99}$ would be left:

# %%
for bias in (0, 1, 4):
    alone = (1 / (1 + np.exp(-bias))) ** 99
    measured = norms[f"LSTM, forget bias {bias}"][99]
    print(f"forget bias {bias}: the lane alone {alone:.0e}, measured {measured:.0e}")

# %% [markdown]
# The order is right, the amounts are not: more is left than the lane alone explains. There are two reasons. The gates are not
# always at $\sigma(b)$: they move with the inputs, and units whose gate is more open win in a product. And
# there is a second way back: from $c$ to $h$, through the *recurrent weights* (`weight_hh`; `U` in the tanh network) into the gates of the next step, and so to $c$
# again. It is added to the lane. With a gate of 0.98 the lane loses hardly anything, and what is added makes it grow.
#
# ## An LSTM can explode, too
#
# That second way gets stronger with the recurrent weights, and training often makes them larger. Here they are multiplied
# by 1, 3 and 5:

# %%
print("left at lag 99           weights x1      x3      x5")
for name in norms:
    row = []
    for scale in (1, 3, 5):
        plain = name == "tanh network"
        values = tanh_norms(scale=scale) if plain else lstm_norms(int(name[-1]), scale=scale)
        row.append(f"{values[99]:8.0e}")
    print(f"{name:22}    ", "".join(row))

# %% [markdown]
# Times five, three of the four explode, gates or no gates, and the fourth has gained more than twenty powers of ten. So the honest sentence is: **the LSTM makes it possible
# to keep a gradient over a long distance; whether it does depends on the forget gate and on the weights.** Against the
# explosion there is [clipping](glossary.ipynb#clipping), in lesson 11. It does not help against vanishing: a vanished
# gradient cannot be scaled up, for the shares of the near steps drown it. That needs a better start.
#
# ## Your turn: pick a forget bias
#
# You have to bridge about a hundred steps. Pick a forget bias with which, over the seeds 0, 1 and 2, the **median** of the
# norm at lag 99 is between **0.1 and 1**: neither vanished nor grown. (The median of three is the one in the middle. One
# seed alone is one throw of the dice.) Use `lstm_norms(bias, seed)`.

# %% tags=["exercise"]
my_forget_bias = ...  # ← your turn

# %%
check("10.forget-bias", my_forget_bias)

# %% [markdown] tags=["hint"]
# Bias 1 leaves far too little and bias 4 too much. Measure at 2 and 3: `np.median([lstm_norms(2, seed)[99] for seed in
# range(3)])`.

# %% [markdown] tags=["hint"]
# From 2 to 3 the norm grows from below to above the band. What lies between them? Decimals are allowed.

# %% tags=["solution"]
for bias in (2.0, 2.5, 3.0):
    print(bias, f"{np.median([lstm_norms(bias, seed)[99] for seed in range(3)]):.2f}")
my_forget_bias = 2.5

# %% [markdown]
# In practice nobody tunes it that finely: the gates move as soon as training begins. What matters is the power of
# ten. `gl.LSTM(..., forget_bias=1)` is a good habit; for distances of some hundred steps there is `chrono=`, which spreads
# the biases over the units, so that some forget soon and others late.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# A gradient of 1e-22 arrives. Why not simply multiply it by 1e22?
#
# The gradient of a weight is a sum over all steps, and the share of near steps is around 1. In float32, with seven digits,
# 1e-22 next to 1 is lost in the sum. And if you scale the whole sum, the near steps explode.

# %% [markdown] tags=["question"]
# Is a gate that never forgets the best one then?
#
# No. A cell that never forgets fills up with everything it has ever read, its tanh saturates, and old news blurs
# new ones. Also, in the saturated gate itself almost nothing can be learnt any more (lesson 09, second question).

# %% [markdown] tags=["question"]
# You train a translator on sentences of at most 20 words. Does the forget bias matter?
#
# Less, but look at lag 20 in the chart. With bias 0 some two hundred-thousandths are left there, with bias 1 a hundredth:
# several hundred times as much, and it costs nothing.

# %% [markdown]
# ## In short
#
# - On its way back a gradient is multiplied once per step. Below 1 it [vanishes](glossary.ipynb#vanishing-gradient),
#   above 1 it [explodes](glossary.ipynb#exploding-gradient), both exponentially.
# - Along the cell state the factor is the [forget gate](glossary.ipynb#forget-gate); the
#   [forget bias](glossary.ipynb#forget-bias) sets where training starts.
# - With bias 0 an LSTM loses the gradient like a plain tanh network. With 4 it keeps it, and can even grow it.
# - An LSTM does not rule out either of the two. It makes the middle reachable.
#
# ## What next
#
# Set `STEPS = 400` and predict first: does your forget bias still hold the norm at the last lag inside the band?
#
# Then go on to [lesson 11](11_training_loop.ipynb): a training loop, in which you cut the gradient on purpose.
