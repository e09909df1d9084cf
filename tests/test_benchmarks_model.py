"""benchmarks/model.py: what a step needs, counted by hand for one layer, and no bound above what was measured."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import model
from gpulstm.cuda import planner

ROOT = Path(__file__).resolve().parent.parent
FORWARD, BACKWARD = planner.FORWARD, planner.BACKWARD


def chosen(schedule: str, direction: str, batch: int, hidden: int, dtype: str = "float32") -> planner.Choice:
    with planner.only(schedule):
        return planner.choose(direction, batch, hidden, dtype, model.H200)


def test_the_loop():
    """H = 4, N = 2, by hand: 8 units, 16 weights of each gate."""
    found = model.work(chosen("loop", FORWARD, 2, 4), FORWARD, 2, 4, "float32")
    flops = 2 * 2 * 16 * 4  # multiply and add, sequences, rows, columns
    # Gates in and out for the kernel and for the product, h, y and two cells; then the weights.
    assert found == (flops, 8 * (8 + 8 + 2 + 2) * 4 + 64 * 4, 0, 2, 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_persistent_schedule_keeps_the_weights(dtype):
    size = 4 if dtype == "float32" else 2
    for direction in (FORWARD, BACKWARD):
        choice = chosen("persistent", direction, 32, 1024, dtype)
        found = model.work(choice, direction, 32, 1024, dtype)
        loop = model.work(chosen("loop", direction, 32, 1024, dtype), direction, 32, 1024, dtype)
        assert found.flops == loop.flops and found.memory_bytes < loop.memory_bytes - 4 * 1024 * 1024 * size
        assert found.crossing_bytes >= choice.blocks * 32 * 1024 * size
        assert (found.launches, found.hand_overs) == (0, 1)


def test_weights_that_do_not_fit_come_through_l2():
    """H = 2048, N = 1 and 5, on an H200: 128 blocks of 512 threads with 64 fragments of 16 bytes each."""
    for batch, passes, held in (
        (1, 1, {FORWARD: 16 + 27, BACKWARD: 15 + 27}),
        (5, 2, {FORWARD: 8 + 24, BACKWARD: 11 + 27}),
    ):
        for direction in (FORWARD, BACKWARD):
            choice = chosen("persistent", direction, batch, 2048)
            found = model.work(choice, direction, batch, 2048, "float32")
            handed_over = 128 * 2048 * 4 * batch
            weights = 128 * 512 * 16 * (64 - held[direction]) * passes
            assert found.crossing_bytes == handed_over + weights and (found.launches, found.hand_overs) == (0, 1)
            loop = model.work(chosen("loop", direction, batch, 2048), direction, batch, 2048, "float32")
            assert found.flops == loop.flops and found.memory_bytes < loop.memory_bytes - 4 * 2048 * 2048 * 4


def test_a_schedule_of_one_block_hands_nothing_over():
    found = model.work(chosen("resident", FORWARD, 8, 64), FORWARD, 8, 64, "float32")
    assert (found.crossing_bytes, found.launches, found.hand_overs) == (0, 0, 0)


def test_a_cluster_in_16_bits_hands_over_h_in_16_bits_and_contributions_in_32():
    for direction, size in ((FORWARD, 2), (BACKWARD, 4)):
        choice = chosen("cluster", direction, 32, 256, "float16")
        found = model.work(choice, direction, 32, 256, "float16")
        assert choice.blocks == 8 and found.crossing_bytes == 8 * 32 * 256 * size
        assert (found.launches, found.hand_overs) == (0, 1)


def test_layer_norm_hands_over_more_often():
    """By the kernels' headers: h and 3/8 of a word, or the products and inputs, or contributions and four sums."""
    wanted = {(FORWARD, 1): (1, 8), (FORWARD, 32): (3, 1 + 3 / 8), (BACKWARD, 32): (2, 1 + 4 * 32 / 512)}
    for (direction, batch), (hand_overs, words) in wanted.items():
        (choice,) = model._choices(direction, batch, 512, "float32", model.H200, layer_norm=True)
        found, plain = (
            model.work(one, direction, batch, 512, "float32")
            for one in (choice, chosen("persistent", direction, batch, 512))
        )
        assert found.hand_overs == hand_overs and found.flops == plain.flops
        assert found.crossing_bytes == choice.blocks * batch * 512 * 4 * words
        assert found.memory_bytes > plain.memory_bytes
    (small,) = list(model._choices(FORWARD, 8, 64, "float32", model.H200, layer_norm=True))[:1]
    assert model.work(small, FORWARD, 8, 64, "float32")[2:] == (0, 0, 0)


def test_layers_side_by_side():
    """Two layers of H = 12, N = 1: three products a step; what one layer tells the other is read by two blocks."""
    for direction, more, crossing in ((FORWARD, -4, 12), (BACKWARD, 4 - 1, 48)):
        one = chosen("persistent", direction, 1, 12)
        apart, together = (model.work(one._replace(layers=layers), direction, 1, 12, "float32") for layers in (1, 2))
        assert together.flops == 3 * apart.flops == 3 * 2 * 4 * 12 * 12
        assert together.memory_bytes == 2 * apart.memory_bytes + 12 * 4 * more
        assert together.crossing_bytes == 2 * apart.crossing_bytes + 2 * 4 * crossing and one.blocks == 2
        assert (together.launches, together.hand_overs) == (0, 1)
    for direction, more, crossing in ((FORWARD, -4, 1), (BACKWARD, -1, 4)):  # in 16 bits da is where it is anyway
        one = chosen("persistent", direction, 1, 256, "float16")
        apart, together = (model.work(one._replace(layers=layers), direction, 1, 256, "float16") for layers in (1, 2))
        assert together.memory_bytes == 2 * apart.memory_bytes + 256 * 2 * more
        assert together.crossing_bytes == 2 * apart.crossing_bytes + one.blocks * 256 * 2 * crossing


def test_no_bound_is_above_a_measured_time():
    """benchmarks/results/notes.md, the best layouts: microseconds of a step forward and back."""
    measured = {(256, 32): (2.0, 2.8), (512, 128): (9.7, 16.2), (1024, 1): (3.4, 4.3), (1024, 32): (8.5, 18.7)}
    floors = model.Floors(model.FLOORS)
    for (hidden, batch), times in measured.items():
        for direction, time in zip((FORWARD, BACKWARD), times, strict=True):
            choice = chosen("persistent", direction, batch, hidden)
            bound = floors.bound(model.work(choice, direction, batch, hidden, "float32"), choice, "float32")
            assert 0.02 * time < bound < time


def test_the_command_prints_a_line_for_each_schedule():
    command = [sys.executable, "benchmarks/model.py", "--hidden", "64", "--batch", "8", "--layers", "2"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    for schedule in ("loop", "resident", "persistent", "cluster", "graph"):
        assert ran.stdout.count(f" {schedule} ") == (4 if schedule == "persistent" else 2)
