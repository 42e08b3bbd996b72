"""Is B better than A? Both answer the same prompts, a judge compares the answers in both orders, and one sentence says
what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from mixdpo.common.files import write_json
from mixdpo.common.progress import pairs_bar
from mixdpo.common.table_files import read_table
from mixdpo.common.tables import TextTable, value_text
from mixdpo.evaluation.benchmark import Record, Say
from mixdpo.evaluation.benchmarks import pairwise
from mixdpo.evaluation.contenders import Answered, Answering, Contender, answered, answering_lines, check_names
from mixdpo.evaluation.evaluate import evaluate, verdicts_file
from mixdpo.evaluation.sentences import prompt_count, win_sentence, win_warnings
from mixdpo.evaluation.statistics.records import flags_record
from mixdpo.evaluation.statistics.win_rates import detectable_win_rate
from mixdpo.generation.answer_files import JOINED_BY_ID, AnswerFile, PromptTexts, read_answers, read_prompt_texts
from mixdpo.generation.chat_model import Progress
from mixdpo.generation.prompts import Prompt
from mixdpo.judges import games
from mixdpo.judges.answers import AnswerSources, plain_prompt
from mixdpo.judges.judge import Judge
from mixdpo.judges.prompt import shipped_prompt_file
from mixdpo.judges.task import JudgeRun

RESULT: Final = "versus.json"
_MOST_CUT: Final = 0.02
"""Share of answers cut at the longest answer from which on a reader is told."""


@dataclass(frozen=True, kw_only=True)
class Versus:
    """Who is compared, on what, by whom.

    Attributes:
        first: what `second` is compared with.
        second: the other one.
        prompts: what models among them answer; empty where both are files of answers.
        questions: file with the texts of prompts, for files of answers without them.
        judge: who compares.
        judge_prompt: what a language model is asked; None for the package's own.
        max_tokens: longest judgement; None for 1,024 tokens.
        answering: how models among the two answer.
        limit: number of prompts at most.
        seed: of the test's draws.
    """

    first: Contender
    second: Contender
    prompts: Sequence[Prompt]
    judge: Judge
    questions: Path | None = None
    judge_prompt: Path | None = None
    max_tokens: int | None = None
    answering: Answering = field(default_factory=Answering)
    limit: int | None = None
    seed: int = 0

    def planned(self) -> list[str]:
        """Return what the comparison would take, and what it could show.

        Raises:
            InputError: the two have one name.
        """
        both = (self.first, self.second)
        check_names(both)
        lines = answering_lines(both, self.prompts, self.answering)
        count = len(self.prompts) or _prompts_of(self.first.source, self.limit)
        prompts = prompt_count(count)
        lines.append(f"{2 * count:,} verdicts by {self.judge.name}: {prompts}, in both orders")
        needed = detectable_win_rate(count)
        could = (
            "too few to show any difference"
            if needed is None
            else f"80 % power needs a win rate of {100 * needed:.0f} %"
        )
        return [*lines, f"{prompts}: {could}"]


def _prompts_of(source: Any, limit: int | None) -> int:
    count = len(read_answers(source).turns)
    return count if limit is None else min(count, limit)


def compare_two(
    versus: Versus,
    folder: Path,
    say: Say = click.echo,
    progress: Callable[[str], Progress] = lambda name: pairs_bar(name, "answers"),
) -> dict[str, Any]:
    """Let both answer, judge the answers, and write the result and all that it was made from into a folder.

    Returns:
        The result of `mixdpo eval pairwise`, with `sentence`, `warnings` and, by name, the shares of answers that were
        `cut`.

    Raises:
        InputError: a source cannot be read or has no answer to a prompt.
        RunError: no prompt was answered, or the judge failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_names((versus.first, versus.second))
    first, second = (
        answered(one, versus.prompts, versus.answering, folder, progress, prefix)
        for one, prefix in ((versus.first, "a."), (versus.second, "b."))
    )
    prompt = versus.judge_prompt or (shipped_prompt_file("pairwise") if versus.judge.in_words else None)
    baseline = _asked(replace(read_answers(first.file), name=first.name), versus.prompts)
    benchmark = replace(
        pairwise.BENCHMARK,
        task=lambda sources, options: games.game_task(sources, baseline, pairwise.LONGEST_JUDGEMENT),
    )
    sources = AnswerSources(
        models=(f"{second.name}={second.file}",), judge_prompt=prompt, questions=versus.questions,
        max_tokens=versus.max_tokens, limit=versus.limit,
    )  # fmt: skip
    run = JudgeRun(judge=versus.judge, sources=sources)
    result = evaluate(benchmark, pairwise.PairwiseOptions(seed=versus.seed), folder / RESULT, run, say)
    assert result is not None
    result |= said(result, versus, (first, second), judged_prompts(verdicts_file(folder / RESULT)))
    write_json(folder / RESULT, result)
    return result


