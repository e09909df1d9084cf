"""The first cell of each lesson."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
PACKAGES = {"gpulstm": str(PROJECT), "sklearn": "scikit-learn"}  # where pip's name is not the module's


def start(*needs: str):
    """Installs what is missing of gpulstm, matplotlib and ``needs``, says what it found, sets the style of the figures,
    and returns the array library to compute with: cupy where there is a GPU, else numpy."""
    wanted = ["gpulstm", "matplotlib", *needs]
    missing = [name for name in wanted if not installed(name)]
    if missing:
        print("Installing", ", ".join(missing), "...", flush=True)
        done = install([PACKAGES.get(name, name) for name in missing])
        importlib.invalidate_caches()
        if not done:
            print(
                "That failed. In a terminal, try: pip install", " ".join(PACKAGES.get(name, name) for name in missing)
            )
    else:
        print("Everything is here:", ", ".join(wanted) + ".")
    from lab import backend

    if installed("matplotlib"):
        from lab import figures, screen

        figures.style()
        screen.style()
    return backend.choose()


def installed(name: str) -> bool:
    """Whether there is such a module. A mere folder of that name, such as a clone of the project, is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def install(packages: list[str]) -> bool:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *packages]
    return subprocess.run(command).returncode == 0
