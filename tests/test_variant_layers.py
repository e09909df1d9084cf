"""The LSTM layer with its options: parameters, PyTorch's modules, gates, printing; and the plain LSTM left alone."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm.functional import lstm_inference
from gpulstm.options import PLAIN
from tests import problems, variant_cases
from tests.variant_cases import ALONE, COMBINATIONS

SIZES = {"_l0": 4, "_l0_reverse": 4, "_l1": 10, "_l1_reverse": 10}  # suffix -> inputs, of hidden 5 in two directions
OF_TRAINING = ("dropout", "recurrent_dropout", "recurrent_dropout on the candidate", "weight_drop")


def two_layers(**options):
    return gl.LSTM(4, 5, 2, bidirectional=True, dtype="float64", rng=0, **options)


def shapes(lstm) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in lstm.params.items()}


def layer_of(case: variant_cases.Case, **arguments):
    """A layer with a case's parameters and options."""
    lstm = gl.LSTM(
        case.input_size,
        case.hidden_size,
        case.num_layers,
        bias="bias_l0" in case.params,
        bidirectional=case.directions == 2,
        batch_first=case.batch_first,
        proj_size=case.proj_size,
        peephole="weight_peephole_l0" in case.params,
        layer_norm="weight_norm_c_l0" in case.params,
        dtype="float64",
        **case.options,
        **arguments,
    )
    lstm.load_state_dict(case.params)
    return lstm


class TestParameters:
    def test_peephole(self):
        added = {"weight_peephole" + suffix: (15,) for suffix in SIZES}
        assert shapes(two_layers(peephole=True)) == shapes(two_layers()) | added

    def test_layer_norm(self):
        added = {kind + suffix: (20,) for suffix in SIZES for kind in ("weight_norm_ih", "weight_norm_hh")}
        added |= {kind + suffix: (5,) for suffix in SIZES for kind in ("weight_norm_c", "bias_norm_c")}
        lstm = two_layers(layer_norm=True)
        assert shapes(lstm) == shapes(two_layers()) | added
        for name in added:
            assert (lstm.params[name] == float(name.startswith("weight"))).all(), (
                "it begins as the normalisation itself"
            )

    @pytest.mark.parametrize("layers, directions", [(1, 1), (2, 1), (3, 2)])
    def test_projection_is_pytorchs(self, layers, directions):
        theirs = torch.nn.LSTM(4, 5, layers, proj_size=2, bidirectional=directions == 2).state_dict()
        expected = {k.replace("bias_ih", "bias"): tuple(v.shape) for k, v in theirs.items() if "bias_hh" not in k}
        assert shapes(gl.LSTM(4, 5, layers, proj_size=2, bidirectional=directions == 2)) == expected

    @pytest.mark.parametrize(
        "options",
        [{"coupled": True}, {"cell_clip": 1.0}, {"activations": ("relu", "relu", "relu")}, {"dropout": 0.1},
         {"recurrent_dropout": 0.1}, {"zoneout": 0.1}, {"weight_drop": 0.1}],
        ids=str,
    )  # fmt: skip
    def test_the_others_have_none_and_begin_alike(self, options):
        problems.assert_same_bits(two_layers(**options).params, two_layers().params)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_one_seed_gives_one_set_of_parameters_everywhere(self, backend, dtype):
        options = {"proj_size": 3, "peephole": True, "layer_norm": True, "dtype": dtype, "rng": 7}
        theirs = gl.LSTM(4, 5, xp=backend.xp, **options).params
        problems.assert_same_bits(backend.numpy(theirs), gl.LSTM(4, 5, **options).params)

    def test_what_the_gradients_are_of(self, backend):
        """Same keys, same order, same shapes and dtype as the parameters."""
        for seed in COMBINATIONS[::12]:
            case = variant_cases.combination(seed)
            lstm = layer_of(case, xp=backend.xp)
            y, final, cache = lstm.forward(backend.array(case.x), rng=1)
            dx, grads, dstate = lstm.backward(cache, y, final)
            assert {k: (tuple(v.shape), v.dtype) for k, v in grads.items()} == {
                k: (tuple(v.shape), v.dtype) for k, v in lstm.params.items()
            }
            assert tuple(dx.shape) == case.x.shape
            assert tuple(dstate.h.shape) == case.dstate[0].shape and tuple(dstate.c.shape) == case.dstate[1].shape


