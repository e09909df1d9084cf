"""PyTorch's LSTM from ours and back: every bit, every option that PyTorch has, and a refusal of every other one."""

import itertools

import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm.interop.torch import to_torch
from tests.backends import open_backend

HELD = [
    dict(zip(("num_layers", "bias", "batch_first", "bidirectional", "proj_size"), values, strict=True))
    for values in itertools.product((1, 3), (True, False), (False, True), (False, True), (0, 2))
]
NOT_HELD = {
    "reverse": {"reverse": True},
    "peephole": {"peephole": True},
    "layer_norm": {"layer_norm": True},
    "coupled": {"coupled": True},
    "cell_clip": {"cell_clip": 3.0},
    "activations": {"activations": ("sigmoid", "relu", "tanh")},
    "zoneout": {"zoneout": 0.1},
    "recurrent_dropout": {"recurrent_dropout": 0.1},
    "weight_drop": {"weight_drop": 0.1},
    "checkpoint_every": {"checkpoint_every": 9},
    "tf32": {"tf32": True},
}


def assert_same(ours, again):
    assert again.layout == ours.layout
    assert again.changed_options() == ours.changed_options()
    assert again.params.keys() == ours.params.keys()
    for name, value in ours.params.items():
        assert again.params[name].dtype == value.dtype
        assert again.params[name].tobytes() == value.tobytes(), name


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # it says so once a process
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", HELD, ids=str)
def test_there_and_back_is_exact_and_gives_the_same_numbers(options, dtype):
    ours = gl.LSTM(4, 3, **options, dtype=dtype, rng=0)
    for name, value in ours.params.items():
        value[...] = np.random.default_rng(len(name)).normal(size=value.shape)
    for name in [name for name in ours.params if name.startswith("bias")]:
        ours.params[name][:2] = [-0.0, 0.0]  # adding PyTorch's second bias must not turn the sign
    module = to_torch(ours)
    assert_same(ours, gl.LSTM.from_torch(module))
    x = np.random.default_rng(1).normal(size=(5, 2, 4)).astype(dtype)
    y, state = ours(x)
    expected, (h, c) = module(torch.tensor(x))
    tolerance = 1e-12 if dtype == "float64" else 2e-6  # some ten operations of size 1 per step, 5 steps, up to 3 layers
    for found, wanted in ((y, expected), (state.h, h), (state.c, c)):
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=0, atol=tolerance)


def test_dropout_between_layers_comes_along():
    ours = gl.LSTM(4, 3, 2, dropout=0.25, rng=0)
    module = to_torch(ours)
    assert module.dropout == 0.25
    assert_same(ours, gl.LSTM.from_torch(module))
    assert to_torch(ours, ignore=("dropout",)).dropout == 0


@pytest.mark.parametrize("name", NOT_HELD)
def test_what_pytorch_lacks_is_refused_by_name(name):
    ours = gl.LSTM(4, 3, **NOT_HELD[name], rng=0)
    with pytest.raises(ValueError, match=f"torch.nn.LSTM cannot hold {name}=.*drop_in=True"):
        to_torch(ours)


ALL = NOT_HELD | {
    "plain": {},
    "everything": {
        "num_layers": 2,
        "batch_first": True,
        "bidirectional": True,
        "proj_size": 2,
        "dropout": 0.5,
        "peephole": True,
        "layer_norm": True,
        "zoneout": (0.1, 0.2),
        "recurrent_dropout": 0.3,
        "recurrent_dropout_on": "candidate",
        "activations": (("hard_sigmoid", 0.25, 0.5), "softsign", "relu"),
    },
}


@pytest.mark.parametrize("options", ALL.values(), ids=ALL)
def test_the_drop_in_holds_every_option(options):
    dtype, tolerance = ("float32", 1e-6) if "tf32" in options else ("float64", 1e-14)
    ours = gl.LSTM(4, 3, **options, dtype=dtype, rng=0)
    module = to_torch(ours, drop_in=True).eval()
    assert_same(ours, gl.LSTM.from_torch(module))
    x = np.random.default_rng(1).normal(size=(5, 2, 4)).astype(dtype)
    expected, state = ours(x)
    y, (h, c) = module(torch.tensor(x))
    for found, wanted in ((y, expected), (h, state.h), (c, state.c)):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=tolerance)


