"""gl.fit: it trains as a loop by hand does, keeps the best, ends cleanly, and goes on to the same bits."""

import functools
import types

import jax
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import arrays
from gpulstm.training import Adam, Batch, Batches, clip_by_global_norm, load_checkpoint, schedules
from tests import backends
from tests.training_problems import (
    Pointwise,
    Recurrent,
    assert_same_bits,
    flat,
    sequences,
    squared_error,
)

BACKENDS = backends.ENGINES


def fitted(model=None, loss=squared_error, train=None, **options):
    """The model and the history of a quiet run with little data."""
    model = Pointwise() if model is None else model
    return model, gl.fit(model, loss, sequences() if train is None else train, **{"progress": False} | options)


# The steps themselves


def test_it_computes_what_a_loop_by_hand_computes(backend):
    inputs, targets = sequences(20)
    by_hand, twin = Recurrent(backend.xp, dropout=0.0), Recurrent(backend.xp, dropout=0.0)
    adam, batches = Adam(0.01), Batches(inputs, targets, 8, rng=5)
    rate, losses = schedules.cosine(0.01, 6), []
    for batch in (batch for epoch in range(2) for batch in batches.epoch(epoch)):
        out, cache = by_hand.forward(backend.array(batch.x), lengths=batch.lengths)
        loss, dout = squared_error(out, backend.array(batch.target), lengths=batch.lengths)
        _, grads = by_hand.backward(cache, dout)
        clip_by_global_norm(grads, 0.5)
        adam.learning_rate = rate(len(losses))
        adam.step(by_hand.params, grads)
        losses.append(float(loss))

    _, history = fitted(twin, train=(inputs, targets), epochs=2, batch_size=8, rng=5, schedule=rate, clip_norm=0.5)
    assert_same_bits(twin.params, by_hand.params)
    assert history["step"] == [3, 6] and history["epoch"] == [1, 2]
    assert history["loss"] == [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert history["learning_rate"] == [rate(2), rate(5)] and history["validation_loss"] == [None, None]


def test_it_learns(backend):
    data = sequences(60)
    model, history = fitted(
        Recurrent(backend.xp, dropout=0.0), train=data, epochs=25, optimiser=Adam(0.02), validation=data, rng=0
    )
    assert history[-1]["validation_loss"] < 0.1 * history[0]["loss"]
    assert arrays.library(model.params["head"]["weight"]) == ("NumPy" if backend.xp is np else "CuPy")


@pytest.mark.parametrize("xp, make", [(torch, torch.asarray), (jax.numpy, jax.numpy.asarray)], ids=["torch", "jax"])
def test_a_model_of_another_library_is_fed_from_numpy(xp, make):
    model, history = fitted(Pointwise(xp), epochs=3, validation=sequences(7, seed=1), optimiser=Adam(0.05), rng=0)
    twin, expected = fitted(Pointwise(), epochs=3, validation=sequences(7, seed=1), optimiser=Adam(0.05), rng=0)
    assert type(model.params["weight"]) is type(make(np.zeros(1, "float32")))
    for name, value in twin.params.items():
        np.testing.assert_allclose(arrays.to_numpy(model.params[name]), value, rtol=1e-5)
    np.testing.assert_allclose(history["validation_loss"], expected["validation_loss"], rtol=1e-5)


def test_the_best_and_a_checkpoint_reach_a_model_of_another_library(tmp_path):
    """JAX's arrays cannot be written to."""
    path, data = tmp_path / "run.safetensors", {"validation": sequences(7, seed=1), "rng": 0}
    whole, _ = fitted(Pointwise(jax.numpy), steps=5, **data)
    fitted(Pointwise(jax.numpy), steps=2, checkpoint=path, **data)
    resumed, _ = fitted(Pointwise(jax.numpy, seed=9), steps=5, resume=path, **data)
    assert_same_bits(resumed.params, whole.params)


@pytest.mark.parametrize("batch_first", [False, True])
def test_batch_first_gives_the_model_its_layout(batch_first):
    shapes = []

    class Seen(Pointwise):
        def forward(self, x):
            shapes.append(x.shape)
            return super().forward(x)

    inputs, targets = np.zeros((10, 7, 2), "float32"), np.zeros((10, 7, 1), "float32")
    fitted(Seen(), train=(inputs, targets), epochs=1, batch_size=5, batch_first=batch_first)
    assert shapes == 2 * ([(5, 7, 2)] if batch_first else [(7, 5, 2)])


def test_only_what_a_signature_names_is_passed():
    seen = []

    def loss(prediction, target, extra, lengths, target_lengths=None):
        seen.append((extra, lengths, target_lengths))
        return squared_error(prediction, prediction * 0, lengths=lengths)

    labels = [np.zeros(3 + k % 2, int) for k in range(40)]
    fitted(loss=functools.partial(loss, extra=4), train=(sequences()[0], labels), steps=1, rng=0)
    assert seen[0][0] == 4 and seen[0][1].shape == seen[0][2].shape and set(seen[0][2]) <= {3, 4}
    data = np.zeros((8, 3, 2), "float32"), np.zeros((8, 3, 1), "float32")
    fitted(loss=lambda p, t: squared_error(p, t), train=data, steps=1)
    settled = functools.partial(squared_error, lengths=np.array([1, 2, 3]))
    _, history = fitted(loss=settled, train=[a[:3] for a in data], steps=1)
    assert len(history) == 1


@pytest.mark.parametrize("steps", [True, False], ids=["a prediction at each step", "one prediction"])
def test_lengths_reach_a_loss_of_whole_sequences_only_with_predictions_at_each_step(steps):
    """A general loss takes lengths, and refuses them where a prediction has no time steps."""
    seen = []

    class Model(Scaled):
        def forward(self, x, lengths=None):
            out, cache = super().forward(x, lengths)
            return (x if steps else out), cache

        def backward(self, cache, dout):
            return None, {"scale": np.zeros(())}

    def loss(prediction, target, *, lengths=None):
        seen.append(lengths)
        return 0.0, None

    fitted(Model(), loss, (sequences(dtype="float64")[0], np.zeros(40)), steps=1)
    assert (seen[0] is not None) == steps


# Where data comes from


def stream(rng):
    x = rng.normal(size=(5, 3, 2)).astype("float32")
    return Batch(x, x[..., :1], lengths=np.array([5, 2, 0]))


def test_a_function_makes_each_steps_batch_from_that_steps_generator():
    drawn = []

    def train(rng):
        drawn.append(stream(rng))
        return drawn[-1]

    _, history = fitted(train=train, steps=230, rng=1)
    assert history["step"] == [100, 200, 230] and history["epoch"] == [None] * 3
    first, again = drawn[:230], drawn[230:]
    assert not again and len({batch.x.tobytes() for batch in first}) == 230
    fitted(train=train, epochs=2, steps_per_epoch=3, rng=1)
    assert [b.x.tobytes() for b in drawn[230:]] == [b.x.tobytes() for b in first[:6]]


def test_validation_may_be_a_function_or_a_batch():
    _, drawn = fitted(train=stream, validation=stream, epochs=3, steps_per_epoch=2, rng=1)
    x = np.ones((4, 3, 2), "float32")
    model, fixed = fitted(train=stream, validation=Batch(x, x[..., :1]), epochs=3, steps_per_epoch=2, rng=1)
    assert drawn["step"] == fixed["step"] == [2, 4, 6]
    assert fixed["validation_loss"][-1] == pytest.approx(float(squared_error(model(x), x[..., :1])[0]), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 50])
