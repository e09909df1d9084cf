"""Files as PyTorch writes them: a 2-layer bidirectional LSTM between an embedding and a linear layer, by both exporters
of torch.onnx."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from gpulstm.interop.onnx import from_onnx

torch.set_num_threads(1)

NOT_OURS = (
    "The tensor attributes self.lstm._flat_weights",  # of nn.LSTM's own bookkeeping under torch.export
    "`isinstance.treespec, LeafSpec.` is deprecated",  # inside torch.export
    "# The axis name: .* will not be used",  # two inputs share the batch
    "You are using the legacy TorchScript-based ONNX export",  # on purpose: such files are around
    "The feature will be removed",  # the same, of a helper inside
    "Converting a tensor to a Python boolean",  # nn.LSTM's checks of its arguments while it is traced
    "Exporting a model to ONNX with a batch_size other than 1",  # meant for states; LSTM nodes take any batch
)


class Tagger(nn.Module):
    def __init__(self, batch_first: bool, takes_state: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.lstm = nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.output = nn.Linear(6, 4)
        self.takes_state = takes_state

    def forward(self, tokens, h=None, c=None):
        y, (h, c) = self.lstm(self.embedding(tokens), (h, c) if self.takes_state else None)
        return self.output(y), h, c


# name -> batch_first, takes_state, what torch.onnx.export is told
EXPORTS = {
    "default": (False, False, {}),
    "default, batch first": (True, False, {}),
    "default, open sizes": (True, True, {"dynamic": True}),
    "default, not optimised": (True, False, {"optimize": False}),
    "TorchScript": (False, False, {"dynamo": False}),
    "TorchScript, batch first": (True, False, {"dynamo": False}),
    "TorchScript, state": (True, True, {"dynamo": False}),
    "TorchScript, open sizes": (False, False, {"dynamo": False, "dynamic": True}),
    "TorchScript, not folded": (True, True, {"dynamo": False, "do_constant_folding": False}),
    "TorchScript, opset 9": (True, False, {"dynamo": False, "opset_version": 9}),
}


def trained(batch_first: bool, takes_state: bool) -> Tagger:
    """A few steps of training, so that no parameter is what a formula made it."""
    torch.manual_seed(3)
    module = Tagger(batch_first, takes_state)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    tokens, state = arguments(batch_first)
    for _ in range(5):
        optimiser.zero_grad()
        module(tokens, *state)[0].square().mean().backward()
        optimiser.step()
    return module.eval()


def arguments(batch_first: bool) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    batch = 7 if batch_first else 4  # of tokens (7, 4)
    generator = torch.Generator().manual_seed(1)
    state = (torch.randn(4, batch, 3, generator=generator), torch.randn(4, batch, 3, generator=generator))
    return torch.randint(0, 11, (7, 4), generator=generator), state


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export's name -> the module and its file, each written once."""
    done = {}

    def export(name: str):
        if name not in done:
            batch_first, takes_state, told = EXPORTS[name]
            module = trained(batch_first, takes_state)
            path = tmp_path_factory.mktemp("exported") / "model.onnx"
            tokens, state = arguments(batch_first)
            given = (tokens, *state) if takes_state else (tokens,)
            told = dict(told)
            if told.pop("dynamic", False):
                told |= _open_sizes(batch_first, takes_state, told.get("dynamo", True))
            with warnings.catch_warnings():
                for message in NOT_OURS:
                    warnings.filterwarnings("ignore", message)
                torch.onnx.export(module, given, path, verbose=False, **told)
            done[name] = (module, path)
        return done[name]

    return export


def _open_sizes(batch_first: bool, takes_state: bool, dynamo: bool) -> dict:
    if not dynamo:
        return {"input_names": ["tokens"], "dynamic_axes": {"tokens": {0: "time", 1: "batch"}}}
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    leading = {0: batch, 1: time} if batch_first else {0: time, 1: batch}
    return {"dynamic_shapes": (leading, *({1: batch},) * 2 * takes_state)}


@pytest.mark.parametrize("name", EXPORTS)
def test_it_gives_pytorchs_own_numbers(exported, name):
    module, path = exported(name)
    lstm, stored = from_onnx(path, with_state=True)
    assert stored is None
    assert lstm.batch_first == module.lstm.batch_first
    for key, parameter in lstm.params.items():
        if not key.startswith("bias"):
            np.testing.assert_array_equal(parameter, module.lstm.state_dict()[key].numpy(), err_msg=key)
    rng = np.random.default_rng(5)
    x = rng.normal(size=(6, 2, 5)).astype("float32")
    batch = x.shape[0 if lstm.batch_first else 1]
    states = rng.normal(size=(2, 4, batch, 3)).astype("float32")
    for state in (None, (states[0], states[1])):
        with torch.no_grad():
            y, (h, c) = module.lstm(torch.tensor(x), None if state is None else tuple(map(torch.tensor, state)))
        found, final = lstm(x, state)
        for ours, theirs in ((found, y), (final.h, h), (final.c, c)):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-6)


def test_one_layer_by_its_name(exported):
    module, path = exported("TorchScript")
    lstm = from_onnx(path, node="/lstm/LSTM_1")
    np.testing.assert_array_equal(lstm.params["weight_ih_l0_reverse"], module.lstm.weight_ih_l1_reverse.detach())
    assert lstm.layout.input_size == 6


def test_external_data_need_the_models_path(exported):
    """The default exporter writes the large tensors into a file of their own."""
    _, path = exported("default")
    assert path.with_name("model.onnx.data").exists()
    with pytest.raises(ValueError, match="lies in the file 'model.onnx.data' beside the model; pass the model's path"):
        from_onnx(path.read_bytes())
