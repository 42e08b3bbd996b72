"""What a caller gives the trainer to train and to measure on, made into scored pairs and a plan."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from datasets import Dataset

from mixdpo.common.errors import InputError
from mixdpo.data.columns import is_media
from mixdpo.data.in_memory import rows_in_memory
from mixdpo.difficulty.metrics import add_margins
from mixdpo.difficulty.rating import RatingSettings
from mixdpo.difficulty.scored_pairs import load_pairs, pairs_in_memory
from mixdpo.plan.make_plan import make_plan
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PlanSettings

logger = logging.getLogger(__name__)

_RATING: Final = "margin/rating"


def given_pairs(given: Any, name: str, scored: bool = False) -> Dataset:
    """Return pairs as `load_pairs` makes them, with margins where they have scores.

    Args:
        given: pairs from `load_pairs`, or whatever it takes: rows in memory, a path, a hub id.
        name: what the caller calls them, for errors.
        scored: whether pairs from `load_pairs`, too, get the margins that they lack.

    Raises:
        InputError: they cannot be read, or hold images, sound or video, which would not be trained on.
    """
    if isinstance(given, Dataset) and "pair_id" in given.column_names:
        return with_ratings(given) if scored else given
    rows = rows_in_memory(given, name)
    if isinstance(rows, Dataset):
        _check_is_text(rows, name)
    try:
        return with_ratings(load_pairs(given) if rows is None else pairs_in_memory(rows, name))
    except InputError as error:
        raise error.about(name) from error


def with_ratings(pairs: Dataset) -> Dataset:
    """Return pairs with the margins of their scores, if they have scores and lack the margins."""
    has_scores = "margin" in pairs.column_names or {"score_chosen", "score_rejected"} <= set(pairs.column_names)
    if _RATING in pairs.column_names or not has_scores:
        return pairs
    return add_margins(pairs, {"rating": RatingSettings()})


def given_evaluation_sets(given: Any) -> dict[str, Dataset] | Dataset | None:
    """Return evaluation pairs: one data set, or several by name (a mapping or a `DatasetDict`); None for none.

    Raises:
        InputError: as `given_pairs` does.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or {"chosen", "path"} & set(given):
        return given_pairs(given, "eval_dataset")
    return {str(name): given_pairs(part, f"eval_dataset[{name!r}]") for name, part in given.items()}


def plan_of(given: Plan | PlanSettings | str | Path | None, pairs: Dataset) -> Plan:
    """Return a plan of these pairs.

    Args:
        given: a plan; the settings of one, or its name in `PLANS`; a file of a saved one; None: MixDPO's where the
            pairs have scores, else DPO's, which is said.
        pairs: what is to be trained.

    Raises:
        InputError: the plan belongs to other pairs, or cannot be made of these.
    """
    if isinstance(given, Plan):
        return given
    if isinstance(given, PlanSettings):
        return make_plan(pairs, settings=given)
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith(".parquet")):
        return Plan.load(given)
    if given is not None:
        return make_plan(pairs, given)
    if _RATING in pairs.column_names:
        plan = make_plan(pairs)
        hard = int(plan.is_hard.sum())
        logger.warning(
            f"plan: mixdpo, for the data has scores: easy to hard, and SFT for the hardest {hard:,} of {len(pairs):,} "
            "pairs; give plan='dpo' to train all alike"
        )
        return plan
    logger.warning(
        "plan: dpo, all pairs alike in random order, for the data has no scores; a plan by difficulty needs "
        "mixdpo.score(mixdpo.load_pairs(train_dataset), 'nll_gap', model=...)"
    )
    return make_plan(pairs, "dpo")


def _check_is_text(dataset: Dataset, name: str) -> None:
    media = [column for column, feature in dataset.features.items() if is_media(column, feature)]
    if media:
        raise InputError(
            "only text is trained on, and this column is none",
            file=name,
            column=media[0],
            hint=f"give {name}.remove_columns({media[0]!r}) to train on the text alone",
        )
