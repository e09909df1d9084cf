"""Lesson 27: what can be said about any layer's step by trying it, and the sheet that it is written into.

A step has the form forward(a, c) -> h, c_next and backward(a, c, dh, dc) -> da, dc_before, in which a is
(rows, gates*hidden), gate after gate within a row, and everything else (rows, hidden).
"""

import itertools

import numpy as np

from lab.kinds import look, numbers, ok
from lab.lesson_12_launching import FEW_ROUNDS, gpu_differs, told

CALCULUS = {
    "shapes": "h and c_next, da and dc_before have their shapes",
    "gates": "every gate changes something, and each unit minds its own",
    "memory": "c_next depends on c",
    "range": "no overflow, whatever goes in",
    "own": "it is not the LSTM's step",
    "gradient": "the gradient check is below 1e-6 in float64",
}
KERNEL = {
    "numbers": "the kernel computes what forward does",
    "bounds and races": "no thread errs, in any order",
    "sectors": "4 for each request of a warp",
    "bytes": "each number is read once, c_next and h are written once",
}
UNTOUCHED = -7.0


def data(rows: int, hidden: int, gates: int, seed: int = 0, dtype="float64"):
    """a (rows, gates*hidden) and c (rows, hidden)."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-2, 2, (rows, gates * hidden)).astype(dtype)
    return a, rng.uniform(-0.9, 0.9, (rows, hidden)).astype(dtype)


def pair(result, name: str, shapes):
    """Two arrays of these shapes out of what a function gave, and what is wrong with it, or None."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        return None, look(f"shapes: {name} should return two arrays, as in `return first, second`.")
    arrays = [numbers(one) for one in result]
    for array, given, shape, which in zip(arrays, result, shapes, ("first", "second"), strict=True):
        if given is None or given is ...:
            return None, look(f"shapes: the {which} result of {name} is still empty.")
        if array is None or array.shape != shape:
            has = "is no array of numbers" if array is None else f"has {array.shape}"
            return None, look(f"shapes: the {which} result of {name} should have the shape {shape}, and {has}.")
    return arrays, None


# ---- the calculus ----


def shapes(gates, forward, backward):
    rows, hidden = 3, 4
    a, c = data(rows, hidden, gates)
    trouble = pair(forward(a, c), "forward(a, c)", [(rows, hidden)] * 2)[1]
    if trouble is None:
        found = backward(a, c, np.ones_like(c), np.ones_like(c))
        trouble = pair(found, "backward(a, c, dh, dc)", [a.shape, c.shape])[1]
    return trouble or ok("shapes: forward and backward give what they should.")


def every_gate(gates, forward):
    rows, hidden = 3, 4
    a, c = data(rows, hidden, gates)
    before = np.array(forward(a, c))  # (2, rows, hidden): h, c_next
    for gate in range(gates):
        moved = a.copy()
        moved[1, gate * hidden + 2] += 0.5
        changed = np.array(forward(moved, c)) != before
        if not changed.any():
            block = f"columns {gate * hidden} to {(gate + 1) * hidden - 1} of {gates * hidden}"
            return look(f"gates: gate {gate} of a, {block}, changes neither h nor c_next. Is GATES too large?")
        changed[:, 1, 2] = False
        if changed.any():
            _, row, unit = np.argwhere(changed)[0]
            text = (
                f"gates: a[1, {gate * hidden + 2}] is gate {gate} of unit 2, and it changes unit {unit} of row {row}."
            )
            return look(f"{text} Gates lie one after the other: np.split(a, GATES, axis=1).")
    return ok("gates: each of them changes h or c_next, and only of its own unit.")


def memory(gates, forward):
    a, c = data(3, 4, gates)
    if (np.array(forward(a, c))[1] == np.array(forward(a, c + 0.1))[1]).all():
        return look("memory: c_next is the same whatever c was: this layer forgets everything at each step.")
    return ok("memory: c_next depends on c.")


def in_range(gates, forward):
    for size in (1000.0, -1000.0):
        a, c = np.full((2, 3 * gates), size), np.full((2, 3), 0.5)
        results = np.array(forward(a, c))
        if not np.isfinite(results).all():
            return look(f"range: with all of a at {size:.0f} a result is not finite.")
        if forward.warnings:
            return look(f"range: with all of a at {size:.0f} NumPy warns, {forward.warnings[0]}: see lesson 03.")
    return ok("range: 1000 and -1000 do no harm.")


