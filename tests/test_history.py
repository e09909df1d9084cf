"""gpulstm.training.History: records, columns, a table, and a plot that reads in grey."""

import builtins
import math

import matplotlib
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

from gpulstm.training import History  # noqa: E402


def record(step, loss, validation_loss=None, **more):
    return {
        "step": step,
        "epoch": step / 10,
        "loss": loss,
        "validation_loss": validation_loss,
        "learning_rate": 1e-3,
        "seconds": step / 4,
        "tokens_per_second": 1000.0 * step,
        **more,
    }


@pytest.fixture
def history():
    values = [(10, 4.0, 5.0), (20, 3.0, 4.5), (30, 2.0, math.nan), (40, 1.0, 4.5), (50, 0.5, 6.0)]
    return History([record(*value, accuracy=0.25) for value in values], seed=3)


def test_it_is_a_sequence_of_records_and_a_table_of_columns(history):
    assert len(history) == 5 and history[1]["loss"] == 3.0 and history[-1]["step"] == 50
    assert [r["step"] for r in history] == history["step"] == [10, 20, 30, 40, 50]
    assert [r["step"] for r in history[1:3]] == [20, 30]
    assert history["accuracy"] == [0.25] * 5 and history.names[-1] == "accuracy" and history.seed == 3
    with pytest.raises(KeyError, match="a column must be one of step, epoch, loss, .* got 'los'"):
        history["los"]


def test_the_best_is_the_first_of_the_smallest_numbers(history):
    assert history.best_step == 20 and history.best is history[1]
    assert history.evaluations_since_best == 3
    assert repr(history) == "<History of 5 records, best at step 20>"


def test_without_validation_there_is_no_best():
    history = History([record(10, 2.0), record(20, 1.0)])
    assert history.best is None and history.best_step is None and history.evaluations_since_best == 0
    history.interrupted = True
    assert repr(history) == "<History of 2 records, interrupted>" and "validation" not in str(history)


def test_as_text_it_is_a_table(history):
    lines = str(history).splitlines()
    assert (
        lines[0].split() == "step epoch loss validation loss learning rate seconds tokens per second accuracy".split()
    )
    assert lines[2].split() == ["20", "2", "3", "4.5", "0.001", "5.0", "20000", "0.25", "best"]
    assert len(lines) == 6 and sum("best" in line for line in lines) == 1
    ends = [line.index(word) + len(word) for line, word in zip(lines[:2], ("tokens per second", "10000"), strict=True)]
    assert ends[0] == ends[1], "the columns are not aligned"


def test_a_long_table_is_cut_in_the_middle():
    lines = str(History([record(k, 1.0) for k in range(1, 1001)])).splitlines()
    assert len(lines) == 12 and lines[6].split()[0] == "..." and lines[-1].split()[0] == "1000"


def test_nothing_yet_is_said_so():
    assert str(History()) == "no evaluation yet" and History()["loss"] == [] and list(History()) == []
    with pytest.raises(ValueError, match="history has nothing to plot"):
        History().plot()


def test_records_are_the_histories_own():
    given = [record(10, 2.0)]
    History(given).records[0]["loss"] = 7
    assert given[0]["loss"] == 2.0


def test_the_plot_shows_both_losses_and_the_best(history):
    ax = history.plot()
    training, validation, best = ax.lines
    assert list(training.get_xdata()) == list(validation.get_xdata()) == history["step"]
    assert list(training.get_ydata()) == history["loss"]
    assert list(validation.get_ydata())[:2] == [5.0, 4.5] and math.isnan(validation.get_ydata()[2])
    assert list(best.get_xdata()) == [20] and list(best.get_ydata()) == [4.5]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "training",
        "validation",
        "best: 4.5 at step 20",
    ]
    assert ax.get_xlabel() == "step" and ax.get_ylabel() == "loss"
    pyplot.close(ax.figure)


def test_the_curves_differ_without_colour(history):
    training, validation, best = history.plot().lines
    greys = [float(line.get_color()) for line in (training, validation)]
    assert abs(greys[0] - greys[1]) >= 0.4 and training.get_linestyle() != validation.get_linestyle()
    assert best.get_marker() == "o" and best.get_fillstyle() == "none"
    pyplot.close("all")


def test_it_plots_into_given_axes_and_without_validation():
    figure, ax = pyplot.subplots()
    assert History([record(10, 2.0), record(20, 1.0)]).plot(ax) is ax and len(ax.lines) == 1
    assert pyplot.get_fignums() == [figure.number]
    pyplot.close(figure)


def test_without_matplotlib_it_says_what_is_missing(history, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"history.plot\(\) needs matplotlib: pip install matplotlib"):
        history.plot()
