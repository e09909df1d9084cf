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
# # 20 · Forecast honestly
#
# "Our network misses by 2.2 degrees." Is that good? The number alone cannot say. In lesson 00 you saw one record, and an LSTM that
# ended in a draw with ten numbers. Now there are three records, and you set up the contest yourself.
#
# **Afterwards you can**
# - judge any forecast so that it *cannot* see the future;
# - name the simple rule that a record asks for, and measure an LSTM against it;
# - tell whether a lead is larger than the difference between two seeds;
# - write a rule that beats persistence on sunspots, and explain why ten numbers can be enough.

# %% tags=["start"]
from lab import check, figures, start

xp = start("statsmodels", "vega_datasets")  # cupy with a GPU: the cells are the same

# %%
import matplotlib.pyplot as plt
import numpy as np
import statsmodels.api as sm
from lab import backend
from statsmodels.tsa.ar_model import AutoReg
from vega_datasets import local_data

import gpulstm as gl

# %% [markdown]
# ## The picture: three records
#
# - **Sunspots**, one number a year since 1700.
# - **Seattle's weather**: the highest temperature of each day, 2012 to 2015.
# - **CO2** in the air over Mauna Loa in Hawaii, one number a month since 1958. Five early months are missing, and are filled in along a
#   straight line. All five lie in the part to learn from.
#
# Each is cut once, in time. What lies behind the cut is [held out](glossary.ipynb#held-out-data).

# %%
sunspots = sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()
weather = local_data.seattle_weather()["temp_max"].to_numpy()
months = sm.datasets.co2.load_pandas().data["co2"].resample("MS").mean()
co2 = months.interpolate().to_numpy()

CUTS = {"sunspots": 220, "weather": 1096, "co2": 420}  # 1920, January 2015, March 1993

# %%
figure, panels = plt.subplots(1, 3, figsize=(11, 2.8))
unit = ["sunspots", "°C", "parts per million"]
for axes, (name, cut), series, label in zip(
    panels, CUTS.items(), [sunspots, weather, co2], unit, strict=True
):
    steps = np.arange(len(series))
    axes.plot(steps[:cut], series[:cut], color="black", linewidth=0.8)
    axes.plot(steps[cut:], series[cut:], color="0.5", linewidth=0.8, linestyle="-")
    axes.axvline(cut, color="black", linewidth=1.2, linestyle="--")
    axes.set(title=name, ylabel=label)
panels[0].set_xlabel("years since 1700")
panels[1].set_xlabel("days since the start of 2012")
panels[2].set_xlabel("months since March 1958")
figures.show(
    figure,
    alt="""Three records side by side, each with a dashed line at its cut. Sunspots: some 28
    hills, uneven. Weather: four broad waves, one a year, with much jitter from day to day.
    CO2: a line that rises from 316 to 371 with a small regular wave on it; most values
    behind its cut are higher than any before.""",
)

# %% [markdown]
# ## Predict first
#
# The question is always: what comes one step later? [Persistence](glossary.ipynb#persistence) says: the same as now.
#
# 1. On which of the three records is persistence hardest to beat?
# 2. On one of them, an LSTM that gets the plain values misses by *more than twice* as much as persistence. On which one, and why?
#
# ## A rule gets the past, and nothing else
#
# Here is a judge that one cannot cheat by accident. A rule is a function of the `past`. The judge hands over what lies
# before step `now`, asks for one number, and goes one step on. Whoever follows this never sees a future value.


# %%
def judge(rule, series, cut):
    """By how much the rule misses on average, over all steps from the cut on."""
    steps = range(cut, len(series))
    return np.mean([abs(rule(series[:now]) - series[now]) for now in steps])


def persistence(past):
    return past[-1]


for name, series in [("sunspots", sunspots), ("weather", weather), ("co2", co2)]:
    print(f"{name:9} persistence misses by {judge(persistence, series, CUTS[name]):.2f}")

# %% [markdown]
# ## The simple rule that the record asks for
#
# Persistence is the *least* that a forecast must beat. Look at the picture again: CO2 has a wave of twelve months. So a rule that takes one
# minute to write is: *it will change as it changed in the same month last year*.
#
# And there is [autoregression](glossary.ipynb#autoregression), a weighted sum of the last values. It is fitted on the values before
# the cut, once, and then only applied.


# %%
def as_last_year(past):
    return past[-1] + (past[-12] - past[-13])


def autoregression(series, lags, cut):
    """A rule: a constant and a weighted sum of the last `lags` values."""
    constant, *weights = AutoReg(series[:cut], lags=lags).fit().params

    def rule(past):
        return constant + np.dot(weights, past[: -lags - 1 : -1])  # newest first

    return rule


