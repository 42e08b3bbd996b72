"""The plan of every benchmark that a judge can run: files of answers in, cases and rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mixdpo.common.choices import check_choice
from mixdpo.common.errors import InputError
from mixdpo.common.table_files import read_table
from mixdpo.evaluation.benchmarks import alpaca_judging as alpaca
from mixdpo.evaluation.benchmarks import arena_judging as arena
from mixdpo.evaluation.benchmarks import grade_judging as grades
from mixdpo.evaluation.benchmarks.arena_hard import BASELINES
from mixdpo.evaluation.benchmarks.mt_bench import read_categories, read_judge_prompts, read_questions
from mixdpo.evaluation.hub_files import (
    ALPACA_BASELINE,
    MT_BENCH_QUESTIONS,
    MT_BENCH_REFERENCES,
    arena_hard_file,
    fetch,
)
from mixdpo.evaluation.statistics.style import Version
from mixdpo.generation.answer_files import AnswerFile, PromptTexts, read_answers, read_prompt_texts
from mixdpo.judges.answer_pairs import AnswerPair, no_text, pair_up
from mixdpo.judges.items import JudgeItem, Verdict
from mixdpo.judges.prompt import JudgePrompt, prompts_fingerprint, read_judge_prompt
from mixdpo.judges.task import JudgeTask, Published, distinct_names

LONGEST_VERDICT: Final = 1024
"""Tokens that a judge may write about one's own prompts."""
_INSTRUCTIONS: Final = 805
_QUESTIONS: Final = 80


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Files of a judge run.

    Attributes:
        models: answers of each model, with its name or None for the one in the file.
        baseline: answers to compare with; None fetches the benchmark's from the hub.
        judge_prompt: what a language model is asked; None for judges that are not.
        questions: the prompts by id, for answers that come without; None fetches the benchmark's where it needs them.
        references: reference answers by id.
        limit: prompts of each model at most.
        max_tokens: longest judgement; None for the benchmark's.
    """

    models: Sequence[tuple[str | None, Path]]
    baseline: Path | None = None
    judge_prompt: Path | None = None
    questions: Path | None = None
    references: Path | None = None
    limit: int | None = None
    max_tokens: int | None = None

    def answers(self) -> list[AnswerFile]:
        """Read the models' answers.

        Raises:
            InputError: a file cannot be read, or two models have one name.
        """
        files = [(name, read_answers(path)) for name, path in self.models]
        named = [replace(file, name=name or file.name) for name, file in files]
        distinct_names([file.name for file in named], [path for _, path in self.models])
        return named

    def prompt(self) -> JudgePrompt | None:
        """Read the judge prompt, where there is one."""
        return read_judge_prompt(self.judge_prompt) if self.judge_prompt is not None else None

    def texts(self) -> PromptTexts | None:
        """Read the prompts, where they are given."""
        return read_prompt_texts(self.questions) if self.questions is not None else None

    def categories(self) -> dict[str, str]:
        """Read the categories of the prompts by id, where they are given."""
        if self.questions is None or "category" not in read_table(self.questions):
            return {}
        return read_categories(self.questions)


def alpaca_plan(sources: Sources, annotator: alpaca.Annotator) -> JudgeTask:
    """Compare answers as AlpacaEval 2 does; the prompts are the baseline's instructions, in their order."""
    baseline = read_answers(sources.baseline or fetch(ALPACA_BASELINE))
    prompt = sources.prompt()
    pairs = _pairs(sources, baseline)
    cases = {model: alpaca.alpaca_cases(own, prompt, annotator, sources.max_tokens) for model, own in pairs.items()}
    fingerprint = prompt.fingerprint() if prompt is not None else None
    settings = {
        "annotator": annotator if prompt is not None else None,
        "baseline": baseline.name,
        "judge_prompt": fingerprint,
        "limit": sources.limit,
    }
    return JudgeTask(
        cases=[case for own in cases.values() for case in own],
        read=alpaca.alpaca_reader(annotator),
        rows=lambda verdicts: _rows(cases, verdicts, lambda model, own: alpaca.alpaca_rows(model, pairs[model], own)),
        prompts={model: len(own) for model, own in pairs.items()},
        settings=settings,
        published=Published(
            alpaca.JUDGE,
            _INSTRUCTIONS,
            {
                "annotator": (settings["annotator"], "weighted"),
                "baseline": (baseline.name, alpaca.BASELINE),
                "judge prompt": _told(fingerprint, alpaca.PROMPT),
            },
        ),
    )


