"""The tasks are those of the papers: else it would prove little that they are learnt."""

import re

import numpy as np

from tests.learning import reber, tasks

REBER = "B(?:(?:TS*X|PT*VP)(?:XT*VP)*(?:S|XT*VV)|PT*VV)E"
EMBEDDED = re.compile(f"B([TP]){REBER}\\1E")


def test_adding_marks_two_numbers_and_asks_for_their_sum():
    x, target, lengths, _ = tasks.adding(np.random.default_rng(0), 5000, 100)
    numbers, marks = x[:, :, 0], x[:, :, 1]
    assert x.shape == (100, 5000, 2) and target.shape == (5000, 1) and lengths is None
    assert np.all(marks[:50].sum(axis=0) == 1) and np.all(marks[50:].sum(axis=0) == 1) and set(marks.flat) == {0, 1}
    assert np.all(marks.sum(axis=1) > 0)  # any step may be one of the two
    np.testing.assert_allclose(target[:, 0], np.where(marks == 1, numbers, 0).sum(axis=0), rtol=1e-6)
    assert 0 <= numbers.min() < 0.001 and 0.999 < numbers.max() <= 1
    assert abs(np.mean((target - 1) ** 2) - 1 / 6) < 0.01


def test_temporal_order_has_two_marks_among_distractors():
    x, target, lengths, _ = tasks.temporal_order(np.random.default_rng(0), 2000)
    assert x.shape == (110, 2000, 8) and set(lengths) == set(range(100, 111))
    first, second = set(), set()
    for k, length in enumerate(lengths):
        assert np.all(x[:length, k].sum(axis=-1) == 1) and not x[length:, k].any()
        text = "".join(tasks.ALPHABET[number] for number in x[:length, k].argmax(axis=-1))
        assert re.fullmatch("E[a-d]+[XY][a-d]+[XY][a-d]+B", text)
        early, late = (found.start() for found in re.finditer("[XY]", text))
        assert text[early] + text[late] == ("XX", "XY", "YX", "YY")[target[k]]
        first.add(early)
        second.add(late)
    assert first == set(range(10, 21)) and second == set(range(50, 61))
    assert np.all(np.abs(np.bincount(target) - 500) < 100)


def test_strings_are_of_the_embedded_reber_grammar():
    found = reber.strings(np.random.default_rng(0), 1000)
    assert all(EMBEDDED.fullmatch(one.symbols) for one in found)
    assert {one.symbols[1] for one in found} == {"T", "P"} and max(len(one.symbols) for one in found) > 20


def test_what_is_legal_is_what_comes():
    """After a beginning that many strings share, every legal symbol comes in some of them, and no other."""
    found = reber.strings(np.random.default_rng(0), 5000)
    following: dict[str, list[str]] = {}
    for one in found:
        for t in range(1, len(one.symbols)):
            following.setdefault(one.symbols[:t], []).append(one.symbols[t])
    often = {beginning: symbols for beginning, symbols in following.items() if len(symbols) > 30}
    assert len(often) > 50
    for one in found:
        assert len(one.legal) == len(one.symbols) - 1
        for t, allowed in enumerate(one.legal):
            beginning = one.symbols[: t + 1]
            assert one.symbols[t + 1] in allowed and len(set(allowed)) == len(allowed)
            assert beginning not in often or set(often[beginning]) == set(allowed)


def test_a_batch_of_strings_asks_for_the_next_symbol():
    given = reber.strings(np.random.default_rng(0), 50)
    x, target, lengths, _ = reber.batch(given)
    allowed = reber.legal(given)
    assert x.shape == target.shape == allowed.shape[:2] and allowed.shape[2] == 7
    for k, (one, length) in enumerate(zip(given, lengths, strict=True)):
        assert "".join(reber.SYMBOLS[number] for number in x[:length, k]) == one.symbols[:-1]
        assert "".join(reber.SYMBOLS[number] for number in target[:length, k]) == one.symbols[1:]
        for t in range(len(allowed)):
            expected = set(one.legal[t]) if t < length else set()
            assert {
                symbol for symbol, is_legal in zip(reber.SYMBOLS, allowed[t, k], strict=True) if is_legal
            } == expected
