"""Launches a compiled kernel: in this process, or under a sanitizer as a process of its own."""

import ctypes
import os
import re
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .arguments import Pointer, Structure, pointers_of
from .compilation import Built
from .state import ORDERS, State

IN_PROCESS = ("fibers", "ptx")
_launch_lock = threading.Lock()  # the runtime has one set of threadIdx, blockIdx, ... for the process
_MESSAGE_BYTES = 64 * 1024
_stacks = (ctypes.c_void_p * 2)()  # a `Stacks` of block.hpp, used under the lock: one for all libraries


class LaunchError(RuntimeError):
    """The launch did not come to its end: a deadlock, or a barrier in a branch that not all threads take."""


class SanitizerError(RuntimeError):
    """A sanitizer reported; the message is its report."""


@cache
def _description(built: Built, mode: str) -> list[str]:
    if mode in IN_PROCESS:
        return _library(built).host_cuda_describe().decode().splitlines()
    return _run_program([str(built.path), "--describe"], mode).splitlines()


@cache
def kinds(built: Built, mode: str) -> dict[str, tuple[str, ...]]:
    """Kernel name -> kind of each parameter ("f4", "*f4", "i4", ...) as the compiler sees them."""
    lines = _description(built.declared, "fibers") if built.declared else _description(built, mode)
    return {words[0]: tuple(words[1:]) for words in map(str.split, lines[1:])}


def static_shared_bytes(built: Built, mode: str) -> int:
    """Of all kernels of the source together, since every block gets the shared memory of all of them."""
    return int(_description(built, mode)[0])


class Launch(NamedTuple):
    """One launch; ``args`` as `arguments.check` gives them."""

    built: Built
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    args: list
    shared_mem: int
    cooperative: bool
    cluster: int


def launch(one: Launch, state: State) -> None:
    """Runs all threads to their end. Raises LaunchError, SanitizerError, or memory.InvalidMemory."""
    (_in_process if state.mode in IN_PROCESS else _as_program)(one, state)


def _settings(one: Launch, state: State) -> list[int]:
    """How the threads are to be run, as library.cpp and program.cpp read it."""
    late = -1 if state.late_block is None or not (one.cooperative or one.cluster > 1) else state.late_block
    orders = ORDERS.index(state.thread_order), ORDERS.index(state.block_order)
    return [*orders, state.seed, int(one.cooperative), late, state.spin_limit, one.cluster]


@cache
def _library(built: Built) -> ctypes.CDLL:
    library = ctypes.CDLL(str(built.path))
    library.host_cuda_describe.restype = ctypes.c_char_p
    library.host_cuda_find.restype = ctypes.c_void_p
    library.host_cuda_find.argtypes = [ctypes.c_char_p]
    library.host_cuda_launch.argtypes = [
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int),
        *(ctypes.c_ulonglong, ctypes.c_int, ctypes.c_int, ctypes.c_ulonglong, ctypes.c_int),
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
    ]
    return library


@cache
def _function(built: Built, kernel: str) -> int:
    return _library(built).host_cuda_find(kernel.encode())


def _in_process(one: Launch, state: State) -> None:
    built, kernel, args = one.built, one.kernel, one.args
    # One cell of 8 bytes for each argument (a little-endian host) but structs, and the table of their addresses.
    cells = (ctypes.c_ulonglong * max(1, len(args)))()
    table = (ctypes.c_void_p * max(1, len(args)))()
    start = ctypes.addressof(cells)
    structs = {i: ctypes.create_string_buffer(a.data) for i, a in enumerate(args) if isinstance(a, Structure)}
    for i, value in enumerate(args):
        if i in structs:
            table[i] = ctypes.addressof(structs[i])
            continue
        cells[i] = value.address if isinstance(value, Pointer) else int.from_bytes(value.tobytes(), "little")
        table[i] = start + 8 * i
    extents = (ctypes.c_uint * 6)(*one.grid, *one.block)
    message = _message()
    settings = _settings(one, state)
    with _launch_lock:
        failed = _library(built).host_cuda_launch(
            _function(built, kernel), table, extents, one.shared_mem, *settings, _stacks, message, _MESSAGE_BYTES
        )
        what = message.value.decode() if failed else ""
    if failed:
        raise LaunchError(f"{kernel}: {what}")
    for allocation in {id(a.allocation): a.allocation for a in pointers_of(args)}.values():
        allocation.check_guards(kernel)


