"""Metrics of likelihood: how a language model ranks the two answers of a pair by itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mixdpo.models.forward_settings import ForwardSettings
from mixdpo.models.model_settings import MODEL_HELP, ModelSettings, model_named

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings(ForwardSettings):
    """Settings of `nll_gap` and `reference_logp`."""

    model: str | dict[str, Any] | ModelSettings | None = field(
        default=None, metadata={"help": f"the model training starts from: {MODEL_HELP}", "recipe": "model"}
    )


@dataclass(frozen=True, kw_only=True)
class ImplicitRewardSettings(ForwardSettings):
    """Settings of `implicit_reward`."""

    model: str | dict[str, Any] | ModelSettings | None = field(
        default=None, metadata={"help": f"the aligned model: {MODEL_HELP}"}
    )
    ref_model: str | dict[str, Any] | ModelSettings | None = field(
        default=None, metadata={"help": f"the model it was aligned from: {MODEL_HELP}", "recipe": "model"}
    )
    beta: float = field(default=0.1, metadata={"help": "beta of the alignment, per nat", "above": 0})


def nll_gap(dataset: Dataset, settings: LikelihoodSettings) -> np.ndarray:
    """Return NLL(y_l) - NLL(y_w), means over tokens under the starting model; float64, shape (N,), nats per token.

    NLL(y) = -log pi(y | x) / |y|. Positive: the model finds the chosen answer likelier per token.
    """
    from mixdpo.data.arrays import trained_counts
    from mixdpo.models.forward import all_tokens, dataset_logprobs

    model = model_named(settings.model, "nll_gap.model")
    tokens = all_tokens(dataset, model, settings.token_settings(), "nll_gap")
    per_token = dataset_logprobs(tokens, model, settings, "nll_gap") / trained_counts(tokens)
    return per_token[:, 0] - per_token[:, 1]


def reference_logp(dataset: Dataset, settings: LikelihoodSettings) -> np.ndarray:
    """Return log pi_ref(y_w | x) - log pi_ref(y_l | x), sums over tokens; float64, shape (N,), nats.

    pi_ref is training's reference, which of a model with a trained adapter is the model without it. Positive: the
    reference already prefers the chosen answer. The sum favours the shorter answer; `nll_gap` does not.
    """
    from mixdpo.models.forward import all_tokens, dataset_logprobs

    model = model_named(settings.model, "reference_logp.model")
    if model.adapter is not None:
        model = replace(model, adapter=None, dtype="bfloat16" if model.dtype == "auto" else model.dtype)
    tokens = all_tokens(dataset, model, settings.token_settings(), "reference_logp")
    logps = dataset_logprobs(tokens, model, settings, "reference_logp")
    return logps[:, 0] - logps[:, 1]


def implicit_reward(dataset: Dataset, settings: ImplicitRewardSettings) -> np.ndarray:
    """Return beta * [log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l)] of an aligned model pi; float64, shape (N,).

    The reward that DPO trained into pi (Rafailov et al. 2023, arXiv 2305.18290, equation 5), sums over tokens.
    """
    from mixdpo.models.forward import all_tokens, check_same_tokens, dataset_logprobs

    aligned = model_named(settings.model, "implicit_reward.model", is_start=False)
    reference = model_named(settings.ref_model, "implicit_reward.ref_model")
    check_same_tokens(aligned, reference, "ref_model")
    tokens = all_tokens(dataset, aligned, settings.token_settings(), "implicit_reward")
    log_ratio = dataset_logprobs(tokens, aligned, settings, "implicit_reward (aligned)")
    log_ratio -= dataset_logprobs(tokens, reference, settings, "implicit_reward (reference)")
    return settings.beta * (log_ratio[:, 0] - log_ratio[:, 1])
