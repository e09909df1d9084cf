"""The pictures of lesson 21."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

DAYS, CUT = 24, 16


def three_leaks():
    """One strip of days for each way in which the future gets into the learning."""
    figure, axes = plt.subplots(figsize=(9, 3.2))
    told = [
        "1  the mean of all days\nscales the learning days",
        "2  a mean around the day\nis an input of that day",
        "3  the days to judge on\nare drawn at random",
    ]
    drawn = {2, 5, 9, 12, 14, 17, 20, 22}
    for row, text in enumerate(told):
        y = 3 * (2 - row)
        axes.text(-0.6, y + 0.5, text, ha="right", va="center")
        for day in range(DAYS):
            held_out = day in drawn if row == 2 else day >= CUT
            shade = "0.6" if held_out else "white"
            axes.add_patch(Rectangle((day, y), 1, 1, facecolor=shade, edgecolor="black", linewidth=0.8))
    back = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.3}
    curve = back | {"connectionstyle": "arc3,rad=0.35"}
    for day in (17, 20, 23):  # from the held-out days back into the scale of the learning ones
        axes.annotate("", (6.5, 7.05), (day + 0.5, 7.05), arrowprops=curve)
    axes.add_patch(Rectangle((7, 2.9), 7, 1.2, fill=False, edgecolor="black", linewidth=2.4))
    axes.text(10.5, 3.5, "day", ha="center", va="center", size=9)
    for day in (11.5, 12.5, 13.5):
        axes.annotate("", (10.7, 4.1), (day, 4.1), arrowprops=back | {"connectionstyle": "arc3,rad=0.7"})
    for day, bend in ((8.3, -0.9), (10.7, 0.9)):
        axes.annotate("", (9.5, 1.05), (day, 1.05), arrowprops=back | {"connectionstyle": f"arc3,rad={bend}"})
    axes.plot([CUT, CUT], [2.7, 7.5], color="black", linestyle="--", linewidth=1.6)
    axes.text(CUT / 2, -0.5, "time runs to the right; white: to learn from", ha="center", va="center", size=9)
    axes.text(20.4, -0.5, "grey: held out", ha="center", va="center", size=9)
    axes.set(xlim=(-9, DAYS + 0.3), ylim=(-0.9, 9.6), aspect="equal")
    axes.axis("off")
    alt = """Three strips of 24 days, white ones to learn from, grey ones held out. In the first, arrows lead from the
    grey days at the end back over the cut to the white ones: the mean of all days. In the second, a frame of seven days
    lies around one day, and arrows lead from the three days after it back to it. In the third, the grey days are
    strewn among the white ones, and arrows lead from the two white neighbours of a grey day to it."""
    return figure, alt


def against_naive(results: dict[str, tuple[float, float, list[float]]]):
    """``results``: name -> error of the naive rule, of the best simple one, and of the LSTM's seeds."""
    figure, axes = plt.subplots(figsize=(9, 3.4))
    spoken = []
    for place, (name, (naive, simple, seeds)) in enumerate(results.items()):
        shares = np.array(seeds) / naive
        middle = shares.mean()
        first = place == 0
        axes.barh(place, middle, 0.5, color="0.85", edgecolor="black", label="LSTM, mean" if first else None)
        ends = [[middle - shares.min()], [shares.max() - middle]]
        axes.errorbar(middle, place, xerr=ends, color="black", capsize=6, label="all seeds" if first else None)
        axes.plot(simple / naive, place, "D", color="white", markeredgecolor="black", markersize=8, zorder=5)
        spoken.append(
            f"{name}: LSTM {middle:.2f}, seeds from {shares.min():.2f} to {shares.max():.2f}, "
            f"best simple rule {simple / naive:.2f}"
        )
    axes.plot([], [], "D", color="white", markeredgecolor="black", markersize=8, label="best simple rule")
    axes.axvline(1.0, color="black", linestyle="--")
    axes.text(1.02, 2.5, "naive rule", ha="left", va="center", size=9)
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set(xlabel="error, naive rule = 1")
    axes.legend(loc="center right")
    alt = (
        "A bar for each record: the LSTM's error as a share of the naive rule's, with its seeds as error bars, and "
        "the best simple rule as a diamond; a dashed line at 1 is the naive rule. " + "; ".join(spoken) + "."
    )
    return figure, alt, spoken
