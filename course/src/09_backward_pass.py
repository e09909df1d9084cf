# %% [markdown]
# # 09 · The backward pass
#
# An LSTM learns by blame. At the end one number, the [loss](glossary.ipynb#loss), says how wrong the output was, and the blame travels back, through every
# gate of every step, until each number knows its share. That journey is the **backward pass**. Libraries do it behind
# your back. Today you do it yourself, and then prove that it is right.
#
# **Afterwards you can**
# - derive the gradients of the three gates and the candidate from two lines of formulas;
# - write the backward step of an LSTM, and run it back through time;
# - prove any backward pass right or wrong with a gradient check.
#
# You need the six lines of the cell (lesson 01), and the slopes $\sigma' = \sigma(1 - \sigma)$ and
# $\tanh' = 1 - \tanh^2$ (lesson 03).

# %% tags=["start"]
from lab import check, figures, start

xp = start()  # numpy, or cupy with a GPU; a gradient check is at home in numpy

# %%
import matplotlib.pyplot as plt
import numpy as np
from lab.lesson_09_drawings import cell_and_way_back
from lab.lesson_09_slips import SLIPS
from lab.sentence import PARAMS, VECTORS, WORDS

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
figure, alt = cell_and_way_back()
figures.show(figure, alt=alt)

# %% [markdown]
# Thin arrows: what you know, from left to right. Thick dashed arrows: the same ways, walked backwards. **No new way
# appears.** Wherever a number went, its blame comes back.
#
# One notation for all that follows: **$d$ before a name is the gradient of the loss with respect to it.** $dc = 2$ means:
# if $c$ were larger by a tiny bit, the loss would be larger by twice that bit.
#
# ## Predict first
#
# The running sentence again, *John likes black coffee*. The only thing that we ask about is $h$ of the unit *who* after
# *coffee*. Its gradient with respect to the word vectors says to which word it listens. *Coffee*, the last word, comes
# first. **Which of the other three is second: John, likes or black?** And does it matter that John is three steps away?
#
# ## Three rules
#
# Calculus has a *chain rule*: along a way, slopes are multiplied. It needs only three forms here. Each takes the blame of a
# result and hands it to what went in:
#
# | the way there | the way back | in words |
# |---|---|---|
# | $z = x + y$ | $dx = dz$, $\;dy = dz$ | a sum hands it on unchanged |
# | $z = x \cdot y$ | $dx = dz \cdot y$, $\;dy = dz \cdot x$ | a product: times *the other one* |
# | $z = s(x)$ | $dx = dz \cdot s'(x)$ | a curve: times its slope |
#
# And where one number goes two ways, its two blames are **added**. That is the one that everybody forgets once.
#
# ## One step, with plain numbers
#
# The unit *who* at *coffee*. These are the numbers of lesson 01, rounded:

# %%
i, f, g, o = 0.119, 0.960, 0.000, 0.622
c = 0.794  # before the word

c_next = f * c + i * g
h_next = o * np.tanh(c_next)
print(f"c' = {c_next:.3f}, h' = {h_next:.3f}")

# %% [markdown]
# Now back. We ask about $h'$ itself, so $dh' = 1$. No step comes after, so nothing arrives along the upper lane: what comes
# from there, `dc`, is 0. Read the picture from right to left:

# %%
dh, dc = 1.0, 0.0

# h' = o * tanh(c'), a product and a curve
do = dh * np.tanh(c_next)
dc_next = dc + dh * o * (1 - np.tanh(c_next) ** 2)  # c' goes two ways: both blames, added

# c' = f * c + i * g, a sum of two products
df = dc_next * c
di = dc_next * g
dg = dc_next * i
dc_before = dc_next * f  # goes on, to the step before
print(f"dc' = {dc_next:.3f}")
print(f"df = {df:.3f}, di = {di:.3f}, dg = {dg:.3f}, do = {do:.3f}, dc = {dc_before:.3f}")

# %% [markdown]
# Look at $di = 0$. The candidate was 0, so it makes no difference how far the input gate is open. And $dc$ is nearly all of
# $dc'$: on the upper lane the blame is multiplied by the forget gate, 0.96, and by nothing else. Keep that in mind for
# [lesson 10](10_vanishing_gradients.ipynb).
#
# ## Believe nothing: nudge
#
# Is it true that $df = 0.290$? Make $f$ a tiny bit larger, then a tiny bit smaller, and see what $h'$ does. Such a slope
# out of two values is called a [finite difference](glossary.ipynb#finite-differences).


# %%
def h_of(f):
    return o * np.tanh(f * c + i * g)


