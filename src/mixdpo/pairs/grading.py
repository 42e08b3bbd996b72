"""Answers graded one by one, on a scale that the judge is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.generation.chat_model import Progress
from mixdpo.judges.grades import grade_request, parse_grade, scale_of
from mixdpo.judges.judge import Judge, JudgeItem
from mixdpo.judges.prompt import JudgePrompt
from mixdpo.pairs.judged import Judged, JudgedPrompt, judge_record, own_columns
from mixdpo.pairs.rating_settings import RatingSettings


def grade_items(
    prompts: Sequence[JudgedPrompt], judge_prompt: JudgePrompt | None, settings: RatingSettings
) -> list[JudgeItem]:
    """Return what is judged: each answer by itself, with the columns of its row.

    Args:
        prompts: with their answers.
        judge_prompt: with places for the question and the answer, and perhaps for columns such as {reference}; None
            for judges that are asked nothing in words.
        settings: how they are rated.

    Raises:
        InputError: the judge prompt lacks a place or a scale, or a row what a place stands for.
    """
    grade_scale(judge_prompt, settings)
    items = []
    for prompt in prompts:
        for answer in prompt.answers:
            columns = own_columns(answer)
            request = None
            if judge_prompt is not None:
                others = _others(judge_prompt, columns, prompt)
                request = grade_request(judge_prompt, prompt.question, answer.text, settings.max_tokens, others)
            items.append(JudgeItem(prompt.chat, (answer.text,), request, columns))
    return items


def grade_answers(
    judge: Judge, prompts: Sequence[JudgedPrompt], judge_prompt: JudgePrompt | None, settings: RatingSettings,
    progress: Progress | None = None,
) -> Judged:  # fmt: skip
    """Let a judge grade every answer; a number off the scale is none, and is counted apart.

    Raises:
        InputError: see `grade_items`.
    """
    scale = grade_scale(judge_prompt, settings)
    items = grade_items(prompts, judge_prompt, settings)
    verdicts = judge.judge(items, lambda reply: parse_grade(reply.text), progress=progress)
    given = np.array([np.nan if one.score is None else one.score for one in verdicts])
    off = np.zeros(len(given), dtype=bool) if scale is None else (given < scale[0]) | (given > scale[1])
    record: dict[str, Any] = {
        **judge_record(judge, verdicts, judge_prompt, settings),
        "off_scale": int(off.sum()),
        "scale": scale,
        "lower_is_better": settings.lower_is_better,
    }
    unit = None if scale is None else f"{scale[0]:g} to {scale[1]:g}"
    return Judged(np.where(off, np.nan, given), record, unit)


def grade_scale(judge_prompt: JudgePrompt | None, settings: RatingSettings) -> tuple[float, float] | None:
    """Return the scale of grades; None for judges that are asked nothing in words, where the settings name none.

    Raises:
        InputError: neither the settings nor the judge prompt name one, or both do, and not the same.
    """
    if judge_prompt is None:
        return settings.scale
    scale = scale_of(judge_prompt)
    if scale is None and settings.scale is None:
        raise InputError(
            "the judge prompt names no scale, or several",
            file=settings.judge_prompt,
            hint='write one into it, as in "a number from 1 to 10", or give --scale LOW HIGH',
        )
    if scale is not None and settings.scale is not None and scale != settings.scale:
        raise InputError(
            f"the judge is asked for grades from {scale[0]:g} to {scale[1]:g}",
            file=settings.judge_prompt,
            hint="leave out --scale, or give another --judge-prompt",
        )
    return scale or settings.scale


def _others(judge_prompt: JudgePrompt, columns: dict[str, Any], prompt: JudgedPrompt) -> dict[str, str]:
    wanted = [name for name in columns if judge_prompt.holds(name)]
    missing = [name for name in wanted if not isinstance(columns[name], str)]
    if judge_prompt.holds("reference") and "reference" not in columns:
        missing.append("reference")
    if missing:
        raise InputError(
            f"the judge prompt has a place for {{{missing[0]}}}, which an answer to {prompt.question!r:.60} lacks",
            hint=f"give the answers a column {missing[0]}, or take the place out of the judge prompt",
        )
    return {name: columns[name] for name in wanted}
