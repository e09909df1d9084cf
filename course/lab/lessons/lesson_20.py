"""The checks of lesson 20."""

import numpy as np

from lab.exercises import answers, exercise, look, must, ok
from lab.kinds import Function, Text, numbers

CUT = 220  # 1920
GOAL = 16.0


def record():
    import statsmodels.api as sm

    return sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()


def one_number(value) -> float | None:
    array = numbers(value)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def found_out(made: np.ndarray, sunspots: np.ndarray):
    """Rules that are well known, by what they say."""
    if np.allclose(made, sunspots[CUT - 1 : -1]):
        return look("This is persistence itself. What did the sun do in the years before the last one?")
    if np.ptp(made) < 1e-9:
        return look("It says the same number in each year. Let it look at the end of `past`.")
    return None


@exercise("20.beat-persistence")
def beat_persistence(my_rule: Function()):
    """A rule for the sunspots that misses by less than 16 on the held-out years."""
    sunspots = record()
    made = []
    for now in range(CUT, len(sunspots)):
        said = my_rule(sunspots[:now])
        number = one_number(said)
        if number is None:
            shape = getattr(numbers(said), "shape", None)
            found = "no number" if shape is None else f"an array of shape {shape}"
            yield look(f"For {1700 + now} my_rule returned {found}. It should be one number, the next year's.")
            return
        made.append(number)
    made = np.array(made)
    if not np.isfinite(made).all():
        yield look(f"The forecast for {1920 + int(np.argmin(np.isfinite(made)))} is not a finite number.")
        return
    yield must(found_out(made, sunspots) or ok("It makes one forecast for each held-out year."))
    missed = np.abs(made - sunspots[CUT:]).mean()
    persistence = np.abs(np.diff(sunspots))[CUT - 1 :].mean()
    if missed < 8:
        yield look(
            f"It misses by {missed:.1f}. No honest rule is that good: somewhere it looks into `sunspots`, where the "
            "answer stands. Use `past` alone."
        )
    elif missed >= persistence:
        yield look(f"It misses by {missed:.1f}, and persistence by {persistence:.1f}. Do the weights fit the past?")
    elif missed >= GOAL:
        yield look(
            f"It misses by {missed:.1f}: better than persistence, not yet below {GOAL:.0f}. Are the weights in the "
            "order of the years?"
        )
    else:
        yield ok(f"It misses by {missed:.1f}, and persistence by {persistence:.1f}.")


def fitted(past, lags):
    rows = np.stack([np.r_[1.0, past[i - lags : i]] for i in range(lags, len(past))])
    weights = np.linalg.lstsq(rows, past[lags:], rcond=None)[0]
    return np.r_[1.0, past[-lags:]] @ weights


@beat_persistence.right
def nine_years():
    return answers(lambda past: fitted(past, 9))


@beat_persistence.right
def two_years():
    return answers(lambda past: fitted(past, 2))


@beat_persistence.wrong("persistence, as it stands", says="persistence itself")
def persistence():
    return answers(lambda past: past[-1])


@beat_persistence.wrong("a line through two years", says="not yet below 16")
def line():
    return answers(lambda past: 2 * past[-1] - past[-2])


@beat_persistence.wrong("eleven years ago", says="persistence by 23.3")
def last_cycle():
    return answers(lambda past: past[-11])


@beat_persistence.wrong("the mean of all years before 1920", says="the same number in each year")
def mean():
    return answers(lambda past: past[:CUT].mean())


@beat_persistence.wrong("looked up in the record", says="Use `past` alone")
def looked_up():
    sunspots = record()
    return answers(lambda past: sunspots[len(past)])


@beat_persistence.wrong("half of it looked up", says="No honest rule is that good")
def half_looked_up():
    sunspots = record()
    return answers(lambda past: (2 * sunspots[len(past)] + fitted(past, 9)) / 3)


@beat_persistence.wrong("weights in the wrong order", says="order of the years")
def wrong_order():
    def rule(past):
        rows = np.stack([np.r_[1.0, past[i - 9 : i]] for i in range(9, len(past))])
        weights = np.linalg.lstsq(rows, past[9:], rcond=None)[0]
        return np.r_[1.0, past[-9:][::-1]] @ weights

    return answers(rule)


@beat_persistence.wrong("a forecast for every year", says="should be one number")
def all_at_once():
    return answers(lambda past: past)


@beat_persistence.wrong("returns nothing", says="should be one number")
def nothing():
    return answers(lambda past: None)


@exercise("20.why")
def why(because: Text()):
    """Why ten numbers keep up with 1169."""
    letter = because.strip().lower().strip(".")
    replies = {
        "a": "It can, nearly: for small inputs tanh is almost a straight line. What it can express is not the trouble.",
        "c": "Look at what `autoregression` fits: series[:cut]. The held-out years are behind the cut.",
        "d": "Look at the rehearsal: with more epochs it missed by more, not by less.",
    }
    if letter == "b":
        yield ok("The right form, and few numbers to settle: that is hard to beat with 220 values.")
    elif letter in replies:
        yield look(replies[letter])
    else:
        yield look("because should be one letter: a, b, c or d.")


@why.right
def form_and_few():
    return answers("b")


@why.wrong("it cannot", says="almost a straight line")
def cannot():
    return answers("a")


@why.wrong("it saw the future", says="behind the cut")
def saw():
    return answers("c")


@why.wrong("too few epochs", says="Look at the rehearsal")
def brief():
    return answers("d")


@why.wrong("the sentence itself", says="one letter")
def sentence():
    return answers("Because the sun is a pendulum")
