"""The command `pairs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mixdpo.cli.judge_options import judge_group, judge_options_named, judge_parameters
from mixdpo.cli.model_options import ANSWERING_GROUP, MODEL_OPTIONS, model_options
from mixdpo.cli.options import FILE_OR_NAME, refuse_options, settings_options
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.cli.topic_help import CommandOfGroups
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.pairs.rating_settings import RatingSettings
from mixdpo.pairs.selection_settings import SelectionSettings

if TYPE_CHECKING:
    from mixdpo.generation.find_model import Models
    from mixdpo.judges.judge_settings import JudgeSettings

_JUDGE: Final = "judge-"
_OF_PROMPTS: Final = (
    *(name for name in MODEL_OPTIONS if name != "models"),
    *judge_parameters(_JUDGE),
    *(field.name for cls in (GenerationSettings, RatingSettings) for field in fields(cls) if field.name != "seed"),
    *("limit", "dry_run"),
)
"""Options without effect on answers that are rated."""


@click.command(
    "pairs",
    cls=CommandOfGroups,
    groups={
        "answers": ANSWERING_GROUP,
        "judge": judge_group(_JUDGE, *(field.name for field in fields(RatingSettings) if field.name != "seed")),
    },
)
@click.argument("source", type=FILE_OR_NAME)
@settings_options(SelectionSettings, "selection")
@click.option("--split", default="train", show_default=True, help="Split of SOURCE, or a slice such as train[:100].")
@click.option("--limit", type=click.IntRange(min=1), help="Answer the first prompts only.")
@model_options(required=False)
@settings_options(GenerationSettings, "generation", leave_out=["samples", "seed"])
@click.option("--samples", type=click.IntRange(min=1), help="Answers to each prompt; default: 8.")
@judge_options_named(_JUDGE)
@settings_options(RatingSettings, "rating", leave_out=["seed"])
@click.option("--dry-run", is_flag=True, help="Say what answers and ratings would take, and stop.")
@click.option("--output", "-o", type=click.Path(path_type=Path),
              help="Pairs: .parquet, .jsonl, .json or .csv. Left out: the table alone.")  # fmt: skip
def pairs(
    source: str, selection: SelectionSettings, split: str, limit: int | None, models: Callable[[], Models],
    batch_size: int | None, generation: Callable[..., GenerationSettings], samples: int | None,
    judges: Callable[[], list[JudgeSettings]], rating: Callable[..., RatingSettings], dry_run: bool,
    output: Path | None,
) -> None:  # fmt: skip
    """Make pairs of several rated answers to each prompt, and show what every rule makes of them first.

    SOURCE (file, folder or hub id) holds rated answers; with --model and --judge it holds prompts, which are answered
    and rated first. Answers and ratings are then kept beside OUTPUT, and a run that was stopped goes on where it was.
    """
    if not click.get_current_context().params["models"]:
        refuse_options("of prompts, which --model answers", *_OF_PROMPTS)
        _choose(source, split, selection, output)
        return
    if output is None or not click.get_current_context().params["judge"]:
        raise click.UsageError("To make pairs of prompts, give --model, --judge and --output.")
    from mixdpo.common.progress import pairs_bar
    from mixdpo.common.settings import read_yaml
    from mixdpo.data.pair_files import check_pairs_output
    from mixdpo.generation.output_files import report_file
    from mixdpo.pairs.from_prompts import PairFiles, Prompts, pairs_from_prompts, planned
    from mixdpo.pairs.pair_making_settings import SAMPLES, PairMakingSettings
    from mixdpo.pairs.rating_report import rating_lines

    quiet_libraries()
    check_pairs_output(output)
    settings = PairMakingSettings(
        generation=generation(samples=SAMPLES if samples is None else samples, seed=selection.seed),
        judge=judges(),
        rating=rating(seed=selection.seed),
        selection=selection,
    )
    if batch_size is not None:
        settings = replace(settings, batch_size=batch_size)
    prompts, files = Prompts(source=source, split=split, limit=limit), PairFiles.of_output(output)
    named = models()
    for line in planned(settings, named, prompts, files):
        click.echo(line)
    if dry_run:
        return
    made = pairs_from_prompts(settings, named, prompts, files, pairs_bar)
    for line in rating_lines(read_yaml(report_file(files.folder / files.rated))):
        click.echo(line)
    _show(made, output)


def _choose(source: str, split: str, selection: SelectionSettings, output: Path | None) -> None:
    from mixdpo.data.pair_files import check_pairs_output
    from mixdpo.pairs.answered import read_answered
    from mixdpo.pairs.make_pairs import make_pairs

    quiet_libraries()
    if output is not None:
        check_pairs_output(output)
    _show(make_pairs(read_answered(source, split), selection), output)


def _show(made: Any, output: Path | None) -> None:
    """Print what was left out and what every rule gives, then write the pairs."""
    from mixdpo.common.tables import as_text
    from mixdpo.pairs.make_pairs import report_lines, rules_table, save_made_pairs

    for line in report_lines(made.report):
        click.echo(line)
    click.echo(as_text(rules_table(made.report)))
    if output is not None:
        report = save_made_pairs(made, output)
        click.echo(f"pairs: {output}; report: {report}")
