"""Single answers and their grades: MT-Bench's turns, and one's own prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.files import digest
from mixdpo.evaluation.benchmarks.mt_bench import Question, judge_messages, parse_rating
from mixdpo.generation.answer_files import JOINED_BY_ID, AnswerFile, PromptTexts
from mixdpo.generation.completion import Completion, Request
from mixdpo.judges.answer_pairs import same_prompts
from mixdpo.judges.items import NOT_ASKED, JudgeItem, Verdict
from mixdpo.judges.prompt import JudgePrompt, placeholders

MT_BENCH_JUDGE: Final = ("gpt-4", "gpt-4-0314", "gpt-4-0613")
"""The published judge; which of its snapshots rated what is not published."""
MT_BENCH_TOKENS: Final = 2048
MT_BENCH_PROMPTS: Final = "53e3a1486f671e9c"
"""Fingerprint of the published judge prompts of single grading."""
MT_BENCH_REFERENCE_SET: Final = "c83f8f8419d81c2a"
"""Fingerprint of the published reference answers, which gpt-4 wrote."""
GRADING_PROMPTS: Final = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")

_PLACEHOLDERS: Final = (
    ("question", "instruction", "prompt"),
    ("answer", "output", "response"),
)
_GRADE: Final = re.compile(r"\[\[(-?\d+(?:\.\d+)?)\]\]")


def references_fingerprint(questions: Sequence[Question]) -> str:
    """Return a digest of the reference answers and their questions' ids, which says in a result which were used."""
    return digest((part for one in questions if one.references for part in (one.id, *one.references)), size=8)


def mt_bench_cases(
    answers: AnswerFile, questions: Sequence[Question], prompts: Mapping[str, JudgePrompt] | None, max_tokens: int
) -> list[tuple[Question, int, JudgeItem]]:
    """Return question, turn (1 or 2) and case of everything that is rated, all first turns before all second ones;
    without prompts for judges that are asked nothing.

    Raises:
        InputError: an answer lacks a turn or comes twice, a judge prompt is missing, or no question is answered.
    """
    turns = answers.turns_by_id()
    answered = [question for question in questions if question.id in turns]
    if not answered:
        raise InputError("no question is answered", file=answers.file, hint="its ids must be those of --questions")
    found = []
    for turn in (1, 2):
        for question in answered:
            given = turns[question.id]
            if len(given) < turn:
                raise InputError(
                    f"the answer to question {question.id} has {len(given)} turns of 2", file=answers.file,
                    hint="let mixdpo generate answer both turns",
                )  # fmt: skip
            chat = [("user", question.turns[0])]
            if turn == 2:
                chat += [("assistant", given[0]), ("user", question.turns[1])]
            request = NOT_ASKED
            if prompts is not None:
                messages = judge_messages(question, given, turn, prompts)
                request = Request(messages=messages, max_tokens=max_tokens, temperature=0.0)
            found.append((question, turn, JudgeItem(tuple(chat), (given[turn - 1],), request)))
    return found


def read_rating(reply: Completion) -> Verdict:
    """Read a rating as MT-Bench does."""
    return Verdict(reply, parse_rating(reply.text))


def mt_bench_rows(
    model: str, rated: Sequence[tuple[Question, int, JudgeItem]], verdicts: Sequence[Verdict], in_words: bool
) -> list[dict[str, Any]]:
    """Return judgements as `read_ratings` reads them; `in_words` says whether a language model wrote them."""
    return [
        {
            "question_id": question.id,
            "category": question.category,
            "model": model,
            "turn": turn,
            **({"judgment": verdict.reply.text} if in_words else {}),
            "score": verdict.score,
            "failure": verdict.reply.failure,
            "prompt": case.chat[-1][1],
            "answer": case.answers[0],
        }
        for (question, turn, case), verdict in zip(rated, verdicts, strict=True)
    ]


def grade_cases(
    answers: AnswerFile, texts: Sequence[str], prompt: JudgePrompt | None, references: AnswerFile | None,
    max_tokens: int,
) -> list[JudgeItem]:  # fmt: skip
    """Return a case for each answer.

    Args:
        answers: what is graded.
        texts: the prompts, in the order of the answers.
        prompt: with places for the question, the answer and perhaps {reference}; None for judges that are asked
            nothing.
        references: reference answers; None where the prompt has no place for one.
        max_tokens: longest judgement.

    Raises:
        InputError: the prompt lacks a place, or an answer its reference.
    """
    names = placeholders(prompt, _PLACEHOLDERS) if prompt is not None else []
    expected = _references(answers, texts, references) if references is not None else {}
    cases = []
    for row, (key, text, answer) in enumerate(zip(answers.keys(), texts, answers.answers, strict=True)):
        request = NOT_ASKED
        if prompt is not None:
            values = dict(zip(names, (text, answer), strict=True))
            if references is not None or prompt.holds("reference"):
                if row not in expected:
                    raise InputError(
                        f"no reference answer to the prompt {key!r:.60}",
                        hint=f"give it in --references FILE, under the same {', '.join(JOINED_BY_ID)} or prompt",
                    )
                values["reference"] = expected[row]
            request = Request(messages=prompt.filled(values), max_tokens=max_tokens, temperature=0.0)
        cases.append(JudgeItem((("user", text),), (answer,), request))
    return cases


def _references(answers: AnswerFile, texts: Sequence[str], references: AnswerFile) -> dict[int, str]:
    """Return the reference to each row, joined as two models' answers are; `texts` are the prompts of the answers."""
    known = PromptTexts(answers.id_column, dict(zip(answers.keys(), texts, strict=True)))
    rows = same_prompts(references, answers, references.texts(known), texts)
    return {row: references.answers_at(theirs) for row, theirs in rows.items()}


def read_own_grade(reply: Completion) -> Verdict:
    """Read `[[number]]`; all that there are must be the same."""
    found = set(_GRADE.findall(reply.text))
    return Verdict(reply, float(found.pop()) if len(found) == 1 else None)


def grade_rows(
    model: str, answers: AnswerFile, cases: Sequence[JudgeItem], verdicts: Sequence[Verdict]
) -> list[dict[str, Any]]:
    """Return grades as `read_grades` reads them."""
    ids = answers.ids or [case.chat[-1][1] for case in cases]
    return [
        {
            "model": model,
            "id": id,
            "score": verdict.score,
            "judgment": verdict.reply.text,
            "failure": verdict.reply.failure,
            "prompt": case.chat[-1][1],
            "answer": case.answers[0],
        }
        for id, case, verdict in zip(ids, cases, verdicts, strict=False)  # a limit leaves some ids out
    ]
