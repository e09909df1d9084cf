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
# # 25 · Which gate matters?
#
# Three gates, two tanh, a recurrence. Is all of it needed? There is one way to find out: take a part out, train again, and look what is
# missing. That is an [ablation](glossary.ipynb#ablation).
#
# **Afterwards you can**
# - take any gate out of an LSTM, without touching its formulas;
# - rank the gates by what their loss costs, and say how sure the ranking is;
# - explain why the ranking differs from task to task.

# %% tags=["start"]
from lab import check, figures, start

xp = start("statsmodels")  # cupy with a GPU: the cells are the same

# %%
import numpy as np
from lab.lesson_25_grid import NOTHING_LEARNT, SEEDS, TABLE, adding, bars, run

import gpulstm as gl

# %% [markdown]
# ## The picture: what can be taken out
#
# ```text
#                                               taken out            instead
#     i = sigmoid(W_i x + U_i h + b_i)    ←──   no input gate        i = 1
#     f = sigmoid(W_f x + U_f h + b_f)    ←──   no forget gate       f = 1
#                                         ←──   coupled              f = 1 - i
#     g = tanh   (W_g x + U_g h + b_g)    ←──   no candidate tanh    g = W_g x + U_g h + b_g
#     o = sigmoid(W_o x + U_o h + b_o)    ←──   no output gate       o = 1
#                       └──┬──┘
#                          └──────────────────  no recurrence        U = 0
#     c = f * c + i * g
#     h = o * tanh(c)                     ←──   no cell tanh         h = o * c
# ```
#
# And one part is put in: [peepholes](glossary.ipynb#peephole), through which the gates see the cell state as well.
#
# ## Two tasks
#
# **The adding problem** is a toy, made to test memory. The network reads 20 pairs: a number between 0 and 1, and a mark. Two numbers are
# marked. At the end it says their sum.

# %%
x, target = adding(np.random.default_rng(1), time=20, batch=1)
print("numbers", " ".join(f"{value:.1f}" for value in x[:, 0, 0]))
print("marks  ", "   ".join(f"{value:.0f}" for value in x[:, 0, 1]))
print(f"target  {target[0, 0]:.1f}")

# %% [markdown]
# **Sunspots**, one year ahead, as in lessons 00 and 20: square roots, learnt on windows from before 1920, judged from 1920 on.
#
# ## Predict first
#
# On which task is which gate missed most?
#
# - What must the network *ignore* in the adding problem? What must it *forget*?
# - And on the sunspots, a record that goes on for 300 years?
#
# Write down one gate for each task.
#
# ## Your turn: hold a gate open
#
# To take a gate out, one need not change a formula. A sigmoid far out on its right is 1. There it is also flat: its slope is 0,
# so no blame passes, and training leaves it where it is ([saturation](glossary.ipynb#saturation)).

# %%
for bias in (1.0, 10.0, 50.0):
    gate = float(gl.ops.sigmoid(np.array([bias]))[0])
    print(f"bias {bias:4.0f}: gate {gate:.5f}, slope {gate * (1 - gate):.0e}")

# %% [markdown]
# Write the function. `lstm.params` holds `weight_ih_l0 (4H, I)`, `weight_hh_l0 (4H, H)` and `bias_l0 (4H,)`. Their rows come in the order input,
# forget, candidate, output, `H` rows each. Write into these arrays such that `gate` is 1, **whatever it reads**, for good. `gate` is one of
# `"input"`, `"forget"`, `"output"`.


# %% tags=["exercise"]
def hold_open(lstm, gate):
    hidden = len(lstm.params["bias_l0"]) // 4
    ...  # ← your turn


# %%
check("25.hold-open", hold_open)

# %% [markdown] tags=["hint"]
# `["input", "forget", "candidate", "output"].index(gate) * hidden` is the first row of the gate.

# %% [markdown] tags=["hint"]
# "Whatever it reads" means: its weights on x and on h are 0. Then only the bias is left.


# %% tags=["solution"]
def hold_open(lstm, gate):
    hidden = len(lstm.params["bias_l0"]) // 4
    first = ["input", "forget", "candidate", "output"].index(gate) * hidden
    here = slice(first, first + hidden)
    lstm.params["weight_ih_l0"][here] = 0.0
    lstm.params["weight_hh_l0"][here] = 0.0
    lstm.params["bias_l0"][here] = 50.0


