"""The LSTM where something is missing, empty, one, or given in another form. Every test runs on every array path.

Two ways to the same numbers are compared throughout: with an argument left out and with its neutral value given,
sequence by sequence and in a batch, forwards and flipped.
"""

import numpy as np
import pytest

import gpulstm as gl
from tests import backends, problems

BIG = {"layers": 2, "directions": 2}
LENGTHS = {"no lengths": None, "lengths": [5, 0, 3]}


def zeros_like(pair: tuple) -> tuple:
    return tuple(np.zeros_like(part) for part in pair)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("missing", ["dy", "dstate", "dh", "dc", "both"])
def test_a_missing_gradient_is_one_of_zeros(backend, missing, lengths):
    given = problems.problem(**BIG, lengths=LENGTHS[lengths])
    (dh, dc), zeros, no_dy = given.dstate, zeros_like(given.dstate), np.zeros_like(given.dy)
    without, instead = {
        "dy": ({"dy": None}, {"dy": no_dy}),
        "dstate": ({"dstate": None}, {"dstate": zeros}),
        "dh": ({"dstate": (None, dc)}, {"dstate": (zeros[0], dc)}),
        "dc": ({"dstate": (dh, None)}, {"dstate": (dh, zeros[1])}),
        "both": ({"dy": None, "dstate": (None, None)}, {"dy": no_dy, "dstate": zeros}),
    }[missing]
    found = problems.solve(backend, given.but(**without))
    problems.assert_close(found, problems.solve(backend, given.but(**instead)))
    if missing == "both":
        assert not any(value.any() for name, value in found.items() if name.startswith("d"))


def test_only_the_final_state_has_a_gradient(backend):
    """The usual classifier: no gradient may be NaN, which happens where an absent dy is memory nobody wrote."""
    found = problems.solve(backend, problems.problem(**BIG, lengths=[5, 0, 3], state=False).but(dy=None))
    for name, value in found.items():
        assert np.isfinite(value).all(), name


class TestFewSteps:
    def test_one_step_is_the_cell(self, backend):
        given = problems.problem(steps=1)
        cell = gl.LSTMCell(4, 2, dtype="float64", xp=backend.xp)
        cell.params = backend.array({name.removesuffix("_l0"): p for name, p in given.params.items()})
        h, c = cell(backend.array(given.x[0]), backend.array((given.state[0][0], given.state[1][0])))
        found = problems.infer(backend, given)
        problems.assert_close({"h": found["h"][0], "c": found["c"][0]}, backend.numpy({"h": h, "c": c}))
        np.testing.assert_array_equal(found["y"][0], found["h"][0])

    @pytest.mark.parametrize("lengths", [None, [1, 0, 1]])
    def test_one_step_in_two_directions_and_layers(self, backend, lengths):
        """With one step to take, the order of time is no order: each direction is a forward one."""
        given = problems.problem(**BIG, steps=1, lengths=lengths)
        found = problems.solve(backend, given)
        for direction, suffix in enumerate(("_l1", "_l1_reverse")):
            renamed = {name.replace(suffix, "_l0"): p for name, p in given.params.items() if name.endswith(suffix)}
            below = problems.infer(backend, given.but(params=first_layer(given)[0], state=first_layer(given)[1]))["y"]
            state = tuple(part[2 + direction : 3 + direction] for part in given.state)
            alone = problems.infer(backend, given.but(x=below, params=renamed, state=state))
            np.testing.assert_allclose(found["h"][2 + direction], alone["h"][0], rtol=1e-12)
            np.testing.assert_allclose(found["c"][2 + direction], alone["c"][0], rtol=1e-12)

    @pytest.mark.parametrize("state", [True, False])
    @pytest.mark.parametrize("sizes", [{"steps": 0}, {"batch": 0}, {"steps": 0, "batch": 0}], ids=str)
    @pytest.mark.parametrize("lengths", [False, True])
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_nothing_to_do(self, backend, sizes, state, lengths, batch_first):
        given = problems.problem(**BIG, **sizes, state=state)
        steps, batch, _ = given.x.shape
        given = given.but(lengths=[0] * batch if lengths else None)
        turned = given.but(x=given.x.swapaxes(0, 1), dy=given.dy.swapaxes(0, 1)) if batch_first else given
        found = problems.solve(backend, turned, batch_first=batch_first)
        h, c = given.state or zeros_like(given.dstate)
        expected = {"y": np.zeros((steps, batch, 4)), "dx": np.zeros_like(given.x)}
        if batch_first:
            expected = {name: value.swapaxes(0, 1) for name, value in expected.items()}
        expected |= {"h": h, "c": c, "dh": given.dstate[0], "dc": given.dstate[1]}
        expected |= {"d" + name: np.zeros_like(p) for name, p in given.params.items()}
        problems.assert_close(found, expected)
        inferred = problems.infer(backend, turned, batch_first=batch_first)
        problems.assert_close(inferred, {name: expected[name] for name in inferred})

    def test_results_of_nothing_are_the_callers_own(self, backend):
        """The final state of an empty sequence has the initial one's values; writing to it must not change that."""
        state = backend.array(problems.problem(steps=0).state)
        _, final, _ = gl.lstm_forward(backend.array(problems.problem(steps=0).x), backend.array(given_params()), state)
        assert final.h is not state[0] and final.c is not state[1]
        if backend.name == backends.NUMPY:
            assert not np.shares_memory(final.h, state[0]) and not np.shares_memory(final.c, state[1])


