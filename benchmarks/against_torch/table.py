"""The results as a Markdown page."""

from typing import Any

from . import acceptance, bounds, results
from .grid import DTYPES, SETTINGS
from .results import SHOWN

SPEED_UP, OVER_BOUND = "Speed-up by hidden size and batch", "Time over the bound by hidden size and batch"


def page(document: dict[str, Any], charts: list[str]) -> str:
    """``charts`` are the file names to show, beside the page."""
    found = acceptance.acceptance(document)
    lines = ["# gpulstm against torch.nn.LSTM", ""]
    lines += _head(document)
    lines += ["## What is to hold", "", *(f"- {text}" for text in acceptance.texts(found)), ""]
    lines += ["## Speed-up", "", "PyTorch's time over ours: above 1, ours is faster.", "", *_summary(document["cells"])]
    for chart in charts:
        lines += ["", f"![{OVER_BOUND if '-bound.' in chart else SPEED_UP}]({chart})"]
    lines += _named("Slower than PyTorch", acceptance.slower_texts(found))
    lines += _named("Not measured", _by_setting(document.get("not_measured", [])))
    lines += ["", "## Cells", "", *_explanation(document)]
    columns = _columns(document)
    for (dtype, setting), cells in results.by(_sorted(document["cells"]), "dtype", "setting").items():
        lines += ["", f"### {dtype}, {setting}", "", *_table(cells, columns)]
    return "\n".join(lines) + "\n"


