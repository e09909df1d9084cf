"""Counts what a launch moved, the way a profiler counts it: by request, which is one instruction of one warp."""

from dataclasses import dataclass

import numpy as np

from .values import Site

KEPT = 200_000  # accesses kept one by one, to be drawn and looked at
ACCESS = np.dtype(
    [
        ("block", "i4"),
        ("warp", "i4"),
        ("thread", "i4"),
        ("line", "i4"),
        ("kind", "U6"),
        ("array", "U32"),
        ("element", "i8"),
        ("request", "i8"),
    ]
)


@dataclass
class Row:
    """What one place in the source did to one array."""

    line: int
    kind: str  # load, store or atomic
    array: str
    shared: bool
    accesses: int = 0  # elements, over all threads
    bytes_wanted: int = 0
    requests: int = 0
    sectors: int = 0  # of 32 bytes; global memory
    passes: int = 0  # through the banks; shared memory

    @property
    def per_request(self) -> float:
        """Sectors of a request to global memory, passes of one to shared memory."""
        return (self.passes if self.shared else self.sectors) / self.requests if self.requests else 0.0


def occurrences(group: np.ndarray) -> np.ndarray:
    """For each entry the number of earlier ones of the same group."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    begins = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    lengths = np.diff(np.append(begins, len(ordered)))
    out = np.empty(len(group), np.int64)
    out[order] = np.arange(len(ordered)) - np.repeat(begins, lengths)
    return out


def distinct(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """The distinct rows of the columns, sorted by the first one first."""
    order = np.lexsort(columns[::-1])
    ordered = [column[order] for column in columns]
    new = np.zeros(len(order), bool)
    new[:1] = True
    for column in ordered:
        new[1:] |= column[1:] != column[:-1]
    return tuple(column[new] for column in ordered)


class Tally:
    """Adds up while a launch runs."""

    def __init__(self, sites: tuple[Site, ...], names: list[str]) -> None:
        self.sites, self.names = sites, names
        self.rows: dict[tuple[int, int], Row] = {}
        self.flops: dict[int, int] = {}
        self.block_barriers = self.grid_barriers = self.intervals = 0
        self.kept: list[np.ndarray] = []
        self.kept_count = 0

    def barriers(self, block) -> None:
        self.block_barriers = max(self.block_barriers, block.barriers + 1)

    def add_flops(self, site: np.ndarray, count: np.ndarray) -> None:
        for number in np.unique(site):
            line = self.sites[number].line
            self.flops[line] = self.flops.get(line, 0) + int(count[site == number].sum())

    def add(self, block, entries) -> None:
        """``entries`` of one block between two barriers. Lanes of a warp belong to one request if each of them is at
        this place for as-many-th time."""
        place = entries.site * len(self.names) + entries.array
        warp = entries.thread // 32
        turn = occurrences(place * 1024 + entries.thread)
        turns, warps = int(turn.max()) + 1, int(warp.max()) + 1
        request = (place * warps + warp) * turns + turn
        for code in np.unique(place):
            chosen = place == code
            row = self.row(int(code), bool(entries.shared[chosen][0]))
            size = int(entries.size[chosen][0])
            row.accesses += int(chosen.sum())
            row.bytes_wanted += int(chosen.sum()) * size
            row.requests += len(np.unique(request[chosen]))
            if row.shared:
                row.passes += _passes(request[chosen], entries.address[chosen])
            else:
                row.sectors += len(distinct(request[chosen], entries.address[chosen] >> 5)[0])
        self.keep(block, entries, request)

    def row(self, code: int, shared: bool) -> Row:
        site, array = divmod(code, len(self.names))
        if (site, array) not in self.rows:
            found = self.sites[site]
            self.rows[site, array] = Row(found.line, found.kind, self.names[array], shared)
        return self.rows[site, array]

    def keep(self, block, entries, request: np.ndarray) -> None:
        self.intervals += 1
        room = KEPT - self.kept_count
        if room <= 0:
            return
        out = np.empty(min(len(entries), room), ACCESS)
        part = slice(0, len(out))
        out["block"], out["thread"] = block.number, entries.thread[part]
        out["warp"] = entries.thread[part] // 32
        kinds = np.array([site.kind for site in self.sites], "U6")
        lines = np.array([site.line for site in self.sites])
        out["line"], out["kind"] = lines[entries.site[part]], kinds[entries.site[part]]
        out["array"] = np.array(self.names, "U32")[entries.array[part]]
        out["element"] = entries.element[part]
        out["request"] = np.unique(request[part], return_inverse=True)[1] + (self.intervals << 32)
        self.kept.append(out)
        self.kept_count += len(out)

    def accesses(self) -> np.ndarray:
        """The accesses kept, with the requests numbered from 0 in the order of block and time."""
        kept = np.concatenate(self.kept) if self.kept else np.empty(0, ACCESS)
        kept["request"] = np.unique(kept["request"], return_inverse=True)[1]
        return kept


def _passes(request: np.ndarray, address: np.ndarray) -> int:
    """How often the 32 banks are gone through: as often as the busiest one has different words of 4 bytes to give. A
    double takes two banks; as they are as busy as each other, its first is enough."""
    request, word = distinct(request, address >> 2)
    banks_used, words = np.unique(request * 32 + word % 32, return_counts=True)
    owner = banks_used // 32
    begins = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    return int(np.maximum.reduceat(words, begins).sum())


class Counts:
    """What a launch did, in numbers. A name narrows them to one array: ``loads("x")``."""

    def __init__(self, tally: Tally, blocks: int, threads: int) -> None:
        self.rows = sorted(tally.rows.values(), key=lambda row: (row.line, row.kind != "load", row.array))
        self.blocks, self.threads = blocks, blocks * threads
        self.flops_by_line = dict(sorted(tally.flops.items()))
        self.flops = sum(tally.flops.values())
        self.barriers = max(tally.block_barriers - 1, 0)  # that a block's threads passed together
        self.grid_barriers = tally.grid_barriers

    def select(self, array: str | None = None, kind: str | None = None, shared: bool | None = None) -> list[Row]:
        return [
            row
            for row in self.rows
            if array in (None, row.array) and kind in (None, row.kind) and shared in (None, row.shared)
        ]

    def loads(self, array: str | None = None) -> int:
        """Elements read from global memory, over all threads."""
        return sum(row.accesses for row in self.select(array, "load", False))

    def stores(self, array: str | None = None) -> int:
        return sum(row.accesses for row in self.select(array, "store", False))

    def atomics(self, array: str | None = None) -> int:
        return sum(row.accesses for row in self.select(array, "atomic"))

    def shared_loads(self, array: str | None = None) -> int:
        return sum(row.accesses for row in self.select(array, "load", True))

    def shared_stores(self, array: str | None = None) -> int:
        return sum(row.accesses for row in self.select(array, "store", True))

    def requests(self, array: str | None = None, kind: str | None = None) -> int:
        return sum(row.requests for row in self.select(array, kind))

    def sectors(self, array: str | None = None, kind: str | None = None) -> int:
        return sum(row.sectors for row in self.select(array, kind, False))

    def sectors_per_request(self, array: str | None = None, kind: str | None = None) -> float:
        """32-byte sectors that a warp's request touches: 4 if 32 float32 lie side by side, 32 if each lies alone."""
        return _ratio(self.sectors(array, kind), sum(row.requests for row in self.select(array, kind, False)))

    def bytes_moved(self, array: str | None = None, kind: str | None = None) -> int:
        """Whole sectors, between global memory and the threads, caches left aside."""
        return 32 * self.sectors(array, kind)

    def bytes_wanted(self, array: str | None = None, kind: str | None = None) -> int:
        """What the threads asked for of global memory: the elements alone."""
        return sum(row.bytes_wanted for row in self.select(array, kind, False))

    def passes_per_request(self, array: str | None = None, kind: str | None = None) -> float:
        """1 if no two lanes need different words of one bank of shared memory, up to 32."""
        rows = self.select(array, kind, True)
        return _ratio(sum(row.passes for row in rows), sum(row.requests for row in rows))

    def bank_conflicts(self, array: str | None = None) -> int:
        """Passes through shared memory beyond the first of each request."""
        return sum(row.passes - row.requests for row in self.select(array, None, True))

    @property
    def flops_per_thread(self) -> float:
        return _ratio(self.flops, self.threads)


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0
