# %% [markdown]
# # 11 · A training loop
#
# You can compute the gradient of an LSTM. Now you make something of it: a loop that reads, judges, sends the blame
# back and changes the weights, on three centuries of sunspots. The record is one long sequence, so you will cut it into
# windows. There is a right way to cut, which carries one thing across and stops another.
#
# **Afterwards you can**
# - write a training loop: forward, loss, backward, clip, step;
# - cut a long sequence into windows such that the state is carried and the gradient stops;
# - tell from a loss curve whether the learning rate is too small or too large;
# - choose between `gl.training.windows` and `gl.fit`, and say what each does to the state.

# %% tags=["start"]
from lab import check, figures, start

xp = start("statsmodels")  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import matplotlib.pyplot as plt
import numpy as np
import statsmodels.api as sm
from lab import backend
from lab.lesson_11_drawings import windows as drawn_windows

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
figure, alt = drawn_windows()
figures.show(figure, alt=alt)

# %% [markdown]
# A backward pass needs everything that the forward pass has kept, for all time steps. For a record of a million steps that
# does not fit, and you would wait for a million steps until the first weight changes. So the record is cut into
# [windows](glossary.ipynb#window). The **state** goes across each cut: the memory runs on. The **gradient** does not: blame ends
# at the beginning of its own window. This is [truncated BPTT](glossary.ipynb#truncated-bptt).
#
# ## Predict first
#
# Three windows. Only the forecast for the very last year is judged; all other outputs get no blame.
#
# 1. Does the *output* in window 3 depend on what was *read* in window 1?
# 2. How large is the *gradient* of the inputs in window 1: as large as in window 3, small, or exactly zero?
# 3. Then what can a network learn with windows of a single year?
#
# ## The record
#
# As in lesson 00: square roots, brought to mean 0 and spread 1 by the learning years alone.

# %%
record = sm.datasets.sunspots.load_pandas().data
years = record["YEAR"].to_numpy().astype(int)
sunspots = record["SUNACTIVITY"].to_numpy()
learning, held_out = years < 1920, years >= 1920

roots = np.sqrt(sunspots)
mean, spread = roots[learning].mean(), roots[learning].std()
scaled = xp.asarray(((roots - mean) / spread)[:, None, None])  # (time, batch, features)
x, target = scaled[: learning.sum() - 1], scaled[1 : learning.sum()]
print("x", x.shape, " target", target.shape)

# %% [markdown]
# ## Carry and cut, by hand
#
# 66 years in three windows of 22. `lstm.forward` takes a state and returns one. Hand it on, and it is carried:

# %%
lstm = gl.LSTM(1, 16, dtype="float64", xp=xp, rng=0)
first, second, third = x[:22], x[22:44], x[44:66]

y1, state1, cache1 = lstm.forward(first)
y2, state2, cache2 = lstm.forward(second, state1)  # carried
y3, state3, cache3 = lstm.forward(third, state2)  # carried

whole, _, whole_cache = lstm.forward(x[:66])
print("the same outputs as in one pass:", bool(xp.allclose(y3, whole[44:])))
print("and if nothing is carried:      ", bool(xp.allclose(lstm(third)[0], whole[44:])))

# %% [markdown]
# So 1. is answered: **yes**, it does. Now back. Only the last year is blamed. `lstm.backward` returns the gradient of the state
# that the window began with, `dstate`. That is the blame for what came before the window. Who drops it, cuts:

# %%
dy3 = xp.zeros_like(y3)
dy3[-1] = 1.0
dx3, grads, dstate3 = lstm.backward(cache3, dy3)
# here dstate3 is dropped: nothing more arrives in windows 2 and 1
cut = xp.concatenate([xp.zeros_like(first), xp.zeros_like(second), dx3])

# and this is what it would be with the whole way back
dx2, _, dstate2 = lstm.backward(cache2, dstate=dstate3)
dx1, _, _ = lstm.backward(cache1, dstate=dstate2)
full = xp.concatenate([dx1, dx2, dx3])

dy = xp.zeros_like(whole)
dy[-1] = 1.0
dx, _, _ = lstm.backward(whole_cache, dy)
print("handing dstate back gives the gradient of one pass:", bool(xp.allclose(full, dx)))
print("largest gradient in window 1, cut:", float(abs(cut[:22]).max()))

