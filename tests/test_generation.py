"""gpulstm.generate and beam_search: against the model run anew on growing prefixes, and against all sequences."""

import itertools
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

import gpulstm as gl
from gpulstm import arrays
from tests.cuda_on_cpu import cupy_on_cpu

VOCABULARY = 5


class LanguageModel:
    """An embedding, two LSTM layers and a linear map; in float64."""

    def __init__(self, xp=np, vocabulary=VOCABULARY, seed=0):
        rng = np.random.default_rng(seed)
        given = {"dtype": "float64", "xp": xp, "rng": rng}
        embedding = xp.asarray(rng.normal(size=(vocabulary, 3)))
        self.lstm, self.linear = gl.LSTM(3, 7, num_layers=2, **given), gl.nn.Linear(7, vocabulary, **given)
        # Predictions that are sure, and that change with what came before.
        for layer, by in ((self.lstm, {"bias": 0, "weight": 4}), (self.linear, {"bias": 0, "weight": 8})):
            layer.params = {name: by[name.partition("_")[0]] * value for name, value in layer.params.items()}
        self.params = {"embedding": {"weight": embedding}, "lstm": self.lstm.params, "linear": self.linear.params}
        self.shapes = []

    def stream(self, x, state):
        """The state is nested, as one of several layers would be, and has a part that is None."""
        self.shapes.append(tuple(x.shape))
        weight = self.params["embedding"]["weight"]
        assert arrays.library(x) == arrays.library(weight)
        if arrays.is_cupy(weight):
            embedded = weight[x]
        else:
            xp = arrays.namespace(weight)
            embedded = xp.reshape(xp.take(weight, xp.reshape(x, (-1,)), axis=0), (*x.shape, weight.shape[1]))
        y, lstm_state = self.lstm(embedded, None if state is None else state[1]["lstm"])
        return self.linear(y), (None, {"lstm": lstm_state})


class Markov:
    """Logits that depend on the last token alone. Its state, the last token, is carried along and checked."""

    def __init__(self, probabilities):
        with np.errstate(divide="ignore"):
            self.logits = np.log(np.asarray(probabilities, float))
        self.calls = 0

    def stream(self, x, state):
        self.calls += 1
        return self.logits[x], [x[-1:, :, None]]


def logits_after(model, prompt, tokens):
    """(vocabulary,) what follows a prompt (time,) and tokens, by one call on all of them."""
    whole = np.concatenate([prompt, np.asarray(tokens, int)])[:, None]
    return np.asarray(model.stream(whole, None)[0][-1, 0])


def log_softmax(x):
    return x - x.max() - np.log(np.sum(np.exp(x - x.max())))


def test_greedy_equals_a_run_on_every_growing_prefix(backend):
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, (4, 3))
    found = gl.generate(LanguageModel(backend.xp), prompt, 9, temperature=0)
    assert type(found) is np.ndarray and found.dtype == np.int64 and found.shape == (3, 9)
    for n in range(3):
        wanted = []
        for _ in range(9):
            wanted.append(int(np.argmax(logits_after(LanguageModel(), prompt[:, n], wanted))))
        assert found[n].tolist() == wanted
    assert len({tuple(row) for row in found}) > 1 and len(set(found.ravel())) > 2


