"""The verb `eval` and its benchmarks with a judge. It only parses and calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mixdpo.cli.judge_options import JudgeOptions, echo_notes, judge_options
from mixdpo.cli.options import refuse_options
from mixdpo.cli.shared import finish, interval_text, value_text
from mixdpo.common.terminal import results_table

_path = click.Path(path_type=Path)
_baseline = click.option(
    "--baseline", type=_path, help="Answers to compare with; default: the benchmark's, from the hub."
)
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")


@click.group("eval")
def evaluate() -> None:
    """Judge benchmarks: win rates and ratings with intervals, from stored verdicts or from a judge."""


@evaluate.command("alpaca-eval")
@judge_options
@_baseline
@click.option("--annotator", type=click.Choice(["weighted", "ranking"]), default="weighted", show_default=True,
              help="weighted reads the judge's log-probabilities, ranking its words.")  # fmt: skip
@click.option("--difficulty", type=_path, help="instruction_difficulty.csv; default: the hub's.")
@click.option("--gamed", type=_path, help="df_gamed.csv; default: the hub's.")
@click.option("--C", "C", type=click.FloatRange(min=0, min_open=True), help="L1 penalty; default: cross-validated.")
@click.option("--align", type=click.Choice(["instruction", "row"]), default="instruction", show_default=True,
              help="Which difficulty a verdict gets; row: by position, as published numbers have it.")  # fmt: skip
@click.option("--length-control/--no-length-control", default=True, show_default=True,
              help="Whether to compute the length-controlled win rate.")  # fmt: skip
def alpaca_eval(
    judging: JudgeOptions, baseline: Path | None, annotator: Any, difficulty: Path | None, gamed: Path | None,
    C: float | None, align: Any, length_control: bool,
) -> None:  # fmt: skip
    """AlpacaEval 2: win rate and length-controlled win rate."""
    from mixdpo.common.errors import InputError
    from mixdpo.common.files import write_json
    from mixdpo.evaluation.benchmarks.alpaca_eval import read_length_control, read_verdicts
    from mixdpo.evaluation.benchmarks.results import alpaca_result
    from mixdpo.evaluation.benchmarks.tasks import alpaca_plan, instructions_known
    from mixdpo.judges.task import verdicts_file, with_run

    stored = judging.one_stored()
    if not length_control:
        refuse_options("no effect with --no-length-control", "difficulty", "gamed", "C", "align")
    if annotator == "weighted":
        refuse_options("the weighted annotator reads one token", "max_tokens")
    judged = read_verdicts(stored) if stored else []
    # Before a judge is paid, so that nothing is missing afterwards.
    control = read_length_control(gamed, difficulty) if length_control and not judging.dry_run else None
    run: dict[str, Any] = {"verdicts": str(stored), "settings": {}}
    if stored is None:
        judge = judging.find_judge()
        sources = judging.sources(
            judge, "alpaca_eval_clf.txt of github.com/tatsu-lab/alpaca_eval, or one like it", baseline=baseline
        )
        if length_control and not instructions_known(sources):
            raise InputError(
                "length control goes by AlpacaEval's 805 instructions in their order, and these are others",
                file=baseline, hint="give --no-length-control",
            )  # fmt: skip
        done = judging.run(judge, alpaca_plan(sources, annotator))
        if done is None:
            return
        run, judged = done, read_verdicts(verdicts_file(judging.output))
    result = with_run(alpaca_result(judged, control, C=C, align=align), run)
    write_json(judging.output, result)
    lc = ["LC win rate"] if control else []
    table = results_table("AlpacaEval 2", "model", "win rate", "95 % interval", *lc, "length", "n", "unread")
    ranking = "length_controlled_winrate" if control else "win_rate"
    for name, one in sorted(result["models"].items(), key=lambda item: -item[1][ranking]):
        cells = [value_text(one["length_controlled_winrate"])] if control else []
        counts = (f"{one['avg_length']:,}", f"{one['n_total']}", f"{one['n_unread']}")
        table.add_row(name, value_text(one["win_rate"]), interval_text(one["win_rate_interval"]), *cells, *counts)
    finish(table, judging.output)
    echo_notes(result)


@evaluate.command("arena-hard")
@judge_options
@_baseline
@click.option(
    "--version", type=click.Choice(["v0.1", "v2"]), default="v0.1", show_default=True, help="Whose rules to follow."
)
@click.option("--category", help="Take the prompts of this category.")
@click.option("--style", type=_path, help="Tokens, headers, lists and bold spans of every answer.")
@click.option("--control", type=click.Choice(["style", "length", "markdown"]), default="style", show_default=True,
              help="What is held equal where styles are known.")  # fmt: skip
@click.option("--baseline-name", help="The baseline's name in --style; default: the published one.")
@click.option("--rounds", type=click.IntRange(min=1), default=100, show_default=True, help="Bootstrap resamples.")
@click.option("--level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, show_default=True,
              help="Level of the intervals; the current original prints 0.9.")  # fmt: skip
@click.option("--seed", type=int, help="Of the bootstrap; default: the published one.")
def arena_hard(
    judging: JudgeOptions, baseline: Path | None, version: Any, category: str | None, style: Path | None,
    control: Any, baseline_name: str | None, rounds: int, level: float, seed: int | None,
) -> None:  # fmt: skip
    """Arena-Hard: win rates against the baseline, Bradley-Terry, with bootstrap intervals and style control.

    Several --verdicts are several judges: their battles are pooled, and their agreement is measured.
    """
    from mixdpo.common.files import write_json
    from mixdpo.evaluation.benchmarks.arena_hard import BASELINES, SEEDS, Bootstrap
    from mixdpo.evaluation.benchmarks.arena_styles import write_styles
    from mixdpo.evaluation.benchmarks.results import arena_result
    from mixdpo.evaluation.benchmarks.tasks import arena_plan
    from mixdpo.judges.task import verdicts_file, with_run

    stored = judging.stored()
    if style is None:
        # Styles of the answers that a judge compared are counted, the baseline's too.
        refuse_options("no effect without --style", "baseline_name", *(["control"] if stored else []))
    run: dict[str, Any] = {"verdicts": [str(file) for file in stored], "settings": {}}
    if not stored:
        judge = judging.find_judge()
        sources = judging.sources(judge, "a YAML file with system_prompt and prompt_template, from "
                                  "github.com/lmarena/arena-hard-auto", baseline=baseline)  # fmt: skip
        done = judging.run(judge, arena_plan(sources, version, category))
        if done is None:
            return
        run, stored = done, (verdicts_file(judging.output),)
        if style is None:
            baseline_name = run["settings"]["baseline"]
            style = write_styles(stored[0], baseline_name, version)
        elif baseline_name is None and version == "v2" and category is not None:
            baseline_name = BASELINES.get(category, run["settings"]["baseline"])
    result = arena_result(
        stored, version, Bootstrap(rounds=rounds, seed=SEEDS[version] if seed is None else seed, level=level),
        category=category, style=style, control=control, baseline=baseline_name,
    )  # fmt: skip
    result = with_run(result, run)
    write_json(judging.output, result)
    equal = [f"equal {control}"] if "style_effects" in result else []
    headings = ["model", "win rate", f"{level:.0%} interval", "over prompts", "n", "unread", *equal]
    table = results_table(f"Arena-Hard {version}", *headings)
    for model, one in sorted(result["models"].items(), key=lambda item: -item[1]["win_rate"]):
        cells = [value_text(one["style_control"]["win_rate"])] if "style_control" in one else []
        ranges = (interval_text(one[key]) for key in ("interval", "prompt_interval"))
        table.add_row(model, value_text(one["win_rate"]), *ranges, f"{one['n_prompts']}", f"{one['n_unread']}", *cells)
    finish(table, judging.output)
    echo_notes(result)


@evaluate.command("mt-bench")
@judge_options
@click.option("--references", type=_path, help="Reference answers; default: the hub's, of gpt-4.")
@_seed
def mt_bench(judging: JudgeOptions, references: Path | None, seed: int) -> None:
    """MT-Bench: mean ratings by turn and by category, single grading."""
    from mixdpo.evaluation.benchmarks.results import mt_bench_result
    from mixdpo.evaluation.benchmarks.tasks import mt_bench_plan

    questions = judging.questions if judging.verdicts else None  # verdicts of a run have the categories
    result = _run_or_stored(
        judging, mt_bench_plan, lambda file, seed: mt_bench_result(file, questions, seed), seed,
        "judge_prompts.jsonl of github.com/lm-sys/FastChat (fastchat/llm_judge/data)", ("questions",),
        references=references,
    )  # fmt: skip
    if result is None:
        return
    headings = ("model", "average", "95 % interval", "turn 1", "turn 2", "n", "unread")
    table = results_table("MT-Bench, single grading", *headings)
    for model, one in sorted(result["models"].items(), key=lambda item: -item[1]["average"]):
        turns = (value_text(one["first_turn"]), value_text(one["second_turn"]))
        counts = (f"{one['n']}", f"{one['n_error']}")
        table.add_row(model, value_text(one["average"]), interval_text(one["interval"], 2), *turns, *counts)
    finish(table, judging.output)
    echo_notes(result)


@evaluate.command("pairwise")
@judge_options
@click.option("--baseline", type=_path, help="Answers to compare with.")
@_seed
def pairwise(judging: JudgeOptions, baseline: Path | None, seed: int) -> None:
    """Your own prompts, answers compared: each pair is judged twice, with swapped positions."""
    from mixdpo.evaluation.benchmarks.own_prompts import pairwise_result
    from mixdpo.evaluation.benchmarks.tasks import pairwise_plan

    where = "with {question}, {answer_a} and {answer_b}, that asks for [[A]], [[B]] or [[C]]"
    result = _run_or_stored(judging, pairwise_plan, pairwise_result, seed, where, baseline=baseline)
    if result is None:
        return
    headings = ("model", "win rate", "95 % interval", "won both", "consistent", "n", "unread")
    table = results_table("win rate against the baseline", *headings)
    for model, one in sorted(result["models"].items(), key=lambda item: -item[1]["win_rate"]):
        bias = one["position_bias"]
        shares = [f"{one['won_both_games']['share']:.0%}", f"{bias['consistent']['estimate']:.0%}" if bias else "-"]
        counts = (f"{one['n_prompts']}", f"{one['n_unread']}")
        table.add_row(model, value_text(one["win_rate"]), interval_text(one["win_rate_interval"]), *shares, *counts)
    finish(table, judging.output)
    echo_notes(result)


@evaluate.command("grade")
@judge_options
@click.option("--references", type=_path, help="Reference answers by id, for judge prompts with {reference}.")
@_seed
def grade(judging: JudgeOptions, references: Path | None, seed: int) -> None:
    """Your own prompts, answers graded one by one."""
    from mixdpo.evaluation.benchmarks.own_prompts import grade_result
    from mixdpo.evaluation.benchmarks.tasks import grade_plan

    where = "with {question} and {answer}, that asks for [[grade]]"
    result = _run_or_stored(judging, grade_plan, grade_result, seed, where, references=references)
    if result is None:
        return
    table = results_table("grades", "model", "average", "95 % interval", "n", "unread")
    for model, one in sorted(result["models"].items(), key=lambda item: -item[1]["average"]):
        counts = (f"{one['n_prompts']}", f"{one['n_unread']}")
        table.add_row(model, value_text(one["average"]), interval_text(one["average_interval"], 2), *counts)
    finish(table, judging.output)
    echo_notes(result)


def _run_or_stored(
    judging: JudgeOptions, plan: Any, score: Any, seed: int, where: str, read: Sequence[str] = (),
    **others: Path | None,
) -> dict[str, Any] | None:  # fmt: skip
    """Run the judge or take stored verdicts, score them, and write the result; None after a dry run."""
    from mixdpo.common.files import write_json
    from mixdpo.judges.task import verdicts_file, with_run

    stored = judging.one_stored(*read)
    run: dict[str, Any] = {"verdicts": str(stored), "settings": {}}
    if stored is None:
        judge = judging.find_judge()
        done = judging.run(judge, plan(judging.sources(judge, where, **others)))
        if done is None:
            return None
        run = done
    result: dict[str, Any] = with_run(score(stored or verdicts_file(judging.output), seed), run)
    write_json(judging.output, result)
    return result