# %%
figure, axes = plt.subplots(figsize=(8, 3.2))
for name, values in [("the whole way back", full), ("cut", cut)]:
    size = np.abs(backend.to_numpy(values)).ravel()
    size[size == 0] = np.nan  # a logarithm has no place for zero
    axes.semilogy(years[:66], size, label=name, linewidth=2.4 if name == "cut" else 1.2)
for edge in (1722, 1744):
    axes.axvline(edge - 0.5, color="black", linewidth=0.8)
axes.set(xlabel="year", ylabel="gradient of the input")
axes.set_title("To which years does the last output send blame?")
axes.legend(loc="upper left")
figures.show(
    figure,
    alt="""Size of the gradient over the years 1700 to 1765, on a logarithmic axis, for blame
    that starts in the last year. The line of the whole way back falls towards the past, in
    waves, through some fourteen powers of ten. The dashed line of the cut gradient lies
    upon it in the last window, ends at the border at 1744, and there is nothing left of it.""",
)

# %% [markdown]
# **Exactly zero**, by construction. The chart also says how much was lost: before the cut the gradient had already sunk
# by several powers of ten. That is lesson 10: this fresh LSTM, with forget biases near 0, would hardly have used it. A cut
# costs only what would have arrived.
#
# ## Your turn: carry and cut
#
# Write it for any number of windows. `windowed` gets an LSTM, inputs `x`, blame `dy` of all outputs, both in the shape `(time,
# batch, features)`, and the window's `length`. For each window in order it runs forward with the carried state, and
# backward with this window's part of `dy`. It returns all outputs and the gradients of all inputs, each as one array in
# the order of time. The last window may be shorter.


# %% tags=["exercise"]
def windowed(lstm, x, dy, length):
    ys, dxs = [], []
    for first in range(0, len(x), length):
        y, _, cache = lstm.forward(x[first : first + length])  # ← your turn: carry the state
        dx = ...  # and this window's backward, with its own part of dy
        ys.append(y)
        dxs.append(dx)
    return ys, dxs  # each as one array


# %%
check("11.carry-and-cut", windowed)

# %% [markdown] tags=["hint"]
# `lstm.forward(x_window, state)` returns three things. The second one is what the next window begins with. Before the
# first window, `state` is `None`, which means zeros.

# %% [markdown] tags=["hint"]
# `lstm.backward(cache, dy_window)` returns three things as well. The third one is the blame for the window before. To cut means
# not to use it.


# %% tags=["solution"]
def windowed(lstm, x, dy, length):
    ys, dxs = [], []
    state = None
    for first in range(0, len(x), length):
        y, state, cache = lstm.forward(x[first : first + length], state)  # carried
        dx, grads, _ = lstm.backward(cache, dy[first : first + length])  # cut
        ys.append(y)
        dxs.append(dx)
    return np.concatenate(ys), np.concatenate(dxs)


# %% [markdown]
# ## Clipping
#
# One more thing before the loop. Now and then a window gives a gradient that is far too large, and one such step can
# undo a hundred good ones. [Clipping](glossary.ipynb#clipping) shortens it: if the norm of all gradients together is above
# a limit, all are multiplied by the same factor. The direction stays.

# %%
grads = {"weight": np.array([30.0, -40.0]), "bias": np.array([0.0])}  # norm 50
norm = gl.training.clip_by_global_norm(grads, 1.0)
print(f"norm before {norm:.0f}; after: {np.round(grads['weight'], 3)}")

# %% [markdown]
# ## The loop
#
# `gl.training.windows` does the slicing. Everything else is what you have just written, with a linear layer on top, a loss,
# and an [optimiser](glossary.ipynb#optimiser), here [Adam](glossary.ipynb#adam), that changes the weights after each window.

# %%
HIDDEN = 16


