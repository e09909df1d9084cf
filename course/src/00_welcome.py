# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Welcome, and a first forecast
#
# Welcome! In this course you take an **LSTM** apart, a neural network with a memory, and build it again with your own
# hands: first its formulas, then the *kernels*, small programs with which a GPU computes them, then networks that forecast,
# read and listen. You need Python and a little NumPy. You need no GPU and no knowledge of neural networks.
#
# Today you drive the car; after that we open the bonnet. In the next fifteen minutes you train an LSTM on three centuries
# of sunspots, and find out whether it foretells the next year better than much simpler rules.
#
# **Afterwards you can**
# - find your way through the lessons, and see how far you have come;
# - run a lesson, change it, and say whether it computes on the processor or on a GPU;
# - split a time series so that the judgement is fair;
# - judge a forecast by what *simple* rules achieve on the same years.
#
# **How to run it:** click into the first grey cell and press Shift+Enter, cell after cell. To start over: menu *Kernel →
# Restart Kernel and Run All Cells* (that kernel is the Python behind this page). You cannot break anything.

# %% tags=["start"]
from lab import check, course_map, figures, start

xp = start("statsmodels")  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import statsmodels.api as sm
from lab import backend
from statsmodels.tsa.ar_model import AutoReg

import gpulstm as gl

# %% [markdown]
# ## The picture: your map
#
# One box for each lesson. A box turns dark when all its exercises are solved: each exercise ends in a `check(...)` that
# says what is right and what to look at, as often as you like. What you have solved is written into a file on this computer,
# and only there. Come back to this cell whenever you want to see how far you are.

# %% tags=["nbval-ignore-output"]
course_map.show()

# %% [markdown]
# Every lesson goes the same way: a goal, a picture, a guess of your own, code, an exercise with two hints and a solution
# folded away, three questions, and what comes next. The words that are used are explained in the
# [glossary](glossary.ipynb).
#
# ## The question
#
# Since 1700 somebody has counted the dark spots on the sun. Their number rises and falls about every eleven years, but
# neither the height nor the length of a cycle is ever quite the same. **Given all years so far, how many sunspots will
# next year have?**
#
# A forecast is only worth something on years that it has not seen. So the record is cut once, in time: everything
# before 1920 is for learning, everything from 1920 on is held back for the judgement.

# %%
record = sm.datasets.sunspots.load_pandas().data
years = record["YEAR"].to_numpy().astype(int)
sunspots = record["SUNACTIVITY"].to_numpy()  # (309,): a yearly mean

learning, held_out = years < 1920, years >= 1920
print(f"{years[0]} to {years[-1]}:", end=" ")
print(f"{learning.sum()} years to learn from, {held_out.sum()} held out")

# %%
figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
axes.plot(years[learning], sunspots[learning], color="black", label="to learn from")
axes.plot(years[held_out], sunspots[held_out], color="0.45", linestyle="--", label="held out")
axes.axvline(1920, color="black", linewidth=0.8)
axes.set(xlabel="year", ylabel="sunspots, yearly mean")
axes.set_title("Three centuries of sunspots")
axes.legend(loc="upper left")
figures.show(
    figure,
    alt="""Sunspots over the years 1700 to 2008: some 28 hills in a row, each about eleven
    years wide, between 0 and 190 high. A vertical line stands at 1920; the hills right of
    it, drawn dashed, are held out. Some of them are higher than any before.""",
)

# %% [markdown]
# An LSTM reads the record year by year. After each year it has two things: a **memory**, which it takes along to the next
# year, and an **output**, from which a small [linear layer](glossary.ipynb#linear-layer), a weighted sum,
# makes the forecast for the year that comes.
#
# ```text
#            forecast 1701   forecast 1702   forecast 1703
#                  ↑               ↑               ↑
#               linear          linear          linear
#                  ↑               ↑               ↑
#   start  ──→  [ LSTM ]  ──→  [ LSTM ]  ──→  [ LSTM ]  ──→  ···       ──→ carries the memory
#                  ↑               ↑               ↑
#                1700            1701            1702
# ```
#
# It is the *same* LSTM each time, with the same numbers inside. Training means to turn these numbers, bit by bit, so
# that the forecasts of the years before 1920 come closer to what happened.
#
# ## Predict first
#
# The LSTM has three competitors:
# - **persistence** says: next year will be like this year. Nothing to learn at all.
# - **AR(9)** is a weighted sum of the last nine years: nine weights and a constant. Such sums are a hundred years old; G. Udny
#   Yule thought of them in 1927, and he did so for this very record.
# - **AR(9) on square roots** is the same on √sunspots, which is how our LSTM gets them too. (Why the root: at its
#   height the sun is far more restless than in its quiet years. The root evens that out.)
#
# Who is closest on the held-out years, and by how much does the winner beat persistence? Say it out loud, or write it down,
# before you go on. A wrong guess is the one that you will remember.
#
# ## Prepare the numbers
#
# Networks like numbers around zero of a size around one. The mean and the spread come from the learning years
# **alone**: taken from all years they would whisper to the network how high the later hills are. Such a whisper
# is called *leakage*.

