"""The compile gate: every kernel in every specialisation becomes machine code for the supported GPUs, without spills.

Each test run compiles every specialisation for one of the architectures at least, and for every architecture all
kernels. The environment variable GPULSTM_WHOLE_GATE=1 makes it every specialisation for every architecture, which takes
a minute longer.

NVRTC needs no GPU. What it says about registers, shared memory, stack and spills is read back; a kernel about which it
says nothing fails, so that the gate cannot pass by reading nothing.
"""

import os
import re
import sys
from dataclasses import dataclass
from functools import cache

import pytest

from gpulstm.cuda import catalogue
from tests.cuda_on_cpu import nvrtc as nvrtc_on_cpu

ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)


class GateError(AssertionError):
    """A kernel did not compile, spilled, or was not reported on."""


@dataclass(frozen=True)
class Usage:
    """What ptxas said about one function. All but registers in bytes; shared is static shared memory."""

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


_FUNCTION = re.compile(
    r"Function properties for (?P<name>\S+)\s*\n[^\n]*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r"(?:\s*\n[^\n]*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*))?"
)


def parse(log: str) -> dict[str, Usage]:
    """Function name -> usage, from the text that ``--ptxas-options=-v`` puts in the program log."""
    found = {}
    for match in _FUNCTION.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"] or "")
        found[match["name"]] = Usage(
            int(match["registers"] or 0),
            int(shared[1]) if shared else 0,
            *(int(match[name]) for name in ("stack", "stores", "loads")),
        )
    return found


def check(entries: set[str], log: str, what: str) -> dict[str, Usage]:
    """Raises GateError unless the log reports on each of ``entries``, and on no function that spills."""
    usage = parse(log)
    missing = sorted(name for name in entries if name not in usage or not usage[name].registers)
    if missing:
        raise GateError(f"{what}: ptxas did not report registers and spills of {', '.join(missing)}:\n{log}")
    spilled = {name: u for name, u in usage.items() if u.spill_stores or u.spill_loads}
    if spilled:
        raise GateError(f"{what}: registers spill to memory: {spilled}")
    return usage


