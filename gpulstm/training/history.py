"""The history of a training run: one record for each evaluation."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

FIELDS = ("step", "epoch", "loss", "validation_loss", "learning_rate", "seconds", "tokens_per_second")


class History(Sequence):
    """What `gpulstm.fit` returns: a sequence of records, and a table by columns.

    ::

        history[-1]["loss"]         the last record, a dict
        history["loss"]             a column, a list
        print(history)              a table
        history.plot()              the curves

    A record has ``step`` and ``epoch`` done by then (epoch None where there are none), ``loss``, the mean over the
    steps since the record before, ``validation_loss`` or None, ``learning_rate`` or None, ``seconds`` of the run in
    all, ``tokens_per_second``, time steps that count, and the metrics by their names. Where training was interrupted
    the last record says how far it came, without validation.

    ``interrupted`` and ``stopped_early`` say how training ended; ``seed`` is what repeats it, as ``rng``.
    """

    def __init__(self, records: Sequence[dict[str, Any]] = (), *, seed: int | None = None) -> None:
        self.records = [dict(record) for record in records]
        self.seed = seed
        self.interrupted = False
        self.stopped_early = False

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, str):
            if which not in self.names:
                raise KeyError(f"a column must be one of {', '.join(self.names)}, got {which!r}")
            return [record[which] for record in self.records]
        return self.records[which]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self.records[0]) if self.records else FIELDS

    @property
    def best(self) -> dict[str, Any] | None:
        """The record with the smallest validation loss, the first of them, or None without any."""
        measured = [
            r for r in self.records if r["validation_loss"] is not None and not math.isnan(r["validation_loss"])
        ]
        return min(measured, key=lambda record: record["validation_loss"], default=None)

    @property
    def best_step(self) -> int | None:
        """The step of the smallest validation loss: fit leaves the model with the parameters from there."""
        return self.best["step"] if self.best else None

    @property
    def evaluations_since_best(self) -> int:
        """How many evaluations have brought no improvement."""
        measured = [record["step"] for record in self.records if record["validation_loss"] is not None]
        return sum(step > (self.best_step or 0) for step in measured)

    def __str__(self) -> str:
        """A table with a row for each record, the best marked; of many records the first and the last five."""
        if not self.records:
            return "no evaluation yet"
        names = [name for name in self.names if any(record[name] is not None for record in self.records)]
        rows = [[*(_shown(name, record[name]) for name in names), self._mark(record)] for record in self.records]
        if len(rows) > 11:
            rows = [*rows[:5], ["..." for _ in names] + [""], *rows[-5:]]
        titles = [*(name.replace("_", " ") for name in names), ""]
        widths = [max(len(row[k]) for row in [titles, *rows]) for k in range(len(titles))]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [titles, *rows]
        ]
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        ended = ", interrupted" if self.interrupted else ", stopped early" if self.stopped_early else ""
        best = f", best at step {self.best_step}" if self.best else ""
        return f"<History of {len(self)} records{best}{ended}>"

    def _mark(self, record: dict[str, Any]) -> str:
        return "best" if record["step"] == self.best_step else ""

    def plot(self, ax: Any = None) -> Any:
        """Draws training and validation loss over steps, the best marked; returns the Axes.

        ``ax`` is a matplotlib Axes to draw into; None makes a figure. Needs matplotlib, and says so without it.
        """
        if not self.records:
            raise ValueError("history has nothing to plot: training ended before its first evaluation")
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError("history.plot() needs matplotlib: pip install matplotlib") from error
            ax = pyplot.subplots(layout="constrained")[1]
        # Told apart by dashes and markers, and light and dark, so that it reads in grey too.
        marker = "." if len(self) < 60 else None
        losses = [math.nan if value is None else value for value in self["loss"]]
        ax.plot(self["step"], losses, color="0.55", linestyle="-", linewidth=1.8, marker=marker, label="training")
        measured = [record for record in self.records if record["validation_loss"] is not None]
        if measured:
            steps, values = [r["step"] for r in measured], [r["validation_loss"] for r in measured]
            ax.plot(steps, values, color="0.05", linestyle="--", linewidth=1.8, marker=marker, label="validation")
        if self.best:
            step, value = self.best["step"], self.best["validation_loss"]
            label = f"best: {_shown('loss', value)} at step {step}"
            ax.plot(
                [step], [value], "o", markersize=11, fillstyle="none", markeredgewidth=1.8, color="0.05", label=label
            )
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
        ax.grid(True, color="0.9")
        ax.legend()
        return ax


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "seconds":
        return f"{value:.1f}"
    if name == "tokens_per_second":
        return f"{value:.0f}"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
