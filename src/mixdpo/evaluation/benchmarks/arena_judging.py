"""Games of two answers, judged twice with swapped positions: Arena-Hard's, and those of one's own prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from mixdpo.common.choices import check_choice
from mixdpo.evaluation.benchmarks.arena_hard import parse_label
from mixdpo.evaluation.statistics.style import Version
from mixdpo.generation.completion import Completion, Request
from mixdpo.judges.answer_pairs import AnswerPair
from mixdpo.judges.items import NOT_ASKED, JudgeItem, Verdict
from mixdpo.judges.labels import STRICT_LABEL, score_of_a
from mixdpo.judges.prompt import JudgePrompt, placeholders

_PLACEHOLDERS: Final = (
    ("question", "QUESTION", "question_1", "instruction", "prompt"),
    ("answer_a", "ANSWER_A", "answer_1", "output_1", "response_a"),
    ("answer_b", "ANSWER_B", "answer_2", "output_2", "response_b"),
)
_FINISH: Final = "continue your judgment and finish by outputting a final verdict label"
"""What the original of v0.1 asks after a judgement without a label."""
_VERDICT: Final = re.compile(r"\[\[([ABC<>=]+)\]\]")
_OF_LETTER: Final = {"A": "A>B", "B": "B>A", "C": "A=B"}


@dataclass(frozen=True)
class Protocol:
    """What published numbers of Arena-Hard were made with.

    Attributes:
        judge: its name, and those by which endpoints report it.
        max_tokens: longest judgement.
        prompts: number of prompts.
        prompt: fingerprint of the judge prompt, see `same_placeholders`.
        pooled: another judge whose games were pooled with its own.
    """

    judge: tuple[str, ...]
    max_tokens: int
    prompts: int
    prompt: str
    pooled: str | None = None


_GPT_4_1: Final = ("gpt-4.1", "gpt-4.1-2025-04-14")
PROTOCOLS: Final = {
    "arena-hard-v0.1": Protocol(("gpt-4-1106-preview",), 4096, 500, "1ae1ae76172e10e4"),
    "hard_prompt": Protocol(_GPT_4_1, 16000, 500, "1ae1ae76172e10e4"),
    "creative_writing": Protocol(_GPT_4_1, 16000, 250, "24c86996cf2f0242", pooled="gemini-2.5"),
}
"""By the categories of the questions; the second and third are those of v2."""


def game_cases(pairs: Sequence[AnswerPair], prompt: JudgePrompt | None, max_tokens: int) -> list[JudgeItem]:
    """Return two cases for each pair, without a prompt for judges that are asked nothing: game 1 shows the baseline
    first, game 2 the model.

    Raises:
        InputError: the judge prompt has no place for the question or for an answer.
    """
    names = placeholders(prompt, _PLACEHOLDERS) if prompt is not None else []
    cases = []
    for pair in pairs:
        for answers in ((pair.baseline, pair.model), (pair.model, pair.baseline)):
            request = NOT_ASKED
            if prompt is not None:
                messages = prompt.filled(dict(zip(names, (pair.prompt, *answers), strict=True)))
                request = Request(messages=messages, max_tokens=max_tokens, temperature=0.0)
            cases.append(JudgeItem((("user", pair.prompt),), answers, request))
    return cases


def same_placeholders(prompt: JudgePrompt) -> JudgePrompt:
    """Return the prompt with its places spelled as current code does, so that fingerprints of versions agree."""
    for spellings, name in zip(_PLACEHOLDERS, placeholders(prompt, _PLACEHOLDERS), strict=True):
        messages = tuple((role, text.replace(f"{{{name}}}", f"{{{spellings[0]}}}")) for role, text in prompt.messages)
        prompt = JudgePrompt(messages)
    return prompt


def arena_reader(version: Version) -> Callable[[Completion], Verdict]:
    """Return how a judgement is read, by the rules of the version."""
    check_choice("version", version, Version)
    return lambda reply: _with_label(reply, parse_label(reply.text, version))


def read_own_verdict(reply: Completion) -> Verdict:
    """Read `[[A]]`, `[[B]]`, `[[C]]` (a tie) or a label such as `[[A>>B]]`; all that there are must be the same."""
    found = {_OF_LETTER.get(one, one) for one in _VERDICT.findall(reply.text)}
    return _with_label(reply, found.pop() if len(found) == 1 else None)


def finish_request(request: Request, reply: Completion) -> Request | None:
    """Return what is asked after a judgement of v0.1 that has no label at all, None for one that has."""
    if STRICT_LABEL.search(reply.text):
        return None
    messages = (*request.messages, ("assistant", reply.text), ("user", _FINISH))
    return replace(request, messages=messages)


def game_rows(
    model: str, pairs: Sequence[AnswerPair], verdicts: Sequence[Verdict], id_column: str = "question_id"
) -> list[dict[str, Any]]:
    """Return the games as `read_battles` reads them, with both answers and judgements."""
    rows = []
    for number, pair in enumerate(pairs):
        games = verdicts[2 * number : 2 * number + 2]
        row: dict[str, Any] = {"model": model, id_column: pair.id}
        if pair.category is not None:
            row["category"] = pair.category
        rows.append(
            row
            | {
                "game1": games[0].label,
                "game2": games[1].label,
                "prompt": pair.prompt,
                "output_1": pair.baseline,
                "output_2": pair.model,
                "judgment": [game.reply.text for game in games],
                "failure": "; ".join(game.reply.failure for game in games if game.reply.failure) or None,
            }
        )
    return rows


def _with_label(reply: Completion, label: str | None) -> Verdict:
    read = score_of_a(label)
    return Verdict(reply) if read is None else Verdict(reply, read[0], label)