def test_every_option_is_either_held_or_refused():
    import inspect

    begins = {"input_size", "hidden_size", "dtype", "xp", "rng", "init", "forget_bias", "chrono"}
    options = set(inspect.signature(gl.LSTM).parameters) - begins
    assert options == set(HELD[0]) | set(NOT_HELD) | {"dropout", "recurrent_dropout_on"}


def test_what_acts_in_training_alone_can_be_left_out_by_name():
    ours = gl.LSTM(4, 3, 2, recurrent_dropout=0.2, recurrent_dropout_on="candidate", weight_drop=0.1, rng=0)
    with pytest.raises(
        ValueError, match=r"ignore=\('recurrent_dropout', 'weight_drop', 'recurrent_dropout_on'\)|ignore="
    ):
        to_torch(ours)
    module = to_torch(ours, ignore=("recurrent_dropout", "recurrent_dropout_on", "weight_drop"))
    x = np.ones((3, 2, 4), "float32")
    np.testing.assert_allclose(ours(x)[0], module(torch.tensor(x))[0].detach().numpy(), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="ignore may name .*got 'zoneout', which would change the numbers"):
        to_torch(gl.LSTM(4, 3, zoneout=0.1), ignore=("zoneout",))
    with pytest.raises(TypeError, match="ignore must be a tuple of option names, got 'dropout'"):
        to_torch(ours, ignore="dropout")


def test_from_any_library_to_pytorch():
    for name in ("equations", "cupy-on-cpu"):
        with open_backend(name) as backend:
            ours = gl.LSTM(4, 3, rng=0)
            wanted = {key: value.copy() for key, value in ours.params.items()}
            ours.params = backend.array(ours.params)
            weights = to_torch(ours).state_dict()
            np.testing.assert_array_equal(weights["weight_hh_l0"].numpy(), wanted["weight_hh_l0"])


def test_it_is_a_copy():
    ours = gl.LSTM(4, 3, rng=0)
    module = to_torch(ours)
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    assert ours.params["weight_ih_l0"].any()
    with pytest.raises(TypeError, match="lstm must be a gpulstm.LSTM, got LSTM|got Linear"):
        to_torch(torch.nn.Linear(2, 2))


class Tagger(torch.nn.Module):
    """A whole model, as somebody else's state dict has it."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.lstm = torch.nn.LSTM(4, 3, num_layers=2, bidirectional=True)
        if twice:
            self.decoder = torch.nn.Sequential(torch.nn.LSTM(6, 5))


def test_the_one_lstm_of_a_whole_model_is_found():
    torch.manual_seed(0)
    model = Tagger(twice=False)
    ours = gl.LSTM.from_torch(model.state_dict())
    x = np.random.default_rng(0).normal(size=(5, 2, 4)).astype("float32")
    expected = model.lstm(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(ours(x)[0], expected, rtol=0, atol=1e-6)
    other = gl.LSTM(4, 3, 2, bidirectional=True)
    other.load_state_dict(model.state_dict())
    assert_same(ours, other)


def test_of_several_lstms_the_prefix_picks_one():
    torch.manual_seed(0)
    weights = Tagger(twice=True).state_dict()
    with pytest.raises(ValueError, match="prefix must say which LSTM to take out of 'lstm', 'decoder.0', got None"):
        gl.LSTM.from_torch(weights)
    with pytest.raises(ValueError, match="prefix must name an LSTM .* one of 'lstm', 'decoder.0', got 'decoder'"):
        gl.LSTM.from_torch(weights, prefix="decoder")
    for prefix in ("decoder.0", "decoder.0."):
        assert gl.LSTM.from_torch(weights, prefix=prefix).layout.hidden_size == 5
    assert gl.LSTM.from_torch(weights, prefix="lstm").layout.num_layers == 2
    alone = {name.removeprefix("lstm."): value for name, value in weights.items() if name.startswith("lstm.")}
    assert gl.LSTM.from_torch(alone, prefix="").layout.num_layers == 2
    with pytest.raises(ValueError, match="one of none, got 'lstm'"):
        gl.LSTM.from_torch({"embedding.weight": np.ones((2, 2))}, prefix="lstm")
    with pytest.raises(ValueError, match="missing weight_hh_l1_reverse"):
        gl.LSTM.from_torch(
            {name: value for name, value in weights.items() if "hh_l1_reverse" not in name}, prefix="lstm"
        )