def train(length, passes, seed, rate=0.01):
    """LSTM, linear layer, the loss of each pass, and the share of steps that were clipped."""
    rng = np.random.default_rng(seed)
    lstm = gl.LSTM(1, HIDDEN, dtype="float64", xp=xp, rng=rng)
    linear = gl.nn.Linear(HIDDEN, 1, dtype="float64", xp=xp, rng=rng)
    params = {"lstm": lstm.params, "linear": linear.params}
    adam = gl.training.Adam(rate)
    losses, clipped = [], []
    for _ in range(passes):
        state, total = None, 0.0
        cuts = zip(
            gl.training.windows(x, length), gl.training.windows(target, length), strict=True
        )
        for x_window, target_window in cuts:
            y, state, cache = lstm.forward(x_window.x, state)  # carried
            forecast, linear_cache = linear.forward(y)
            loss, dforecast = gl.nn.mean_squared_error(forecast, target_window.x)

            dy, linear_grads = linear.backward(linear_cache, dforecast)
            _, lstm_grads, _ = lstm.backward(cache, dy)  # cut

            grads = {"lstm": lstm_grads, "linear": linear_grads}
            clipped.append(float(gl.training.clip_by_global_norm(grads, 1.0)) > 1.0)
            adam.step(params, grads)
            total += float(loss) * len(y)
        losses.append(total / len(x))
    return lstm, linear, losses, np.mean(clipped)


# %%
lstm, linear, losses, clipped = train(length=22, passes=30, seed=0)
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(range(1, 31), losses)
axes.set(xlabel="pass over the record", ylabel="mean squared error, scaled", ylim=(0, None))
axes.set_title("Training on windows of 22 years")
figures.show(
    figure,
    alt=f"""The mean squared error over 30 passes. It falls from {losses[0]:.1f} steeply in
    the first passes, and then slowly to {losses[-1]:.1f}.""",
)
print(f"loss of the first pass {losses[0]:.1f}, of the last {losses[-1]:.1f}")
print(f"{clipped:.0%} of the steps were clipped")

# %% [markdown]
# ## How large a step?
#
# The 0.01 in `train` is the [learning rate](glossary.ipynb#learning-rate): about so far Adam moves each weight in one step. Suppose that it were
# thirty times smaller, or a hundred times larger. Draw both curves in the air before you run the cell.


# %%
def saturated(lstm):
    """The share of all gate values at which the sigmoid is nearly flat (lesson 03)."""
    y, _ = lstm(x)
    before = xp.concatenate([xp.zeros_like(y[:1]), y[:-1]])  # h of the step before
    p = lstm.params
    a = x @ p["weight_ih_l0"].T + before @ p["weight_hh_l0"].T + p["bias_l0"]
    gates = gl.ops.sigmoid(
        xp.concatenate([a[..., : 2 * HIDDEN], a[..., 3 * HIDDEN :]], axis=-1)
    )
    return float((gates * (1 - gates) < 0.025).mean())


figure, axes = plt.subplots(figsize=(7.5, 3.2))
for rate in (0.0003, 0.01, 1.0):
    lstm, _, losses, _ = train(length=22, passes=30, seed=0, rate=rate)
    axes.semilogy(range(1, 31), losses, label=f"learning rate {rate}")
    stuck = saturated(lstm) > 0.5
    print(f"learning rate {rate:6}: most gate values are saturated at the end: {stuck}")
axes.axhline(1, color="0.6", linewidth=0.8)  # the error of always saying the mean
axes.set(xlabel="pass over the record", ylabel="mean squared error, scaled")
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
figures.show(
    figure,
    alt="""The mean squared error over 30 passes for three learning rates, on a logarithmic
    axis, with a thin line at 1, which is the error of always saying the mean. With 0.0003
    the curve sinks slowly and is still just below the line at the end. With 0.01 it falls to
    a tenth. With 1.0 it begins far above the line and stays above it.""",
)

# %% [markdown]
# Too small, and after 30 passes it has hardly begun: it would get there, with much patience. Too large, and it ends worse than a forecast
# that always says the mean, the thin line. And it does not come back. The first steps threw the weights so far that nearly all gates are
# [saturated](glossary.ipynb#saturation): their slope is next to zero, and with it the gradient that could bring them back (lesson 03).
#
# Clipping did not prevent it. It shortens the *gradient*, but Adam takes steps of about the same size, whatever the gradient's length. So
# look for the right power of ten first: 0.1 and 0.001 are for you to try. (With the seeds 1 and 2 the rate of 1.0 ends at 0.6 and 0.9, after
# much up and down.)
#
# ## How long must a window be?
#
# Here is the third question from the beginning. The short windows get *more* training steps, for there are more of them.
# The error is in sunspots, on the years from 1920 on; two seeds each.


# %%
def held_out_error(lstm, linear):
    y, _ = lstm(scaled[:-1])
    forecast = backend.to_numpy(linear(y)).ravel() * spread + mean
    forecast = np.maximum(forecast, 0) ** 2
    return np.abs(forecast - sunspots[1:])[held_out[1:]].mean()


