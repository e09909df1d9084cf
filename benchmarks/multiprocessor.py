"""How many cycles a loop takes on a multiprocessor: a model of one that issues each warp's instructions in order.

Four schedulers issue one instruction a cycle each, of one of their warps. A warp's next instruction waits for the
cycles that the one before says, for scoreboards, and for a free pipe; and at a barrier for all warps of its block. What
a loop reads from device memory is taken to be there in time, and no branch but the one back is taken.

How often a pipe takes an instruction is from the table of arithmetic throughput in the CUDA C++ Programming Guide
(compute capability 9.0), and of shared memory from its 128 bytes a cycle. The tensor cores' rate is the one that an
H200 was measured to have: 646 TFLOP/s with 132 multiprocessors at 1980 MHz, which is 6.63 cycles for 4096 operations of
each scheduler. Latencies are not documented. These are round
numbers from what has been published about Volta to Hopper. So a difference of a tenth means nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .machine_code import NO_SCOREBOARD, Instruction

SCHEDULERS = 4
SCOREBOARDS = 6
MEGAHERTZ = 1980  # of an H200 at work
BARRIER = 22  # cycles from the last warp's arrival
SKIPPED = 3  # passes
QUEUE = 32  # cycles of work that wait for shared memory before no more of it is issued
READ = 14  # until an instruction of memory has read its operands


class Kind(NamedTuple):
    pipe: str
    busy: float  # cycles that a scheduler's pipe is taken by a warp's instruction
    shared: int = 0  # and those of the path from shared memory to registers, which all schedulers have in common
    latency: int = 0  # until a scoreboard is free; of the others the compiler knows it


FLOAT, HALF_RATE, FREE = Kind("float", 1), Kind("integer", 2), Kind("", 0)
KINDS = {
    **dict.fromkeys(("FFMA", "FADD", "FMUL"), FLOAT),
    **dict.fromkeys(("IMAD", "HFMA2", "HADD2", "HMUL2"), Kind("float", 2)),
    "MUFU": Kind("special", 8, latency=22),
    **dict.fromkeys(("F2F", "I2F", "F2I", "F2FP", "I2FP"), Kind("special", 4, latency=14)),
    "SHFL": Kind("memory", 2, shared=1, latency=24),
    "LDS": Kind("memory", 2, shared=1, latency=29),
    "STS": Kind("memory", 2, shared=1, latency=22),
    **dict.fromkeys(("LDG", "LD"), Kind("memory", 2, shared=1, latency=0)),  # asked for long before
    **dict.fromkeys(("STG", "ST", "RED", "ATOMG"), Kind("memory", 2, shared=1, latency=READ)),
    **dict.fromkeys(("LDC", "S2R", "S2UR"), Kind("memory", 2, latency=24)),
    "HMMA": Kind("tensor", 6.63, latency=33),  # of 16 x 8 x 16 numbers
    **dict.fromkeys(("BRA", "BSSY", "BSYNC", "NOP", "WARPSYNC", "BAR", "EXIT"), FREE),
}
BYTES_WIDE = {"128": 4, "64": 2}  # times as long on the path from shared memory


class Found(NamedTuple):
    cycles: float  # of one pass through the loop
    issued: float  # instructions that a scheduler issues in a cycle
    timeline: list[int]  # cycles after the pass began in which the first warp issues each instruction


def kind_of(instruction: Instruction) -> Kind:
    name, *suffixes = instruction.opcode.split(".")
    kind = KINDS.get(name) or (Kind("uniform", 2) if name.startswith("U") else HALF_RATE)
    if name in ("LDS", "STS"):
        wide = next((times for suffix, times in BYTES_WIDE.items() if suffix in suffixes), 1)
        return kind._replace(shared=wide)
    return kind


class _Warp:
    def __init__(self, block: int, loop: Sequence[Instruction]) -> None:
        self.block, self.loop, self.kinds = block, loop, [kind_of(one) for one in loop]
        self.at, self.passes, self.ready = 0, 0, 0
        self.scoreboards = [0] * SCOREBOARDS
        self.barriers = 0  # that it has come to
        self.waits = False  # at the last of them
        self.began: list[int] = []


def run(
    loop: Sequence[Instruction],
    warps: int,
    blocks: int = 1,
    passes: int = 12,
    *,
    others: Sequence[Sequence[Instruction]] = (),
    beside: Sequence[Instruction] = (),
    warps_beside: int = 0,
) -> Found:
    """``warps`` of each of ``blocks`` blocks that share a multiprocessor go through the loop ``passes`` times. The
    first of them, in which they get out of step, and the last one do not count. Where a scheduler's warps take turns,
    its second warp goes through the first of the ``others`` instead, and so on. ``warps_beside`` more of each block go
    through another loop meanwhile. All these loops have as many barriers."""
    loops = [loop, *others]
    of_block = [loops[number // SCHEDULERS % len(loops)] for number in range(warps)] + [beside] * warps_beside
    all_warps = [_Warp(block, its) for block in range(blocks) for its in of_block]
    of_scheduler = [all_warps[first::SCHEDULERS] for first in range(SCHEDULERS)]
    free: list[dict[str, float]] = [{} for _ in range(SCHEDULERS)]  # when each pipe is
    shared_path = 0
    arrived: dict[tuple[int, int], int] = {}
    opens: dict[tuple[int, int], int] = {}
    last: list[_Warp | None] = [None] * SCHEDULERS
    timeline = [0] * len(loop)
    issued = now = 0
    a_pass, reached = sum(len(warp.loop) for warp in all_warps), [0]  # when so many passes had been issued
    while any(warp.passes < passes for warp in all_warps):
        for number, mine in enumerate(of_scheduler):
            # The one that has just issued goes on as long as it can; else the one that is furthest behind.
            order = sorted(mine, key=lambda warp: (warp is not last[number], warp.passes, warp.at / len(warp.loop)))
            for warp in order:
                if warp.passes == passes or now < warp.ready:
                    continue
                if warp.waits:
                    if opens.get((warp.block, warp.barriers), now + 1) > now:
                        continue
                    warp.waits = False
                one, kind = warp.loop[warp.at], warp.kinds[warp.at]
                if any(one.waits >> board & 1 and warp.scoreboards[board] > now for board in range(SCOREBOARDS)):
                    continue
                if free[number].get(kind.pipe, 0) > now and kind.pipe:
                    continue
                if kind.shared and shared_path - now > QUEUE:
                    continue
                if warp.at == 0:
                    warp.began.append(now)
                if warp is all_warps[0] and warp.passes == passes - 1:
                    timeline[warp.at] = now - warp.began[-1]
                since = free[number].get(kind.pipe, now)
                free[number][kind.pipe] = (since if since > now - 1 else now) + kind.busy  # parts of a cycle add up
                queued = 0
                if kind.shared:
                    shared_path = max(shared_path, now) + kind.shared
                    queued = shared_path - now - 1
                for board, cycles in ((one.holds, kind.latency), (one.reads, min(kind.latency, READ))):
                    if board != NO_SCOREBOARD:
                        warp.scoreboards[board] = max(warp.scoreboards[board], now + cycles + queued)
                warp.ready, last[number] = now + max(1, one.stall), warp
                issued += 1
                if one.opcode.startswith("BAR"):
                    warp.barriers, warp.waits = warp.barriers + 1, True
                    key = warp.block, warp.barriers
                    arrived[key] = arrived.get(key, 0) + 1
                    if arrived[key] == warps + warps_beside:
                        opens[key] = now + BARRIER
                warp.at += 1
                if warp.at == len(warp.loop):
                    warp.at, warp.passes = 0, warp.passes + 1
                break
        now += 1
        while len(reached) <= issued // a_pass:
            reached.append(now)
    cycles = (reached[-2] - reached[SKIPPED]) / (passes - 1 - SKIPPED)
    return Found(cycles, a_pass / cycles / SCHEDULERS, timeline)
