"""The rest of a model around the LSTM: layers and losses, each with its own backward pass."""

from .ctc import ctc
from .decoding import ctc_beam, ctc_greedy
from .linear import Linear
from .losses import mean_squared_error

__all__ = ["Linear", "ctc", "ctc_beam", "ctc_greedy", "mean_squared_error"]