def given_params() -> dict[str, np.ndarray]:
    return problems.problem().params


def first_layer(given: problems.Problem) -> tuple[dict, tuple]:
    directions = 1 + any("reverse" in name for name in given.params)
    params = {name: p for name, p in given.params.items() if "_l0" in name}
    return params, tuple(part[:directions] for part in given.state)


class TestLengths:
    def test_each_sequence_is_as_if_it_were_alone(self, backend):
        """Outputs, states, dx and dstate sequence by sequence; the parameters' gradients add up over them."""
        given = problems.problem(**BIG, batch=4, lengths=[2, 5, 0, 3])
        found = problems.solve(backend, given)
        sums = {name: np.zeros_like(value) for name, value in found.items() if name.startswith(("dw", "db"))}
        for n, length in enumerate(given.lengths):
            one = slice(n, n + 1)
            alone = problems.solve(
                backend,
                given.but(
                    x=given.x[:length, one],
                    dy=given.dy[:length, one],
                    state=tuple(part[:, one] for part in given.state),
                    dstate=tuple(part[:, one] for part in given.dstate),
                    lengths=None,
                ),
            )
            for name in ("y", "dx"):
                np.testing.assert_allclose(found[name][:length, one], alone[name], rtol=0, atol=1e-12)
                assert not found[name][length:, n].any(), f"{name} past the end of sequence {n}"
            for name in ("h", "c", "dh", "dc"):
                np.testing.assert_allclose(found[name][:, one], alone[name], rtol=0, atol=1e-12)
            for name in sums:
                sums[name] += alone[name]
        problems.assert_close({name: found[name] for name in sums}, sums)

    def test_all_sequences_empty(self, backend):
        given = problems.problem(**BIG, lengths=[0, 0, 0])
        found = problems.solve(backend, given)
        for name in ("y", "dx", *("d" + name for name in given.params)):
            assert not found[name].any(), name
        for name, expected in zip(("h", "c", "dh", "dc"), (*given.state, *given.dstate), strict=True):
            np.testing.assert_array_equal(found[name], expected)

    def test_full_lengths_are_no_lengths(self, backend):
        given = problems.problem(**BIG)
        expected = problems.solve(backend, given)
        problems.assert_close(problems.solve(backend, given.but(lengths=[5, 5, 5])), expected)

    @pytest.mark.parametrize("kind", ["tuple", "range", "int8", "uint8", "int32", "int64", "uint64", ">i4", "library"])
    def test_every_form_of_integers(self, backend, kind):
        given = problems.problem(**BIG, lengths=[1, 2, 3])
        forms = {"tuple": (1, 2, 3), "range": range(1, 4), "library": None}
        lengths = forms[kind] if kind in forms else np.array([1, 2, 3], kind)
        lengths = backend.array(np.array([1, 2, 3])) if kind == "library" else lengths
        problems.assert_same_bits(problems.solve(backend, given.but(lengths=lengths)), problems.solve(backend, given))

    def test_more_steps_than_a_small_integer_type_can_count(self, backend):
        """300 does not fit into uint8: a comparison in that type would see 44 steps."""
        given = problems.problem(steps=300, batch=2, hidden=1)
        lengths = np.array([200, 255], np.uint8)
        found = problems.infer(backend, given.but(lengths=lengths))
        problems.assert_same_bits(found, problems.infer(backend, given.but(lengths=[200, 255])))
        assert found["y"][199, 0].any() and not found["y"][200:, 0].any() and found["y"][254, 1].any()

    def test_strided_lengths_are_read_right_and_left_alone(self, backend):
        given = problems.problem(lengths=[5, 0, 3])
        lengths = np.array([3, 9, 0, 9, 5])[::-2]
        before = lengths.tobytes()
        lengths.flags.writeable = False
        problems.assert_same_bits(problems.solve(backend, given.but(lengths=lengths)), problems.solve(backend, given))
        assert lengths.tobytes() == before


