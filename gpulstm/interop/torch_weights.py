"""Parameters to PyTorch. The way back is `gpulstm.LSTM.from_torch`."""

from collections.abc import Collection
from typing import Any

import torch

from .. import arrays
from ..lstm import LSTM
from .held import refuse_what_is_not_held

HOLDS = ("num_layers", "bias", "batch_first", "bidirectional", "proj_size", "dropout")
USE_OURS = "gpulstm.interop.torch.LSTM is a torch.nn.LSTM that has it"


def to_torch(lstm: LSTM, *, ignore: Collection[str] = (), device: Any = None) -> torch.nn.LSTM:
    """A ``torch.nn.LSTM`` with copies of the parameters of a `gpulstm.LSTM`, in its dtype, on ``device`` or the CPU.

    Our one bias becomes PyTorch's first, and the second one is zero: what both add up to is the same to the last bit.

    Raises ValueError naming every option that PyTorch's LSTM does not have. ``ignore`` names those to leave out that
    act in training alone, such as ``("recurrent_dropout",)``.
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm must be a gpulstm.LSTM, got {type(lstm).__name__}")
    reasons = {name: USE_OURS for name in lstm.changed_options() if name not in HOLDS}
    refuse_what_is_not_held(lstm, "torch.nn.LSTM", HOLDS, ignore, reasons)
    layout = lstm.layout
    dtype = getattr(torch, arrays.dtype_name(lstm.params["weight_hh_l0"]))
    module = torch.nn.LSTM(
        layout.input_size,
        layout.hidden_size,
        layout.num_layers,
        bias=layout.bias,
        batch_first=lstm.batch_first,
        dropout=0.0 if "dropout" in ignore else lstm.options.dropout,
        bidirectional=layout.bidirectional,
        proj_size=layout.proj_size,
        device="meta",  # draws no random numbers
        dtype=dtype,
    ).to_empty(device=device or "cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("bias_hh"):
                parameter.zero_()
            else:
                value = lstm.params[name.replace("bias_ih", "bias")]
                parameter.copy_(torch.tensor(arrays.to_numpy(value)))
    return module
