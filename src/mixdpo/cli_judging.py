"""What the judge verbs of `eval` share: the options of a judge run, and the run itself with its plan and progress."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixdpo.cli_shared import quiet_libraries

if TYPE_CHECKING:
    from mixdpo.judging.judges import Judge
    from mixdpo.judging.plans import Sources
    from mixdpo.judging.run import Plan

_OPTIONS = (
    click.option("--verdicts", type=click.Path(path_type=Path), multiple=True,
                 help="Score these stored verdicts instead of running a judge."),
    click.option("--model", "models", multiple=True, metavar="[NAME=]FILE",
                 help="Answers of a model; may be given again."),
    click.option("--judge", help="Who judges: a name at the endpoint, a model's folder or hub id, or a command."),
    click.option("--judge-kind", type=click.Choice(["endpoint", "model", "reward", "program"]),
                 help="Default: endpoint with --endpoint, else model or reward, by the architecture."),
    click.option("--judge-prompt", type=click.Path(path_type=Path), help="What a language model is asked."),
    click.option("--questions", type=click.Path(path_type=Path), help="Prompts by id, for answers without them."),
    click.option("--endpoint", help="URL of an OpenAI-compatible endpoint, up to and with /v1."),
    click.option("--key-variable", default="OPENAI_API_KEY", show_default=True,
                 help="Environment variable that holds the endpoint's key; it may be unset."),
    click.option("--concurrency", type=click.IntRange(min=1), default=16, show_default=True, help="Calls at a time."),
    click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=300.0, show_default=True,
                 help="Seconds until a call is tried again."),
    click.option("--max-retries", type=click.IntRange(min=0), default=8, show_default=True,
                 help="Times a call is tried again."),
    click.option("--token-limit", type=click.Choice(["max_tokens", "max_completion_tokens"]), default="max_tokens",
                 show_default=True, help="What the endpoint calls the longest reply."),
    click.option("--dollars-in", type=click.FloatRange(min=0), help="Price of a million tokens read."),
    click.option("--dollars-out", type=click.FloatRange(min=0), help="Price of a million tokens written."),
    click.option("--max-tokens", type=click.IntRange(min=1), help="Longest judgement; default: the benchmark's."),
    click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True,
                 help="Cases at once, of a judge on this machine."),
    click.option("--limit", type=click.IntRange(min=1), help="Judge the first prompts only: a trial, no result."),
    click.option("--dry-run", is_flag=True, help="Say what the run would take, and stop."),
    click.option("--output", "-o", type=click.Path(path_type=Path), required=True,
                 help="JSON file of the results; a judge's verdicts are stored beside it."),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """The shared options, as given."""

    verdicts: tuple[Path, ...]
    models: tuple[str, ...]
    judge: str | None
    judge_kind: Any
    judge_prompt: Path | None
    questions: Path | None
    endpoint: str | None
    key_variable: str
    concurrency: int
    timeout: float
    max_retries: int
    token_limit: str
    dollars_in: float | None
    dollars_out: float | None
    max_tokens: int | None
    batch_size: int
    limit: int | None
    dry_run: bool
    output: Path

    def stored(self) -> tuple[Path, ...]:
        """Return the stored verdicts, nothing where a judge is to run.

        Raises:
            click.UsageError: both or neither is given.
        """
        if self.verdicts and (self.judge or self.models):
            raise click.UsageError("--verdicts are scored as they are, without --model and --judge.")
        if not self.verdicts and not (self.judge and self.models):
            raise click.UsageError("Give --verdicts FILE, or --model FILE and --judge NAME to run a judge.")
        return self.verdicts

    def one_stored(self) -> Path | None:
        """Return the one file of stored verdicts, None where a judge is to run."""
        stored = self.stored()
        if len(stored) > 1:
            raise click.UsageError("Give --verdicts once; mixdpo compare puts several results side by side.")
        return stored[0] if stored else None

    def find_judge(self) -> Judge:
        """Return the judge, without asking it anything."""
        from mixdpo.evaluation.endpoint import EndpointSettings
        from mixdpo.judging.judges import JudgeSettings, find_judge

        quiet_libraries()
        endpoint = None
        if self.endpoint is not None:
            endpoint = EndpointSettings(
                model=self.judge or "",
                base_url=self.endpoint,
                api_key_env=self.key_variable,
                concurrency=self.concurrency,
                timeout=self.timeout,
                max_retries=self.max_retries,
                token_limit=self.token_limit,
                dollars_in=self.dollars_in,
                dollars_out=self.dollars_out,
            )
        return find_judge(
            JudgeSettings(judge=self.judge or "", kind=self.judge_kind, endpoint=endpoint, batch_size=self.batch_size)
        )

    def sources(self, judge: Judge, where: str, **others: Path | None) -> Sources:
        """Return the files of the run.

        Args:
            judge: who is asked; one that is not asked in words takes no judge prompt.
            where: where the benchmark's judge prompt can be had.
            **others: more files of `Sources`.
        """
        from mixdpo.errors import InputError
        from mixdpo.judging.judges import LanguageJudge
        from mixdpo.judging.plans import Sources

        in_words = isinstance(judge, LanguageJudge)
        if in_words and self.judge_prompt is None:
            raise InputError("a language model needs a judge prompt", mend=f"give --judge-prompt FILE: {where}")
        if not in_words and self.judge_prompt is not None:
            raise InputError(f"the judge {judge.name} is asked nothing in words", mend="leave out --judge-prompt")
        return Sources(
            models=[_named(given) for given in self.models],
            judge_prompt=self.judge_prompt,
            questions=self.questions,
            limit=self.limit,
            max_tokens=self.max_tokens,
            **others,
        )

    def run(self, judge: Judge, plan: Plan) -> dict[str, Any] | None:
        """Say what the run takes and, unless that is all that is wanted, run it and store the verdicts.

        Returns:
            What `run_plan` returns, None after a dry run.
        """
        from mixdpo.judging.run import run_plan, verdicts_file
        from mixdpo.passes import pairs_bar

        prompts = ", ".join(f"{count:,} prompts of {model}" for model, count in plan.prompts.items())
        click.echo(f"{prompts}; {judge.plan(plan.cases)}")
        if self.dry_run:
            return None
        file = verdicts_file(self.output)
        run = run_plan(plan, judge, file, pairs_bar("verdicts", "verdicts"))
        click.echo(f"verdicts: {file}")
        told = run["judge"]
        for failure, count in told["failed_calls"].items():
            click.echo(f"{count:,} without a reply, which another run asks for again: {failure}", err=True)
        if told["unread_verdicts"]:
            click.echo(f"{told['unread_verdicts']:,} of {told['calls']:,} replies hold no verdict", err=True)
        return run


def judge_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a verb, which gets them together as `judging`."""

    @functools.wraps(command)
    def bundled(**given: Any) -> None:
        shared = {one.name: given.pop(one.name) for one in fields(JudgeOptions)}
        command(judging=JudgeOptions(**shared), **given)

    for option in reversed(_OPTIONS):
        bundled = option(bundled)
    return bundled


def echo_notes(result: dict[str, Any]) -> None:
    """Print what a reader must know of a result: differences, comparability, signs of degenerate models."""
    for one in result.get("differences", []):
        gain = "{estimate:+.2f} ({low:+.2f} to {high:+.2f})".format(**one["gain"])
        click.echo(f"{one['second']} - {one['first']}: {gain}, adjusted p = {one['p_adjusted']:.3g}")
    for reason in result.get("comparable", {}).get("because", []):
        click.echo(f"not comparable with published numbers: {reason}")
    for model, one in result["models"].items():
        for flag in one.get("flags", []):
            click.echo(f"note: {model}: {flag}")


def _named(given: str) -> tuple[str | None, Path]:
    name, equals, file = given.partition("=")
    return (name, Path(file)) if equals and not Path(given).exists() else (None, Path(given))
