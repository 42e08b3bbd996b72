"""Losses of ties and of flipped labels, where a formula in numpy (test_losses.py) does not show what they are for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.special import expit

from mixdpo.losses import TIE_NU, LossSettings, PairLogprobs, combined_loss
from mixdpo.losses.noisy_labels import flip_shares


def loss_of(name: str, pairs: PairLogprobs, settings: LossSettings) -> torch.Tensor:
    return combined_loss(pairs, [name], [1.0], settings)


def random_pairs() -> PairLogprobs:
    sums = -20 * torch.rand((4, 7), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return PairLogprobs(*sums, torch.ones(7), torch.ones(7))


@pytest.mark.parametrize("z", [-2000.0, -30.0, -1.0, 0.0, 0.7, 30.0, 2000.0])
@pytest.mark.parametrize("nu", [1.01, 3.0, 50.0])
@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_win_loss_and_tie_are_all_there_is(name: str, nu: float, z: float) -> None:
    """In float32 the three probabilities add up to 1, and exchanging the answers exchanges win and loss."""
    zero = torch.zeros(3)
    logprobs = PairLogprobs(
        torch.tensor([z, 0.0, z]), torch.tensor([0.0, z, 0.0]), zero, zero, zero + 1, zero + 1,
        tie=torch.tensor([False, False, True]),
    )  # fmt: skip
    loss = loss_of(name, logprobs, LossSettings(beta=1.0, tie_nu=nu))
    assert torch.exp(-loss).sum().item() == pytest.approx(1.0, abs=1e-6)
    swapped = PairLogprobs(logprobs.rejected, logprobs.chosen, zero, zero, zero + 1, zero + 1, tie=logprobs.tie)
    torch.testing.assert_close(loss_of(name, swapped, LossSettings(beta=1.0, tie_nu=nu)), loss[[1, 0, 2]])


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_nu_follows_from_the_share_of_ties(name: str) -> None:
    """At equal rewards that share ties, half without another word; with hardly any, wins have DPO's loss."""
    equal = random_pairs().at_reference()
    tie = torch.ones(len(equal.chosen), dtype=torch.bool)
    for share in (0.01, 0.3, 0.9):
        settings = LossSettings(tie_nu=TIE_NU[name](share))
        loss = loss_of(name, dataclasses.replace(equal, tie=tie), settings)
        np.testing.assert_allclose(torch.exp(-loss).numpy(), share)
    for outcome, probability in ((tie, 0.5), (~tie, 0.25)):
        loss = loss_of(name, dataclasses.replace(equal, tie=outcome), LossSettings())
        np.testing.assert_allclose(torch.exp(-loss).numpy(), probability)
    wins = dataclasses.replace(random_pairs(), tie=None)
    few = loss_of(name, wins, LossSettings(tie_nu=TIE_NU[name](1e-9)))
    torch.testing.assert_close(few, loss_of("sigmoid", wins, LossSettings()))


def test_flips_with_a_probability_filter_what_is_even_and_turn_what_is_wrong() -> None:
    chosen = torch.tensor([-3.0, -3.0, -3.0, -30.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(4, dtype=torch.float64)
    right = torch.tensor([1.0, 0.5, 0.2, 0.9], dtype=torch.float64)
    p = PairLogprobs(chosen, zero, zero, zero, zero + 1, zero + 1, label_probability=right)
    loss = loss_of("fa_dpo", p, LossSettings(beta=1.0, label_smoothing="per_pair"))
    torch.testing.assert_close(
        loss[:2], torch.stack([-torch.nn.functional.logsigmoid(chosen[0]), -zero[0] + math.log(2)])
    )
    (slope,) = torch.autograd.grad(loss.sum(), chosen)
    assert slope[0] < -0.9
    assert slope[1] == pytest.approx(0, abs=1e-12)
    assert slope[2] > 0
    assert abs(slope[3]) < 1e-10, "the label counts as flipped where the policy is sure of it, as cDPO's does not"


def test_wdpo_flips_after_its_warm_up_and_caps_throughout() -> None:
    z = torch.tensor([-6.0, -3.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(z)
    p = PairLogprobs(z, zero, zero, zero, zero + 1, zero + 1)
    settings = LossSettings(beta=1.0, wdpo_flips=0.15, wdpo_tail=0.7, wdpo_cap=0.5, wdpo_warmup=0.3)

    def wdpo(progress: float, **changes: float) -> torch.Tensor:
        return combined_loss(p, ["wdpo"], [1.0], dataclasses.replace(settings, **changes), progress=progress)

    plain = torch.nn.functional.softplus(-z)
    before = wdpo(0.29)
    torch.testing.assert_close(before[3:], plain[3:])
    bound = np.quantile(plain.detach().numpy(), 0.7)
    excess = np.maximum(0, plain.detach().numpy() - bound)
    capped = np.minimum(1, 1.2 * excess / excess.sum())
    np.testing.assert_allclose(before.detach().numpy(), (1 - capped) * plain.detach().numpy() + capped * bound)
    (slope,) = torch.autograd.grad(before.sum(), z)
    np.testing.assert_allclose(slope.numpy(), -(1 - capped) * expit(-z.detach().numpy()))

    after = wdpo(0.3)
    assert after[0] < before[0]
    torch.testing.assert_close(wdpo(1.0, wdpo_flips=0.0, wdpo_tail=1.0), plain)


def test_flips_are_sparse_and_add_up_to_their_share() -> None:
    # The sparsemax of 3.5, 3, 2.9 is 0.7, 0.2, 0.1, what they are above 2.8; times 1.6 it is 1.12, 0.32, 0.16. What is
    # above 1, 0.12, goes to the others two to one.
    flips = flip_shares(torch.tensor([-3.5, -3.0, -2.9, 0.5, 1.0, 2.0, 3.0, 4.0]), 0.2)
    torch.testing.assert_close(flips, torch.tensor([1.0, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert not flip_shares(torch.tensor([0.5, 3.0]), 0.2).any()
