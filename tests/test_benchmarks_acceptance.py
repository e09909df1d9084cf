"""benchmarks/against_torch/acceptance.py: the figures by which the project is judged, by hand."""

import pytest

from benchmarks.against_torch import acceptance, grid, results, table
from tests.test_benchmarks_compare import timed


def cell(theirs, ours, **at):
    found = timed(theirs, ours, **({"setting": "one-layer", "in_cudnn_window": False, "tolerance": 1e-5} | at))
    return found | {"errors": at.get("errors", {"y": 1e-7})}


def document(cells, *left, device="gpu"):
    names = [str(grid.Cell("lengths", "tf32", hidden, 1, 2)) for hidden in left]
    machine = {"cpu": "a CPU", "gpu": {"name": "a GPU"}}
    about = {"date": "today", "command": "python", "machine": machine, "versions": {}, "seconds": 1.0}
    return about | {"device": device, "cells": cells, "cells_left": len(left), "not_measured": names}


def line(found, what):
    return next(entry for entry in found["lines"] if entry["what"] == what)


INSIDE = {"dtype": "float16", "hidden": 256, "batch": 8, "tolerance": 1e-2}


def test_means_over_all_by_dtype_by_setting_and_outside_of_the_window():
    cells = [
        cell((8, 2), (2, 1)),
        cell((2, 2), (2, 4), setting="lengths"),
        cell((1, 1), (4, 1), **INSIDE),
        {"setting": "lengths", "dtype": "tf32", "hidden": 4, "batch": 1, "steps": 2, "status": "failed"},
    ]
    found = acceptance.acceptance(document(cells, 64, 128))
    assert found["cells"] == 6 and found["counts"] == {"timed": 3, "failed": 1, "not measured": 2}
    assert found["all"]["forward"] == {"geometric_mean": 1.0, "compared": 3}
    assert found["all"]["forward_backward"]["geometric_mean"] == 1.0
    assert found["by dtype"]["float32"]["forward"] == {"geometric_mean": 2.0, "compared": 2}
    assert found["by dtype"]["float16"]["forward"]["geometric_mean"] == 0.25
    assert found["by setting"]["lengths"]["forward_backward"] == {"geometric_mean": 0.5, "compared": 1}
    outside = found["outside of cuDNN's float16 window"]
    assert outside["forward"] == {"geometric_mean": 2.0, "compared": 2} and outside["forward_backward"]["compared"] == 2
    assert [entry["speed_up"] for entry in found["slower"]] == [0.25, 0.5]
    assert found["slower"][0]["cell"] == "one-layer, float16, H=256, N=8, T=2, forward"
    assert not found["complete"]


def test_each_line_holds_or_does_not():
    cells = [cell((3, 3), (2, 2)), cell((3, 3), (1.5, 1.5), **INSIDE)]
    found = acceptance.acceptance(document(cells))
    assert found["complete"]
    assert line(found, "geometric mean, forward") == {
        "what": "geometric mean, forward", "wanted": ">= 1.5", "found": 1.7321, "holds": True
    }  # fmt: skip
    assert line(found, "figures slower than PyTorch") == {
        "what": "figures slower than PyTorch", "wanted": "0", "found": 0, "holds": True
    }  # fmt: skip
    outside = line(found, "outside of cuDNN's float16 window, forward + backward")
    assert (outside["found"], outside["wanted"], outside["holds"]) == (1.5, ">= 2", False)
    texts = acceptance.texts(found)
    assert "geometric mean, forward: 1.732, wanted >= 1.5, holds for these cells" in texts
    below = "outside of cuDNN's float16 window, forward + backward: 1.5, wanted >= 2, DOES NOT HOLD for these cells"
    assert below in texts
    assert "over the grid: forward 1.73 (2 cells), forward + backward 1.73 (2 cells)" in texts
    unfinished = acceptance.texts(acceptance.acceptance(document(cells, 64)))
    assert "geometric mean, forward: 1.732, wanted >= 1.5, holds so far" in unfinished