def instructions_known(sources: Sources) -> bool:
    """Whether the rows of the baseline's answers are AlpacaEval's instructions, which length control goes by."""
    return sources.baseline is None or len(read_answers(sources.baseline).turns) == _INSTRUCTIONS


def arena_plan(sources: Sources, version: Version, category: str | None) -> JudgeTask:
    """Compare answers in two games as Arena-Hard does, of one category.

    Raises:
        InputError: v2 without a category, whose baselines differ; or see `pair_up`.
    """
    check_choice("version", version, Version)
    if version == "v2" and category is None:
        raise InputError(
            "v2 has two categories with different baselines and judge prompts",
            hint="take one: --category hard_prompt or --category creative_writing",
        )
    kind = "arena-hard-v0.1" if version == "v0.1" else str(category)
    protocol = arena.PROTOCOLS.get(kind)
    published_baseline = BASELINES.get(kind)
    if sources.baseline is None and published_baseline is None:
        raise InputError(f"the category {kind!r} has no published baseline", hint="give one with --baseline")
    baseline = read_answers(
        sources.baseline or fetch(arena_hard_file(version, f"model_answer/{published_baseline}.jsonl", "--baseline"))
    )
    if sources.questions is None and baseline.prompts is None:
        sources = replace(sources, questions=fetch(arena_hard_file(version, "question.jsonl", "--questions")))
    prompt = sources.prompt()
    pairs = _pairs(sources, baseline, category)
    longest = sources.max_tokens or (protocol.max_tokens if protocol else LONGEST_VERDICT)
    cases = {model: arena.game_cases(own, prompt, longest) for model, own in pairs.items()}
    fingerprint = arena.same_placeholders(prompt).fingerprint() if prompt is not None else None
    others = {
        "baseline": (baseline.name, published_baseline),
        "judge prompt": _told(fingerprint, protocol.prompt if protocol else None),
        "longest judgement": (longest if prompt is not None else None, protocol.max_tokens if protocol else None),
    }
    if protocol and protocol.pooled:
        both = f"{protocol.judge[0]} and {protocol.pooled}, whose games are pooled"
        others["panel of judges"] = ("one judge", both)
    return JudgeTask(
        cases=[case for own in cases.values() for case in own],
        read=arena.arena_reader(version),
        rows=lambda verdicts: _rows(cases, verdicts, lambda model, own: arena.game_rows(model, pairs[model], own)),
        prompts={model: len(own) for model, own in pairs.items()},
        settings={
            "baseline": baseline.name,
            "judge_prompt": fingerprint,
            "max_tokens": longest if prompt is not None else None,
            "limit": sources.limit,
        },
        published=Published(protocol.judge, protocol.prompts, others) if protocol else None,
        follow_up=arena.finish_request if version == "v0.1" else None,
    )


