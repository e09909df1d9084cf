"""Training: the loop with its batches and checkpoints, optimisers, gradient clipping, long sequences in windows.

Parameters and gradients come as a dict of arrays, such as ``lstm.params``, or as a dict of such dicts, one per layer.
"""

from .batches import Batch, Batches
from .clipping import clip_by_global_norm
from .fit import fit
from .history import History
from .optimisers import Adam
from .saved import Checkpoint, load_checkpoint, save_checkpoint
from .streaming import Window, windows

__all__ = [
    "Adam",
    "Batch",
    "Batches",
    "Checkpoint",
    "History",
    "Window",
    "clip_by_global_norm",
    "fit",
    "load_checkpoint",
    "save_checkpoint",
    "windows",
]
