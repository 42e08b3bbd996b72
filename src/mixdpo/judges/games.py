"""Two answers compared in two games with swapped positions: what is asked, labels such as `A>>B`, and scores.

In game 1 the baseline's answer is A and the model's B, in game 2 the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mixdpo.generation.completion import Completion
from mixdpo.judges.answers import AnswerPair
from mixdpo.judges.judge import JudgeItem, Verdict
from mixdpo.judges.prompt import JudgePrompt, placeholders

Games = tuple[str | None, str | None]
"""Labels of both games of a prompt, None for one that cannot be read."""
STRICT_LABEL: Final = re.compile(r"\[\[([AB<>=]+)\]\]")
"""What a judgement ends with, such as `[[A>>B]]`."""
STRONG: Final = 3
"""Battles that a game with a significant winner counts for."""
PLACEHOLDERS: Final = (
    ("question", "QUESTION", "question_1", "instruction", "prompt"),
    ("answer_a", "ANSWER_A", "answer_1", "output_1", "response_a"),
    ("answer_b", "ANSWER_B", "answer_2", "output_2", "response_b"),
)
"""What a judge prompt may call the question and the two answers."""
_FOR_A: Final = {">>": (1.0, STRONG), ">": (1.0, 1), "=": (0.5, 1), "<": (0.0, 1), "<<": (0.0, STRONG)}
_VERDICT: Final = re.compile(r"\[\[([ABC<>=]+)\]\]")
_OF_LETTER: Final = {"A": "A>B", "B": "B>A", "C": "A=B"}


def score_of_a(label: str | None) -> tuple[float, int] | None:
    """Return the score of assistant A (1, 0.5 or 0) and for how many battles it counts, or None for no valid label."""
    if label is None or len(label) < 3 or {label[0], label[-1]} != {"A", "B"} or label[1:-1] not in _FOR_A:
        return None
    score, battles = _FOR_A[label[1:-1]]
    return (score, battles) if label[0] == "A" else (1 - score, battles)


def label_of(score: float) -> str:
    """Return the label of a score that says how much the first of two answers is preferred."""
    return "A>B" if score > 0.5 else "B>A" if score < 0.5 else "A=B"


def game_score(games: Games) -> float:
    """Return the model's mean score (1, 0.5, 0) in the games that have a label, NaN if none has."""
    first, second = score_of_a(games[0]), score_of_a(games[1])
    scores = [1 - first[0]] if first else []
    scores += [second[0]] if second else []
    return float(np.mean(scores)) if scores else np.nan


def game_items(pairs: Sequence[AnswerPair], prompt: JudgePrompt | None, max_tokens: int) -> list[JudgeItem]:
    """Return the two games of each pair, without a prompt for judges that are asked nothing in words.

    Raises:
        InputError: the judge prompt has no placeholder for the question or for an answer.
    """
    names = placeholders(prompt, PLACEHOLDERS) if prompt is not None else []
    items = []
    for pair in pairs:
        for answers in ((pair.baseline, pair.model), (pair.model, pair.baseline)):
            request = None
            if prompt is not None:
                values = dict(zip(names, (pair.prompt, *answers), strict=True))
                request = prompt.request(values, max_tokens=max_tokens)
            items.append(JudgeItem((("user", pair.prompt),), answers, request))
    return items


def parse_game(reply: Completion) -> Verdict:
    """Read `[[A]]`, `[[B]]`, `[[C]]` (a tie) or a label such as `[[A>>B]]`; all that there are must be the same."""
    found = {_OF_LETTER.get(one, one) for one in _VERDICT.findall(reply.text)}
    return labelled(reply, found.pop() if len(found) == 1 else None)


def labelled(reply: Completion, label: str | None) -> Verdict:
    """Return the verdict of a reply with this label, which may be none or not valid."""
    score = score_of_a(label)
    return Verdict(reply) if score is None else Verdict(reply, score[0], label)


def game_rows(
    model: str, pairs: Sequence[AnswerPair], verdicts: Sequence[Verdict], id_column: str = "id"
) -> list[dict[str, Any]]:
    """Return a row for each pair: the labels of both games, both answers and what the judge wrote."""
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
