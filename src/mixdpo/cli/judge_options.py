"""What the judge verbs of `eval` share: the options of a judge run, and the run itself with its plan and progress."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixdpo.cli.options import given_options, refuse_options
from mixdpo.cli.shared import quiet_libraries

if TYPE_CHECKING:
    from mixdpo.evaluation.benchmarks.tasks import Sources
    from mixdpo.judges.language_model import Judge
    from mixdpo.judges.task import JudgeTask, Temperature


class _Temperature(click.ParamType):
    name = "NUMBER|default"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Temperature:
        if value == "default":
            return "default"
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < 100:
            self.fail(f"{value!r} is neither a number from 0 nor default.", param, ctx)
        return number


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
    click.option("--judge-temperature", type=_Temperature(),
                 help="Left out: the benchmark's, mostly 0; default: none is sent, for models with a fixed one."),
    click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True,
                 help="Cases at once, of a judge on this machine."),
    click.option("--limit", type=click.IntRange(min=1), help="Judge the first prompts only: a trial, no result."),
    click.option("--dry-run", is_flag=True, help="Say what the run would take, and stop."),
    click.option("--output", "-o", type=click.Path(path_type=Path), required=True,
                 help="JSON file of the results; a judge's verdicts are stored beside it."),
)  # fmt: skip
_OF_ENDPOINTS = (
    "key_variable", "concurrency", "timeout", "max_retries", "token_limit", "dollars_in", "dollars_out"
)  # fmt: skip
_OF_STORED = {"verdicts", "output"}
_OF_VERBS = ("baseline", "annotator", "references")
"""Options of some verbs that only a run of a judge reads, as all shared ones do but those of `_OF_STORED`."""


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
    token_limit: Any
    dollars_in: float | None
    dollars_out: float | None
    max_tokens: int | None
    judge_temperature: Temperature | None
    batch_size: int
    limit: int | None
    dry_run: bool
    output: Path

    def stored(self, *read: str) -> tuple[Path, ...]:
        """Return the stored verdicts, nothing where a judge is to run.

        Args:
            *read: options that the verb reads with stored verdicts too.

        Raises:
            click.UsageError: both or neither is given.
        """
        of_a_run = {one.name for one in fields(self)} - _OF_STORED - set(read)
        unread = given_options(*of_a_run, *_OF_VERBS)
        if self.verdicts and unread:
            raise click.UsageError(f"--verdicts are scored as they are, without {' and '.join(unread)}.")
        if not self.verdicts and not (self.judge and self.models):
            raise click.UsageError("Give --verdicts FILE, or --model FILE and --judge NAME to run a judge.")
        return self.verdicts

    def one_stored(self, *read: str) -> Path | None:
        """Return the one file of stored verdicts, None where a judge is to run; see `stored`."""
        stored = self.stored(*read)
        if len(stored) > 1:
            raise click.UsageError("Give --verdicts once; mixdpo compare puts several results side by side.")
        return stored[0] if stored else None

    def find_judge(self) -> Judge:
        """Return the judge, without asking it anything."""
        from mixdpo.generation.generation_settings import EndpointSettings
        from mixdpo.judges.language_model import JudgeSettings, find_judge

        quiet_libraries()
        endpoint = None
        if self.endpoint is None:
            refuse_options("no effect without --endpoint", *_OF_ENDPOINTS)
        else:
            refuse_options("no effect with --endpoint, which has --concurrency", "batch_size")
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
        from mixdpo.common.errors import InputError
        from mixdpo.evaluation.benchmarks.tasks import Sources
        from mixdpo.judges.language_model import LanguageJudge

        in_words = isinstance(judge, LanguageJudge)
        if in_words and self.judge_prompt is None:
            raise InputError("a language model needs a judge prompt", hint=f"give --judge-prompt FILE: {where}")
        if not in_words and (unread := given_options("judge_prompt", "judge_temperature", "max_tokens")):
            raise InputError(
                f"the judge {judge.name} is asked nothing in words", hint=f"leave out {' and '.join(unread)}"
            )
        return Sources(
            models=[_named(given) for given in self.models],
            judge_prompt=self.judge_prompt,
            questions=self.questions,
            limit=self.limit,
            max_tokens=self.max_tokens,
            **others,
        )

    def run(self, judge: Judge, plan: JudgeTask) -> dict[str, Any] | None:
        """Say what the run takes and, unless that is all that is wanted, run it and store the verdicts.

        Returns:
            What `run_plan` returns, None after a dry run.
        """
        from mixdpo.common.progress import pairs_bar
        from mixdpo.judges.language_model import LanguageJudge
        from mixdpo.judges.task import at_temperature, run_plan, verdicts_file

        if isinstance(judge, LanguageJudge):
            plan = at_temperature(plan, self.judge_temperature)

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
        from mixdpo.common.files import check_output

        check_output(given["output"])
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
