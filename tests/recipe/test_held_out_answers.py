"""Answers to held-out prompts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mixdpo.common.errors import RunError
from mixdpo.generation.chat_model import Completion, Request
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.generation.prompts import Prompt
from mixdpo.pairs.answered import Answer
from mixdpo.recipe.held_out_answers import answer_greedily


class Writer:
    """Answers the prompts that are not too long."""

    name = "writer"

    def complete(self, requests: list[Request], progress=None) -> list[Completion]:
        asked = [request.messages[-1][1] for request in requests]
        assert all(request.temperature == 0 and request.max_tokens == 5 for request in requests)
        whole = [Completion(text=f"to {text}", finished=True, tokens_out=2) for text in asked]
        return [Completion(failure="too long") if len(one.text) > 12 else one for one in whole]


def test_answers_are_greedy_and_failures_counted(caplog: pytest.LogCaptureFixture) -> None:
    short, long = (Prompt(number, "index", (), (text,), None, columns={"demands": "[]"}) for number, text in
                   enumerate(("brief", "a long question")))  # fmt: skip
    settings = GenerationSettings(samples=4, temperature=0.9, max_new_tokens=5)
    first, second = answer_greedily([short, long], Writer(), settings)
    (answer,) = first.answers
    assert math.isnan(answer.score)
    assert replace(answer, score=0.0) == Answer("to brief", "writer", True, 2, 0.0, columns={"demands": "[]"})
    assert second.answers == ()
    assert "1 of 2 held-out prompts have no answer; the first: too long" in caplog.text
    with pytest.raises(RunError, match="too long"):
        answer_greedily([long], Writer(), settings)
