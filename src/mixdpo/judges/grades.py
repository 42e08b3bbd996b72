"""Single answers and their grades: what is asked, against references where there are any, and how a grade is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mixdpo.generation.answer_files import AnswerFile, read_answers
from mixdpo.generation.chat_model import Request
from mixdpo.judges.answers import AnswerSources, no_reference, references_by_row
from mixdpo.judges.judge import JudgeItem, Verdict
from mixdpo.judges.prompt import JudgePrompt, placeholders, verdicts_that_count
from mixdpo.judges.task import JudgeTask

_PLACEHOLDERS: Final = (
    ("question", "instruction", "prompt"),
    ("answer", "output", "response"),
)
_GRADING: Final = re.compile(r"grad|\brat|scor|scale|number|mark", re.IGNORECASE)
_RANGE: Final = re.compile(r"\b(?:from|between|scale of)\s+(\d+(?:\.\d+)?)\s*(?:to|and|-|–)\s*(\d+(?:\.\d+)?)")
_GRADE: Final = re.compile(r"\[\[(-?\d+(?:\.\d+)?)\]\]")


def grade_items(
    answers: AnswerFile, texts: Sequence[str], prompt: JudgePrompt | None, references: AnswerFile | None,
    max_tokens: int,
) -> list[JudgeItem]:  # fmt: skip
    """Return what is asked about each answer.

    Args:
        answers: what is graded.
        texts: the prompts, in the order of the answers.
        prompt: with placeholders for the question, the answer and perhaps {reference}; None for judges that are asked
            nothing in words.
        references: reference answers; None where the prompt has no placeholder for one.
        max_tokens: longest judgement.

    Raises:
        InputError: the prompt lacks a placeholder, or an answer its reference.
    """
    expected = references_by_row(answers, texts, references) if references is not None else {}
    items = []
    for row, (key, text, answer) in enumerate(zip(answers.keys(), texts, answers.answers, strict=True)):
        request = None
        if prompt is not None:
            others = {}
            if references is not None or prompt.holds("reference"):
                if row not in expected:
                    raise no_reference(key)
                others["reference"] = expected[row]
            request = grade_request(prompt, text, answer, max_tokens, others)
        items.append(JudgeItem((("user", text),), (answer,), request))
    return items


def grade_request(
    prompt: JudgePrompt, question: str, answer: str, max_tokens: int, others: Mapping[str, str]
) -> Request:
    """Return what a language model is asked about an answer.

    Args:
        prompt: with placeholders for the question, the answer and all of `others`.
        question: what was answered.
        answer: what is graded.
        max_tokens: longest judgement.
        others: what further placeholders stand for.

    Raises:
        InputError: the prompt lacks a placeholder.
    """
    names = placeholders(prompt, _PLACEHOLDERS)
    return prompt.request(dict(zip(names, (question, answer), strict=True)) | dict(others), max_tokens=max_tokens)


def parse_grade(text: str, scale: tuple[float, float] | None = None) -> float | None:
    """Read `[[number]]`: that of the last line, see `verdicts_that_count`, or else all that there are, which must be
    the same. One off the scale, if there is a scale, is none."""
    found = set(map(float, verdicts_that_count(text, _GRADE)))
    grade = found.pop() if len(found) == 1 else None
    return grade if grade is None or scale is None or scale[0] <= grade <= scale[1] else None


def quotes_another(text: str | None, grade: float | None) -> bool:
    """Whether a reply whose grade was read holds another one too, as one that is quoted from an answer."""
    return grade is not None and bool(set(map(float, _GRADE.findall(text or ""))) - {grade})


def scale_of(prompt: JudgePrompt) -> tuple[float, float] | None:
    """Return the scale that a judge prompt names, as in "a number from 1 to 10"; None where it names none or two."""
    sentences = [one for _, text in prompt.messages for one in re.split(r"[.!?]\s|\n", text) if _GRADING.search(one)]
    found = {(float(low), float(high)) for one in sentences for low, high in _RANGE.findall(one)}
    return found.pop() if len(found) == 1 else None


def grade_rows(
    model: str, answers: AnswerFile, items: Sequence[JudgeItem], verdicts: Sequence[Verdict]
) -> list[dict[str, Any]]:
    """Return a row for each answer: its grade, its texts and what the judge wrote."""
    ids = answers.ids or [item.chat[-1][1] for item in items]
    return [
        {
            "model": model,
            "id": id,
            "score": verdict.score,
            "judgment": verdict.reply.text,
            "failure": verdict.reply.failure,
            "prompt": item.chat[-1][1],
            "answer": item.answers[0],
        }
        for id, item, verdict in zip(ids, items, verdicts, strict=False)  # a limit leaves some ids out
    ]


def grade_task(sources: AnswerSources, references: Path | None, longest: int) -> JudgeTask:
    """Grade models' answers one by one. A number off the scale that the judge prompt names is no grade.

    Args:
        sources: whose answers.
        references: file of reference answers; None where the judge prompt has no placeholder for one.
        longest: tokens of a judgement at most, where the sources do not say it.

    Raises:
        InputError: what a prompt says is not known, or see `grade_items`.
    """
    prompt, longest = sources.prompt(), sources.max_tokens or longest
    scale = scale_of(prompt) if prompt is not None else None
    expected = read_answers(references) if references is not None else None
    files = {file.name: file for file in sources.answers}
    items = {
        model: grade_items(file, sources.texts_of(file), prompt, expected, longest)[: sources.limit]
        for model, file in files.items()
    }
    return JudgeTask(
        items=items,
        parse=lambda reply: parse_grade(reply.text, scale),
        rows=lambda model, verdicts: grade_rows(model, files[model], items[model], verdicts),
        prompts={model: len(own) for model, own in items.items()},
        settings={
            "judge_prompt": prompt.fingerprint() if prompt is not None else None,
            "max_tokens": longest if prompt is not None else None,
            "scale": scale,
            "limit": sources.limit,
        },
        reasoning=sources.reasoning(),
    )
