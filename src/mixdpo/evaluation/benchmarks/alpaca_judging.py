"""AlpacaEval 2's annotators: which of two answers a judge prefers, by log-probability or by a ranking."""

from __future__ import annotations

import ast
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from mixdpo.common.choices import check_choice
from mixdpo.generation.completion import Completion, Request
from mixdpo.judges.answer_pairs import AnswerPair
from mixdpo.judges.items import NOT_ASKED, JudgeItem, Verdict
from mixdpo.judges.prompt import JudgePrompt

Annotator = Literal["weighted", "ranking"]
JUDGE: Final = ("gpt-4-1106-preview",)
"""The judge of the published leaderboard."""
BASELINE: Final = "gpt4_1106_preview"
PROMPT: Final = "cac5c1ebb5a8578d"
"""Fingerprint of the published judge prompt."""
FIRST, SECOND = "m", "M"
"""What the weighted annotator's prompt calls the answer shown first, and the other."""
_LIST = re.compile(r"\[.*\]", re.DOTALL)


def is_swapped(instruction: str, seed: int = 0) -> bool:
    """Whether the model's answer is shown first; published annotations drew it so, from the instruction."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True])[0]


def alpaca_cases(
    pairs: Sequence[AnswerPair], prompt: JudgePrompt | None, annotator: Annotator, max_tokens: int | None = None
) -> list[JudgeItem]:
    """Return what is judged, without a prompt by judges that are asked nothing. Identical answers are a draw that no
    judge sees.

    Raises:
        InputError: the judge prompt has no place for an answer.
    """
    check_choice("annotator", annotator, Annotator)
    cases = []
    for pair in pairs:
        if pair.baseline == pair.model:
            continue
        shown = (pair.model, pair.baseline) if is_swapped(pair.prompt) else (pair.baseline, pair.model)
        request = NOT_ASKED
        if prompt is not None:
            messages = prompt.filled({"instruction": pair.prompt, "output_1": shown[0], "output_2": shown[1]})
            if annotator == "weighted":
                request = Request(messages=messages, max_tokens=1, temperature=1.0, top_logprobs=5)
            else:
                request = Request(messages=messages, max_tokens=max_tokens or 100, temperature=0.0)
        cases.append(JudgeItem((("user", pair.prompt),), shown, request))
    return cases


def alpaca_reader(annotator: Annotator) -> Callable[[Completion], Verdict]:
    """Return how a language model's reply is read."""
    check_choice("annotator", annotator, Annotator)

    def read(reply: Completion) -> Verdict:
        found = first_token_score(reply.first_token) if annotator == "weighted" else ranking_score(reply.text)
        return Verdict(reply, None if math.isnan(found) else found)

    return read


def first_token_score(first_token: Sequence[tuple[str, float]]) -> float:
    """Return how likely the first answer is preferred, from the likeliest first tokens; NaN if they name neither."""
    chances = dict(first_token)
    first, second = (math.exp(chances[name]) if name in chances else 0.0 for name in (FIRST, SECOND))
    return math.nan if first + second == 0 else first / (first + second)


def ranking_score(text: str) -> float:
    """Return 1 or 0 from a list such as [{"model": "model_1", "rank": 1}, ...], NaN if there is none."""
    found = _LIST.search(text)
    try:
        ranks = {str(item["model"]): item["rank"] for item in _literal(found.group() if found else "")}
    except (ValueError, SyntaxError, KeyError, TypeError):
        return math.nan
    first = ranks.get("model_1", ranks.get(FIRST))
    second = ranks.get("model_2", ranks.get(SECOND))
    if not {first, second} <= {1, 2} or first == second:
        return math.nan
    return float(first == 1)


def preference(score: float | None, swapped: bool) -> float | None:
    """Return AlpacaEval's preference, 1 baseline to 2 model, from the score of the answer shown first."""
    if score is None:
        return None
    return 1 + score if swapped else 2 - score


def alpaca_rows(model: str, pairs: Sequence[AnswerPair], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as `read_verdicts` reads them, with both answers and the judge's reply or failure."""
    given = iter(verdicts)
    rows = []
    for row, pair in enumerate(pairs):
        swapped = is_swapped(pair.prompt)
        verdict = None if pair.baseline == pair.model else next(given)
        rows.append(
            {
                "model": model,
                "row": row,
                "instruction_index": pair.index,
                "preference": 1.5 if verdict is None else preference(verdict.score, swapped),
                "switched": swapped,
                "instruction": pair.prompt,
                "output_1": pair.baseline,
                "output_2": pair.model,
                "reply": verdict.reply.text if verdict else None,
                "first_token": list(verdict.reply.first_token) if verdict else None,
                "failure": verdict.reply.failure if verdict else None,
            }
        )
    return rows


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)
