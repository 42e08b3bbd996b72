"""The command `rounds` as a function: pairs of the newest model's own answers, training on them, and again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.figure_files import save_figure
from mixdpo.common.files import check_output_folder, write_json
from mixdpo.common.table_files import read_json_rows, row_in_file
from mixdpo.common.tables import percent_text
from mixdpo.generation.prompts import Prompt, read_prompts
from mixdpo.judges.find_judge import find_judge
from mixdpo.models.model_settings import ModelSettings
from mixdpo.pairs.answered import read_answered
from mixdpo.plan.plan import Plan
from mixdpo.recipe.recipe_file import Recipe
from mixdpo.recipe.round_stages import (
    PLAN,
    SCORED,
    Round,
    answer_held_out,
    compare_held_out,
    train_round,
)
from mixdpo.recipe.rounds_results import (
    START,
    RoundResult,
    answers_result,
    compared_result,
    rounds_figure,
    with_warnings,
)
from mixdpo.recipe.rounds_settings import RoundsSettings
from mixdpo.training.run_lock import sole_run

logger = logging.getLogger(__name__)


def run_rounds(recipe: Recipe, count: int, output: Path) -> list[RoundResult]:
    """Make pairs, train and compare, round by round, and write `rounds.json` and `rounds.png`.

    Args:
        recipe: its model is the start, and its section pairs says how pairs are made; `plan`, `train`, `peft`, `score`
            and `eval_data` hold in every round.
        count: of rounds that there are at the end; those that are there already are read.
        output: folder of the rounds.

    Returns:
        The start and every round.

    Raises:
        InputError: anything wrong with the recipe, the prompts or the judge; or a stage that is there was made of
            something else.
        RunError: no pair came of a round, training diverged, or too many verdicts cannot be read.
    """
    start, settings = _checked(recipe)
    check_output_folder(output)
    _check_count(output, count)
    _check_apart(_prompts(settings.prompts, "prompts"), _prompts(settings.held_out, "held_out"), settings)
    for judge in settings.judges:
        find_judge(judge)  # a wrong one is told now
    with sole_run(output, is_main=True):
        model, newest = start, answer_held_out(recipe, start, output / START)
        first = newest
        results = [RoundResult(number=0, model=start.name_or_path, held_out=answers_result(read_answered(first)))]
        for number in range(1, count + 1):
            folder = output / f"round-{number}"
            logger.info(f"round {number} of {count}: {folder}")
            model = train_round(Round(number=number, folder=folder, recipe=replace(recipe, model=model), start=start))
            last, newest = newest, answer_held_out(recipe, model, folder)
            compared = compare_held_out(settings, folder, first, last)
            results.append(_result(number, model, folder, newest, compared, recipe.plan.metric, results[0]))
            _log(results[-1])
            write_json(output / "rounds.json", {"rounds": [_record(asdict(one)) for one in results]})
        save_figure(rounds_figure(results), output / "rounds", endings=("png",))
    return results


def _checked(recipe: Recipe) -> tuple[ModelSettings, RoundsSettings]:
    """Return the start and the section pairs, or raise `InputError` for what rounds do not read."""
    model, settings = recipe.required("model"), recipe.required("pairs")
    for given, problem, hint in (
        (recipe.data, "rounds make their own pairs, and the recipe names others", "leave out the section data"),
        (recipe.plan_path, "plan.path is a plan of other pairs", "give the settings of the plan instead"),
        (model.adapter, "rounds start from a whole model, not from model.adapter", "mixdpo merge makes one of it"),
    ):
        if given is not None:
            raise InputError(problem, file=recipe.file, hint=hint)
    return model, settings


def _check_count(output: Path, count: int) -> None:
    numbers = (path.name.removeprefix("round-") for path in output.glob("round-*"))
    there = [int(number) for number in numbers if number.isdecimal()]
    if there and max(there) > count:
        raise InputError(f"the folder holds round {max(there)} already", file=output, hint="ask for as many --rounds")


def _prompts(source: str, key: str) -> list[Prompt]:
    prompts = read_prompts(source)
    for place, prompt in enumerate(prompts):
        if len(prompt.turns) > 1:
            raise InputError(
                f"pairs.{key} has a prompt of {len(prompt.turns)} turns, and pairs are of one",
                file=source,
                row=row_in_file(source, place),
                hint="give the earlier turns as messages with the assistant's answers",
            )
    return prompts


def _check_apart(prompts: Sequence[Prompt], held_out: Sequence[Prompt], settings: RoundsSettings) -> None:
    trained = {prompt.messages for prompt in prompts}
    both = [place for place, prompt in enumerate(held_out) if prompt.messages in trained]
    if both:
        raise InputError(
            f"{len(both):,} of {len(held_out):,} held-out prompts are among pairs.prompts, too",
            file=settings.held_out,
            row=row_in_file(settings.held_out, both[0]),
            hint="take them out of one of the files",
        )


def _result(
    number: int, model: ModelSettings, folder: Path, answers: Path, compared: Path, metric: str, start: RoundResult
) -> RoundResult:
    """Read what a round's files say."""
    margins = pq.read_table(folder / SCORED, columns=[f"margin/{metric}"]).column(0).to_numpy()
    answered = read_answered(answers)
    held_out = compared_result(answers_result(answered), read_json_rows(compared))
    result = RoundResult(
        number=number,
        model=model.name_or_path,
        pairs=len(margins),
        median_margin=float(np.median(margins)),
        ties=float(np.mean(margins == 0)),
        routes={one["route"]: one["pairs"] for one in Plan.load(folder / PLAN).summary()},
        held_out=held_out,
    )
    return with_warnings(result, start, [answer.text for prompt in answered for answer in prompt.answers])


def _log(result: RoundResult) -> None:
    held_out = result.held_out
    if held_out.over_start is not None:
        share = f"{percent_text(held_out.over_start.estimate, 0)} of {held_out.compared:,} held-out answers"
        logger.info(f"round {result.number}: {share} are preferred to the start's")
    for sign in result.warnings:
        logger.warning(f"round {result.number}: {sign}")


def _record(value: Any) -> Any:
    """Return a result as JSON has it: an interval without bounds has None for them."""
    if isinstance(value, dict):
        return {key: _record(one) for key, one in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