print(f"co2       as last year   {judge(as_last_year, co2, CUTS['co2']):.2f}")
for name, series, lags in [
    ("sunspots", sunspots, 9),
    ("weather", weather, 12),
    ("co2", co2, 13),
]:
    error = judge(autoregression(series, lags, CUTS[name]), series, CUTS[name])
    print(f"{name:9} {f'AR({lags})':14} {error:.2f}")

# %% [markdown]
# The first question is answered. On the **weather**, autoregression gains a mere five percent on persistence: tomorrow
# is mostly like today, and the rest is hard to foretell from temperatures alone. On CO2 one line of thought gains
# seventy percent. Whoever compares a network on CO2 with persistence alone will win, and will have shown nothing.
#
# ## The LSTM
#
# The record before the cut is cut into overlapping windows, as in lesson 11, and `gl.fit` trains on them: at each step the target is the
# next value. Mean and spread come from the values before the cut. Then the LSTM reads the whole record once; what it says at a step depends
# on the steps up to that one, because an LSTM reads forwards.

# %%
HIDDEN = 16


def lstm_forecasts(series, cut, *, seed, epochs, length=33, stride=3):
    """Forecasts for all steps from the cut on."""
    mean, spread = series[:cut].mean(), series[:cut].std()
    scaled = ((series - mean) / spread)[:, None]  # (time, 1)
    starts = range(0, cut - length, stride)
    inputs = np.stack([scaled[s : s + length] for s in starts])  # (windows, time, 1)
    targets = np.stack([scaled[s + 1 : s + 1 + length] for s in starts])

    rng = np.random.default_rng(seed)
    same = dict(dtype="float64", xp=xp, rng=rng)
    model = gl.nn.Sequential(
        gl.LSTM(1, HIDDEN, forget_bias=1.0, **same), gl.nn.Linear(HIDDEN, 1, **same)
    )
    adam = gl.training.Adam(0.01)
    how = dict(epochs=epochs, optimiser=adam, clip_norm=1.0, rng=seed, progress=False)
    gl.fit(model, gl.nn.mean_squared_error, (inputs, targets), **how)

    y = backend.to_numpy(model(xp.asarray(scaled[:-1, None])))  # (time - 1, 1, 1)
    return y.ravel()[cut - 1 :] * spread + mean


# %% [markdown]
# ## Choose on a rehearsal
#
# How many epochs? Whoever tries several and takes the one that does best on the held-out years has *used* the held-out years. So there is a
# rehearsal: learn from before 1880, judge on 1880 to 1919, called [validation](glossary.ipynb#validation). The
# sunspots come as square roots, as in lesson 00.

# %%
roots = np.sqrt(sunspots)


def counts(of_roots):
    return np.maximum(of_roots, 0.0) ** 2  # there are no negative sunspots


for epochs in (20, 60):
    missed = []
    for seed in range(2):
        forecast = lstm_forecasts(roots[:220], 180, seed=seed, epochs=epochs)
        missed.append(np.abs(counts(forecast) - sunspots[180:220]).mean())
    print(f"{epochs} epochs: misses by {np.mean(missed):.1f} in the rehearsal, 2 seeds")

# %% [markdown]
# Twenty are enough. Sixty begin to learn the accidents of these 180 years by heart: [overfitting](glossary.ipynb#overfitting).
# For the other two records the same rehearsal, done beforehand, says 40 (weather) and 80 (CO2). Now the held-out years, once:

# %%
SEEDS = range(4)
made = [counts(lstm_forecasts(roots, CUTS["sunspots"], seed=seed, epochs=20)) for seed in SEEDS]
truth = sunspots[CUTS["sunspots"] :]
errors = {"sunspots": [np.abs(forecast - truth).mean() for forecast in made]}

ar9 = autoregression(roots, 9, CUTS["sunspots"])
ar9_forecast = counts(np.array([ar9(roots[:now]) for now in range(220, len(roots))]))
ar_errors = {"sunspots": np.abs(ar9_forecast - truth).mean()}
print(f"AR(9) on square roots misses by {ar_errors['sunspots']:.1f}")
print("LSTM on square roots, 4 seeds: ", ", ".join(f"{e:.1f}" for e in errors["sunspots"]))

# %%
years = np.arange(1920, 2009)
near = (years >= 1950) & (years <= 1995)
figure, axes = plt.subplots(figsize=(10, 3.6))
low, high = np.min(made, axis=0), np.max(made, axis=0)
axes.fill_between(years[near], low[near], high[near], color="0.8", label="LSTM, 4 seeds")
axes.plot(years[near], truth[near], color="black", linewidth=2.2, label="truth")
before = sunspots[219:-1]
axes.plot(years[near], before[near], color="0.5", linestyle=":", label="persistence")
axes.plot(
    years[near], ar9_forecast[near], color="#0072B2", linestyle="--", label="AR(9) on roots"
)
axes.set(xlabel="year", ylabel="sunspots", ylim=(0, 240))
axes.set_title("One year ahead, a part of the held-out years")
axes.legend(loc="upper right", ncols=4)
figures.show(
    figure,
    alt="""Sunspots from 1950 to 1995, four hills, as a thick black line. The dotted line of
    persistence runs one year behind it. The dashed line of AR(9) and the grey band between
    the lowest and the highest of four LSTMs both follow the slopes closely. At the tops of
    1957 and 1980 the band falls short by some twenty sunspots; AR(9) reaches the height.""",
)

