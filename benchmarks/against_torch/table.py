"""The results as a Markdown page."""

from typing import Any

from . import results
from .grid import DTYPES, SETTINGS

SHOWN = {"forward": "forward", "forward_backward": "forward + backward"}


def page(document: dict[str, Any], charts: list[str]) -> str:
    """``charts`` are the file names to show, beside the page."""
    lines = ["# gpulstm against torch.nn.LSTM", ""]
    lines += _head(document)
    lines += ["## Speed-up", "", "PyTorch's time over ours: above 1, ours is faster.", "", *_summary(document["cells"])]
    for chart in charts:
        lines += ["", f"![Speed-up by hidden size and batch]({chart})"]
    lines += ["", "## Cells", "", *_explanation(document["device"])]
    for (dtype, setting), cells in results.by(_sorted(document["cells"]), "dtype", "setting").items():
        lines += ["", f"### {dtype}, {setting}", "", *_table(cells, document["device"])]
    return "\n".join(lines) + "\n"


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
    left = document["cells_left"]
    took = f"- {len(document['cells'])} cells in {document['seconds']:.0f} s"
    return [*lines, took + (f"; {left} more of the grid were left out" if left else ", the whole grid"), ""]


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


def _explanation(device: str) -> list[str]:
    lines = ["H is the hidden and the input size, N the batch, T the time steps. Times are medians in milliseconds."]
    if device == "gpu":
        lines += [
            "They are by events on the device, of a call that follows another. Enqueue is the processor's time until",
            "a call of forward + backward returned, with an idle device before. Memory is the peak of forward +",
            "backward in MiB, beyond inputs and parameters.",
        ]
    else:
        lines += [
            "Each library ran in a process of its own while the other's threads slept, in calls that follow each other."
        ]
    return lines


def _table(cells: list[dict[str, Any]], device: str) -> list[str]:
    titles = ["H", "N", "T"]
    for shown in SHOWN.values():
        titles += [f"{shown}: ours", "PyTorch", "speed-up"]
    if device == "gpu":
        titles += ["enqueue: ours", "PyTorch", "memory: ours", "PyTorch"]
    titles.append("note")
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return lines + ["| " + " | ".join(_row(cell, device)) + " |" for cell in cells]


def _row(cell: dict[str, Any], device: str) -> list[str]:
    row = [str(cell[axis]) for axis in ("hidden", "batch", "steps")]
    for of_pass in SHOWN:
        ratio = results.speed_up(cell, of_pass)
        row += [_value(cell, side, of_pass, "ms", 1) for side in ("ours", "torch")]
        row.append("" if ratio is None else f"{ratio:.2f}")
    if device == "gpu":
        row += [_value(cell, side, "forward_backward", "enqueue_ms", 1) for side in ("ours", "torch")]
        row += [_value(cell, side, "forward_backward", "peak_bytes", 2**20) for side in ("ours", "torch")]
    return [*row, _note(cell)]


def _value(cell: dict[str, Any], side: str, of_pass: str, key: str, unit: int) -> str:
    value = cell.get(side, {}).get(of_pass, {}).get(key)
    return "" if value is None else f"{value / unit:.3g}" if value / unit < 100 else f"{value / unit:.0f}"


def _note(cell: dict[str, Any]) -> str:
    if cell["status"] == "timed":
        plan = (cell.get("plan") or "").partition("\n")[0].replace("|", "/")
        if results.is_disturbed(cell):
            return f"**disturbed**: {cell['cores_of_others']} cores were taken by others; {plan}"
        return plan
    if cell["status"] == "wrong":
        shown = ", ".join(f"{name} {cell['errors'][name]}" for name in cell["wrong"][:3])
        return f"**wrong**: relative error of {shown}; allowed {cell['tolerance']}"
    if cell["status"] == "not supported":
        return "not supported by gpulstm yet"
    return f"{cell['status']}: {cell['message']}".replace("|", "/")


def _sorted(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def place(cell: dict[str, Any]) -> tuple:
        kind = DTYPES.index(cell["dtype"]), SETTINGS.index(cell["setting"])
        return *kind, cell["hidden"], cell["batch"], cell["steps"]

    return sorted(cells, key=place)
