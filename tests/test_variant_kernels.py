"""The LSTM's options on CuPy arrays: the kernels against NumPy, mask for mask and number for number."""

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import activations, masks, options, philox
from gpulstm.cuda import sources
from gpulstm.engines import cupy_masks
from gpulstm.engines.cupy_variant_engine import ACTIVATION_NUMBERS, CupyVariantEngine
from gpulstm.functional import lstm_inference
from gpulstm.masks import Draws
from tests import backends, variant_kernel_cases
from tests.backends import Backend
from tests.cuda_on_cpu import cupy_on_cpu
from tests.variant_kernel_cases import (
    ALONE,
    RUNS,
    case,
    check,
    float32_errors,
    float32_tolerances,
    neighbour,
    random_case,
    train,
)

BACKENDS = backends.KERNELS
DTYPES = ("float64", "float32")
CASES = range(40)
SEED = 0x123456789ABCDEF0


class TestAgainstNumpy:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("run", RUNS)
    @pytest.mark.parametrize("lengths", [None, (5, 0, 3)], ids=["no lengths", "lengths"])
    @pytest.mark.parametrize("name", ALONE)
    def test_each_option_alone(self, backend, name, lengths, run, dtype):
        for bidirectional in (False, True):
            check(backend, case(lengths=lengths, bidirectional=bidirectional, **ALONE[name]), run, dtype)

    @pytest.mark.parametrize("run", RUNS)
    @pytest.mark.parametrize(
        ("number", "dtype"), [*((k, "float64") for k in CASES), *((k, "float32") for k in CASES[::4])]
    )
    def test_combinations(self, backend, number, dtype, run):
        check(backend, random_case(number), run, dtype)

    @pytest.mark.parametrize("number", [2, 18, 32])
    def test_what_float32_may_be_off_by_does_not_hang_on_luck(self, number):
        given = random_case(number)
        tolerances = float32_tolerances(given, "training")
        for seed in range(100, 112):
            for name, off in float32_errors(neighbour(given, seed), "training").items():
                assert off <= tolerances[name], name

    @pytest.mark.parametrize("run", RUNS)
    @pytest.mark.parametrize("layer_norm", [False, True])
    @pytest.mark.parametrize("hidden", [31, 33, 257, 600])
    def test_rows_of_more_and_less_than_a_block(self, backend, hidden, layer_norm, run):
        sizes = {"steps": 2, "batch": 3, "hidden": hidden, "lengths": (2, 0, 1)}
        check(backend, case(**sizes, layer_norm=layer_norm, peephole=True, zoneout=0.3), run, "float64")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("steps, sequences", [(2, 3), (1, 2)])
    def test_inference_in_tiles(self, backend, monkeypatch, steps, sequences, dtype):
        for number in range(12):
            given = case(number, lengths=(5, 0, 3), num_layers=2, bidirectional=number % 2 > 0, **EVERYTHING)
            row = 4 * given.layout.hidden_size * np.dtype(dtype).itemsize
            monkeypatch.setattr(CupyVariantEngine, "GATE_BUFFER_BYTES", steps * sequences * row)
            check(backend, given, "inference", dtype)

    def test_the_combinations_cover_what_they_claim(self):
        cases = [random_case(number) for number in CASES]
        changed = [set(c.options.changed()) for c in cases]
        for name in options.PLAIN.__dataclass_fields__.keys() - {"tf32"}:  # float32 alone: tests/test_tf32.py
            assert sum(name in each for each in changed) >= 4, name
        lengths = [c.arrays["lengths"] for c in cases if c.arrays["lengths"] is not None]
        assert len(lengths) >= 15 and all(0 in each for each in lengths)
        layouts = [c.layout for c in cases]
        for name in ("bidirectional", "bias", "proj_size", "peephole", "layer_norm"):
            assert 4 <= sum(bool(getattr(each, name)) for each in layouts) <= len(cases) - 4, name
        assert {each.num_layers for each in layouts} == {1, 2}
        assert min(c.arrays["x"].shape[1] for c in cases) >= 2

    @pytest.mark.parametrize("name", ALONE)
    def test_the_same_bits_twice(self, backend, name):
        given = case(lengths=(5, 0, 3), **ALONE[name])
        one, two = (train(backend, given, "float32") for _ in range(2))
        assert all(one[key].tobytes() == two[key].tobytes() for key in one)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_where_the_clip_holds_no_gradient_passes(self, backend, dtype):
        """A bound so low that it holds everywhere: values at both ends, slopes exactly zero."""
        for kinds in (("sigmoid", "tanh", "tanh"), (("affine", -0.7, 0.3), "softsign", ("affine", 1.1, 0.2))):
            given = case(cell_clip=1e-5, activations=kinds, peephole=True)
            found = train(backend, given, dtype)
            assert not found["dx"].any() and not found["dweight_ih_l0"].any() and not found["dweight_peephole_l0"].any()
            assert found["dc"].any()


