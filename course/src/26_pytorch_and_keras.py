# %% [markdown]
# # 26 · From PyTorch and Keras, and back
#
# Most trained LSTMs in the world live in files that PyTorch or Keras has written. The formulas inside are the ones that you
# know. What differs is the packing: what the arrays are called, how they are turned, and in which order the gates lie.
#
# **Afterwards you can**
# - name each array of an LSTM in PyTorch, in gpulstm and in Keras, with its shape;
# - convert the weights of one into another by hand, and with one line;
# - prove that a conversion is right, to a millionth, when no error message would tell.
#
# You need neither PyTorch nor Keras for it. A file of weights is names and numbers, and you make the files here.

# %% tags=["start"]
from lab import check, figures, start

xp = start("safetensors")  # numpy, or cupy with a GPU; these few numbers stay in numpy

# %%
import importlib.util
import tempfile
from pathlib import Path

import numpy as np
from lab.lesson_26_columns import columns, orders, stranger
from lab.sentence import PARAMS, VECTORS, WORDS, trace

import gpulstm as gl
from gpulstm.interop.keras import from_keras

scratch = tempfile.TemporaryDirectory()  # for the files of this lesson; goes with it
folder = Path(scratch.name)

# %% [markdown]
# ## The picture: columns of names
#
# The LSTM of our sentence, with 3 inputs and 2 units, as each of the three packs it:

# %%
figures.show(
    columns(),
    alt="""Three columns of boxes. PyTorch has weight_ih_l0 of shape (8, 3), weight_hh_l0
    (8, 2), bias_ih_l0 (8,) and bias_hh_l0 (8,). gpulstm, in the middle, has weight_ih_l0
    (8, 3), weight_hh_l0 (8, 2) and one bias_l0 (8,). Keras has kernel (3, 8),
    recurrent_kernel (2, 8) and bias (8,). Arrows from PyTorch to gpulstm: the weights as
    they are, the two biases added. Arrows from Keras to gpulstm: the two weights
    transposed, the bias as it is.""",
)

# %% [markdown]
# Two things to remember: PyTorch has **two biases** where one would do, and Keras' weights are **transposed**, because it
# writes $x W$ where PyTorch and we write $W x$.
#
# A third thing no shape shows. Each of these arrays holds the four gates one after the other, and there is no law that
# says in which order:

# %%
figures.show(
    orders(),
    alt="""Four rows of four blocks, the order of the gates. PyTorch: i, f, g, o. gpulstm:
    i, f, g, o. Keras: i, f, c, o. ONNX: i, o, f, c. Each gate has its own grey, so that one
    sees that the first three rows agree, and that in the last one the dark o has moved to
    second place.""",
)

# %% [markdown]
# Keras calls the [candidate](glossary.ipynb#candidate) c, which is our g. ONNX, a format for models of any origin, has the
# output gate in second place. All four are right; they only must not be mixed up.
#
# ## Predict first
#
# Three accidents happen on the way into gpulstm. For each, say: **an error message**, or **wrong numbers in silence**?
#
# - A. Keras' kernel is not transposed.
# - B. Only one of PyTorch's two biases is taken.
# - C. The gates lie in ONNX's order.
#
# ## A file from PyTorch
#
# In PyTorch one would train a model and write
# `safetensors.torch.save_file(model.state_dict(), "model.safetensors")`. A [state dict](glossary.ipynb#state-dict) is a dict from
# names to arrays, so we make one by hand. Its LSTM is the one of our sentence, whose every number you know. To look like
# PyTorch it splits the bias in two, uses float32, and lies inside of a larger model, with `lstm.` before its names:

# %%
state_dict = {
    "lstm.weight_ih_l0": PARAMS["weight_ih"],
    "lstm.weight_hh_l0": PARAMS["weight_hh"],
    "lstm.bias_ih_l0": 0.25 * PARAMS["bias"],
    "lstm.bias_hh_l0": 0.75 * PARAMS["bias"],
    "head.weight": np.ones((1, 2)),  # a linear layer after it
    "head.bias": np.zeros(1),
}
state_dict = {name: value.astype("float32") for name, value in state_dict.items()}
gl.save(folder / "from_pytorch.safetensors", state_dict)

