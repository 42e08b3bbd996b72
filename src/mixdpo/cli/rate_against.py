"""The command `rate --against`: pairs rated together with policies' own answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mixdpo.cli.judge_options import found_judges
from mixdpo.cli.options import Command, parameter_name, settings_options
from mixdpo.common.tables import percent_text, plain_console, results_table
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.pairs.against_settings import AgainstSettings

if TYPE_CHECKING:
    from mixdpo.judges.judge_settings import JudgeSettings
    from mixdpo.pairs.rating_settings import RatingSettings

_PREFIX: Final = "against-"
"""What the options begin with that say how the models of policies answer."""
_GIVEN: Final = ("samples", "seed")
"""Settings of the answers that those of the policies and of the rating say."""
WITH_AGAINST: Final = (
    *(field.name for field in fields(AgainstSettings) if field.name != "against"),
    *(parameter_name(field.name, _PREFIX) for field in fields(GenerationSettings) if field.name not in _GIVEN),
)
"""Names of the options that only pairs and policies have."""
_COUNTS: Final = {
    "prompts_without_answer": "prompts without an answer; of their pairs the quality is not known",
    "empty": "empty answers, which no judge is asked about and which count for nothing",
    "cut": "answers that the model did not end",
}
"""What is said of counts in the report."""


def against_options(command: Command) -> Command:
    """Give a command the options of policies, and the arguments `against` and, of samples and seed, `generation`."""
    with_answers = settings_options(GenerationSettings, "generation", leave_out=_GIVEN, prefix=_PREFIX)(command)
    return settings_options(AgainstSettings, "against")(with_answers)


def rate_pairs_against(
    source: str,
    judges: Callable[[], list[JudgeSettings]],
    rating: RatingSettings,
    settings: AgainstSettings,
    answers: Callable[..., GenerationSettings],
    dry_run: bool,
    output: Path,
) -> None:
    """Write pairs with how good their answers are against policies' own, and show it."""
    from mixdpo.common.files import write_json
    from mixdpo.common.progress import pairs_bar
    from mixdpo.data.data_settings import DataSettings
    from mixdpo.data.pair_files import beside, check_pairs_output, save_pairs
    from mixdpo.difficulty.scored_pairs import load_pairs_with_report
    from mixdpo.generation.output_files import report_file
    from mixdpo.pairs.against import answers_to_rate, rate_against
    from mixdpo.pairs.answered import write_answered
    from mixdpo.pairs.own_answers import estimates_of_models, own_answers, planned_answers, policies_named
    from mixdpo.pairs.rate import estimates
    from mixdpo.pairs.rating_report import rating_lines
    from mixdpo.pairs.spoken import PairsByPrompt

    check_pairs_output(output)
    generation, found = answers(samples=settings.against_samples, seed=rating.seed), found_judges(judges)
    policies, url = policies_named(settings.against), settings.against_endpoint
    dataset, report = load_pairs_with_report(DataSettings(path=source), keep_columns=True)
    for line in report.lines():
        click.echo(line)
    pairs = PairsByPrompt.of(dataset, settings.limit, rating.seed)
    of_models = estimates_of_models(policies, pairs, generation, url, output)
    of_judges = estimates(answers_to_rate(pairs, planned_answers(policies, pairs, generation)), found, rating)
    for name, line in (*of_models.items(), *of_judges.items()):
        click.echo(f"{name}: {line}")
    if dry_run:
        return
    own = own_answers(policies, pairs, generation, url, output, lambda name: pairs_bar(name, "answers"))
    rated = rate_against(dataset, pairs, own, found, rating, lambda name: pairs_bar(name, "verdicts"))
    save_pairs(rated.pairs, output)
    rated_file = beside(output, ".rated.jsonl")
    write_answered(rated_file, rated.answers)
    write_json(report_file(output), rated.report)
    for line in rating_lines(rated.report["rating"]):
        click.echo(line)
    _show(rated.report)
    click.echo(f"pairs: {output}; the policies' answers, rated: {rated_file}; report: {report_file(output)}")


def _show(report: dict[str, Any]) -> None:
    table = results_table(
        f"quality against policies, {report['rated']:,} of {report['prompts']:,} prompts",
        "policy", "answers", "pairs", "chosen", "wins", "rejected", "wins",
    )  # fmt: skip
    for name, one in report["policies"].items():
        quality = [
            "-" if one[f"{side}{what}"] is None else form(one[f"{side}{what}"])
            for side in ("chosen", "rejected")
            for what, form in (("", "{:+.3g}".format), ("_wins", percent_text))
        ]
        table.add_row(name, f"{one['answers']:,}", f"{one['known']:,} of {one['pairs']:,}", *quality)
    plain_console().print(table)
    for name, one in report["policies"].items():
        for count, words in _COUNTS.items():
            if one[count]:
                click.echo(f"{name}: {one[count]:,} {words}", err=True)
