"""A recipe's pairs with the margins that its plan needs, and the plan. Runs no model and imports no PyTorch."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from mixdpo.common.errors import InputError
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load_report import LoadReport
from mixdpo.difficulty.combine import made_of
from mixdpo.difficulty.metrics import METRICS, metric_settings
from mixdpo.difficulty.scored_pairs import load_pairs_with_report
from mixdpo.plan.make_plan import make_plan
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.recipe.recipe_file import Recipe, yaml_text
from mixdpo.recipe.scoring import score

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_OWN_MODELS: Final[Mapping[str, Mapping[str, str]]] = {
    "implicit_reward": {"model": "ALIGNED_MODEL"},
    "loss_diff": {"validation_model": "ALIGNED_MODEL"},
    "reward_model": {"model": "REWARD_MODEL"},
    "judge": {"judge": "JUDGE"},
}
"""Settings that a metric needs and no recipe's `model` gives it, and what stands for them in a command."""


def load_and_score(recipe: Recipe, data: DataSettings, plan: PlanSettings) -> tuple[Dataset, LoadReport]:
    """Load pairs and add the margins that the plan's metric needs, if it needs any and they are not there.

    Raises:
        InputError: they are not there, and the data has no scores to make them of, or they come from a model, whose
            pass is `mixdpo score`'s to start.
    """
    pairs, report = load_pairs_with_report(data)
    column = f"margin/{plan.metric}"
    has_ratings = _has_ratings(pairs)
    # Margins that nothing asks for still give the report its buckets.
    if column not in pairs.column_names and (plan.needs_margins or (plan.metric == "rating" and has_ratings)):
        pairs = _with_margins(recipe, pairs, plan.metric, data)
    return pairs, report


def _with_margins(recipe: Recipe, pairs: Dataset, metric: str, data: DataSettings) -> Dataset:
    """Add the margins of a metric that needs no model, and of those that it is made of, or raise `InputError`."""
    if metric == "rating" and not _has_ratings(pairs):
        raise _no_scores(recipe, data)
    known = METRICS.get(metric)
    if known is None or known.runs_model:
        compute = f"compute it first with {_score_command(recipe, data, metric)}, and give scored.parquet instead"
        add = f"add it to the data, or take a metric that mixdpo score computes: {', '.join(METRICS)}"
        raise InputError(
            f"the data has no column 'margin/{metric}'",
            file=_file(recipe, data),
            hint=add if known is None else compute,
        )
    parameters = recipe.metric_parameters(metric)
    for part in made_of(metric_settings(metric, parameters, recipe.file)):
        if f"margin/{part}" not in pairs.column_names:
            pairs = _with_margins(recipe, pairs, part, data)
    return score(pairs, metric, **parameters)


def _has_ratings(pairs: Dataset) -> bool:
    return "score_chosen" in pairs.column_names or "margin" in pairs.column_names


def _no_scores(recipe: Recipe, data: DataSettings) -> InputError:
    """Return the error for a plan that needs scores where there are none; says the ways on."""
    computed = f"{_score_command(recipe, data, 'nll_gap')}, and give scored.parquet with --plan.metric nll_gap instead"
    return InputError(
        "the plan needs scores, and the data has none",
        file=_file(recipe, data),
        hint=f"train all pairs alike with --plan.name dpo; or let a model compute margins with {computed}; or name "
        "the columns of the scores with --data.columns '{score_chosen: ..., score_rejected: ...}'",
    )


def _score_command(recipe: Recipe, data: DataSettings, metric: str) -> str:
    """Return the command that writes `data` with the margins of a metric to scored.parquet."""
    path = data.path if isinstance(data.path, str) else yaml_text(data.path)
    if recipe.file is not None:
        words = ["--metric", metric, "--config", recipe.file, "--data.path", path]
    else:
        words = [path, "--metric", metric, "--model", recipe.model.name_or_path if recipe.model else "MODEL"]
    for name, value in {**_OWN_MODELS.get(metric, {}), **recipe.score.get(metric, {})}.items():
        words += [f"--score.{metric}.{name}", value if isinstance(value, str) else yaml_text(value)]
    return f"`{shlex.join(['mixdpo', 'score', *words])}`"


def _file(recipe: Recipe, data: DataSettings) -> str | None:
    return data.path if isinstance(data.path, str) else recipe.file


def load_eval_pairs(recipe: Recipe, metric: str, buckets: bool) -> Dataset | None:
    """Load the pairs to measure on and log what became of their rows; `buckets`: with margins, where there are any."""
    if recipe.eval_data is None:
        return None
    pairs, report = load_pairs_with_report(recipe.eval_data)
    report.log(logger)
    if not buckets or f"margin/{metric}" in pairs.column_names:
        return pairs
    try:
        return _with_margins(recipe, pairs, metric, recipe.eval_data)
    except InputError as error:
        logger.warning(f"eval_data is measured without buckets by difficulty: {error}")
        return pairs


def plan_from_recipe(recipe: Recipe, pairs: Dataset) -> Plan:
    """Make the recipe's plan, or load the one it names and check that it belongs to `pairs`."""
    if recipe.plan_path is None:
        try:
            return make_plan(pairs, settings=recipe.plan)
        except InputError as error:
            raise error.about(None if recipe.data is None else _file(recipe, recipe.data)) from error
    plan = Plan.load(recipe.plan_path)
    plan.check_belongs_to(pairs)
    return plan