def _asked(baseline: AnswerFile, prompts: Sequence[Prompt]) -> AnswerFile:
    """Return the answers to these prompts of a file that may hold more; all where no prompts are given."""
    if not prompts:
        return baseline
    ids = {str(one.id) for one in prompts if one.id_column in JOINED_BY_ID}
    texts = {plain_prompt(one.text) for one in prompts}
    by_id = baseline.id_column in JOINED_BY_ID
    rows = zip(baseline.keys(), baseline.prompts or [""] * len(baseline.turns), strict=True)
    return baseline.only(
        [row for row, (id, text) in enumerate(rows) if (by_id and id in ids) or plain_prompt(text) in texts]
    )


def judged_prompts(verdicts: Path) -> set[str]:
    """Return the prompts in a file of verdicts; white space makes no difference."""
    return set(map(plain_prompt, read_table(verdicts).texts("prompt")))


def cut_share(answers: Path, judged: Collection[str], texts: PromptTexts | None) -> float | None:
    """Return the share of the answers to these prompts that the model did not end, from the column `finished`; None
    without one."""
    prompts = read_answers(answers).texts(texts)
    finished = read_table(answers).columns.get("finished", [None] * len(prompts))
    known = [
        all(one) if isinstance(one, list) else bool(one)
        for one, prompt in zip(finished, prompts, strict=True)
        if one is not None and plain_prompt(prompt) in judged
    ]
    return float(1 - np.mean(known)) if known else None


def said(result: Record, versus: Versus, both: Sequence[Answered], judged: Collection[str]) -> dict[str, Any]:
    """Return what a result comes to: `sentence`, `warnings` and `cut`."""
    (one,), (first, second) = result["models"].values(), both
    judge = pairwise.judge_name(result)
    texts = read_prompt_texts(versus.questions) if versus.questions is not None else None
    cut = {each.name: cut_share(each.file, judged, texts) for each in both}
    flags = {first.name: flags_record(read_answers(first.file).answers), second.name: one.get("flags", [])}
    notes = [
        *_missing_warnings(versus, both, one["n_prompts"] + one["n_prompts_unread"]),
        *_cut_warnings(versus, cut),
    ]
    if judge in (first.name, second.name):
        notes.insert(0, f"the judge is {judge} itself, and judges like what they would have written")
    one["notes"] = notes  # which mixdpo compare shows, too
    warnings = [*notes, *win_warnings(one), *(f"{name}: {flag}" for name, found in flags.items() for flag in found)]
    return {
        "sentence": win_sentence(second.name, first.name, one, judge),
        "warnings": warnings,
        "cut": cut,
    }


def _missing_warnings(versus: Versus, both: Sequence[Answered], judged: int) -> list[str]:
    """Say which of the prompts are not compared, and why, where the prompts are known that were asked."""
    asked = len(versus.prompts)
    if judged >= asked:
        return []
    failed = [str(one) for one in both if one.failed]
    why = "; ".join(failed) if failed else "a file holds no answer to them"
    return [f"{asked - judged:,} of {asked:,} prompts are not compared, which may favour one side: {why}"]


def _cut_warnings(versus: Versus, cut: Mapping[str, float | None]) -> list[str]:
    return [
        f"{100 * share:.0f} % of the answers of {one.name} are cut at the longest answer; "
        + (
            "generate them again with more --max-new-tokens"
            if isinstance(one.source, Path)
            else "set --max-new-tokens"
        )
        for one in (versus.first, versus.second)
        if (share := cut[one.name]) is not None and share > _MOST_CUT
    ]


def versus_table(result: Record) -> TextTable:
    """Return the games of both: prompts won, mean length of answers, and how many were cut."""
    ((model, one),) = result["models"].items()
    baseline, cut = pairwise.baseline_name(result), result["cut"]
    lengths = one.get("lengths") or {"model": None, "baseline": None}
    sides = ((model, "n_wins", "model"), (baseline, "n_wins_base", "baseline"))
    rows = [
        [
            name,
            f"{one[won]:,}",
            f"{one['n_draws']:,}",
            value_text(lengths[side], 0),
            value_text(None if cut.get(name) is None else 100 * cut[name], 0),
        ]
        for name, won, side in sides
    ]
    return TextTable(
        f"{prompt_count(one['n_prompts'])}, each judged in both orders",
        ["model", "prompts won", "tied", "mean length", "cut, %"],
        rows,
    )