def own(gates, forward):
    if gates == 4:
        a, c = data(3, 4, 4)
        found = np.array(forward(a, c))
        for order in itertools.permutations(np.split(a, 4, axis=1)):
            if np.allclose(found, lstm_forward(np.concatenate(order, axis=1), c)):
                return look("own: these are the LSTM's own numbers. Change one thing about it, and say what for.")
    return ok("own: this is not the LSTM's step.")


def sigmoid(x):
    return 0.5 * np.tanh(0.5 * x) + 0.5


def lstm_forward(a, c):
    i, f, g, o = np.split(a, 4, axis=1)
    c_next = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c_next), c_next


def nudged(loss, array, eps=1e-5):
    """The gradient of loss(array), number by number."""
    gradient = np.empty_like(array)
    for place in np.ndindex(array.shape):
        above, below = array.copy(), array.copy()
        above[place] += eps
        below[place] -= eps
        gradient[place] = (loss(above) - loss(below)) / (2 * eps)
    return gradient


def gradient(gates, forward, backward):
    rows, hidden = 3, 4
    a, c = data(rows, hidden, gates, seed=1)
    rng = np.random.default_rng(2)
    dh, dc = rng.normal(size=(2, rows, hidden))
    found = [np.asarray(numbers(one)) for one in backward(a, c, dh, dc)]

    def slopes(dh, dc):
        def loss(a, c):
            h, c_next = forward(a, c)
            return float((h * dh).sum() + (c_next * dc).sum())

        return nudged(lambda moved: loss(moved, c), a), nudged(lambda moved: loss(a, moved), c)

    wanted = slopes(dh, dc)
    errors = [np.abs(one - right) / max(np.abs(right).max(), 1e-3) for one, right in zip(found, wanted, strict=True)]
    if max(error.max() for error in errors) < 1e-6:
        return ok("gradient: da and dc_before agree with nudging, below 1e-6.")
    return look(f"gradient: {_what_differs(found, wanted, errors, slopes, dh, dc, hidden)}")


