"""PyTorch: a module to put in the place of ``torch.nn.LSTM``.

::

    from gpulstm.interop.torch import LSTM      # instead of: from torch.nn import LSTM

    lstm = LSTM(80, 256, num_layers=2, dropout=0.2, batch_first=True, recurrent_dropout=0.1)
    y, (h, c) = lstm(x, lengths=lengths)
"""

try:
    import torch as _torch  # noqa: F401 - asked for here, so that the message says how to get it
except ImportError as error:
    raise ImportError('gpulstm.interop.torch needs PyTorch: pip install "gpulstm[torch]"') from error

from .torch_convert import convert_lstms
from .torch_module import LSTM
from .torch_weights import to_torch

__all__ = ["LSTM", "convert_lstms", "to_torch"]
