"""The command `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixdpo.cli.options import FILE_OR_NAME
from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, data_words, recipe_of
from mixdpo.common.files import check_output_folder
from mixdpo.common.settings import merge
from mixdpo.common.tables import plain_console, results_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mixdpo.models.model_settings import ModelSettings


@click.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option(
    "--scores", type=FILE_OR_NAME, multiple=True, help="Parquet file with pair_id and margin/NAME; may be given again."
)
@click.option(
    "--tokenizer",
    type=FILE_OR_NAME,
    help="Model whose tokenizer counts tokens and checks the template. Default: the recipe's model.",
)
@click.option(
    "--against",
    type=FILE_OR_NAME,
    multiple=True,
    help="Evaluation set whose prompts must not be in DATA; may be given again.",
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("report"), show_default=True,
    help="Folder for report.html, report.json and flagged.parquet.",
)  # fmt: skip
@click.pass_obj
def audit(
    overrides: dict[str, Any],
    data: str | None,
    config: Path | None,
    scores: tuple[str, ...],
    tokenizer: str | None,
    against: tuple[str, ...],
    output: Path,
) -> None:
    """Show what is in DATA (file, folder or hub id; default: the recipe's), what will hurt, and what to do."""
    recipe = recipe_of(_with_tokenizer(overrides, tokenizer), config, data)
    settings = recipe.required("data")
    check_output_folder(output)

    from mixdpo.auditing.audit import audit as audit_pairs
    from mixdpo.auditing.audit_data import load_for_audit, with_scores
    from mixdpo.auditing.findings_table import findings_table
    from mixdpo.auditing.repairs import remaining_lines, repair_lines

    loaded_tokenizer = _load_tokenizer(recipe.model) if recipe.model else None
    pairs, load_report = load_for_audit(settings)
    for file in scores:
        pairs = with_scores(pairs, file)
    report = audit_pairs(
        pairs,
        tokenizer=loaded_tokenizer,
        token_settings=recipe.token_settings(),
        against=against,
        load_report=load_report,
        settings=recipe.audit,
        name=settings.path if isinstance(settings.path, str) else "DATA",
        on_command_line=data_words(overrides, data, config),
        report=str(output),
    )
    page = report.save(output)
    for line in load_report.lines():
        click.echo(line)
    found = f"{len(report.findings)} finding{'s' * (len(report.findings) != 1)}"
    findings = findings_table(f"audit: {found} in {len(pairs):,} pairs", report.findings)
    table = results_table(findings.title, *findings.headings, names=findings.names)
    for row in findings.rows:
        table.add_row(*row)
    plain_console().print(table if report.findings else f"no finding in {len(pairs):,} pairs")
    for line in _advice_lines(report.figures["advice"]):
        click.echo(line)
    if report.repairs is not None:
        for line in repair_lines(report.repairs.to_dict()):
            click.echo(line)
    for line in remaining_lines([one.to_dict() for one in report.findings if not one.advised]):
        click.echo(line)
    for step in report.next_steps:
        if report.repairs is None or step.command != report.repairs.command:
            click.echo(f"next: {step.command}")
    click.echo(f"report: {page}")


def _advice_lines(advice: dict[str, Any] | None) -> list[str]:
    """Return what the advice on hard pairs comes to, in as few lines as that takes; none without margins."""
    if advice is None:
        return []
    if advice["problem"] is not None:
        return [f"hard pairs: no advice, for {advice['problem']}"]
    said = advice["sentences"]
    wrong = [] if said["wrong_labels"] is None else [f"labels: {said['wrong_labels']}"]
    return [*wrong, f"hard pairs: {said['total']} See mixdpo advise."]


def _with_tokenizer(overrides: dict[str, Any], name: str | None) -> dict[str, Any]:
    """Return what the command line says, with the tokenizer of a model that is not the recipe's, nor its revision."""
    if name is None:
        return overrides
    overrides = merge({"model": {"name_or_path": name, "revision": None}}, overrides)
    return merge(overrides, {"model": {"tokenizer": name}})


def _load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    from mixdpo.models.loading import load_tokenizer  # imports PyTorch

    return load_tokenizer(settings)
