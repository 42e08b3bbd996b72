"""The difficulty metrics by name: what each is computed with, and what its sign says.

The table is read to answer `--help` and to check a recipe, so the modules of the metrics import nothing heavy
(PyTorch, transformers, datasets, pyarrow) until a metric runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.settings import build, unknown_name
from mixdpo.difficulty.agreement import AgreementSettings, agreement_margin
from mixdpo.difficulty.ches import ches, ches_length_normalised
from mixdpo.difficulty.combine import (
    CombineSettings,
    FusedSettings,
    MiddleSettings,
    combine_margin,
    fused_margin,
    middle_margin,
)
from mixdpo.difficulty.embedding import EmbeddingSettings, embedding_margin
from mixdpo.difficulty.judge import JudgeMetricSettings, judge_margin
from mixdpo.difficulty.length_gap import LengthGapSettings, length_gap_margin
from mixdpo.difficulty.likelihood import (
    ImplicitRewardSettings,
    LikelihoodSettings,
    LossDiffSettings,
    implicit_reward,
    loss_diff,
    nll_gap,
    reference_logp,
)
from mixdpo.difficulty.preference_variance import PreferenceVarianceSettings, preference_variance_margin
from mixdpo.difficulty.rating import RatingSettings, rating
from mixdpo.difficulty.reward_model import RewardModelSettings, reward_model
from mixdpo.difficulty.validation_loss import TrainAndEvaluate, ValidationLossSettings, validation_loss

if TYPE_CHECKING:
    from datasets import Dataset

Exchange = Literal["negates", "keeps", "recompute", "by_settings"]
"""What exchanging chosen and rejected does to a metric's margin.

`negates`: the sign says which answer the metric prefers, so it is an opinion on the label. `keeps`: it says how unlike
the answers are. `recompute`: it is another number. `by_settings`: it negates or keeps, and the numbers do not tell.
"""


@dataclass(frozen=True)
class Metric:
    """A difficulty metric.

    Attributes:
        function: from loaded pairs and settings to margins, float64, shape (N,), larger = easier.
        settings: the dataclass of its settings.
        exchange: what exchanging the two answers does to a margin.
        runs_model: whether it runs a model. Only `score` starts such a metric, never planning or training on its own.
        trains: whether it trains models; its function then takes `train_and_evaluate` as well.
    """

    function: Callable[..., np.ndarray]
    settings: type[Any]
    exchange: Exchange
    runs_model: bool = False
    trains: bool = False


METRICS: Final[Mapping[str, Metric]] = {
    "rating": Metric(rating, RatingSettings, "negates"),
    "agreement": Metric(agreement_margin, AgreementSettings, "negates"),
    "length_gap": Metric(length_gap_margin, LengthGapSettings, "by_settings"),
    "combine": Metric(combine_margin, CombineSettings, "recompute"),
    "middle": Metric(middle_margin, MiddleSettings, "recompute"),
    "fused": Metric(fused_margin, FusedSettings, "recompute"),
    "preference_variance": Metric(preference_variance_margin, PreferenceVarianceSettings, "keeps"),
    "embedding": Metric(embedding_margin, EmbeddingSettings, "keeps", runs_model=True),
    "nll_gap": Metric(nll_gap, LikelihoodSettings, "negates", runs_model=True),
    "reference_logp": Metric(reference_logp, LikelihoodSettings, "negates", runs_model=True),
    "implicit_reward": Metric(implicit_reward, ImplicitRewardSettings, "negates", runs_model=True),
    "loss_diff": Metric(loss_diff, LossDiffSettings, "recompute", runs_model=True),
    "reward_model": Metric(reward_model, RewardModelSettings, "negates", runs_model=True),
    "judge": Metric(judge_margin, JudgeMetricSettings, "negates", runs_model=True),
    "ches": Metric(ches, LikelihoodSettings, "recompute", runs_model=True),
    "ches_length_normalised": Metric(ches_length_normalised, LikelihoodSettings, "recompute", runs_model=True),
    "validation_loss": Metric(validation_loss, ValidationLossSettings, "recompute", runs_model=True, trains=True),
}


def add_margins(
    dataset: Dataset, settings: Mapping[str, Any], train_and_evaluate: TrainAndEvaluate | None = None
) -> Dataset:
    """Return `dataset` with a column `margin/<metric>` per metric (float64, larger = easier), replaced if it exists.

    Args:
        dataset: pairs from `load_pairs`.
        settings: of each metric to add, from `metric_settings`.
        train_and_evaluate: what trains models; only a metric that does so asks for it. It is handed in, as training
            stands above this package.

    Raises:
        InputError: the data or the settings lack what a metric needs, or a margin is not a finite number.
    """
    for name, given in settings.items():
        metric = METRICS[name]
        more = {"train_and_evaluate": train_and_evaluate} if metric.trains else {}
        margins = np.asarray(metric.function(dataset, given, **more), dtype=np.float64)
        column = f"margin/{name}"
        bad = np.flatnonzero(~np.isfinite(margins))
        if len(bad):
            from mixdpo.data.arrays import place_of

            raise InputError(
                f"{name} gave {margins[bad[0]]} for {len(bad):,} of {len(margins):,} pairs, first for this one",
                **place_of(dataset, int(bad[0])),
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


def prefers_an_answer(metric: str) -> bool:
    """Whether the sign of a metric may say which answer is the better one; so does that of data's own margins."""
    return _exchange(metric) in ("negates", "by_settings")


def exchanged_margin(metric: str, margin: float) -> float:
    """Return the margin of a pair whose answers are exchanged; NaN where it has to be computed anew."""
    exchange = _exchange(metric)
    if exchange == "negates":
        return -margin
    return margin if exchange == "keeps" else math.nan


def _exchange(metric: str) -> Exchange:
    return METRICS[metric].exchange if metric in METRICS else "negates"
