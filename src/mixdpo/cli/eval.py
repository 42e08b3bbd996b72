"""`eval`: a command for every entry of `BENCHMARKS`, made when it is asked for. It only parses and calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixdpo.cli.judge_options import found_judges, judge_options
from mixdpo.cli.options import FILE_OR_NAME, given_options, refuse_options, settings_options
from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, quiet_libraries, recipe_of
from mixdpo.common.files import check_output
from mixdpo.common.processes import started_processes
from mixdpo.common.tables import print_part

if TYPE_CHECKING:
    from mixdpo.evaluation.benchmark import Benchmark, JudgedBenchmark, MeasuredBenchmark
    from mixdpo.judges.answers import AnswerSources
    from mixdpo.judges.judge_settings import JudgeSettings
    from mixdpo.judges.task import JudgeRun


class _Benchmarks(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        from mixdpo.evaluation.benchmarks import BENCHMARKS

        return list(BENCHMARKS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from mixdpo.evaluation.benchmark import JudgedBenchmark, MeasuredBenchmark
        from mixdpo.evaluation.benchmarks import BENCHMARKS

        benchmark = BENCHMARKS.get(cmd_name)
        if isinstance(benchmark, MeasuredBenchmark):
            return _measured(cmd_name, benchmark)
        return _judged(cmd_name, benchmark) if isinstance(benchmark, JudgedBenchmark) else None


@click.group("eval", cls=_Benchmarks)
def evaluate() -> None:
    """Benchmarks: win rates, ratings and scores with intervals, by a judge, from its stored verdicts, or measured."""


def _checked(ctx: click.Context, option: click.Parameter, output: Path) -> Path:
    check_output(output)
    return output


_output = click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, callback=_checked,
    help="JSON file of the results; items, and a judge's verdicts, are stored beside it.",
)  # fmt: skip


def _measured(name: str, benchmark: MeasuredBenchmark) -> click.Command:
    """Make the command of a benchmark without a judge.

    Fields of its options with `argument` in their metadata are the command's arguments; those with `section` are read
    from a recipe.
    """
    arguments = [field.name for field in fields(benchmark.options) if "argument" in field.metadata]
    sections = {
        field.name: field.metadata["section"] for field in fields(benchmark.options) if "section" in field.metadata
    }

    @settings_options(benchmark.options, "options", leave_out=[*arguments, *sections])
    @_output
    @click.pass_obj
    def command(
        overrides: dict[str, Any], options: Any, output: Path, data: str | None = None, config: Path | None = None,
        **given: Any,
    ) -> None:  # fmt: skip
        quiet_libraries()
        if sections:
            recipe = recipe_of(overrides, config, data)
            for field, section in sections.items():
                wanted = "data" if section == "eval_data" and data is not None else section
                given[field] = recipe.train if wanted == "train" else recipe.required(wanted)
        _evaluate(benchmark, options(**given) if callable(options) else options, output)

    if sections:
        command = data_argument(config_option(command))
    for argument in arguments:
        command = click.argument(argument, type=FILE_OR_NAME, nargs=-1, required=True)(command)
    return click.command(name, cls=CommandWithSettings if sections else None, help=benchmark.help)(command)


def _judged(name: str, benchmark: JudgedBenchmark) -> click.Command:
    """Make the command of a benchmark whose judge runs, or has left its verdicts."""
    from mixdpo.judges.answers import AnswerSources

    own = {field.name for field in fields(benchmark.options)}
    both = [field.name for field in fields(AnswerSources) if field.name in own]
    read_too = {
        "verdicts",
        "output",
        *(f.name for f in fields(benchmark.options) if "judge_only" not in f.metadata),
    }

    @click.option("--verdicts", type=click.Path(path_type=Path), multiple=True,
                  help="Score these stored verdicts instead of running a judge.")  # fmt: skip
    @settings_options(AnswerSources, "sources", leave_out=both)
    @judge_options
    @click.option("--max-new-tokens", type=click.IntRange(min=1),
                  help="Longest answer of a model that answers first; default: 2,048 tokens.")  # fmt: skip
    @click.option("--dry-run", is_flag=True, help="Say what the run would take, and stop.")
    @_output
    @settings_options(benchmark.options, "options")
    def command(
        verdicts: tuple[Path, ...], sources: Any, judges: Callable[[], list[JudgeSettings]],
        max_new_tokens: int | None, dry_run: bool, output: Path, options: Any,
    ) -> None:  # fmt: skip
        from mixdpo.judges.task import JudgeRun

        context = click.get_current_context()
        if verdicts:
            if unread := given_options(*(context.params.keys() - read_too)):
                raise click.UsageError(f"--verdicts are scored as they are, without {' and '.join(unread)}.")
            if len(verdicts) > 1 and not benchmark.several_judges:
                raise click.UsageError("Give --verdicts once; mixdpo compare puts several results side by side.")
        elif not given_options("judge") or not given_options("models"):
            raise click.UsageError("Give --verdicts FILE, or --model FILE and --judge NAME to run a judge.")
        for reason, names in benchmark.without_effect(options, bool(verdicts)):
            refuse_options(reason, *names)
        if verdicts:
            _evaluate(benchmark, options, output, verdicts)
            return
        quiet_libraries()
        if len(context.params["judge"]) > 1:
            raise click.UsageError("Give --judge once; the verdicts of several are scored together from their files.")
        (judging,) = found_judges(judges)
        files = sources(**{name: getattr(options, name) for name in both}) if both else sources
        answered = _answered(files, options, output, max_new_tokens, dry_run)
        if answered is None:
            return
        files = answered
        run = JudgeRun(judge=judging, sources=files, dry_run=dry_run)
        _evaluate(benchmark, options, output, run)

    return click.command(name, help=benchmark.help)(command)


def _answered(
    sources: AnswerSources, options: Any, output: Path, max_new_tokens: int | None, dry_run: bool
) -> AnswerSources | None:
    """Let those of the models answer that are no files of answers; what they write stands beside the output. A dry run
    says what that would take, and returns None."""
    from mixdpo.evaluation.contenders import is_answer_file

    if all(map(is_answer_file, sources.models)):
        refuse_options("no effect on files of answers", "max_new_tokens")
        return sources
    from mixdpo.common.progress import pairs_bar
    from mixdpo.evaluation.contenders import models_to_ask

    prompts = sources.questions or getattr(options, "baseline", None)
    models = models_to_ask(sources.models, prompts, sources.limit, max_new_tokens)
    if dry_run:
        for line in models.planned():
            click.echo(f"answers of {line}; their verdicts can be counted when they are there")
        return None
    return replace(sources, models=models.files(output, lambda name: pairs_bar(name, "answers")))


def _evaluate(benchmark: Benchmark, options: Any, output: Path, by: Sequence[Path] | JudgeRun = ()) -> None:
    """Evaluate, then print the table, where the result is, and what a reader must know of it."""
    from mixdpo.evaluation.evaluate import evaluate
    from mixdpo.evaluation.result import shown

    if started_processes()[0] > 0:  # it takes its share of the passes, and the first process writes and prints
        with tempfile.TemporaryDirectory() as folder:
            evaluate(benchmark, options, Path(folder) / output.name, by, lambda *words, **how: None)
        return
    result = evaluate(benchmark, options, output, by, click.echo)
    if result is None:
        return
    for part in shown(benchmark, result):
        print_part(part)
    click.echo(f"results: {output}")