def test_sampling_equals_a_run_on_every_growing_prefix():
    """The distribution function is inverted at the generator's numbers, one for each sequence and step."""
    prompt = np.random.default_rng(2).integers(0, VOCABULARY, (4, 3))
    found = gl.generate(LanguageModel(), prompt, 9, temperature=0.7, top_k=3, rng=5)
    uniform = np.random.default_rng(5).random((9, 3))
    for n in range(3):
        for step in range(9):
            logits = logits_after(LanguageModel(), prompt[:, n], found[n, :step]) / 0.7
            logits[np.argsort(logits)[:-3]] = -np.inf
            up_to = np.cumsum(np.exp(log_softmax(logits)))
            assert found[n, step] == np.searchsorted(up_to, uniform[step, n], side="right")


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"temperature": 0.5, "stop": 1}, {"temperature": 0}], ids=str)
def test_every_library_draws_the_same_tokens(backend, options):
    prompt = np.random.default_rng(3).integers(0, VOCABULARY, (3, 4))
    wanted = gl.generate(LanguageModel(), prompt, 12, rng=7, **options)
    model = LanguageModel(backend.xp)
    on_device = backend.array(prompt)
    for given in (prompt, prompt.tolist(), on_device):
        np.testing.assert_array_equal(gl.generate(model, given, 12, rng=7, **options), wanted)
    np.testing.assert_array_equal(backend.numpy(on_device), prompt)


@pytest.mark.parametrize("xp", [torch, jax.numpy], ids=lambda xp: xp.__name__)
def test_torch_and_jax_draw_the_same_tokens(xp):
    prompt = np.random.default_rng(3).integers(0, VOCABULARY, (3, 4))
    with jax.enable_x64(True):
        found = gl.generate(LanguageModel(xp), prompt, 8, rng=7)
        likely = gl.beam_search(LanguageModel(xp), prompt[:, 0], 4, top=3)
    np.testing.assert_array_equal(found, gl.generate(LanguageModel(), prompt, 8, rng=7))
    assert [each.tokens for each in likely] == [
        each.tokens for each in gl.beam_search(LanguageModel(), prompt[:, 0], 4, top=3)
    ]


def test_a_token_costs_one_step_of_the_model():
    model = LanguageModel()
    gl.generate(model, np.zeros((6, 2), int), 5, rng=0)
    assert model.shapes == [(6, 2), (1, 2), (1, 2), (1, 2), (1, 2)]
    model.shapes.clear()
    gl.beam_search(model, [1, 2, 3], 4, width=3)
    assert model.shapes == [(3, 1), (1, 3), (1, 3), (1, 3)]


def test_one_prompt_may_come_without_a_batch_axis():
    found = gl.generate(LanguageModel(), [1, 2, 3], 6, rng=1)
    np.testing.assert_array_equal(found, gl.generate(LanguageModel(), [[1], [2], [3]], 6, rng=1))
    assert found.shape == (1, 6)


def frequencies(probabilities, draws=20000, **options):
    found = gl.generate(Markov([probabilities]), np.zeros((1, draws), int), 1, rng=0, **options)
    return np.bincount(found[:, 0], minlength=len(probabilities)) / draws


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, [0.5, 0.0, 0.2, 0.3]),
        ({"temperature": 0.5}, np.array([25, 0, 4, 9]) / 38),
        ({"temperature": 2.0}, np.sqrt([0.5, 0.0, 0.2, 0.3]) / np.sqrt([0.5, 0.0, 0.2, 0.3]).sum()),
        ({"temperature": 1e-300}, [1, 0, 0, 0]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"top_k": 2}, [0.625, 0, 0, 0.375]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 4}, [0.5, 0.0, 0.2, 0.3]),
        ({"top_k": 9}, [0.5, 0.0, 0.2, 0.3]),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_they_should(options, wanted):
    found = frequencies([0.5, 0.0, 0.2, 0.3], **options)
    np.testing.assert_allclose(found, wanted, atol=0.015)  # 4 standard deviations
    assert not found[np.asarray(wanted) == 0].any()


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_give_possible_tokens(monkeypatch, number):
    class Fixed(np.random.Generator):
        def random(self, size):
            return np.full(size, number)

    rows = np.random.default_rng(0).dirichlet(np.ones(7), 200)
    rows[:, [0, 6]] = 0
    for row in rows:
        found = gl.generate(Markov([row / row.sum()]), [0], 1, rng=Fixed(np.random.PCG64(0)))
        assert found[0, 0] == (5 if number else 1)


