"""Training: optimisers, learning rates that change, gradient clipping, long sequences in windows.

Parameters and gradients come as a dict of arrays, such as ``lstm.params``, or as a dict of such dicts, one per layer.
"""

from . import schedules
from .adam import Adam, AdamW
from .clipping import clip_by_global_norm, clip_by_value
from .optimisers import Optimiser
from .sgd import SGD
from .streaming import Window, windows

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimiser",
    "Window",
    "clip_by_global_norm",
    "clip_by_value",
    "schedules",
    "windows",
]
