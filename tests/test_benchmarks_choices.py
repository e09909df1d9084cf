"""benchmarks/choices.py: what the planner takes beside what was fastest, in made-up times."""

import json

import pytest

from benchmarks import choices
from gpulstm.cuda import planner

DEVICE = planner.Device(90, 132, 232448, True)
WRITTEN = {name: value for name, value in DEVICE._asdict().items() if name != "given_up"}


def row(choice, microseconds):
    """As layouts.py writes it."""
    layout = {"tiles": list(choice.tiles), "blocks": choice.blocks, "groups": choice.groups, "share": choice.share}
    sizes = {"schedule": choice.schedule, "direction": "forward", "hidden": 256, "batch": 1}
    return {**sizes, "kernel": choice.kernel, **layout, "predicted": choice.microseconds, "microseconds": microseconds}


@pytest.fixture
def files(tmp_path):
    """Writes times of (the planner's layout, another one, a cluster) of one size as two files."""

    def write(chosen, other, cluster):
        plan = planner.choose("forward", 1, 256, "float32", DEVICE)
        layouts = planner._persistent("forward", 1, 256, "float32", DEVICE)
        another = next(choice for choice in layouts if choice[2:7] != plan[2:7])
        with planner.only("cluster"):
            of_cluster = planner.choose("forward", 1, 256, "float32", DEVICE)
        for name, rows in (("a", [row(plan, chosen), row(another, other)]), ("b", [row(of_cluster, cluster)])):
            document = {"machine": {}, "device": WRITTEN, "dtype": "float32", "rows": rows}
            (tmp_path / f"{name}.json").write_text(json.dumps(document))
        return choices.texts([tmp_path])

    return write


def test_where_another_layout_is_faster(files):
    lines = files(3.0, 2.0, 2.9)
    assert lines[0].startswith("float32  forward  H  256 N   1: fastest persistent") and "1.50 times that" in lines[0]
    assert lines[1] == (
        "1 sizes: the planner's layout takes 1.50 times the fastest one's time; more than 1.05 times in 1, "
        "not measured in 0"
    )
    assert files(2.0, 2.0, 9.0)[0].startswith("1 sizes: the planner's layout takes 1.00 times")


def test_what_an_unmeasured_schedule_is_worth(files):
    assert files(2.0, 2.5, 1.0)[-1] == (
        "cluster: taken in 1 sizes it takes 0.50 times what is taken now: delete it from planner.UNMEASURED"
    )
    slower = files(2.0, 2.5, 3.0)
    assert slower[-2].endswith("1.50 times what is taken now: correct its prediction, then ask again")
    assert slower[-1] == "  slower: float32  forward  H  256 N   1, 1.50 times"


def test_graphs_by_kind(tmp_path):
    def of(batch, schedule, forward, both):
        sizes = {"kind": "tf32", "hidden": 64, "batch": batch, "schedule": schedule, "forward_cpu_us": 1.0}
        return sizes | {"forward_ratio": forward, "forward_backward_ratio": both}

    rows = [of(1, "loop", 1.0, 1.0), of(1, "graph", 0.5, 0.9), of(8, "loop", 1.0, 1.0), of(8, "graph", 2.0, 0.4)]
    (tmp_path / "graphs.json").write_text(json.dumps({"rows": rows}))
    assert choices.texts([tmp_path / "graphs.json"])[-2:] == [
        "graph over loop, tf32, forward: 1.00, at most 2.00, H 64 N 8",
        "graph over loop, tf32, forward + backward: 0.60, at most 0.90, H 64 N 1",
    ]
