"""Alarms: is the very first loss what it must be, does SFT train at all, do chosen answers lose likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mixdpo.common.errors import RunError
from mixdpo.common.tables import percent_text
from mixdpo.losses import combined_loss, needs
from mixdpo.plan.plan_settings import BUCKETS
from mixdpo.training.answers_settings import ANSWERS
from mixdpo.training.batch import PairBatch
from mixdpo.training.step import StepResult, StepSettings

LEAST_SFT_MASS = 0.02
"""Below this share of the learning-rate mass the SFT-routed pairs hardly train."""

# Two forward passes of the same answers in other batch shapes differ by rounding. Measured on SmolLM2-135M with 24
# pairs of 210 tokens, in nats per square root of a token: half the mean of h over four pairs is at most 0.006 in
# bfloat16 and 7e-7 in float32. The bounds leave a factor of five and more.
_NOISE_NATS_PER_ROOT_TOKEN = {"bf16": 0.03, "fp32": 1e-5}


@torch.no_grad()
def check_first_loss(result: StepResult, batch: PairBatch, settings: StepSettings, precision: str) -> None:
    """Stop a run whose first preference loss is not the loss of an untrained policy.

    While the policy equals the reference, both log-ratios are 0 up to rounding, so the sigmoid loss is ln 2, and any
    loss is what it is of the reference's own values. Another value means that policy and reference saw other
    weights, tokens or settings. A loss that is not finite is left to the end of the step, which names its pairs.

    Raises:
        RunError: the mean loss of the batch's preference pairs is further from that value than rounding allows.
    """
    index = batch["preference_index"]
    if not len(index) or not needs(settings.loss_names, "reference"):
        return
    pairs = result.pairs.select(index)
    noise_B = _NOISE_NATS_PER_ROOT_TOKEN["fp32" if precision == "fp32" else "bf16"] * torch.sqrt(
        pairs.chosen_tokens + pairs.rejected_tokens
    )

    def mean_loss(shift: Tensor | float) -> float:
        shifted = pairs.at_reference(shift, -shift)
        names, weights = settings.loss_names, settings.loss_weights
        return float(combined_loss(shifted, names, weights, settings.loss_settings).mean())

    loss, expected = float(result.preference[index].mean()), mean_loss(0.0)
    allowed = 1e-3 + max(abs(mean_loss(noise_B) - expected), abs(mean_loss(-noise_B) - expected))
    if math.isfinite(loss) and not abs(loss - expected) <= allowed:
        ratios = torch.stack([pairs.chosen_log_ratio, pairs.rejected_log_ratio])
        apart = float(ratios.detach().abs().mean())
        raise RunError(
            f"the first preference loss is {loss:.4f} instead of {expected:.4f} (allowed difference {allowed:.4f}): "
            f"the policy differs from its reference before any step, by {apart:.2f} nats per answer. The "
            "reference comes from other weights, tokens or precision than the policy; start from "
            "the reference's weights or give the reference as ref_model"
        )


def rounding_warning(policy: nn.Module) -> str | None:
    """Return a warning if trained weights are in a 16-bit format, in which small updates are rounded away."""
    found = {p.dtype for p in policy.parameters() if p.requires_grad} & {torch.bfloat16, torch.float16}
    if not found:
        return None
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
    return f"the trained weights are {names}, which rounds small updates away; load the model in float32"


def sft_mass_warning(mass: Mapping[str, float], phase_schedule: str) -> str | None:
    """Return a warning if SFT-routed pairs get so little of the learning rate that they hardly train."""
    share = mass.get("sft")
    if share is None or share >= LEAST_SFT_MASS:
        return None
    advice = (
        "set phase_schedule: rewarmed to give them a schedule of their own, or mix the routes with order: shuffled"
        if phase_schedule == "shared"
        else "raise the share of hard pairs"
    )
    return f"SFT-routed pairs get {percent_text(share, 2)} of the learning-rate mass and will hardly train; {advice}"


def displaced_buckets(metrics: Mapping[str, float], bound: float) -> dict[str, float]:
    """Return the buckets whose mean chosen log-probability fell more than `bound` nats under the reference."""
    changes = {bucket: metrics.get(f"displacement/chosen/{bucket}", 0.0) for bucket in BUCKETS}
    return {bucket: change for bucket, change in changes.items() if change < -bound}


def displacement_warning(step: int, bucket: str, change: float, bound: float, answers: bool) -> str:
    """Return the warning for a bucket from `displaced_buckets`; `answers`: the run measures its policy's answers.

    Likelihood that leaves chosen answers has gone somewhere else, to better answers or to worse ones; only the
    policy's own answers tell which.
    """
    where = (
        f"eval_{ANSWERS}* tell whether it is"
        if answers
        else "to see whether it is, have the policy answer prompts at every evaluation (section answers)"
    )
    return (
        f"step {step}: chosen answers of the {bucket} bucket fell {-change:.1f} nats under the reference (bound "
        f"{bound:g}). That is no damage where they are worse than what the policy writes by now, or unlike what it "
        f"would say; {where}. A lower learning rate, a larger beta, or loss_type [sigmoid, sft] holds them up"
    )