# %%
roots = np.sqrt(sunspots)
mean, spread = roots[learning].mean(), roots[learning].std()


def to_scale(counts):
    return (np.sqrt(counts) - mean) / spread


def from_scale(scaled):
    return np.maximum(scaled * spread + mean, 0.0) ** 2  # there are no negative counts


# An LSTM's input is (time, batch, features). Here: every year, one record, one number a year.
scaled = xp.asarray(to_scale(sunspots)[:, None, None])  # (309, 1, 1)
last = learning.sum()
x, target = scaled[: last - 1], scaled[1:last]  # the target of a year is the year after it
print("x", x.shape, " target", target.shape)

# %% [markdown]
# ## The model, and one round of training
#
# One round goes: **forecast** all learning years, **measure** the error, send the blame **backwards** through linear
# layer and LSTM to find out how each number inside should change, and **change** each a little.

# %%
HIDDEN, LEARNING_RATE, ROUNDS = 16, 0.01, 100


def train(seed):
    """A trained LSTM with its linear layer, and the error of each round."""
    rng = np.random.default_rng(seed)
    lstm = gl.LSTM(1, HIDDEN, dtype="float64", xp=xp, rng=rng)
    linear = gl.nn.Linear(HIDDEN, 1, dtype="float64", xp=xp, rng=rng)
    params = {"lstm": lstm.params, "linear": linear.params}
    adam = gl.training.Adam(LEARNING_RATE)

    losses = []
    for _ in range(ROUNDS):
        # forecast
        y, _, lstm_cache = lstm.forward(x)  # y (time, 1, HIDDEN)
        forecast, linear_cache = linear.forward(y)  # (time, 1, 1)
        # measure
        loss, dforecast = gl.nn.mean_squared_error(forecast, target)
        # send the blame backwards
        dy, linear_grads = linear.backward(linear_cache, dforecast)
        _, lstm_grads, _ = lstm.backward(lstm_cache, dy)
        # change each number a little; clipping keeps one bad round from undoing the others
        grads = {"lstm": lstm_grads, "linear": linear_grads}
        gl.training.clip_by_global_norm(grads, 1.0)
        adam.step(params, grads)
        losses.append(float(loss))
    return lstm, linear, losses


# %% tags=["nbval-ignore-output"]
began = time.perf_counter()
lstm, linear, losses = train(seed=0)
seconds = time.perf_counter() - began
numbers = sum(p.size for p in [*lstm.params.values(), *linear.params.values()])
print(f"trained {numbers} numbers in {ROUNDS} rounds and {seconds:.1f} seconds")

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(range(1, ROUNDS + 1), losses, color="black")
axes.set(xlabel="round", ylabel="mean squared error, scaled", ylim=(0, None))
axes.set_title("Training")
figures.show(
    figure,
    alt="""The error over 100 rounds of training. The curve falls steeply for some twenty
    rounds, from 1 to a quarter, and then ever more slowly. At the end it is still falling.""",
)
print(f"error in the first round {losses[0]:.1f}, in the last {losses[-1]:.1f}")

# %% [markdown]
# The curve falls steeply for some twenty rounds, from 1 to a quarter, and then ever more slowly. It is still
# falling after a hundred. Why stop there? More rounds fit the *learning* years ever better, and begin to learn
# their accidents by heart. The three numbers in capitals come from a rehearsal: trained on the years before 1880, judged on
# 1880 to 1919. The held-out years had no say in it.
#
# ## The forecasts
#
# Each forecast for a held-out year uses only the years before it. The LSTM simply goes on reading: a forecast
# made after 1919 is the one for 1920. Its numbers inside stay as they were in 1919, and so do AR(9)'s.

# %%
truth = sunspots[held_out]


def lstm_forecast(lstm, linear):
    y, _ = lstm(scaled[:-1])  # reads 1700 to 2007, so its output is for 1701 to 2008
    return from_scale(backend.to_numpy(linear(y)).ravel())[held_out[1:]]


def ar9_forecast(series):
    constant, *weights = AutoReg(series[learning], lags=9).fit().params
    (places,) = np.nonzero(held_out)
    # weights[0] belongs to the year before, weights[8] to nine years before
    return np.array([constant + weights @ series[i - 9 : i][::-1] for i in places])


forecasts = {
    "persistence": sunspots[:-1][held_out[1:]],
    "AR(9)": ar9_forecast(sunspots),
    "AR(9) on square roots": from_scale(ar9_forecast(to_scale(sunspots))),
    "LSTM": lstm_forecast(lstm, linear),
}
for name, forecast in forecasts.items():
    error = np.abs(forecast - truth).mean()
    share = error / truth.mean()
    print(f"{name:22} misses by {error:4.1f} on average, {share:.0%} of the usual number")

# %%
styles = {
    "persistence": dict(color="0.55", linestyle=":", linewidth=1.5),
    "AR(9)": dict(color="#0072B2", linestyle="-.", linewidth=1.2),
    "LSTM": dict(color="#D55E00", linestyle="--", linewidth=1.8, marker="o", markersize=3),
}
figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
axes.plot(years[held_out], truth, color="black", linewidth=2, label="truth")
for name, style in styles.items():
    axes.plot(years[held_out], forecasts[name], label=name, **style)
