"""What the lessons share, so that a lesson's own cells can be about its subject.

from lab import check, figures, slider, start
"""

# Imported on demand: `start` must run, and install, before anything that needs NumPy or matplotlib is touched.
import importlib

_FUNCTIONS = {"check": "checking", "start": "starting", "slider": "sliding"}
_MODULES = ("backend", "course_map", "exercises", "figures", "lessons", "progress")


def __getattr__(name: str):
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"lab.{_FUNCTIONS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"lab.{name}")
    raise AttributeError(f"lab has no {name!r}; it has {', '.join([*_FUNCTIONS, *_MODULES])}")
