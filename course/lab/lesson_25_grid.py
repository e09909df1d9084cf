"""Lesson 25's measurements: each variant of the LSTM, trained from several seeds on two tasks.

    python course/lab/lesson_25_grid.py

prints the numbers that stand in `TABLE` below; it takes some five minutes on one core.
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
STEPS = {"adding": 600, "sunspots": 100}
NOTHING_LEARNT = {"adding": 167, "sunspots": 23.3}  # saying 1, the mean of the sums; persistence

TABLE = {}


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

    lstm, linear = build(variant, 2 if task == "adding" else 1, seed, xp)
    params = {"lstm": lstm.params, "linear": linear.params}
    adam, rng = gl.training.Adam(0.01), np.random.default_rng([seed, 1])
    sun = Sunspots() if task == "sunspots" else None
    for _ in range(STEPS[task]):
        x, target = (xp.asarray(array) for array in (sun.windows() if sun else adding(rng)))
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
    x, target = adding(np.random.default_rng(99), batch=500)
    said = backend.to_numpy(linear(lstm(xp.asarray(x))[0][-1]))
    return float(1000 * np.mean((said - target) ** 2))


def bars(table: dict[str, dict[str, list[float]]]):
    """For each task a bar per variant, the mean over the seeds, with the seeds as dots. The figure and its alt text."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    labels = {"adding": "mean squared error, in 1/1000", "sunspots": "mean absolute error, sunspots"}
    spoken = []
    for axes, task in zip(panels, labels, strict=True):
        full = table[task]["full"]
        axes.axvspan(min(full), max(full), color="0.85", zorder=0)
        for place, errors in enumerate(table[task].values()):
            axes.barh(place, np.mean(errors), 0.55, color="white", edgecolor="black", zorder=2)
            axes.plot(errors, [place] * len(errors), "o", color="0.3", markersize=4, zorder=3)
        axes.axvline(NOTHING_LEARNT[task], color="black", linestyle=":")
        axes.set(xlabel=labels[task], title=task)
        means = ", ".join(f"{name} {np.mean(errors):.3g}" for name, errors in table[task].items())
        spoken.append(f"{task}: {means}")
    panels[0].set(xscale="log", xlim=(0.2, 300))
    panels[0].set_yticks(range(len(table["adding"])), list(table["adding"]))
    panels[0].invert_yaxis()
    alt = f"""Two charts with a bar for each variant, the mean error of {SEEDS} seeds, and the seeds as dots. The axis
    of the adding problem is logarithmic. A grey band is the range of the full LSTM, a dotted line what one gets without
    learning. Means, {"; ".join(spoken)}."""
    return figure, alt


if __name__ == "__main__":
    for task in STEPS:
        print(f"    {task!r}: {{")
        for variant in VARIANTS:
            errors = [round(run(variant, task, seed), 1) for seed in range(SEEDS)]
            print(f"        {variant!r}: {errors},", flush=True)
        print("    },")