# %% [markdown]
# ## Four trainings
#
# The loop is that of lesson 11 and stands in [`lab/lesson_25_grid.py`](lab/lesson_25_grid.py), which holds the gates open as you
# did: 16 hidden units, forget bias 1, Adam with 0.01, and no setting tuned for any variant. Without having learnt
# anything, one would say 1, the mean of all sums, and miss by 167 thousandths (mean squared error).

# %%
for variant in ("full", "no input gate", "no forget gate", "no output gate"):
    error = run(variant, "adding", seed=0, xp=xp)
    print(f"{variant:15} misses by {error:5.1f} thousandths")

# %% [markdown]
# One gate is missed badly. And two are not missed at all, it seems. But that is one seed.
#
# ## All of them, five seeds
#
# Nine variants, five seeds and two tasks are ninety trainings. They were done beforehand, some minutes on one core; the numbers are in
# `TABLE`. Do not take them on trust: the four above are among them (seed 0), and `python course/lab/lesson_25_grid.py` makes them all again.

# %%
figure, alt = bars(TABLE)
figures.show(figure, alt=alt)

# %%
print(f"{'mean of ' + str(SEEDS) + ' seeds':18} adding  sunspots")
for variant in TABLE["adding"]:
    means = [np.mean(TABLE[task][variant]) for task in ("adding", "sunspots")]
    print(f"{variant:18} {means[0]:6.1f}  {means[1]:8.1f}")
print(f"{'nothing learnt':18} {NOTHING_LEARNT['adding']:6.1f}  {NOTHING_LEARNT['sunspots']:8.1f}")

# %% [markdown]
# TEXT
#
# ## Your turn: rank, but only what is sure
#
# Write `rank(errors)`. It gets a dictionary from names to the errors of the seeds, such as `TABLE["adding"]`. It returns the list of the variants that are
# **surely worse**: even their best seed is worse than the worst seed of `"full"`. The largest mean comes first.


# %% tags=["exercise"]
def rank(errors):
    return []  # ← your turn


# %%
check("25.rank", rank)

# %% [markdown] tags=["hint"]
# `max(errors["full"])` is the limit. Which number of a variant must lie above it?

# %% [markdown] tags=["hint"]
# `sorted(names, key=lambda name: np.mean(errors[name]), reverse=True)` puts the largest mean first.


# %% tags=["solution"]
def rank(errors):
    limit = max(errors["full"])
    surely = [name for name, seeds in errors.items() if name != "full" and min(seeds) > limit]
    return sorted(surely, key=lambda name: np.mean(errors[name]), reverse=True)


# %%
for task, errors in TABLE.items():
    print(f"{task:9} surely worse: {', '.join(rank(errors)) or 'none'}")

# %% [markdown]
# TEXT2
#
# ## Three questions

# %% [markdown] tags=["question"]
# Why does training leave a gate open whose bias is 50?
#
# The slope of the sigmoid there is 0, and the gradient of everything that goes into the gate is multiplied by it. Adam's step for a gradient
# of 0 is 0.

# %% [markdown] tags=["question"]
# Why can the adding problem do without the forget gate, but not without the input gate?
#
# There is nothing to forget: the sum has to be kept to the end. But of twenty numbers eighteen must not be written, and only the
# input gate says *how much* is written, depending on the mark. (The candidate could become 0 for unmarked numbers; it does not find that easily.)

# %% [markdown] tags=["question"]
# You find that "no output gate" is better than the full LSTM on your data, 3 % on average over two seeds. What do you write?
#
# "No difference was found." Two seeds do not settle 3 %. Say how far the seeds lie apart, and run more of them if it matters.

# %% [markdown]
# ## In short
#
# - An [ablation](glossary.ipynb#ablation) takes one part out and trains again, several seeds, all else equal.
# - Bias 50 and weights 0 hold a gate open for good.
# - Which gate matters is a question about the *task*: the [input gate](glossary.ipynb#input-gate) where much is to be ignored, the
#   [forget gate](glossary.ipynb#forget-gate) where a record goes on and on.
# - [Coupled gates](glossary.ipynb#coupled-gates) save a quarter of the numbers and lost nothing here.
#
# ## What next
#
# Change and predict: `run("no forget gate", "adding", 0)` with another task, in which the sum is to be *reset* at a third mark. Write the task
# first, like `adding`. Which gate is missed now?
#
# Then take weights from one library to another, in [lesson 26](26_pytorch_and_keras.ipynb).
