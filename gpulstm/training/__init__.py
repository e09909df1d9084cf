"""Training: optimisers, gradient clipping, long sequences in windows.

Parameters and gradients come as a dict of arrays, such as ``lstm.params``, or as a dict of such dicts, one per layer.
"""

from .clipping import clip_by_global_norm
from .optimisers import Adam
from .streaming import Window, windows

__all__ = ["Adam", "Window", "clip_by_global_norm", "windows"]
