"""Parameters to PyTorch. The way back is `gpulstm.LSTM.from_torch`."""

from collections.abc import Collection
from typing import Any

import torch

from .. import arrays
from ..lstm import LSTM
from .held import TRAINING_ALONE, check_ignored, refuse_what_is_not_held
from .torch_module import LSTM as DropIn

HOLDS = ("num_layers", "bias", "batch_first", "bidirectional", "proj_size", "dropout")
USE_OURS = "drop_in=True gives gpulstm.interop.torch.LSTM, a torch.nn.LSTM that can"


def to_torch(lstm: LSTM, *, ignore: Collection[str] = (), drop_in: bool = False, device: Any = None) -> torch.nn.LSTM:
    """A ``torch.nn.LSTM`` with copies of the parameters of a `gpulstm.LSTM`, in its dtype, on ``device`` or the CPU.

    With ``drop_in`` it is a `gpulstm.interop.torch.LSTM`, which has all of our options.

    Our one bias becomes PyTorch's first, and the second one is zero: what both add up to is the same to the last bit.

    Raises ValueError naming every option that PyTorch's LSTM does not have. ``ignore`` names those to leave out that
    act in training alone, such as ``("recurrent_dropout",)``.
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm must be a gpulstm.LSTM, got {type(lstm).__name__}")
    changed = lstm.changed_options()
    if not drop_in:
        refuse_what_is_not_held(lstm, "torch.nn.LSTM", HOLDS, ignore, instead=USE_OURS)
    check_ignored(ignore, TRAINING_ALONE)
    kept = {name: value for name, value in changed.items() if name not in ignore}
    module = (DropIn if drop_in else torch.nn.LSTM)(
        lstm.layout.input_size,
        lstm.layout.hidden_size,
        **kept,
        device="meta",  # draws no random numbers
        dtype=getattr(torch, arrays.dtype_name(lstm.params["weight_hh_l0"])),
    ).to_empty(device=device or "cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("bias_hh"):
                parameter.zero_()
            else:
                value = lstm.params[name.replace("bias_ih", "bias")]
                parameter.copy_(torch.tensor(arrays.to_numpy(value)))
    return module
