"""``cupy.RawModule`` and ``cupy.RawKernel``: the real source, compiled for the mode of the moment."""

from . import arguments, launcher, state
from .compilation import CompileError, build
from .device import CompileException
from .ndarray import ndarray


class RawModule:
    """Source with options; it is compiled when a kernel of it is first asked for."""

    def __init__(self, code=None, *, options=()) -> None:
        if not isinstance(options, tuple):
            raise TypeError(f"options must be a tuple of str, got {type(options).__name__}")
        self.code, self.options = code, options

    def get_function(self, name):
        return RawKernel(self.code, name, self.options)


class RawKernel:
    """One kernel. A kernel may be kept and called under another mode: it is then compiled for that one too."""

    def __init__(self, code, name, options=()) -> None:
        self.code, self.name, self.options = code, name, options
        self.max_dynamic_shared_size_bytes = arguments.DEFAULT_SHARED_BYTES
        self._build()

    def __call__(self, grid, block, args, *, shared_mem=0):
        now = state.current()
        built = self._build()
        shared_limit = self.max_dynamic_shared_size_bytes
        grid, block, shared_mem = arguments.geometry(self.name, grid, block, shared_mem, shared_limit)
        kinds = launcher.kinds(built, now.mode)[self.name]
        checked = arguments.check(built, self.name, kinds, args, ndarray)
        launcher.launch(built, self.name, grid, block, checked, shared_mem, now)
        now.launches[self.name] += 1

    def _build(self):
        try:
            built = build(self.code, self.options, state.current().mode)
        except CompileError as error:
            raise CompileException(str(error), self.code, self.name, self.options) from None
        if self.name not in built.kernels:
            raise CompileException(
                f"there is no kernel {self.name!r} in this source; it has {', '.join(built.kernels)}",
                self.code,
                self.name,
                self.options,
            )
        return built
