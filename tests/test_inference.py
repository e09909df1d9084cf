"""Inference: the numbers of training from a bounded gate buffer, however the work is cut into tiles."""

import tracemalloc

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import stack
from gpulstm.engines import cupy_engine, numpy_engine
from gpulstm.functional import lstm_inference
from gpulstm.parameters import Layout
from tests import backends, problems

ROW = 4 * 2 * 8  # bytes of one sequence's gates at one step: 4 gates, 2 hidden units, float64

# A buffer for: everything; 2 of 5 steps of 3 sequences; 1 step; 2 of 3 sequences of one step; not even one sequence.
BUFFERS = {"all": 15 * ROW, "2 steps": 6 * ROW + 7, "1 step": 3 * ROW, "2 sequences": 2 * ROW, "too small": 1}


class TestTiles:
    BACKENDS = backends.ENGINES

    @pytest.mark.parametrize("buffer", BUFFERS)
    @pytest.mark.parametrize("layers", [1, 2, 3])
    @pytest.mark.parametrize("directions", [1, 2])
    @pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=["no lengths", "lengths"])
    def test_inference_equals_training(self, backend, monkeypatch, buffer, layers, directions, lengths):
        """To rounding: a matrix product of fewer rows may add up in another order."""
        given = problems.problem(layers=layers, directions=directions, lengths=lengths)
        trained = problems.solve(backend, given)
        for engine in (numpy_engine, cupy_engine):
            monkeypatch.setattr(engine, "GATE_BUFFER_BYTES", BUFFERS[buffer])
        problems.assert_close(problems.infer(backend, given), {name: trained[name] for name in ("y", "h", "c")})
        turned = given.but(x=given.x.swapaxes(0, 1))
        inferred = problems.infer(backend, turned, batch_first=True)
        np.testing.assert_allclose(inferred["y"].swapaxes(0, 1), trained["y"], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("buffer", BUFFERS)
    def test_the_buffer_keeps_its_limit(self, backend, monkeypatch, buffer):
        """The engine is handed gates of at most that size, or of one sequence where not even that one fits."""
        engine = numpy_engine if backend.name == backends.NUMPY else cupy_engine
        seen = []
        monkeypatch.setattr(engine, "GATE_BUFFER_BYTES", BUFFERS[buffer])
        inference = engine.inference

        def watched(x, weights, h, c, y, lane, gates, lengths, first_time):
            seen.append((gates.shape, first_time))
            inference(x, weights, h, c, y, lane, gates, lengths, first_time)

        monkeypatch.setattr(engine, "inference", watched)
        problems.infer(backend, problems.problem(lengths=[5, 0, 3]))
        expected = {
            "all": [((5, 3, 8), 0)],
            "2 steps": [((2, 3, 8), 0), ((2, 3, 8), 2), ((1, 3, 8), 4)],
            "1 step": [((1, 3, 8), t) for t in range(5)],
            "2 sequences": [((1, n, 8), t) for t in range(5) for n in (2, 1)],
            "too small": [((1, 1, 8), t) for t in range(5) for _ in range(3)],
        }
        assert seen == expected[buffer]


@pytest.mark.parametrize("steps", [1, 7, 10**6])
@pytest.mark.parametrize("batch", [1, 3, 10**5])
@pytest.mark.parametrize("limit", [1, 1000, 64 * 2**20])
def test_a_tile_stays_within_its_limit_and_uses_it(steps, batch, limit):
    layout = Layout(input_size=1, hidden_size=5)
    row = 4 * 5 * 4
    tile_steps, tile_batch = stack.tile(layout, steps, batch, 4, limit)
    assert 1 <= tile_steps <= steps and 1 <= tile_batch <= batch
    size = tile_steps * tile_batch * row
    assert size <= limit or (tile_steps, tile_batch) == (1, 1)
    one_more = row if tile_batch < batch else batch * row
    assert size + one_more > limit or (tile_steps, tile_batch) == (steps, batch)
    assert tile_batch == batch or tile_steps == 1, "the rows of a tile would not follow each other"


class TestMemory:
    def peak(self, steps: int, *, directions: int = 1, layers: int = 2, batch_first: bool = False) -> int:
        """Bytes that inference allocates at its peak, beyond y, which it returns."""
        batch, hidden = 4, 8
        given = problems.problem(
            steps=steps, batch=batch, inputs=3, hidden=hidden, layers=layers, directions=directions, dtype="float32"
        )
        x = np.ascontiguousarray(given.x.swapaxes(0, 1)) if batch_first else given.x
        lstm_inference(x, given.params, batch_first=batch_first)  # imports and caches
        tracemalloc.start()
        try:
            y, _ = lstm_inference(x, given.params, batch_first=batch_first)
            return tracemalloc.get_traced_memory()[1] - y.nbytes
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("layers", [1, 2, 3])
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_does_not_grow_with_time(self, monkeypatch, layers, batch_first):
        monkeypatch.setattr(numpy_engine, "GATE_BUFFER_BYTES", 16384)
        short = self.peak(400, layers=layers, batch_first=batch_first)
        long = self.peak(3200, layers=layers, batch_first=batch_first)
        # Other threads of the test runner allocate too, some hundred bytes. Two bytes for each of the 2800 steps more
        # would be 5600, and what one step really has, its hidden states, 128 bytes x 2800.
        assert abs(long - short) < 4096, f"{short} bytes for 400 steps, {long} for 3200"
        assert long < 4 * 16384

    def test_two_directions_need_one_more_output_and_no_more(self, monkeypatch):
        """A bidirectional layer needs the whole of the layer below."""
        monkeypatch.setattr(numpy_engine, "GATE_BUFFER_BYTES", 16384)
        one_layer = self.peak(3200, directions=2, layers=1)
        three_layers = self.peak(3200, directions=2, layers=3)
        output = 3200 * 4 * 2 * 8 * 4
        assert one_layer < 4 * 16384
        assert output <= three_layers < output + 4 * 16384

    def test_the_default_buffers_are_what_is_promised(self):
        assert numpy_engine.GATE_BUFFER_BYTES <= 64 * 2**20 and cupy_engine.GATE_BUFFER_BYTES <= 64 * 2**20


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_layers_call_is_inference(backend, batch_first):
    """lstm(x) gives what lstm.forward(x) gives, without the cache."""
    given = problems.problem(layers=2, directions=2, lengths=[5, 0, 3])
    lstm = gl.LSTM(4, 2, 2, bidirectional=True, batch_first=batch_first, dtype="float64", xp=backend.xp, rng=0)
    x = backend.array(given.x.swapaxes(0, 1) if batch_first else given.x)
    state = backend.array(given.state)
    y, final = lstm(x, state, lengths=given.lengths)
    trained_y, trained_final, _ = lstm.forward(x, state, lengths=given.lengths)
    found = backend.numpy({"y": y, "h": final.h, "c": final.c})
    problems.assert_close(found, backend.numpy({"y": trained_y, "h": trained_final.h, "c": trained_final.c}))
