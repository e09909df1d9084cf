"""The machine code of a kernel, instruction by instruction, with what the compiler tells the hardware about waiting.

NVRTC makes it, through CuPy, and nvdisasm of CUDA takes it apart; neither needs a GPU. From compute capability 7.0 on
an instruction has 128 bits, of which a few say how many cycles its warp waits before the next one, which of six
scoreboards it holds until its result is there or its operands are read, and for which of them it waits itself. NVIDIA
does not document them; Jia et al. found them out (arXiv:1804.06826, section 2.1).
"""

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from gpulstm.cuda.catalogue import Specialisation

NO_SCOREBOARD = 7
AS_CUPY_DOES = ("-ftz=true",)
_FIRST_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;?\s*/\* 0x[0-9a-f]{16} \*/")
_SECOND_LINE = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
_LABEL = re.compile(r"^(\.L_\w+):")
_PREDICATE = re.compile(r"^@!?U?P\w+\s+")


class NotThere(RuntimeError):
    """A tool that machine code is made or read with is missing."""


class Instruction(NamedTuple):
    text: str
    stall: int  # cycles before the warp's next instruction
    holds: int  # scoreboard until the result is there; NO_SCOREBOARD: none
    reads: int  # scoreboard until the operands have been read
    waits: int  # a bit for each scoreboard that has to be free
    target: int = -1  # of a branch: the index of the instruction that it leads to

    @property
    def opcode(self) -> str:
        """With its suffixes, without the predicate."""
        return _PREDICATE.sub("", self.text).split()[0]


def parse(listing: str) -> list[Instruction]:
    """What ``nvdisasm -hex -print-code`` prints of one kernel."""
    texts: list[str] = []
    controls: list[int] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(texts)
        elif first := _FIRST_LINE.search(line):
            texts.append(first[2])
        elif (second := _SECOND_LINE.match(line)) and len(controls) < len(texts):
            controls.append(int(second[1], 16) >> 41)
    if not texts or len(texts) != len(controls):
        raise ValueError(f"no listing of machine code: {len(texts)} instructions, {len(controls)} second halves")
    found = []
    for text, bits in zip(texts, controls, strict=True):
        named = re.search(r"`\((\.L_\w+)\)", text)
        target = labels.get(named[1], -1) if named else -1
        found.append(Instruction(text, bits & 15, bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63, target))
    return found


def time_loop(instructions: list[Instruction]) -> list[Instruction]:
    """The loop with the most barriers in it, and of those the longest: from its head to the branch back, without what
    a branch that is always taken jumps over. A loop within it counts once: that is what a kernel has for steps that
    are left over, and it stands behind such a branch."""
    return time_loops(instructions)[0]


def time_loops(instructions: list[Instruction]) -> list[list[Instruction]]:
    """That loop, and those beside it with as many barriers: warps with another job go through them."""
    loops = [range(one.target, index + 1) for index, one in enumerate(instructions) if 0 <= one.target < index]
    if not loops:  # a branch to itself stands behind the end of a kernel
        raise ValueError("this kernel has no loop")
    passes = [(loop, _without_jumped_over(instructions, loop)) for loop in loops]

    def barriers(of: list[Instruction]) -> int:
        return sum(one.opcode.startswith("BAR.SYNC") for one in of)

    most = max(barriers(of) for _, of in passes)
    found: list[tuple[range, list[Instruction]]] = []
    for loop, of in sorted(passes, key=lambda one: len(one[1]), reverse=True):
        if barriers(of) < most or (found and not most):
            continue
        if all(loop[-1] < other[0] or other[-1] < loop[0] for other, _ in found):
            found.append((loop, of))
    return [of for _, of in found]


def _without_jumped_over(instructions: list[Instruction], loop: range) -> list[Instruction]:
    found, index = [], loop.start
    while index < loop.stop:
        one = instructions[index]
        found.append(one)
        index = one.target if one.text.startswith("BRA") and index < one.target < loop.stop else index + 1
    return found


def of(specialisation: Specialisation, architecture: int = 90, before: str = "") -> tuple[list[Instruction], str]:
    """Its machine code for a compute capability, with the text ``before`` its source, and the compiler's line about
    registers and shared memory."""
    binary, log = _compiled(specialisation, architecture, before)
    used = next((line.split(":", 1)[1].strip() for line in log.splitlines() if "Used " in line), "")
    return parse(_taken_apart(binary)), used


def _compiled(specialisation: Specialisation, architecture: int, before: str) -> tuple[bytes, str]:
    try:
        import cupy  # noqa: F401 - it finds the library
        from cupy_backends.cuda.libs import nvrtc
    except ImportError:
        raise NotThere('machine code is made by NVRTC: pip install "gpulstm[kernelcheck]"') from None
    program = nvrtc.createProgram(before + specialisation.source, specialisation.file, (), ())
    try:
        target = f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v"
        nvrtc.compileProgram(program, (*target, *AS_CUPY_DOES, *specialisation.options))
        # CuPy 14 leaves out the last byte, which nvdisasm misses: an ELF file ends with zeros.
        return nvrtc.getCUBIN(program) + b"\0", nvrtc.getProgramLog(program).replace("\0", "")
    finally:
        nvrtc.destroyProgram(program)


def _taken_apart(binary: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        done = subprocess.run(
            [_nvdisasm(), "-hex", "--print-code", str(path)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ValueError(f"nvdisasm: {done.stderr.strip()}")
    return done.stdout


def _nvdisasm() -> str:
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or () if package else ():
        for path in sorted(Path(folder).glob("*/bin/nvdisasm")):
            path.chmod(path.stat().st_mode | 0o111)  # the wheel does not say that it can be run
            return str(path)
    found = shutil.which("nvdisasm")
    if not found:
        raise NotThere("machine code is read by nvdisasm: pip install nvidia-cuda-nvdisasm")
    return found
