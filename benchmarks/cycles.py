"""How many cycles a time step takes in a block, by a model of the multiprocessor that runs its machine code.

    python benchmarks/cycles.py
    python benchmarks/cycles.py --kernel lstm_resident_backward --tiles 4 --hidden 64 --timeline

It needs no GPU, but CuPy, NVRTC and nvdisasm: pip install ".[kernelcheck]" in this repository. The model is
`multiprocessor.py`, and says what it leaves out. It is for kernels whose blocks wait for nobody. It is no measurement:
its figures are for comparing two versions of a kernel before a GPU is at hand, and for seeing where a step waits.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import machine_code, multiprocessor  # noqa: E402 - the repository need not be installed
from gpulstm.cuda import catalogue, resident_layouts, resident_tensor_layouts  # noqa: E402
from gpulstm.cuda.catalogue import Specialisation  # noqa: E402

IN_16_BITS = tuple(resident_tensor_layouts.TILES)
BARRIERS = {  # of a step
    "lstm_resident_forward": 1,
    "lstm_resident_backward": 1,
    "lstm_resident_layer_norm_forward": 2,
    "lstm_resident_layer_norm_backward": 2,
    **dict.fromkeys(IN_16_BITS, 1),
}
TAKE_TURNS = (resident_tensor_layouts.FORWARD,)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kernel", choices=BARRIERS, nargs="+", default=list(BARRIERS))
    parser.add_argument("--tiles", type=_tiles, help="such as 4; all of the kernel's unless told otherwise")
    parser.add_argument("--dtype", help="float32, and float16 for kernels of 16 bits alone, unless told otherwise")
    parser.add_argument(
        "--options", action="store_true", help="with the switch OPTIONS, and EACH_STEP where there is one"
    )
    parser.add_argument("--peepholes", action="store_true", help="with the switches OPTIONS and PEEPHOLES")
    parser.add_argument("--hidden", type=int, help="as many as the tiles are for, unless told otherwise")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1], help="that share a multiprocessor")
    parser.add_argument("--architecture", type=int, default=90)
    parser.add_argument("--timeline", action="store_true", help="when the first warp issues each instruction of a pass")
    chosen = parser.parse_args(arguments)
    print("kernel | tiles | blocks | instructions a step | cycles | us at 1.98 GHz | issued a cycle | compiler")
    try:
        for specialisation in _specialisations(chosen):
            made = [machine_code.of(specialisation, chosen.architecture, text) for text in _turns(specialisation)]
            (loop, *beside), used = machine_code.time_loops(made[0][0]), made[-1][1]
            others = [machine_code.time_loop(instructions) for instructions, _ in made[1:]]
            steps = sum(one.opcode.startswith("BAR.SYNC") for one in loop) // BARRIERS[specialisation.entry]
            warps = _warps(specialisation, chosen.hidden)
            for blocks in chosen.blocks:
                jobs = warps - 4 if beside else 0  # of warps that do something else: there is one for each scheduler
                rest = {"beside": beside[0], "warps_beside": jobs} if beside else {}
                found = multiprocessor.run(loop, warps - jobs, blocks, others=others, **rest)
                cycles = found.cycles / steps
                numbers = f"{len(loop) / steps:.0f} | {cycles:.0f} | {cycles / multiprocessor.MEGAHERTZ:.3f}"
                tiles = ",".join(map(str, specialisation.tiles))
                print(f"{specialisation.entry} | {tiles} | {blocks} | {numbers} | {found.issued:.2f} | {used}")
                if chosen.timeline:
                    print("\n".join(timeline(loop, found.timeline)))
    except machine_code.NotThere as error:
        sys.exit(f"This needs more: {error}")
    return 0


def timeline(loop: list[machine_code.Instruction], issued_at: list[int]) -> Iterator[str]:
    """A line for each instruction: the cycle, how long the warp had waited beyond what the one before asked for."""
    free = 0
    for one, cycle in zip(loop, issued_at, strict=True):
        waited = cycle - free
        yield f"{cycle:6d} {f'+{waited}' if waited > 0 else '':>5}  {one.text}"
        free = cycle + max(1, one.stall)


def _turns(specialisation: Specialisation) -> tuple[str, ...]:
    """What makes a kernel's source that of each of a scheduler's warps which take turns."""
    return ("#define LATE 0\n", "#define LATE 1\n") if specialisation.entry in TAKE_TURNS else ("",)


def _warps(specialisation: Specialisation, hidden: int | None) -> int:
    """Of a block."""
    layouts = resident_tensor_layouts if specialisation.entry in IN_16_BITS else resident_layouts
    return layouts.threads(hidden or layouts.units(specialisation.tiles), specialisation.entry) // 32


def _specialisations(chosen: argparse.Namespace) -> Iterator[Specialisation]:
    for entry in chosen.kernel:
        for tiles in [chosen.tiles] if chosen.tiles else catalogue.TILED[entry][1]:
            options = chosen.options or chosen.peepholes
            on = {"OPTIONS": options, "EACH_STEP": options, "PEEPHOLES": chosen.peepholes}
            features = tuple(on.get(name, False) for name in catalogue.KERNELS[entry][1])
            yield Specialisation(entry, chosen.dtype or catalogue.dtypes_of(entry)[0], features, tiles)


def _tiles(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
