"""Losses against their equations written out in numpy, by gradcheck, and at their limits."""

from __future__ import annotations

import dataclasses
import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from scipy.special import expit, log_expit

from mixdpo.losses import (
    LOSSES,
    Loss,
    LossSettings,
    PairLogprobs,
    Running,
    combined_loss,
    dpo,
    needs,
    smooths_per_pair,
    statistics,
)
from mixdpo.losses.batchwise import kept_weight
from mixdpo.losses.loss_settings import LOSS_NAMES
from waits import Waits

SETTINGS = LossSettings(
    beta=0.15, label_smoothing=0.1, simpo_gamma=0.3, cpo_alpha=0.7, rpo_alpha=0.4, slic_delta=2.0, slic_lambda=0.3,
    r_dpo_alpha=0.05, dpop_lambda=5.0, cal_dpo_weight=0.5, odpo_alpha=0.8, soft_threshold=0.5, soft_width=0.4,
    beta_dpo_alpha=0.6, beta_dpo_keep=1.0, alpha_dpo_alpha=0.2, discopop_tau=0.5, desirable_weight=1.3,
    undesirable_weight=0.6, dpo_shift_lambda=0.9, dpo_shift_lambda_end=0.6, tie_nu=1.8,
    wdpo_flips=0.4, wdpo_tail=0.6, wdpo_cap=0.7, wdpo_warmup=0.2,
)  # fmt: skip
PER_PAIR = dataclasses.replace(SETTINGS, label_smoothing="per_pair")
SMOOTHED = sorted(filter(smooths_per_pair, LOSSES))
RUNNING = Running(torch.tensor(0.3, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64))
PROGRESS = 0.25  # of the run, for losses that change over it
B = 7
FLIPPED = (("w", "l"), ("l", "w"), ("rw", "rl"), ("rl", "rw"), ("nw", "nl"), ("nl", "nw"))


