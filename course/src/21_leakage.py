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
# # 21 · Too good to be true
#
# Most forecasts that are astonishingly good have seen the answer. Nobody cheated: the future slipped in through a mean, a smoothed
# curve, a shuffled list. And some records hold nothing that a network could find. Today you learn to tell both.
#
# **Afterwards you can**
# - name three ways in which the future gets into the learning;
# - test any preparation of data for them, with one short function;
# - mend a preparation that leaks;
# - decide from error bars whether an LSTM is worth its trouble.

# %% tags=["start"]
from lab import check, figures, start

xp = start("vega_datasets", "statsmodels")  # cupy with a GPU: the cells are the same

# %%
import numpy as np
from lab import backend
from lab.lesson_21_drawings import against_naive, three_leaks
from statsmodels.tsa.ar_model import AutoReg
from vega_datasets import local_data

import gpulstm as gl

# %% [markdown]
# ## The picture: three leaks

# %%
figure, alt = three_leaks()
figures.show(figure, alt=alt)

# %% [markdown]
# Each arrow is a piece of knowledge that a forecaster does not have yet: a [leak](glossary.ipynb#leakage).
#
# 1. **The scale.** Mean and spread of *all* days tell the learning days how high the later ones will be.
# 2. **The smoothing.** A mean *around* a day holds the days after it.
# 3. **The draw.** Days drawn at random lie between days that were learnt from. To fill a gap is far easier than to forecast.
#
# ## Predict first
#
# A network forecasts tomorrow's sales of a shop. Somebody gives it one input more, the sales *smoothed over three days*, and its error
# falls to about a seventh. Then it goes to work in the shop.
#
# There, will its error be (a) still that small, (b) as before, or (c) worse than before?
#
# ## The shop
#
# Real sales may seldom be given away, so this shop is **simulated**: a week, a year, a mood that drifts, and promotions that are announced
# the day before. Customers buy ahead during a promotion, so it works less if the last one was recent.


# %%
def simulate(seed, days=1096):
    rng = np.random.default_rng(seed)
    promotion = rng.random(days) < 0.15
    mood, stock, sales = 0.0, 0.0, []  # stock: what customers have at home
    for day in range(days):
        mood = 0.8 * mood + rng.normal(0, 5)
        usual = 200 + [-20, -15, -10, 0, 25, 45, -25][day % 7]
        usual += 30 * np.cos(2 * np.pi * day / 365.25) + mood
        lift = 0.6 * (1 - stock) if promotion[day] else -0.25 * stock
        stock = min(0.8 * stock + 0.5 * promotion[day], 1.0)
        sales.append(usual * (1 + lift) + rng.normal(0, 5))
    return np.round(sales), promotion


sales, promotion = simulate(seed=0)
CUT = 800
announced = np.r_[promotion[1:], False]  # announced[day]: is there a promotion tomorrow?
print("ten days:", sales[:10].astype(int))
last_week = np.abs(sales[7:] - sales[:-7])[CUT - 7 :].mean()
print(f"as on this weekday last week: misses by {last_week:.0f}")

# %% [markdown]
# One function trains, for this whole lesson. `inputs` are `(time, records, features)`, `series` is `(time, records)`: one network may
# serve several records. All scales come from before the cut.


