"""The rest of a model around the LSTM: layers and losses, each with its own backward pass."""

from .embedding import Embedding
from .last_step import LastStep
from .linear import Linear
from .losses import mean_squared_error
from .sequential import Sequential

__all__ = ["Embedding", "LastStep", "Linear", "Sequential", "mean_squared_error"]