def values(seed: int = 0) -> dict[str, np.ndarray]:
    """Random log-probabilities as a trained policy has them, lengths and margins, float64."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 40, size=(2, B)).astype(float)
    ref = -rng.uniform(0.5, 2.0, size=(2, B)) * tokens
    policy = ref + rng.normal(0, 3, size=(2, B))
    return {
        "w": np.minimum(policy[0], -0.1), "l": np.minimum(policy[1], -0.1), "rw": ref[0], "rl": ref[1],
        "nw": tokens[0], "nl": tokens[1], "np": rng.integers(1, 20, size=B).astype(float),
        "m": np.array([0.0, -1.0, 0.5, 1.0, 2.0, 0.3, 4.0]), "kl": np.full(B, rng.normal(0.4, 1)),
        "tie": np.arange(B) % 3 == 1, "p": np.array([1.0, 0.9, 0.75, 0.6, 0.5, 0.3, 0.0]),
    }  # fmt: skip


def as_pairs(v: dict[str, np.ndarray], **tensors) -> PairLogprobs:
    t = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in v.items()}
    t["tie"] = t["tie"].bool()
    pairs = PairLogprobs(
        t["w"], t["l"], t["rw"], t["rl"], t["nw"], t["nl"], prompt_tokens=t["np"], margin=t["m"],
        kl=t["kl"], tie=t["tie"], label_probability=t["p"],
    )  # fmt: skip
    return dataclasses.replace(pairs, **tensors)


def pairs(chosen, rejected, ref_chosen, ref_rejected, tokens=10.0) -> PairLogprobs:
    tensors = [torch.as_tensor(x, dtype=torch.float64) for x in (chosen, rejected, ref_chosen, ref_rejected)]
    count = torch.full_like(tensors[0], tokens)
    return PairLogprobs(*tensors, count, count)


def log_loss(z, eps=0.0):
    return -(1 - eps) * log_expit(z) - eps * log_expit(-z)


def formulas(v, s=SETTINGS) -> dict[str, np.ndarray]:
    """Every loss as its publication prints it; nothing here comes from the package."""
    a, b = v["w"] - v["rw"], v["l"] - v["rl"]  # log-ratios of chosen and rejected
    h, beta, eps = a - b, s.beta, s.label_smoothing
    am, bm = a / v["nw"], b / v["nl"]
    pw, pl = v["w"] / v["nw"], v["l"] / v["nl"]
    nll = -pw
    mean, deviation = float(RUNNING.mean), float(RUNNING.deviation)
    odds = np.log(np.exp(pw) / (1 - np.exp(pw))) - np.log(np.exp(pl) / (1 - np.exp(pl)))
    trust = expit((v["m"] - s.soft_threshold) / s.soft_width)
    z0 = np.maximum(0.0, v["kl"])
    q, least_eps = expit(beta * h), np.maximum(eps, 1e-3)
    batch_beta = max(1e-3, beta * (1 + s.beta_dpo_alpha * (np.mean(beta * h) - mean)))
    pair_beta = np.maximum(1e-3, beta * (1 + s.beta_dpo_alpha * (h - mean)))
    standardised = (am - bm - mean) / deviation
    blend = expit(beta * h / s.discopop_tau)
    strength = np.exp(beta * h)  # of the chosen answer, where the rejected one has 1
    return {
        "sigmoid": log_loss(beta * h, eps),
        "robust": ((1 - eps) * -log_expit(beta * h) + eps * log_expit(-beta * h)) / (1 - 2 * eps),
        "hinge": np.maximum(0, 1 - beta * h),
        "ipo": (am - bm - 1 / (2 * beta)) ** 2,
        "ipo_sum": (h - 1 / (2 * beta)) ** 2,
        "sigmoid_norm": log_loss(beta * (am - bm)),
        "r_dpo": log_loss(beta * h + s.r_dpo_alpha * (v["nw"] - v["nl"])),
        "dpop": log_loss(beta * (h - s.dpop_lambda * np.maximum(0, v["rw"] - v["w"]))),
        "dpo_shift": log_loss(beta * (a - (0.75 * s.dpo_shift_lambda + 0.25 * s.dpo_shift_lambda_end) * b)),
        "hypo": log_loss(beta * (v["w"] - v["l"] - np.maximum(0, v["rw"] - v["rl"]))),
        "chosen_floor": np.maximum(0, v["rw"] - v["w"]) / v["nw"],
        "cal_dpo": log_loss(h) + s.cal_dpo_weight * ((a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2),
        "rpo": log_loss(beta * h, eps) + s.rpo_alpha * nll,
        "exo_pair": q * np.log(q / (1 - least_eps)) + (1 - q) * np.log((1 - q) / least_eps),
        "discopop": (1 - blend) * log_loss(beta * h) + blend * np.exp(-beta * h),
        "nca_pair": -log_expit(beta * a) - 0.5 * log_expit(-beta * a) - 0.5 * log_expit(-beta * b),
        "bco_pair": -log_expit(beta * a) - log_expit(-beta * b),
        "bco": -log_expit(beta * a - mean) - log_expit(-(beta * b - mean)),
        "sppo_hard": (a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2,
        "apo_zero": 1 - expit(beta * a) + expit(beta * b),
        "apo_down": expit(beta * a) + 1 - expit(beta * h),
        "kto": 0.5
        * (s.desirable_weight * (1 - expit(beta * (a - z0))) + s.undesirable_weight * (1 - expit(beta * (z0 - b)))),
        "odpo": log_loss(beta * h - s.odpo_alpha * np.log(np.maximum(v["m"], 1e-6))),
        "margin_weighted": trust * log_loss(beta * h, eps),
        "soft_routed": trust * log_loss(beta * h, eps) + (1 - trust) * nll,
        "label_routed": np.maximum(2 * v["p"] - 1, 0) * log_loss(beta * h)
        + (1 - np.maximum(2 * v["p"] - 1, 0)) * nll,
        "aot": log_loss(beta * (v["w"] - v["l"] - of_equal_rank(v["w"] - v["l"], v["rw"] - v["rl"])), eps),
        "aot_unpaired": log_loss(beta * (a - of_equal_rank(a, b)), eps),
        "beta_dpo": log_loss(batch_beta * h),
        "beta_dpo_paper": log_loss(pair_beta * h),
        "alpha_dpo": log_loss(beta * (pw - pl - s.alpha_dpo_alpha * standardised) - s.simpo_gamma),
        "slic": np.maximum(0, s.slic_delta - v["w"] + v["l"]) + s.slic_lambda * nll,
        "cpo": log_loss(beta * (v["w"] - v["l"]), eps) + s.cpo_alpha * nll,
        "cpo_hinge": np.maximum(0, 1 - beta * (v["w"] - v["l"])) + s.cpo_alpha * nll,
        "cpo_ipo": (pw - pl - 1 / (2 * beta)) ** 2 + s.cpo_alpha * nll,
        "simpo": log_loss(beta * (pw - pl) - s.simpo_gamma, eps),
        "alphapo": log_loss(
            beta * ((1 - np.exp(pw) ** -0.25) / 0.25 - (1 - np.exp(pl) ** -0.25) / 0.25) - s.simpo_gamma, eps
        ),
        "orpo": nll - beta * log_expit(odds),
        "sft": nll,
        "sft_rejected": -pl,
        "sft_both": (nll - pl) / 2,
        "simpo_paper": log_loss(beta * (h - s.simpo_gamma), eps),
        "rpo_paper": log_loss(h) - s.rpo_alpha * v["w"] / (v["np"] + v["nw"]),
        "fa_dpo": -np.log((1 - eps) * q + eps * (1 - q)),
        "wdpo": with_flips_and_caps(beta * h, s),
        "rao_kupper": -np.log(outcome(v, strength / (strength + s.tie_nu), (s.tie_nu**2 - 1) * strength
            / ((strength + s.tie_nu) * (1 + s.tie_nu * strength)))),
        "davidson": -np.log(outcome(v, strength, 2 * s.tie_nu * np.sqrt(strength))
            / (strength + 1 + 2 * s.tie_nu * np.sqrt(strength))),
    }  # fmt: skip


def with_flips_and_caps(z: np.ndarray, s: LossSettings) -> np.ndarray:
    """wDPO's losses of one micro-batch after the warm-up."""
    gain, budget = np.maximum(0, -z), s.wdpo_flips * len(z)
    # The sparsemax is what is above the level where it adds up to 1.
    level = optimize.brentq(lambda t: np.maximum(0, gain - t).sum() - 1, gain.min() - 1, gain.max())
    shares = np.maximum(0, gain - level)
    flips = np.minimum(1, budget * shares)
    free = flips < 1
    flips[free] = np.minimum(1, flips[free] + (budget - flips.sum()) * shares[free] / max(shares[free].sum(), 1e-12))
    mixed = -(1 - flips) * log_expit(z) - flips * log_expit(-z)
    bound = np.quantile(mixed, s.wdpo_tail)
    cap = 0.02 + (s.wdpo_cap - 0.02) * expit(-z / np.abs(z).mean()).mean()
    excess = np.maximum(0, mixed - bound)
    capped = np.minimum(1, cap * len(z) * excess / excess.sum())
    return (1 - capped) * mixed + capped * bound