eps = 1e-5
print(f"df by formula {df:.6f}")
print(f"df by nudging {(h_of(f + eps) - h_of(f - eps)) / (2 * eps):.6f}")

# %% [markdown]
# The same for whole arrays: nudge each number in turn. It is terribly slow, two forward passes for every single
# number, and knows nothing of the chain rule. So it is the perfect witness.


# %%
def nudged(loss, array, eps=1e-5):
    """The gradient of loss() with respect to array: each number is moved, and put back."""
    gradient = np.empty_like(array)
    for place in np.ndindex(array.shape):
        kept = array[place]
        array[place] = kept + eps
        above = loss()
        array[place] = kept - eps
        below = loss()
        array[place] = kept
        gradient[place] = (above - below) / (2 * eps)
    return gradient


def error(found, wanted):
    """The largest difference, as a share of the largest value."""
    return np.abs(found - wanted).max() / np.abs(found).max()


# %% [markdown]
# ## Back through time
#
# Here is a forward pass that keeps what the way back needs. Arrays are `(batch, hidden)`; a batch of sequences goes
# through at once.


# %%
def sigmoid(a):
    return 0.5 * np.tanh(0.5 * a) + 0.5


def forward(xs, h, c, params):
    """xs (time, batch, inputs) -> all h (time, batch, hidden), and what each step keeps."""
    hs, steps = [], []
    for x in xs:
        a = x @ params["weight_ih"].T + h @ params["weight_hh"].T + params["bias"]
        a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        c_next = f * c + i * g
        steps.append((x, h, (i, f, g, o, c, c_next)))
        c, h = c_next, o * np.tanh(c_next)
        hs.append(h)
    return np.stack(hs), steps


# %% [markdown]
# The way back goes from the last step to the first. At each step, `gate_gradients` is to turn $dh'$ and what comes along
# the lane into the gradients of the four sums, `da`. You will write it in a moment. The rest is bookkeeping, with one
# rule for matrices. From $a = x W^T$ follow $dW = da^T x$ and $dx = da \, W$: again "times the other one", turned such
# that the shapes fit.


# %%
def backward(steps, dhs, params, gate_gradients):
    """dhs (time, batch, hidden): the blame of each h. Returns d of xs and of params."""
    grads = {name: np.zeros_like(p) for name, p in params.items()}
    dxs = []
    dh = dc = np.zeros_like(dhs[0])  # nothing comes from beyond the end
    for (x, h, kept), dh_outside in zip(reversed(steps), reversed(dhs), strict=True):
        four, dc = gate_gradients(dh_outside + dh, dc, *kept)  # h goes two ways: add
        da = np.concatenate(four, axis=1)  # (batch, 4*hidden)
        grads["weight_ih"] += da.T @ x  # += because all steps share one weight
        grads["weight_hh"] += da.T @ h
        grads["bias"] += da.sum(axis=0)
        dxs.append(da @ params["weight_ih"])
        dh = da @ params["weight_hh"]  # on to the step before
    return np.stack(dxs[::-1]), grads


# %% [markdown]
# That is all of [BPTT](glossary.ipynb#bptt), backpropagation through time: a backward step in a loop that runs
# backwards. Three times things are added up, and each time for the same reason. $h$ goes outside *and* into the next step.
# The weights are used at every step. $c'$ goes into $h'$ *and* along the lane.
#
# ## Your turn: three gates and a candidate
#
# Write the middle of it. It gets
#
# - `dh`, the gradient of $h'$, and `dc`, what comes back along the lane from the step after;
# - what the step kept: `i, f, g, o`, the cell state before, `c`, and after, `c_next`. All are `(batch, hidden)`.
#
# It returns the gradients of the four sums $a_i, a_f, a_g, a_o$, and that of the cell state before. You have all of it above
# in plain numbers, except for the last bit of way: through the curves, from $di$ to $da_i$ and so on. The gates already
# *are* the values of σ and tanh, so you can write their slopes without the sums.
#
# The check puts your function into the loop above and nudges every number of a small LSTM.


# %% tags=["exercise"]
def gate_gradients(dh, dc, i, f, g, o, c, c_next):
    da_i = ...  # ← your turn, five lines and what they need
    da_f = ...
    da_g = ...
    da_o = ...
    dc_before = ...
    return (da_i, da_f, da_g, da_o), dc_before


# %%
check("09.gate-gradients", gate_gradients)

# %% [markdown] tags=["hint"]
# Begin with `dc_next`, as above: what comes along the lane, plus what comes down from $h'$. Everything except `da_o` needs it.

