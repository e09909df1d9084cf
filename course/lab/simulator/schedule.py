"""Who runs when: one thread after another, each until it waits, and what everybody waits for."""

import random
from array import array

from .errors import Finding, KernelError, who

BLOCK, GRID, WARP, SPIN, RUNNING, DONE = range(6)
ORDERS = ("in order", "reverse", "random")
IDLE_ROUNDS = 100  # rounds in which threads only asked in vain
NAMES = {BLOCK: "__syncthreads()", GRID: "barrier of the grid", WARP: "operation of a warp"}


class Thread:
    """One thread that meets barriers."""

    __slots__ = ("number", "generator", "state", "request", "answer")

    def __init__(self, number, generator) -> None:
        self.number, self.generator = number, generator
        self.state, self.request, self.answer = RUNNING, None, None


class Block:
    """One block: its shared memory, and the log of what its threads did since the last barrier."""

    def __init__(self, number, index, shared) -> None:
        self.number, self.index, self.shared = number, index, shared
        self.log = array("q")
        self.slices: list[tuple[int, int, int, int]] = []  # from which entry on: thread, time, warp's barriers so far
        self.threads: list[Thread] = []
        self.warp_barriers: dict[int, int] = {}
        self.barriers = 0


class Scheduler:
    """Runs one launch. ``run`` is told which thread is running; ``recorder`` gets each block's log at its barriers."""

    def __init__(self, run, recorder, make_block, order: str, seed: int) -> None:
        self.run, self.recorder, self.make_block = run, recorder, make_block
        self.order, self.generator = order, random.Random(seed)
        self.time = 0

    def ordered(self, count: int) -> list[int]:
        numbers = list(range(count))
        if self.order == "reverse":
            numbers.reverse()
        elif self.order == "random":
            self.generator.shuffle(numbers)
        return numbers

    def launch(self, function, scalars: tuple, blocks: int, threads: int, waits: bool, together: bool) -> None:
        if not waits:
            for number in self.ordered(blocks):
                self.run_plainly(self.make_block(number), function, scalars, threads)
            return
        numbers = self.ordered(blocks)
        for group in [numbers] if together else [[number] for number in numbers]:
            made = [self.make_block(number) for number in group]
            for block in made:
                for number in self.ordered(threads):
                    generator = function(self.run.thread_things(block, number), *scalars)
                    block.threads.append(Thread(number, generator))
            self.run_group(made)

    def run_plainly(self, block: Block, function, scalars: tuple, threads: int) -> None:
        self.run.block = block
        for number in self.ordered(threads):
            self.begin_slice(block, number)
            function(self.run.thread_things(block, number), *scalars)
        self.recorder.interval(block)

    def begin_slice(self, block: Block, number: int) -> None:
        self.run.block, self.run.thread = block, number
        self.time += 1
        block.slices.append((len(block.log), number, self.time, block.warp_barriers.get(number // 32, 0)))

    def run_group(self, blocks: list[Block]) -> None:
        idle, changes = 0, self.run.changes
        while any(thread.state != DONE for block in blocks for thread in block.threads):
            moved = spun = False
            for block in blocks:
                for thread in block.threads:
                    if thread.state == RUNNING:
                        kind = self.resume(block, thread)
                        spun, moved = spun or kind == SPIN, moved or kind != SPIN
                moved = self.answer_warps(block) or moved
                moved = self.open_block(block) or moved
            moved = self.open_grid(blocks) or moved
            if moved or self.run.changes != changes:
                idle, changes = 0, self.run.changes
                continue
            idle += 1
            if not spun or idle > IDLE_ROUNDS:
                self.stuck(blocks, spun)
        for block in blocks:
            self.recorder.interval(block)

    def resume(self, block: Block, thread: Thread) -> int:
        self.begin_slice(block, thread.number)
        try:
            request = thread.generator.send(thread.answer)
        except StopIteration:
            thread.state = DONE
            return DONE
        thread.answer, thread.request = None, request
        if request[0] != SPIN:
            thread.state = request[0]
        return request[0]

    # barriers of a block and of the grid

    def open_block(self, block: Block) -> bool:
        """Lets the block go on if everybody who still runs waits at its barrier."""
        alive = [thread for thread in block.threads if thread.state != DONE]
        if not alive or any(thread.state != BLOCK for thread in alive):
            return False
        self.compare_waiting(block, alive)
        self.recorder.interval(block)
        block.barriers += 1
        for thread in alive:
            thread.state = RUNNING
        return True

    def compare_waiting(self, block: Block, alive: list[Thread]) -> None:
        first = min(alive, key=lambda thread: thread.number)
        line = self.line(first)
        for thread in block.threads:
            if thread.state == DONE:
                self.diverged(block, first, f"{self.name(block, thread)} has ended before")
                return
            if thread.state == BLOCK and self.line(thread) != line:
                self.diverged(block, first, f"{self.name(block, thread)} waits in line {self.line(thread)}")
                return

    def diverged(self, block: Block, waiting: Thread, other: str) -> None:
        name = NAMES[waiting.request[0]]
        message = f"not all threads reach this {name}: {self.name(block, waiting)} waits here, {other}."
        self.run.block, self.run.thread = block, waiting.number
        self.run.complain("divergent barrier", message, self.line(waiting))

    def open_grid(self, blocks: list[Block]) -> bool:
        alive = [(block, thread) for block in blocks for thread in block.threads if thread.state != DONE]
        if not alive or any(thread.state != GRID for _, thread in alive):
            return False
        for block in blocks:
            if ended := [thread for thread in block.threads if thread.state == DONE]:
                other = f"{self.name(block, ended[0])} has ended before"
                self.diverged(alive[0][0], alive[0][1], other)
                break
        for block in blocks:
            self.recorder.interval(block)
        self.recorder.grid_barrier()
        for _, thread in alive:
            thread.state = RUNNING
        return True

    # warps

    def answer_warps(self, block: Block) -> bool:
        waiting: dict[int, dict[int, Thread]] = {}
        for thread in block.threads:
            if thread.state == WARP:
                waiting.setdefault(thread.number // 32, {})[thread.number % 32] = thread
        if not waiting:
            return False
        alive = {thread.number for thread in block.threads if thread.state != DONE}
        answered = False
        for warp, lanes in waiting.items():
            for site in sorted({thread.request[1] for thread in lanes.values()}):
                group = {lane: thread for lane, thread in lanes.items() if thread.request[1] == site}
                mask = next(iter(group.values())).request[2]
                wanted = {lane for lane in range(32) if mask >> lane & 1 and warp * 32 + lane in alive}
                if wanted <= group.keys():
                    self.answer(block, warp, group)
                    answered = True
        return answered

    def answer(self, block: Block, warp: int, group: dict[int, Thread]) -> None:
        operation = next(iter(group.values())).request[3]
        if operation == "__syncwarp":
            block.warp_barriers[warp] = block.warp_barriers.get(warp, 0) + 1
        votes = {lane: bool(thread.request[4]) for lane, thread in group.items()}
        for lane, thread in group.items():
            if operation == "__ballot_sync":
                thread.answer = sum(1 << other for other, vote in votes.items() if vote)
            elif operation in ("__any_sync", "__all_sync"):
                thread.answer = int((any if "any" in operation else all)(votes.values()))
            elif operation != "__syncwarp":
                thread.answer = self.shuffled(block, group, lane, thread)
            thread.state = RUNNING

    def shuffled(self, block: Block, group: dict[int, Thread], lane: int, thread: Thread):
        operation, value, by, width = thread.request[3:]
        begin = lane - lane % width
        if operation == "__shfl_sync":
            source = begin + by % width
        elif operation == "__shfl_xor_sync":
            source = lane ^ by
        else:
            source = lane + by if "down" in operation else lane - by
        if source >= begin + width or "up" in operation and source < begin:
            return value
        if source in group:
            return group[source].request[4]
        self.run.block, self.run.thread = block, thread.number
        message = (
            f"{self.name(block, thread)} asks lane {source} of its warp, which takes no part: its answer is garbage."
        )
        self.run.complain("shuffle", message, self.line(thread))
        return value

    # nothing goes on

    def stuck(self, blocks: list[Block], spun: bool) -> None:
        waiting = [(block, thread) for block in blocks for thread in block.threads if thread.state != DONE]
        spinning = [(block, thread) for block, thread in waiting if thread.state == RUNNING]
        if spun and spinning:
            block, thread = spinning[0]
            message = (
                f"{self.name(block, thread)} waits in this loop for what no other thread will ever write: "
                "every other one waits too, or has ended."
            )
            raise KernelError(self.finding("endless wait", message, thread.request[1], block, thread))
        block, thread = waiting[0]
        line, kind = self.line(thread), thread.request[0]
        others = [
            (other_block, other)
            for other_block in blocks
            for other in other_block.threads
            if other.state == DONE or other.request[0] != kind or self.line(other) != line
        ]
        if kind == WARP:
            same = [pair for pair in others if pair[0] is block and pair[1].number // 32 == thread.number // 32]
            others = same or others
        other_block, other = others[0] if others else (block, thread)
        does = "has ended before" if other.state == DONE else f"waits in line {self.line(other)}"
        message = f"not all threads reach this {NAMES[kind]}: {self.name(block, thread)} waits here, "
        message += f"{self.name(other_block, other)} {does}."
        raise KernelError(self.finding("divergent barrier", message, line, block, thread))

    def finding(self, kind: str, message: str, line: int, block: Block, thread: Thread) -> Finding:
        self.run.block, self.run.thread = block, thread.number
        return self.run.finding(kind, message, line)

    def line(self, thread: Thread) -> int:
        kind, site = thread.request[:2]
        return site if kind == SPIN else self.run.program.sites[site].line

    def name(self, block: Block, thread: Thread) -> str:
        return who(self.run.index_of(thread.number), block.index)
