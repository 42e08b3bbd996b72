"""Metrics of likelihood: how a language model ranks the two answers of a pair by itself."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, kw_only=True)
class LossDiffSettings(ForwardSettings):
    """Settings of `loss_diff`."""

    validation_model: str | dict[str, Any] | ModelSettings | None = field(
        default=None, metadata={"help": f"the start after DPO on trusted pairs: {MODEL_HELP}"}
    )
    model: str | dict[str, Any] | ModelSettings | None = field(
        default=None,
        metadata={"help": f"the start after an epoch of DPO on these pairs; null: the start. {MODEL_HELP}"},
    )
    ref_model: str | dict[str, Any] | ModelSettings | None = field(
        default=None, metadata={"help": f"the start: {MODEL_HELP}", "recipe": "model"}
    )
    beta: float = field(default=0.1, metadata={"help": "beta of both alignments, per nat", "above": 0})


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
    aligned = model_named(settings.model, "implicit_reward.model", is_start=False)
    return _implicit_rewards(dataset, settings, "implicit_reward", {"aligned": aligned})[0]


def loss_diff(dataset: Dataset, settings: LossDiffSettings) -> np.ndarray:
    """Return l(pi) - l(pi_val) with the DPO loss l of each pair; float64, shape (N,), nats.

    Positive: what was learned from trusted pairs (pi_val) lowers the loss of the pair, too. l = log(1 + e^-r) with r
    of `implicit_reward`. Without pi, the start stands for it, and l(pi) is log 2.

    Source: LossDiff of Zhang et al. 2025 (arXiv 2510.13212), whose pi is the start after one epoch of DPO.
    """
    import numpy as np

    models = {"validation": model_named(settings.validation_model, "loss_diff.validation_model", is_start=False)}
    if settings.model is not None:
        models["model"] = model_named(settings.model, "loss_diff.model", is_start=False)
    losses = [np.logaddexp(0, -reward) for reward in _implicit_rewards(dataset, settings, "loss_diff", models)]
    return (losses[1] if len(losses) > 1 else np.log(2)) - losses[0]


def _implicit_rewards(
    dataset: Dataset,
    settings: ImplicitRewardSettings | LossDiffSettings,
    name: str,
    models: Mapping[str, ModelSettings],
) -> list[np.ndarray]:
    """Return the implicit reward margins of models aligned from one reference; float64, shape (N,) each."""
    from mixdpo.models.forward import all_tokens, check_same_tokens, dataset_logprobs

    reference = model_named(settings.ref_model, f"{name}.ref_model")
    for aligned in models.values():
        check_same_tokens(aligned, reference, "ref_model")
    tokens = all_tokens(dataset, next(iter(models.values())), settings.token_settings(), name)
    logps = {which: dataset_logprobs(tokens, model, settings, f"{name} ({which})") for which, model in models.items()}
    of_reference = dataset_logprobs(tokens, reference, settings, f"{name} (reference)")
    gaps = [values - of_reference for values in logps.values()]
    return [settings.beta * (gap[:, 0] - gap[:, 1]) for gap in gaps]
