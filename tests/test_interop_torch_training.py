"""A model that swaps one import trains as it did: the same losses, step by step, from the same weights and data."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from gpulstm.interop.torch import LSTM, convert_lstms

STEPS, TIME, BATCH, WORDS = 60, 9, 4, 11

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Relative, for each loss. A training carries an error on: `test_sensitivity` measures by how much, with torch.nn.LSTM
against itself. A change of the first weights by one unit of rounding moves the losses by some ten units; our gradients
differ by some hundred units of another order of summation. 1000 units are 2e-13 and 1e-4."""


class LanguageModel(nn.Module):
    """The next word, from an embedding, two layers of LSTM and a linear layer."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 6)
        self.lstm = kind(6, 16, num_layers=2)
        self.linear = nn.Linear(16, WORDS)

    def loss(self, words: torch.Tensor, lengths: torch.Tensor, how: str) -> torch.Tensor:
        """Mean cross entropy of each word from those before it."""
        inputs, targets, lengths = self.embedding(words[:-1]), words[1:], lengths - 1
        if how == "packed":
            packed = pack_padded_sequence(inputs, lengths, enforce_sorted=False)
            targets = pack_padded_sequence(targets, lengths, enforce_sorted=False).data
            return nn.functional.cross_entropy(self.linear(self.lstm(packed)[0].data), targets)
        logits = self.linear(self.lstm(inputs)[0])
        there = torch.arange(TIME - 1)[:, None] < lengths
        return nn.functional.cross_entropy(logits[there], targets[there])


def curve(model: LanguageModel, how: str) -> list[float]:
    """The losses of some steps of Adam on sentences in which each word follows from the one before it."""
    generator = torch.Generator().manual_seed(2)
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
    for _ in range(STEPS):
        words = torch.randint(WORDS, (TIME, BATCH), generator=generator)
        for t in range(1, TIME):
            words[t] = (2 * words[t - 1] + 1) % WORDS
        lengths = torch.randint(3, TIME + 1, (BATCH,), generator=generator)
        loss = model.loss(words, lengths, how)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("how", ["padded", "packed"])
def test_same_losses(how, dtype):
    torch.manual_seed(3)
    theirs = LanguageModel(nn.LSTM).to(dtype)
    own = LanguageModel(LSTM).to(dtype)
    own.load_state_dict(theirs.state_dict())
    wanted, found = curve(theirs, how), curve(own, how)
    assert min(wanted) < 0.85 * wanted[0], "nothing was learnt"
    worst = max(abs(a - b) / b for a, b in zip(found, wanted, strict=True))
    assert worst <= TOLERANCE[dtype], f"losses differ by {worst:.1e}"


def test_sensitivity():
    """What the tolerance says of the training itself."""
    losses = []
    for unit in (0.0, torch.finfo(torch.float64).eps):
        torch.manual_seed(3)
        model = LanguageModel(nn.LSTM).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + unit)
        losses.append(curve(model, "padded"))
    worst = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
    assert 0 < worst < 100 * torch.finfo(torch.float64).eps


def test_conversion_in_the_middle_of_training():
    """The optimiser, its moments and the parameters stay; only who computes changes."""
    torch.manual_seed(3)
    losses = []
    for convert in (False, True):
        torch.manual_seed(4)
        model = LanguageModel(nn.LSTM).double()
        optimiser = torch.optim.Adam(model.parameters(), 0.02)
        words, lengths = torch.arange(TIME * BATCH).reshape(TIME, BATCH) % WORDS, torch.full((BATCH,), TIME)
        for step in range(20):
            if convert and step == 10:
                convert_lstms(model)
            loss = model.loss(words, lengths, "padded")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses.append(loss.item())
        assert isinstance(model.lstm, LSTM) == convert
    assert abs(losses[1] - losses[0]) <= 1e-9 * losses[0]