axes.set(xlabel="year", ylabel="sunspots, yearly mean", ylim=(0, 230))
axes.set_title("One year ahead, on the years held out")
axes.legend(loc="upper left", ncols=4)
figures.show(
    figure,
    alt="""Eight cycles of sunspots, 1920 to 2008, as a thick black line, the highest in
    1957. The dotted line of persistence is the truth moved one year to the right: always
    late. The dashed line of the LSTM and the dash-dotted one of AR(9) follow the slopes
    closely and miss at the tops: AR(9) shoots past some of them a year late, the LSTM falls
    short of the broad ones.""",
)

# %% [markdown]
# Look at the tops and at the slopes. Persistence is always one year late. AR(9) shoots past some tops, the LSTM falls short
# of the broad ones.
#
# ## Was that luck?
#
# The LSTM began from random numbers, and `seed=0` chose them. One run is one throw of the dice. Throw four more times:

# %%
errors = {0: np.abs(forecasts["LSTM"] - truth).mean()}
for seed in range(1, 5):
    errors[seed] = np.abs(lstm_forecast(*train(seed)[:2]) - truth).mean()
print("LSTM, seeds 0 to 4, misses by", ", ".join(f"{error:.1f}" for error in errors.values()))
print(f"on average {np.mean(list(errors.values())):.1f}")

# %% [markdown]
# ## What happened
#
# **All three that learn beat persistence by about half.** The rhythm of the sun can be learnt, by all of them.
#
# **The LSTM does not beat AR(9), if the two are given the same numbers.** Against plain AR(9) it looks like the winner.
# But part of that lead is the square root's, not the network's: AR(9) on square roots has caught up. What is
# left between the two is smaller than the difference between one seed and the next, and with another seed the LSTM
# loses. An honest verdict is: **a draw**, between 1169 numbers and ten.
#
# **Why can ten numbers keep up?** Because the sun's rhythm is close to a swinging pendulum, which a weighted sum of recent
# years describes very well, and because 220 years are little to learn from: some twenty cycles. LSTMs earn their keep where
# there is much data and where what matters is not a fixed number of steps back: speech, text, many series at once.
#
# So whenever somebody shows you a network's forecast, ask: *which simple rule was it compared with, on which
# years, with the same preparation, and how many seeds?*
#
# ## Your turn: mend this cell
#
# Somebody forecasts the sun *without any error*. Run the two cells, read the verdict, and mend the first one. The map above
# will know when you have solved it.

# %% tags=["exercise"]
my_persistence = sunspots[held_out]  # ← your turn: next year will be like this year

# %%
check("00.persistence", my_persistence)

# %% [markdown] tags=["hint"]
# The forecast for 1920 must be known at the end of 1919. Which element of `sunspots` is that?

# %% [markdown] tags=["hint"]
# `np.roll(sunspots, 1)` moves the record one year to the right. Its very first element is then wrong, but 1700 is not held out.

# %% tags=["solution"]
my_persistence = np.roll(sunspots, 1)[held_out]

# %% [markdown]
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# Why is the record cut in time, and not by drawing 89 years at random?
#
# Because a forecaster never has the years after the one in question. With years drawn at random, the network would
# learn from 1956 and 1958 and then be asked about 1957: that is filling a gap, which is far easier.

# %% [markdown] tags=["question"]
# `mean` and `spread` come from the learning years only. What would be wrong with all years?
#
# The later cycles are higher. A mean over all years would carry that knowledge into the learning: a small leak here, a large
# one in other data. The rule costs nothing, so keep it always.

# %% [markdown] tags=["question"]
# Your LSTM gets 11 where AR(9) gets 13. What do you ask before you celebrate?
#
# Whether both had the same data, prepared alike (here the square root made most of that difference); whether another seed
# gives the same; and whether the settings were chosen without a look at the years of the judgement.

# %% [markdown]
# ## In short
#
# - A forecast is judged on later years that had no part in anything: not in the training, not in the scaling, not in the
#   settings. Where that fails, there is [leakage](glossary.ipynb#leakage).
# - [Persistence](glossary.ipynb#persistence) is the least that a forecast must beat; a linear rule with the same preparation
#   is the next.
# - An [LSTM](glossary.ipynb#lstm) starts at random, so one run is one sample: show several.
#
# ## What next
#
# Change something, and predict before you run: `HIDDEN = 4`? `ROUNDS = 400`, and look at both the loss and the held-out
# error? The raw counts instead of the roots? (To keep the judgement honest you would choose between them on 1880 to 1919,
# as the rehearsal did.)
#
# And then open the bonnet: [lesson 01](01_one_sentence.ipynb) sends one sentence through an LSTM. If you
# cannot wait, the whole of `[ LSTM ]` stands in
# [six lines of formulas](../gpulstm/equations.py), and as a GPU computes it in
# [one kernel](../kernels/lstm_forward_step.cu).