def _named(title: str, texts: list[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {text}" for text in texts)] if texts else []


def _by_setting(names: list[str]) -> list[str]:
    """The names of cells, those of a setting and dtype in one line."""
    groups: dict[str, list[str]] = {}
    for name in names:
        setting, dtype, *sizes = name.split(", ")
        groups.setdefault(f"{dtype}, {setting}", []).append(" ".join(sizes))
    return [f"{label}, {len(sizes)} cells: {', '.join(sizes)}" for label, sizes in groups.items()]


def _head(document: dict[str, Any]) -> list[str]:
    def listed(of: dict[str, Any] | None) -> str:
        return ", ".join(f"{key} {value}" for key, value in (of or {}).items() if not isinstance(value, (dict, list)))

    machine = document["machine"]
    lines = [f"- Begun {document['date']}, with `{document['command']}`", f"- Machine: {listed(machine)}"]
    if "gpu" in machine:
        lines.append(f"- GPU at the start: {listed(machine['gpu']) or 'unknown'}")
        lines.append(f"- GPU at the end: {listed(document.get('gpu_at_the_end')) or 'unknown'}")
    lines.append(f"- Versions: {listed(document['versions'])}")
    if "threads" in document:
        lines.append(f"- Threads: {listed(document['threads'])}")
        for pool in document["threads"]["libraries"] if isinstance(document["threads"]["libraries"], list) else []:
            lines.append(f"  - {listed(pool)}")
    if "environment" in document:
        lines.append(f"- Environment: {listed(document['environment']) or 'nothing that matters here'}")
    if "bound" in document:
        of = document["bound"]
        why = of.get("missing") or f"from the floors of {of['gpu']}, {of['floors']}, {of['date']}"
        lines.append(f"- Bound: {'none, ' if 'missing' in of else ''}{why}" + _also(of))
    if "flashrnn" in document:
        of = document["flashrnn"]
        lines.append(f"- FlashRNN: {'not compared, ' + of['missing'] if 'missing' in of else of['version']}")
    left = document["cells_left"]
    took = f"- {len(document['cells'])} cells in {document['seconds']:.0f} s"
    return [*lines, took + (f"; {left} more of the grid were left out" if left else ", the whole grid"), ""]


def _also(of: dict[str, Any]) -> str:
    return f"; {of['incomplete']}" if "incomplete" in of else ""


def _summary(cells: list[dict[str, Any]]) -> list[str]:
    rows = [("all", cells)]
    if any(cell["in_cudnn_window"] and cell["status"] == "timed" for cell in cells):
        rows.append(("outside of cuDNN's float16 window", [cell for cell in cells if not cell["in_cudnn_window"]]))
    groups = results.by(_sorted(cells), "dtype", "setting")
    if len(groups) > 1:
        rows += [(f"{dtype}, {setting}", members) for (dtype, setting), members in groups.items()]
    lines = [
        "| cells | pass | geometric mean | compared | slower than PyTorch | slowest |",
        "|---|---|---|---|---|---|",
    ]
    for label, members in rows:
        found = results.summary(members)
        for of_pass in ("all", *SHOWN) if label == "all" else SHOWN:
            of = found[of_pass]
            if of["compared"]:
                slowest = f"{of['slowest']['speed_up']:.2f}: {of['slowest']['cell']}"
                row = [label, SHOWN.get(of_pass, "both"), f"{of['geometric_mean']:.2f}", of["compared"], of["slower"]]
                lines.append("| " + " | ".join(map(str, [*row, slowest])) + " |")
    counts = results.summary(cells)["counts"] | {"disturbed": sum(map(results.is_disturbed, cells))}
    return [*lines, "", "Cells: " + ", ".join(f"{count} {status}" for status, count in counts.items() if count) + "."]


def _explanation(document: dict[str, Any]) -> list[str]:
    lines = ["H is the hidden and the input size, N the batch, T the time steps. Times are medians in milliseconds."]
    if document["device"] == "gpu":
        lines += [
            "They are by events on the device, of a call that follows another. Enqueue is the processor's time until",
            "a call of forward + backward returned, with an idle device before. Memory is the peak of forward +",
            "backward in MiB, beyond inputs and parameters.",
        ]
    else:
        lines += [
            "Each library ran in a process of its own while the other's threads slept, in calls that follow each other."
        ]
    if _has(document, "bound"):
        lines += [
            "Over bound is our time over the bound: products at the measured peak, bytes at the measured bandwidth and",
            "a measured hand-over for each step, one after the other.",
        ]
    if _has(document, "flashrnn"):
        lines += ["FlashRNN's times include the product of the input, which PyTorch makes in front of its operation."]
    return lines


def _has(document: dict[str, Any], key: str) -> bool:
    return any(key in cell for cell in document["cells"])


def _columns(document: dict[str, Any]) -> set[str]:
    """Those beside the times that not every results file has."""
    found = {key for key in ("bound", "flashrnn") if _has(document, key)}
    return found | ({"gpu"} if document["device"] == "gpu" else set())


def _table(cells: list[dict[str, Any]], columns: set[str]) -> list[str]:
    titles = ["H", "N", "T"]
    for shown in SHOWN.values():
        titles += [f"{shown}: ours", "PyTorch", "speed-up"]
        titles += ["over bound"] if "bound" in columns else []
        titles += ["FlashRNN", "speed-up"] if "flashrnn" in columns else []
    if "gpu" in columns:
        titles += ["enqueue: ours", "PyTorch", "memory: ours", "PyTorch"]
    titles.append("note")
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return lines + ["| " + " | ".join(_row(cell, columns)) + " |" for cell in cells]


def _row(cell: dict[str, Any], columns: set[str]) -> list[str]:
    row = [str(cell[axis]) for axis in ("hidden", "batch", "steps")]
    for of_pass in SHOWN:
        row += [_value(cell, side, of_pass, "ms", 1) for side in ("ours", "torch")]
        row.append(_ratio(results.speed_up(cell, of_pass)))
        if "bound" in columns:
            row.append(_ratio(bounds.over(cell, of_pass)))
        if "flashrnn" in columns:
            row += [_value(cell, "flashrnn", of_pass, "ms", 1), _ratio(acceptance.ratio_to(cell, of_pass, "flashrnn"))]
    if "gpu" in columns:
        row += [_value(cell, side, "forward_backward", "enqueue_ms", 1) for side in ("ours", "torch")]
        row += [_value(cell, side, "forward_backward", "peak_bytes", 2**20) for side in ("ours", "torch")]
    return [*row, _note(cell)]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _value(cell: dict[str, Any], side: str, of_pass: str, key: str, unit: int) -> str:
    value = cell.get(side, {}).get(of_pass, {}).get(key)
    return "" if value is None else f"{value / unit:.3g}" if value / unit < 100 else f"{value / unit:.0f}"


def _note(cell: dict[str, Any]) -> str:
    if cell["status"] == "timed":
        plan = (cell.get("plan") or "").partition("\n")[0].replace("|", "/") + _of_flashrnn(cell)
        if results.is_disturbed(cell):
            return f"**disturbed**: {cell['cores_of_others']} cores were taken by others; {plan}"
        return plan
    if cell["status"] == "wrong":
        shown = ", ".join(f"{name} {cell['errors'][name]}" for name in cell["wrong"][:3])
        return f"**wrong**: relative error of {shown}; allowed {cell['tolerance']}"
    if cell["status"] == "not supported":
        return "not supported by gpulstm yet"
    return f"{cell['status']}: {cell['message']}".replace("|", "/")


def _of_flashrnn(cell: dict[str, Any]) -> str:
    """Why it was not timed; or how far it is off, where that is more than ours may be."""
    of = cell.get("flashrnn", {"status": ""})
    if of["status"] == "not compared":
        return "" if cell["setting"] != "one-layer" else f"; FlashRNN not compared: {of['message']}".replace("|", "/")
    worst = max((float(error) for error in of.get("errors", {}).values()), default=0.0)
    if of["status"] == "wrong":
        return f"; **FlashRNN is wrong**: {', '.join(of['wrong'][:3])}"
    return "" if worst <= cell["tolerance"] else f"; FlashRNN's relative error is up to {worst:.2g}"


def _sorted(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def place(cell: dict[str, Any]) -> tuple:
        kind = DTYPES.index(cell["dtype"]), SETTINGS.index(cell["setting"])
        return *kind, cell["hidden"], cell["batch"], cell["steps"]

    return sorted(cells, key=place)
