"""The file in which a problem goes from one process to the other."""

from pathlib import Path

import numpy as np

from .ours import Problem


def write(path: Path, problem: Problem) -> None:
    weights, inputs = problem
    arrays = {f"weights {name}": value for name, value in weights.items()}
    for number, (x, (h, c), dy, lengths) in enumerate(inputs):
        named = {"x": x, "h": h, "c": c, "dy": dy} | ({} if lengths is None else {"lengths": lengths})
        arrays |= {f"{number} {name}": value for name, value in named.items()}
    np.savez(path, **arrays)


def read(path: Path) -> Problem:
    weights, inputs = {}, {}
    with np.load(path) as file:
        for key in file.files:
            group, _, name = key.partition(" ")
            into = weights if group == "weights" else inputs.setdefault(int(group), {})
            into[name] = file[key]
    return weights, [(of["x"], (of["h"], of["c"]), of["dy"], of.get("lengths")) for of in inputs.values()]
