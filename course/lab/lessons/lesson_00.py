"""The check of lesson 00."""

import numpy as np

from lab.exercises import answers, close, exercise, look, ok
from lab.kinds import Array


def record():
    """The sunspots, and which years are held out."""
    import statsmodels.api as sm

    data = sm.datasets.sunspots.load_pandas().data
    return data["SUNACTIVITY"].to_numpy(), data["YEAR"].to_numpy() >= 1920


@exercise("00.persistence")
def persistence(forecast: Array()):
    """Next year will be like this year, on the years held out."""
    sunspots, held_out = record()
    truth, before = sunspots[held_out], np.roll(sunspots, 1)[held_out]
    if forecast.shape != truth.shape:
        yield look(f"{len(truth)} years are held out, and your forecasts have the shape {forecast.shape}.")
        return
    yield ok(f"There is one forecast for each of the {len(truth)} years.")
    if close(forecast, before):
        yield ok(f"It misses by {np.abs(forecast - truth).mean():.1f} on average, and that is honest.")
    elif close(forecast, truth):
        yield look("No error at all? Each year is 'forecast' by itself. That is leakage.")
    elif close(forecast[:-1], truth[1:]):
        yield look("Each year is forecast by the year after it. A forecaster does not have that one yet.")
    elif close(forecast[1:], truth[:-1]):
        yield look("Only 1920 is wrong: its forecast is the value of 1919, which is not held out itself.")
    else:
        yield look("The forecast for 1920 is the value of 1919, and so on.")


@persistence.right
def moved():
    sunspots, held_out = record()
    return answers(np.roll(sunspots, 1)[held_out])


@persistence.wrong("the year itself", says="leakage")
def leak():
    sunspots, held_out = record()
    return answers(sunspots[held_out])


@persistence.wrong("the year after", says="does not have that one yet")
def oracle():
    sunspots, held_out = record()
    return answers(np.roll(sunspots, -1)[held_out])


@persistence.wrong("moved inside the held-out years", says="Only 1920 is wrong")
def moved_inside():
    sunspots, held_out = record()
    return answers(np.roll(sunspots[held_out], 1))


@persistence.wrong("all years", says="89 years are held out")
def all_years():
    return answers(np.roll(record()[0], 1))


@persistence.wrong("two years before", says="1920 is the value of 1919")
def two_before():
    sunspots, held_out = record()
    return answers(np.roll(sunspots, 2)[held_out])