for name, value in gl.load(folder / "from_pytorch.safetensors").items():
    print(f"{name:18} {value.shape}")

# %% [markdown]
# safetensors is a format that holds names and numbers and nothing else. PyTorch's older `.pt` files are pickles: opening one
# can *run* what its author put in. gpulstm does not open pickles at all.
#
# ## Your turn: two biases become one
#
# PyTorch computes $W_{ih}\, x + b_{ih} + W_{hh}\, h + b_{hh}$. Write the function that makes our three arrays of PyTorch's
# four. `theirs` has the names without `lstm.`; our names are in the middle column of the picture.


# %% tags=["exercise"]
def ours(theirs):
    return ...  # ← your turn: a dict of three arrays


# %%
check("26.two-biases", ours)

# %% [markdown] tags=["hint"]
# Two of the three arrays have the same name and the same numbers on both sides. Only the bias needs a thought: what do two
# constants do that are added to the same sum?

# %% [markdown] tags=["hint"]
# `{"weight_ih_l0": theirs["weight_ih_l0"], ...}`, and for `"bias_l0"` one plus sign.


# %% tags=["solution"]
def ours(theirs):
    return {
        "weight_ih_l0": theirs["weight_ih_l0"],
        "weight_hh_l0": theirs["weight_hh_l0"],
        "bias_l0": theirs["bias_ih_l0"] + theirs["bias_hh_l0"],
    }


# %% [markdown]
# gpulstm does the same in one line. It finds the LSTM in the larger model, reads off its sizes, and adds the biases. Then
# comes the step that too many leave out: **give it an input whose output you know, and compare.** What our cell does with
# "John likes black coffee" you know since lesson 01.

# %%
lstm = gl.LSTM.from_torch(gl.load(folder / "from_pytorch.safetensors"))
print(lstm)

x = VECTORS[:, None, :].astype("float32")  # (4 words, 1 sentence, 3 features)
y, state = lstm(x)
known = trace()["h"]  # (4 words, 2 units), lesson 01
for word, h in zip(WORDS, y[:, 0], strict=True):
    print(f"{word:7} h = {h[0]:.3f} {h[1]:.3f}")
print("same numbers as in lesson 01, to a millionth:", np.abs(y[:, 0] - known).max() < 1e-6)

# %% [markdown]
# To a *millionth*, and not exactly: float32 keeps about seven digits, and lesson 01 was computed in float64. (With a GPU,
# `gl.LSTM.from_torch(..., xp=cupy)` puts the weights there.)
#
# ## The three accidents
#
# **A, not transposed.** We hand over the kernel as Keras has it:

# %%
kernel = PARAMS["weight_ih"].T  # (3, 8), as in Keras
accident = {
    "weight_ih_l0": kernel,
    "weight_hh_l0": PARAMS["weight_hh"],
    "bias_l0": PARAMS["bias"],
}
try:
    lstm.load_state_dict(accident)
except ValueError as error:
    print(error)

# %% [markdown]
# An error message: (8, 3) is not (3, 8). Only where a layer has exactly four times as many inputs as units is the kernel
# square, and silent. The recurrent kernel never is.
#
# **B, half a bias, and C, another order.** Both have exactly the shapes that are expected:

# %%
half_bias = {
    "weight_ih_l0": PARAMS["weight_ih"],
    "weight_hh_l0": PARAMS["weight_hh"],
    "bias_l0": 0.25 * PARAMS["bias"],
}
as_onnx = {}  # blocks of 2 rows each: i, f, g, o is put down as i, o, f, g
for name, array in zip(accident, PARAMS.values(), strict=True):
    i, f, g, o = np.split(array, 4)
    as_onnx[name] = np.concatenate([i, o, f, g])

