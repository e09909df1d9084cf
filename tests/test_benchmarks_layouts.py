"""benchmarks/layouts.py measures every layout; here the stand-in's time, which says nothing about a GPU's."""

import json
import sys
import time
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest

from benchmarks import choices, gpu, layouts
from gpulstm.cuda import half_layouts, planner, wide_layouts
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu


def stopwatch(function, before) -> float:
    before()
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


@pytest.mark.parametrize(("dtype", "kernel"), [("float32", ""), ("bfloat16", "half_")])
def test_every_layout_is_measured(monkeypatch, dtype, kernel):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    monkeypatch.setattr(half_layouts, "TILES", {name: tiles[:2] for name, tiles in half_layouts.TILES.items()})
    with cupy_on_cpu(multiprocessors=3, schedules=("persistent",)) as cupy:
        device = cupy_one_launch.current_device()
        rows = list(layouts.measured(cupy, 5, 24, 2, stopwatch, dtype))
        launches = dict(cupy.on_cpu.launches)
    for direction in (planner.FORWARD, planner.BACKWARD):
        choices = planner._persistent(direction, 5, 24, dtype, device)
        found = [row for row in rows if row["direction"] == direction]
        assert [(tuple(r["tiles"]), r["blocks"], r["groups"], r["share"]) for r in found] == [
            (c.tiles, c.blocks, c.groups, c.share) for c in choices
        ]
        assert len(choices) > 1 and launches[f"lstm_persistent_{kernel}{direction}"] == len(choices)
    assert all(row["microseconds"] > 0 and row["predicted"] > 0 for row in rows)
    assert {row["kernel"] for row in rows} == {f"lstm_persistent_{kernel}{way}" for way in ("forward", "backward")}
    assert set(layouts.fit(rows)) == {planner.FORWARD, planner.BACKWARD}


def test_kernels_are_shared_out_among_those_who_compile(monkeypatch):
    device, sizes = planner.Device(90, 132, 232448, True), [(64, 1), (64, 8), (256, 1)]
    where = layouts.where_first(sizes, "float32", device, ("persistent",))
    assert len(where) > 12 and set(where.values()) >= {(64, 1), (256, 1)}
    parts = [layouts._by_size(where, number, 3) for number in range(3)]
    shared_out = [(kernel, size) for part in parts for size, kernels in part.items() for kernel in kernels]
    assert dict(shared_out) == where and len(shared_out) == len(where)
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    with cupy_on_cpu(multiprocessors=3) as cupy:
        wanted = {("lstm_resident_forward", (2,))}
        rows = list(layouts.measured(cupy, 1, 8, 1, layouts.once, schedules=("resident",), kernels=wanted))
        assert [row["kernel"] for row in rows] == ["lstm_resident_forward"]


def test_processes_that_compile_are_waited_for_and_ended(monkeypatch, tmp_path):
    script = tmp_path / "part.py"
    write = "import sys, time; open(sys.argv[-2] + '.txt', 'w').write(str(sys.argv)); "
    script.write_text(write + "time.sleep(60 * (sys.argv[-2] == '1'))")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layouts, "__file__", str(script))
    monkeypatch.setattr(sys, "argv", ["layouts.py", "--hidden", "8"])
    began = time.monotonic()
    layouts._compile_beforehand(2, 1.0)
    assert time.monotonic() - began < 20
    assert "'--hidden', '8', '--part', '0', '2'" in (tmp_path / "0.txt").read_text()
    layouts._compile_beforehand(1, 1.0)  # one alone would be no faster
    assert len(list(tmp_path.glob("*.txt"))) <= 2


