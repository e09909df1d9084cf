"""What the commands share that time a layer in several ways: all sizes in turn, and a JSON file written after each."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import files
from benchmarks.needs import need

DRAWN = 999_983  # random numbers, a prime: they repeat in other places of each row


def run(
    description: str,
    sizes: dict[str, Sequence],
    steps: int,
    clock: Callable[[Any], Callable],
    measured: Callable[..., Iterable[dict]],
    line: str,
    failed: Callable[[list[dict]], list[dict]],
    complaint: str,
) -> int:
    """The exit status: 1 if ``failed(rows)`` has rows, each of which ``complaint`` is said of.

    ``sizes`` are the names of arguments of the command and of ``measured``, and what they are unless given.
    ``measured`` takes CuPy, one of each, ``steps`` and ``in_turn``, and gives rows, of which ``line`` is printed.
    ``clock(gpu)`` is what takes times in turn, as `benchmarks.options.in_turn_on` does.

    Kinds, which are texts, are the innermost: a run that is cut off has all of them at the sizes that it has reached.
    A size that fails is written down, and the others go on; the exit status is then 1, too.
    """
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--out", type=Path, help="a JSON file to write")
    for name, usual in sizes.items():
        if isinstance(usual[0], str):
            arguments.add_argument(f"--{name}", nargs="+", choices=usual, default=usual)
        else:
            arguments.add_argument(f"--{name}", nargs="+", type=int, default=usual)
    arguments.add_argument("--steps", type=int, default=steps)
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="begin no size after this time")
    add_continue(arguments)
    given = arguments.parse_args()
    need("cupy", gpu=True)
    import cupy

    from benchmarks.gpu import Gpu

    gpu, start = Gpu(), time.perf_counter()
    rows: list[dict] = []
    left: list[list] = []
    failed_sizes: list[dict] = []
    document = {"machine": gpu.machine(), "steps": given.steps, "left": left, "failed": failed_sizes, "rows": rows}
    there = take_over(given.go_on, document, [*sizes])
    names = sorted(sizes, key=lambda name: isinstance(sizes[name][0], str))  # the order is kept otherwise
    for size in product(*(getattr(given, name) for name in names)):
        of_size = dict(zip(names, size, strict=True))
        if tuple(of_size[name] for name in sizes) in there:
            continue
        if time.perf_counter() - start > given.seconds:
            left.append([of_size[name] for name in sizes])
            continue
        for row in rows_or_why(lambda of=of_size: measured(cupy, **of, steps=given.steps, in_turn=clock(gpu))):
            if "failed" in row:
                failed_sizes.append(of_size | row)
                print(f"FAILED, {of_size}: {row['failed']}", flush=True)
                continue
            rows.append(row)
            print(line.format(**row), flush=True)
        files.write(given.out, document)
    found = failed(rows)
    for row in found:
        print(complaint.format(**row))
    files.write(given.out, document)
    return 1 if found or failed_sizes else 0


def add_continue(arguments: argparse.ArgumentParser) -> None:
    says = "keep the rows of this file, and measure the sizes that it has not"
    arguments.add_argument("--continue", dest="go_on", type=Path, metavar="FILE", help=says)


def take_over(path: Path | None, document: dict[str, Any], names: Sequence[str]) -> set[tuple]:
    """Puts the rows of an earlier file into the document. Gives the sizes that it has, by ``names``; a file is written
    when a size is complete. Ends the program if the file is of another GPU or of other time steps."""
    if path is None or not path.exists():
        return set()
    before = json.loads(path.read_text(encoding="utf-8"))

    def identity(of: dict[str, Any]) -> dict[str, Any]:
        found = {key: of.get(key) for key in ("steps", "dtype", "bidirectional")}
        return found | {"GPU": (of.get("machine") or {}).get("gpu")}

    ours, theirs = identity(document), identity(before)
    differing = next((key for key in ours if ours[key] != theirs[key]), None)
    if differing:
        text = f"the file is of another {differing}, {theirs[differing]}, and this is {ours[differing]}"
        raise SystemExit(f"--continue: {text}")
    found = {tuple(row[name] for name in names) for row in before["rows"]}
    document["rows"] += before["rows"]
    document["failed"] += [row for row in before["failed"] if tuple(row.get(name) for name in names) in found]
    return found


def rows_or_why(measured: Callable[[], Iterable[dict]]) -> Iterator[dict]:
    """The rows, and where an exception ends them one with the reason alone, under "failed"."""
    try:
        yield from measured()
    except Exception as error:  # a launch that is refused, or no memory: what comes after it is still worth having
        first = next(iter(str(error).splitlines()), "")
        yield {"failed": f"{type(error).__name__}: {first[:300]}"}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers in float32. Many of them repeat some: drawing each one takes longer than what is measured."""
    drawn = np.random.default_rng(seed).standard_normal(min(DRAWN, int(np.prod(shape))), dtype=np.float32)
    return np.resize(drawn, shape)
