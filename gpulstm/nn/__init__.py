"""The rest of a model around the LSTM: layers and losses, each with its own backward pass."""

from .additive_attention import AdditiveAttention
from .attention import DotAttention, GeneralAttention
from .linear import Linear
from .losses import binary_cross_entropy_with_logits, huber, mean_squared_error
from .softmax import cross_entropy

__all__ = [
    "AdditiveAttention",
    "DotAttention",
    "GeneralAttention",
    "Linear",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber",
    "mean_squared_error",
]