def outcome(v: dict[str, np.ndarray], win: np.ndarray, tie: np.ndarray) -> np.ndarray:
    return np.where(v["tie"], tie, win)


def of_equal_rank(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each value of one sample, the value of the other sample with the same rank."""
    return np.sort(other)[stats.rankdata(one, method="ordinal").astype(int) - 1]


def loss_of(name: str, p: PairLogprobs, settings: LossSettings = SETTINGS) -> torch.Tensor:
    return combined_loss(p, [name], [1.0], settings, {name: RUNNING}, PROGRESS)


def test_names_for_help_are_the_tables() -> None:
    assert tuple(LOSSES) == LOSS_NAMES


def test_every_loss_has_a_formula_here() -> None:
    assert set(formulas(values())) == set(LOSSES)


def test_a_loss_of_ones_own_keeps_the_defaults_of_keywords_that_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mine(pairs: PairLogprobs, *, beta: float, power: int = 3) -> torch.Tensor:
        return (beta * (pairs.chosen - pairs.rejected)) ** power

    monkeypatch.setitem(LOSSES, "mine", Loss(mine))
    pairs = as_pairs(values())
    loss = combined_loss(pairs, ["mine"], [2.0], LossSettings(beta=0.5))
    torch.testing.assert_close(loss, 2 * (0.5 * (pairs.chosen - pairs.rejected)) ** 3)


def test_a_loss_of_ones_own_that_could_not_be_called_is_refused_where_it_is_made() -> None:
    def unknown(pairs: PairLogprobs, *, beta: float, gama: float) -> torch.Tensor:
        return beta * gama * pairs.chosen

    def positional(pairs: PairLogprobs, beta: float = 0.1) -> torch.Tensor:
        return beta * pairs.chosen

    with pytest.raises(TypeError, match="no setting of losses is named gama"):
        Loss(unknown)
    with pytest.raises(TypeError, match="beta would never be given"):
        Loss(positional)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_values_against_numpy(name: str, seed: int) -> None:
    v = values(seed)
    np.testing.assert_allclose(loss_of(name, as_pairs(v)).numpy(), formulas(v)[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients(name: str) -> None:
    v = values()
    inputs = [torch.tensor(v[side], requires_grad=True) for side in ("w", "l")]
    if name in ("beta_dpo", "beta_dpo_paper", "alpha_dpo"):
        # The adaptive part has no gradient: with its strength at 0 the rest must be exact.
        settings = dataclasses.replace(SETTINGS, beta_dpo_alpha=0.0, alpha_dpo_alpha=0.0)
    elif name == "wdpo":
        settings = dataclasses.replace(SETTINGS, wdpo_flips=0.0, wdpo_tail=1.0)
    else:
        settings = SETTINGS
    assert torch.autograd.gradcheck(lambda w, z: loss_of(name, as_pairs(v, chosen=w, rejected=z), settings), inputs)
    if smooths_per_pair(name):
        label = torch.linspace(0.6, 1.0, B, dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda w, z: loss_of(name, as_pairs(v, chosen=w, rejected=z, label_probability=label), PER_PAIR), inputs
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_limits_are_finite(name: str, dtype: torch.dtype) -> None:
    """Very long answers, certain ones, equal ones, and a beta next to zero: finite values and gradients."""
    sides = torch.tensor([[-3e4, -1e-4, -20.0, -3000.0], [-1e-4, -3e4, -20.0, -1.0]], dtype=dtype).requires_grad_()
    ref = torch.tensor([[-2.9e4, -1.0, -20.0, -1.0], [-1.0, -2.9e4, -20.0, -3000.0]], dtype=dtype)
    count = torch.tensor([20000.0, 1.0, 10.0, 800.0], dtype=dtype)
    margin = torch.tensor([0.0, -3.0, 1.0, 9.0], dtype=dtype)
    p = PairLogprobs(
        *sides, *ref, count, count.flip(0), prompt_tokens=count, margin=margin,
        kl=torch.full((4,), -50.0, dtype=dtype), label_probability=torch.tensor([1.0, 0.51, 0.0, 0.5], dtype=dtype),
    )  # fmt: skip
    for beta, tie in product((1e-6, 0.1, 10.0), (False, True) if LOSSES[name].ties else (False,)):
        p = dataclasses.replace(p, tie=torch.full((4,), tie))
        loss = loss_of(name, p, dataclasses.replace(SETTINGS, beta=beta, beta_dpo_keep=0.8))
        assert loss.isfinite().all(), beta
        (gradient,) = torch.autograd.grad(loss.sum(), sides)
        assert gradient.isfinite().all(), beta
    if smooths_per_pair(name):
        certain = torch.tensor([1.0, 0.51, 0.0 if name != "robust" else 0.9, 0.75], dtype=dtype)
        loss = loss_of(name, dataclasses.replace(p, label_probability=certain), PER_PAIR)
        (gradient,) = torch.autograd.grad(loss.sum(), sides)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_no_pairs_have_no_loss(name: str) -> None:
    """A micro-batch may have no pair of a route."""
    assert loss_of(name, as_pairs(values()).select(torch.tensor([], dtype=torch.int64))).shape == (0,)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_nothing_waits_for_the_device(name: str) -> None:
    v = values()
    with Waits() as waits:
        sides = [torch.tensor(v[side], requires_grad=True) for side in ("w", "l")]
        loss_of(name, as_pairs(v, chosen=sides[0], rejected=sides[1])).sum().backward()
    assert not waits.found


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_declarations(name: str) -> None:
    """What a loss says it reads is what turns it into NaN when it is missing."""
    loss, full, missing = LOSSES[name], as_pairs(values()), torch.full((B,), torch.nan, dtype=torch.float64)
    assert not loss_of(name, full).isnan().any()
    no_reference = dataclasses.replace(full, ref_chosen=missing, ref_rejected=missing)
    assert bool(loss_of(name, no_reference).isnan().any()) == loss.reference
    assert bool(loss_of(name, dataclasses.replace(full, margin=missing)).isnan().any()) == loss.margin
    assert bool(loss_of(name, dataclasses.replace(full, kl=missing)).isnan().any()) == loss.mismatched
    assert bool(loss_of(name, dataclasses.replace(full, label_probability=missing)).isnan().any()) == loss.label
    other_outcome = loss_of(name, dataclasses.replace(full, tie=~full.tie))
    assert bool((other_outcome != loss_of(name, full)).all()) == loss.ties
    alone = torch.cat([loss_of(name, full.select(torch.tensor([b]))) for b in range(B)])
    # KTO's KL is estimated before its loss is called.
    assert torch.allclose(alone, loss_of(name, full)) == (not loss.whole_batch or name in {"beta_dpo_paper", "kto"})


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothing_per_pair_against_numpy(name: str) -> None:
    """P of the loss of the label and 1 - P of that of its flip; those that are smoothed take 1 - P for their eps."""
    v, right = values(), np.array([1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.51])
    found = loss_of(name, as_pairs(v, label_probability=torch.tensor(right)), PER_PAIR)
    if not LOSSES[name].two_sided:
        expected = formulas(v, dataclasses.replace(SETTINGS, label_smoothing=1 - right))[name]
    else:
        flipped = {**v, **{one: v[other] for one, other in FLIPPED}}
        expected = right * formulas(v)[name] + (1 - right) * formulas(flipped)[name]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("name", SMOOTHED)
def test_certain_labels_change_no_bit(name: str) -> None:
    plain = dataclasses.replace(SETTINGS, label_smoothing=0.0)
    results = []
    for settings in (plain, PER_PAIR):
        v = {key: torch.tensor(value, dtype=torch.float32) for key, value in values().items()}
        sides = [v["w"].requires_grad_(), v["l"].requires_grad_()]
        pairs = PairLogprobs(
            *sides, v["rw"], v["rl"], v["nw"], v["nl"], margin=v["m"], kl=v["kl"], label_probability=torch.ones(B)
        )
        loss = loss_of(name, pairs, settings)
        results.append(torch.stack([loss, *torch.autograd.grad(loss.sum(), sides)]))
    assert torch.equal(*results)


def test_losses_that_a_label_per_pair_does_not_suit() -> None:
    assert set(LOSSES) - set(SMOOTHED) == {
        "dpop", "dpo_shift", "hypo", "chosen_floor", "apo_down", "odpo", "label_routed", "aot", "aot_unpaired",
        "beta_dpo", "alpha_dpo", "slic", "cpo_hinge", "cpo_ipo", "orpo", "sft", "sft_rejected", "sft_both",
        "rpo_paper", "beta_dpo_paper", "wdpo",
    }  # fmt: skip
    with pytest.raises(TypeError, match="exchanged answers have no margin"):
        Loss(LOSSES["odpo"].function, margin=True, two_sided=True)


def test_exchanging_twice_changes_nothing_but_margins_and_labels() -> None:
    pairs = as_pairs(values(), chosen_whole=torch.zeros(B), rejected_whole=torch.ones(B), tie=torch.ones(B).bool())
    again = pairs.exchanged().exchanged()
    for field in dataclasses.fields(PairLogprobs):
        if field.name in ("margin", "label_probability"):
            assert getattr(again, field.name) is None
        else:
            assert getattr(again, field.name) is getattr(pairs, field.name)
    assert pairs.exchanged().chosen_nll.equal(pairs.rejected_nll)


def test_dpo_by_hand() -> None:
    # h = (-5 + 10) - (-20 + 15) = 10, beta h = 1: -log sigmoid(1) = 0.31326
    p = pairs([-5.0], [-20.0], [-10.0], [-15.0])
    assert dpo(p, beta=0.1, label_smoothing=0.0).item() == pytest.approx(0.3132617, abs=1e-6)
    # 0.9 * 0.31326 + 0.1 * 1.31326
    assert dpo(p, beta=0.1, label_smoothing=0.1).item() == pytest.approx(0.4132617, abs=1e-6)
    for eps in (0.0, 0.1, 0.4):
        assert dpo(p.at_reference(), beta=0.7, label_smoothing=eps).item() == pytest.approx(math.log(2))
    # The paper's note: with eps = 0.1 the loss is least at beta h = ln 9.
    grid = np.linspace(0, 5, 5001)
    zero = np.zeros_like(grid)
    losses = dpo(pairs(grid, zero, zero, zero), beta=1.0, label_smoothing=0.1)
    assert grid[int(losses.argmin())] == pytest.approx(math.log(9), abs=2e-3)


def test_combined_loss_is_the_weighted_sum_times_confidence() -> None:
    v = values()
    expected = 1.5 * formulas(v)["sigmoid"] + 0.25 * formulas(v)["sft"]
    total = combined_loss(as_pairs(v), ["sigmoid", "sft"], [1.5, 0.25], SETTINGS)
    np.testing.assert_allclose(total.numpy(), expected)
    confidence = torch.linspace(0.1, 0.9, B, dtype=torch.float64)
    weighed = combined_loss(as_pairs(v, confidence=confidence), ["sigmoid", "sft"], [1.5, 0.25], SETTINGS)
    np.testing.assert_allclose(weighed.numpy(), expected * confidence.numpy())
    assert needs(["sft", "sigmoid"], "reference")
    assert not needs(["sft", "simpo"], "reference")


def test_hinge_of_cpo_is_slic_in_other_units() -> None:
    p = as_pairs(values())
    same = dataclasses.replace(SETTINGS, slic_delta=1 / SETTINGS.beta, slic_lambda=SETTINGS.cpo_alpha / SETTINGS.beta)
    torch.testing.assert_close(loss_of("cpo_hinge", p), SETTINGS.beta * loss_of("slic", p, same))


def test_cures_for_displacement_at_their_limits() -> None:
    """DPO-Shift with f = 1 is DPO, and the line ends where it should; HyPO is DPO where the reference is right."""
    v = values()
    p, dpo_of_all = as_pairs(v), loss_of("sigmoid", as_pairs(v), dataclasses.replace(SETTINGS, label_smoothing=0.0))
    full = dataclasses.replace(SETTINGS, dpo_shift_lambda=1.0, dpo_shift_lambda_end=None)
    torch.testing.assert_close(loss_of("dpo_shift", p, full), dpo_of_all)
    line = dataclasses.replace(SETTINGS, dpo_shift_lambda=0.4, dpo_shift_lambda_end=1.0)
    torch.testing.assert_close(combined_loss(p, ["dpo_shift"], [1.0], line, progress=1.0), dpo_of_all)
    of_half = log_loss(SETTINGS.beta * (v["w"] - v["rw"] - 0.7 * (v["l"] - v["rl"])))
    np.testing.assert_allclose(combined_loss(p, ["dpo_shift"], [1.0], line, progress=0.5).numpy(), of_half)
    right, found = v["rw"] >= v["rl"], loss_of("hypo", p)
    assert 0 < right.sum() < B
    torch.testing.assert_close(found[right], dpo_of_all[right])
    assert (found[~right] > dpo_of_all[~right]).all()
    assert not loss_of("chosen_floor", p.at_reference(0.0)).any()
    torch.testing.assert_close(loss_of("chosen_floor", p.at_reference(-p.chosen_tokens)), torch.ones_like(p.chosen))


def test_soft_routing_becomes_the_switch() -> None:
    v = values()
    sharp = loss_of("soft_routed", as_pairs(v), dataclasses.replace(SETTINGS, soft_width=1e-4, soft_threshold=0.4))
    expected = np.where(v["m"] < 0.4, formulas(v)["sft"], formulas(v)["sigmoid"])
    np.testing.assert_allclose(sharp.numpy(), expected, rtol=1e-6)


def test_label_routing_is_dpo_of_sure_labels_and_sft_of_the_others() -> None:
    pairs = as_pairs(
        values(), label_probability=torch.tensor([1.0, 0.5, 0.4, 0.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    )
    dpo_of_all = loss_of("sigmoid", pairs, dataclasses.replace(SETTINGS, label_smoothing=0.0))
    found = loss_of("label_routed", pairs)
    assert found.equal(torch.where(pairs.label_probability == 1, dpo_of_all, loss_of("sft", pairs)))


def test_beta_dpo_keeps_typical_pairs_and_the_mean_is_theirs() -> None:
    torch.manual_seed(0)
    gap = torch.tensor([0.3, 0.2, 0.4, 0.3, 50.0])
    running = Running(torch.tensor(0.3), torch.tensor(0.5))
    weights = torch.stack([kept_weight(gap, running, 0.8) for _ in range(200)])
    assert (weights.sum(1) - 5).abs().max() < 1e-5
    assert set(weights.unique().tolist()) == {0.0, 1.25}
    assert (weights[:, 4] == 0).all(), "an outlier of a hundred deviations is not drawn before four typical pairs"
    torch.manual_seed(1)
    even = torch.stack([kept_weight(torch.full((5,), 0.3), running, 0.8) for _ in range(2000)])
    # Equally typical pairs are left out equally often: 400 of 2,000 each, standard deviation 18.
    assert ((even == 0).sum(0) - 400).abs().max() < 80


def test_statistics_are_those_the_losses_declare() -> None:
    v = values()
    found = statistics(as_pairs(v), ["sigmoid", "bco", "beta_dpo", "alpha_dpo"], SETTINGS)
    a, b = v["w"] - v["rw"], v["l"] - v["rl"]
    np.testing.assert_allclose(found.pop("bco").numpy(), SETTINGS.beta * (a + b) / 2)
    np.testing.assert_allclose(found.pop("beta_dpo").numpy(), SETTINGS.beta * (a - b))
    np.testing.assert_allclose(found.pop("alpha_dpo").numpy(), a / v["nw"] - b / v["nl"])
    assert not found


def test_the_page_of_losses_names_every_loss_its_function_and_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    for name, loss in LOSSES.items():
        home = f"`{loss.function.__module__.rpartition('.')[2]}.{loss.function.__name__}`"
        assert any(row[0].startswith(f"| `{name}`") and home in row for row in rows), name
    assert [field.name for field in dataclasses.fields(LossSettings) if f"`{field.name}`" not in page] == []


def test_the_loss_of_ones_own_in_the_docs_is_trained_as_any_other(monkeypatch, tmp_path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    try:
        made: dict = {}
        exec(code, made)
        assert made["args"].loss_names == ["mine"]
        found = combined_loss(as_pairs(v := values()), ["mine"], [1.0], SETTINGS)
    finally:
        LOSSES.pop("mine", None)
    h = (v["w"] - v["rw"]) - (v["l"] - v["rl"])
    np.testing.assert_allclose(found.numpy(), (h - 1 / SETTINGS.beta) ** 2)
