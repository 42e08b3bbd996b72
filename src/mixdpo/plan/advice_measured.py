"""What a data set says of its pairs by margin: how often labels are right, and how good the chosen answers are.

Nothing is measured anew: P is a column `label_probability` or what the agreement of other metrics with the labels says
(`plan/labels.py`), quality is that of columns `quality/NAME/chosen` (`pairs/quality.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.settings import unknown_name
from mixdpo.common.statistics import by_margin, mean_interval
from mixdpo.data.training_columns import LABEL_PROBABILITY
from mixdpo.difficulty.metrics import prefers_an_answer
from mixdpo.pairs.quality import quality_of
from mixdpo.plan.advice_parts import Known, Part, Range
from mixdpo.plan.agreement_curve import AgreementCurve
from mixdpo.plan.labels import labels_by_bin, training_column
from mixdpo.plan.plan_settings import AdviceSettings, LabelProbability, PlanSettings
from mixdpo.plan.threshold import auto_threshold, count_ties, find_signals

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

PARTS: Final = 5
"""Parts by margin beside ties, at most: quality is known of few pairs, and finer parts would tell chance apart."""
_Z: Final = 1.96


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredParts:
    """Pairs by margin.

    Attributes:
        parts: hardest first.
        part_of: int64 of shape (N,), the part of each pair.
        label_source: where P comes from, None if nothing says it.
        curve: of the agreement, if P comes from it.
    """

    parts: Sequence[Part]
    part_of: np.ndarray
    label_source: LabelProbability | None
    curve: AgreementCurve | None


def measured_parts(dataset: Dataset, margin: np.ndarray, settings: PlanSettings) -> MeasuredParts:
    """Cut pairs by margin and measure the parts.

    Args:
        dataset: the pairs.
        margin: float64 of shape (N,), finite, larger = easier.
        settings: of the plan: its metric, signals, source of label probabilities, and names of policies.

    Raises:
        InputError: margins whose size says nothing of hard pairs, or columns that are named and not there.
    """
    if not prefers_an_answer(settings.metric):
        raise InputError(
            f"margins of {settings.metric} say how unlike two answers are, and advice reads by how much one is better",
            hint="set plan.metric to rating, nll_gap or another that prefers an answer",
        )
    easiest = float(np.sort(margin)[2 * len(margin) // 3 :].mean())
    if not easiest > 0:
        raise InputError(
            f"the easiest third of the margins of {settings.metric} is {easiest:g} in the mean, not above 0",
            hint="set plan.metric to one that agrees with the labels of easy pairs",
        )
    source, curve = _label_source(dataset, margin, settings)
    right = _right(dataset, source, curve, margin)
    start, trained = _chosen(dataset, settings, "start"), _chosen(dataset, settings, "trained")
    part_of = np.empty(len(margin), dtype=np.int64)
    parts = []
    for number, rows in enumerate(_rows_by_margin(margin)):
        part_of[rows] = number
        surplus, policies = surplus_of(start, trained, rows)
        parts.append(
            Part(
                margin_min=float(margin[rows].min()),
                margin_max=float(margin[rows].max()),
                pairs=len(rows),
                share=len(rows) / len(margin),
                relative_margin=float(margin[rows].mean()) / easiest,
                right=None if right is None else _mean_range(right[rows]),
                surplus=surplus,
                policies=policies,
            )
        )
    return MeasuredParts(parts=parts, part_of=part_of, label_source=source, curve=curve)


def _rows_by_margin(margin: np.ndarray) -> list[np.ndarray]:
    """Return the rows of the ties, if there are any, and of fifths of the others, hardest first; int64 each."""
    order = np.argsort(margin, kind="stable")
    ties = count_ties(margin[order])
    tied, rest = order[:ties], order[ties:]
    parts = [rest[rows] for rows in by_margin(margin[rest], PARTS)] or [rest]
    return [tied, *parts] if ties else parts


def _label_source(
    dataset: Dataset, margin: np.ndarray, settings: PlanSettings
) -> tuple[LabelProbability | None, AgreementCurve | None]:
    """Return where P comes from: as the plan says, else a column, else the agreement of other metrics, if any."""
    wanted = settings.label_probability
    if wanted == "column" or (wanted is None and LABEL_PROBABILITY in dataset.column_names):
        return "column", None
    signals = find_signals(dataset, settings.metric, settings.signals)
    if not signals and wanted is None:
        return None, None
    try:
        curve = auto_threshold(margin, signals, settings)
    except InputError as error:
        if wanted is not None:
            raise
        logger.info(f"advice: {error}")
        return None, None
    if curve.attained is None and wanted is None:
        logger.info(f"advice: {curve.reason}")
        return None, None
    return "agreement", curve


def _right(
    dataset: Dataset, source: LabelProbability | None, curve: AgreementCurve | None, margin: np.ndarray
) -> np.ndarray | None:
    """Return P of each pair with its bounds, float64 of shape (N, 3); a column's numbers are taken as they are."""
    if source is None:
        return None
    if curve is None:
        return np.repeat(training_column(dataset, LABEL_PROBABILITY, "plan.label_probability")[:, None], 3, axis=1)
    bins = np.array([[one.probability, one.low, one.high] for one in labels_by_bin(curve)])
    return bins[np.searchsorted([item.margin_max for item in curve.bins], margin, side="left")]


