"""A model's ``torch.nn.LSTM`` modules, all replaced at once."""

from typing import Any

import torch

from .torch_module import LSTM


def convert_lstms(model: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """Replaces every ``torch.nn.LSTM`` inside ``model`` by `LSTM.from_torch` of it, and returns the model.

    ``options`` go to each of them. The parameters stay the same objects, so an optimiser that holds them goes on.
    Subclasses of ``torch.nn.LSTM`` are left as they are. A model that is an LSTM itself comes back as the new one.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if type(model) is torch.nn.LSTM:
        return LSTM.from_torch(model, **options)
    found: dict[int, LSTM] = {}  # a module may stand in several places, and stays one module
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if type(child) is torch.nn.LSTM:
                if id(child) not in found:
                    found[id(child)] = LSTM.from_torch(child, **options)
                parent._modules[name] = found[id(child)]
    return model
