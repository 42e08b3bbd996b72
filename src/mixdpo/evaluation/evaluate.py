"""The loop over all benchmarks: measure, or read stored verdicts or let a judge decide; score, and store the result.

A judge's verdicts are cached by content, and measured benchmarks keep what is finished beside the result: a run
that was stopped goes on when it is started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mixdpo.common.errors import InputError
from mixdpo.common.files import check_output, forget_unfinished, write_json
from mixdpo.common.progress import pairs_bar
from mixdpo.evaluation.benchmark import Benchmark, JudgedBenchmark, MeasuredBenchmark, Record, Say, Scored
from mixdpo.evaluation.items import write_items
from mixdpo.evaluation.result import EvaluationResult
from mixdpo.evaluation.sentences import prompt_count
from mixdpo.generation.answer_files import ReasoningCount
from mixdpo.judges.language_model import LanguageJudge
from mixdpo.judges.task import JudgeRun, at_temperature, run_task


def verdicts_file(output: Path) -> Path:
    """Return where a judge's verdicts for a result are stored: beside it."""
    return output.with_name(f"{output.name.removesuffix('.json')}.verdicts.jsonl")


def items_file(output: Path) -> Path:
    """Return where the items of a result are stored: beside it."""
    return output.with_name(f"{output.stem}.items.parquet")


def evaluate(
    benchmark: Benchmark,
    options: Any,
    output: Path,
    by: Sequence[Path] | JudgeRun = (),
    say: Say = click.echo,
) -> EvaluationResult | None:
    """Score models on a benchmark and write the result, with its items beside it.

    Args:
        benchmark: of `BENCHMARKS`.
        options: its own.
        output: the JSON file of the result.
        by: of a benchmark with a judge, files of stored verdicts, or who judges.
        say: see `Say`.

    Returns:
        The content of the result file; None after a dry run.

    Raises:
        InputError: the output cannot be written, or what is read is wrong.
        RunError: the judge failed.
    """
    check_output(output)
    if isinstance(benchmark, MeasuredBenchmark):
        return _stored(benchmark, benchmark.measure(options, output, say), {}, output, say)
    assert isinstance(benchmark, JudgedBenchmark)
    if isinstance(by, JudgeRun):
        run = _judged(benchmark, options, by, verdicts_file(output), say)
        if run is None:
            return None
        return _stored(benchmark, benchmark.score([verdicts_file(output)], options, run["settings"]), run, output, say)
    if not by or (len(by) > 1 and not benchmark.several_judges):
        raise InputError(f"{len(by)} files of verdicts", hint="give one; compare puts several results together")
    files = list(map(str, by))
    run = {"verdicts": files if benchmark.several_judges else files[0]}
    return _stored(benchmark, benchmark.score(by, options, None), run, output, say)


def _judged(benchmark: JudgedBenchmark, options: Any, run: JudgeRun, file: Path, say: Say) -> dict[str, Any] | None:
    """Say what a run takes and, unless that is all that is wanted, run it; return what `run_task` returns."""
    if not run.dry_run:
        benchmark.check(options)
    if run.judge.in_words and run.sources.judge_prompt is None:
        raise InputError(
            "a language model needs a judge prompt", hint=f"give --judge-prompt FILE: {benchmark.judge_prompt}"
        )
    task = benchmark.task(run.sources, options)
    if isinstance(run.judge, LanguageJudge):
        task = at_temperature(task, run.judge.temperature)
    prompts = ", ".join(f"{prompt_count(count)} of {model}" for model, count in task.prompts.items())
    say(f"{prompts}; {run.judge.estimate(task.all_items())}")
    if run.dry_run:
        return None
    record = run_task(task, run.judge, file, pairs_bar("verdicts", "verdicts"))
    say(f"verdicts: {file}")
    calls = record["judge"]
    for failure, count in calls["failed_calls"].items():
        say(f"{count:,} without a reply, which another run asks for again: {failure}", err=True)
    if calls["unread_verdicts"]:
        say(_unread_line(calls), err=True)
    return record


def _unread_line(calls: Record) -> str:
    replies = calls["unread_replies"]
    first = f"the first ends in {replies['first']!r}" if replies["first"] else "the first is empty"
    cut = f"; {replies['cut']:,} are cut at the longest judgement: set --judge-max-tokens" if replies["cut"] else ""
    return f"{calls['unread_verdicts']:,} of {calls['calls']:,} replies hold no verdict; {first}{cut}"


def _stored(benchmark: Benchmark, scored: Scored, run: Record, output: Path, say: Say) -> EvaluationResult:
    write_items(items_file(output), scored.items)
    result = EvaluationResult(
        {
            "benchmark": scored.name or benchmark.stored_as[0],
            "settings": {**scored.settings, **run.get("settings", {})},
            "models": dict(scored.models),
            **scored.others,
            **{key: value for key, value in run.items() if key != "settings"},
            "items": items_file(output).name,
        }
    )
    for name, count in result.get("reasoning", {}).items():
        say(f"{name}: {ReasoningCount(**count)}")
    write_json(output, result)
    forget_unfinished(output)
    return result