# %%
def trained(inputs, series, cut, *, seed, epochs, length=28, stride=7):
    """A function that makes, for each step of its inputs, the forecast of the next one."""
    low, spread = inputs[:cut].mean(axis=0), inputs[:cut].std(axis=0)
    mean, size = series[:cut].mean(axis=0), series[:cut].std(axis=0)
    x, target = (inputs - low) / spread, ((series - mean) / size)[..., None]

    places = [(s, r) for s in range(0, cut - length, stride) for r in range(series.shape[1])]
    windows = np.stack([x[s : s + length, r] for s, r in places])
    targets = np.stack([target[s + 1 : s + 1 + length, r] for s, r in places])
    rng = np.random.default_rng(seed)
    same = dict(dtype="float64", xp=xp, rng=rng)
    lstm = gl.LSTM(x.shape[-1], 16, forget_bias=1.0, **same)
    model = gl.nn.Sequential(lstm, gl.nn.Linear(16, 1, **same))
    how = dict(batch_size=16, clip_norm=1.0, rng=seed, progress=False)
    how |= dict(epochs=epochs, optimiser=gl.training.Adam(0.02))
    gl.fit(model, gl.nn.mean_squared_error, (windows, targets), **how)

    def forecast(inputs):
        y = model(xp.asarray((inputs - low) / spread))
        return backend.to_numpy(y)[..., 0] * size + mean  # (time, records)

    return forecast


def error(forecast, inputs, series, cut):
    made = forecast(inputs[:-1])[cut - 1 :]
    return np.abs(made - series[cut:]).mean()


# %% [markdown]
# ## Seven times as good, with one more input


# %%
def smoothed(values):
    """The mean of three days, with the day itself in the middle."""
    return np.convolve(np.pad(values, 1, mode="edge"), np.ones(3) / 3, mode="valid")


SEEDS = range(3)
shop = sales[:, None]  # (time, 1 record)
plain = np.stack([sales, announced], axis=-1)[:, None, :]  # (time, 1, 2)
rich = np.stack([sales, announced, smoothed(sales)], axis=-1)[:, None, :]

shop_models = [trained(plain, shop, CUT, seed=s, epochs=30) for s in SEEDS]
rich_models = [trained(rich, shop, CUT, seed=s, epochs=30) for s in SEEDS]
plain_errors = [error(model, plain, shop, CUT) for model in shop_models]
rich_errors = [error(model, rich, shop, CUT) for model in rich_models]
print("sales and promotions:    ", ", ".join(f"{e:.1f}" for e in plain_errors))
print("and the smoothed sales:  ", ", ".join(f"{e:.1f}" for e in rich_errors))

# %% [markdown]
# The cut is in time, the scales are from before it, and the held-out days had no part in the training. All that lesson 20 asked for. And still something is
# wrong. Let the network go to work: on each evening it gets what is known *on that evening*, and no more. The last smoothed value
# can then only repeat today at its edge, because tomorrow is missing.

# %%
evenings = range(CUT - 1, len(sales) - 1)
known = []
for evening in evenings:
    past = sales[: evening + 1]
    columns = [past, announced[: evening + 1], smoothed(past)]
    known.append(np.stack(columns, axis=-1)[-56:])  # eight weeks are enough to warm up
at_work = np.stack(known, axis=1)  # (56, evenings, 3): all evenings side by side

for model in rich_models:
    made = model(at_work)[-1]
    print(f"at work, it misses by {np.abs(made - sales[CUT:]).mean():.0f}")

# %% [markdown]
# (c). It had learnt to subtract: three times the smoothed value, minus today, minus yesterday, is *tomorrow*. At work that
# is nonsense, and it has learnt little else.
#
# ## Change the future
#
# One test finds such leaks, and you need not understand the preparation for it: **change what comes from a day on. What is said about the days before
# must not change.**


# %%
def looks_ahead(prepare, series, day):
    """Whether anything that is said about the days before `day` depends on later ones."""
    changed = series.copy()
    changed[day:] += 1000.0
    return not np.allclose(prepare(series)[:day], prepare(changed)[:day])


def scaled_by_all(values):
    return (values - values.mean()) / values.std()


def scaled_by_learning(values):
    return (values - values[:CUT].mean()) / values[:CUT].std()


def three_days_back(values):
    return np.array([values[max(0, i - 2) : i + 1].mean() for i in range(len(values))])


for prepare in (scaled_by_all, scaled_by_learning, smoothed, three_days_back):
    print(f"{prepare.__name__:20} looks ahead: {looks_ahead(prepare, sales, CUT)}")