def _mean_range(values: np.ndarray) -> Range:
    estimate, low, high = values.mean(axis=0).tolist()
    return Range(estimate=estimate, low=min(low, estimate), high=max(high, estimate))


def _chosen(dataset: Dataset, settings: PlanSettings, which: str) -> np.ndarray | None:
    """Return the quality of the chosen answers against the start or the trained policy, None if nothing is known.

    Raises:
        InputError: the plan names a policy that the data has no quality against.
    """
    field = f"{which}_policy"
    name, default = getattr(settings, field), getattr(AdviceSettings, field)
    qualities = quality_of(dataset)
    if name in qualities:
        return qualities[name].chosen if qualities[name].known.any() else None
    if name == default:
        return None
    if qualities:
        raise unknown_name("policy", name, qualities)
    raise InputError(
        f"plan.{field} names a policy, and the data has no such column",
        column=f"quality/{name}/chosen",
        hint=f"write it with `mixdpo rate PAIRS --against {name}=MODEL --judge JUDGE`",
    )


def surplus_of(start: np.ndarray | None, trained: np.ndarray | None, rows: np.ndarray) -> tuple[Range | None, Known]:
    """Return the surplus of some pairs' chosen answers with a 95 % interval, and the policies that it is known by.

    It is the mean quality against the trained policy over what that policy gains on the start; the gain is that of all
    pairs with both, in which the pair's own answer cancels. With one policy alone, or where no gain is clear, there is
    a bound if the answers are clearly better or worse than that policy's. Pairs count as independent.

    Args:
        start, trained: quality of all N chosen answers against the two policies, float64 of shape (N,), NaN where it
            is not known; None if it is of none.
        rows: of the pairs, int64.
    """
    if start is not None and trained is not None:
        gain = start - trained
        of_gain, of_part = np.flatnonzero(~np.isnan(gain)), rows[~np.isnan(trained[rows])]
        if len(of_gain) > 1 and len(of_part) > 1 and (gained := mean_interval(gain[of_gain])).low > 0:
            mean = float(trained[of_part].mean())
            surplus = mean / gained.estimate
            # The delta method: by how much each pair moves the ratio.
            moved = np.zeros(len(gain))
            moved[of_part] += (trained[of_part] - mean) / len(of_part)
            moved[of_gain] -= surplus * (gain[of_gain] - gained.estimate) / len(of_gain)
            reach = _Z * float(np.sqrt((moved**2).sum())) / gained.estimate
            return Range(estimate=surplus, low=surplus - reach, high=surplus + reach), "both"
    policies: tuple[tuple[Known, np.ndarray | None, float], ...] = (("trained", trained, 0.0), ("start", start, -1.0))
    for name, quality, level in policies:
        known = np.empty(0) if quality is None else quality[rows][~np.isnan(quality[rows])]
        if len(known) > 1:
            interval = mean_interval(known)
            if interval.low > 0:
                return Range(estimate=None, low=level, high=np.inf), name
            if interval.high < 0:
                return Range(estimate=None, low=-np.inf, high=level), name
    return None, "none"