for what, params in [("half a bias", half_bias), ("another order", as_onnx)]:
    wrong = gl.LSTM(3, 2, dtype="float64", rng=0)
    wrong.load_state_dict(params)  # takes it without a word
    h = wrong(VECTORS[:, None, :])[0][-1, 0]
    print(f"{what:14} h after coffee = {h[0]:6.3f} {h[1]:6.3f}")
print(f"{'right':14} h after coffee = {known[-1, 0]:6.3f} {known[-1, 1]:6.3f}")

# %% [markdown]
# No error, numbers between −1 and 1, and all of them wrong. **Shapes catch a transposition. Nothing catches a wrong order
# but a comparison of outputs.**
#
# ## Keras
#
# A Keras layer hands over a list of three arrays, `layer.get_weights()`: kernel, recurrent kernel, bias. Our cell, packed
# like that:

# %%
weights = [PARAMS["weight_ih"].T, PARAMS["weight_hh"].T, PARAMS["bias"]]
print("Keras has", ", ".join(str(array.shape) for array in weights))

lstm_k = from_keras(weights)
print(lstm_k)
y_k, _ = lstm_k(VECTORS[None, :, :])  # (1 sentence, 4 words, 3 features): the batch first
print("same numbers as in lesson 01:", np.abs(y_k[0] - known).max() < 1e-6)

# %% [markdown]
# Keras has the batch on the first axis, so this LSTM has `batch_first=True`. `from_keras` also takes a layer, or the name of
# a `.keras` or `.h5` file, and needs no Keras to read it.
#
# Two habits of Keras are no question of weights: past a sequence's end it repeats the last output, where gpulstm has zeros;
# and with `go_backwards=True` its outputs come in the order in which it read, last word first, where ours stay in the order
# of time.
#
# ## And back
#
# PyTorch wants two biases. One of them may be zero:

# %%
returned = {
    "weight_ih_l0": lstm.params["weight_ih_l0"],
    "weight_hh_l0": lstm.params["weight_hh_l0"],
    "bias_ih_l0": lstm.params["bias_l0"],
    "bias_hh_l0": np.zeros_like(lstm.params["bias_l0"]),
}
gl.save(folder / "to_pytorch.safetensors", returned, metadata={"format": "pt"})
again = gl.LSTM.from_torch(gl.load(folder / "to_pytorch.safetensors"))
same = [np.array_equal(again.params[name], lstm.params[name]) for name in lstm.params]
print("there and back, the same to the last bit:", all(same))

# %% [markdown]
# In PyTorch, `lstm.load_state_dict(safetensors.torch.load_file("to_pytorch.safetensors"))` takes the file. With PyTorch
# beside gpulstm, `gpulstm.interop.torch.to_torch(lstm)` needs no file at all.
#
# **The drop-in.** Whoever has a PyTorch model and wants only our LSTM in it changes one line:
#
# ```python
# from gpulstm.interop.torch import LSTM  # instead of: from torch.nn import LSTM
# ```
#
# Its arguments, names and numbers are PyTorch's, on a GPU it runs our kernels, and it has what PyTorch's has not, such as
# [recurrent dropout](glossary.ipynb#recurrent-dropout) and [zoneout](glossary.ipynb#zoneout).
#
# If PyTorch is installed here, the next cell asks *it*: both its own LSTM and the drop-in load the file and read our
# sentence. Without PyTorch there is nothing to ask. The line that it prints is the same either way, unless there *is* a
# difference.

# %%
differences = 0
if importlib.util.find_spec("torch") is not None:
    import torch

    from gpulstm.interop.torch import LSTM

    loaded = gl.load(folder / "to_pytorch.safetensors", xp=torch)
    for module in (torch.nn.LSTM(3, 2), LSTM(3, 2)):
        module.load_state_dict(loaded)
        with torch.no_grad():
            y_t, _ = module(torch.from_numpy(x))
        differences += int(np.abs(y_t.numpy()[:, 0] - known).max() >= 1e-6)
print("differences found:", differences)

