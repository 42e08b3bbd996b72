"""Every loss that TRL has: its own code on random log-probabilities gives the same value and the same gradient."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from mixdpo.losses import LossSettings, PairLogprobs, combined_loss, discount_tail, wpo_weight
from mixdpo.training.loss_state import mix_weights
from tiny import tiny_llama

trl = pytest.importorskip("trl")
from trl.experimental.cpo import CPOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOTrainer  # noqa: E402
from trl.trainer.callbacks import SyncRefModelCallback  # noqa: E402

B, PROMPT, LENGTH = 5, 4, 12
TRL_LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sigmoid_norm",
)  # fmt: skip


def smoothing(loss_type: str) -> float:
    """TRL's sigmoid knows no label smoothing; ours is cDPO with it."""
    return 0.0 if loss_type == "sigmoid" else 0.1


class Tokens:
    """Per-token log-probabilities of B chosen and B rejected answers, as TRL's fused head would return them."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, LENGTH + 1, (2 * B,), generator=generator)
        width = PROMPT + LENGTH
        position = torch.arange(width)
        self.mask = ((position >= PROMPT) & (position < PROMPT + lengths[:, None])).long()
        shifted = self.mask[:, 1:]
        self.policy = (-2 * torch.rand((2 * B, width - 1), generator=generator) * shifted).requires_grad_()
        self.reference = -2 * torch.rand((2 * B, width - 1), generator=generator) * shifted
        self.log_sum_sq = -torch.rand((2 * B, width - 1), generator=generator)
        self.lengths = lengths.float()

    def ours(self) -> PairLogprobs:
        return PairLogprobs(
            *self.policy.sum(1).chunk(2), *self.reference.sum(1).chunk(2), *self.lengths.chunk(2)
        )  # fmt: skip


def trl_dpo_loss(tokens: Tokens, loss_type: str, settings: LossSettings, **changes) -> torch.Tensor:
    """The loss of TRL's own method, with a stand-in for the model that returns our log-probabilities."""
    zeros = torch.zeros_like(tokens.policy.detach())
    outputs = SimpleNamespace(
        log_probs=tokens.policy, log_sum_sq_probs=tokens.log_sum_sq, entropy=zeros, mean_logits=zeros,
        is_top1=zeros.bool(),
    )  # fmt: skip
    ld_alpha = changes.get("ld_alpha")
    # Precomputed references are plain sums, so TRL is given the discounted ones where it discounts.
    reference = tokens.reference.sum(1) if ld_alpha is None else discounted(tokens.reference, tokens, ld_alpha)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type=settings.f_divergence_type,
        f_alpha_divergence_coef=settings.f_alpha_divergence_coef, loss_types=[loss_type], loss_weights=[1.0],
        beta=settings.beta, label_smoothing=settings.label_smoothing, use_weighting=False,
        args=SimpleNamespace(discopop_tau=settings.discopop_tau), _tp_size=1, _total_train_tokens=0,
        _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    trainer.__dict__.update(changes)
    inputs = {
        "input_ids": torch.zeros_like(tokens.mask),
        "attention_mask": torch.ones_like(tokens.mask),
        "completion_mask": tokens.mask,
        "ref_chosen_logps": reference[:B],
        "ref_rejected_logps": reference[B:],
    }
    return trl.DPOTrainer._compute_loss(trainer, lambda **kwargs: outputs, inputs, False)


def discounted(logprobs: torch.Tensor, tokens: Tokens, alpha: float) -> torch.Tensor:
    """Sums in which tokens beyond the shorter answer's length count alpha, through the package's function."""
    shared = torch.minimum(*tokens.lengths.chunk(2)).repeat(2)
    position = tokens.mask[:, 1:].cumsum(1)
    head = (logprobs * ((position > 0) & (position <= shared[:, None]))).sum(1)
    return discount_tail((logprobs * (position > 0)).sum(1), head, alpha)


def assert_same(tokens: Tokens, theirs: torch.Tensor, ours: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    (a,) = torch.autograd.grad(theirs, tokens.policy, retain_graph=True)
    (b,) = torch.autograd.grad(ours, tokens.policy)
    assert float(a.abs().max()) > 0
    torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("loss_type", TRL_LOSSES)
def test_dpo_trainer_losses(loss_type: str, seed: int) -> None:
    tokens, settings = Tokens(seed), LossSettings(beta=0.2, label_smoothing=smoothing(loss_type))
    ours = combined_loss(tokens.ours(), [loss_type], [1.0], settings).mean()
    assert_same(tokens, trl_dpo_loss(tokens, loss_type, settings), ours)


def test_dpo_trainer_sft() -> None:
    """TRL's is the mean over a micro-batch's tokens: ours, weighed by them."""
    tokens = Tokens(1)
    weight = tokens.lengths[:B] / tokens.lengths[:B].sum()
    chosen, rejected = (tokens.policy * tokens.mask[:, 1:]).sum(1).chunk(2)
    pairs = dataclasses.replace(tokens.ours(), chosen=chosen, rejected=rejected)
    ours = (combined_loss(pairs, ["sft"], [1.0], LossSettings()) * weight).sum()
    assert_same(tokens, trl_dpo_loss(tokens, "sft", LossSettings()), ours)


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo", "robust", "exo_pair", "discopop", "sigmoid_norm"])
@pytest.mark.parametrize(
    ("divergence", "alpha"),
    [("forward_kl", 0.5), ("js_divergence", 0.5), ("alpha_divergence", 0.5), ("alpha_divergence", 1.0)],
)
def test_divergences(loss_type: str, divergence: str, alpha: float) -> None:
    tokens = Tokens(3)
    settings = LossSettings(beta=0.2, label_smoothing=smoothing(loss_type))
    settings = dataclasses.replace(settings, f_divergence_type=divergence, f_alpha_divergence_coef=alpha)
    ours = combined_loss(tokens.ours(), [loss_type], [1.0], settings).mean()
    assert_same(tokens, trl_dpo_loss(tokens, loss_type, settings), ours)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "sppo_hard"])