class TestLayerAndFunctions:
    """A layer hands its options over: the same bits as the functions give."""

    @pytest.mark.parametrize("seed", COMBINATIONS[::5])
    def test_same_bits(self, backend, seed):
        case = variant_cases.combination(seed)
        expected = variant_cases.ours(case, backend)
        lstm = layer_of(case, xp=backend.xp)
        x, state = backend.array(case.x), backend.array(case.state)
        inferred, inferred_state = lstm(x, state, lengths=case.lengths)
        y, final, cache = lstm.forward(x, state, lengths=case.lengths, rng=case.rng)
        dx, grads, dinitial = lstm.backward(cache, backend.array(case.dy), backend.array(case.dstate))
        found = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
        found |= {"d" + name: d for name, d in grads.items()}
        found |= {"inference y": inferred, "inference h": inferred_state.h, "inference c": inferred_state.c}
        problems.assert_same_bits(backend.numpy(found), expected)

    @pytest.mark.parametrize("name", ["proj_size", "zoneout", "layer_norm"])
    def test_without_a_batch_axis(self, backend, name):
        case = variant_cases.alone(name)
        lstm = layer_of(case, xp=backend.xp)
        y, final, cache = lstm.forward(backend.array(case.x[:, 0]), rng=3)
        batched, batched_final, _ = lstm.forward(backend.array(case.x[:, :1]), rng=3)
        found = backend.numpy({"y": y, "h": final.h, "c": final.c})
        expected = backend.numpy({"y": batched, "h": batched_final.h, "c": batched_final.c})
        problems.assert_same_bits(found, {key: value[:, 0] for key, value in expected.items()})
        dx, _, dstate = lstm.backward(cache, y)
        assert tuple(dx.shape) == (3, 2) and dstate.c.ndim == 2

    @pytest.mark.parametrize("steps, batch", [(0, 2), (3, 0)])
    def test_nothing_to_compute(self, backend, steps, batch):
        case = variant_cases.alone("proj_size")
        lstm = layer_of(case, xp=backend.xp)
        y, final, cache = lstm.forward(backend.array(np.zeros((steps, batch, 2))))
        assert tuple(y.shape) == (steps, batch, 4)
        assert tuple(final.h.shape) == (4, batch, 2) and tuple(final.c.shape) == (4, batch, 3)
        _, grads, _ = lstm.backward(cache, y)
        assert {k: tuple(v.shape) for k, v in grads.items()} == shapes(lstm)


DEFAULTS = {
    "coupled": False,
    "cell_clip": None,
    "activations": ("sigmoid", "tanh", "tanh"),
    "dropout": 0.0,
    "recurrent_dropout": 0,
    "recurrent_dropout_on": "candidate",
    "zoneout": (0.0, 0),
    "weight_drop": np.float32(0),
}


