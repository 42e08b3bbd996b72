"""The difficulty metrics by name, and `score`, which adds their margins to pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from datasets import Dataset

from mixdpo.common.errors import InputError
from mixdpo.common.settings import build, unknown_key, unknown_name
from mixdpo.difficulty.agreement import AgreementSettings, agreement_margin
from mixdpo.difficulty.ches import ches, ches_length_normalised
from mixdpo.difficulty.combine import CombineSettings, combine_margin
from mixdpo.difficulty.embedding import EmbeddingSettings, embedding_margin
from mixdpo.difficulty.length_gap import LengthGapSettings, length_gap_margin
from mixdpo.difficulty.likelihood import (
    ImplicitRewardSettings,
    LikelihoodSettings,
    implicit_reward,
    nll_gap,
    reference_logp,
)
from mixdpo.difficulty.rating import RatingSettings, rating
from mixdpo.difficulty.reward_model import RewardModelSettings, reward_model
from mixdpo.training.validation_loss import ValidationLossSettings, validation_loss


@dataclass(frozen=True)
class Metric:
    """A difficulty metric.

    Attributes:
        function: from pairs of `load_pairs` and settings to margins, float64, shape (N,), larger = easier.
        settings: the dataclass of its settings.
        runs_model: whether it runs a model. Only `score` starts such a metric, never planning or training on its own.
    """

    function: Callable[[Dataset, Any], np.ndarray]
    settings: type[Any]
    runs_model: bool = False


METRICS: Final[Mapping[str, Metric]] = {
    "rating": Metric(rating, RatingSettings),
    "agreement": Metric(agreement_margin, AgreementSettings),
    "length_gap": Metric(length_gap_margin, LengthGapSettings),
    "combine": Metric(combine_margin, CombineSettings),
    "embedding": Metric(embedding_margin, EmbeddingSettings, runs_model=True),
    "nll_gap": Metric(nll_gap, LikelihoodSettings, runs_model=True),
    "reference_logp": Metric(reference_logp, LikelihoodSettings, runs_model=True),
    "implicit_reward": Metric(implicit_reward, ImplicitRewardSettings, runs_model=True),
    "reward_model": Metric(reward_model, RewardModelSettings, runs_model=True),
    "ches": Metric(ches, LikelihoodSettings, runs_model=True),
    "ches_length_normalised": Metric(ches_length_normalised, LikelihoodSettings, runs_model=True),
    "validation_loss": Metric(validation_loss, ValidationLossSettings, runs_model=True),
}


def score(dataset: Dataset, metric: str | Sequence[str] = "rating", **parameters: Any) -> Dataset:
    """Return `dataset` with a column `margin/<metric>` per metric (float64, larger = easier), replaced if it exists.

    Args:
        dataset: pairs from `load_pairs`.
        metric: a key of `METRICS`, or several. `rating` is the score of the chosen minus that of the rejected answer.
        **parameters: of one metric the fields of its settings, such as ``score(pairs, "nll_gap", model="...")``; of
            several these fields by metric, such as ``score(pairs, ["rating", "nll_gap"], nll_gap={"model": "..."})``.

    Raises:
        InputError: unknown metric or parameter, the data or the settings lack what a metric needs, or a margin is not
            a finite number.
    """
    if isinstance(metric, str):
        parameters = {metric: parameters}
    chosen = {name: find_metric(name) for name in ([metric] if isinstance(metric, str) else metric)}
    for name in parameters:
        if name not in chosen:
            raise unknown_key(f"metric {name} (of its parameters)", [f"metric {known}" for known in chosen])
    settings = {name: metric_settings(name, parameters.get(name, {})) for name in chosen}
    for name, used in chosen.items():
        margins = np.asarray(used.function(dataset, settings[name]), dtype=np.float64)
        column = f"margin/{name}"
        bad = np.flatnonzero(~np.isfinite(margins))
        if len(bad):
            raise InputError(
                f"{name} gave {margins[bad[0]]} for {len(bad):,} of {len(margins):,} pairs, first for this one",
                row=int(bad[0]) + 1,
                hint="a margin must be a finite number; check the scores or the model",
            )
        if column in dataset.column_names:
            dataset = dataset.remove_columns(column)
        dataset = dataset.add_column(column, margins.tolist())
    return dataset


def find_metric(name: str, file: str | Path | None = None) -> Metric:
    """Return the metric of that name, or raise `InputError` with the nearest name."""
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS, file)
    return METRICS[name]


def metric_settings(name: str, values: Mapping[str, Any], file: str | Path | None = None) -> Any:
    """Return the settings of a metric made from a mapping; `InputError` for an unknown key or a wrong value."""
    return build(find_metric(name, file).settings, values, f"score.{name}", file)