@cache
def _message() -> ctypes.Array:
    return ctypes.create_string_buffer(_MESSAGE_BYTES)


def _as_program(one: Launch, state: State) -> None:
    built, kernel, args = one.built, one.kernel, one.args
    regions = _regions([a for a in pointers_of(args) if a.nbytes])
    words = [kernel, *one.grid, *one.block, one.shared_mem, *_settings(one, state), len(regions), len(args)]
    request = [" ".join(map(str, words)).encode() + b"\n"]
    for start, end in regions:
        request += [f"{end - start} {start % 16}\n".encode(), _memory(start, end).tobytes()]
    for value in args:
        if isinstance(value, Structure):
            places = [(at, *_place(pointer, regions)) for at, pointer in value.pointers.items()]
            patches = "".join(f" {at} {number} {offset}" for at, number, offset in places)
            request += [f"-3 {len(value.data)}\n".encode(), value.data, f"{len(places)}{patches}\n".encode()]
        elif not isinstance(value, Pointer):
            data = value.tobytes()
            request += [f"-1 {len(data)}\n".encode(), data]
        elif not value.nbytes:
            request.append(b"-2 0\n")
        else:
            request.append("{} {}\n".format(*_place(value, regions)).encode())
    with tempfile.TemporaryDirectory(prefix="cuda_on_cpu") as folder:
        Path(folder, "request").write_bytes(b"".join(request))
        try:
            _run_program([str(built.path), f"{folder}/request", f"{folder}/result"], state.mode)
        except LaunchError as error:
            raise LaunchError(f"{kernel}: {error}") from None
        result = Path(folder, "result").read_bytes()
    offset = 0
    for start, end in regions:
        _memory(start, end)[:] = np.frombuffer(result, np.uint8, end - start, offset)
        offset += end - start


def _place(pointer: Pointer, regions: list[tuple[int, int]]) -> tuple[int, int]:
    """The region that a pointer leads into, and how far."""
    number = next(i for i, (start, end) in enumerate(regions) if start <= pointer.address < end)
    return number, pointer.address - regions[number][0]


def _regions(pointers: list[Pointer]) -> list[tuple[int, int]]:
    """The arrays' extents in memory; those that overlap become one, since the kernel must see them overlap."""
    regions: list[tuple[int, int]] = []
    for start, end in sorted((p.address, p.address + p.nbytes) for p in pointers):
        if regions and start < regions[-1][1]:
            regions[-1] = (regions[-1][0], max(end, regions[-1][1]))
        else:
            regions.append((start, end))
    return regions


def _memory(start: int, end: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_ubyte * (end - start)).from_address(start))


def _run_program(command: list[str], mode: str) -> str:
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:report_thread_leaks=0:atexit_sleep_ms=0",
    }
    if mode == "tsan":
        command = [*_fixed_addresses(), *command]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode == 0:
        return done.stdout
    report = re.sub(r"^==\d+==WARNING: ASan doesn't fully support makecontext.*\n", "", done.stderr)
    if report.startswith("host_cuda: "):
        raise LaunchError(report.removeprefix("host_cuda: ").strip())
    raise SanitizerError(f"exit status {done.returncode}\n{report}")


@cache
def _fixed_addresses() -> list[str]:
    """ThreadSanitizer of older compilers cannot start where the kernel randomises addresses widely."""
    command = ["setarch", "-R"]
    try:
        works = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        works = False
    return command if works else []
