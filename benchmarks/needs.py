"""What a command cannot do without, said in a sentence before it begins."""

import importlib
import sys

WHERE = {
    "cupy": 'CuPy: pip install ".[cuda12x]", or ".[cuda13x]"',
    "torch": 'PyTorch: pip install ".[bench]", built for the GPU if there is one',
}


def need(*modules: str, gpu: bool = False) -> None:
    """Ends the program with a message where one of these modules is missing, or with ``gpu`` a GPU for CuPy.

    They are imported in this order: which of two libraries loads CUDA's own first is the caller's to say.
    """
    missing = [name for name in modules if not _imports(name)]
    if missing:
        sys.exit("This needs " + ", and ".join(WHERE[name] for name in missing))
    if gpu and not sys.modules["cupy"].cuda.is_available():
        sys.exit("This needs an NVIDIA GPU and its driver, and CuPy finds none")


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return False
    return True
