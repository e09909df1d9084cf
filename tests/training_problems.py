"""Small models, a loss with lengths and data of many lengths, for the tests of training."""

import numpy as np

import gpulstm as gl
from gpulstm import arrays


class Recurrent:
    """Two LSTM layers with masks of all kinds and a linear layer: the parameters are a dict of dicts."""

    def __init__(self, xp=np, dtype="float32", seed=0, dropout=0.2, num_layers=2):
        options = {"num_layers": num_layers, "recurrent_dropout": dropout, "zoneout": dropout / 2}
        options["dropout"] = dropout if num_layers > 1 else 0.0
        self.lstm = gl.LSTM(2, 6, **options, dtype=dtype, xp=xp, rng=seed)
        self.head = gl.nn.Linear(6, 1, dtype=dtype, xp=xp, rng=seed + 1)
        self.params = {"lstm": self.lstm.params, "head": self.head.params}

    def __call__(self, x, *, lengths=None):
        return self.head(self.lstm(x, lengths=lengths)[0])

    def forward(self, x, *, lengths=None, rng=None):
        y, _, of_lstm = self.lstm.forward(x, lengths=lengths, rng=rng)
        out, of_head = self.head.forward(y)
        return out, (of_lstm, of_head)

    def backward(self, cache, dout):
        dy, of_head = self.head.backward(cache[1], dout)
        dx, of_lstm, _ = self.lstm.backward(cache[0], dy)
        return dx, {"lstm": of_lstm, "head": of_head}


class Pointwise(gl.nn.Linear):
    """A linear layer for each time step, without anything random: the parameters are a dict of arrays."""

    def __init__(self, xp=np, dtype="float32", seed=0):
        super().__init__(2, 1, dtype=dtype, xp=xp, rng=seed)


def squared_error(prediction, target, *, lengths=None):
    """The mean over the time steps that count, and its gradient."""
    xp = arrays.namespace(prediction)
    error, count = prediction - target, prediction.shape[0] * prediction.shape[1]
    if lengths is not None:
        counts = (np.arange(prediction.shape[0])[:, None] < np.asarray(lengths))[..., None]
        error = error * arrays.beside(counts.astype(arrays.dtype_name(prediction)), prediction)
        count = int(np.sum(lengths))
    return xp.sum(error * error) / count, (2 / count) * error


def sequences(number=40, *, shortest=1, longest=9, seed=0, dtype="float32"):
    """Inputs (time_i, 2), and running sums as targets (time_i, 1)."""
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=(n, 2)).astype(dtype) for n in rng.integers(shortest, longest + 1, number)]
    return inputs, [np.cumsum(x[:, :1], axis=0, dtype=dtype) / 3 for x in inputs]


def flat(tree, name=""):
    """A tree of arrays as {name: NumPy copy}."""
    if not isinstance(tree, dict):
        return {name: np.array(arrays.to_numpy(tree))}
    return {key: value for part in tree for key, value in flat(tree[part], f"{name}/{part}" if name else part).items()}


def assert_same_bits(got, expected):
    got, expected = flat(got), flat(expected)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype and got[name].tobytes() == value.tobytes(), name


def without_times(history):
    return [{k: v for k, v in record.items() if k not in ("seconds", "tokens_per_second")} for record in history]
