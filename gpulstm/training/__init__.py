"""Training: the loop with its batches and checkpoints, optimisers, learning rates that change, gradient clipping, long
sequences in windows.

Parameters and gradients come as a dict of arrays, such as ``lstm.params``, or as a dict of such dicts, one per layer.
"""

from . import schedules
from .adam import Adam, AdamW
from .batches import Batch, Batches
from .clipping import clip_by_global_norm, clip_by_value
from .fit import fit
from .history import History
from .optimisers import Optimiser
from .saved import Checkpoint, load_checkpoint, save_checkpoint
from .sgd import SGD
from .streaming import Window, windows

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Batch",
    "Batches",
    "Checkpoint",
    "History",
    "Optimiser",
    "Window",
    "clip_by_global_norm",
    "clip_by_value",
    "fit",
    "load_checkpoint",
    "save_checkpoint",
    "schedules",
    "windows",
]
