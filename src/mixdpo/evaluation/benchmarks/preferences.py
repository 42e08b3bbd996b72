"""Preference metrics of a model on held-out pairs, by the packed forward passes of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from mixdpo.common.errors import InputError
from mixdpo.common.files import digest
from mixdpo.data.arrays import float_column, token_counts
from mixdpo.data.messages import canonical
from mixdpo.difficulty.metrics import add_margins
from mixdpo.difficulty.rating import RatingSettings
from mixdpo.evaluation.statistics.preference_metrics import PairValues, summarise_pairs
from mixdpo.models.forward import all_tokens, check_same_tokens, pair_logprobs
from mixdpo.models.forward_settings import ForwardSettings
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.plan import make_plan
from mixdpo.plan.plan_settings import BUCKETS, PlanSettings


@dataclass(frozen=True)
class PreferenceResult:
    """What was measured: means with intervals, and the table of every pair.

    Attributes:
        summary: see `summarise_pairs`.
        pairs: `pair_id`, `prompt_id`, `bucket` and `margin` (null without margins), log-probabilities `chosen`
            and `rejected` in nats, their tokens, those of the reference `ref_chosen` and `ref_rejected` where there
            is one, and every metric.
    """

    summary: dict[str, Any]
    pairs: pa.Table


def measure_preferences(
    pairs: Dataset,
    model: ModelSettings,
    reference: ModelSettings | None = None,
    *,
    beta: float = 0.1,
    metric: str | None = None,
    settings: ForwardSettings | None = None,
    seed: int = 0,
) -> PreferenceResult:
    """Measure how a model ranks pairs it was not trained on.

    What either model gave for a pair is kept in the cache that training and `mixdpo score` use.

    Args:
        pairs: from `load_pairs`.
        model: the policy.
        reference: what it was trained from; without one only the ranking by likelihood is measured.
        beta: of the implicit reward, per nat.
        metric: difficulty metric whose thirds are the buckets; None takes the ratings' where there are any.
        settings: limits of length, batch size and number format of the passes.
        seed: of the resamples.

    Raises:
        InputError: a pair does not fit the limits, the tokenizers differ, or there are no margins of `metric`.
    """
    settings = settings or ForwardSettings()
    if reference is not None:
        check_same_tokens(model, reference, "the reference")
    margin, bucket = _buckets(pairs, metric)
    tokens = all_tokens(pairs, model, settings.token_settings(), "eval preferences")
    values = PairValues(
        policy=pair_logprobs(tokens, model, settings, "policy"),
        tokens=token_counts(tokens),
        reference=pair_logprobs(tokens, reference, settings, "reference") if reference is not None else None,
        beta=beta,
    )
    prompt = prompt_ids(pairs)
    columns = values.columns()
    rows_of = {name: np.flatnonzero(bucket == code) for code, name in enumerate(BUCKETS)}
    summary = summarise_pairs(columns, prompt, rows_of, seed=seed)
    sides = {"": values.policy, "ref_": values.reference}
    table = {
        "pair_id": pairs["pair_id"][:],
        "prompt_id": prompt,
        "bucket": [BUCKETS[code] if code >= 0 else None for code in bucket.tolist()],
        "margin": pa.array(margin, from_pandas=True),
        **{f"{key}{side}": v[:, i] for key, v in sides.items() if v is not None for i, side in _SIDES},
        **{f"{side}_tokens": values.tokens[:, i] for i, side in _SIDES},
        **columns,
    }
    return PreferenceResult(summary, pa.table(table))


_SIDES = tuple(enumerate(("chosen", "rejected")))


def prompt_ids(pairs: Dataset) -> np.ndarray:
    """Return a digest of each pair's prompt, text, shape (N,): pairs of one prompt belong together."""
    return np.array([digest([canonical(prompt)], size=10) for prompt in pairs["prompt"][:]])


def _buckets(pairs: Dataset, metric: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return margins (NaN without) and the code of each pair's bucket (-1 without)."""
    if metric is None:
        if not {"score_chosen", "margin", "margin/rating"} & set(pairs.column_names):
            return np.full(len(pairs), np.nan), np.full(len(pairs), -1)
        metric = "rating"
    if f"margin/{metric}" not in pairs.column_names:
        if metric != "rating":
            raise InputError(
                f"the data has no column 'margin/{metric}'", hint=f"compute it with mixdpo score --metric {metric}"
            )
        pairs = add_margins(pairs, {"rating": RatingSettings()})
    plan = make_plan(pairs, settings=PlanSettings(metric=metric, order="as_is", threshold=None))
    return float_column(pairs, f"margin/{metric}"), plan.bucket.astype(np.int64)