def test_the_validation_loss_is_the_mean_over_all_time_steps_however_they_are_batched(batch_size):
    inputs, targets = sequences(23, seed=3, dtype="float64")
    model = Pointwise(dtype="float64")
    _, history = fitted(
        model,
        train=(inputs, targets),
        steps=1,
        validation=(inputs, targets),
        batch_size=batch_size,
        metrics={"error": lambda prediction, target, lengths: squared_error(prediction, target, lengths=lengths)[0]},
    )
    squares = np.concatenate([(model(x) - y).ravel() ** 2 for x, y in zip(inputs, targets, strict=True)])
    assert history[-1]["validation_loss"] == pytest.approx(squares.mean(), rel=1e-12)
    assert history[-1]["error"] == history[-1]["validation_loss"]


class Scaled:
    """One number for each sequence: the sum over its time steps, times the only parameter."""

    def __init__(self):
        self.params = {"scale": np.ones((), "float64")}

    def forward(self, x, lengths=None):
        sums = x.sum((0, 2))
        return self.params["scale"] * sums, sums

    def backward(self, cache, dout):
        return None, {"scale": np.sum(cache * dout)[...]}


def test_one_target_for_each_sequence_counts_sequences():
    inputs, _ = sequences(9, dtype="float64")
    model, history = fitted(
        Scaled(),
        lambda prediction, target: (np.mean((prediction - target) ** 2), prediction - target),
        (inputs, list(range(9))),
        steps=3,
        batch_size=4,
        validation=(inputs, np.arange(9)),
    )
    sums = np.array([x.sum() for x in inputs]) * model.params["scale"]
    assert history[-1]["validation_loss"] == pytest.approx(np.mean((sums - np.arange(9)) ** 2), rel=1e-12)
    assert history.best_step == 3 and model.params["scale"] != 1


