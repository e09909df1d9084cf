"""Training: optimisers and gradient clipping.

Parameters and gradients come as a dict of arrays, such as ``lstm.params``, or as a dict of such dicts, one per layer.
"""

from .clipping import clip_by_global_norm
from .optimisers import Adam

__all__ = ["Adam", "clip_by_global_norm"]
