"""The rest of a model around the LSTM: layers and losses, each with its own backward pass."""

from .dropout import Dropout
from .embedding import Embedding
from .last_step import LastStep
from .layer_norm import LayerNorm
from .linear import Linear
from .losses import mean_squared_error
from .sequential import Sequential

__all__ = ["Dropout", "Embedding", "LastStep", "LayerNorm", "Linear", "Sequential", "mean_squared_error"]
