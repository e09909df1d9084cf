"""The check of lesson 21."""

import numpy as np

from lab.exercises import answers, close, exercise, look, must, ok
from lab.kinds import Function, numbers

PARTS = ("rows to learn from", "targets to learn from", "held-out rows", "held-out targets")


def record(days: int = 60) -> np.ndarray:
    """A made-up record that drifts, so that no two of its parts have the same mean."""
    rng = np.random.default_rng(7)
    return 100 + 0.5 * np.arange(days) + rng.normal(0, 10, days)


def straight(values: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether the values are the wanted ones, scaled by a positive number and moved."""
    if values.shape != wanted.shape or not np.isfinite(values).all() or np.ptp(values) < 1e-9:
        return False
    return bool(np.corrcoef(values, wanted)[0, 1] > 1 - 1e-9)


def read(said, days: int):
    """The four arrays, or a finding."""
    if not isinstance(said, tuple | list) or len(said) != 4:
        return look("prepare should return four arrays: rows and targets to learn from, rows and targets to judge on.")
    arrays = [numbers(value) for value in said]
    for name, array, axes in zip(PARTS, arrays, (2, 1, 2, 1), strict=True):
        if array is None or array.ndim != axes or (axes == 2 and array.shape[1] != 2):
            shape = "(days, 2)" if axes == 2 else "(days,)"
            return look(f"The {name} should be an array of shape {shape}.")
    if any(len(arrays[i]) != len(arrays[i + 1]) for i in (0, 2)):
        return look("There should be one row for each target, in both parts.")
    if len(arrays[1]) + len(arrays[3]) != days - 7:
        return look(f"Of {days} days, all from day 7 on should be in one of the parts: {days - 7} rows together.")
    return arrays


def split(arrays, series, cut):
    right = len(arrays[1]) == cut - 7 and straight(arrays[1], series[7:cut]) and straight(arrays[3], series[cut:])
    if right:
        return ok("The split is in time: all days to learn from are before the cut.")
    return look(
        "The split: the days to learn from should be day 7 to cut - 1, in their order, and the held-out ones the rest. "
        "Some are on the wrong side, or out of order."
    )


def scale(arrays, changed, series):
    if not close(arrays[1], changed[1]):
        return look(
            "The scale: when the days after the cut change, the targets *before* it change as well. From which days "
            "are mean and spread?"
        )
    if not straight(np.concatenate([arrays[1], arrays[3]]), series[7:]):
        return look(
            "The scale: the two parts have different ones. On the evening before nobody knows the mean of the "
            "held-out days: scale them, too, by the learning days."
        )
    return ok("The scale comes from the learning days.")


def week(prepare, arrays, series, cut):
    for day in (cut, cut + 1, cut + 4):
        other = series.copy()
        other[day:] += 100.0
        changed = read(prepare(other, cut), len(series))
        if not isinstance(changed, list):
            return changed
        if not close(arrays[2][day - cut], changed[2][day - cut]) or not close(arrays[0], changed[0]):
            return look(
                "The week: a day's row changes when that day itself, or a later one, changes. Which days does the mean "
                "hold? On the evening before, the last one known is yesterday."
            )
    return ok("No row knows its own day, nor a later one.")


def still_there(arrays, series, cut):
    rows = np.concatenate([arrays[0], arrays[2]])
    days = range(7, len(series))
    ending = np.array([series[day - 7 : day].mean() for day in days])
    if not straight(rows[:, 0], series[6:-1]):
        return look("The first column should be yesterday's sales, scaled.")
    if not straight(rows[:, 1], ending):
        return look("The second column should be the mean of seven days, of which yesterday is the last.")
    return ok("Both columns still say what they should.")


@exercise("21.find-the-leaks")
def find_the_leaks(prepare: Function()):
    """A preparation without the three leaks."""
    series, cut = record(), 40
    arrays = read(prepare(series, cut), len(series))
    yield must(arrays if not isinstance(arrays, list) else ok("Four arrays of the right shapes."))
    later = series.copy()
    later[cut:] = 3 * later[cut:][::-1] + 200
    changed = read(prepare(later, cut), len(series))
    yield must(changed if not isinstance(changed, list) else split(arrays, series, cut))
    yield must(scale(arrays, changed, series))
    yield must(week(prepare, arrays, series, cut))
    yield must(still_there(arrays, series, cut))
    series, cut = record(50), 25
    arrays = read(prepare(series, cut), len(series))
    if isinstance(arrays, list) and split(arrays, series, cut).right:
        yield ok("It does the same with another record and another cut.")
    else:
        yield arrays if not isinstance(arrays, list) else split(arrays, series, cut)


def preparation(*, scale="learning", week="back", split="time", yesterday=1):
    """The lesson's preparation, each of its three lines right or wrong."""

    def prepare(series, cut):
        part = {"learning": series[:cut], "all": series, "held out": series[cut:]}[scale]
        scaled = (series - part.mean()) / part.std()
        days = np.arange(7, len(series))
        if week == "around":
            mean = np.convolve(np.pad(scaled, 3, mode="edge"), np.ones(7) / 7, mode="valid")
        else:
            mean = np.array([scaled[max(0, day - 6) : day + 1].mean() for day in range(len(scaled))])
        second = {"zeros": np.zeros(len(days)), "own day": mean[days]}.get(week, mean[days - 1])
        rows, targets = np.stack([scaled[days - yesterday], second], axis=1), scaled[days]
        learning = days < cut
        if split == "drawn":
            learning = np.random.default_rng(0).random(len(days)) < cut / len(series)
        if split == "late":
            learning = days <= cut
        if split == "by row":
            learning = np.arange(len(days)) < cut
        return rows[learning], targets[learning], rows[~learning], targets[~learning]

    return answers(prepare)


@find_the_leaks.right
def mended():
    return preparation()


@find_the_leaks.right
def mended_with_cumulated_sums():
    def prepare(series, cut):
        scaled = (series - series[:cut].mean()) / series[:cut].std()
        week = np.convolve(scaled, np.ones(7) / 7, mode="valid")[:-1]  # ends on day 6, 7, ...
        rows = np.stack([scaled[6:-1], week], axis=1)
        here = cut - 7
        return rows[:here], scaled[7:cut], rows[here:], scaled[cut:]

    return answers(prepare)


@find_the_leaks.wrong("as it stands", says="The split: the days to learn from")
def as_it_stands():
    return preparation(scale="all", week="around", split="drawn")


@find_the_leaks.wrong("the draw is left", says="The split: the days to learn from")
def drawn():
    return preparation(split="drawn")


@find_the_leaks.wrong("the cut day is learnt from", says="on the wrong side")
def one_late():
    return preparation(split="late")


@find_the_leaks.wrong("rows counted instead of days", says="on the wrong side")
def by_row():
    return preparation(split="by row")


@find_the_leaks.wrong("the scale is left", says="From which days are")
def scaled_by_all():
    return preparation(scale="all")


@find_the_leaks.wrong("the scale of the held-out days", says="From which days are")
def scaled_by_held_out():
    return preparation(scale="held out")


@find_the_leaks.wrong("each part by its own scale", says="the two parts have different ones")
def scaled_apart():
    mended = preparation().positional[0]

    def prepare(series, cut):
        rows, targets, late_rows, late_targets = mended(series, cut)
        mean, spread = late_targets.mean(), late_targets.std()
        return rows, targets, (late_rows - mean) / spread, (late_targets - mean) / spread

    return answers(prepare)


@find_the_leaks.wrong("the smoothing is left", says="Which days does the mean")
def around():
    return preparation(week="around")


@find_the_leaks.wrong("the week ends on the day itself", says="Which days does the mean")
def own_day():
    return preparation(week="own day")


@find_the_leaks.wrong("the day itself as an input", says="a day's row changes when that day itself")
def today():
    return preparation(yesterday=0)


@find_the_leaks.wrong("the week thrown out", says="The second column")
def no_week():
    return preparation(week="zeros")


@find_the_leaks.wrong("the day before yesterday", says="The first column")
def two_days_back():
    return preparation(yesterday=2)


@find_the_leaks.wrong("only the rows", says="four arrays")
def rows_only():
    return answers(lambda series, cut: series[:cut])
