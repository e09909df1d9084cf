"""The bound of a whole call: by hand, below everything that was measured, and of no other GPU than the one at hand."""

import json
from pathlib import Path

import pytest

from benchmarks import model
from benchmarks.against_torch import bounds, grid, results
from benchmarks.report import report

H200 = model.FLOORS
RESULTS = H200.with_name("compare-gpu.json")
LINES = {
    "cuBLAS, float32, 8192^3": 40.0,
    "registers only, all SMs: fma_fp32": 50.0,
    "HBM copy, bytes read and written": 2.0,
    "kernel boundary, queued beforehand, 3 x 256 threads": 1.5,
}


def floors(path: Path, lines: dict[str, float], gpu: str = "some GPU") -> Path:
    machine = {"gpu": gpu, "compute capability": "9.0", "multiprocessors": 3, "date": "today"}
    document = {"machine": machine, "lines": [{"name": name, "median": median} for name, median in lines.items()]}
    path.write_text(json.dumps(document))
    return path


class TestByHand:
    """H = 4, N = 2, T = 2 in float32, in the loop, the only schedule whose hand-over these floors have."""

    weights = 64 * 4  # bytes of W_ih, or of W_hh
    steps_in_training = 2 * (8 * (8 + 8 + 2 + 2) * 4 + weights)  # as tests/test_benchmarks_model.py counts one
    steps_back = 2 * (8 * (9 + 3 + 4 + 1) * 4 + weights)

    @pytest.fixture
    def found(self, tmp_path):
        return model.Floors(floors(tmp_path / "floors.json", LINES))

    def test_inference(self, found):
        bound = found.bound_of_call(model.Call(4, 2, 2, "float32"), training=False)
        flops = 2 * 2 * 2 * 16 * 4 * 2  # of x and of h: multiply and add, steps, sequences, weights of a gate, gates
        assert bound.products == pytest.approx(flops / 50e12 * 1e3)  # the faster of the two peaks
        around = 16 * (1 + 4) * 4 + 2 * self.weights
        steps = 2 * (8 * (4 + 1 + 8) * 4 + self.weights)
        assert bound.memory == pytest.approx((around + steps) / 2e12 * 1e3)
        assert bound.hand_overs == pytest.approx(2 * 2 * 1.5e-3)
        assert bound.ms == bound.products + bound.memory + bound.hand_overs and bound.schedules == "loop"

    def test_training(self, found):
        bound = found.bound_of_call(model.Call(4, 2, 2, "float32"), training=True)
        assert bound.products == pytest.approx(6 * 1024 / 2 / 50e12 * 1e3)  # two products forward, four back
        around = 16 * (1 + 4) * 4 + 2 * self.weights  # forward
        around += 16 * (4 + 1 + 1 + 1) * 4 + 4 * self.weights  # da, h, x in, dx out; weights in, gradients out
        moved = around + self.steps_in_training + self.steps_back
        assert bound.memory == pytest.approx(moved / 2e12 * 1e3)
        assert bound.hand_overs == pytest.approx(2 * 2 * 2 * 1.5e-3) and bound.schedules == "loop and loop"

    def test_layers_follow_each_other_one_step_behind_and_directions_run_at_the_same_time(self, found):
        one = found.bound_of_call(model.Call(4, 2, 10, "float32"), training=False)
        two = found.bound_of_call(model.Call(4, 2, 10, "float32", layers=2), training=False)
        both = found.bound_of_call(model.Call(4, 2, 10, "float32", directions=2), training=False)
        assert two.hand_overs == pytest.approx(1.1 * one.hand_overs) and both.hand_overs == one.hand_overs
        assert two.products == pytest.approx(2 * one.products) and both.products == two.products
        assert two.memory == pytest.approx(2 * one.memory)
        assert both.memory == pytest.approx(two.memory - 80 * 4 / 2e9)  # they read the same x

    def test_padding_costs_nothing_but_hand_overs(self, found):
        full = found.bound_of_call(model.Call(4, 2, 10, "float32"), training=True)
        half = found.bound_of_call(model.Call(4, 2, 10, "float32", filled=0.5), training=True)
        assert half.products == pytest.approx(full.products / 2) and half.hand_overs == full.hand_overs
        assert full.memory / 2 < half.memory < full.memory  # the weights are read all the same


