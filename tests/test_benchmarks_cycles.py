"""benchmarks/machine_code.py and multiprocessor.py: a listing as it is read, and loops whose cycles one can count."""

import pytest

from benchmarks import cycles, machine_code, multiprocessor
from benchmarks.machine_code import NO_SCOREBOARD, Instruction
from gpulstm.cuda.catalogue import Specialisation

# Two halves of 64 bits a line. What the second one's upper bits say is beside it: stall cycles, scoreboards.
LISTING = """
.text.a_kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;       /* 0x00000a00ff017b82 */
                                                                /* 0x000e220000000800 */
.L_x_1:
        /*0010*/                   LDS.128 R36, [R26+0x140] ;   /* 0x000140001a247984 */
                                                                /* 0x000e620000000c00 */
        /*0020*/              @!P2 FADD.FTZ R5, R83, R17 ;      /* 0x0000001153055221 */
                                                                /* 0x003fc80000010000 */
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;  /* 0x0000000000007b1d */
                                                                /* 0x000fec0000010000 */
        /*0040*/               @P0 BRA `(.L_x_1) ;              /* 0xfffffffc00ec8947 */
                                                                /* 0x000fea000383ffff */
        /*0050*/                   EXIT ;                       /* 0x000000000000794d */
                                                                /* 0x000fea0003800000 */
.L_x_2:
        /*0060*/                   BRA `(.L_x_2);               /* 0xfffffffc00fc7947 */
                                                                /* 0x000fc0000383ffff */
"""


def test_a_listing_says_what_an_instruction_waits_for():
    constant, load, add, barrier, back, end, last = machine_code.parse(LISTING)
    assert constant == ("LDC R1, c[0x0][0x28]", 1, 0, NO_SCOREBOARD, 0, -1)
    assert load.opcode == "LDS.128" and (load.holds, load.stall) == (1, 1)
    assert add.opcode == "FADD.FTZ" and add.waits == 0b11 and (add.holds, add.stall) == (NO_SCOREBOARD, 4)
    assert (barrier.opcode, back.target, end.target, last.target) == ("BAR.SYNC.DEFER_BLOCKING", 1, -1, 6)
    assert machine_code.time_loop([constant, load, add, barrier, back, end, last]) == [load, add, barrier, back]


def test_a_text_that_is_no_listing():
    with pytest.raises(ValueError, match="no listing of machine code: 0 instructions"):
        machine_code.parse("nvdisasm fatal: not an ELF file")
    with pytest.raises(ValueError, match="no loop"):
        machine_code.time_loop([made("EXIT")])


def test_what_a_branch_always_jumps_over_is_not_in_a_loop():
    """A kernel has four steps in a row, and behind them a loop for steps that are left over."""
    head, step, back = made("IADD3 R1, R1, R2, RZ"), made("BAR.SYNC.DEFER_BLOCKING 0x0"), made("@P0 BRA `(.L_x_1)")
    over = made("BRA `(.L_x_3)")._replace(target=6)
    left_over = [step, back._replace(target=4)]
    last = made("@P1 BRA `(.L_x_0)")._replace(target=0)
    loop = [head, step, step, over, *left_over, head, last]
    assert machine_code.time_loop([*loop, made("EXIT")]) == [head, step, step, over, head, last]
    sometimes = [one._replace(text="@P2 BRA `(.L_x_3)") if one is over else one for one in loop]
    assert machine_code.time_loop(sometimes) == sometimes


def made(text: str, stall: int = 1, holds: int = NO_SCOREBOARD, waits: int = 0) -> Instruction:
    return Instruction(text, stall, holds, NO_SCOREBOARD, waits)


def test_a_scheduler_issues_one_instruction_a_cycle():
    loop = [made("FFMA R1, R2, R3, R1")] * 20
    for warps, expected in ((1, 20), (4, 20), (8, 40), (16, 80)):  # four schedulers
        assert multiprocessor.run(loop, warps, passes=40).cycles == pytest.approx(expected, rel=0.05)


def test_a_chain_of_additions_is_hidden_by_other_warps():
    loop = [made("FADD R1, R1, R2", stall=4)] * 10
    for warps, expected in ((4, 40), (8, 40), (16, 40), (32, 80)):
        assert multiprocessor.run(loop, warps, passes=40).cycles == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    "text, cycles_of_one", [("FFMA R1, R2, R3, R1", 1), ("IADD3 R1, R2, R3, RZ", 2), ("MUFU.EX2 R1, R1", 8)]
)
def test_how_often_a_pipe_takes_an_instruction(text, cycles_of_one):
    found = multiprocessor.run([made(text)] * 10, 16, passes=40)
    assert found.cycles == pytest.approx(10 * 4 * cycles_of_one, rel=0.05)


