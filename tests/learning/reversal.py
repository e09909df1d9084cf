"""Sequences of symbols to write backwards, and a model that reads one and writes the other.

::

    source    3 1 4 END        what the encoder reads
    previous  START 4 1 3      what the decoder reads: in training the right symbols, else its own
    target    4 1 3 END

An input is (time, 2): source and previous side by side, as they are equally long.
"""

import numpy as np

import gpulstm as gl
from gpulstm import nn

SYMBOLS = 10
END, START = SYMBOLS, SYMBOLS + 1
SHORTEST, LONGEST = 5, 12


def sequences(number, rng, without=()):
    """``number`` random sequences that differ from those in ``without``."""
    unwanted = {sequence.tobytes() for sequence in without}
    found = []
    while len(found) < number:
        sequence = rng.integers(0, SYMBOLS, rng.integers(SHORTEST, LONGEST + 1), dtype=np.int32)
        if sequence.tobytes() not in unwanted:
            found.append(sequence)
    return found


def task(symbols):
    """The input and the target of one sequence."""
    backwards = symbols[::-1]
    found = np.full((3, len(symbols) + 1), END, np.int32)
    source, previous, target = found
    source[:-1], previous[0], previous[1:], target[:-1] = symbols, START, backwards, backwards
    return found[:2].T, target


def padded(found):
    """Inputs (time, batch, 2) and lengths (batch,) of sequences."""
    inputs = [task(symbols)[0] for symbols in found]
    lengths = np.array([len(each) for each in inputs], np.int32)
    x = np.full((lengths.max(), len(found), 2), END, np.int32)
    for n, each in enumerate(inputs):
        x[: len(each), n] = each
    return x, lengths


class Reverser:
    """Encoder and decoder, which begins where the encoder ended, with attention between them.

    The keys of attention are the encoder's outputs. Its values are the source's symbols, so that it must look at the
    very place that is to be written next.
    """

    def __init__(self, rng, size=8, hidden=64):
        self.hidden = hidden
        self.layers = {
            "source": nn.Embedding(SYMBOLS + 1, size, rng=rng),
            "previous": nn.Embedding(SYMBOLS + 2, size, rng=rng),
            "encoder": gl.LSTM(size, hidden, init="glorot", rng=rng),
            "decoder": gl.LSTM(size, hidden, init="glorot", rng=rng),
            "attention": nn.GeneralAttention(hidden, hidden, rng=rng),
            "head": nn.Linear(hidden + size, SYMBOLS + 1, rng=rng),
        }
        self.params = {name: layer.params for name, layer in self.layers.items()}

    def forward(self, x, *, lengths=None):
        cache, on = {}, self.layers
        source, cache["source"] = on["source"].forward(x[..., 0])
        previous, cache["previous"] = on["previous"].forward(x[..., 1])
        keys, state, cache["encoder"] = on["encoder"].forward(source, lengths=lengths)
        query, _, cache["decoder"] = on["decoder"].forward(previous, state, lengths=lengths)
        context, _, cache["attention"] = on["attention"].forward(query, keys, source, lengths=lengths)
        out, cache["head"] = on["head"].forward(np.concatenate([query, context], axis=2))
        return out, cache

    def backward(self, cache, dout):
        grads, on = {}, self.layers
        dboth, grads["head"] = on["head"].backward(cache["head"], dout)
        dquery, dcontext = dboth[..., : self.hidden], dboth[..., self.hidden :]
        dlooked, dkeys, dvalues, grads["attention"] = on["attention"].backward(cache["attention"], dcontext)
        dprevious, grads["decoder"], dstate = on["decoder"].backward(cache["decoder"], dquery + dlooked)
        dsource, grads["encoder"], _ = on["encoder"].backward(cache["encoder"], dkeys, dstate)
        _, grads["previous"] = on["previous"].backward(cache["previous"], dprevious)
        _, grads["source"] = on["source"].backward(cache["source"], dsource + dvalues)
        return None, grads

    def weights(self, x, lengths):
        """(time, batch, time): how much each written symbol is taken from each place of the source."""
        source, previous = self.layers["source"](x[..., 0]), self.layers["previous"](x[..., 1])
        keys, state = self.layers["encoder"](source, lengths=lengths)
        query, _ = self.layers["decoder"](previous, state, lengths=lengths)
        return self.layers["attention"](query, keys, source, lengths=lengths)[1]


class Writer:
    """A `Reverser` that has read its sources and writes symbol by symbol, for `gpulstm.generate` and `beam_search`.

    What it has read is a part of the state, which goes with its sequence wherever a search takes that.
    """

    def __init__(self, model, source, lengths):
        self.on, self.params = model.layers, model.params
        values = self.on["source"](source)
        keys, (h, c) = self.on["encoder"](values, lengths=lengths)
        self.beginning = h, c, keys, values, lengths[None, :]

    def stream(self, x, state):
        h, c, keys, values, lengths = self.beginning if state is None else state
        query, (h, c) = self.on["decoder"](self.on["previous"](x), (h, c))
        context, _ = self.on["attention"](query, keys, values, lengths=lengths[0])
        return self.on["head"](np.concatenate([query, context], axis=2)), (h, c, keys, values, lengths)
