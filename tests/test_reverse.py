"""An LSTM whose only direction reads each sequence from its end: the reverse half of a bidirectional one."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import engines
from gpulstm.engines import numpy_engine
from gpulstm.functional import lstm_inference
from tests import problems

LENGTHS = np.array([5, 0, 7, 3])
OPTIONS = {
    "plain": {},
    "coupled": {"coupled": True},
    "zoneout": {"zoneout": (0.2, 0.1)},
}


def both_and_reverse(**sizes):
    """A bidirectional problem of one layer, and its reverse direction as a problem of its own."""
    both = problems.problem(steps=7, batch=4, inputs=3, hidden=2, directions=2, **sizes)
    backwards = {name.removesuffix("_reverse"): p for name, p in both.params.items() if name.endswith("_reverse")}
    h, c = both.state
    dh, dc = both.dstate
    alone = both.but(params=backwards, state=(h[1:], c[1:]), dy=both.dy[..., 2:], dstate=(dh[1:], dc[1:]))
    return both.but(dy=np.concatenate([0 * both.dy[..., 2:], both.dy[..., 2:]], axis=-1)), alone


def solved(backend, given, options, every=None):
    """Every result, with the random masks off."""
    y, final, cache = gl.lstm_forward(
        backend.array(given.x),
        backend.array(given.params),
        backend.array(given.state),
        lengths=given.lengths,
        options=options,
        rng=3,
        checkpoint_every=every,
    )
    dx, grads, dinitial = gl.lstm_backward(cache, backend.array(given.dy), backend.array(given.dstate))
    results = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
    return backend.numpy(results | {"d" + name: gradient for name, gradient in grads.items()})


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("options", [{}, {"coupled": True}], ids=["plain", "coupled"])
def test_it_is_the_reverse_half_of_both_directions(backend, options, lengths):
    both, alone = both_and_reverse(lengths=lengths)
    dh, dc = (np.concatenate([0 * d[:1], d[1:]]) for d in both.dstate)  # the forward direction adds nothing to dx
    halves = solved(backend, both.but(dstate=(dh, dc)), options)
    wanted = {"y": halves["y"][..., 2:], "dx": halves["dx"]}
    wanted |= {name: halves[name][1:] for name in ("h", "c", "dh", "dc")}
    wanted |= {n.removesuffix("_reverse"): g for n, g in halves.items() if n.endswith("_reverse")}
    problems.assert_close(solved(backend, alone, options | {"reverse": True}), wanted)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_inference_in_stretches_of_time_gives_the_same(backend, options, monkeypatch):
    """Two layers, whose gate buffers hold two steps: the last stretch comes first."""
    given = problems.problem(steps=7, batch=4, inputs=3, hidden=2, layers=2, lengths=LENGTHS)
    options = options | {"reverse": True}
    arguments = [backend.array(a) for a in (given.x, given.params, given.state)]
    whole = backend.numpy(lstm_inference(*arguments, lengths=LENGTHS, options=options))
    for engine in {numpy_engine, *_kernel_engines()}:
        monkeypatch.setattr(engine, "GATE_BUFFER_BYTES", 2 * 4 * 8 * 8)
    y, final = backend.numpy(lstm_inference(*arguments, lengths=LENGTHS, options=options))
    problems.assert_close({"y": y, "h": final[0]}, {"y": whole[0], "h": whole[1][0]})
    if "zoneout" not in options:  # in training a coin decides
        trained = solved(backend, given, options)
        problems.assert_close({"y": y, "h": final[0], "c": final[1]}, {k: trained[k] for k in ("y", "h", "c")})


def _kernel_engines():
    from gpulstm.engines import cupy_engine

    return [cupy_engine]


def test_checkpoints_change_nothing(backend, monkeypatch):
    monkeypatch.setattr(engines, "WINDOW", 2)
    monkeypatch.setattr(engines, "GPU_ROWS", 1)
    given = problems.problem(steps=7, batch=4, inputs=3, hidden=2, layers=2, lengths=LENGTHS)
    options = {"reverse": True, "recurrent_dropout": 0.3}
    problems.assert_same_bits(solved(backend, given, options, every=2), solved(backend, given, options))


def test_several_layers_are_the_flipped_sequence():
    lstm = gl.LSTM(3, 5, 2, reverse=True, rng=0)
    plain = gl.LSTM(3, 5, 2, rng=0)
    x = np.random.default_rng(1).normal(size=(6, 2, 3)).astype("float32")
    y, state = lstm(x)
    flipped, expected = plain(np.ascontiguousarray(x[::-1]))
    np.testing.assert_array_equal(y, flipped[::-1])
    np.testing.assert_array_equal(state.c, expected.c)
    assert "reverse=True" in repr(lstm)


def test_two_directions_have_their_reverse_already():
    with pytest.raises(ValueError, match="reverse must be False with bidirectional=True"):
        gl.LSTM(2, 3, bidirectional=True, reverse=True)
    both, _ = both_and_reverse()
    with pytest.raises(ValueError, match="reverse must be False with bidirectional=True"):
        gl.lstm_forward(both.x, both.params, options={"reverse": True})
    with pytest.raises(TypeError, match="reverse must be True or False, got 1"):
        gl.LSTM(2, 3, reverse=1)
