"""Reads the log of a block between two barriers: counts its traffic, and looks for races."""

import numpy as np

from .counts import Tally
from .races import CrossBlock, within_block
from .values import Site

SITE_BITS = 44
ELEMENT = (1 << SITE_BITS) - 1
SHARED, LOCAL = 1 << SITE_BITS - 1, 1 << SITE_BITS - 2
LOAD, STORE, ATOMIC, FLOPS, ACQUIRE, RELEASE, OTHER = range(7)
KINDS = {"load": LOAD, "store": STORE, "atomic": ATOMIC, "flops": FLOPS, "acquire": ACQUIRE, "release": RELEASE}


class Entries:
    """The accesses of one block between two barriers, one array per property, in the order in which they happened."""

    def __init__(self, **fields) -> None:
        self.__dict__.update(fields)

    def __len__(self) -> int:
        return len(self.site)

    def only(self, chosen: np.ndarray) -> "Entries":
        return Entries(**{name: values[chosen] for name, values in self.__dict__.items()})


class Recorder:
    """What one launch did. ``memories`` are its arrays, then its shared arrays; ``names`` those of both."""

    def __init__(self, run, sites: tuple[Site, ...], arrays: list, shared: list) -> None:
        self.run, self.sites = run, sites
        self.kinds = np.array([KINDS.get(site.kind, OTHER) for site in sites] or [OTHER])
        self.sizes = np.array([max(site.size, 1) for site in sites] or [1])
        self.synchronises = np.array([site.volatile for site in sites] or [False])
        self.names = [memory.name for memory in arrays] + [array.name for array in shared]
        self.find_bases(arrays, shared)
        known = {name: number for number, name in reversed(list(enumerate(self.names)))}
        self.known = np.array([known.get(site.name, -1) for site in sites] or [-1])
        self.tally = Tally(sites, self.names)
        self.cross = CrossBlock(self)
        self.has_fences = any(site.kind == "release" for site in sites)

    def find_bases(self, arrays: list, shared: list) -> None:
        """Where each array begins, in bytes, sorted, so that an address tells its array."""
        begins = [(memory.base * np.dtype(memory.dtype).itemsize, number) for number, memory in enumerate(arrays)]
        begins += [(SHARED + array.offset, len(arrays) + number) for number, array in enumerate(shared)]
        begins.sort()
        self.begins = np.array([begin for begin, _ in begins] or [0])
        self.owners = np.array([owner for _, owner in begins] or [0])
        self.begin_of = np.zeros(max(len(begins), 1), np.int64)
        for begin, owner in begins:
            self.begin_of[owner] = begin

    def interval(self, block) -> None:
        """Takes the block's log and empties it."""
        self.tally.barriers(block)
        if not block.log:
            block.slices.clear()
            self.cross.interval_ended(block)
            return
        log = np.array(block.log, np.int64)
        slices = np.array(block.slices, np.int64)
        del block.log[:]
        block.slices.clear()
        lengths = np.diff(np.append(slices[:, 0], len(log)))
        thread, time, epoch = (np.repeat(slices[:, column], lengths) for column in (1, 2, 3))
        site, element = log >> SITE_BITS, log & ELEMENT
        kind = self.kinds[site]
        flops = kind == FLOPS
        if flops.any():
            self.tally.add_flops(site[flops], element[flops])
        if self.run.suspects:
            stores = (kind == STORE) | (kind == ATOMIC)
            self.run.settle(block, element[stores], thread[stores])
        entries = self.accesses(site, element, kind, thread, time, epoch)
        if self.has_fences:
            self.cross.marks(block, kind, thread, time)
        if len(entries):
            self.tally.add(block, entries)
            within_block(self, block, entries)
            self.cross.add(block, entries)
        self.cross.interval_ended(block)

    def accesses(self, site, element, kind, thread, time, epoch) -> Entries:
        chosen = (kind <= ATOMIC) & ((element & (SHARED | LOCAL)) != LOCAL)
        rank = np.flatnonzero(chosen)
        site, element = site[rank], element[rank]
        shared = element >= SHARED
        size = self.sizes[site]
        address = np.where(shared, SHARED + (element - SHARED) * size, element * size)
        array = self.owners[np.maximum(np.searchsorted(self.begins, address, side="right") - 1, 0)]
        array = np.where(self.known[site] >= 0, self.known[site], array)
        element = (address - self.begin_of[array]) // size
        return Entries(
            site=site,
            kind=kind[rank],
            thread=thread[rank],
            time=time[rank],
            epoch=epoch[rank],
            element=element,
            size=size,
            shared=shared,
            address=address,
            array=array,
            rank=rank,
        )

    def grid_barrier(self) -> None:
        self.tally.grid_barriers += 1
        self.cross.compare()

    def finish(self) -> None:
        self.cross.compare()
