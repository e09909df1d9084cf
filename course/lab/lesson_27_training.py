"""Lesson 27: any step in the loop over time, trained on a toy: which of four symbols came first?"""

import matplotlib.pyplot as plt
import numpy as np

from lab import figures

SYMBOLS, STEPS, BATCH, HIDDEN = 4, 8, 32, 8
RATE, SEEDS = 0.02, (0, 1, 2)


def contract():
    """What is given around the learner's step. A figure and its alt text."""
    diagram = figures.Diagram(9.6, 3.7)
    diagram.box("in", 0.9, 2.75, "x, h", width=1.1)
    diagram.box("product", 2.9, 2.75, "matrix\nproducts", width=1.3, height=0.75)
    diagram.box("step", 5.5, 2.75, "your step\nforward", width=1.8, height=0.9, shade=1)
    diagram.box("out", 8.2, 2.75, "h, c'", width=1.1)
    diagram.box("back in", 8.2, 1.35, "dh, dc", width=1.1)
    diagram.box("back", 5.5, 1.35, "your step\nbackward", width=1.8, height=0.9, shade=1)
    diagram.box("kernel", 5.5, 0.3, "your kernel", width=1.8, height=0.5, shade=2)
    diagram.box("weights", 2.9, 1.35, "gradients of\nthe weights", width=1.5, height=0.75)
    diagram.arrow("in", "product")
    diagram.arrow("product", "step", "a")
    diagram.arrow("step", "out")
    diagram.arrow("back in", "back", line="--")
    diagram.arrow("back", "weights", "da", line="--")
    diagram.arrow((8.2, 3.45), (0.9, 3.45), "the next time step, with c", line=":")
    diagram.arrow("out", (8.2, 3.45), line=":")
    diagram.arrow((0.9, 3.45), "in", line=":")
    diagram.text(3.3, 0.3, "the same numbers as forward", size=9)
    alt = """A row of boxes with arrows from left to right: x and h go through the matrix products and become a;
    a goes through the box your step, forward, and becomes h and the new c, which return at the top for the next
    time step. Below, with dashed arrows from right to left: dh and dc go through your step, backward, and become
    da, from which the gradients of the weights follow. At the bottom a box, your kernel, which computes the same
    numbers as forward."""
    return diagram.figure, alt


def examples(rng, many):
    """x (time, batch, symbols), of which only the first symbol matters, and that symbol."""
    symbols = rng.integers(SYMBOLS, size=(STEPS, many))
    return np.eye(SYMBOLS)[symbols], symbols[0]


def run(step, gates, params, x):
    """Every step's a, c and h; the last h at the end."""
    h = c = np.zeros((x.shape[1], HIDDEN))
    kept = []
    for now in x:
        a = now @ params["weight_ih"].T + h @ params["weight_hh"].T + params["bias"]
        kept.append((now, h, a, c))
        h, c = step(a, c)
    return h, kept


def gradients(backward, params, kept, dh):
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    dc = np.zeros_like(dh)
    for x, h, a, c in reversed(kept):
        da, dc = backward(a, c, dh, dc)
        grads["weight_ih"] += da.T @ x
        grads["weight_hh"] += da.T @ h
        grads["bias"] += da.sum(axis=0)
        dh = da @ params["weight_hh"]
    return grads


def train(gates, forward, backward, start, seed, updates=250):
    """The losses of a training run, and the share of right answers on new sequences afterwards. ``start`` has the bias
    that each gate begins with."""
    rng = np.random.default_rng(seed)
    width = 1 / np.sqrt(HIDDEN)
    sizes = {"weight_ih": (gates * HIDDEN, SYMBOLS), "weight_hh": (gates * HIDDEN, HIDDEN)}
    params = {name: rng.uniform(-width, width, size) for name, size in sizes.items()}
    params["bias"] = np.repeat(np.asarray(start, float), HIDDEN)
    params["out"] = rng.uniform(-width, width, (SYMBOLS, HIDDEN))
    moments = {name: np.zeros((2, *value.shape)) for name, value in params.items()}
    losses = []
    for update in range(1, updates + 1):
        x, first = examples(rng, BATCH)
        h, kept = run(forward, gates, params, x)
        logits = h @ params["out"].T
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        losses.append(-np.log(share[np.arange(BATCH), first] + 1e-12).mean())
        dlogits = (share - np.eye(SYMBOLS)[first]) / BATCH
        grads = gradients(backward, params, kept, dlogits @ params["out"])
        grads["out"] = dlogits.T @ h
        adam(params, grads, moments, update)
    x, first = examples(np.random.default_rng(1000 + seed), 500)
    h, _ = run(forward, gates, params, x)
    return np.array(losses), float(((h @ params["out"].T).argmax(axis=1) == first).mean())


def adam(params, grads, moments, update):
    for name, grad in grads.items():
        mean, square = moments[name]
        mean += 0.1 * (grad - mean)
        square += 0.001 * (grad**2 - square)
        corrected = mean / (1 - 0.9**update), square / (1 - 0.999**update)
        params[name] -= RATE * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)


def trained(layers: dict):
    """Trains each of ``layers``, name: (gates, forward, backward, start), with three seeds; leaves out what fails."""
    results = {}
    for name, (gates, forward, backward, start) in layers.items():
        try:
            runs = [train(gates, forward, backward, start, seed) for seed in SEEDS]
        except Exception as error:  # a learner's half-finished functions may do anything
            print(f"{name}: not yet, {type(error).__name__}.")
            continue
        results[name] = gates, np.array([losses for losses, _ in runs]), [right for _, right in runs]
    return results


def chart(results):
    """The losses of `trained`, the mean over the seeds and each seed thinly. A figure and its alt text."""
    figure, axes = plt.subplots(figsize=(7.5, 3.4))
    told = []
    for number, (name, (gates, losses, _)) in enumerate(results.items()):
        smooth = np.array([np.convolve(one, np.ones(10) / 10, "valid") for one in losses])
        line = ("-", "--", "-.", ":")[number % 4]
        for one in smooth:
            axes.plot(one, color="0.6", linestyle=line, linewidth=0.7)
        parameters = gates * HIDDEN * (SYMBOLS + HIDDEN + 1)
        axes.plot(
            smooth.mean(axis=0), color="black", linestyle=line, linewidth=2, label=f"{name}, {parameters} parameters"
        )
        end = "comes down close to 0" if smooth.mean(axis=0)[-1] < 0.4 else "stays well above 0"
        told.append(f"{name} {end}")
    axes.axhline(np.log(SYMBOLS), color="0.5", linestyle=":", linewidth=1)
    axes.text(len(smooth[0]), np.log(SYMBOLS) + 0.02, "guessing", ha="right", va="bottom", fontsize=9)
    axes.set(xlabel="update", ylabel="loss", ylim=(0, 1.7))
    axes.legend(fontsize=9, loc="center right")
    alt = f"""The loss over the updates of a training run, thick lines for the mean of three seeds, thin grey
    ones for each seed, and a dotted line at 1.4, which is guessing. {"; ".join(told)}."""
    return figure, alt
