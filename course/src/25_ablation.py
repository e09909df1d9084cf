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
# missing. That is an *ablation*.
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
from lab.lesson_25_grid import NOTHING_LEARNT, TABLE, adding, bars, resetting, run

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
# ## Three tasks
#
# **Adding** is a toy, made to test memory. The network reads 20 pairs: a number between 0 and 1, and a mark. Two numbers are marked. At
# the end it says their sum.
#
# **Resetting** is the same toy with four marked numbers and one *reset*. Only the marked numbers after it count.

# %%
for task in (adding, resetting):
    x, target = task(np.random.default_rng(1), time=20, batch=1)
    print("numbers", " ".join(f"{value:.1f}" for value in x[:, 0, 0]))
    for name, column in zip(("marks  ", "reset  "), x[:, 0, 1:].T, strict=False):
        print(name, "  ".join(" 1" if value else " ." for value in column))
    print(f"target  {target[0, 0]:.1f}\n")

# %% [markdown]
# **Sunspots**, one year ahead, as in lessons 00 and 20: square roots, learnt on windows from before 1920, judged from 1920 on.
#
# ## Predict first
#
# Which gate is missed most in adding, which in resetting, which on the sunspots?
#
# - What must the network *ignore* in the toys? What must it *forget*?
# - And on the sunspots, a smooth curve in which every value counts?
#
# Write down one gate for each task, or "none".
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
def hold_open(lstm, gate): ...  # ← your turn


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
# ## Six trainings
#
# The loop is that of lesson 11 and stands in [`lab/lesson_25_grid.py`](lab/lesson_25_grid.py), which holds the gates open as you
# did: 16 hidden units, forget bias 1, Adam with 0.01, and no setting tuned for any variant. Errors are mean squared ones, in thousandths. Whoever
# always says the mean of all sums gets 167 in adding and 287 in resetting.

# %%
print("                adding  resetting")
for variant in ("full", "no input gate", "no forget gate"):
    errors = [run(variant, task, seed=0, xp=xp) for task in ("adding", "resetting")]
    print(f"{variant:15} {errors[0]:6.1f} {errors[1]:10.1f}")

# %% [markdown]
# In adding, one gate is missed badly. In resetting the two do not look so different. But that is one seed.
#
# ## All of them, five seeds
#
# Nine variants, three tasks and five seeds are 135 trainings. They were done beforehand, in some ten minutes on one core; their errors are in
# `TABLE`. Do not take them on trust: the six above are among them, and `python course/lab/lesson_25_grid.py`, called in the project's folder, makes them
# all again.

# %%
figure, alt = bars(TABLE)
figures.show(figure, alt=alt)

# %%
print("median of 5 seeds  " + "".join(f"{task:>10}" for task in TABLE))
for variant in TABLE["adding"]:
    middle = [np.median(errors[variant]) for errors in TABLE.values()]
    print(f"{variant:19}" + "".join(f"{value:10.1f}" for value in middle))
print(f"{'nothing learnt':19}" + "".join(f"{NOTHING_LEARNT[task]:10.1f}" for task in TABLE))

# %% [markdown]
# Each bar is a median, the middle one of the five seeds (dots); the grey band is the range of the full LSTM's. So:
#
# - **Adding: the input gate.** Eighteen of twenty numbers must be kept out, and without that gate every number comes in. The forget gate is hardly
#   missed: there is nothing to forget. The first LSTM, of 1997, had none, and solved just such tasks.
# - **Resetting: the forget gate.** One seed without it has learnt nothing at all. To forget, one needs it: for that Gers, Schmidhuber and
#   Cummins put it in, in 2000. The recurrence and the input gate are missed, too.
# - **Sunspots: no gate.** Nearly all medians lie together. Two stand out: without the recurrence, where gates and candidate see one
#   year at a time, and with [peepholes](glossary.ipynb#peephole), after the same training. How sure that is comes below.
# - **Coupled gates lose nothing**, on any task, with a quarter fewer numbers.
#
# ## With real data, and years of computing
#
# Klaus Greff and others did it in 2015: [eight variants, three tasks, 5400 trainings](https://arxiv.org/abs/1503.04069) on speech, handwriting and music,
# with settings searched anew for each variant. They found: **no variant is clearly better than the full LSTM. The forget gate and the tanh of
# the cell are missed most. Coupled gates, and leaving out peepholes, do little harm.**
#
# Ours agree on coupling, on peepholes, and on the forget gate wherever something ends and something new begins, as in speech. The tanh of the
# cell was not missed here. But look at its dots on the sunspots: one seed is worse than persistence.
#
# ## Your turn: rank, but not by luck
#
# Write `rank(errors)`. It gets a dictionary from names to the errors of the seeds, such as `TABLE["adding"]`. It returns the list of the variants that are
# missed *beyond the luck of a seed*: their **median** is above the **worst** seed of `"full"`. The largest median comes first.


# %% tags=["exercise"]
def rank(errors):
    return []  # ← your turn


# %%
check("25.rank", rank)

# %% [markdown] tags=["hint"]
# `max(errors["full"])` is the limit. Compare the median of each other variant with it.

# %% [markdown] tags=["hint"]
# `sorted(names, key=lambda name: np.median(errors[name]), reverse=True)` puts the largest median first.


# %% tags=["solution"]
def rank(errors):
    limit = max(errors["full"])
    others = [name for name in errors if name != "full"]
    missed = [name for name in others if np.median(errors[name]) > limit]
    return sorted(missed, key=lambda name: np.median(errors[name]), reverse=True)


# %%
for task, errors in TABLE.items():
    print(f"{task:9} missed: {', '.join(rank(errors)) or 'none'}")

# %% [markdown]
# (Nothing is listed before you have solved it.) On the sunspots the list stays empty, although the median without recurrence is worse by a third: one seed of the
# full LSTM did just as badly. The peepholes, too, stay inside of its range. With five seeds one cannot be sure of more.
#
# ## Three questions

# %% [markdown] tags=["question"]
# Why does training leave a gate open whose bias is 50?
#
# The slope of the sigmoid there is 0, and the gradient of everything that goes into the gate is multiplied by it. Adam's step for a gradient
# of 0 is 0.

# %% [markdown] tags=["question"]
# Why can adding do without the forget gate, but not without the input gate?
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
#   [forget gate](glossary.ipynb#forget-gate) where something ends and something new begins.
# - [Coupled gates](glossary.ipynb#coupled-gates) need a quarter fewer numbers and lost nothing here.
#
# ## What next
#
# Change and predict: call `run("no forget gate", "resetting", seed)` with seeds that nobody has tried yet. How many of ten fail? And write a task of
# your own, like `adding`, in which the *output* gate ought to matter.
#
# Then go on to [lesson 26](26_pytorch_and_keras.ipynb), which takes weights from one library to another.