def test_the_whole_grid_is_what_is_judged():
    part = grid.cells("cpu")
    cells = [cell((2, 2), (1, 1), **vars(of)) for of in part]
    found = acceptance.acceptance(document(cells, device="cpu"))
    assert found["not asked for"] == 0 and "geometric mean, forward: 2, wanted >= 1, holds" in acceptance.texts(found)
    found = acceptance.acceptance(document(cells[:-28], device="cpu"))
    assert acceptance.texts(found)[0] == "100 cells: 100 timed, 0 not measured; 28 more of the grid were not asked for"
    left = document(cells[:-28], device="cpu") | {"cells_left": 28, "not_measured": [str(of) for of in part[-28:]]}
    for unnamed in ({}, {"not_measured": []}):  # as in files from before they were named
        found = acceptance.acceptance(left | unnamed)
        assert found["not asked for"] == 0 and not found["complete"] and found["counts"]["not measured"] == 28
    assert "geometric mean, forward: 2, wanted >= 1, holds so far" in acceptance.texts(found)


def test_a_cpu_is_to_be_as_fast_and_has_no_window():
    found = acceptance.acceptance(document([cell((1, 3), (1, 4))], device="cpu"))
    assert [(entry["what"], entry["wanted"], entry["holds"]) for entry in found["lines"][:2]] == [
        ("geometric mean, forward", ">= 1", True),
        ("geometric mean, forward + backward", ">= 1", False),
    ]
    assert not any("window" in key for key in found)


def test_nothing_compared_is_neither():
    found = acceptance.acceptance(document([], 64))
    assert {entry["holds"] for entry in found["lines"]} == {None}
    assert "geometric mean, forward: nothing to compare, wanted >= 1.5" in acceptance.texts(found)


@pytest.mark.parametrize(("worst", "shown"), [(2e-5, 2e-5), ("nan", "nan"), ("inf", "inf")])
def test_the_largest_error_of_a_dtype(worst, shown):
    wrong = {"setting": "lengths", "dtype": "float32", "hidden": 8, "batch": 1, "steps": 2, "status": "wrong"}
    wrong |= {"errors": {"dx": worst, "y": 1e-7}, "tolerance": 1e-5}
    cells = [cell((1, 1), (1, 1)), wrong, cell((1, 1), (1, 1), errors={"y": 3e-6})]
    found = acceptance.acceptance(document(cells))
    entry = line(found, "largest relative error, float32")
    assert entry == {"what": entry["what"], "wanted": "<= 1e-05", "found": shown, "holds": False}
    assert line(acceptance.acceptance(document(cells[::2])), entry["what"])["found"] == 3e-6


def test_flashrnn_is_compared_where_it_was_timed():
    with_it = cell((3, 3), (1, 1)) | {"flashrnn": {name: {"ms": 2.0} for name in results.PASSES}}
    refused = cell((3, 3), (1, 1), batch=2) | {"flashrnn": {"status": "not compared", "message": "no compiler"}}
    found = acceptance.acceptance(document([with_it, refused]))
    assert found["FlashRNN's time over ours"]["forward"] == {"geometric_mean": 2.0, "compared": 1}
    assert "FlashRNN's time over ours" not in acceptance.acceptance(document([refused]))


def test_the_page_names_what_is_slower_and_what_was_not_reached():
    cells = [cell((1, 4), (2, 2), plan=None)]
    text = table.page(document(cells, 64, 2048), [])
    assert "## Slower than PyTorch\n\n- 0.50: one-layer, float32, H=8, N=1, T=2, forward\n" in text
    assert "## Not measured\n\n- tf32, lengths, 2 cells: H=64 N=1 T=2, H=2048 N=1 T=2\n" in text
    assert "- 3 cells: 1 timed, 2 not measured; " in text
    assert "## Not measured" not in table.page(document(cells), [])