# %% [markdown] tags=["hint"]
# $di = dc' \cdot g$, and from there through σ: $da_i = di \cdot i (1 - i)$. The same for $f$ and $o$. The candidate went
# through tanh, whose slope is $1 - g^2$.


# %% tags=["solution"]
def gate_gradients(dh, dc, i, f, g, o, c, c_next):
    shown = np.tanh(c_next)
    dc_next = dc + dh * o * (1 - shown**2)
    da_i = dc_next * g * i * (1 - i)
    da_f = dc_next * c * f * (1 - f)
    da_g = dc_next * i * (1 - g**2)
    da_o = dh * shown * o * (1 - o)
    dc_before = dc_next * f
    return (da_i, da_f, da_g, da_o), dc_before


# %% [markdown]
# ## What a mistake looks like
#
# Everybody gets one of these lines wrong some day. [A file](lab/lesson_09_slips.py) has three backward steps with one slip in each.
# We ask the witness which rows of the bias gradient are wrong, $i$, $f$, $g$ or $o$, first on sequences of a single step, then of five.
#
# Guess before you run: a slip in the candidate's line, how many of the four blocks of rows does it spoil, with one step and with five? And
# a slip on the *lane*, in `dc_before`?


# %%
def verdict(gate_gradients, length):
    """For each of the four blocks of rows whether it agrees with nudging."""
    rng = np.random.default_rng(0)
    xs, dhs = rng.normal(size=(length, 2, 2)), rng.normal(size=(length, 2, 3))
    h, c = rng.normal(size=(2, 2, 3))  # not zero, or some slips would not show
    shapes = {"weight_ih": (12, 2), "weight_hh": (12, 3), "bias": (12,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    _, grads = backward(forward(xs, h, c, params)[1], dhs, params, gate_gradients)
    wanted = nudged(lambda: (forward(xs, h, c, params)[0] * dhs).sum(), params["bias"])
    off = np.abs(grads["bias"] - wanted).reshape(4, 3).max(axis=1) > 1e-6
    return " ".join("WRONG" if one else "ok   " for one in off)


lines = [
    " " * 29 + "one step" + " " * 18 + "five steps",
    " " * 29 + "i     f     g     o       " * 2,
]
for name, slip in SLIPS.items():
    lines.append(f"{name:28} {verdict(slip, 1)}   {verdict(slip, 5)}")
print("\n".join(lines))

# %% [markdown]
# With **one** step the check points at the culprit: only the block of the slip is wrong. With five, the wrong `da` has gone back through
# `weight_hh` and spoilt everything before it, so all blocks look guilty. But with one step the slip on the lane does not show at all: nobody comes
# after to ask for `dc_before`. So check one step to *find* a mistake, and several to be sure that there is none.
#
# ## What gpulstm does
#
# The same. `lstm.forward` gives a `cache`, which is our `steps`; `lstm.backward` takes it back. Let the witness question it,
# with a loss that weighs all outputs at random:

# %%
rng = np.random.default_rng(0)
lstm = gl.LSTM(input_size=2, hidden_size=3, dtype="float64", rng=rng)
xs = rng.normal(size=(5, 2, 2))  # (time, batch, inputs)
dy = rng.normal(size=(5, 2, 3))


def loss():
    return (lstm(xs)[0] * dy).sum()


_, _, cache = lstm.forward(xs)
dx, grads, _ = lstm.backward(cache, dy)
for name, parameter in [("x", xs), *lstm.params.items()]:
    found = dx if name == "x" else grads[name]
    print(f"{name:12} below 1e-6: {error(found, nudged(loss, parameter)) < 1e-6}")

# %% [markdown]
# **Why float64?** A [gradient check](glossary.ipynb#gradient-check) subtracts two numbers that are almost equal, and
# float32 has only seven digits, most of which cancel. Here is the error of the *same, correct* gradient over the size of
# the nudge:


# %%
def errors_over(sizes, dtype):
    small = gl.LSTM(input_size=2, hidden_size=3, dtype=dtype)
    small.load_state_dict({name: p.astype(dtype) for name, p in lstm.params.items()})
    x, weights = xs.astype(dtype), dy.astype(dtype)
    _, _, cache = small.forward(x)
    found = small.backward(cache, weights)[1]["bias_l0"]

    def loss():
        return (small(x)[0] * weights).sum()

    bias = small.params["bias_l0"]
    return np.array([error(found, nudged(loss, bias, dtype(eps))) for eps in sizes])


sizes = 10.0 ** np.arange(-9, 0)
errors = {dtype.__name__: errors_over(sizes, dtype) for dtype in (np.float64, np.float32)}
for name, values in errors.items():
    print(f"{name}: some nudge brings the error below 1e-6: {values.min() < 1e-6}")

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.4))
for name, values in errors.items():
    axes.loglog(sizes, values, marker="o", markersize=4, label=name)
