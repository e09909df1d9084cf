"""benchmarks/compare.py in little time: the order of cells, how long each will take, and what is not made twice."""

import pytest

from benchmarks import model
from benchmarks.against_torch import budget, cpu, gpu, grid, results, turns
from tests.test_benchmarks_compare import Side

H200 = model.FLOORS.with_name("compare-gpu.json")


class TestGrid:
    def test_it_is_the_whole_grid(self):
        cells = grid.cells("gpu")
        assert len(set(cells)) == len(cells) == 7 * 6 * 2 * 4 * 4

    @pytest.mark.parametrize("device", ["gpu", "cpu"])
    def test_a_short_run_has_seen_every_setting_and_dtype_at_both_ends_of_all_sizes(self, device):
        cells = grid.cells(device)
        ends = {
            axis: {min(of), max(of)} for axis, of in grid.LEVELS[device].items() if axis not in ("setting", "dtype")
        }
        kinds = {(cell.setting, cell.dtype) for cell in cells}
        corners = cells[: 8 * len(kinds)]
        assert {(cell.setting, cell.dtype) for cell in corners} == kinds and len(set(corners)) == 8 * len(kinds)
        for cell in corners:
            assert all(getattr(cell, axis) in of for axis, of in ends.items())

    @pytest.mark.parametrize("device", ["gpu", "cpu"])
    def test_wherever_it_is_cut_all_settings_and_dtypes_have_the_same_sizes(self, device):
        cells = grid.cells(device)
        kinds = len({(cell.setting, cell.dtype) for cell in cells})
        for start in range(0, len(cells), kinds):
            part = cells[start : start + kinds]
            assert len({(cell.hidden, cell.batch, cell.steps) for cell in part}) == 1 and len(set(part)) == kinds
        early = cells[: 3 * len(cells) // 8]
        for axis in ("hidden", "batch"):
            assert len({getattr(cell, axis) for cell in early}) >= 3

    def test_the_first_sizes_are_the_smallest_and_the_largest(self):
        sizes = [(cell.hidden, cell.batch, cell.steps) for cell in grid.cells("gpu")[:32:16]]
        assert sizes == [(64, 1, 128), (2048, 256, 1024)]

    def test_the_quick_grid_is_part_of_it(self):
        quick = grid.cells("gpu", quick=True)
        assert set(quick) < set(grid.cells("gpu"))
        assert {cell.setting for cell in quick} == set(grid.SETTINGS) and {cell.dtype for cell in quick} == set(
            grid.DTYPES
        )

    def test_chosen_values_replace_the_grids(self):
        cells = grid.cells("cpu", chosen={"hidden": [5], "batch": [7], "steps": [3], "setting": None})
        assert [(cell.hidden, cell.batch, cell.steps) for cell in cells] == [(5, 7, 3)] * 4

    def test_cudnns_window(self):
        assert grid.Cell("one-layer", "float16", 768, 64, 128).in_cudnn_window
        for other in (("lengths", "float16", 768, 64), ("one-layer", "bfloat16", 768, 64)):
            assert not grid.Cell(*other, 128).in_cudnn_window
        for sizes in ((2048, 64), (64, 64), (768, 1), (768, 256)):
            assert not grid.Cell("one-layer", "float16", *sizes, 128).in_cudnn_window


class TestBudget:
    def test_what_cells_took_corrects_the_model(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])
        found = budget.Budget("gpu", 100.0, 0.2, (3, 25))
        cell, other = grid.Cell("one-layer", "float32", 64, 1, 128), grid.Cell("lengths", "float32", 64, 1, 128)
        first = found.estimate(cell)
        assert first == pytest.approx(budget.MARGIN * found.model(cell)) and found.allows(cell)
        found.learn(cell, 3 * found.model(cell))
        assert found.estimate(cell) == pytest.approx(3 * first)
        found.learn(other, 50 * found.model(other))
        assert found.estimate(cell) == pytest.approx(3 * first)  # of the same setting
        assert found.estimate(other) == pytest.approx(50 * budget.MARGIN * found.model(other))
        now[0] = 100.0 - 2.9 * first
        assert found.left() == pytest.approx(2.9 * first) and not found.allows(cell)

    @pytest.mark.parametrize("device", ["gpu", "cpu"])
    def test_larger_cells_take_longer(self, device):
        found = budget.Budget(device, float("inf"), 0.2, (3, 25))
        one = grid.Cell("one-layer", "float32", 512, 32, 128)
        for change in ({"setting": "two-layers"}, {"hidden": 2048}, {"batch": 256}, {"steps": 1024}):
            larger = grid.Cell(**(vars(one) | change))
            assert found.model(larger) > found.model(one) and found.allows(larger)

    def test_it_is_near_what_a_run_on_a_gpu_took(self):
        """benchmarks/results/h200: 48 cells in 101 s, at a second for each pass and at least five rounds."""
        document = results.read(H200)
        found = budget.Budget("gpu", float("inf"), 1.0, (5, 25))
        cells = [grid.Cell(*(record[axis] for axis in grid.AXES)) for record in document["cells"]]
        assert 0.7 < sum(map(found.model, cells)) / document["seconds"] < 1.5


class Event:
    """Stands in for a GPU's: a time is what the clock says."""

    now = 0.0

    def __init__(self, enable_timing):
        self.at = 0.0

    def record(self):
        self.at = Event.now

    def elapsed_time(self, other):
        return other.at - self.at


def test_a_long_call_on_a_gpu_is_made_once(monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "Event", Event)
    device = gpu.Gpu.__new__(gpu.Gpu)
    device.synchronize = lambda: None
    took = iter([30.0, 20.0, 500.0, 300.0, 310.0, 0.0])
    calls = []

    def call():
        calls.append(next(took))
        Event.now += calls[-1]

    samples = [device.sample(call, 1.0)[0] for _ in range(3)]
    assert [(sample.ms, sample.from_idle_ms) for sample in samples] == [(20, 30), (300, 500), (310, 310)]
    assert len(calls) == 5


def test_calls_that_memory_was_measured_in_have_warmed_up():
    class Device(cpu.Cpu):
        def peak_of_ours(self, call):
            call()
            return 5

    for seconds, expected in ((0.0, 2), (60.0, 5)):
        calls = []
        side = turns.Turns(Side("ours", calls), Device(), is_ours=True)
        side.prepare("forward")
        assert side.peak_bytes() == 5
        side.prepare("forward")
        side.warm_up(seconds)
        assert sum(call[1] == "infer" for call in calls) == expected