# How it ends


def test_it_stops_early_and_keeps_the_best():
    """A learning rate that is far too large from step 6 on makes each later evaluation worse."""
    data = {"train": sequences(), "validation": sequences(9, seed=1), "rng": 0, "evaluate_every": 2}
    schedule = lambda step: 0.05 if step < 6 else 5.0  # noqa: E731 - a schedule is a function
    best, _ = fitted(steps=6, schedule=schedule, **data)
    model, history = fitted(steps=100, schedule=schedule, patience=3, **data)
    assert history["step"] == [2, 4, 6, 8, 10, 12] and history.stopped_early and not history.interrupted
    assert history.best_step == 6 and history.best["validation_loss"] == min(history["validation_loss"])
    assert_same_bits(model.params, best.params)
    assert history.evaluations_since_best == 3


def test_the_best_are_kept_where_the_last_checkpoint_fails(tmp_path, monkeypatch):
    from gpulstm.training import saved

    def full(path, content):
        raise OSError(28, "No space left on device")

    model, options = Pointwise(), {"validation": sequences(9, seed=1), "rng": 0, "evaluate_every": 2}
    options |= {"schedule": lambda step: 0.05 if step < 6 else 5.0}
    best, _ = fitted(steps=6, **options)
    monkeypatch.setattr(saved, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        fitted(model, steps=10, checkpoint=tmp_path / "run.safetensors", checkpoint_every=100, **options)
    assert_same_bits(model.params, best.params)


def test_without_validation_the_last_parameters_stay():
    whole, history = fitted(steps=5, rng=0)
    assert history.best_step is None
    twin, _ = fitted(steps=5, rng=0, evaluate_every=1)
    assert_same_bits(whole.params, twin.params)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(bad, tmp_path, backend):
    count = iter(range(1000))

    def loss(prediction, target, lengths=None):
        value, gradient = squared_error(prediction, target, lengths=lengths)
        return (value * bad if next(count) == 6 else value), gradient

    path, model = tmp_path / "run.safetensors", Pointwise(backend.xp)
    with pytest.raises(FloatingPointError, match=f"the loss of step 7 is {bad}"):
        fitted(model, loss, steps=300, evaluate_every=5, checkpoint=path)
    assert load_checkpoint(path).position["step"] == 5
    assert all(np.isfinite(value).all() for value in flat(model.params).values())


def test_a_validation_loss_that_is_not_a_number_is_never_the_best():
    values = iter([3.0, np.nan, 2.0, np.nan, np.nan])

    def loss(prediction, target, lengths=None):
        _, gradient = squared_error(prediction, target, lengths=lengths)
        return (1.0 if len(seen) % 2 == 0 else next(values)), gradient

    seen = []

    class Alternating(Pointwise):
        """Calls between training and validation alternate: one batch each."""

        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    data = sequences(5)
    seen.append(None)
    model, history = fitted(Alternating(), loss, data, validation=data, steps=5, evaluate_every=1)
    assert str(history["validation_loss"]) == "[3.0, nan, 2.0, nan, nan]" and history.best_step == 3


# What waits for the device


class TestOnTheStandIn:
    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("model, steps, expected", [(Pointwise, 600, [256, 256, 88]), (Recurrent, 20, [20])])
    def test_losses_are_fetched_in_bulk_and_nothing_else_is(self, backend, monkeypatch, model, steps, expected):
        """Whoever looks at a loss waits for the GPU, and leaves it without work in the meantime."""
        fetched, get = [], backend.xp.ndarray.get

        def counted(self, *args, **options):
            fetched.append(self.size)
            return get(self, *args, **options)

        monkeypatch.setattr(backend.xp.ndarray, "get", counted)
        fitted(model(backend.xp), train=sequences(8), steps=steps, evaluate_every=steps, batch_size=4)
        assert fetched == expected


# What is refused


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"model": gl.LSTM(2, 3)}, TypeError, r"gl.LSTM returns its state as well; .*gl.nn.Sequential\(lstm, "),
        ({"model": object()}, TypeError, "model must have params"),
        ({"model": types.SimpleNamespace(params={})}, TypeError, "model must have a method forward"),
        ({"loss": 3}, TypeError, "loss must be a function"),
        ({"train": sequences()[0]}, TypeError, r"train must be a pair \(inputs, targets\), .* got list of 40"),
        ({"train": Batch(np.ones((2, 3, 2)), 1)}, TypeError, "train must be a pair .* got Batch"),
        ({"train": lambda rng: (1, 2)}, TypeError, "must return gl.training.Batch, got tuple"),
        ({"train": lambda rng: Batch((1, 2), 3)}, TypeError, "x must be one array .*, got tuple of 2; .* side by side"),
        ({"train": lambda rng: Batch(None, 3)}, TypeError, "x must be an array .*, got NoneType"),
        ({"validation": Batch([1], 3)}, TypeError, "x must be one array .*, got list of 1"),
        ({"epochs": 3}, ValueError, "one of epochs and steps must be given, got epochs=3 and steps=2"),
        ({"steps": None}, ValueError, "one of epochs and steps must be given"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": None, "epochs": 1, "train": stream}, ValueError, "epochs must come with steps_per_epoch"),
        ({"steps_per_epoch": 3}, ValueError, "steps_per_epoch must be None for"),
        ({"patience": 3}, ValueError, "patience must come with validation"),
        ({"metrics": {"a": abs}}, ValueError, "metrics must come with validation"),
        ({"metrics": {"loss": abs}, "validation": sequences()}, ValueError, "metrics must not be called 'loss'"),
        ({"metrics": [abs], "validation": sequences()}, TypeError, "metrics must be a dict"),
        ({"schedule": 0.1}, TypeError, "schedule must be a function"),
        ({"optimiser": "adam"}, TypeError, "optimiser must have a method step, which str has not"),
        ({"checkpoint_every": 3}, ValueError, "checkpoint_every must come with checkpoint"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every must be at least 1"),
        ({"loss": lambda p, t: (p, p)}, ValueError, "loss must have an argument lengths"),
        ({"loss": lambda p, t, lengths: (p, p)}, TypeError, "the loss must be a number or an array without axes"),
        ({"rng": -1}, ValueError, "rng must be a seed"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_it_refuses(options, error, message):
    with pytest.raises(error, match=message):
        fitted(**{"steps": 2} | options)


def test_it_refuses_padding_that_the_model_would_take_for_data():
    inputs, _ = sequences()
    with pytest.raises(ValueError, match="model.forward must have an argument lengths"):
        fitted(train=(inputs, np.zeros((40, 1), "float32")), steps=1)


def test_an_infinite_loss_says_what_may_be_wrong_with_labels():
    """Two labels of one step."""
    model, data = gl.nn.Linear(2, 3, rng=0), (np.zeros((4, 1, 2), "float32"), [np.array([1, 2])] * 4)
    with pytest.raises(FloatingPointError, match="the loss of step 1 is inf, .* needs more time steps than"):
        fitted(model, gl.nn.ctc, data, steps=1)
    with pytest.raises(FloatingPointError, match="the loss of step 1 is nan, .* in the data$"):
        fitted(model, gl.nn.ctc, (data[0] * np.nan, data[1]), steps=1)


def test_it_refuses_a_forward_with_three_results():
    model = Pointwise()
    model.forward = lambda x: (x, x, x)
    with pytest.raises(TypeError, match=r"model.forward must return \(out, cache\), got 3 values"):
        fitted(model, steps=1)


def test_random_models_need_a_call_for_validation():
    model = Recurrent()
    silent = types.SimpleNamespace(params=model.params, forward=model.forward, backward=model.backward)
    with pytest.raises(TypeError, match="model must be callable for validation"):
        fitted(silent, steps=1, validation=sequences())
    fitted(silent, steps=1)