persistence = np.abs(np.diff(sunspots))[held_out[1:]].mean()
print(f"persistence: {persistence:.1f}")
for length, passes in [(1, 4), (5, 15), (22, 30)]:
    results = []
    for seed in (0, 1):
        lstm, linear, losses, _ = train(length, passes, seed)
        results.append(f"{held_out_error(lstm, linear):.0f}")
    steps = passes * -(-len(x) // length)
    print(f"windows of {length:2} years, {steps:4} steps: misses by {' and '.join(results)}")

# %% [markdown]
# With a single year per window the network still *has* its memory, for the state is carried. But it never learns what to keep
# for later: the blame of this year's forecast never reaches what was written last year. It ends not far below persistence,
# after the most training steps of all. Two sun cycles per window, 22 years, are enough to learn the rhythm.
#
# (The honest way to *choose* the length would be a rehearsal on earlier years, as in lesson 00. Here it is only shown.)
#
# ## What gpulstm replaces it with
#
# `gl.fit` is the same loop with a progress bar, validation, checkpoints and early stopping. A pass over the data is called
# [epoch](glossary.ipynb#epoch) there. It treats what it gets as
# **many independent sequences**: it shuffles them, and each begins with a zero state. So cut the record into overlapping
# pieces that are long enough by themselves:

# %%
series = backend.to_numpy(scaled)[:, 0]  # (time, features)
starts = range(0, learning.sum() - 34, 6)
inputs = np.stack([series[first : first + 33] for first in starts])
targets = np.stack([series[first + 1 : first + 34] for first in starts])
print("inputs", inputs.shape, ": pieces, years, features")

model = gl.nn.Sequential(
    gl.LSTM(1, HIDDEN, dtype="float64", xp=xp, rng=0),
    gl.nn.Linear(HIDDEN, 1, dtype="float64", xp=xp, rng=0),
)
history = gl.fit(
    model,
    gl.nn.mean_squared_error,
    (inputs, targets),
    epochs=40,
    batch_size=8,
    optimiser=gl.training.Adam(0.01),
    clip_norm=1.0,
    rng=0,
    progress=False,  # a bar would not look the same twice
)
print(
    f"loss of the first epoch {history[0]['loss']:.1f}, of the last {history[-1]['loss']:.1f}"
)
print(f"misses by {held_out_error(model[0], model[1]):.0f}")

# %% [markdown]
# Which one when? **One endless record**, in which what matters may lie far back: windows with the state carried. **Many
# sequences** with a beginning and an end, such as sentences: `gl.fit`. Batches also give a GPU enough to do: eight pieces
# go through it at once.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# At the start of each pass `train` sets `state = None`. Why not carry it from 1919 over to 1700?
#
# Because 1700 did not follow 1919. A carried state says "this is what came before".

# %% [markdown] tags=["question"]
# In PyTorch the same loop has a line `state = tuple(s.detach() for s in state)`. What for?
#
# PyTorch records the way back by itself, through the state into all windows before. `detach` is the cut: the numbers stay,
# the way back ends. In gpulstm you cut by not handing `dstate` on.

# %% [markdown] tags=["question"]
# A loss jumps up, and the norm of the gradient was 400 just before. And with another training run, nothing improves, and every
# single step is clipped. What do you do?
#
# In the first case clip: that is what it is for. In the second the limit is too low or the learning rate is what
# should change: clipping is for exceptions.

# %% [markdown]
# ## In short
#
# - A training loop: forward, loss, backward, clip, step.
# - With [truncated BPTT](glossary.ipynb#truncated-bptt) the [state](glossary.ipynb#cell-state) is carried from window to window
#   and the gradient is cut. What is remembered from further back is used, but not learnt.
# - A window must be long enough to hold cause and effect: here, a sun cycle or two.
# - [Clipping](glossary.ipynb#clipping) shortens a gradient that is too long, and keeps its direction.
# - Too small a [learning rate](glossary.ipynb#learning-rate) learns late. Too large a one saturates the gates, and they do not come back.
# - `gl.training.windows` cuts one long record; `gl.fit` trains on many separate sequences.
#
# ## What next
#
# In `train`, hand no state on: `lstm.forward(x_window.x)`. Predict first whether that hurts with windows of 22 years. And with
# windows of 5?
#
# Then go on to [lesson 12](12_first_kernel.ipynb): your first kernel for a GPU, with or without one.
