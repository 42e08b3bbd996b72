"""AlpacaEval 2's annotators: which of two answers a judge prefers, by log-probability or by a ranking."""

from __future__ import annotations

import ast
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mixdpo.errors import InputError
from mixdpo.evaluation.endpoint import EndpointSettings, Reply, Request, ask_all
from mixdpo.evaluation.judging import Pair
from mixdpo.evaluation.templates import fill

Annotator = Literal["weighted", "ranking"]
JUDGE = "gpt-4-1106-preview"
"""The judge of the published leaderboard."""
FIRST, SECOND = "m", "M"
"""What the weighted annotator's prompt calls the answer shown first, and the other."""
_CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)\n?<\|im_end\|>", re.DOTALL)
_LIST = re.compile(r"\[.*\]", re.DOTALL)


def read_chat_template(path: str | Path) -> list[tuple[str, str]]:
    """Read a judge prompt with `<|im_start|>role` and `<|im_end|>` marks into (role, template) messages."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from error
    messages = _CHATML.findall(text)
    if not messages:
        raise InputError("no messages between <|im_start|> and <|im_end|>", file=path)
    return messages


def is_swapped(instruction: str, seed: int = 0) -> bool:
    """Whether the model's answer is shown first; published annotations drew it so, from the instruction."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True])[0]


def alpaca_request(pair: Pair, template: Sequence[tuple[str, str]], annotator: Annotator) -> Request:
    """Return the call that asks for a preference."""
    shown = (pair.model, pair.baseline) if is_swapped(pair.prompt) else (pair.baseline, pair.model)
    values = {"instruction": pair.prompt, "output_1": shown[0], "output_2": shown[1]}
    messages = tuple(
        (role, fill(text, {name: value for name, value in values.items() if f"{{{name}}}" in text}))
        if "{" in text
        else (role, text)
        for role, text in template
    )
    if annotator == "weighted":
        return Request(messages=messages, max_tokens=1, temperature=1.0, top_logprobs=5)
    return Request(messages=messages, max_tokens=100, temperature=0.0)


def weighted_preference(first_token: Sequence[tuple[str, float]], swapped: bool) -> float:
    """Return the preference (1 baseline, 2 model) from the likeliest first tokens, NaN if they hold neither name."""
    chances = dict(first_token)
    first, second = (math.exp(chances[name]) if name in chances else 0.0 for name in (FIRST, SECOND))
    if first + second == 0:
        return math.nan
    preference = 2 - first / (first + second)
    return 3 - preference if swapped else preference


def ranking_preference(text: str, swapped: bool) -> float:
    """Return the preference from a list such as [{"model": "model_1", "rank": 1}, ...], NaN if there is none."""
    found = _LIST.search(text)
    try:
        ranks = {str(item["model"]): item["rank"] for item in _literal(found.group() if found else "")}
    except (ValueError, SyntaxError, KeyError, TypeError):
        return math.nan
    first = ranks.get("model_1", ranks.get(FIRST))
    second = ranks.get("model_2", ranks.get(SECOND))
    if not {first, second} <= {1, 2} or first == second:
        return math.nan
    preference = 1.0 if first == 1 else 2.0
    return 3 - preference if swapped else preference


def judge_alpaca(
    pairs: Sequence[Pair],
    model: str,
    template: Sequence[tuple[str, str]],
    annotator: Annotator,
    endpoint: EndpointSettings,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], list[Reply]]:
    """Ask a judge about every pair; identical answers are a draw without a call.

    Returns:
        Rows as `read_verdicts` reads them, with the judge's reply or failure, and the replies.
    """
    asked = [pair for pair in pairs if pair.baseline != pair.model]
    replies = ask_all([alpaca_request(pair, template, annotator) for pair in asked], endpoint, progress)
    by_index = {pair.index: reply for pair, reply in zip(asked, replies, strict=True)}
    rows = []
    for row, pair in enumerate(pairs):
        reply, swapped = by_index.get(pair.index), is_swapped(pair.prompt)
        if reply is None:
            preference = 1.5
        elif reply.failure:
            preference = math.nan
        elif annotator == "weighted":
            preference = weighted_preference(reply.first_token, swapped)
        else:
            preference = ranking_preference(reply.text, swapped)
        rows.append(
            {
                "model": model,
                "row": row,
                "instruction_index": pair.index,
                "preference": None if math.isnan(preference) else preference,
                "len_1": len(pair.baseline),
                "len_2": len(pair.model),
                "switched": swapped,
                "reply": reply.text if reply else None,
                "failure": reply.failure if reply else None,
            }
        )
    return rows, replies


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)
