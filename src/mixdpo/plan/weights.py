"""The factor of each pair's loss: a column of the data, or a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.settings import unknown_name
from mixdpo.data.training_columns import is_weight
from mixdpo.plan.labels import training_column
from mixdpo.plan.plan_settings import PlanSettings

if TYPE_CHECKING:
    from datasets import Dataset


def pair_weights(
    dataset: Dataset, settings: PlanSettings, margin: np.ndarray, label_probability: np.ndarray | None
) -> np.ndarray | None:
    """Return the factor of each pair's loss, float64 at least 0 of shape (N,), as `settings.weight` says; None: all 1.

    Args:
        dataset: the pairs.
        settings: of the plan.
        margin: float64 of shape (N,), NaN where nothing asks for margins.
        label_probability: float64 in [0, 1] of shape (N,), if the plan has any.

    Raises:
        InputError: the column has a wrong value, the name is neither's or both a rule's and a column's, a rule lacks
            what it reads, or every weight is 0.
    """
    name = settings.weight
    if name is None:
        return None
    column = f"weight/{name}"
    rule = RULES.get(name)
    weights: np.ndarray | None
    if rule is None:
        there = [one.removeprefix("weight/") for one in dataset.column_names if is_weight(one)]
        if name not in there:
            raise unknown_name("rule or column weight/NAME", name, [*there, *RULES])
        weights = training_column(dataset, column, "plan.weight")
    elif column in dataset.column_names:
        raise InputError(f"plan.weight is {name}, which is a rule too", column=column, hint="rename the column")
    else:
        weights = rule(settings, margin, label_probability)
    if weights is not None and not weights.any():
        raise InputError(f"every weight of plan.weight {name} is 0, so nothing would be trained")
    return weights


def rate(settings: PlanSettings, margin: np.ndarray, probability: np.ndarray | None) -> None:
    """Weights by the learning rate of a sorted run: none yet, for only training knows its schedule."""


def label_confidence(settings: PlanSettings, margin: np.ndarray, probability: np.ndarray | None) -> np.ndarray:
    """2 P - 1, at least 0: the share of a label's information that is left when it is right with probability P."""
    if probability is None:
        raise InputError(
            "plan.weight label_confidence reads label probabilities, and the plan has none",
            hint="set plan.label_probability to column or agreement",
        )
    return np.maximum(2 * probability - 1, 0)


def madpo(settings: PlanSettings, margin: np.ndarray, probability: np.ndarray | None) -> np.ndarray:
    """sigmoid(c m) / sigmoid(m), above 1 for hard pairs and under 1 for easy ones; 1 where m <= -tau.

    m is the margin of a reward model of Bradley-Terry, so that sigmoid(m) is the probability of the label, and

        c = c_min + (c_max - c_min) / (1 + (c_max - 1) / (1 - c_min) exp(lambda (|m| - tau)))

    falls from c_max to c_min as |m| grows, and is 1 at tau. It weights the loss, not its argument.

    Source: Rho 2025, "Margin adaptive DPO" (arXiv 2510.05342), with c as in its author's code.
    """
    least, most, tau = settings.madpo_min, settings.madpo_max, settings.madpo_tau
    margin = np.maximum(margin, -tau)  # where c is 1, and so is the weight
    # exp overflows to infinity where |m| is far above tau, and c is c_min there, as it should be.
    with np.errstate(over="ignore"):
        growth = np.exp(settings.madpo_lambda * (np.abs(margin) - tau))
    c = least + (most - least) / (1 + (most - 1) / (1 - least) * growth)
    return np.exp(_log_sigmoid(c * margin) - _log_sigmoid(margin))


def _log_sigmoid(values: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -values)


Rule = Callable[[PlanSettings, np.ndarray, np.ndarray | None], np.ndarray | None]
RULES: Final[Mapping[str, Rule]] = {"label_confidence": label_confidence, "madpo": madpo, "rate": rate}
"""What `plan.weight` names beside columns of the data: from settings, margins and label probabilities to weights, None
where `training/rate_weights.py` makes them."""
