"""How many cycles a time step takes in a block, by a model of the multiprocessor that runs its machine code.

    python benchmarks/cycles.py
    python benchmarks/cycles.py --kernel lstm_resident_backward --tiles 4 --hidden 64 --timeline

It needs no GPU, but CuPy, NVRTC and nvdisasm: pip install "gpulstm[kernelcheck]" nvidia-cuda-nvdisasm. The model is
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
KERNELS = ("lstm_resident_forward", "lstm_resident_backward", *IN_16_BITS)  # whose step has one barrier
TAKE_TURNS = (resident_tensor_layouts.FORWARD,)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kernel", choices=KERNELS, nargs="+", default=list(KERNELS))
    parser.add_argument("--tiles", type=_tiles, help="such as 4; all of the kernel's unless told otherwise")
    parser.add_argument("--dtype", help="float32, and float16 for kernels of 16 bits alone, unless told otherwise")
    parser.add_argument("--options", action="store_true", help="with the switch OPTIONS")
    parser.add_argument("--hidden", type=int, help="as many as the tiles are for, unless told otherwise")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1], help="that share a multiprocessor")
    parser.add_argument("--architecture", type=int, default=90)
    parser.add_argument("--timeline", action="store_true", help="when the first warp issues each instruction of a pass")
    chosen = parser.parse_args(arguments)
    print("kernel | tiles | blocks | instructions a step | cycles | us at 1.98 GHz | issued a cycle | compiler")
    try:
        for specialisation in _specialisations(chosen):
            made = [machine_code.of(specialisation, chosen.architecture, text) for text in _turns(specialisation)]
            (loop, *others), used = [machine_code.time_loop(instructions) for instructions, _ in made], made[-1][1]
            steps = sum(one.opcode.startswith("BAR.SYNC") for one in loop)
            layouts = resident_tensor_layouts if specialisation.entry in IN_16_BITS else resident_layouts
            hidden = chosen.hidden or layouts.units(specialisation.tiles)
            warps = layouts.threads(*[specialisation.entry] * (layouts is not resident_layouts), hidden) // 32
            for blocks in chosen.blocks:
                found = multiprocessor.run(loop, warps, blocks, others=others)
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


def _specialisations(chosen: argparse.Namespace) -> Iterator[Specialisation]:
    for entry in chosen.kernel:
        for tiles in [chosen.tiles] if chosen.tiles else catalogue.TILED[entry][1]:
            features = tuple(chosen.options and name == "OPTIONS" for name in catalogue.KERNELS[entry][1])
            yield Specialisation(entry, chosen.dtype or catalogue.dtypes_of(entry)[0], features, tiles)


def _tiles(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
