"""The rest of a model around the LSTM: layers and losses, each with its own backward pass."""

from .additive_attention import AdditiveAttention
from .attention import DotAttention, GeneralAttention
from .ctc import ctc
from .decoding import ctc_beam, ctc_greedy
from .dropout import Dropout
from .embedding import Embedding
from .last_step import LastStep
from .layer_norm import LayerNorm
from .linear import Linear
from .losses import binary_cross_entropy_with_logits, huber, mean_squared_error
from .sequential import Sequential
from .softmax import cross_entropy

__all__ = [
    "AdditiveAttention",
    "DotAttention",
    "Dropout",
    "Embedding",
    "GeneralAttention",
    "LastStep",
    "LayerNorm",
    "Linear",
    "Sequential",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "ctc",
    "ctc_beam",
    "ctc_greedy",
    "huber",
    "mean_squared_error",
]
