"""Keras' files: what Keras saved loads with the numbers that Keras has, and its arrays bit by bit."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers as kl

import gpulstm as gl
from gpulstm.interop.hdf5 import Dataset, Hdf5
from gpulstm.interop.keras import from_keras, to_keras
from tests import problems
from tests.keras_cases import QUIET, inputs, shuffled

pytestmark = [
    QUIET,
    # Keras and absl say that .h5 is the older format; that is what is to be tested here
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]

ENDINGS = {".keras": "save", ".weights.h5": "save_weights", ".h5": "save"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that learned which of two signals comes first, its LSTM part, and a folder with its three files."""
    keras.utils.set_random_seed(3)
    start = keras.Input((9, 3))
    y = kl.Bidirectional(kl.LSTM(6, return_sequences=True))(start)
    y = kl.Bidirectional(kl.LSTM(6, return_sequences=True))(y)
    model = keras.Model(start, kl.Dense(1, activation="sigmoid")(kl.GlobalAveragePooling1D()(y)))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(64, 9, 3)).astype("float32")
    labels = (x[..., 0].argmax(1) < x[..., 1].argmax(1)).astype("float32")[:, None]
    before = model.get_weights()[0]
    history = model.fit(x, labels, epochs=6, batch_size=32, verbose=0).history["loss"]
    assert history[-1] < history[0] and (before != model.get_weights()[0]).any()
    folder = tmp_path_factory.mktemp("trained")
    for ending, method in ENDINGS.items():
        getattr(model, method)(folder / f"model{ending}")
    return model, keras.Model(start, y), folder


class TestTrained:
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_file_gives_keras_predictions(self, trained, ending):
        """1e-6: some thirty float32 roundings of 6e-8 on values below 1."""
        _, recurrent, folder = trained
        x = inputs(steps=9, width=3)
        wanted = recurrent.predict(x, verbose=0)
        found = from_keras(str(folder / f"model{ending}"))
        assert found.changed_options() == {"num_layers": 2, "batch_first": True, "bidirectional": True}
        problems.assert_close({"y": found(x)[0]}, {"y": wanted}, 1e-6)
        problems.assert_same_bits(found.params, from_keras(recurrent).params)

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_one_layer_of_it(self, trained, ending):
        model, _, folder = trained
        second = model.layers[2]
        found = from_keras(folder / f"model{ending}", layer=second.name)
        problems.assert_same_bits(found.params, from_keras(second).params)

    def test_keras_is_not_needed(self, trained, monkeypatch):
        import sys

        for name in ("keras", "h5py"):
            monkeypatch.setitem(sys.modules, name, None)
        for ending in ENDINGS:
            assert from_keras(trained[2] / f"model{ending}").layout.hidden_size == 6


class TestRoundTrips:
    CASES = [
        {},
        {"bias": False, "bidirectional": True, "activations": (("hard_sigmoid", 1 / 6, 0.5), "softsign", "softsign")},
        {"num_layers": 2, "reverse": True},
        {"num_layers": 3, "dropout": 0.25, "activations": ("sigmoid", ("affine", 1.0, 0.0), ("affine", 1.0, 0.0))},
    ]

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("ending", ENDINGS)
    @pytest.mark.parametrize("options", CASES, ids=str)
    def test_ours_to_a_file_to_ours(self, tmp_path, ending, options, dtype):
        given = gl.LSTM(4, 5, batch_first=True, dtype=dtype, rng=1, **options)
        made = to_keras(given)
        model = made if isinstance(made, keras.Sequential) else keras.Sequential([keras.Input((None, 4)), made])
        path = tmp_path / f"model{ending}"
        getattr(model, ENDINGS[ending])(path)
        # weights alone: what is not in the arrays has to be said
        untold = {n: v for n, v in options.items() if n in ("activations", "reverse")} if "weights" in ending else {}
        found = from_keras(path, **untold)
        if "weights" in ending and "dropout" in options:
            given = gl.LSTM(4, 5, batch_first=True, dtype=dtype, rng=1, **options | {"dropout": 0.0})
        assert repr(found) == repr(given)
        problems.assert_same_bits(found.params, given.params)

    def test_bfloat16_and_float16_widen_exactly(self, tmp_path):
        for dtype in ("bfloat16", "float16"):
            layer = kl.LSTM(5, dtype=dtype, recurrent_initializer="zeros")
            model = keras.Sequential([keras.Input((None, 4)), layer])
            values = np.linspace(-2, 2, 100).reshape(5, 20).astype("float32")
            layer.cell.recurrent_kernel.assign(values)
            model.save(tmp_path / "model.keras")
            found = from_keras(tmp_path / "model.keras", dtype="float32")
            kept = keras.ops.convert_to_numpy(layer.cell.recurrent_kernel).astype("float32")
            assert (found.params["weight_hh_l0"].T == kept).all() and (kept != values).any()
            with pytest.raises(TypeError, match=f"dtype must be float32 or float64, got '{dtype}'"):
                from_keras(tmp_path / "model.keras")


