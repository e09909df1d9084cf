"""Schedules: PyTorch's values, exact corners, and wrong arguments."""

import math

import numpy as np
import pytest
import torch

from gpulstm.training import SGD, schedules
from gpulstm.training.schedules import constant, cosine, warmup, warmup_cosine


def torch_rates(make, steps, rate=0.3):
    """The rates of a torch scheduler, made by ``make(optimiser)``, at steps 0, 1, ..."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = make(optimiser)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_cosine_is_torchs_up_to_its_end(floor):
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=17, eta_min=floor), 18)
    schedule = cosine(0.3, 17, floor)
    np.testing.assert_allclose([schedule(step) for step in range(18)], expected, rtol=1e-12, atol=1e-16)


def test_warmup_is_torchs_linear_rate():
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / 6, end_factor=1.0, total_iters=5), 12
    )
    np.testing.assert_allclose([warmup(0.3, 5)(step) for step in range(12)], expected, rtol=1e-12)


def test_warmup_cosine_is_torchs_linear_rate_followed_by_its_cosine():
    def make(optimiser):
        first = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1 / 6, total_iters=5)
        then = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=15, eta_min=0.01)
        return torch.optim.lr_scheduler.SequentialLR(optimiser, [first, then], milestones=[5])

    with pytest.warns(UserWarning, match="epoch parameter"):  # from within SequentialLR
        expected = torch_rates(make, 21)
    schedule = warmup_cosine(0.3, 5, 20, 0.01)
    np.testing.assert_allclose([schedule(step) for step in range(21)], expected, rtol=1e-12)


def test_a_schedule_drives_torchs_lambda_rate_to_the_same_values():
    schedule = warmup_cosine(1.0, 3, 11)
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.LambdaLR(o, schedule), 15, rate=0.2)
    np.testing.assert_allclose([warmup_cosine(0.2, 3, 11)(step) for step in range(15)], expected, rtol=1e-12)


@pytest.mark.parametrize("peak", [0.3, 1e-3, 0.1 + 0.2])
@pytest.mark.parametrize("floor", [0.0, 1e-4])
def test_corners_are_exact(peak, floor):
    schedule = warmup_cosine(peak, 7, 19, floor)
    assert schedule(0) == peak * (1 / 8)
    assert schedule(7) == peak
    assert schedule(19) == schedule(20) == schedule(10**9) == floor
    assert cosine(peak, 19, floor)(0) == peak and cosine(peak, 19, floor)(19) == floor
    assert warmup(peak, 7)(7) == warmup(peak, 7)(10**9) == peak
    assert warmup(peak, 0)(0) == constant(peak)(0) == constant(peak)(10**9) == peak
    assert math.isclose(cosine(peak, 10, floor)(5), (peak + floor) / 2)


def test_rates_rise_then_fall():
    rates = [warmup_cosine(0.3, 7, 19)(step) for step in range(20)]
    assert np.all(np.diff(rates[:8]) > 0) and np.all(np.diff(rates[7:]) < 0)


def test_steps_come_in_any_order():
    """A resumed training asks for step 12 first."""
    one, other = warmup_cosine(0.3, 7, 19), warmup_cosine(0.3, 7, 19)
    later = [one(step) for step in (12, 13, 3)]
    assert later == [[other(step) for step in range(20)][step] for step in (12, 13, 3)]


def test_an_optimiser_takes_its_rates():
    optimiser, params = SGD(1.0), {"weight": np.zeros(1)}
    schedule = warmup(0.5, 1)
    for step in range(3):
        optimiser.learning_rate = schedule(np.int64(step))
        optimiser.step(params, {"weight": np.ones(1)})
    assert params["weight"] == -0.25 - 0.5 - 0.5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: constant(-1), ValueError, "rate must be finite and not negative, got -1"),
        (lambda: constant("1"), TypeError, "rate must be a number, got str"),
        (lambda: warmup(float("nan"), 1), ValueError, "peak must be finite and not negative, got nan"),
        (lambda: warmup(1, 1.5), TypeError, "warmup_steps must be an integer, got float"),
        (lambda: warmup(1, -1), ValueError, "warmup_steps must not be negative, got -1"),
        (lambda: cosine(1, 0), ValueError, "total_steps must be at least 1, got 0"),
        (lambda: cosine(1, 5, 2), ValueError, "floor must be at most peak, 1, got 2.0"),
        (lambda: cosine(1, 5, -2), ValueError, "floor must be finite and not negative"),
        (lambda: warmup_cosine(1, 5, 5), ValueError, "total_steps must be more than warmup_steps, 5, got 5"),
        (lambda: warmup_cosine(1, 5, True), TypeError, "total_steps must be an integer, got bool"),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("make", [lambda: constant(1), lambda: warmup(1, 3), lambda: warmup_cosine(1, 3, 9)])
def test_wrong_steps_are_refused(make):
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        make()(-1)
    with pytest.raises(TypeError, match="step must be an integer, got float"):
        make()(1.0)


def test_the_module_offers_them():
    assert {"constant", "warmup", "cosine", "warmup_cosine"} <= set(vars(schedules))
