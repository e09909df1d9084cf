"""What the planner takes beside what was measured to be fastest, from the files of layouts.py and graphs.py. No GPU.

    python benchmarks/choices.py results/layouts-*.json results/graphs.json
    python benchmarks/choices.py results          # all of these in a folder

It asks the planner of this checkout: after its lines were changed, the same files say what became of it.
See benchmarks/README.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gpulstm.cuda import planner  # noqa: E402 - of this checkout, installed or not

WORSE = 1.05  # times the fastest layout: a choice beyond it is said


class Size(NamedTuple):
    """What the planner is asked about."""

    device: planner.Device
    dtype: str
    direction: str
    hidden: int
    batch: int

    def __str__(self) -> str:
        return f"{self.dtype:8} {self.direction:8} H {self.hidden:4} N {self.batch:3}"


Layout = tuple[Any, ...]  # kernel, tiles, blocks, groups, share
Times = dict[Size, dict[Layout, dict]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="results files, or folders that have them")
    print("\n".join(texts(parser.parse_args(arguments).files)))
    return 0


def texts(places: Iterable[Path]) -> list[str]:
    """All that is to be said about the files."""
    files = [file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    times = measured(document for document in documents if _is_of_layouts(document))
    found = beside(times)
    for schedule in planner.UNMEASURED:
        found += [] if schedule == "graph" else with_it(times, schedule)
    return found + [line for document in documents if _is_of_graphs(document) for line in of_graphs(document)]


def _is_of_layouts(document: Any) -> bool:
    rows = document.get("rows") if isinstance(document, dict) else None
    return bool(rows) and "predicted" in rows[0] and "device" in document


def _is_of_graphs(document: Any) -> bool:
    rows = document.get("rows") if isinstance(document, dict) else None
    return bool(rows) and "forward_cpu_us" in rows[0]


def measured(documents: Iterable[dict]) -> Times:
    """Size -> layout -> its row."""
    found: Times = {}
    for document in documents:
        device = planner.Device(**document["device"])
        for row in document["rows"]:
            size = Size(device, document["dtype"], row["direction"], row["hidden"], row["batch"])
            layout = row["kernel"], tuple(row["tiles"]), row["blocks"], row["groups"], row["share"]
            found.setdefault(size, {})[layout] = row
    return found


def beside(times: Times) -> list[str]:
    """A line for each size whose planned layout is not among the fastest, and how many there are."""
    lines, ratios, unknown = [], [], 0
    for size, layouts in times.items():
        best = min(layouts.values(), key=lambda row: row["microseconds"])
        choice, row = _chosen(size, layouts, planner.AUTOMATIC)
        if row is None:
            unknown += 1
            where = f"{choice.schedule}, {choice.microseconds:.2f} us predicted, which is not in these files"
            lines.append(f"{size}: fastest {_words(best)}; the planner takes {where}")
            continue
        ratios.append(row["microseconds"] / best["microseconds"])
        if ratios[-1] > WORSE:
            lines.append(
                f"{size}: fastest {_words(best)}; the planner takes {_words(row)}, {ratios[-1]:.2f} times that"
            )
    if not times:
        return ["No layouts were measured."]
    worse = sum(ratio > WORSE for ratio in ratios)
    total = f"{len(times)} sizes: the planner's layout takes {_mean(ratios)} times the fastest one's time; "
    return [*sorted(lines), f"{total}more than {WORSE} times in {worse}, not measured in {unknown}"]


def with_it(times: Times, schedule: str) -> list[str]:
    """What an entry of `planner.UNMEASURED` costs or saves."""
    ratios, fits = [], []
    for size, layouts in times.items():
        fits += [row["microseconds"] / row["predicted"] for row in layouts.values() if row["schedule"] == schedule]
        without = _chosen(size, layouts, planner.AUTOMATIC)[1]
        choice, row = _chosen(size, layouts, (*planner.AUTOMATIC, schedule))
        if choice.schedule == schedule and row is not None and without is not None:
            ratios.append((row["microseconds"] / without["microseconds"], size))
    if not fits:
        return [f"{schedule} is in planner.UNMEASURED, and these files have no time of it"]
    found = [f"{schedule}: measured over predicted {median(fits):.2f} ({min(fits):.2f} to {max(fits):.2f})"]
    if not ratios:
        return [*found, f"{schedule}: the planner would take it nowhere where both it and the rest were measured"]
    slower = [f"  slower: {size}, {ratio:.2f} times" for ratio, size in ratios if ratio > WORSE]
    mean = _mean([ratio for ratio, _ in ratios])
    verdict = "delete it from planner.UNMEASURED" if not slower else "correct its prediction, then ask again"
    return [
        *found,
        f"{schedule}: taken in {len(ratios)} sizes it takes {mean} times what is taken now: {verdict}",
        *slower,
    ]


def of_graphs(document: dict) -> list[str]:
    """The graph's time over the loop's, by kind."""
    found = []
    rows = [row for row in document["rows"] if row["schedule"] == "graph"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        for each in ("forward", "forward_backward"):
            ratios = [row[f"{each}_ratio"] for row in of_kind]
            at = max(of_kind, key=lambda row: row[f"{each}_ratio"])
            worst = f"at most {max(ratios):.2f}, H {at['hidden']} N {at['batch']}"
            found.append(f"graph over loop, {kind}, {each.replace('_', ' + ')}: {_mean(ratios)}, {worst}")
    return found


def _chosen(size: Size, layouts: dict[Layout, dict], schedules: tuple[str, ...]) -> tuple[planner.Choice, dict | None]:
    """What the planner takes of these schedules, and its row, if there is one."""
    with planner.only(*schedules):
        choice = planner.choose(size.direction, size.batch, size.hidden, size.dtype, size.device)
    layout = choice.kernel, tuple(choice.tiles), choice.blocks, choice.groups, choice.share
    return choice, layouts.get(layout)


def _words(row: dict) -> str:
    where = f"{row['schedule']} {tuple(row['tiles'])} {row['groups']} x {row['blocks']} blocks"
    return f"{where}, {row['microseconds']:.2f} us ({row['predicted']:.2f} predicted)"


def _mean(ratios: list[float]) -> str:
    return f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}" if ratios else "nothing"


if __name__ == "__main__":
    sys.exit(main())