class TestSeveralLayers:
    @staticmethod
    def saved(tmp_path, *parts, ending=".weights.h5", width=4):
        model = shuffled(keras.Sequential([keras.Input((None, width)), *parts]))
        getattr(model, ENDINGS[ending])(tmp_path / f"model{ending}")
        return model, tmp_path / f"model{ending}"

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_more_than_ten_keep_their_order(self, tmp_path, ending):
        model, path = self.saved(tmp_path, *(kl.LSTM(3, return_sequences=True) for _ in range(12)), ending=ending)
        found = from_keras(path)
        assert found.layout.num_layers == 12
        problems.assert_same_bits(found.params, from_keras(model).params)

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_others_are_listed(self, tmp_path, ending):
        parts = [kl.LSTM(5, return_sequences=True, name="a"), kl.LSTM(6, return_sequences=True, name="b"), kl.GRU(3)]
        _, path = self.saved(tmp_path, *parts, ending=ending)
        with pytest.raises(ValueError, match=r"model.*a \(5 units\), b \(6 units\).*layer='a'"):
            from_keras(path)
        assert from_keras(path, layer="b").layout.hidden_size == 6
        with pytest.raises(ValueError, match="got 'c'"):
            from_keras(path, layer="c")

    def test_weights_that_need_not_be_a_stack(self, tmp_path):
        """What lies between two layers is not in the file: a normalisation of the right size might."""
        parts = (kl.LSTM(5, return_sequences=True, name="a"), kl.LayerNormalization(), kl.LSTM(5, name="b"))
        model, path = self.saved(tmp_path, *parts)
        with pytest.raises(ValueError, match=r"does not say how .*layer=\('a', 'b'\) for a stack"):
            from_keras(path)
        assert from_keras(path, layer=("a", "b")).layout.num_layers == 2
        _, path = self.saved(tmp_path, kl.LSTM(4, return_sequences=True), kl.LSTM(4))
        with pytest.raises(ValueError, match="does not say how"):  # both may read the model's input
            from_keras(path)

    def test_a_gru_is_passed_over(self, tmp_path):
        _, path = self.saved(tmp_path, kl.GRU(6, return_sequences=True), kl.SimpleRNN(6, return_sequences=True))
        with pytest.raises(ValueError, match="no arrays of an LSTM"):
            from_keras(path)

    def test_nested_models(self, tmp_path):
        inner = keras.Sequential([keras.Input((None, 4)), kl.LSTM(5, name="deep"), kl.Dense(3)])
        for ending in ENDINGS:
            model, path = self.saved(tmp_path, inner, kl.Dense(2), ending=ending)
            problems.assert_same_bits(from_keras(path).params, from_keras(model).params)

    def test_a_subclassed_model(self, tmp_path):
        @keras.saving.register_keras_serializable()
        class Mine(keras.Model):
            def __init__(self, **options):
                super().__init__(**options)
                self.reader = kl.LSTM(5, name="reader")

            def call(self, x):
                return self.reader(x)

        model = Mine()
        model(inputs())
        model.save(tmp_path / "model.keras")
        with pytest.raises(ValueError, match="does not describe its LSTM layers reader"):
            from_keras(tmp_path / "model.keras")
        found = from_keras(tmp_path / "model.keras", activations=("sigmoid", "tanh", "tanh"))
        problems.assert_same_bits(found.params, from_keras(model.reader).params)