axes.axhline(1e-6, color="0.6", linewidth=0.8)
axes.text(2e-9, 1.6e-6, "1e-6", fontsize=9)
axes.set(xlabel="size of the nudge", ylabel="error of the check")
axes.set_title("The same right gradient, checked with different nudges")
axes.legend()
figures.show(
    figure,
    alt="""Error of the gradient check over the size of the nudge, from 1e-9 to 0.1, both axes
    logarithmic. Both curves are shaped like a V: too large a nudge is not a slope any more,
    too small a one drowns in rounding. The float64 curve has its bottom around 1e-5, far
    below the line at 1e-6. The float32 curve never comes down to that line; its bottom
    is near 0.01, and for the smallest nudges it is useless.""",
)

# %% [markdown]
# Both are V-shaped: a large nudge measures a bend instead of a slope, a small one drowns in rounding. In float64 there is
# a wide valley below 1e-6. In float32 there is none. So gradients are checked in float64, once; training
# then runs in float32, on a GPU above all, and float32 gradients are compared with the float64 ones instead.
#
# ## To whom does *who* listen?
#
# Now the question from the beginning. The blame is 1 for *who* after *coffee*, and zero for everything else.

# %%
lstm = gl.LSTM(input_size=3, hidden_size=2, dtype="float64")
lstm.load_state_dict({f"{name}_l0": value for name, value in PARAMS.items()})
_, _, cache = lstm.forward(VECTORS)
dy = np.zeros((4, 2))
dy[3, 0] = 1  # after coffee, unit who
dx, grads, _ = lstm.backward(cache, dy)

listens = np.abs(dx).sum(axis=1)  # per word, over its three features
axes = figures.gate_map([listens], WORDS, ["|dx|"], title="To which word does who listen?")
figures.show(
    axes.figure,
    alt=f"""A heat map of one row: how much the hidden state of the unit who after coffee
    reacts to each word. {figures.say_map([listens], WORDS, ["gradient"])}""",
)

# %% [markdown]
# **John is second**, three steps away, and twice as loud as his neighbours *likes* and *black*. Distance hardly matters on the
# upper lane: his blame was multiplied by three forget gates, all above 0.95. The others were heard less because their
# input gates were nearly shut. *Coffee* speaks loudest because it moves the output gate directly.
#
# This is what an LSTM was invented for. It works here because these forget gates are open. What happens otherwise is the
# next lesson.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# Somebody writes `grads["weight_ih"] = da.T @ x` in the loop, with `=` instead of `+=`. What comes out?
#
# The share of the *first* step only, because the loop visits it last. All steps use the same weight, so their shares must
# be added.

# %% [markdown] tags=["question"]
# A gate is saturated: $f = 0.9999$. How much blame reaches its weights?
#
# Almost none: the slope $f(1 - f)$ is 0.0001. The *memory's* blame, though, passes nearly untouched, times 0.9999. A gate
# that is wide open lets blame pass by, and can hardly be taught itself.

# %% [markdown] tags=["question"]
# A gradient check with all inputs and states zero passes. Is the backward pass right?
#
# You don't know. With $x = 0$ and $h = 0$ the gradients of both weight matrices are zero, whatever is written
# for them. Check with random numbers, a batch of at least two, and all sizes different, so that a swapped axis shows.

# %% [markdown]
# ## In short
#
# - The [backward pass](glossary.ipynb#backward-pass) walks the same ways in reverse: sums hand on, products multiply by the
#   other one, curves by their slope. Where ways fork, gradients are added.
# - $dc' = dc + dh' \cdot o \cdot (1 - \tanh^2 c')$; from it follow the gradients of the input gate, the
#   [forget gate](glossary.ipynb#forget-gate) and the candidate. The [output gate](glossary.ipynb#output-gate) gets its own
#   straight from $dh'$.
# - Along the [cell state](glossary.ipynb#cell-state) a gradient is multiplied by the forget gate and nothing else.
# - [BPTT](glossary.ipynb#bptt) is the backward step in a loop from the last step to the first; the weights' gradients add up.
# - A [gradient check](glossary.ipynb#gradient-check) in float64 finds nearly every mistake. Do it once for each backward pass.
#
# ## What next
#
# Change `dy[3, 0]` to `dy[3, 1]`: now the unit *dark* is asked. Predict first which word it listens to besides *coffee*.
#
# Then go on to [lesson 10](10_vanishing_gradients.ipynb): the same gradient, a hundred steps back.