# %% [markdown]
# ## Your turn: find the leaks
#
# This preparation makes, for each day from day 7 on, a row of two inputs: yesterday's sales, and the mean of a week. It returns what to learn
# from and what to judge on. **All three leaks of the picture are in it.** Mend them. The shapes stay: `rows (days, 2)`, `targets (days,)`, for the
# learning days `7` to `cut - 1` and the held-out days from `cut` on, in the order of time.


# %% tags=["exercise"]
def prepare(series, cut):
    # ← your turn: three leaks
    mean, spread = series.mean(), series.std()
    scaled = (series - mean) / spread
    week = np.convolve(np.pad(scaled, 3, mode="edge"), np.ones(7) / 7, mode="valid")
    days = np.arange(7, len(series))
    rows = np.stack([scaled[days - 1], week[days - 1]], axis=1)
    targets = scaled[days]
    learning = np.random.default_rng(0).random(len(days)) < cut / len(series)
    return rows[learning], targets[learning], rows[~learning], targets[~learning]


# %%
check("21.find-the-leaks", prepare)

# %% [markdown] tags=["hint"]
# One leak for each line that looks at more than it may: `mean, spread`, then `week`, then `learning`. What would you know on the
# evening before?

# %% [markdown] tags=["hint"]
# `series[:cut]` for the scale; `days < cut` for the split; and for the week the mean of `scaled[day - 6 : day + 1]`, which ends on the day
# itself.


# %% tags=["solution"]
def prepare(series, cut):
    mean, spread = series[:cut].mean(), series[:cut].std()
    scaled = (series - mean) / spread
    week = np.array([scaled[max(0, day - 6) : day + 1].mean() for day in range(len(scaled))])
    days = np.arange(7, len(series))
    rows = np.stack([scaled[days - 1], week[days - 1]], axis=1)
    targets = scaled[days]
    learning = days < cut
    return rows[learning], targets[learning], rows[~learning], targets[~learning]


# %% [markdown]
# ## When not to use an LSTM
#
# No leaks now. Three records, each with a naive rule and the best simple rule that we know:
#
# - **Stocks**: four of them, monthly, 2000 to 2010, as logarithms of the price. Naive: [persistence](glossary.ipynb#persistence). It is also
#   the best simple rule. The LSTM tries twice, on the prices and on their changes.
# - **Jobs in retail trade** in the USA, monthly, 2006 to 2015. Naive: persistence. Simple: [AR(3)](glossary.ipynb#autoregression) on the changes. The LSTM gets
#   the changes.
# - **The simulated shop.** Naive: the same weekday last week. Simple: a weighted sum of three weeks of sales and promotions.

# %%
prices = local_data.stocks().pivot(index="date", columns="symbol", values="price")
prices = np.log(prices[["AAPL", "AMZN", "IBM", "MSFT"]].to_numpy())  # Google came later
retail = local_data.us_employment()["retail_trade"].to_numpy(dtype=float)[:, None]
price_changes, retail_changes = np.diff(prices, axis=0), np.diff(retail, axis=0)
MONTH = 84  # seven years to learn from, three held out
print("prices", prices.shape, " retail", retail.shape)


def lstm_errors(series, cut):
    inputs = series[..., None]
    how = dict(epochs=15, length=24, stride=4)
    models = [trained(inputs, series, cut, seed=s, **how) for s in SEEDS]
    return [error(model, inputs, series, cut) for model in models]


# %%
def ar_error(series, lags, cut):
    constant, *weights = AutoReg(series[:cut], lags=lags).fit().params
    steps = range(cut, len(series))
    made = [constant + np.dot(weights, series[i - lags : i][::-1]) for i in steps]
    return np.abs(made - series[cut:]).mean()


