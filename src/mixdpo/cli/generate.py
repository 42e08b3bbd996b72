"""The verb `generate`. It only parses and calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixdpo.cli.shared import quiet_libraries, value_text
from mixdpo.common.terminal import results_table

if TYPE_CHECKING:
    from mixdpo.generation.chat_model import ChatModel


@click.command("generate")
@click.argument("prompts")
@click.option("--model", required=True, help="Folder or hub id; with --endpoint the model's name there.")
@click.option("--adapter", help="Folder or hub id of a trained adapter on the model.")
@click.option("--endpoint", help="URL of an OpenAI-compatible endpoint (vLLM, a provider), up to and with /v1.")
@click.option("--key-variable", default="OPENAI_API_KEY", show_default=True,
              help="Environment variable that holds the endpoint's key; it may be unset.")  # fmt: skip
@click.option("--token-limit", type=click.Choice(["max_tokens", "max_completion_tokens"]), default="max_tokens",
              show_default=True, help="What the endpoint calls the longest reply.")  # fmt: skip
@click.option("--dollars-in", type=click.FloatRange(min=0), help="Price of a million tokens that an endpoint reads.")
@click.option("--dollars-out", type=click.FloatRange(min=0), help="Price of a million tokens that it writes.")
@click.option("--split", default="train", show_default=True,
              help="Split of PROMPTS, or a slice such as train[:100].")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Answer the first prompts only.")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), help="Longest answer; default: 2,048, for MT-Bench 1,024."
)
@click.option("--temperature", type=float, help="Default: 0 (greedy), for MT-Bench its own by category.")
@click.option("--top-p", type=float, help="Share of probability that is sampled from.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampling.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Answers at once; default: 32, of an endpoint 16.")
@click.option("--dry-run", is_flag=True, help="Say how much there is to read and write, and stop.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True,
              help="Answers: .jsonl, or .json for one list. A report is written beside them.")  # fmt: skip
def generate(
    prompts: str, model: str, adapter: str | None, endpoint: str | None, key_variable: str,
    token_limit: str, dollars_in: float | None, dollars_out: float | None, split: str, limit: int | None,
    max_new_tokens: int | None, temperature: float | None, top_p: float | None, seed: int, batch_size: int | None,
    dry_run: bool, output: Path,
) -> None:  # fmt: skip
    """Let a model answer PROMPTS (file, folder or hub id) in its chat template.

    A run that was stopped goes on where it was when it is started again. Of an endpoint, finished answers are kept
    beside OUTPUT until all are there.
    """
    from mixdpo.common.errors import RunError
    from mixdpo.common.files import write_json
    from mixdpo.common.progress import pairs_bar
    from mixdpo.generation.generate import GenerationSettings, generate, planned_requests
    from mixdpo.generation.output_files import answer_report, check_writable, report_file, write_answers
    from mixdpo.generation.prompts import read_prompts
    from mixdpo.generation.unfinished import forget_unfinished, unfinished

    quiet_libraries()
    check_writable(output)
    settings = GenerationSettings(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    kept = unfinished(output)
    chat_model = _chat_model(
        model, adapter, endpoint, key_variable, token_limit, (dollars_in, dollars_out), batch_size, kept
    )
    wanted = read_prompts(prompts, split, limit)
    if dry_run or endpoint is not None:
        click.echo(f"to do: {chat_model.estimate(planned_requests(wanted, settings))}")
    if endpoint is not None and _holds_replies(kept):
        click.echo(f"answers of an earlier run are in {kept}; remove it if {model} has become another model since")
    if dry_run:
        return
    drawn = generate(wanted, chat_model, settings, lambda name: pairs_bar(name, "answers"))
    report = answer_report(drawn, chat_model, settings)
    if not report["answered"]:
        raise RunError(f"no prompt was answered; the first failure: {next(iter(report['failures']))}")
    write_answers(output, drawn, chat_model.name)
    write_json(report_file(output), report)
    if report["answered"] == report["prompts"]:
        forget_unfinished(output)
    _show(report)
    click.echo(f"answers: {output}; report: {report_file(output)}")


def _holds_replies(folder: Path) -> bool:
    from mixdpo.generation.reply_cache import reply_cache

    if not folder.is_dir():  # a dry run makes none
        return False
    with reply_cache(folder) as cache:
        return cache.count() > 0


def _chat_model(
    model: str, adapter: str | None, endpoint: str | None, key_variable: str, token_limit: str,
    prices: tuple[float | None, float | None], batch_size: int | None, kept: Path,
) -> ChatModel:  # fmt: skip
    from mixdpo.common.errors import InputError

    at_once: dict[str, Any] = {}
    if endpoint is None:
        from mixdpo.generation.local_model import LocalModel
        from mixdpo.models.model_settings import ModelSettings

        if prices != (None, None):
            raise InputError(
                "--dollars-in and --dollars-out are prices of an endpoint", hint="give --endpoint, or leave them out"
            )
        if batch_size is not None:
            at_once = {"batch_size": batch_size}
        return LocalModel(ModelSettings(name_or_path=model, adapter=adapter), **at_once)
    from mixdpo.generation.chat_model import EndpointModel
    from mixdpo.generation.endpoint import EndpointSettings

    if adapter is not None:
        raise InputError("--adapter is of a local model", hint="give the endpoint's name of the adapter as --model")
    if batch_size is not None:
        at_once = {"concurrency": batch_size}
    return EndpointModel(
        EndpointSettings(
            model=model, base_url=endpoint, api_key_env=key_variable, token_limit=token_limit, dollars_in=prices[0],
            dollars_out=prices[1], **at_once,
        ),
        kept,
    )  # fmt: skip


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    table = results_table(f"answers of {report['model']}", "what", "value")
    table.show_header = False
    table.add_row("answered", f"{report['answered']:,} of {report['prompts']:,}")
    table.add_row("not ended by the model", f"{report['unfinished_share']:.1%}")
    for unit in ("tokens", "characters"):
        spread = report[unit] or {}
        mean, largest = (value_text(spread.get(key), 0) for key in ("mean", "largest"))
        table.add_row(f"{unit}, mean and longest", f"{mean}, {largest}")
    Console().print(table)
    for failure, count in report["failures"].items():
        click.echo(f"{count:,} without an answer: {failure}", err=True)
    for flag in report["flags"]:
        click.echo(f"note: {flag}")