def mt_bench_plan(sources: Sources) -> JudgeTask:
    """Rate both turns as MT-Bench's single grading does; a judge that is asked in words has a judge prompt."""
    questions = read_questions(
        sources.questions or fetch(MT_BENCH_QUESTIONS), sources.references or fetch(MT_BENCH_REFERENCES)
    )
    references = grades.references_fingerprint(questions)
    questions = questions[: sources.limit]
    prompts = read_judge_prompts(sources.judge_prompt) if sources.judge_prompt is not None else None
    longest = sources.max_tokens or grades.MT_BENCH_TOKENS
    rated = {file.name: grades.mt_bench_cases(file, questions, prompts, longest) for file in sources.answers()}
    cases = {model: [case for _, _, case in own] for model, own in rated.items()}
    fingerprint = None
    if prompts is not None:
        fingerprint = prompts_fingerprint(prompts[name] for name in grades.GRADING_PROMPTS if name in prompts)
    return JudgeTask(
        cases=[case for own in cases.values() for case in own],
        read=grades.read_rating,
        rows=lambda verdicts: _rows(
            cases, verdicts, lambda model, own: grades.mt_bench_rows(model, rated[model], own, prompts is not None)
        ),
        prompts={model: len(own) // 2 for model, own in cases.items()},
        settings={
            "judge_prompt": fingerprint,
            "references": references,
            "max_tokens": longest if prompts is not None else None,
            "limit": sources.limit,
        },
        published=Published(
            grades.MT_BENCH_JUDGE,
            _QUESTIONS,
            {
                "judge prompt": _told(fingerprint, grades.MT_BENCH_PROMPTS),
                "set of reference answers": _told(references, grades.MT_BENCH_REFERENCE_SET),
                "longest judgement": (longest if prompts is not None else None, grades.MT_BENCH_TOKENS),
            },
        ),
    )


def pairwise_plan(sources: Sources) -> JudgeTask:
    """Compare answers to one's own prompts, in two games with swapped positions."""
    if sources.baseline is None:
        raise InputError("there is nothing to compare with", hint="give the answers with --baseline")
    baseline = read_answers(sources.baseline)
    prompt = sources.prompt()
    pairs = _pairs(sources, baseline)
    longest = sources.max_tokens or LONGEST_VERDICT
    cases = {model: arena.game_cases(own, prompt, longest) for model, own in pairs.items()}
    return JudgeTask(
        cases=[case for own in cases.values() for case in own],
        read=arena.read_own_verdict,
        rows=lambda verdicts: _rows(
            cases, verdicts, lambda model, own: arena.game_rows(model, pairs[model], own, "id")
        ),
        prompts={model: len(own) for model, own in pairs.items()},
        settings={"baseline": baseline.name, **_own_settings(sources, prompt, longest)},
    )


def grade_plan(sources: Sources) -> JudgeTask:
    """Grade answers to one's own prompts one by one."""
    prompt, texts = sources.prompt(), sources.texts()
    references = read_answers(sources.references) if sources.references is not None else None
    longest = sources.max_tokens or LONGEST_VERDICT
    files = {file.name: file for file in sources.answers()}
    cases = {
        model: grades.grade_cases(file, _texts(file, texts), prompt, references, longest)[: sources.limit]
        for model, file in files.items()
    }
    return JudgeTask(
        cases=[case for own in cases.values() for case in own],
        read=grades.read_own_grade,
        rows=lambda verdicts: _rows(
            cases, verdicts, lambda model, own: grades.grade_rows(model, files[model], cases[model], own)
        ),
        prompts={model: len(own) for model, own in cases.items()},
        settings=_own_settings(sources, prompt, longest),
    )


def _told(ours: str | None, published: str | None) -> tuple[str | None, str]:
    told = "the published one"
    return (None if ours is None else told if ours == published else "another"), told


def _own_settings(sources: Sources, prompt: JudgePrompt | None, longest: int) -> dict[str, Any]:
    return {
        "judge_prompt": prompt.fingerprint() if prompt is not None else None,
        "max_tokens": longest if prompt is not None else None,
        "limit": sources.limit,
    }


def _pairs(sources: Sources, baseline: AnswerFile, category: str | None = None) -> dict[str, list[AnswerPair]]:
    texts, categories = sources.texts(), sources.categories()
    return {
        file.name: pair_up(file, baseline, texts, categories, category)[: sources.limit] for file in sources.answers()
    }


def _texts(file: AnswerFile, known: PromptTexts | None) -> list[str]:
    texts = file.texts(known)
    for id, text in zip(file.keys(), texts, strict=True):
        if not text:
            raise no_text(id, file.file)
    return texts


def _rows(cases: Mapping[str, Sequence[JudgeItem]], verdicts: Sequence[Verdict], rows_of: Any) -> list[dict[str, Any]]:
    """Hand each model its verdicts, and return the rows of all."""
    found: list[dict[str, Any]] = []
    begin = 0
    for model, own in cases.items():
        found += rows_of(model, verdicts[begin : begin + len(own)])
        begin += len(own)
    return found