# %% [markdown]
# ## Your turn: the stranger's file
#
# A file arrives, with a note: *"LSTM. W and R are the weights of input and hidden state, gates in the order **i, o, f, c**. B
# is both biases, first all of the input's, then all of the hidden state's. Enclosed: one example, x and y."* The numbers are
# random, made for this lesson. The packing is that of ONNX, which only puts one more axis in front, for the direction.

# %%
gl.save(folder / "stranger.safetensors", stranger())
file = gl.load(folder / "stranger.safetensors")
for name, value in file.items():
    print(f"{name:10} {value.shape}")

# %% [markdown]
# 3 inputs, 4 units, and an example of 6 steps and 2 sequences. Make our three arrays of it. The check puts them into a
# `gl.LSTM` and compares its output with the stranger's: below a millionth, or it was not the same LSTM.


# %% tags=["exercise"]
def from_stranger(file):
    hidden = file["R"].shape[1]
    i, o, f, c = np.split(file["W"], 4)  # four blocks of rows, as the note says
    return {
        "weight_ih_l0": file["W"],  # ← your turn: three times
        "weight_hh_l0": file["R"],
        "bias_l0": file["B"][: 4 * hidden],
    }


# %%
check("26.same-numbers", from_stranger)

# %% [markdown] tags=["hint"]
# Do one thing to each of three arrays: cut it in four, and put the pieces together in our order. Before you do so with
# the bias, make one bias of the two.

# %% [markdown] tags=["hint"]
# A small function inside helps: it gets an array, does `i, o, f, c = np.split(array, 4)`, and returns
# `np.concatenate([...])` of the four in our order, i, f, g, o. Their c is our g.


# %% tags=["solution"]
def from_stranger(file):
    hidden = file["R"].shape[1]

    def in_our_order(array):
        i, o, f, c = np.split(array, 4)
        return np.concatenate([i, f, c, o])

    return {
        "weight_ih_l0": in_our_order(file["W"]),
        "weight_hh_l0": in_our_order(file["R"]),
        "bias_l0": in_our_order(file["B"][: 4 * hidden] + file["B"][4 * hidden :]),
    }


# %% [markdown]
# Without the example in the file you could not have proved it: a note can be wrong. So when *you* hand over weights, enclose an input and its
# output. (For real ONNX files there is `gpulstm.interop.onnx`.)
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# An LSTM with 3 inputs and 2 units has 48 numbers in gpulstm and 56 in PyTorch. Can PyTorch's do more?
#
# No. The 8 more are the second bias, and only the sum of both biases ever reaches a gate. Every output that the 56 can
# make, the 48 can make, too.

# %% [markdown] tags=["question"]
# Two people train that same LSTM with plain gradient descent and the same learning rate, one with one bias and one with two. Do the biases learn alike?
#
# No: with two, each has the same gradient and each takes a step, so their sum moves twice as far. A converted model gives
# the same outputs; its *further training* need not be the same.

# %% [markdown] tags=["question"]
# A colleague converted an LSTM. All shapes fit, all outputs lie between −1 and 1, and it works "a bit worse than it used to". What do you ask for?
#
# One input with the output of the original, and the largest difference between the two. A bit worse is what a wrong order of
# gates, half a bias or a changed activation can look like. Equal to a millionth is what a conversion looks like.

# %% [markdown]
# ## In short
#
# - PyTorch: our names, our shapes, our order of gates, but two biases, which are added. Keras: three arrays, the
#   [weights](glossary.ipynb#weight) transposed, the gates in our order.
# - `gl.LSTM.from_torch(gl.load(file))`, `from_keras(...)`, and `gl.save(file, ...)` do the packing.
# - A wrong shape raises an error. A wrong order of the [gates](glossary.ipynb#gate) does not: only equal outputs prove that a
#   [state dict](glossary.ipynb#state-dict) has arrived.
#
# ## What next
#
# Take `as_onnx` from above and find out by how much the outputs of *each word* are wrong. Is the first word wrong already? Predict
# it from the gates: which of them matter at step one, where c and h are zero?
#
# What is left is [a layer of your own](27_capstone.ipynb).
