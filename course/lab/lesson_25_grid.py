"""Lesson 25's measurements: each variant of the LSTM, trained from several seeds on three tasks.

    python course/lab/lesson_25_grid.py

prints the numbers that stand in `TABLE` below; it takes some ten minutes on one core.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from lab import backend

GATES = ("input", "forget", "candidate", "output")  # the order of their rows in every parameter
LINEAR = ("affine", 1.0, 0.0)  # hands on what it is given
OPTIONS = {
    "no candidate tanh": {"activations": ("sigmoid", LINEAR, "tanh")},
    "no cell tanh": {"activations": ("sigmoid", "tanh", LINEAR)},
    "coupled": {"coupled": True},
    "peephole": {"peephole": True},
}
HELD_OPEN = {"no input gate": "input", "no forget gate": "forget", "no output gate": "output"}
VARIANTS = ("full", *HELD_OPEN, "no recurrence", "no candidate tanh", "no cell tanh", "coupled", "peephole")
HIDDEN, SEEDS = 16, 5
STEPS = {"adding": 600, "resetting": 600, "sunspots": 100}
NOTHING_LEARNT = {"adding": 167, "resetting": 287, "sunspots": 23.3}  # saying the mean of the sums; persistence

# The errors of seeds 0 to 4
TABLE = {
    "adding": {
        "full": [2.7, 0.7, 0.6, 1.2, 1.2],
        "no input gate": [144.0, 63.2, 151.2, 9.2, 75.6],
        "no forget gate": [3.5, 2.0, 1.3, 1.3, 2.9],
        "no output gate": [1.4, 2.0, 0.7, 0.9, 0.8],
        "no recurrence": [1.6, 4.3, 1.7, 1.8, 7.7],
        "no candidate tanh": [2.8, 0.4, 1.1, 1.7, 1.7],
        "no cell tanh": [2.5, 0.8, 0.9, 1.4, 0.6],
        "coupled": [0.6, 0.5, 0.7, 0.5, 0.8],
        "peephole": [3.5, 0.6, 0.6, 1.6, 0.9],
    },
    "resetting": {
        "full": [2.7, 4.0, 4.9, 1.7, 3.5],
        "no input gate": [10.6, 15.9, 6.3, 7.3, 14.6],
        "no forget gate": [4.6, 295.6, 31.2, 8.4, 30.2],
        "no output gate": [2.5, 3.0, 3.0, 3.2, 2.7],
        "no recurrence": [16.5, 26.6, 10.0, 16.7, 27.3],
        "no candidate tanh": [2.7, 5.0, 4.5, 4.7, 2.9],
        "no cell tanh": [1.9, 3.5, 1.9, 3.3, 2.3],
        "coupled": [2.8, 2.1, 4.6, 3.0, 2.3],
        "peephole": [2.6, 3.3, 2.5, 5.1, 2.1],
    },
    "sunspots": {
        "full": [12.5, 12.5, 11.4, 11.0, 17.2],
        "no input gate": [13.2, 11.6, 11.9, 11.2, 13.5],
        "no forget gate": [12.1, 12.8, 13.3, 15.6, 12.6],
        "no output gate": [16.9, 16.7, 11.8, 11.3, 11.9],
        "no recurrence": [16.7, 16.7, 15.0, 15.4, 16.8],
        "no candidate tanh": [12.3, 12.2, 11.8, 11.9, 15.3],
        "no cell tanh": [13.0, 12.4, 24.4, 11.8, 11.2],
        "coupled": [10.6, 11.1, 11.1, 10.8, 11.1],
        "peephole": [23.1, 14.0, 14.5, 13.8, 17.7],
    },
}


def rows(lstm, gate: str) -> slice:
    """Where a gate's rows lie in weight_ih, weight_hh and bias."""
    hidden = lstm.layout.hidden_size
    first = GATES.index(gate) * hidden
    return slice(first, first + hidden)


def hold_open(lstm, gate: str) -> None:
    """Lets the gate be 1, whatever it is given. Its slope is then 0, so training leaves it as it is."""
    here = rows(lstm, gate)
    lstm.params["weight_ih_l0"][here] = 0.0
    lstm.params["weight_hh_l0"][here] = 0.0
    lstm.params["bias_l0"][here] = 50.0