def test_ties_go_to_the_lowest_token():
    model = Markov(np.full((40, 40), 1 / 40))
    assert gl.generate(model, [3], 3, temperature=0).tolist() == [[0, 0, 0]]
    assert set(gl.generate(model, np.zeros((1, 50), int), 3, top_k=2, rng=0).ravel()) == {0, 1}
    assert [each.tokens for each in gl.beam_search(model, [3], 2, width=3, top=3)] == [[0, 0], [0, 1], [0, 2]]
    odd = Markov([[(token % 2) / 20 for token in range(40)]] * 40)
    assert set(gl.generate(odd, np.zeros((1, 50), int), 3, top_k=3, rng=0).ravel()) == {1, 3, 5}


def test_a_seed_determines_the_tokens_and_a_generator_moves_on():
    model, prompt = LanguageModel(), np.zeros((2, 3), int)
    first, again = (gl.generate(model, prompt, 20, rng=11) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    rng = np.random.default_rng(11)
    np.testing.assert_array_equal(gl.generate(model, prompt, 20, rng=rng), first)
    assert not np.array_equal(gl.generate(model, prompt, 20, rng=rng), first)
    assert not np.array_equal(gl.generate(model, prompt, 20), gl.generate(model, prompt, 20))
    assert len({tuple(row) for row in first}) == 3


# 0 -> 1 -> 2 -> 0 for sure, and 3 -> 3: a walk whose end is known
CYCLE = np.eye(4)[[1, 2, 0, 3]]


def test_a_stop_ends_its_own_sequence_and_fills_it():
    model = Markov(CYCLE)
    found = gl.generate(model, [[0, 1, 3]], 5, stop=2, rng=0)
    assert found.tolist() == [[1, 2, 2, 2, 2], [2, 2, 2, 2, 2], [3, 3, 3, 3, 3]]
    assert model.calls == 5
    model = Markov(CYCLE)
    assert gl.generate(model, [[0, 1]], 50, stop=2, temperature=0).tolist() == [[1, *[2] * 49], [2] * 50]
    assert model.calls == 2, "all have ended after the second token"


def test_a_stop_leaves_the_other_sequences_as_they_are():
    prompt = np.random.default_rng(0).integers(0, VOCABULARY, (2, 6))
    free = gl.generate(LanguageModel(), prompt, 15, rng=3)
    stopped = gl.generate(LanguageModel(), prompt, 15, rng=3, stop=4)
    ends = [row.index(4) if 4 in row else 15 for row in free.tolist()]
    assert len(set(ends)) > 2
    for n, end in enumerate(ends):
        assert stopped[n].tolist() == free[n, :end].tolist() + [4] * (15 - end)


def test_an_empty_batch():
    assert gl.generate(Markov(CYCLE), np.zeros((2, 0), int), 3, stop=1).shape == (0, 3)


def all_continuations(model, prompt, steps, stop, vocabulary):
    """{tokens: log-probability} of all that end in the stop or have all steps."""
    found = {}
    for tokens in itertools.product(range(vocabulary), repeat=steps):
        if stop in tokens:
            tokens = tokens[: tokens.index(stop) + 1]
        if tokens not in found:
            found[tokens] = sum(
                log_softmax(logits_after(model, prompt, tokens[:k]))[token] for k, token in enumerate(tokens)
            )
    return found


@pytest.mark.parametrize("stop", [None, 1])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_full_width_finds_the_best_of_all(backend, seed, stop, length_penalty):
    prompt = np.array([2, 0, 1, 2])
    wanted = all_continuations(LanguageModel(np, 3, seed), prompt, 4, stop, 3)
    order = sorted(wanted, key=lambda tokens: wanted[tokens] / len(tokens) ** length_penalty, reverse=True)
    model = LanguageModel(backend.xp, 3, seed)
    for top in (3**4, 1, 5):
        options = {"stop": stop, "length_penalty": length_penalty, "width": 3**4, "top": top}
        found = gl.beam_search(model, prompt, 4, **options)
        assert len(found) == min(top, len(wanted))
        assert [tuple(each.tokens) for each in found] == order[:top]
        for each in found:
            assert each.log_probability == pytest.approx(wanted[tuple(each.tokens)], abs=1e-12)


def test_a_beam_finds_what_greedy_misses():
    # After 0 comes 1 with 0.6, but then nothing is likely; 2 with 0.4 leads to 3 for sure.
    model = Markov([[0, 0.6, 0.4, 0], [0.25] * 4, [0, 0, 0, 1], [0.25] * 4])
    assert gl.generate(model, [0], 2, temperature=0).tolist() == [[1, 0]]
    (best, second) = gl.beam_search(model, [0], 2, width=2, top=2)
    assert best.tokens == [2, 3] and best.log_probability == pytest.approx(math.log(0.4))
    assert second.tokens == [1, 0] and second.log_probability == pytest.approx(math.log(0.15))


def test_a_width_of_one_is_greedy():
    for seed in range(5):
        model = LanguageModel(seed=seed)
        greedy = gl.generate(model, [1, 2], 8, temperature=0)
        assert gl.beam_search(model, [1, 2], 8, width=1)[0].tokens == greedy[0].tolist()


def test_a_narrow_beam_says_the_probabilities_of_what_it_found():
    prompt = np.array([3, 1])
    for tokens, log_probability in gl.beam_search(LanguageModel(seed=4), prompt, 6, width=4, stop=0, top=4):
        wanted = sum(
            log_softmax(logits_after(LanguageModel(seed=4), prompt, tokens[:k]))[token]
            for k, token in enumerate(tokens)
        )
        assert log_probability == pytest.approx(wanted, abs=1e-12)
        assert 0 not in tokens[:-1] and (len(tokens) == 6 or tokens[-1] == 0)


def test_a_length_penalty_prefers_longer_continuations():
    model = Markov([[0.0, 0.5, 0.5], [0.0, 0.9, 0.1], [0.0, 0.9, 0.1]])  # 2 stops at once or after some 1s
    short = gl.beam_search(model, [0], 5, width=8, stop=2)[0]
    long = gl.beam_search(model, [0], 5, width=8, stop=2, length_penalty=1.0)[0]
    assert short.tokens == [2] and long.tokens == [1] * 5


def test_a_beam_ends_when_nothing_better_can_come():
    model = Markov([[0.0, 0.1, 0.9], [0.0, 0.9, 0.1], [0.0, 0.9, 0.1]])
    assert [tuple(each) for each in gl.beam_search(model, [0], 50, stop=2)] == [([2], pytest.approx(math.log(0.9)))]
    assert model.calls == 1
    model = Markov(CYCLE)
    assert gl.beam_search(model, [0], 50, stop=2)[0].tokens == [1, 2] and model.calls == 2


def test_what_has_not_ended_does_not_win_by_being_short():
    # With a negative penalty [1] scores better than [2] now, but not with another token, and it cannot stay as it is.
    model = Markov([[0.0, 0.55, 0.45], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])
    assert gl.beam_search(model, [0], 50, stop=2, length_penalty=-1.0)[0].tokens == [2]
    assert model.calls == 1


def test_a_beam_goes_on_while_a_long_continuation_may_win():
    model = Markov([[0.0, 0.1, 0.9], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    assert gl.beam_search(model, [0], 50, stop=2, length_penalty=1.0)[0].tokens == [1] * 50
    assert gl.beam_search(model, [0], 20, stop=2, length_penalty=1.0)[0].tokens == [2]
    model = Markov([[0.25, 0.55, 0.2], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5]])
    assert gl.beam_search(model, [0], 50, stop=2, length_penalty=-1.0)[0].tokens == [1, 2]


def test_the_kernels_run_at_each_step():
    with cupy_on_cpu() as cupy:
        model = LanguageModel(cupy)
        gl.beam_search(model, [1, 2, 3], 3, width=4)
        assert cupy.on_cpu.launches["lstm_forward_step"] == 2 * (3 + 1 + 1)  # layers x steps of each call


def answering(out, state=None):
    return SimpleNamespace(stream=lambda x, _: (out, state))


GOOD = {"model": Markov(CYCLE), "prompt": [0, 1], "steps": 3}
BOTH = [
    ({"model": object()}, TypeError, r"model must have a method stream\(x, state\), got object"),
    ({"prompt": []}, TypeError, "prompt must be integers"),
    ({"prompt": np.zeros((0, 2), int)}, ValueError, r"with at least one step, got \(0, 2\)"),
    ({"prompt": np.zeros((1, 2, 3), int)}, ValueError, r"prompt must have shape \(time, batch\) or \(time,\)"),
    ({"prompt": [0.5]}, TypeError, "prompt must be integers, one token for each step, got .* float64"),
    ({"prompt": [True]}, TypeError, "prompt must be integers"),
    ({"prompt": [[1, 2], [3]]}, TypeError, "sequences of unequal length"),
    ({"prompt": "text"}, TypeError, "prompt must be integers"),
    ({"prompt": torch.tensor([1]), "model": LanguageModel()}, TypeError, "prompt must be .* beside .* a torch array"),
    ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    ({"stop": -1}, ValueError, "stop must be at least 0, got -1"),
    ({"stop": 1.0}, TypeError, "stop must be an integer"),
    ({"model": answering([[1.0]])}, TypeError, "model.stream's output must be an array"),
    ({"model": answering(np.zeros((2, 1, 4), int))}, TypeError, "model.stream's output must have dtype"),
    (
        {"model": answering(np.zeros((1, 2, 4)))},
        ValueError,
        r"model.stream's output must have shape .* got \(1, 2, 4\)",
    ),
    ({"model": answering(np.full((2, 1, 4), np.nan))}, ValueError, "must be numbers, got NaN for sequence 0"),
    ({"model": answering(np.full((2, 1, 4), np.inf))}, ValueError, "must have a softmax, got infinite logits"),
]


@pytest.mark.parametrize("function", [gl.generate, gl.beam_search])
@pytest.mark.parametrize("change, error, message", BOTH)
def test_they_refuse_what_does_not_match(function, change, error, message):
    with pytest.raises(error, match=message):
        function(**GOOD | change)


@pytest.mark.parametrize(
    "function, change, error, message",
    [
        (gl.generate, {"temperature": -1}, ValueError, "temperature must be finite and not negative, got -1"),
        (gl.generate, {"temperature": math.nan}, ValueError, "temperature must be finite and not negative, got nan"),
        (gl.generate, {"temperature": "hot"}, TypeError, "temperature must be a number, got 'hot'"),
        (gl.generate, {"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        (gl.generate, {"rng": "seed"}, TypeError, "rng must be None, an integer seed or"),
        (gl.beam_search, {"prompt": [[1, 2]]}, ValueError, "prompt must be one sequence, .* got a batch of 2"),
        (gl.beam_search, {"width": 0}, ValueError, "width must be at least 1, got 0"),
        (gl.beam_search, {"width": 2, "top": 3}, ValueError, "top must be at most width 2, got 3"),
        (gl.beam_search, {"length_penalty": math.inf}, ValueError, "length_penalty must be finite, got inf"),
        (gl.beam_search, {"length_penalty": None}, TypeError, "length_penalty must be a number, got None"),
    ],
)
def test_each_refuses_its_own(function, change, error, message):
    with pytest.raises(error, match=message):
        function(**GOOD | change)


@pytest.mark.parametrize("state", [(np.zeros((1, 3, 2)),), [np.zeros(1)]], ids=["batch", "axes"])
def test_a_beam_refuses_a_state_without_the_batch(state):
    model = answering(np.zeros((1, 1, 4)), state)
    with pytest.raises(ValueError, match="state must have the batch of 1 on its second axis, got shape"):
        gl.beam_search(model, [0], 2)