class TestPlainStaysPlain:
    def given(self):
        return problems.problem(layers=2, directions=2, lengths=[3, 0, 5])

    def test_options_at_their_defaults_change_no_bit(self, backend):
        given = self.given()
        x, params, state = (backend.array(a) for a in (given.x, given.params, given.state))
        y, final, cache = gl.lstm_forward(x, params, state, lengths=given.lengths, options=DEFAULTS, rng=5)
        dx, grads, dinitial = gl.lstm_backward(cache, backend.array(given.dy), backend.array(given.dstate))
        found = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
        found |= {"d" + name: d for name, d in grads.items()}
        problems.assert_same_bits(backend.numpy(found), problems.solve(backend, given))

    @pytest.mark.parametrize("name", OF_TRAINING)
    def test_inference_with_options_of_training_alone(self, backend, name):
        given = self.given()
        x, params, state = (backend.array(a) for a in (given.x, given.params, given.state))
        y, final = lstm_inference(x, params, state, lengths=given.lengths, options=ALONE[name])
        found = backend.numpy({"y": y, "h": final.h, "c": final.c})
        problems.assert_same_bits(found, problems.infer(backend, given))

    def test_the_variants_equations_without_a_variant_are_the_plain_ones(self, backend):
        """The path that the options take, on a plain LSTM: a clip too wide to act."""
        given = self.given()
        x, params, state = (backend.array(a) for a in (given.x, given.params, given.state))
        options = {"cell_clip": 1e6}
        y, final, cache = gl.lstm_forward(x, params, state, lengths=given.lengths, options=options)
        dx, grads, dinitial = gl.lstm_backward(cache, backend.array(given.dy), backend.array(given.dstate))
        found = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
        found |= {"d" + name: d for name, d in grads.items()}
        problems.assert_close(backend.numpy(found), problems.solve(backend, given))


class TestFromTorch:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("directions", [1, 2])
    @pytest.mark.parametrize("layers", [1, 2])
    def test_projection(self, backend, layers, directions, bias):
        torch.manual_seed(layers)
        module = torch.nn.LSTM(4, 5, layers, bias, True, 0.0, directions == 2, 3, dtype=torch.float64)
        lstm = gl.LSTM.from_torch(module, xp=backend.xp)
        assert lstm.layout.proj_size == 3 and lstm.layout.hidden_size == 5 and lstm.batch_first
        for name in ("weight_ih", "weight_hh", "weight_hr"):
            ours, theirs = lstm.params[name + "_l0"], getattr(module, name + "_l0").detach().numpy()
            assert backend.numpy(ours).tobytes() == theirs.tobytes(), name
        x = torch.randn(2, 6, 4, dtype=torch.float64)
        y, (h, c) = module(x)
        found, state = lstm(backend.array(x.numpy()))
        for ours, theirs in ((found, y), (state.h, h), (state.c, c)):
            np.testing.assert_allclose(backend.numpy(ours), theirs.detach().numpy(), rtol=0, atol=1e-12)

    def test_projection_of_a_state_dict(self):
        lstm = gl.LSTM.from_torch(torch.nn.LSTM(4, 5, 2, proj_size=3).state_dict())
        assert (lstm.layout.input_size, lstm.layout.hidden_size, lstm.layout.proj_size) == (4, 5, 3)
        assert shapes(lstm) == shapes(gl.LSTM(4, 5, 2, proj_size=3))

    def test_dropout(self):
        module = torch.nn.LSTM(4, 5, 2, dropout=0.3)
        lstm = gl.LSTM.from_torch(module)
        assert lstm.options.dropout == 0.3
        x = torch.randn(3, 2, 4)
        np.testing.assert_allclose(lstm(x.numpy())[0], module.eval()(x)[0].detach().numpy(), rtol=0, atol=1e-5)
        assert (lstm.forward(x.numpy(), rng=0)[0] != lstm(x.numpy())[0]).any()

    def test_dropout_that_pytorch_ignores(self):
        """PyTorch warns of a dropout with one layer and does nothing with it."""
        with pytest.warns(UserWarning, match="dropout"):
            module = torch.nn.LSTM(4, 5, 1, dropout=0.3)
        assert gl.LSTM.from_torch(module).options == PLAIN

    def test_a_state_dict_of_our_own(self):
        ours = two_layers(proj_size=3, peephole=True, layer_norm=True)
        again = gl.LSTM.from_torch(ours.params)
        assert again.layout == ours.layout
        problems.assert_same_bits(again.params, ours.params)


