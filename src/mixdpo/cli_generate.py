"""The verb `generate`. It only parses and calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mixdpo.cli_shared import progress_bars, quiet_libraries, results_table, shown_progress, value_text


@click.command("generate")
@click.argument("prompts")
@click.option("--model", required=True, help="Folder or hub id; with --endpoint the model's name there.")
@click.option("--endpoint", help="URL of an OpenAI-compatible endpoint (a provider, vLLM, ...), up to and with /v1.")
@click.option("--key-variable", default="OPENAI_API_KEY", show_default=True,
              help="Environment variable that holds the endpoint's key; it may be unset.")  # fmt: skip
@click.option("--adapter", help="Folder or hub id of a trained adapter.")
@click.option("--split", help="Split of a data set of the hub; default: the usual ones in turn.")
@click.option("--limit", type=click.IntRange(min=1), help="Answer the first prompts only.")
@click.option("--max-new-tokens", type=int, help="Longest answer; default: 2,048, for MT-Bench 1,024.")
@click.option("--temperature", type=float, help="Default: greedy, for MT-Bench its own by category.")
@click.option("--top-p", type=float, help="Share of probability that is sampled from.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampling.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Answers at once.")
@click.option("--dry-run", is_flag=True, help="With --endpoint: say what the calls would be, and stop.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True,
              help="Answers as JSON lines; .json: one list. A report is written beside them.")  # fmt: skip
def generate(
    prompts: str, model: str, endpoint: str | None, key_variable: str, adapter: str | None, split: str | None,
    limit: int | None, max_new_tokens: int | None, temperature: float | None, top_p: float | None, seed: int,
    batch_size: int, dry_run: bool, output: Path,
) -> None:  # fmt: skip
    """Let a model answer PROMPTS (file or hub id), in its chat template; a broken run goes on where it was."""
    from mixdpo.answering.answers import (
        AnswerSettings,
        answer_report,
        draw_answers,
        first_requests,
        report_file,
        write_answers,
    )
    from mixdpo.answering.askers import Asker, EndpointAsker
    from mixdpo.answering.local import TransformersAsker
    from mixdpo.answering.prompts import read_prompts
    from mixdpo.errors import RunError
    from mixdpo.evaluation.endpoint import EndpointSettings, estimate
    from mixdpo.io import write_json
    from mixdpo.model import ModelSettings

    quiet_libraries()
    settings = AnswerSettings(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    wanted = read_prompts(prompts, split, limit)
    asker: Asker
    if endpoint is None:
        asker = TransformersAsker(ModelSettings(name_or_path=model, adapter=adapter), batch_size)
    else:
        called = EndpointSettings(model=model, base_url=endpoint, api_key_env=key_variable)
        click.echo(f"first turns: {estimate(first_requests(wanted, settings), called)}")
        asker = EndpointAsker(called)
    if dry_run:
        return
    with progress_bars() as bars:
        drawn = draw_answers(wanted, asker, settings, lambda name: shown_progress(bars, name))
    report = answer_report(drawn, asker, settings)
    if not report["answered"]:
        raise RunError(f"no prompt was answered; the first failure: {next(iter(report['failures']))}")
    write_answers(output, drawn, asker.name)
    write_json(report_file(output), report)
    table = results_table(f"answers of {asker.name}", "", "")
    table.add_row("answered", f"{report['answered']:,} of {report['prompts']:,}")
    table.add_row("not ended by the model", f"{report['unfinished_share']:.1%}")
    table.add_row(
        "tokens, mean and longest", f"{value_text(report['tokens']['mean'], 0)}, {report['tokens']['largest']:,.0f}"
    )
    _finish(table, report, output)


def _finish(table: Any, report: dict[str, Any], output: Path) -> None:
    from rich.console import Console

    Console().print(table)
    for failure, count in report["failures"].items():
        click.echo(f"{count:,} without an answer: {failure}", err=True)
    for flag in report["flags"]:
        click.echo(f"note: {flag}")
    click.echo(f"answers: {output}")
