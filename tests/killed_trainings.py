"""Trains again and again in child processes that are killed at random moments, and looks at what each one leaves.

    python tests/killed_trainings.py FOLDER KILLS SEED

Prints, as JSON, how often a child was killed while it wrote, how far the children came, and how many checkpoints did
not load, or did not lead to the bits of a training that nobody stopped.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import gpulstm as gl
from gpulstm.training.saved import leftovers, load_checkpoint
from tests.training_problems import Recurrent, flat, sequences, squared_error

STEPS = 30
DATA = sequences(30, longest=3)
VALIDATION = sequences(4, longest=2, seed=1)


def train(**options):
    """A training of STEPS steps; gives the bits of what it has learnt."""
    model = Recurrent(num_layers=1)
    options = {"steps": STEPS, "batch_size": 4, "validation": VALIDATION, "evaluate_every": 7, "rng": 3} | options
    gl.fit(model, squared_error, DATA, progress=False, **options)
    return {name: value.tobytes() for name, value in flat(model.params).items()}


def killed_child(path, delay, writing):
    """A child that goes on from ``path`` and saves every step, killed after a while, or at the next sight of its file.

    Whether it was killed, and whether while it wrote.
    """
    before = set(leftovers(path))
    child = os.fork()
    if child == 0:
        try:
            train(checkpoint=path, checkpoint_every=1, **({"resume": path} if path.exists() else {}))
        finally:
            os._exit(0)
    time.sleep(delay)
    while writing and not set(leftovers(path)) - before:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), bool(set(leftovers(path)) - before)


def main(folder, kills, seed):
    path, moments = Path(folder) / "run.safetensors", random.Random(seed)
    expected = train()
    counts = {"killed": 0, "while writing": 0, "with a checkpoint": 0, "unreadable": 0, "other bits": 0}
    steps = set()
    while counts["killed"] < kills:
        killed, writing = killed_child(path, moments.uniform(0.001, 0.04), moments.random() < 0.6)
        counts["killed"] += killed
        counts["while writing"] += writing
        if not path.exists():
            continue
        counts["with a checkpoint"] += 1
        try:
            step = load_checkpoint(path).position["step"]
        except (ValueError, KeyError):
            counts["unreadable"] += 1
            path.unlink()
            continue
        steps.add(step)
        counts["other bits"] += train(resume=path) != expected
        if step == STEPS:
            path.unlink()
    return counts | {"steps": len(steps), "leftovers": len(leftovers(path))}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