# %% [markdown]
# The grey band is what the [seed](glossary.ipynb#seed) alone does. On the slopes the two agree. At the broad tops all four LSTMs fall
# short, and AR(9) does not.
#
# ## What a network cannot do: leave its range
#
# Now the second question. CO2, as it is:

# %%
CO2 = dict(length=36, stride=4)
cut = CUTS["co2"]
missed = []
for seed in range(2):
    forecast = lstm_forecasts(co2, cut, seed=seed, epochs=80, **CO2)
    missed.append(np.abs(forecast - co2[cut:]).mean())
times = np.mean(missed) / judge(persistence, co2, cut)
print(f"LSTM on plain values: {times:.1f} times persistence's error")
print(f"to learn from: up to {co2[:cut].max():.0f}; held out: up to {co2[cut:].max():.0f}")
print(f"held-out months above all before: {(co2[cut:] > co2[:cut].max()).mean():.0%}")
print(f"its highest forecast: {forecast.max():.0f}")

# %% [markdown]
# Four of five held-out months are higher than all that it has ever seen. Its gates and its tanh [saturate](glossary.ipynb#saturation), so its output
# hardly leaves the range that it knows. A weighted sum has no such border.
#
# The cure is in the preparation: give it the **change** from month to month, which stays in the same range for ever, and
# add the forecast change to the last value.

# %%
change = np.diff(co2)  # change[i] leads from month i to month i + 1, so its cut is one earlier
errors["co2"] = []
for seed in SEEDS:
    forecast = lstm_forecasts(change, cut - 1, seed=seed, epochs=80, **CO2)
    errors["co2"].append(np.abs(co2[cut - 1 : -1] + forecast - co2[cut:]).mean())
print("LSTM on changes, 4 seeds:", ", ".join(f"{e:.2f}" for e in errors["co2"]))

errors["weather"] = []
for seed in SEEDS:
    forecast = lstm_forecasts(weather, CUTS["weather"], seed=seed, epochs=40, stride=9)
    errors["weather"].append(np.abs(forecast - weather[CUTS["weather"] :]).mean())
print("LSTM on weather, 4 seeds:", ", ".join(f"{e:.2f}" for e in errors["weather"]))

# %% [markdown]
# ## The contest
#
# Every error as a share of persistence's. The sums get the same preparation as the LSTM (square roots, plain values, changes),
# and their number of lags comes from the same rehearsal.

# %%
LAGS = {"sunspots": 9, "weather": 12, "co2": 36}
all_series = {"sunspots": sunspots, "weather": weather, "co2": co2}
rule = autoregression(weather, LAGS["weather"], CUTS["weather"])
ar_errors["weather"] = judge(rule, weather, CUTS["weather"])
ar_errors["co2"] = judge(autoregression(change, LAGS["co2"], cut - 1), change, cut - 1)

figure, axes = plt.subplots(figsize=(8, 3.4))
spoken = []
for place, (name, series) in enumerate(all_series.items()):
    base = judge(persistence, series, CUTS[name])
    shares = np.array(errors[name]) / base
    first = place == 0
    axes.bar(
        place - 0.2,
        ar_errors[name] / base,
        0.36,
        color=figures.GREYS[1],
        edgecolor="black",
        label="AR" if first else None,
    )
    axes.bar(
        place + 0.2,
        shares.mean(),
        0.36,
        color="white",
        edgecolor="black",
        hatch=figures.HATCHES[1],
        label="LSTM, mean of 4 seeds" if first else None,
    )
    axes.plot([place + 0.2] * 4, shares, "o", color="black", markersize=4)
    line = f"{name}: AR({LAGS[name]}) {ar_errors[name] / base:.2f}, LSTM {shares.mean():.2f}"
    spoken.append(f"{line}, seeds from {shares.min():.2f} to {shares.max():.2f}")
axes.axhline(1.0, color="black", linestyle="--")
axes.text(2.45, 1.02, "persistence", ha="right", va="bottom")
axes.set_xticks(range(3), list(all_series))
axes.set(ylabel="error, persistence = 1", ylim=(0, 1.25))
axes.legend(loc="upper left", ncols=2)
figures.show(
    figure,
    alt=f"""Two bars for each record, errors as shares of persistence's, which is a dashed line
    at 1. {"; ".join(spoken)}. On each record the two bars are almost equally high.""",
)
print("\n".join(spoken))