def test_clusters_are_measured_where_they_fit(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    with cupy_on_cpu(multiprocessors=3, schedules=("cluster",)) as cupy:
        rows = list(layouts.measured(cupy, 5, 20, 2, stopwatch, schedules=("cluster",)))
        assert not list(layouts.measured(cupy, 5, 100, 2, stopwatch, schedules=("cluster",)))  # four blocks
        launches = dict(cupy.on_cpu.launches)
    assert [(r["direction"], tuple(r["tiles"]), r["groups"]) for r in rows] == [
        (direction, (2, 1, share), -(-5 // share))
        for direction in (planner.FORWARD, planner.BACKWARD)
        for share in (1, 2, 4, 8)
    ]
    assert launches == {"lstm_cluster_forward": 4, "lstm_cluster_backward": 4}
    assert {row["schedule"] for row in rows} == {"cluster"}


def test_layouts_with_weights_from_l2_are_measured(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    small = {wide_layouts.FORWARD: ((1, 2, 2, 4),), wide_layouts.BACKWARD: ((16, 3, 5, 2),)}
    monkeypatch.setattr(wide_layouts, "TILES", small)
    with cupy_on_cpu(multiprocessors=3, schedules=("persistent",)) as cupy:
        rows = list(layouts.measured(cupy, 5, 20, 2, stopwatch, schedules=("wide",)))
        launches = dict(cupy.on_cpu.launches)
    assert [(r["schedule"], r["direction"], tuple(r["tiles"])) for r in rows] == [
        ("wide", planner.FORWARD, (1, 2, 2, 4)),
        ("wide", planner.BACKWARD, (16, 3, 5, 2)),
    ]
    assert launches == {"lstm_wide_forward": 1, "lstm_wide_backward": 1}


def test_a_layout_that_fails_is_written_down_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def clock(function, before) -> float:
        before()
        function()
        if len(calls := launched.setdefault("calls", [])) == 1:
            calls.append(1)
            raise RuntimeError("cudaErrorCooperativeLaunchTooLarge\nand more")
        calls.append(1)
        return 3e-6

    launched: dict = {}
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    monkeypatch.setattr(gpu, "Gpu", lambda: SimpleNamespace(machine=lambda: {"gpu": "none"}))
    monkeypatch.setattr(layouts, "on_device", create_autospec(layouts.on_device, return_value=clock))
    out = tmp_path / "layouts-float32.json"
    of_all = ["layouts.py", "--out", str(out), "--hidden", "8", "--schedules", "resident", "--batch", "1", "2"]
    going_on = [*of_all, "3", "--continue", str(out)]
    with cupy_on_cpu(multiprocessors=132, schedules=planner.AUTOMATIC):
        monkeypatch.setattr(sys, "argv", [*of_all, "--steps", "1"])
        assert layouts.main() == 1
        found = json.loads(out.read_text())
        monkeypatch.setattr(sys, "argv", [*going_on, "--steps", "1"])
        assert layouts.main() == 1  # what has failed is still there
        monkeypatch.setattr(sys, "argv", [*going_on, "--steps", "2"])
        with pytest.raises(SystemExit, match="--continue: the file is of another steps, 1, and this is 2"):
            layouts.main()
    again = json.loads(out.read_text())
    assert again["rows"][:3] == found["rows"] and {row["batch"] for row in again["rows"][3:]} == {3}
    assert again["failed"] == found["failed"] and len(launched["calls"]) == 4 + 2
    assert [(row["direction"], row["batch"]) for row in found["rows"]] == [
        ("forward", 1), ("forward", 2), ("backward", 2)
    ]  # fmt: skip
    (failed,) = found["failed"]
    assert (failed["direction"], failed["failed"]) == ("backward", "RuntimeError: cudaErrorCooperativeLaunchTooLarge")
    assert "FAILED, H 8 N 1 backward" in capsys.readouterr().out
    assert found["device"] == {"capability": 90, "multiprocessors": 132, "shared_bytes": 232448, "cooperative": True}
    assert choices.texts([out])[-2:] == [
        "5 sizes: the planner's layout takes 1.00 times the fastest one's time; more than 1.05 times in 0, "
        "not measured in 0",
        "cluster is in planner.UNMEASURED, and these files have no time of it",
    ]