def _what_differs(found, wanted, errors, slopes, dh, dc, hidden) -> str:
    def agrees(other):
        return all(np.allclose(one, right, rtol=1e-5, atol=1e-7) for one, right in zip(found, other, strict=True))

    if agrees(slopes(dh, 0 * dc)):
        return "right, if dc were zero. What comes back along the lane must be added to what comes down from h."
    if agrees(slopes(0 * dh, dc)):
        return "right, if dh were zero. h shows c_next, so its blame goes on to c_next, too."
    if agrees(slopes(dc, dh)):
        return "right, if h and c_next changed places. forward gives h first, and backward takes dh first."
    if agrees([-one for one in wanted]):
        return "every sign is the wrong way round."
    parts = [f"gate {gate} of da" for gate in range(found[0].shape[1] // hidden)]
    blocks = [*np.split(errors[0], len(parts), axis=1), errors[1]]
    wrong = [name for name, error in zip([*parts, "dc_before"], blocks, strict=True) if not error.max() < 1e-6]
    if len(wrong) == len(blocks):
        return "all of da and dc_before differ from nudging: begin with dc_next, through which all of them go."
    return f"wrong is {' and '.join(wrong)}; everything else agrees with nudging."


# ---- the kernel ----


def findings_of(kernel, gates, forward):
    """The kernel's lines of the sheet, one after the other, until one is wrong."""
    for rows, hidden, threads in ((5, 3, 8), (32, 32, 128)):
        a, c = data(rows, hidden, gates, dtype="float32")
        wanted, trouble = pair(forward(a.astype("float64"), c.astype("float64")), "forward(a, c)", [c.shape] * 2)
        if trouble:
            yield look(f"numbers: there is nothing to compare the kernel with. {trouble.text}")
            return
        for order in ("in order", "reverse", "random"):
            trouble = _one_launch(kernel, a, c, wanted, threads, order)
            if trouble:
                yield trouble
                return
    yield ok("numbers: as forward, on sizes that divide and on one that does not.")
    yield ok("bounds and races: nothing found, in order, in reverse and at random.")
    yield _sectors(kernel.counts)
    yield _bytes(kernel.counts, c.size, gates)


def _one_launch(kernel, a, c, wanted, threads, order):
    rows, hidden = c.shape
    c_next, h = np.full((2, rows, hidden), UNTOUCHED, "float32")
    handed = (a, c, c_next, h, np.int32(c.size), np.int32(hidden))
    blocks = -(-c.size // threads)
    kernel(blocks, threads, *handed, strict=False, order=order, limit=FEW_ROUNDS)
    for name, array in (("h", h), ("c_next", c_next)):
        if (array == UNTOUCHED).all():
            return look(f"numbers: {name} holds what it held before: no thread has written to it.")
    if kernel.findings:
        return look(f"bounds and races: {told(*kernel.findings)}")
    for name, array, right in (("h", h, wanted[0]), ("c_next", c_next, wanted[1])):
        wrong = ~np.isclose(array, right, rtol=1e-4, atol=1e-5)
        if wrong.any():
            place = tuple(int(k) for k in np.argwhere(wrong)[0])
            numbers_there = f"{array[place]:.4g}, and forward says {right[place]:.4g}"
            return look(f"numbers: with {rows} rows of {hidden} units {name}{list(place)} is {numbers_there}.")
    written = {"c_next": c_next, "h": h}
    if order == "in order" and (trouble := gpu_differs(kernel.source, blocks, threads, *handed, written, rtol=1e-4)):
        return look(f"numbers: {trouble}")
    return None


def _sectors(counts):
    for name in ("a", "c", "c_next", "h"):
        if (found := counts.sectors_per_request(name)) > 4:
            return look(f"sectors: {name} takes {found:.0f} for each request of a warp, where 4 would do (lesson 13).")
    return ok("sectors: 4 for each request, the least there is.")


def _bytes(counts, units, gates):
    for name, what, found, wanted in (
        ("a", "loads", counts.loads("a"), gates),
        ("c", "loads", counts.loads("c"), 1),
        ("c_next", "loads", counts.loads("c_next"), 0),
        ("c_next", "stores", counts.stores("c_next"), 1),
        ("h", "stores", counts.stores("h"), 1),
    ):
        if found != wanted * units:
            many = f"{found / units:.3g} {what.removesuffix('s') if found == units else what}"
            text = f"bytes: {name} has {many} for each hidden unit, where {wanted} would do."
            return look(f"{text} Keep it in a variable.")
    return ok(f"bytes: {gates + 1} loads and 2 stores for each hidden unit, {4 * (gates + 3)} bytes.")


# ---- the sheet ----


def kernel_passes(gates, forward, source) -> bool:
    """Whether the check of the kernel finds it right. It prints nothing."""
    from lab.exercises import answers
    from lab.lessons import lesson_27

    return all(found.right for found in lesson_27.kernel.examine(answers(gates, forward, source)))


def rubric(gates, forward, backward, source, why) -> None:
    """Prints the sheet for a layer: what was tried, what came out, and what only its maker can say."""
    from lab.exercises import answers
    from lab.lessons import lesson_27

    print(f"Why: {' '.join(why.split()) if isinstance(why, str) and why.strip() else '(not said yet)'}")
    for title, criteria, exercise, given in (
        ("calculus", CALCULUS, lesson_27.calculus, answers(gates, forward, backward)),
        ("kernel", KERNEL, lesson_27.kernel, answers(gates, forward, source)),
    ):
        print(f"\n{title}")
        for mark, criterion, remark in lines(criteria, exercise.examine(given)):
            print(f"  {mark} {criterion:17}{remark}")


def lines(criteria: dict[str, str], findings):
    """(mark, criterion, remark) for each criterion. What names none has ended everything: the next one has it."""
    by_name = {}
    for found in findings:
        name, colon, text = found.text.partition(": ")
        if not colon or name not in criteria:
            name, text = next((one for one in criteria if one not in by_name), name), found.text
        if name not in by_name or not found.right:
            by_name[name] = ("✓", criteria[name]) if found.right else ("✗", text)
    return [
        (*by_name.get(name, ("–", "not reached"))[:1], name, by_name.get(name, ("", "not reached"))[1])
        for name in criteria
    ]
