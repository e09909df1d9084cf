"""Kernels in CUDA C: compiled for the GPU where there is one, and simulated where there is none.

k = kernels.kernel(source)
k(grid, block, x, y, np.int32(n))
k.report()
"""

import re
import sys
import warnings

import numpy as np

from . import backend, simulator
from .simulator import Finding, KernelError

__all__ = ["Finding", "Kernel", "KernelError", "kernel", "simulate"]

COUNTING = "Counting is the simulator's: k = kernels.simulate(source) runs the same kernel there, with the same arrays."


def kernel(source: str, name: str | None = None, *, on: str | None = None) -> "Kernel":
    """The kernel that ``source``, CUDA C, contains.

    ``name`` is needed only where there are several. ``on`` is "gpu", "simulator" or None: the GPU if there is one.
    Raises KernelError, with the line, where the source is not right.
    """
    if on not in (None, "gpu", "simulator"):
        raise _launch_error(f'on is "gpu", "simulator" or None, got {on!r}.')
    cupy = None if on == "simulator" else backend.cupy_with_a_gpu()
    if on == "gpu" and cupy is None:
        raise _launch_error("there is no GPU here, or no CuPy that finds it: leave on away.")
    return Kernel(source, name) if cupy is None else GpuKernel(source, name, cupy)


def simulate(source: str, name: str | None = None) -> "Kernel":
    """The kernel in the simulator, wherever it would run otherwise. It takes NumPy's arrays and CuPy's."""
    return kernel(source, name, on="simulator")


def _errors(cupy) -> tuple[type, ...]:
    """What CuPy raises when the GPU has stopped."""
    places = (cupy.cuda.runtime, "CUDARuntimeError"), (cupy.cuda.driver, "CUDADriverError")
    return tuple(getattr(module, name) for module, name in places if hasattr(module, name))


def _launch_error(message: str) -> KernelError:
    return KernelError(Finding("launch", message))


def _the_name(names: tuple[str, ...], name: str | None) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name in names:
        return name
    listed = ", ".join(names)
    raise _launch_error(
        f"say which kernel is meant, kernel(source, name): the source has {listed}, and name is {name!r}."
    )


class Kernel:
    """A kernel in the simulator. ``findings`` and ``counts`` are those of its last launch."""

    on = "simulator"

    def __init__(self, source: str, name: str | None = None) -> None:
        self.source = source
        prepared = simulator.prepare(source)
        self.name = _the_name(prepared.kernels, name)
        self._simulator = simulator.Simulator(simulator.translate(prepared), self.name)
        self._lines = prepared.lines
        self._outcome: simulator.Outcome | None = None
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(
        self, grid, block, *arguments, strict=True, order="in order", seed=0, shared_mem=0, limit=simulator.LIMIT
    ) -> None:
        """Launches it: ``grid`` blocks of ``block`` threads, each a whole number or a tuple of up to three.

        Raises KernelError for the first thing that is wrong; with ``strict=False`` it goes on where it can, and
        ``findings`` has what was found. ``order`` is the order of blocks and threads: "in order", "reverse" or
        "random", which ``seed`` determines. ``limit`` is how many rounds of loops a thread may go. ``shared_mem`` is
        in bytes, for extern __shared__.
        """
        self._outcome = None
        on_host = tuple(_host(argument) for argument in arguments)
        settings = {"strict": strict, "order": order, "seed": seed, "shared": shared_mem, "limit": limit}
        outcome = self._outcome = self._simulator.launch(grid, block, on_host, **settings)
        parameters = self._simulator.function.parameters
        self._arrays = {part.name: array for part, array in zip(parameters, on_host, strict=True) if part.is_pointer}
        for argument, array in zip(arguments, on_host, strict=True):
            if array is not argument:  # a copy of what lies on a GPU
                argument[...] = sys.modules["cupy"].asarray(array)
        if outcome.findings and (strict or outcome.stopped):
            raise KernelError(*outcome.findings)

    def _last(self) -> "simulator.Outcome":
        if self._outcome is None:
            raise _launch_error(f"{self.name} was not launched yet: call it with grid, block and its arguments first.")
        return self._outcome

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self._last().findings

    @property
    def counts(self):
        """`lab.simulator.counts.Counts`: sectors_per_request("x"), loads(), stores(), barriers, flops, ..."""
        return self._last().counts

    @property
    def accesses(self) -> np.ndarray:
        """Every read and write, one per row, the first 200,000: the fields block, warp, thread, line, kind, array,
        element and request. Rows of one request happen at the same time."""
        return self._last().accesses

    def report(self) -> None:
        """Prints what the last launch did, line by line of the source."""
        print(simulator.report(self.name, self._last(), self._lines))

    def draw(self, array: str, *, shape=None, kind=None, block=0, warp=0, request=0, axes=None):
        """A figure of ``array``'s elements: which thread of one warp wants which of them at the same time.

        ``shape`` (rows, columns) draws it as a matrix; else it is wrapped after 32 elements. ``kind`` is "load",
        "store" or None: whichever came first. ``request`` numbers what this warp asked of this array, from 0. What
        is hatched comes along, in sectors of 32 bytes, and is not wanted. Gives the matplotlib figure.
        """
        accesses = self._last().accesses
        if shape is None:
            shape, itemsize = self._shape_of(array)
        else:
            itemsize = self._shape_of(array)[1]
        place = {"kind": kind, "block": block, "warp": warp, "request": request}
        shared = {part.name for part in self._simulator.program.shared}
        return simulator.draw(accesses, array, tuple(shape), itemsize, axes=axes, shared=shared, **place)

    def _shape_of(self, name: str) -> tuple[tuple[int, ...], int]:
        if name in self._arrays:
            array = self._arrays[name]
            return (array.shape if array.ndim == 2 else (array.size,)), array.itemsize
        for shared in self._simulator.program.shared:
            if shared.name == name:
                return (shared.dims if len(shared.dims) == 2 else (max(shared.length, 1),)), shared.type.size
        listed = ", ".join([*self._arrays, *(shared.name for shared in self._simulator.program.shared)])
        raise _launch_error(f"{self.name} has no array {name}; it has {listed}.")