class TestForms:
    @pytest.mark.parametrize("length", [None, 0, 3, np.int64(5), np.array(2)], ids=str)
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_without_a_batch_axis(self, backend, length, batch_first):
        given = problems.problem(**BIG, batch=1, lengths=None if length is None else [int(length)])
        alone = given.but(
            x=given.x[:, 0],
            dy=given.dy[:, 0],
            state=tuple(part[:, 0] for part in given.state),
            dstate=tuple(part[:, 0] for part in given.dstate),
            lengths=length,
        )
        batched = problems.solve(backend, given)
        expected = {
            name: batched[name][:, 0] if name in ("y", "h", "c", "dx", "dh", "dc") else batched[name]
            for name in batched
        }
        problems.assert_same_bits(problems.solve(backend, alone, batch_first=batch_first), expected)
        inferred = problems.infer(backend, alone, batch_first=batch_first)
        problems.assert_close(inferred, {name: expected[name] for name in inferred})

    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_batch_first_is_a_transposition(self, backend, lengths):
        given = problems.problem(**BIG, lengths=LENGTHS[lengths])
        turned = given.but(x=given.x.swapaxes(0, 1), dy=given.dy.swapaxes(0, 1))
        expected = problems.solve(backend, given)
        expected |= {name: expected[name].swapaxes(0, 1) for name in ("y", "dx")}
        problems.assert_same_bits(problems.solve(backend, turned, batch_first=True), expected)
        inferred = problems.infer(backend, turned, batch_first=True)
        problems.assert_close(inferred, {name: expected[name] for name in inferred})

    def test_a_list_and_a_named_tuple_are_pairs_too(self, backend):
        given = problems.problem()
        x, params, (h, c) = (backend.array(a) for a in (given.x, given.params, given.state))
        found = [backend.numpy(gl.lstm_forward(x, params, form)[0]) for form in ((h, c), [h, c], gl.State(h, c))]
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])

    def test_one_array_may_be_both_halves(self, backend):
        """The states are updated in place inside: h and c must not be the same memory there."""
        given = problems.problem(**BIG)
        x, params, h, dh = (backend.array(a) for a in (given.x, given.params, given.state[0], given.dstate[0]))
        _, final, cache = gl.lstm_forward(x, params, (h, h))
        _, _, dinitial = gl.lstm_backward(cache, None, (dh, dh))
        same = given.but(state=(given.state[0],) * 2, dstate=(given.dstate[0],) * 2, dy=None)
        expected = problems.solve(backend, same)
        found = backend.numpy({"h": final.h, "c": final.c, "dh": dinitial.h, "dc": dinitial.c})
        problems.assert_same_bits(found, {name: expected[name] for name in found})


