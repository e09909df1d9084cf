"""What the commands share that time a layer in several ways: all sizes in turn, and a JSON file written after each."""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import files
from benchmarks.needs import need


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
    given = arguments.parse_args()
    need("cupy", gpu=True)
    import cupy

    from benchmarks.gpu import Gpu

    gpu, start = Gpu(), time.perf_counter()
    rows: list[dict] = []
    left: list[list] = []
    document = {"machine": gpu.machine(), "steps": given.steps, "left": left, "rows": rows}
    for size in product(*(getattr(given, name) for name in sizes)):
        if time.perf_counter() - start > given.seconds:
            left.append([*size])
            continue
        of_size = dict(zip(sizes, size, strict=True))
        for row in measured(cupy, **of_size, steps=given.steps, in_turn=clock(gpu)):
            rows.append(row)
            print(line.format(**row), flush=True)
        files.write(given.out, document)
    found = failed(rows)
    for row in found:
        print(complaint.format(**row))
    files.write(given.out, document)
    return 1 if found else 0