class TestLoading:
    def test_projection_with_two_biases(self):
        module = torch.nn.LSTM(4, 5, 2, proj_size=3, bidirectional=True, dtype=torch.float64)
        lstm = two_layers(proj_size=3)
        lstm.load_state_dict(module.state_dict())
        np.testing.assert_array_equal(lstm.params["weight_hr_l1_reverse"], module.weight_hr_l1_reverse.detach().numpy())
        bias = (module.bias_ih_l1 + module.bias_hh_l1).detach().numpy()
        np.testing.assert_array_equal(lstm.params["bias_l1"], bias)

    @pytest.mark.parametrize("options", [{"proj_size": 3}, {"peephole": True}, {"layer_norm": True}], ids=str)
    def test_our_own(self, backend, options):
        source = two_layers(**options)
        target = gl.LSTM(4, 5, 2, bidirectional=True, dtype="float64", xp=backend.xp, rng=1, **options)
        target.load_state_dict(source.params)
        problems.assert_same_bits(backend.numpy(target.params), source.params)
        with pytest.raises(ValueError, match="unexpected"):
            two_layers().load_state_dict(source.params)
        with pytest.raises(ValueError, match="missing"):
            source.load_state_dict(two_layers().params)


class TestGate:
    def test_with_a_projection_it_multiplies_the_projected_state(self, backend):
        case = variant_cases.alone("proj_size")
        lstm = layer_of(case, xp=backend.xp)
        for row, name in enumerate(("input", "forget", "candidate", "output")):
            gate = lstm.gate(name, 1, reverse=True)
            rows = slice(row * 3, (row + 1) * 3)
            expected = [case.params[kind + "_l1_reverse"][rows] for kind in ("weight_hh", "weight_ih")]
            np.testing.assert_array_equal(backend.numpy(gate.weight), np.concatenate(expected, axis=1))
            np.testing.assert_array_equal(backend.numpy(gate.bias), case.params["bias_l1_reverse"][rows])

    @pytest.mark.parametrize("name", ["peephole", "layer_norm", "coupled", "zoneout"])
    def test_shapes_with_the_other_options(self, name):
        gate = layer_of(variant_cases.alone(name)).gate("forget")
        assert gate.weight.shape == (3, 3 + 2) and gate.bias.shape == (3,)


LAYERS = ALONE | {
    "everything": {"proj_size": 2, "peephole": True, "layer_norm": True, "coupled": True, "cell_clip": 3,
                   "activations": (("hard_sigmoid", 0.3, 0.4), "softsign", ("affine", 2)), "dropout": 0.1,
                   "recurrent_dropout": 0.2, "recurrent_dropout_on": "candidate", "zoneout": [0.3, 0.4],
                   "weight_drop": 0.25, "batch_first": True, "bidirectional": True}
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
class TestAsAnObject:
    def layer(self, name):
        return gl.LSTM(4, 5, 2, **LAYERS[name])

    def test_repr_makes_the_same_layer(self, name):
        lstm = self.layer(name)
        again = eval(repr(lstm), {"LSTM": gl.LSTM})
        assert (again.layout, again.options, again.batch_first) == (lstm.layout, lstm.options, lstm.batch_first)
        assert repr(again) == repr(lstm)

    def test_repr_says_what_is_not_plain_and_no_more(self, name):
        named = set(re.findall(r"(\w+)=", repr(self.layer(name))))
        assert named == {"num_layers", "dtype", *LAYERS[name]}

    def test_copies_and_pickles(self, name):
        lstm = self.layer(name)
        x = np.ones((3, 2, 4), np.float32).swapaxes(0, 1 if LAYERS[name].get("batch_first") else 0)
        expected = lstm.forward(x, rng=1)[0]
        for again in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
            assert again.forward(x, rng=1)[0].tobytes() == expected.tobytes()


def test_options_as_checked():
    lstm = gl.LSTM(4, 5, 2, zoneout=0.1, cell_clip=3, activations=["sigmoid", ("affine", 2), "tanh"], dropout=0)
    assert lstm.options.zoneout == (0.1, 0.1) and lstm.options.cell_clip == 3.0
    assert [tuple(each) for each in lstm.options.activations] == [("sigmoid", 0, 0), ("affine", 2, 0), ("tanh", 0, 0)]
    assert gl.LSTM(4, 5).options == PLAIN and not PLAIN.is_random and PLAIN.changed() == []
    assert sorted(lstm.options.changed()) == ["activations", "cell_clip", "zoneout"]