def weighted_sum_error(lags=21):
    def row(day):
        return np.r_[1.0, sales[day - lags : day], promotion[day - lags : day + 1]]

    rows = np.stack([row(day) for day in range(lags, len(sales))])
    weights = np.linalg.lstsq(rows[: CUT - lags], sales[lags:CUT], rcond=None)[0]
    return np.abs(rows[CUT - lags :] @ weights - sales[CUT:]).mean()


# A forecast change c of a logarithm misses the price by about c: 0.08 is 8 %
still = np.abs(price_changes[MONTH - 1 :]).mean()  # persistence: a change of 0
jobs = np.abs(retail_changes[MONTH - 1 :]).mean()
results = {
    "stock prices": (still, still, lstm_errors(prices, MONTH)),
    "changes of stocks": (still, still, lstm_errors(price_changes, MONTH - 1)),
    "retail jobs": (
        jobs,
        ar_error(retail_changes[:, 0], 3, MONTH - 1),
        lstm_errors(retail_changes, MONTH - 1),
    ),
    "simulated shop": (last_week, weighted_sum_error(), plain_errors),
}

# %%
figure, alt, spoken = against_naive(results)
figures.show(figure, alt=alt)
print("\n".join(spoken))

# %% [markdown]
# The four bars are four verdicts:
#
# - **Stock prices**: the network misses by three times as much as "as today". The held-out years leave its range (lesson 20).
# - **Changes of stocks**: still a tenth worse. What it found in the learning years was accident. If last month's prices foretold next month's,
#   somebody would already have bought. **Persistence wins.**
# - **Retail jobs**: better than naive, and level with three weights. The error bar goes across the diamond: a draw. Seven years of months are 84 numbers.
# - **The shop**: far better than naive. But level with the weighted sum, which needs no training.
#
# An error bar that crosses the diamond means: *take the simple rule*. It is faster, explains itself, and does the same on every seed.
#
# ## Before you train
#
# | ask | if yes |
# |---|---|
# | Would knowing it make somebody rich? | Then the record is close to persistence. Do not train |
# | Are there fewer than some thousand steps? | Weighted sum |
# | Does it leave its old range? | Forecast changes, whatever the model |
# | Does a rule of one line come near what you need? | Use it, and spend the time on the data |
# | Many series, inputs of several kinds, effects that depend on each other, over distances that vary? | Try an LSTM, beside the others |
#
# ## Three questions

# %% [markdown] tags=["question"]
# A colleague cuts a record into overlapping windows of 28 days, and draws a fifth of the *windows* at random to judge on. What is wrong?
#
# Nearly every day of a drawn window stands in some window that was learnt from, its target included. Cut in time first, then make the windows on
# each side.

# %% [markdown] tags=["question"]
# `looks_ahead` adds 1000 to the future. Which leak does it not find?
#
# A leak that adding a constant does not touch, such as an input that uses only the *difference* of two future days. Change the future in several ways, at
# random for instance. And it does not find a column that already holds tomorrow's answer before it comes to you: for that you must ask when each
# column was known.

# %% [markdown] tags=["question"]
# Three seeds of your LSTM miss by 8, 11 and 13; a weighted sum misses by 11. Which do you put to work?
#
# The sum. The network's 8 is one seed of three, and you cannot know beforehand which seed you have drawn.

# %% [markdown]
# ## In short
#
# - [Leakage](glossary.ipynb#leakage): what is learnt from, or what a forecast is given, holds something of the future. Usual ways: the scale, the smoothing, the draw.
# - The test: change the future, and see whether the past changes.
# - A [held-out](glossary.ipynb#held-out-data) error is worth what the preparation is worth. The last word has the work in the shop.
# - An LSTM is not for records without memory, nor for short ones, nor where its error bar crosses a simple rule.
#
# ## What next
#
# Change and predict: simulate five years of the shop instead of three, with the cut two hundred days before the end. Who gains more, the network or the sum? Or let promotions be rare.
#
# Enough of numbers: in [lesson 22](22_characters.ipynb) an LSTM reads and writes text, where there is plenty to
# learn.
