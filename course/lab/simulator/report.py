"""What a launch did, as a table."""

from .launch import Outcome

COLUMNS = ("line", "what", "array", "memory", "elements", "requests", "per request")
WIDTH = 96  # of a laptop's cell


def report(name: str, outcome: Outcome, lines: tuple[str, ...]) -> str:
    """One line per memory instruction, the sums, and the findings."""
    counts = outcome.counts
    warps = -(-outcome.block[0] * outcome.block[1] * outcome.block[2] // 32) * counts.blocks
    blocks, shape = _many(counts.blocks, "block"), " x ".join(str(size) for size in _used(outcome.block))
    text = [f"{name}: {blocks} of {shape} threads, {counts.threads} threads in {_many(warps, 'warp')}"]
    text += _table(counts, lines)
    wanted, moved = counts.bytes_wanted(), counts.bytes_moved()
    if moved:
        share = f", {100 * wanted / moved:.0f} % of them wanted" if wanted <= moved else ""
        text.append(f"global memory: {counts.sectors()} sectors of 32 bytes, {moved} bytes{share}")
    if any(row.shared for row in counts.rows):
        conflicts = counts.bank_conflicts()
        text.append(f"shared memory: {conflicts or 'no'} passes more than without bank conflicts")
    barriers = f"{_many(counts.barriers, 'barrier')} in a block"
    if counts.grid_barriers:
        barriers += f", {counts.grid_barriers} of the grid"
    text.append(f"about {counts.flops_per_thread:.1f} floating-point operations a thread; {barriers}")
    if outcome.stopped:
        text.append("stopped before the end, so the numbers are of what had happened until then")
    text += [str(found) for found in outcome.findings] or ["nothing found that is wrong"]
    return "\n".join(text)


def _table(counts, lines: tuple[str, ...]) -> list[str]:
    if not counts.rows:
        return ["no memory was touched"]
    cells = [COLUMNS]
    for row in counts.rows:
        unit = "passes" if row.shared else "sectors"
        memory = "shared" if row.shared else "global"
        per_request = f"{row.per_request:.1f} {unit}"
        cells.append((str(row.line), row.kind, row.array, memory, str(row.accesses), str(row.requests), per_request))
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    left = (1, 2, 3)  # words; numbers stand to the right
    out = []
    for number, row in enumerate(cells):
        parts = [cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        source = lines[counts.rows[number - 1].line - 1].strip() if number else ""
        out.append(_cut("  ".join([*parts, source]).rstrip()))
    return out


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 4] + " ..."


def _used(block: tuple[int, int, int]) -> tuple[int, ...]:
    x, y, z = block
    return (x,) if y == z == 1 else (x, y) if z == 1 else (x, y, z)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
