"""Single answers and their grades: what is asked, against references where there are any, and how a grade is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.generation.answer_files import JOINED_BY_ID, AnswerFile, PromptTexts
from mixdpo.generation.completion import Completion
from mixdpo.judges.answers import same_prompts
from mixdpo.judges.judge import JudgeItem, Verdict
from mixdpo.judges.prompt import JudgePrompt, placeholders

_PLACEHOLDERS: Final = (
    ("question", "instruction", "prompt"),
    ("answer", "output", "response"),
)
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
    names = placeholders(prompt, _PLACEHOLDERS) if prompt is not None else []
    expected = _references(answers, texts, references) if references is not None else {}
    items = []
    for row, (key, text, answer) in enumerate(zip(answers.keys(), texts, answers.answers, strict=True)):
        request = None
        if prompt is not None:
            values = dict(zip(names, (text, answer), strict=True))
            if references is not None or prompt.holds("reference"):
                if row not in expected:
                    raise InputError(
                        f"no reference answer to the prompt {key!r:.60}",
                        hint=f"give it in --references FILE, under the same {', '.join(JOINED_BY_ID)} or prompt",
                    )
                values["reference"] = expected[row]
            request = prompt.request(values, max_tokens=max_tokens)
        items.append(JudgeItem((("user", text),), (answer,), request))
    return items


def _references(answers: AnswerFile, texts: Sequence[str], references: AnswerFile) -> dict[int, str]:
    """Return the reference to each row, joined as two models' answers are; `texts` are the prompts of the answers."""
    known = PromptTexts(answers.id_column, dict(zip(answers.keys(), texts, strict=True)))
    rows = same_prompts(references, answers, references.texts(known), texts)
    return {row: references.answers_at(theirs) for row, theirs in rows.items()}


def parse_grade(reply: Completion) -> Verdict:
    """Read `[[number]]`; all that there are must be the same."""
    found = set(_GRADE.findall(reply.text))
    return Verdict(reply, float(found.pop()) if len(found) == 1 else None)


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
