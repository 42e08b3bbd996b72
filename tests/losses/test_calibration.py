"""Reward calibration: incentives, the factor, and gradients that it changes without the value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from mixdpo.losses import LOSSES, LossSettings, PairLogprobs, combined_loss
from mixdpo.losses.calibration import calibrated, equalising_factor, incentives

B = 6
SETTINGS = LossSettings(beta=0.2, simpo_gamma=0.3, cpo_alpha=0.7, slic_delta=4.0, slic_lambda=0.5)


def pairs() -> PairLogprobs:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 9, (2, B), generator=generator).double()
    ref = -tokens * torch.rand(2, B, generator=generator, dtype=torch.float64)
    policy = (ref + torch.randn(2, B, generator=generator, dtype=torch.float64)).requires_grad_()
    return PairLogprobs(*policy, *ref, *tokens)


def expected_incentives(name: str, p: PairLogprobs) -> tuple[np.ndarray, np.ndarray]:
    """The incentives of the paper's table per nat, as its code prints them, times the tokens of each answer."""
    w, z, rw, rz, nw, nz = (
        x.detach().numpy()
        for x in (p.chosen, p.rejected, p.ref_chosen, p.ref_rejected, p.chosen_tokens, p.rejected_tokens)
    )
    a, b, beta = w - rw, z - rz, SETTINGS.beta
    of_one = {
        "sigmoid": beta * expit(-beta * (a - b)),
        "ipo_sum": 2 * (1 / (2 * beta) - (a - b)),
        "cpo": beta * expit(-beta * (w - z)),
        "slic": (w - z < SETTINGS.slic_delta).astype(float),
        "simpo": beta * expit(SETTINGS.simpo_gamma - beta * (w / nw - z / nz)),
    }
    if name == "bco_pair":
        return beta * expit(-beta * a) * nw, beta * expit(beta * b) * nz
    if name == "simpo":
        return of_one[name], of_one[name]
    nll = {"cpo": SETTINGS.cpo_alpha, "slic": SETTINGS.slic_lambda}.get(name, 0.0)
    return of_one[name] * nw + nll, of_one[name] * nz


@pytest.mark.parametrize("name", ["sigmoid", "ipo_sum", "bco_pair", "cpo", "slic", "simpo"])
def test_incentives_against_numpy(name: str) -> None:
    p = pairs()
    found = incentives(p, combined_loss(p, [name], [1.0], SETTINGS))
    np.testing.assert_allclose(found.numpy(), np.stack(expected_incentives(name, p)), rtol=1e-12)


def test_calibration_keeps_values_and_equals_the_shares() -> None:
    p = pairs()
    d = incentives(p, combined_loss(p, ["cpo"], [1.0], SETTINGS)).mean(1)
    norms = torch.tensor([0.7, 2.1], dtype=torch.float64)
    factor = equalising_factor(torch.cat([d, norms]).log())
    assert factor * d[0] * norms[0] == pytest.approx((d[1] * norms[1] / factor).item())
    plain, other = p, calibrated(p, factor)
    assert torch.equal(other.chosen, plain.chosen)
    assert torch.equal(other.rejected, plain.rejected)
    losses = [combined_loss(q, ["cpo"], [1.0], SETTINGS) for q in (plain, other)]
    assert torch.equal(*losses)
    assert torch.equal(incentives(other, losses[1]), incentives(plain, losses[0]))  # whatever they are calibrated by
    before, after = (torch.autograd.grad(x.sum(), [p.chosen, p.rejected], retain_graph=True) for x in losses)
    torch.testing.assert_close(after[0], factor * before[0])
    torch.testing.assert_close(after[1], before[1] / factor)


def test_losses_that_are_not_calibrated() -> None:
    assert {name for name, loss in LOSSES.items() if not loss.contrasts} == {
        "apo_down", "chosen_floor", "sft", "sft_rejected", "sft_both",
    }  # fmt: skip