def _host(argument):
    is_on_gpu = type(argument).__module__.partition(".")[0] == "cupy" and hasattr(argument, "get")
    return argument.get() if is_on_gpu else argument


def _typed(argument):
    """A plain Python number as CuPy hands it on."""
    return np.asarray(argument)[()] if isinstance(argument, (bool, int, float)) else argument


class GpuKernel:
    """A kernel on the GPU, through CuPy, launched and asked like the simulated one."""

    on = "gpu"

    def __init__(self, source: str, name: str | None, cupy) -> None:
        self.source, self._cupy = source, cupy
        self._parameters, self._shared_bytes = None, 0
        try:
            prepared = simulator.prepare(source)
            self.name = _the_name(prepared.kernels, name)
            program = simulator.translate(prepared)
        except KernelError as error:
            if any(found.kind != "unsupported" for found in error.findings):
                raise
            self.name = _the_name(tuple(re.findall(r"__global__\s[^(;{]*?\bvoid\s+(\w+)\s*\(", source)), name)
        else:  # what only the GPU's compiler understands is left to it
            self._parameters, self._shared_bytes = program.kernels[self.name].parameters, program.shared_bytes
        from gpulstm.cuda import packed

        meets = re.search(r"\b(this_grid|grid_group)\b", source) is not None
        by_driver = meets and packed.binding_of(cupy, cooperative=True) is not None  # else CuPy may lack a library
        cooperative = {"enable_cooperative_groups": True} if meets and not by_driver else {}
        self._kernel = cupy.RawKernel(source, self.name, **cooperative)
        try:
            self._kernel.compile()
        except cupy.cuda.compiler.CompileException as error:
            raise KernelError(Finding("syntax", f"the GPU's compiler refuses this kernel:\n{error}")) from None
        if by_driver:
            self._kernel = packed.Kernel(cupy, self._kernel, cooperative=True)

    def __call__(self, grid, block, *arguments, shared_mem=0, strict=True, order=None, seed=None, limit=None) -> None:
        """Launches it and waits for its end. ``strict``, ``order``, ``seed`` and ``limit`` are the simulator's: a GPU
        says nothing of races, and nobody chooses its order."""
        cupy = self._cupy
        grid, block = simulator.check_geometry(grid, block, self._shared_bytes + shared_mem)
        if self._parameters is not None:
            simulator.check_arguments(self.name, self._parameters, arguments, cupy.ndarray, "CuPy")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="The grid size will be reduced")
            try:
                self._kernel(grid, block, tuple(map(_typed, arguments)), shared_mem=shared_mem)
                cupy.cuda.get_current_stream().synchronize()
            except (UserWarning, ValueError) as error:
                raise _launch_error(f"all blocks must be on the GPU at once to meet at a barrier: {error}") from None
            except _errors(cupy) as error:
                if "COOPERATIVE_LAUNCH_TOO_LARGE" in str(error):
                    raise _launch_error(
                        f"all blocks must be on the GPU at once to meet at a barrier: {error}"
                    ) from None
                message = (
                    f"the GPU stopped with {error}. Which thread it was, kernels.simulate(source) tells. Restart the "
                )
                message += "notebook's kernel: until then the GPU will do nothing more."
                raise KernelError(Finding("gpu", message)) from None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Nothing: a GPU names no mistakes."""
        return ()

    @property
    def counts(self):
        raise _launch_error(COUNTING)

    @property
    def accesses(self):
        raise _launch_error(COUNTING)

    def report(self) -> None:
        print(f"{self.name} ran on the GPU. {COUNTING}")

    def draw(self, *arguments, **settings):
        raise _launch_error(COUNTING)