EVERYTHING = {
    "proj_size": 5,
    "peephole": True,
    "layer_norm": True,
    "coupled": True,
    "cell_clip": 0.8,
    "zoneout": (0.2, 0.4),
    "recurrent_dropout": 0.2,
    "weight_drop": 0.3,
    "dropout": 0.2,
}


class TestMasks:
    """Bit for bit those of `gpulstm.masks`."""

    def test_philox_gives_the_published_words(self, backend):
        """Known answers of Random123: Philox4x32-10 with nothing but zeros and nothing but ones."""
        ones = 0xFFFFFFFF
        assert self.words(backend, 0, (0, 0, 0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
        assert self.words(backend, 2**64 - 1, (ones,) * 4) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]

    def test_philox_gives_what_numpy_gives(self, backend):
        rng = np.random.default_rng(0)
        for seed in (1, 2**32, SEED):
            counter = tuple(int(n) for n in rng.integers(2**32, size=4))
            assert self.words(backend, seed, counter) == [int(word) for word in philox.words(seed, counter)]

    def words(self, backend, seed: int, counter: tuple[int, int, int, int]) -> list[int]:
        source = sources.read("masked_copy.cu") + WORDS
        kernel = backend.xp.RawModule(code=source, options=("--std=c++14", "-DREAL=float")).get_function("words")
        out = backend.xp.zeros(4, "uint32")
        arguments = (seed & 0xFFFFFFFF, seed >> 32, counter[3], *counter[:3])
        kernel((1,), (1,), (out, *(np.uint32(n) for n in arguments)))
        return [int(word) for word in out.get()]

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("probability", [0.3, 1e-12])
    def test_masked_copies(self, backend, dtype, probability):
        made = options.checked(dropout=probability, weight_drop=probability)
        draws, like = Draws(made, SEED), np.zeros(1, dtype)
        between = self.copied(backend, draws, (5, 3, 7), dtype, masks.DROPOUT_STREAM + 2, probability, 3, 0)
        np.testing.assert_array_equal(between, draws.between(2, (5, 3, 7), like), strict=True)
        weight = self.copied(backend, draws, (300, 7), dtype, masks.WEIGHT_STREAM + 3, probability, 300, 0)
        np.testing.assert_array_equal(weight, draws.weight(3, (300, 7), like), strict=True)
        last = masks.WHOLE_SEQUENCE
        hidden = self.copied(backend, draws, (3, 7), dtype, 5, probability, 3, last)
        np.testing.assert_array_equal(hidden, draws.kept(5, last, 3, 7, probability, like), strict=True)

    def copied(self, backend, draws, shape, dtype, stream, probability, batch, first_time):
        ones, target = backend.xp.ones(shape, dtype), backend.xp.empty(shape, dtype)
        arguments = (draws, stream, probability)
        cupy_masks.masked_copy(ones, target, *arguments, batch=batch, first_time=first_time)
        cupy_masks.masked_copy(ones, ones, *arguments, batch=batch, first_time=first_time)
        np.testing.assert_array_equal(ones.get(), target.get())  # source and target may be the same
        return target.get()

    # The weights below make h or c the mask itself, or a count that tells at which steps it was kept.
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_recurrent_dropout_of_h(self, backend, dtype):
        """o = i = 1, f = 0 and g = h_in: each step multiplies h by its mask once more."""
        y, _, mask = self.run(backend, dtype, {"recurrent_dropout": 0.3}, h0=1.0, g_of_h=1.0)
        wanted = mask(0).hidden
        for t in range(STEPS):
            np.testing.assert_array_equal(y[t], wanted, strict=True)
            wanted = wanted * mask(0).hidden

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dropout_of_the_candidate(self, backend, dtype):
        """f = 0 and i = g = 1: c is the mask, another one at each step."""
        made = {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate"}
        y, _, mask = self.run(backend, dtype, made, g=1.0)
        for t in range(STEPS):
            np.testing.assert_array_equal(y[t], mask(t).candidate, strict=True)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("projected", [False, True])
    def test_zoneout_of_h(self, backend, dtype, projected):
        """h* counts the steps, so h is the number of the last step that did not keep it."""
        y, _, mask = self.run(backend, dtype, {"zoneout": (0.4, 0.0)}, g=1.0, f=1.0, projected=projected)
        h = np.zeros_like(y[0])
        for t in range(STEPS):
            h = np.where(mask(t).zone_h == 1, h, np.asarray(t + 1, dtype))
            np.testing.assert_array_equal(y[t], h, strict=True)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_zoneout_of_c(self, backend, dtype):
        """c* is c + 1, so c is the number of steps that did not keep it."""
        _, c, mask = self.run(backend, dtype, {"zoneout": (0.0, 0.4)}, g=1.0, f=1.0)
        np.testing.assert_array_equal(c, sum(1 - mask(t).zone_c for t in range(STEPS)), strict=True)

    def run(self, backend, dtype, made, *, h0=0.0, g_of_h=0.0, g=0.0, f=0.0, projected=False):
        """y, final c and the masks by time, of gates that are what their bias says: everything is affine."""
        made = options.checked(**made, activations=("affine", "affine", "affine"))
        batch, hidden = 3, 37
        params = {"weight_ih_l0": np.zeros((4 * hidden, 2)), "weight_hh_l0": np.zeros((4 * hidden, hidden))}
        params["weight_hh_l0"][2 * hidden : 3 * hidden] = g_of_h * np.eye(hidden)
        params["bias_l0"] = np.repeat([1.0, f, g, 1.0], hidden)
        if projected:
            params["weight_hr_l0"] = np.eye(hidden)
        params = backend.array({name: value.astype(dtype) for name, value in params.items()})
        state = tuple(backend.array(np.full((1, batch, hidden), value, dtype)) for value in (h0, 0.0))
        x = backend.array(np.zeros((STEPS, batch, 2), dtype))
        y, final, _ = gl.lstm_forward(x, params, state, options=made, rng=SEED)
        draws, like = Draws(made, SEED), np.zeros(1, dtype)
        return y.get(), final.c.get()[0], draws.steps(0, range(STEPS), batch, hidden, hidden, like)


STEPS = 6
WORDS = """
extern "C" __global__ void words(unsigned int* out, unsigned int seed_low, unsigned int seed_high, unsigned int stream,
                                 unsigned int unit, unsigned int sequence, unsigned int time) {
    const Words w = philox(Stream{seed_low, seed_high, stream}, unit, sequence, time);
    out[0] = w.x0;
    out[1] = w.x1;
    out[2] = w.x2;
    out[3] = w.x3;
}
"""


class TestNotANumber:
    """With lengths, nothing leaks: neither from the padding, nor from another sequence, nor from an empty one."""

    @pytest.mark.parametrize("run", RUNS)
    @pytest.mark.parametrize("name", ALONE)
    def test_padding(self, backend, name, run):
        given = case(lengths=(5, 0, 3), bidirectional=True, **ALONE[name])
        x, dy = given.arrays["x"].copy(), given.arrays["dy"].copy()
        for array in (x, dy):
            array[:, 1], array[3:, 2] = np.nan, np.inf
        found, wanted = (RUNS[run](backend, each, "float64") for each in (given.but(x=x, dy=dy), given))
        for key in wanted:
            np.testing.assert_array_equal(found[key], wanted[key], err_msg=key)

    @pytest.mark.parametrize("name", [name for name in ALONE if name != "dropout"])  # which is the plain engine's
    def test_a_weight_that_is_not_a_number(self, backend, name):
        """It is nobody's business to an empty sequence, whose state's gradient passes through."""
        given = case(lengths=(5, 0, 3), **{**ALONE[name], "num_layers": 1})
        params = given.arrays["params"] | {"weight_hh_l0": given.arrays["params"]["weight_hh_l0"] * np.float32(np.nan)}
        found = train(backend, given.but(params=params), "float32")
        for key, before in zip(("dh", "dc"), given.arrays["dstate"], strict=True):
            np.testing.assert_array_equal(found[key][:, 1], before[:, 1])
            assert np.isnan(found[key][:, 0]).any()
        assert not found["y"][:, 1].any()

    @pytest.mark.parametrize("name", ALONE)
    def test_an_empty_sequence_with_a_state_that_is_not_a_number(self, backend, name):
        given = case(lengths=(5, 0, 3), bidirectional=True, **ALONE[name])
        state = tuple(a.copy() for a in given.arrays["state"])
        for part in state:
            part[:, 1] = np.nan
        found, wanted = train(backend, given.but(state=state), "float64"), train(backend, given, "float64")
        for key in wanted:
            if key in ("h", "c"):
                assert np.isnan(found[key][:, 1]).all()
                found[key][:, 1] = wanted[key][:, 1]
            np.testing.assert_array_equal(found[key], wanted[key], err_msg=key)

    @pytest.mark.parametrize("name", ALONE)
    def test_another_sequence(self, backend, name):
        given = case(lengths=(5, 2, 3), bidirectional=True, **ALONE[name])
        x = given.arrays["x"].copy()
        x[1, 1, 0] = np.nan
        found, wanted = train(backend, given.but(x=x), "float64"), train(backend, given, "float64")
        assert np.isnan(found["y"][:2, 1]).any() and np.isnan(found["dweight_ih_l0"]).any()
        for key in ("y", "h", "c", "dx", "dh", "dc"):
            np.testing.assert_array_equal(found[key][:, [0, 2]], wanted[key][:, [0, 2]], err_msg=key)

    @pytest.mark.parametrize("run", RUNS)
    @pytest.mark.parametrize("name", ALONE)
    def test_it_spreads_as_in_numpy(self, backend, name, run):
        given = case(**ALONE[name])
        x = given.arrays["x"].copy()
        x[1, 1, 0] = np.nan
        found, wanted = (RUNS[run](b, given.but(x=x), "float64") for b in (backend, Backend("numpy", np)))
        for key in wanted:
            np.testing.assert_array_equal(np.isnan(found[key]), np.isnan(wanted[key]), err_msg=key)


class TestOnTheCpu:
    """What only the stand-in can do."""

    BACKENDS = (backends.CUPY_ON_CPU,)

    @pytest.mark.parametrize("order", ["descending", "random"])
    def test_thread_orders(self, order):
        with cupy_on_cpu(thread_order=order, seed=3) as cupy:
            for number in CASES[::2]:
                for run in RUNS:
                    check(Backend(backends.CUPY_ON_CPU, cupy), random_case(number), run, "float64")

    @pytest.mark.parametrize(
        ("name", "mode"),
        [
            *((name, "asan") for name in ("layer norm", "layer norm and projection", "zoneout", "projection")),
            # In the others a thread never reads what another one has written; with a projection too: the next test.
            ("layer norm", "tsan"),
        ],
    )
    def test_sanitizers(self, name, mode):
        given = case(steps=2, hidden=37, lengths=(2, 0, 1), **ALONE[name])
        with cupy_on_cpu(mode, thread_order="random", seed=1) as cupy:
            for run in ["training"] if mode == "tsan" else RUNS:  # inference launches no other kernels
                check(Backend(backends.CUPY_ON_CPU, cupy), given, run, "float32")

    @pytest.mark.parametrize("mode", ["asan", "tsan"])
    def test_sanitizers_with_everything(self, mode):
        few = mode == "tsan"  # starts an OS thread for each CUDA thread, which takes its time
        sizes = {"num_layers": 1 if few else 2, "bidirectional": not few}
        given = case(steps=2, hidden=35, lengths=(2, 0, 1), **EVERYTHING | sizes)
        with cupy_on_cpu(mode, thread_order="random", seed=2) as cupy:
            for run in ["training"] if few else RUNS:
                check(Backend(backends.CUPY_ON_CPU, cupy), given, run, "float32" if few else "float64")

    @pytest.mark.parametrize("lengths", [None, (5, 0, 3)], ids=["no lengths", "lengths"])
    @pytest.mark.parametrize("layer_norm", [False, True])
    @pytest.mark.parametrize("projected", [False, True])
    def test_launches(self, backend, projected, layer_norm, lengths):
        """A step is one product and one kernel, with a projection two of each; nothing else is in the loop."""
        steps, runs = 5, 4
        sizes = {"num_layers": 2, "bidirectional": True, "lengths": lengths}
        given = case(proj_size=3 * projected, layer_norm=layer_norm, zoneout=0.2, **sizes)
        a = backend.array({name: given.of("float32")[name] for name in ("x", "params", "state", "dy", "dstate")})
        kept = []
        arguments = (a["x"], a["params"], a["state"])
        step = steps * runs
        products = step * (1 + projected)

        forward = {"lstm_variant_cell_forward": step}
        backward = {"lstm_variant_cell_backward": step, "lstm_variant_initial_gradient": runs}
        backward["column_sum"] = runs * (1 + layer_norm)
        if projected:
            forward["lstm_variant_output_forward"] = backward["lstm_variant_output_backward"] = step
        training = backend.counted(
            lambda: kept.append(gl.lstm_forward(*arguments, lengths=lengths, options=given.options)[2])
        )
        assert training == (forward | ({"without_padding": 1} if lengths else {}), products + runs)
        assert backend.counted(lambda: gl.lstm_backward(kept[0], a["dy"], a["dstate"])) == (
            backward,
            products + runs * (3 + projected),
        )
        inference = backend.counted(lambda: lstm_inference(*arguments, lengths=lengths, options=given.options))
        assert inference == (forward, products + runs)

    def test_launches_of_masks(self, backend):
        """Weight drop once for each direction, and again for its gradient; dropout once between the layers, both ways;
        recurrent dropout once for each direction's initial state."""
        made = {"weight_drop": 0.2, "dropout": 0.2, "recurrent_dropout": 0.2}
        backend.xp.on_cpu.reset_counts()
        train(backend, case(num_layers=2, bidirectional=True, **made), "float32")
        assert backend.xp.on_cpu.launches["masked_copy"] == 4 * 2 + 1 * 2 + 4

    def test_the_plain_lstm_launches_what_it_did(self, backend):
        backend.xp.on_cpu.reset_counts()
        train(backend, case(num_layers=2, dropout=0.3), "float32")
        launches = {"lstm_forward_step": 10, "lstm_backward_step": 10, "column_sum": 2, "masked_copy": 2}
        assert dict(backend.xp.on_cpu.launches) == launches

    @pytest.mark.parametrize("name", ["layer norm and projection", "zoneout", "weight drop"])
    def test_everything_happens_on_the_arrays_device(self, backend, name):
        given = case(lengths=(5, 0, 3), **ALONE[name])
        with backend.xp.cuda.Device(1):
            a = backend.array({key: given.of("float64")[key] for key in ("x", "params", "state", "dy", "dstate")})
        made = {"lengths": given.arrays["lengths"], "options": given.options}
        y, final, kept = gl.lstm_forward(a["x"], a["params"], a["state"], rng=given.seed, **made)
        dx, grads, dinitial = gl.lstm_backward(kept, a["dy"], a["dstate"])
        inferred, _ = lstm_inference(a["x"], a["params"], a["state"], **made)
        for array in (y, *final, dx, *grads.values(), *dinitial, inferred):
            assert array.device == a["x"].device
        assert (
            variant_kernel_cases.error(dx.get(), variant_kernel_cases.by_numpy(given, "training", "float64")["dx"])
            < 1e-10
        )


def test_every_activation_has_its_number_in_the_kernels():
    text = (sources.kernel_folder() / "activation.cuh").read_text(encoding="utf-8")
    assert ACTIVATION_NUMBERS.keys() == activations.DEFAULTS.keys()
    for name, number in ACTIVATION_NUMBERS.items():
        assert f"#define {name.upper()} {number}\n" in text