def test_what_is_read_from_shared_memory_comes_one_way():
    for suffix, times in (("", 1), (".64", 2), (".128", 4)):
        found = multiprocessor.run([made(f"LDS{suffix} R4, [R2]")] * 40, 8, passes=40)
        assert found.cycles == pytest.approx(max(8 * 40 * times, 2 * 2 * 40), rel=0.05)  # or the two cycles of a pipe


def test_who_needs_a_number_waits_for_it():
    latency = multiprocessor.KINDS["SHFL"].latency
    loop = [made("SHFL.BFLY PT, R1, R1, 0x1, 0x1f", stall=1, holds=2), made("FADD R1, R1, R2", stall=4, waits=0b100)]
    found = multiprocessor.run(loop, 4, passes=20)
    assert latency <= found.timeline[1] <= latency + 4 and found.timeline[0] == 0
    assert latency + 4 <= found.cycles <= latency + 8


def test_a_barrier_waits_for_the_slowest_warp_of_its_block_alone():
    loop = [*[made("FFMA R1, R2, R3, R1")] * 50, made("BAR.SYNC.DEFER_BLOCKING 0x0")]
    together = multiprocessor.run(loop, 8, passes=20).cycles
    apart = multiprocessor.run(loop, 4, blocks=2, passes=20).cycles
    assert together == pytest.approx(2 * 51 + multiprocessor.BARRIER, abs=4)
    assert apart == pytest.approx(2 * 51, abs=8)  # while one block waits, the other one computes


def test_warps_with_another_job_come_to_the_same_barriers():
    short, long = ([made("FFMA R1, R2, R3, R1")] * of + [made("BAR.SYNC.DEFER_BLOCKING 0x0")] for of in (10, 60))
    alone = multiprocessor.run(short, 4, passes=20).cycles
    beside = multiprocessor.run(short, 4, passes=20, beside=long, warps_beside=4).cycles
    assert alone == pytest.approx(10 + multiprocessor.BARRIER, abs=4)
    assert 60 + multiprocessor.BARRIER <= beside <= 70 + multiprocessor.BARRIER + 6


def test_loops_that_come_to_as_many_barriers():
    barrier, back = made("BAR.SYNC.DEFER_BLOCKING 0x0"), made("BRA `(.L_x_1)")
    one, other = [made("FFMA R1, R2, R3, R1")] * 3 + [barrier], [made("EXIT"), barrier]
    code = [*one, back._replace(target=0), *other, back._replace(target=5), made("NOP"), back._replace(target=8)]
    assert [len(loop) for loop in machine_code.time_loops(code)] == [5, 3]
    assert machine_code.time_loop(code) == code[:5]


def test_warps_of_a_scheduler_may_take_turns_at_a_pipe():
    """Products first and then the rest, or the other way round: together they wait for neither."""
    products, rest = [made("HMMA.16816.F32 R1, R4, R8, RZ")] * 15, [made("FADD R1, R1, R2", stall=4)] * 25
    barrier = [made("BAR.SYNC.DEFER_BLOCKING 0x0")]
    alike = multiprocessor.run([*products, *rest, *barrier], 8, passes=20).cycles
    turns = multiprocessor.run([*products, *rest, *barrier], 8, passes=20, others=[[*rest, *products, *barrier]]).cycles
    assert turns < alike - 30


def test_parts_of_a_cycle_add_up():
    loop = [made("HMMA.16816.F32 R1, R4, R8, RZ")] * 20
    assert multiprocessor.run(loop, 4, passes=40).cycles == pytest.approx(20 * 6.63, rel=0.01)


def test_a_timeline_shows_where_a_warp_waited():
    loop = [made("LDS R1, [R2]", holds=0), made("FADD R1, R1, R2", stall=4, waits=1)]
    lines = list(cycles.timeline(loop, [0, 29]))
    assert [line.split() for line in lines] == [["0", "LDS", "R1,", "[R2]"], ["29", "+28", "FADD", "R1,", "R1,", "R2"]]


def test_the_machine_code_of_a_kernel():
    """A loop with one barrier a step, which eight warps go through: what the command prints rests on that."""
    entry = "lstm_resident_forward"
    tiles = next(of for of in cycles.catalogue.TILES[entry][1] if of[0] == 4)
    try:
        instructions, used = machine_code.of(Specialisation(entry, "float32", (False, False, False), tiles))
    except machine_code.NotThere as error:
        pytest.skip(str(error))
    loop = machine_code.time_loop(instructions)
    steps = sum(one.opcode.startswith("BAR.SYNC") for one in loop) / cycles.BARRIERS[entry]
    assert "registers" in used and steps in (2, 4, 8) and loop[-1].opcode.startswith("BRA")
    products = sum(one.opcode.startswith("FFMA") for one in loop) / steps
    assert 64 <= products <= 96  # of a lane and step: 64, and the activations