def test_random_lengths_need_about_half():
    found = bounds.Bounds("NVIDIA H200", [H200])
    full, half = (found.of(grid.Cell(setting, "float32", 512, 32, 128))["bound"] for setting in grid.SETTINGS[::3])
    for of_pass in results.PASSES:
        assert 0.4 < half[of_pass]["products_ms"] / full[of_pass]["products_ms"] < 0.65
        assert half[of_pass]["hand_overs_ms"] == full[of_pass]["hand_overs_ms"]
    lengths = grid.lengths(grid.Cell("lengths", "float32", 512, 32, 128), 0)
    assert lengths[0] == 128 and 1 <= lengths.min() < lengths.max() == 128


def test_no_cell_that_was_timed_is_below_its_bound():
    found = bounds.Bounds("NVIDIA H200", [H200])
    cells = results.read(RESULTS)["cells"]
    over = []
    for record in cells:
        record |= found.of(grid.Cell(*(record[axis] for axis in grid.AXES)))
        over += [bounds.over(record, of_pass, side) for of_pass in results.PASSES for side in ("ours", "torch")]
    assert len(over) == 4 * len(cells) and min(over) > 1
    assert 1 < results.geometric_mean(over) < 20  # near enough to say something


@pytest.mark.parametrize("dtype", grid.DTYPES)
@pytest.mark.parametrize("setting", grid.SETTINGS)
def test_every_dtype_and_setting_has_one(setting, dtype):
    found = bounds.Bounds("NVIDIA H200", [H200])
    for sizes in ((64, 1, 128), (2048, 256, 1024)):
        bound = found.of(grid.Cell(setting, dtype, *sizes))["bound"]
        for of in bound.values():
            assert of["ms"] == pytest.approx(of["products_ms"] + of["memory_ms"] + of["hand_overs_ms"], rel=1e-3)
            assert min(of["products_ms"], of["memory_ms"], of["hand_overs_ms"]) > 0
        assert bound["forward_backward"]["ms"] > 2 * bound["forward"]["ms"]


class TestWhoseFloors:
    def test_those_of_another_gpu_give_none_and_say_so(self, tmp_path):
        path = floors(tmp_path / "floors.json", LINES, "another GPU")
        found = bounds.Bounds("some GPU", [tmp_path / "missing.json", path])
        assert found.of(grid.Cell("one-layer", "float32", 4, 2, 2)) == {}
        assert "no floors of some GPU" in found.about["missing"] and "is of another GPU" in found.about["missing"]

    def test_those_that_were_asked_for_by_name_are_refused_if_they_are_of_another(self, tmp_path):
        path = floors(tmp_path / "floors.json", LINES, "another GPU")
        with pytest.raises(bounds.NoBound, match="is of another GPU"):
            bounds.Bounds("some GPU", [H200], only=path)

    def test_a_device_without_a_name_has_none(self):
        assert "unknown" in bounds.Bounds(None, [H200]).about["missing"]

    def test_a_file_that_cannot_be_read_is_passed_over(self, tmp_path):
        (tmp_path / "broken.json").write_text('{"machine": {}')
        right = floors(tmp_path / "floors.json", LINES)
        assert bounds.Bounds("some GPU", [tmp_path / "broken.json", right]).about["gpu"] == "some GPU"
        about = bounds.Bounds("some GPU", [tmp_path / "broken.json"]).about
        assert "broken.json cannot be read" in about["missing"]

    def test_a_line_that_failed_is_named(self, tmp_path):
        lines = {name: rate for name, rate in LINES.items() if not name.startswith("HBM")}
        found = bounds.Bounds("some GPU", [floors(tmp_path / "floors.json", lines)])
        assert found.of(grid.Cell("one-layer", "float32", 4, 2, 2)) == {}
        assert "HBM copy" in found.about["incomplete"]


def test_the_report_has_a_column_and_a_chart_of_it(tmp_path):
    document = results.read(RESULTS)
    document["cells"] = document["cells"][:3]
    results.write(tmp_path / "compare-gpu.json", document)
    page, *charts = report(tmp_path / "compare-gpu.json")
    text = page.read_text(encoding="utf-8")
    assert [chart.name for chart in charts] == ["compare-gpu-float32.svg", "compare-gpu-float32-bound.svg"]
    assert "speed-up | over bound | forward + backward: ours" in text
    assert "- Bound: from the floors of NVIDIA H200, benchmarks/results/h200/floors.json" in text
    assert "| 256 | 32 | 128 | 0.557 | 3.06 | 5.49 | 7.5" in text
    (tmp_path / "other").mkdir()
    document["machine"]["gpu"]["name"] = "another GPU"
    results.write(tmp_path / "other" / "compare-gpu.json", document)
    page, *charts = report(tmp_path / "other" / "compare-gpu.json")
    text = page.read_text(encoding="utf-8")
    assert len(charts) == 1 and "over bound" not in text and "- Bound: none, no floors of another GPU" in text