class TestTime:
    def test_two_calls_that_hand_on_the_state_are_one_long_call(self, backend):
        whole = problems.problem(layers=2, steps=7)
        expected = problems.solve(backend, whole)
        x, params = backend.array(whole.x), backend.array(whole.params)
        first_y, between, first = gl.lstm_forward(x[:3, ...], params, backend.array(whole.state))
        second_y, final, second = gl.lstm_forward(x[3:, ...], params, between)
        dy = backend.array(whole.dy)
        second_dx, second_grads, dbetween = gl.lstm_backward(second, dy[3:, ...], backend.array(whole.dstate))
        first_dx, first_grads, dinitial = gl.lstm_backward(first, dy[:3, ...], dbetween)
        found = {"h": final.h, "c": final.c, "dh": dinitial.h, "dc": dinitial.c}
        found |= {"d" + name: first_grads[name] + second_grads[name] for name in whole.params}
        found = backend.numpy(found)
        for name, parts in {"y": (first_y, second_y), "dx": (first_dx, second_dx)}.items():
            found[name] = np.concatenate([backend.numpy(part) for part in parts])
        problems.assert_close(found, expected)

    def test_the_reverse_direction_is_a_forward_one_on_flipped_time(self, backend):
        both = problems.problem(directions=2)
        found = problems.solve(backend, both)
        renamed = {name.removesuffix("_reverse"): p for name, p in both.params.items() if "reverse" in name}
        flipped = problems.solve(
            backend,
            both.but(
                x=both.x[::-1],
                params=renamed,
                state=tuple(part[1:] for part in both.state),
                dy=both.dy[::-1, :, 2:],
                dstate=tuple(part[1:] for part in both.dstate),
            ),
        )
        np.testing.assert_allclose(found["y"][..., 2:], flipped["y"][::-1], rtol=0, atol=1e-12)
        for name in ("h", "c", "dh", "dc"):
            np.testing.assert_allclose(found[name][1:], flipped[name], rtol=0, atol=1e-12, err_msg=name)
        for name in renamed:
            np.testing.assert_allclose(found[f"d{name}_reverse"], flipped["d" + name], rtol=0, atol=1e-12)

    def test_two_runs_give_the_same_bits(self, backend):
        given = problems.problem(**BIG, steps=9, batch=7, hidden=6, dtype="float32", lengths=[9, 0, 3, 5, 1, 9, 2])
        problems.assert_same_bits(problems.solve(backend, given), problems.solve(backend, given))

    def test_a_cache_serves_once(self, backend):
        given = problems.problem()
        _, _, cache = gl.lstm_forward(backend.array(given.x), backend.array(given.params))
        gl.lstm_backward(cache)
        with pytest.raises(ValueError, match="used by an earlier backward"):
            gl.lstm_backward(cache)

    def test_a_refused_gradient_does_not_spend_the_cache(self, backend):
        given = problems.problem()
        x, params, dy = backend.array(given.x), backend.array(given.params), backend.array(given.dy)
        _, _, cache = gl.lstm_forward(x, params)
        with pytest.raises(ValueError, match="dy"):
            gl.lstm_backward(cache, dy[1:, ...])
        with pytest.raises(TypeError, match="dstate"):
            gl.lstm_backward(cache, dy, dy)
        gl.lstm_backward(cache, dy)


def test_a_very_large_batch(backend):
    """6464 sequences: cuDNN's LSTM once failed there (tensorflow#39453)."""
    given = problems.problem(steps=2, batch=6464, inputs=3, hidden=2, dtype="float32")
    found = problems.solve(backend, given)
    rows = [0, 4095, 6463]
    few = problems.solve(
        backend,
        given.but(
            x=given.x[:, rows],
            dy=given.dy[:, rows],
            state=tuple(part[:, rows] for part in given.state),
            dstate=tuple(part[:, rows] for part in given.dstate),
        ),
    )
    for name in ("y", "h", "c", "dx", "dh", "dc"):
        # 1e-5 is some 100 roundings of float32 (6e-8) of values up to about 2.
        np.testing.assert_allclose(found[name][:, rows], few[name], rtol=0, atol=1e-5, err_msg=name)
    # A sum of 12928 terms of size up to 2, each addition off by 6e-8 of a term's size on average, against float64.
    exact = problems.solve(backends.Backend(backends.NUMPY, np), as_float64(given))
    for name in given.params:
        np.testing.assert_allclose(found["d" + name], exact["d" + name], rtol=0, atol=6464 * 2 * 6e-8 * 2)


def as_float64(given: problems.Problem) -> problems.Problem:
    def wide(pair):
        return tuple(part.astype("float64") for part in pair)

    return given.but(
        x=given.x.astype("float64"),
        params={name: p.astype("float64") for name, p in given.params.items()},
        state=wide(given.state),
        dy=given.dy.astype("float64"),
        dstate=wide(given.dstate),
    )