class TestKeras2:
    """Files as Keras 2 wrote them, made with h5py: names with ":0", a version, its own hard_sigmoid."""

    @staticmethod
    def write(path, version, *, bidirectional=False, config=True, order="<"):
        rng = np.random.default_rng(1)
        inner = {"name": "lstm", "units": 5, "activation": "tanh", "recurrent_activation": "hard_sigmoid"}
        inner |= {"use_bias": True, "go_backwards": False, "time_major": False, "implementation": 1, "dropout": 0.0}
        layer = {"class_name": "LSTM", "config": inner}
        if bidirectional:
            layer = {"class_name": "Bidirectional", "config": {"name": "both", "layer": layer, "merge_mode": "concat"}}
        model = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
        arrays = []
        with h5py.File(path, "w") as file:
            root = file
            if config:
                file.attrs["model_config"] = json.dumps(model).encode()
                file.attrs["keras_version"] = version.encode()
                root = file.create_group("model_weights")
            cells = ["both/both/forward_lstm", "both/both/backward_lstm"] if bidirectional else ["lstm/lstm"]
            for cell in cells:
                for name, shape in (("kernel", (4, 20)), ("recurrent_kernel", (5, 20)), ("bias", (20,))):
                    arrays.append(rng.normal(size=shape).astype("float32"))
                    root[f"{cell}/lstm_cell_3/{name}:0"] = arrays[-1].astype(order + "f4")
        return arrays

    @pytest.mark.parametrize("bidirectional", [False, True])
    @pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
    def test_arrays_and_the_old_hard_sigmoid(self, tmp_path, bidirectional, order):
        arrays = self.write(tmp_path / "old.h5", "2.3.1", bidirectional=bidirectional, order=order)
        found = from_keras(tmp_path / "old.h5")
        assert found.options.activations[0] == ("hard_sigmoid", 0.2, 0.5)
        wanted = from_keras(arrays, activations=(("hard_sigmoid", 0.2, 0.5), "tanh", "tanh"))
        assert repr(found) == repr(wanted)
        problems.assert_same_bits(found.params, wanted.params)

    def test_the_new_one_and_weights_alone(self, tmp_path):
        self.write(tmp_path / "new.h5", "3.1.0")
        assert from_keras(tmp_path / "new.h5").options.activations[0] == ("hard_sigmoid", 1 / 6, 0.5)
        arrays = self.write(tmp_path / "weights.h5", "2.3.1", config=False)
        problems.assert_same_bits(from_keras(tmp_path / "weights.h5").params, from_keras(arrays).params)


def test_a_lambda_is_never_run(tmp_path):
    """Its code, as Keras stores it, would make a file; and the LSTM beside it loads."""
    marker = str(tmp_path / "it ran")
    model = keras.Sequential([kl.LSTM(5), kl.Lambda(lambda x: open(marker, "w"))])  # not built: that would run it
    model.layers[0].build((None, None, 4))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for number, weight in enumerate(model.layers[0].get_weights()):
            file[f"layers/lstm/cell/vars/{number}"] = weight
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", model.to_json())
        archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        archive.writestr("model.weights.h5", buffer.getvalue())
    assert from_keras(tmp_path / "m.keras").layout.hidden_size == 5
    assert "Lambda" in model.to_json() and not (tmp_path / "it ran").exists()


def test_the_hdf5_reader_sees_what_h5py_sees(trained):
    """Every group, attribute and array of files with optimiser and all."""
    for path in trained[2].glob("*.h5"):
        arrays = 0
        with path.open("rb") as file, h5py.File(path) as wanted:
            for where, group in Hdf5(file, 0, path.stat().st_size).root.walk():
                theirs = wanted["/".join(where) or "/"]
                assert set(group.members) == set(theirs)
                for name, text in group.attributes.items():
                    assert theirs.attrs[name] in (text, text.encode())
                for name, member in group.members.items():
                    if isinstance(member, Dataset) and not member.problem:
                        arrays += 1
                        assert member.read().dtype == theirs[name].dtype
                        assert member.read().tobytes() == theirs[name][()].tobytes()
        assert arrays > 40