# %% [markdown]
# An honest report reads:
#
# - **Sunspots**: AR(9) wins, narrowly. One seed of four does a little better, three do worse. (In lesson 00 the LSTM is trained otherwise and
#   gets 10.8 to 12.4, against the same 11.6: a draw. So "narrowly" is all one can say.)
# - **Weather**: nobody does much better than "like today", and AR(12) is ahead by a hair, in front of all four seeds.
# - **CO2**: a draw. Both are better than "as last year", by about a fifth.
#
# So why learn about LSTMs at all? Because these are *small, smooth, single* records, the home of weighted sums. An LSTM
# begins to pay where many series share one network, where inputs are of many kinds, or where the distance to what
# matters changes: text, speech, sensors. Then, too, the simple rule stands beside it in the table.
#
# ## Your turn: beat persistence
#
# Write a rule for the **sunspots** with your own hands: NumPy, no `AutoReg`. It gets the counts of all years up to now, and returns one number.
# Persistence misses by 23.3. Get below 16 on the held-out years. A line through the last two years (`2 * past[-1] -
# past[-2]`) gets 21.2: not enough.


# %% tags=["exercise"]
def my_rule(past):
    return past[-1]  # ← your turn


# %%
check("20.beat-persistence", my_rule)

# %% [markdown] tags=["hint"]
# A line through two years overshoots at each top. Try `constant + a * past[-1] + b * past[-2]`, with a negative `b`. Which three
# numbers? Those that fit the past best.

# %% [markdown] tags=["hint"]
# `np.linalg.lstsq(rows, targets, rcond=None)[0]` finds the weights. Each row holds a 1 and some years in a row, its target is the
# year after them. Make the rows from `past` itself.


# %% tags=["solution"]
def my_rule(past, lags=9):
    places = range(lags, len(past))
    rows = np.stack([np.r_[1.0, past[i - lags : i]] for i in places])
    weights = np.linalg.lstsq(rows, past[lags:], rcond=None)[0]
    return np.r_[1.0, past[-lags:]] @ weights


# %% [markdown]
# ## Your turn: say why
#
# Why does AR(9), with ten numbers, keep up with an LSTM of 1169 numbers on the sunspots? Put in the letter.
#
# - **a**: An LSTM cannot express a weighted sum of nine years.
# - **b**: The sun swings much like a pendulum, for which a weighted sum is almost the right form; and 220 years settle ten numbers far
#   better than 1169.
# - **c**: AR(9) was fitted on the held-out years, too.
# - **d**: The LSTM was trained too briefly. More epochs on the same years would have let it win.

# %% tags=["exercise"]
because = ""  # ← your turn: "a", "b", "c" or "d"

# %%
check("20.why", because)

# %% [markdown] tags=["hint"]
# Two of the four are refuted by cells of this lesson: look at what `autoregression` is given, and at the rehearsal.

# %% [markdown] tags=["hint"]
# An LSTM with small inputs works in the straight part of its tanh, so it can nearly be a weighted sum. What it *can* be is
# not the trouble. How does it find out what to be?

# %% tags=["solution"]
because = "b"

# %% [markdown]
# ## Three questions

# %% [markdown] tags=["question"]
# A report says: "Our LSTM beats persistence on monthly CO2 by 78 %." What do you ask?
#
# What the rule "change as in the same month last year" gets. Here it takes off 72 %. The network's own share in the success
# is the little that is left.

# %% [markdown] tags=["question"]
# You train with ten seeds and report the best on the held-out years. What is wrong?
#
# The best of ten was chosen by looking at the held-out years. On new years it will do about as well as the ten on average. Report the
# mean and the range, or choose on a rehearsal.

# %% [markdown] tags=["question"]
# Why did the LSTM fail on CO2 itself, while it did well on its changes?
#
# The later values lie outside the range in which it learned, and a saturating network cannot go on beyond it. The changes stay in
# the same range.

# %% [markdown]
# ## In short
#
# - Judge step by step: a rule gets the past and returns one number. [Held-out](glossary.ipynb#held-out-data) steps are used once.
# - The measure is the best *simple* rule: [persistence](glossary.ipynb#persistence), "as last year", an
#   [autoregression](glossary.ipynb#autoregression), each with the same preparation.
# - Settings are chosen on a [validation](glossary.ipynb#validation) part before the cut.
# - Several seeds, mean and range. A lead smaller than the range is a draw.
# - A network does not leave the range that it has learned: forecast changes where there is a trend.
#
# ## What next
#
# Change and predict: give the LSTM the *plain* counts of sunspots; forecast the weather from `temp_min` as well; hold out the
# years from 1850 on. Which verdicts move?
#
# Some forecasts are much *too* good. How to find out why is [lesson 21](21_leakage.ipynb).
