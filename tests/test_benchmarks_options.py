"""benchmarks/options.py measures every option beside the plain LSTM; here in made-up times."""

from benchmarks import options
from gpulstm.cuda import planner
from gpulstm.engines import cupy_one_launch
from tests.cuda_on_cpu import cupy_on_cpu


def made_up(calls) -> list[float]:
    """As many milliseconds as a call's place, after it has run."""
    for call in calls:
        call()
    return [(place + 1) / 1000 for place in range(len(calls))]


def test_every_option_is_measured_in_both_passes(monkeypatch):
    monkeypatch.setattr(cupy_one_launch, "_devices", {})
    with cupy_on_cpu(multiprocessors=5, schedules=planner.AUTOMATIC) as cupy:
        rows = list(options.measured(cupy, 2, 20, 2, made_up))
        launches = dict(cupy.on_cpu.launches)
    assert [row["option"] for row in rows] == list(options.OPTIONS)
    loops = [row["option"] for row in rows if "loop" in row["schedules"]]
    assert loops == [options.NOT_FOLDED]
    in_one_launch = len(rows) - len(loops) - 1
    assert launches["lstm_resident_layer_norm_forward"] == 2 * launches["lstm_resident_layer_norm_backward"] == 2
    assert launches["lstm_resident_forward"] == 2 * in_one_launch
    assert launches["lstm_resident_backward"] == in_one_launch
    for place, row in enumerate(rows):
        assert row["forward_ratio"] == row["forward_backward_ratio"] == place + 1
        assert abs(row["forward_us"] - 500 * (place + 1)) < 1e-9
    assert [row["option"] for row in options.too_dear(rows)] == list(options.LIMITS)


def test_a_little_more_is_not_too_dear():
    row = {"option": "zoneout", "forward_ratio": 1.09, "forward_backward_ratio": 1.1}
    assert options.too_dear([row, {**row, "option": "peephole", "forward_ratio": 2.0}]) == []
    assert options.too_dear([{**row, "forward_backward_ratio": 1.11}])
    with_layer_norm = {**row, "option": "layer norm", "forward_ratio": 1.5}
    assert options.too_dear([with_layer_norm]) == []
    assert options.too_dear([{**with_layer_norm, "forward_ratio": 1.51}])
