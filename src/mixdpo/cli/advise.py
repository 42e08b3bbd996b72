"""The command `advise`."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Any

import click

from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, data_words, recipe_of
from mixdpo.common.errors import InputError
from mixdpo.common.files import check_output, write_json
from mixdpo.common.settings import merge
from mixdpo.common.tables import plain_console, results_table

if TYPE_CHECKING:
    from mixdpo.plan.advice import Advice
    from mixdpo.plan.plan import Plan


@click.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option("--output", "-o", type=click.Path(path_type=Path), help="JSON file for all numbers.")
@click.pass_obj
def advise(overrides: dict[str, Any], data: str | None, config: Path | None, output: Path | None) -> None:
    """Say what to do with the pairs of DATA by margin, how much it will matter, and the command to run next.

    Routes and sizes rest on a map of worlds with known rewards (see `mixdpo map`): by the probability that labels are
    right (a column label_probability, else the agreement of other margin/* columns) and by the quality of the chosen
    answers (quality/start/chosen and quality/trained/chosen, which `mixdpo rate --against` writes). What is not known
    is said, with what knowing it could add.
    """
    if (name := overrides.get("plan", {}).get("name", "advised")) != "advised":
        raise InputError(f"advice is on the plan advised, and plan.name is {name}", hint="leave plan.name out")
    advised = merge(overrides, {"plan": {"name": "advised"}})
    recipe = recipe_of(advised, config, data)
    if output is not None:
        check_output(output)

    from mixdpo.recipe.planned_pairs import load_and_score, plan_from_recipe

    pairs, report = load_and_score(recipe, recipe.required("data"), recipe.plan)
    made = plan_from_recipe(recipe, pairs)
    for line in report.lines():
        click.echo(line)
    assert made.advice is not None
    print_advice(made.advice, made.settings.metric)
    next_command = train_command(made, overrides, data_words(overrides, data, config), recipe.model is not None)
    click.echo(f"next: {next_command}")
    if output is not None:
        write_json(output, {**made.advice.to_dict(), "metric": made.settings.metric, "command": next_command})
        click.echo(f"advice: {output}")


def print_advice(advice: Advice, metric: str) -> None:
    """Print what to do by margin, and the sentences that say why."""
    from mixdpo.plan.advice_words import COLUMNS, advice_table, margins, sentences

    said = sentences(advice)
    if said["wrong_labels"] is not None:
        click.echo(said["wrong_labels"])
    advised = advice_table(f"advice by margin of {metric}, hardest pairs first", advice)
    table = results_table(advised.title, *advised.headings)
    for row in advised.rows:
        table.add_row(*row)
    plain_console().print(table)
    click.echo(COLUMNS)
    for one, why in zip(advice.parts, said["parts"], strict=True):
        if why:
            click.echo(f"margin {margins(one.part)}: {why}")
    for line in (said["total"], *said["unknown"]):
        click.echo(line)


def train_command(made: Plan, overrides: dict[str, Any], data: str, has_model: bool) -> str:
    """Return the command that trains as advised.

    Args:
        made: the advised plan.
        overrides: settings of this command line; those of plan and train are kept.
        data: words that say which pairs are read, and how.
        has_model: whether recipe or command line name a model.
    """
    from mixdpo.recipe.recipe_file import yaml_text

    assert made.advice is not None
    treated = made.advice.routes != {"preference"}
    smoothed = "smoothed" in made.advice.routes
    words = ["--plan.name", "advised" if treated else "dpo"]
    of_plan = {key: value for key, value in overrides.get("plan", {}).items() if key != "name"}
    if not treated:
        of_plan = {key: value for key, value in of_plan.items() if key in ("metric", "seed")}
    of_train = {**overrides.get("train", {}), **({"label_smoothing": "per_pair"} if smoothed else {})}
    for section, values in (("plan", of_plan), ("model", overrides.get("model", {})), ("train", of_train)):
        for key, value in values.items():
            words += [f"--{section}.{key}", yaml_text(value)]
    if not has_model:
        words += ["--model", "MODEL"]
    return f"mixdpo train {data} {join(words)} --output RUN"