def adding(rng: np.random.Generator, time: int = 20, batch: int = 32):
    """Numbers between 0 and 1, two of them marked (time, batch, 2); the target is the sum of these two (batch, 1)."""
    x = np.zeros((time, batch, 2))
    x[:, :, 0] = rng.random((time, batch))
    first = rng.integers(0, time // 2, batch)
    second = rng.integers(time // 2, time, batch)
    each = np.arange(batch)
    x[first, each, 1] = x[second, each, 1] = 1.0
    return x, (x[first, each, 0] + x[second, each, 0])[:, None]


def resetting(rng: np.random.Generator, time: int = 20, batch: int = 32):
    """The adding problem with four marked numbers and one reset (time, batch, 3): the target is the sum of the marked
    numbers after the reset (batch, 1)."""
    x = np.zeros((time, batch, 3))
    x[:, :, 0] = rng.random((time, batch))
    each = np.arange(batch)
    for quarter in range(4):
        x[rng.integers(quarter * time // 4, (quarter + 1) * time // 4, batch), each, 1] = 1.0
    reset = rng.integers(time // 4, 3 * time // 4, batch)
    x[reset, each, 2] = 1.0
    counts = np.arange(time)[:, None] > reset
    return x, (x[:, :, 0] * x[:, :, 1] * counts).sum(axis=0)[:, None]


TOYS = {"adding": (adding, 2), "resetting": (resetting, 3)}  # and the features of their inputs


class Sunspots:
    """Scaled square roots, cut at 1920."""

    cut = 220

    def __init__(self):
        import statsmodels.api as sm

        self.counts = sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy()
        roots = np.sqrt(self.counts)
        self.mean, self.spread = roots[: self.cut].mean(), roots[: self.cut].std()
        self.scaled = ((roots - self.mean) / self.spread)[:, None, None]  # (309, 1, 1)

    def windows(self, length: int = 44) -> tuple[np.ndarray, np.ndarray]:
        """Windows of the learning years side by side, (time, batch, 1), and the same one year later."""
        starts = range(0, self.cut - length, 2)
        return tuple(np.concatenate([self.scaled[s + d : s + d + length] for s in starts], axis=1) for d in (0, 1))

    def error(self, forecast: np.ndarray) -> float:
        """Mean absolute error in sunspots of what was said in each year about the next."""
        counts = np.maximum(forecast.ravel() * self.spread + self.mean, 0.0) ** 2
        return float(np.abs(counts - self.counts[1:])[self.cut - 1 :].mean())


def build(variant: str, inputs: int, seed: int, xp=np):
    """The LSTM of that variant, and the linear layer on it."""
    import gpulstm as gl

    same = {"dtype": "float64", "xp": xp, "rng": np.random.default_rng(seed)}
    lstm = gl.LSTM(inputs, HIDDEN, **same, **OPTIONS.get(variant, {}))
    if variant != "coupled":  # its forget gate is one minus the input gate, and has no bias of its own
        lstm.params["bias_l0"][rows(lstm, "forget")] = 1.0
    if variant in HELD_OPEN:
        hold_open(lstm, HELD_OPEN[variant])
    if variant == "no recurrence":
        lstm.params["weight_hh_l0"][:] = 0.0
    return lstm, gl.nn.Linear(HIDDEN, 1, **same)


def run(variant: str, task: str, seed: int, xp=np) -> float:
    """Trains one variant once. Its error on data that it has not seen: the mean squared error of the sums in 1/1000,
    or the mean absolute error of the sunspots."""
    import gpulstm as gl

    lstm, linear = build(variant, 1 if task == "sunspots" else TOYS[task][1], seed, xp)
    params = {"lstm": lstm.params, "linear": linear.params}
    adam, rng = gl.training.Adam(0.01), np.random.default_rng([seed, 1])
    sun = Sunspots() if task == "sunspots" else None
    for _ in range(STEPS[task]):
        x, target = (xp.asarray(array) for array in (sun.windows() if sun else TOYS[task][0](rng)))
        y, _, cache = lstm.forward(x)
        forecast, linear_cache = linear.forward(y if sun else y[-1])
        _, dforecast = gl.nn.mean_squared_error(forecast, target)
        dy, linear_grads = linear.backward(linear_cache, dforecast)
        if not sun:  # only the last step was judged
            dy, last = xp.zeros_like(y), dy
            dy[-1] = last
        lstm_grads = lstm.backward(cache, dy)[1]
        if variant == "no recurrence":
            lstm_grads["weight_hh_l0"][:] = 0.0
        grads = {"lstm": lstm_grads, "linear": linear_grads}
        gl.training.clip_by_global_norm(grads, 1.0)
        adam.step(params, grads)
    if sun:
        return sun.error(backend.to_numpy(linear(lstm(xp.asarray(sun.scaled[:-1]))[0])))
    x, target = TOYS[task][0](np.random.default_rng(99), batch=500)
    said = backend.to_numpy(linear(lstm(xp.asarray(x))[0][-1]))
    return float(1000 * np.mean((said - target) ** 2))


def bars(table: dict[str, dict[str, list[float]]]):
    """For each task a bar per variant, the median of the seeds, and the seeds as dots. The figure and its alt text."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), sharey=True)
    spoken = []
    for axes, (task, errors) in zip(panels, table.items(), strict=True):
        axes.axvspan(min(errors["full"]), max(errors["full"]), color="0.85", zorder=0)
        for place, seeds in enumerate(errors.values()):
            axes.barh(place, np.median(seeds), 0.55, color="white", edgecolor="black", zorder=2)
            axes.plot(seeds, [place] * len(seeds), "o", color="0.3", markersize=4, zorder=3)
        axes.axvline(NOTHING_LEARNT[task], color="black", linestyle=":")
        axes.set_title(task)
        if task in TOYS:
            axes.set(xscale="log", xlim=(0.3, 500), xlabel="squared error in 1/1000, log. axis")
        else:
            axes.set(xlim=(0, 26), xlabel="absolute error, sunspots")
        middle = ", ".join(f"{name} {np.median(seeds):.3g}" for name, seeds in errors.items())
        spoken.append(f"{task}: {middle}")
    panels[0].set_yticks(range(len(table["adding"])), list(table["adding"]))
    panels[0].invert_yaxis()
    alt = f"""Three charts with a bar for each variant, the median error of {SEEDS} seeds, and the seeds as dots. The
    axes of the two toys are logarithmic. A grey band is the range of the full LSTM's seeds, a dotted line what one gets
    without learning. Medians, {"; ".join(spoken)}."""
    return figure, alt


if __name__ == "__main__":
    for task in STEPS:
        print(f"    {task!r}: {{")
        for variant in VARIANTS:
            errors = [round(run(variant, task, seed), 1) for seed in range(SEEDS)]
            print(f"        {variant!r}: {errors},", flush=True)
        print("    },")