def test_length_desensitised(loss_type: str) -> None:
    tokens, settings = Tokens(4), LossSettings(beta=0.2)
    chosen, rejected = discounted(tokens.policy, tokens, 0.3).chunk(2)
    reference = discounted(tokens.reference, tokens, 0.3).chunk(2)
    pairs = dataclasses.replace(
        tokens.ours(), chosen=chosen, rejected=rejected, ref_chosen=reference[0], ref_rejected=reference[1]
    )
    ours = combined_loss(pairs, [loss_type], [1.0], settings).mean()
    assert_same(tokens, trl_dpo_loss(tokens, loss_type, settings, ld_alpha=0.3), ours)


def test_wpo_weighting() -> None:
    tokens, settings = Tokens(5), LossSettings(beta=0.2)
    aligned = ((tokens.policy - tokens.log_sum_sq) * tokens.mask[:, 1:]).sum(1) / tokens.lengths
    pairs = dataclasses.replace(tokens.ours(), confidence=wpo_weight(*aligned.chunk(2)))
    ours = combined_loss(pairs, ["sigmoid"], [1.0], settings).mean()
    assert_same(tokens, trl_dpo_loss(tokens, "sigmoid", settings, use_weighting=True), ours)


@pytest.mark.parametrize(("name", "loss_type", "alpha"), [
    ("cpo", "sigmoid", 0.0), ("cpo_hinge", "hinge", 0.0), ("cpo_ipo", "ipo", 0.0), ("simpo", "simpo", 0.0),
    ("alphapo", "simpo", 0.4),
])  # fmt: skip
def test_cpo_trainer_losses(name: str, loss_type: str, alpha: float) -> None:
    tokens, settings = Tokens(6), LossSettings(beta=0.7, label_smoothing=0.1, simpo_gamma=0.4, cpo_alpha=0.0)
    settings.alphapo_alpha = alpha
    chosen, rejected = tokens.policy.sum(1).chunk(2)
    if loss_type in {"simpo", "ipo"}:
        chosen, rejected = chosen / tokens.lengths[:B], rejected / tokens.lengths[B:]
    trainer = SimpleNamespace(
        alpha=alpha, loss_type=loss_type, beta=0.7, label_smoothing=0.1, simpo_gamma=0.4,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )  # fmt: skip
    theirs = CPOTrainer.cpo_loss(trainer, chosen, rejected)[0].mean()
    assert_same(tokens, theirs, combined_loss(tokens.ours(), [name], [1.0], settings).mean())


def test_orpo_trainer_loss() -> None:
    tokens = Tokens(7)
    chosen, rejected = (tokens.policy.sum(1) / tokens.lengths).chunk(2)
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device=torch.device("cpu")))
    theirs = (-chosen - ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0]).mean()
    assert_same(tokens, theirs, combined_loss(tokens.ours(), ["orpo"], [1.0], LossSettings(beta=0.3)).mean())


@pytest.mark.parametrize(("name", "loss_type", "weights", "share"), [
    ("kto", "kto", (1.2, 0.7), 1.0), ("apo_zero", "apo_zero_unpaired", (1.0, 1.0), 0.5),
])  # fmt: skip
def test_kto_trainer_losses(name: str, loss_type: str, weights: tuple[float, float], share: float) -> None:
    """The mean over answers, which of `apo_zero` is half the sum over a pair's two."""
    tokens = Tokens(8)
    settings = LossSettings(beta=0.2, desirable_weight=weights[0], undesirable_weight=weights[1])
    mismatched = torch.randn(2 * B, generator=torch.Generator().manual_seed(0)) + 0.5
    outputs = SimpleNamespace(log_probs=tokens.policy, **{
        name: torch.zeros_like(tokens.policy.detach()) for name in ("entropy", "mean_logits", "is_top1")
    })  # fmt: skip
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), aux_loss_enabled=False, precompute_ref_logps=True,
        calculate_KL=loss_type == "kto", loss_type=loss_type, beta=0.2, desirable_weight=weights[0],
        undesirable_weight=weights[1], _tp_size=1, _total_train_tokens=0,
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, **k: x
        ),
        _compute_kl_logps=lambda model, batch: mismatched,
        _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    batch = {
        "input_ids": torch.zeros_like(tokens.mask),
        "attention_mask": torch.ones_like(tokens.mask),
        "completion_mask": tokens.mask,
        "label": torch.tensor([True] * B + [False] * B),
        "ref_logps": tokens.reference.sum(1),
        "ref_KL_logps": torch.zeros(2 * B),
    }
    theirs = trl.KTOTrainer._compute_loss(trainer, lambda **kwargs: outputs, batch, False)
    pairs = dataclasses.replace(tokens.ours(), kl=mismatched.mean().expand(B))
    assert_same(tokens, theirs, combined_loss(pairs, [name], [share], settings).mean())


def test_reference_sync() -> None:
    policy, ours, theirs = tiny_llama(0), tiny_llama(1), tiny_llama(1)
    mix_weights(ours, policy, 0.6)
    SyncRefModelCallback._sync_target_model(policy, theirs, 0.6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
