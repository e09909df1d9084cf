"""gpulstm: the LSTM on a GPU, written by hand and explained to the bottom."""

from . import nn, ops, training
from .cell import LSTMCell
from .config import show_config
from .functional import lstm_backward, lstm_forward
from .generation import beam_search, generate
from .interop.safetensors import load, save
from .lstm import LSTM
from .parameters import State
from .training import fit

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "LSTMCell",
    "State",
    "beam_search",
    "fit",
    "generate",
    "load",
    "lstm_backward",
    "lstm_forward",
    "nn",
    "ops",
    "save",
    "show_config",
    "training",
]
