"""Files of people who have never heard of gpulstm: trained in PyTorch or Keras, saved in the usual ways, loaded here.

Each file holds a whole model, of which the LSTM is a part. What it computes is compared with the framework's own
numbers to 1e-6: in float32 that is some ten roundings of numbers below 1.
"""

import numpy as np
import pytest
import torch

import gpulstm as gl

TOLERANCE = 1e-6
STEPS, BATCH, WORDS = 7, 3, 11


class Tagger(torch.nn.Module):
    """A word tagger, as tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS, 6)
        self.lstm = torch.nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.out = torch.nn.Linear(10, 4)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embedding(words))[0])


@pytest.fixture(scope="module")
def words():
    return np.random.default_rng(0).integers(0, WORDS, size=(BATCH, STEPS))


@pytest.fixture(scope="module")
def tagger(words):
    """Trained until its weights are no longer those it was made with."""
    torch.manual_seed(0)
    model = Tagger()
    before = model.lstm.weight_hh_l1.detach().clone()
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    labels = torch.tensor(words % 4)
    for _ in range(60):
        adam.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.tensor(words)).flatten(0, 1), labels.flatten())
        loss.backward()
        adam.step()
    assert loss < 0.1 and (model.lstm.weight_hh_l1 - before).abs().max() > 0.1
    return model.eval()


def assert_gives(lstm, x, expected):
    """The same outputs and final states; x (batch, time, features)."""
    x = x if lstm.batch_first else np.ascontiguousarray(x.swapaxes(0, 1))
    y, state = lstm(x)
    y = y if lstm.batch_first else y.swapaxes(0, 1)
    for found, wanted in zip((y, *state), expected, strict=True):
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def of_torch(tagger, words):
    """(x, (y, h, c)) of the trained LSTM by PyTorch."""
    with torch.no_grad():
        x = tagger.embedding(torch.tensor(words))
        y, (h, c) = tagger.lstm(x)
    return x.numpy(), (y.numpy(), h.numpy(), c.numpy())


def test_a_pytorch_model_saved_as_safetensors(tagger, words, tmp_path):
    from safetensors.torch import save_file

    save_file(tagger.state_dict(), tmp_path / "tagger.safetensors")
    lstm = gl.LSTM.from_torch(gl.load(tmp_path / "tagger.safetensors"))
    assert (lstm.layout.num_layers, lstm.layout.bidirectional) == (2, True)
    assert_gives(lstm, *of_torch(tagger, words))


@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own deprecations
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_a_pytorch_model_exported_by_torch_onnx(tagger, words, tmp_path, dynamo):
    from gpulstm.interop.onnx import from_onnx

    path = tmp_path / "tagger.onnx"
    options = {"dynamo": True, "verbose": False} if dynamo else {"dynamo": False}
    torch.onnx.export(tagger, (torch.tensor(words),), path, **options)
    lstm = from_onnx(path)
    assert (lstm.layout.num_layers, lstm.layout.bidirectional) == (2, True)
    assert_gives(lstm, *of_torch(tagger, words))


@pytest.fixture(scope="module")
def keras_model(words):
    """A Keras model that has learnt to sort its sentences by their first word."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Embedding(WORDS, 6),
            keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True), name="reader"),
            keras.layers.LSTM(4, name="judge"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="binary_crossentropy")
    model.fit(words, words[:, 0] % 2, epochs=25, verbose=0)
    return model


@pytest.mark.filterwarnings("ignore")  # Keras' own, while it trains on PyTorch
@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
def test_a_keras_model_trained_and_saved(keras_model, words, tmp_path, ending):
    import keras

    from gpulstm.interop.keras import from_keras

    path = tmp_path / f"judge.{ending}"
    if ending == "keras":
        keras_model.save(path)
    else:
        keras_model.save_weights(path)
    embedding, reader, judge = keras_model.layers[:3]
    x = keras.ops.convert_to_numpy(embedding(words))
    between = keras.ops.convert_to_numpy(reader(x))
    names = ("reader", "judge") if ending == "keras" else ("bidirectional", "lstm")  # weights alone go by their class
    first = from_keras(path, layer=names[0])
    np.testing.assert_allclose(first(x)[0], between, rtol=0, atol=TOLERANCE)
    second = from_keras(path, layer=names[1])
    expected = keras.ops.convert_to_numpy(judge(between))
    np.testing.assert_allclose(second(between)[1].h[0], expected, rtol=0, atol=TOLERANCE)
