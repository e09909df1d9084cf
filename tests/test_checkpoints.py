"""checkpoint_every: the same gradients to the bit in less memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from tests import backends

STEPS, BATCH, INPUTS, HIDDEN = 17, 3, 4, 5

OPTIONS = {
    "plain": {},
    "two layers, both directions, dropout": {"num_layers": 2, "bidirectional": True, "dropout": 0.3},
    "every mask": {
        "bidirectional": True,
        "zoneout": 0.2,
        "recurrent_dropout": 0.3,
        "weight_drop": 0.2,
        "proj_size": 3,
        "peephole": True,
    },
    "layer norm": {
        "num_layers": 2,
        "bidirectional": True,
        "layer_norm": True,
        "peephole": True,
        "zoneout": (0.1, 0.3),
        "recurrent_dropout": 0.2,
        "recurrent_dropout_on": "candidate",
    },
}


def train(backend, dtype: str, lengths, options: dict, every: int | None) -> list[np.ndarray]:
    """All results of one forward and backward pass with fixed arguments."""
    lstm = gl.LSTM(INPUTS, HIDDEN, dtype=dtype, xp=backend.xp, rng=1, checkpoint_every=every, **options)
    rng = np.random.default_rng(2)
    h_shape, c_shape = lstm.layout.state_shapes(BATCH)
    shapes = ((STEPS, BATCH, INPUTS), h_shape, c_shape, (STEPS, BATCH, lstm.layout.output_size), h_shape, c_shape)
    x, h, c, dy, dh, dc = (backend.array(rng.normal(size=shape).astype(dtype)) for shape in shapes)
    y, final, cache = lstm.forward(x, (h, c), lengths=lengths, rng=7)
    dx, grads, dinitial = lstm.backward(cache, dy, (dh, dc))
    return [backend.numpy(a) for a in (y, *final, dx, *dinitial, *grads.values())]


@pytest.mark.parametrize(
    ("dtype", "lengths"), [("float32", [17, 0, 5]), ("float64", None)], ids=["float32, lengths", "float64, no lengths"]
)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_bits(backend, options, lengths, dtype, monkeypatch):
    """Stretches of one window, of several, of more than the sequence; and a last one that is shorter."""
    monkeypatch.setattr(engines, "WINDOW", 3)
    monkeypatch.setattr(engines, "GPU_ROWS", 1)
    expected = train(backend, dtype, lengths, OPTIONS[options], None)
    for every in (1, 4, 6, 100):
        found = train(backend, dtype, lengths, OPTIONS[options], every)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("every", [0, -1])
def test_no_steps_at_all(every):
    with pytest.raises(ValueError, match=f"checkpoint_every must be at least 1, got {every}"):
        gl.LSTM(2, 3, checkpoint_every=every)


@pytest.mark.parametrize("every", [1.5, True, "10"])
def test_no_number_of_steps(every):
    with pytest.raises(TypeError, match="checkpoint_every must be a number of time steps or None, got"):
        gl.LSTM(2, 3, checkpoint_every=every)


def test_the_repr_shows_it():
    assert "checkpoint_every=256" in repr(gl.LSTM(2, 3, checkpoint_every=256))
    assert "checkpoint_every" not in repr(gl.LSTM(2, 3))


def test_the_functions_take_it_too():
    lstm = gl.LSTM(2, 3, rng=0)
    x = np.random.default_rng(0).normal(size=(300, 2, 2)).astype("float32")
    results = []
    for every in (None, 128):
        _, _, cache = gl.lstm_forward(x, lstm.params, checkpoint_every=every)
        results.append(gl.lstm_backward(cache, np.ones((300, 2, 3), "float32")))
    for name, gradient in results[0][1].items():
        np.testing.assert_array_equal(results[1][1][name], gradient)


# One training step on 100,000 time steps within a given amount of memory beyond what Python and NumPy take themselves.
LONG = """
import resource, sys
import numpy as np
import gpulstm as gl

every, megabytes = eval(sys.argv[1]), int(sys.argv[2])
x = np.random.default_rng(0).normal(size=(100_000, 4, 1)).astype("float32")
lstm = gl.LSTM(1, 32, rng=0, checkpoint_every=every)
gl.LSTM(1, 32).forward(x[:300])  # whatever is allocated once
now = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
limit = now + megabytes * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    y, final, cache = lstm.forward(x)
    dx, grads, _ = lstm.backward(cache, dstate=(final.h, None))
    gl.training.Adam(0.01).step(lstm.params, grads)
    is_finite = all(np.isfinite(p).all() for p in lstm.params.values())
    print("trained", is_finite, float(abs(grads["weight_hh_l0"]).sum()) > 0)
except MemoryError:
    print("does not fit")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of a process as Linux does")
@pytest.mark.parametrize("every, outcome", [(None, "does not fit"), (512, "trained True True")])
def test_a_hundred_thousand_steps_in_150_megabytes(every, outcome):
    """The gates alone are 100,000 * 4 * 128 * 4 bytes = 195 MB; y is 49 MB, which any way needs."""
    environment = os.environ | {"PYTHONPATH": str(Path(gl.__file__).parent.parent)}
    command = [sys.executable, "-c", LONG, repr(every), "150"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == outcome, done.stderr


BACKENDS = backends.ALL
