"""Finds two threads that touch one element with nothing between them that says who is first, one of them writing."""

import numpy as np

LOAD, STORE, ATOMIC, _, ACQUIRE, RELEASE = range(6)
NEVER = np.iinfo(np.int64).max
SHOWN = 3  # races told of in one go
LOOKED_AT = 4000  # elements looked at pair by pair


def _groups(address: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order that sorts by address, and where each address begins in it."""
    order = np.argsort(address, kind="stable")
    ordered = address[order]
    begins = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return order, begins, np.append(begins, len(order))


def suspects(address, who, writes, synchronises) -> list[np.ndarray]:
    """Of each address that several touched, one writing and not all on purpose: the numbers of its entries."""
    order, begins, ends = _groups(address)
    several = np.maximum.reduceat(who[order], begins) != np.minimum.reduceat(who[order], begins)
    written = np.maximum.reduceat(writes[order], begins)
    plain = ~np.minimum.reduceat(synchronises[order], begins)
    found = np.flatnonzero(several & written & plain)[:LOOKED_AT]
    return [order[ends[number] : ends[number + 1]] for number in found]


def within_block(recorder, block, entries) -> None:
    """Races between the threads of a block since its last barrier."""
    writes = entries.kind != LOAD
    on_purpose = recorder.synchronises[entries.site]
    pairs: dict[tuple, tuple] = {}
    for group in suspects(entries.address, entries.thread, writes, on_purpose):
        found = _pair_in_block(entries, group, writes, on_purpose)
        if found is not None:
            first, second = found
            key = (recorder.sites[entries.site[first]].line, recorder.sites[entries.site[second]].line)
            pairs.setdefault(key, (first, second))
    for first, second in list(pairs.values())[:SHOWN]:
        recorder.run.race(
            "barrier",
            _side(recorder, entries.site[first], entries.thread[first], block),
            _side(recorder, entries.site[second], entries.thread[second], block),
            recorder.run.element_name(int(entries.array[first]), int(entries.element[first])),
        )


def _pair_in_block(entries, group, writes, on_purpose):
    """The first write of the group that another thread's access collides with, and that access."""
    thread, epoch = entries.thread, entries.epoch
    for first in group[writes[group]]:
        other = thread[group] != thread[first]
        other &= ~(on_purpose[group] & on_purpose[first])
        same_warp = thread[group] // 32 == thread[first] // 32
        other &= ~same_warp | (epoch[group] == epoch[first])
        if other.any():
            return first, group[np.argmax(other)]
    return None


def _side(recorder, site, thread, block) -> tuple:
    """(block, thread, line, what it does)"""
    found = recorder.sites[site]
    does = {"load": "reads", "store": "writes", "atomic": "changes"}[found.kind]
    return block.index, recorder.run.index_of(int(thread)), found.line, does


class CrossBlock:
    """Races between blocks since the grid's last barrier. Blocks may also order themselves by fences and flags: a write
    before a thread's __threadfence() comes before a read after another's wait that ended later."""

    def __init__(self, recorder) -> None:
        self.recorder = recorder
        self.forget()

    def forget(self) -> None:
        self.parts: list[dict] = []
        self.blocks: dict[int, object] = {}
        self.interval: dict[int, int] = {}
        self.acquired: dict[int, int] = {}  # block -> time of its last wait, before its last barrier
        self.released: dict[int, list[tuple[int, int]]] = {}  # block -> (interval, time) of its fences

    def marks(self, block, kind, thread, time) -> None:
        """Notes the fences and the ended waits of an interval, before its accesses are added."""
        self.kind, self.thread, self.time = kind, thread, time
        number, interval = block.number, self.interval.get(block.number, 0)
        if (releases := kind == RELEASE).any():
            self.released.setdefault(number, []).append((interval, int(time[releases].min())))
        self.acquired_now = int(time[acquires].max()) if (acquires := self.acquires(kind)).any() else -1

    def acquires(self, kind):
        return (kind == ACQUIRE) | (kind == ATOMIC)

    def interval_ended(self, block) -> None:
        number = block.number
        self.interval[number] = self.interval.get(number, 0) + 1
        if self.recorder.has_fences:
            self.acquired[number] = max(self.acquired.get(number, -1), getattr(self, "acquired_now", -1))
            self.acquired_now = -1

    def add(self, block, entries) -> None:
        entries = entries.only(~entries.shared)
        if not len(entries):
            return
        writes, on_purpose = entries.kind != LOAD, self.recorder.synchronises[entries.site]
        before, after = self.acquired.get(block.number, -1), np.full(len(entries), NEVER)
        before = np.full(len(entries), before)
        if self.recorder.has_fences:
            before, after = self.order_in_interval(entries, before, after)
        key = entries.address * 4 + writes * 2 + on_purpose
        kept = np.unique(key, return_index=True)[1]
        if self.recorder.has_fences:
            kept = np.arange(len(entries))
        self.blocks[block.number] = block
        self.parts.append(
            {
                "address": entries.address[kept],
                "block": np.full(len(kept), block.number),
                "interval": np.full(len(kept), self.interval.get(block.number, 0)),
                "writes": writes[kept],
                "on_purpose": on_purpose[kept],
                "thread": entries.thread[kept],
                "site": entries.site[kept],
                "array": entries.array[kept],
                "element": entries.element[kept],
                "before": before[kept],
                "after": after[kept],
            }
        )

    def order_in_interval(self, entries, before, after):
        """The last wait before each access and the first fence after it, in its own thread."""
        ranks = np.arange(len(self.kind))
        for thread in np.unique(self.thread[(self.kind == RELEASE) | self.acquires(self.kind)]):
            own = self.thread == thread
            mine = np.flatnonzero(entries.thread == thread)
            for marks, target in ((self.acquires(self.kind), before), (self.kind == RELEASE, after)):
                at = ranks[own & marks]
                if not len(at) or not len(mine):
                    continue
                if target is before:
                    place = np.searchsorted(at, entries.rank[mine]) - 1
                    has = place >= 0
                else:
                    place = np.searchsorted(at, entries.rank[mine])
                    has = place < len(at)
                target[mine[has]] = self.time[at[place[has]]]
        return before, after

    def compare(self) -> None:
        """Looks through what all blocks did, tells of races, and begins anew."""
        if len(self.blocks) > 1:
            joined = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
            self.look(joined)
        self.forget()

    def look(self, all_of) -> None:
        pairs: dict[tuple, tuple] = {}
        recorder = self.recorder
        for group in suspects(all_of["address"], all_of["block"], all_of["writes"], all_of["on_purpose"]):
            found = self.pair(all_of, group)
            if found is not None:
                lines = tuple(recorder.sites[all_of["site"][side]].line for side in found)
                pairs.setdefault(lines, found)
        for first, second in list(pairs.values())[:SHOWN]:
            sides = [
                _side(recorder, all_of["site"][i], all_of["thread"][i], self.blocks[int(all_of["block"][i])])
                for i in (first, second)
            ]
            element = recorder.run.element_name(int(all_of["array"][first]), int(all_of["element"][first]))
            recorder.run.race("grid barrier", *sides, element)

    def pair(self, all_of, group):
        block, purpose = all_of["block"][group], all_of["on_purpose"][group]
        for place in np.flatnonzero(all_of["writes"][group]):
            other = (block != block[place]) & ~(purpose & purpose[place])
            for partner in np.flatnonzero(other):
                a, b = group[place], group[partner]
                if not (self.is_before(all_of, a, b) or self.is_before(all_of, b, a)):
                    return a, b
                if not self.recorder.has_fences:
                    break
        return None

    def is_before(self, all_of, a: int, b: int) -> bool:
        """Whether what ``a`` did was fenced before the wait that ``b`` came after had ended."""
        if not self.recorder.has_fences:
            return False
        released = int(all_of["after"][a])
        for interval, time in self.released.get(int(all_of["block"][a]), ()):
            if interval > all_of["interval"][a]:
                released = min(released, time)
        return released < int(all_of["before"][b])
