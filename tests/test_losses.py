"""Losses against hand maths and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_expit

from mixdpo.losses import LOSSES, LossSettings, PairLogprobs, combined_loss, dpo, needs_reference, sft


def pairs(chosen, rejected, ref_chosen, ref_rejected, tokens=10.0) -> PairLogprobs:
    tensors = [torch.as_tensor(x, dtype=torch.float64) for x in (chosen, rejected, ref_chosen, ref_rejected)]
    count = torch.full_like(tensors[0], tokens)
    return PairLogprobs(*tensors, count, count)


def test_dpo_of_an_untrained_policy_is_ln_2() -> None:
    p = pairs([-10.0], [-20.0], [-10.0], [-20.0])
    for eps in (0.0, 0.1, 0.4):
        assert dpo(p, beta=0.7, label_smoothing=eps).item() == pytest.approx(math.log(2))


def test_dpo_by_hand() -> None:
    # h = (-5 + 10) - (-20 + 15) = 10, beta h = 1: -log sigmoid(1) = 0.31326
    p = pairs([-5.0], [-20.0], [-10.0], [-15.0])
    assert dpo(p, beta=0.1, label_smoothing=0.0).item() == pytest.approx(0.3132617, abs=1e-6)
    # 0.9 * 0.31326 + 0.1 * 1.31326
    assert dpo(p, beta=0.1, label_smoothing=0.1).item() == pytest.approx(0.4132617, abs=1e-6)


def test_dpo_against_scipy_and_its_minimum_under_smoothing() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(-50, 20, size=(4, 100))
    h = values[0] - values[2] - values[1] + values[3]
    expected = -0.9 * log_expit(0.3 * h) - 0.1 * log_expit(-0.3 * h)
    actual = dpo(pairs(*values), beta=0.3, label_smoothing=0.1)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)
    # The paper's note: with eps = 0.1 the loss is least at beta h = ln 9.
    grid = np.linspace(0, 5, 5001)
    zero = np.zeros_like(grid)
    losses = dpo(pairs(grid, zero, zero, zero), beta=1.0, label_smoothing=0.1)
    assert grid[int(losses.argmin())] == pytest.approx(math.log(9), abs=2e-3)


def test_sft_is_the_token_mean_of_the_chosen_answer() -> None:
    p = pairs([-30.0, -8.0], [math.nan, math.nan], [math.nan, math.nan], [math.nan, math.nan], tokens=4)
    assert sft(p).tolist() == [7.5, 2.0]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_and_extremes(name: str) -> None:
    settings = LossSettings(beta=0.1, label_smoothing=0.1)
    raw = torch.tensor([-20.0, -3000.0, -1.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([-25.0, -1.0, -3000.0], dtype=torch.float64, requires_grad=True)
    constant = torch.full((3,), -22.0, dtype=torch.float64)
    count = torch.full((3,), 5.0, dtype=torch.float64)

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return combined_loss(PairLogprobs(a, b, constant, constant, count, count), [name], [1.0], settings)

    assert torch.autograd.gradcheck(loss, (raw, other))
    assert torch.isfinite(loss(raw, other)).all()
    assert loss(raw, other).shape == (3,)


def test_registry_declares_what_a_loss_reads() -> None:
    settings = LossSettings(beta=0.1, label_smoothing=0.0)
    nothing = [math.nan]
    for name, loss in LOSSES.items():
        value = combined_loss(pairs([-3.0], [-4.0], nothing, nothing), [name], [1.0], settings)
        assert bool(value.isnan()) == loss.needs_reference, name
        if loss.value_at_reference is not None:
            at_reference = combined_loss(pairs([-3.0], [-4.0], [-3.0], [-4.0]), [name], [1.0], settings)
            assert at_reference.item() == pytest.approx(loss.value_at_reference)
    assert needs_reference(["sft", "sigmoid"])
    assert not needs_reference(["sft"])


def test_combined_loss_is_the_weighted_sum() -> None:
    settings = LossSettings(beta=0.2, label_smoothing=0.0)
    p = pairs([-5.0, -6.0], [-20.0, -3.0], [-10.0, -6.5], [-15.0, -2.0])
    expected = 1.5 * dpo(p, beta=0.2, label_smoothing=0.0) + 0.25 * sft(p)
    torch.testing.assert_close(combined_loss(p, ["sigmoid", "sft"], [1.5, 0.25], settings), expected)
