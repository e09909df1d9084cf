"""The rest of a model around the LSTM: layers and losses, each with its own backward pass."""

from .linear import Linear
from .losses import mean_squared_error
from .softmax import cross_entropy

__all__ = ["Linear", "cross_entropy", "mean_squared_error"]