def compile_for(architecture: int, source: str, options: tuple[str, ...], name: str) -> str:
    """Compiles to machine code and gives the log. Raises GateError with the compiler's message."""
    nvrtc = nvrtc_or_skip()
    program = nvrtc.createProgram(source, name, (), ())
    target = (f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v")
    try:
        nvrtc.compileProgram(program, (*target, *nvrtc_on_cpu.AS_CUPY_DOES, *options, *nvrtc_on_cpu.include_options()))
        if not nvrtc.getCUBIN(program):
            raise GateError(f"{name}: no machine code for sm_{architecture}")
        return nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError as error:
        raise GateError(f"{name} for sm_{architecture}: {error}\n{nvrtc.getProgramLog(program)}") from None
    finally:
        nvrtc.destroyProgram(program)


def nvrtc_or_skip():
    """CuPy's binding of NVRTC. Without it the test is skipped, and fails where CI promises it."""
    nvrtc, reason = nvrtc_on_cpu.binding()
    if nvrtc is None:
        reason = f'the kernels were not compiled for GPUs: {reason}; pip install "gpulstm[kernelcheck]"'
        promised = os.environ.get("CI") and sys.platform != "darwin"  # for which there is neither CuPy nor NVRTC
        (pytest.fail if promised else pytest.skip)(reason)
    return nvrtc


@cache
def programs(cooperative: bool = False) -> dict[tuple[str, tuple[str, ...]], set[str]]:
    """(source, options) -> kernels that are wanted from it: kernels of one file are compiled together.

    Those whose blocks all run together are compiled by tests/test_nvrtc_gate_persistent.py, those whose blocks come in
    clusters by tests/test_nvrtc_gate_clusters.py, resident ones on the tensor cores by
    tests/test_nvrtc_gate_resident_tensor.py, and those with one launch for all steps that hold options, or run both
    directions, by tests/test_nvrtc_gate_options.py and tests/test_nvrtc_gate_directions.py.
    """
    wanted: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    for specialisation in catalogue.specialisations():
        elsewhere = specialisation.entry in (*catalogue.CLUSTERED, *catalogue.RESIDENT_TENSOR_TILES)
        elsewhere = elsewhere or specialisation.tiles and any(specialisation.features)
        if specialisation.is_cooperative != cooperative or elsewhere:
            continue
        wanted.setdefault((specialisation.source, specialisation.options), set()).add(specialisation.entry)
    return wanted


def parted(source: str) -> tuple[str, str]:
    """What specialises a source, for messages, and the text of its files."""
    definitions, _, text = source.partition("#line 1 ")
    return ", ".join(line.removeprefix("#define ") for line in definitions.splitlines()), text


def compiled_for(architecture: int) -> dict[tuple[str, tuple[str, ...]], set[str]]:
    """The part of `programs` that this test run compiles for an architecture: each file's take turns."""
    wanted = programs()
    if os.environ.get("GPULSTM_WHOLE_GATE"):
        return wanted
    number, of_file = ARCHITECTURES.index(architecture), {}
    for program in wanted:
        of_file.setdefault(parted(program[0])[1], []).append(program)
    parts = (
        each[number :: len(ARCHITECTURES)] or [each[(number + i) % len(each)]]
        for i, each in enumerate(of_file.values())
    )
    return {program: wanted[program] for part in parts for program in part}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_specialisations_compile_without_spills(architecture):
    supported = nvrtc_or_skip().getSupportedArchs()
    if architecture not in supported:
        version = ".".join(map(str, nvrtc_or_skip().getVersion()))
        pytest.skip(f"sm_{architecture} was left out: NVRTC {version} supports {supported}")
    checked = set()
    for (source, options), entries in compiled_for(architecture).items():
        name = f"{'/'.join(sorted(entries))}, {parted(source)[0]}"
        check(entries, compile_for(architecture, source, options, name), f"{name}, sm_{architecture}")
        checked |= entries
    elsewhere = {*catalogue.COOPERATIVE, *catalogue.CLUSTERED, *catalogue.RESIDENT_TENSOR_TILES}
    assert checked == set(catalogue.KERNELS) - elsewhere


def test_a_part_of_the_gate_reaches_every_specialisation():
    parts = [set(compiled_for(architecture)) for architecture in ARCHITECTURES]
    assert set().union(*parts) == set(programs())


def architecture_for_self_test() -> int:
    return next(a for a in reversed(ARCHITECTURES) if a in nvrtc_or_skip().getSupportedArchs())


CLEAN = 'extern "C" __global__ void clean(float* x) { x[threadIdx.x] *= 2.0f; }'
# 64 values that are all needed at the end do not fit into the 32 registers that two blocks of 1024 threads leave.
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* y) {
    float kept[64];
    #pragma unroll
    for (int i = 0; i < 64; ++i) kept[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 64; ++i) y[i * 1024 + threadIdx.x] = kept[(i * 7 + 1) % 64] - kept[i];
}
"""


def test_the_gate_reads_what_the_compiler_says():
    shared = 'extern "C" __global__ void shared(float* x) { __shared__ float s[100]; s[threadIdx.x] = x[0];'
    shared += " __syncthreads(); x[threadIdx.x] = s[99 - threadIdx.x]; }"
    log = compile_for(architecture_for_self_test(), CLEAN + "\n" + shared, (), "self_test.cu")
    usage = check({"clean", "shared"}, log, "self test")
    assert 0 < usage["clean"].registers <= 255
    assert usage["clean"].shared == usage["clean"].stack == 0
    assert 400 <= usage["shared"].shared < 400 + 2048  # some architectures keep 1 KB for themselves


def test_the_gate_catches_a_spill():
    log = compile_for(architecture_for_self_test(), SPILLING, (), "spilling.cu")
    with pytest.raises(GateError, match="registers spill to memory.*spilling.*spill_stores="):
        check({"spilling"}, log, "self test")


def test_the_gate_catches_a_kernel_that_does_not_compile():
    wrong = 'extern "C" __global__ void wrong(float* x) {\n    x[0] = nonsense;\n}\n'
    with pytest.raises(GateError, match=r'wrong\.cu\(2\): error: identifier "nonsense" is undefined'):
        compile_for(architecture_for_self_test(), wrong, (), "wrong.cu")


@pytest.mark.parametrize("log", ["", "ptxas info    : Used 8 registers\n"])
def test_the_gate_catches_a_missing_report(log):
    with pytest.raises(GateError, match="did not report registers and spills of clean"):
        check({"clean"}, log, "self test")


def test_the_gate_catches_a_kernel_that_is_not_in_the_source():
    log = compile_for(architecture_for_self_test(), CLEAN, (), "clean.cu")
    with pytest.raises(GateError, match="did not report registers and spills of another"):
        check({"clean", "another"}, log, "self test")
