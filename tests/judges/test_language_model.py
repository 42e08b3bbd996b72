"""A judge's verdict is what it says, not what it thinks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mixdpo.generation.chat_model import Completion, Progress, Request
from mixdpo.judges.judge import JudgeItem
from mixdpo.judges.language_model import LanguageJudge


class Thoughtful:
    """Answers every request alike."""

    name = "thoughtful"

    def complete(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        return [Completion(text="Well. <think>maybe [[3]]</think> Rating: [[9]]", finished=True)] * len(requests)


def rating(reply: Completion) -> float | None:
    found = re.search(r"\[\[(\d+)\]\]", reply.text)
    return float(found[1]) if found else None


def test_a_verdict_is_not_read_off_thoughts_behind_a_preamble() -> None:
    request = Request(messages=(("user", "Rate it."),), max_tokens=9, temperature=0.0)
    item = JudgeItem(chat=(("user", "Hi"),), answers=("Hello",), request=request)
    (verdict,) = LanguageJudge(Thoughtful()).judge([item], rating)
    assert verdict.score == 9
    assert "maybe [[3]]" in verdict.reply.text
