"""Held-out answers of two models compared: by ratings, or by a judge who sees both orders."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mixdpo.generation.chat_model import Completion
from mixdpo.generation.prompts import Prompt
from mixdpo.judges.judge import JudgeItem, Verdict
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.compare_models import compare_models, in_order_of, preferred
from mixdpo.pairs.rating_settings import RatingSettings


class Rater:
    """Rates an answer by its length, or compares two by theirs; asked in words, it always prefers the longer one."""

    def __init__(self, name: str = "rater", in_words: bool = False, sign: int = 1) -> None:
        self.name, self.in_words, self.sign, self.seen = name, in_words, sign, 0

    def judge(self, items: list[JudgeItem], parse, follow_up=None, progress=None) -> list[Verdict]:
        self.seen += len(items)
        return [self._verdict(item) for item in items]

    def _verdict(self, item: JudgeItem) -> Verdict:
        lengths = [self.sign * len(answer) for answer in item.answers]
        if len(lengths) == 1:
            return Verdict.of("", float(lengths[0]))
        return Verdict.of("", "A=B" if lengths[0] == lengths[1] else "A>B" if lengths[0] > lengths[1] else "B>A")

    def record(self) -> dict[str, str]:
        return {}


def answered(*texts: str | None) -> list[AnsweredPrompt]:
    given = [() if text is None else (Answer(text, "m"),) for text in texts]
    return [
        AnsweredPrompt(f"p{number}", "id", (("user", f"question {number}"),), answers)
        for number, answers in enumerate(given)
    ]


NEWEST = answered("longer one", "short", "same", "", "some", None)
START = answered("short", "longer one", "same", "some", " ", "some")
EXPECTED = [1.0, 0.0, 0.5, 0.0, 1.0, None]


def test_ratings_are_compared() -> None:
    rows = compare_models(NEWEST, {"start": START}, [Rater()], RatingSettings()).rows
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert [row["preferred/start"] for row in rows] == EXPECTED
    assert [row["rating/newest"] for row in rows] == [10, 5, 4, None, 4, None]
    assert [row["rating/start"] for row in rows] == [5, 10, 4, 4, None, 4]


def test_a_reward_model_in_a_folder_rates(tmp_path: Path) -> None:
    """Ratings have the last part of its path as their name."""
    (tmp_path / "reward").mkdir()
    rows = compare_models(NEWEST, {"start": START}, [Rater(str(tmp_path / "reward"))], RatingSettings()).rows
    assert [row["preferred/start"] for row in rows] == EXPECTED


@pytest.mark.parametrize("settings", [RatingSettings(), RatingSettings(mode="pairwise")])
def test_a_judge_in_words_sees_both_orders(settings: RatingSettings) -> None:
    judge = Rater(in_words=True)
    rows = compare_models(NEWEST, {"start": START, "last": NEWEST}, [judge], settings).rows
    assert [row["preferred/start"] for row in rows] == EXPECTED
    assert [row["preferred/last"] for row in rows] == [0.5] * 5 + [None]
    assert judge.seen == 4, "two games of two prompts, and none where the texts settle it"
    assert "rating/newest" not in rows[0]


def test_several_judges_count_alike() -> None:
    judges = [Rater("long"), Rater("short", sign=-1), Rater("words", in_words=True)]
    rows = compare_models(NEWEST, {"start": START}, judges, RatingSettings()).rows
    assert [row["preferred/start"] for row in rows] == pytest.approx([2 / 3, 1 / 3, 0.5, 0.0, 1.0, None])
    rows = compare_models(NEWEST, {"start": START}, judges[:2], RatingSettings()).rows
    assert [row["preferred/start"] for row in rows] == [0.5, 0.5, 0.5, 0.0, 1.0, None]


def test_preferences_of_ratings() -> None:
    found = preferred(np.array([2.0, 1.0, 1.0, math.nan]), np.array([1.0, 2.0, 1.0, 1.0]))
    np.testing.assert_array_equal(found, [1, 0, 0.5, math.nan])


def test_answers_stand_where_their_prompts_do() -> None:
    prompts = [Prompt(f"p{k}", "id", (), (f"question {k}",), None) for k in (1, 0, 7)]
    ordered = in_order_of(prompts, answered("a", "b"))
    assert [[one.text for one in prompt.answers] for prompt in ordered] == [["b"], ["a"], []]
    assert [prompt.id for prompt in ordered] == ["p1", "p0", "p7"]


class Absent(Rater):
    """Does not answer about one item, and says nothing that can be read of another."""

    def judge(self, items: list[JudgeItem], parse, follow_up=None, progress=None) -> list[Verdict]:
        verdicts = super().judge(items, parse)
        return [Verdict(Completion(failure="gone")), Verdict.of("hm", None), *verdicts[2:]]


@pytest.mark.parametrize("in_words", [False, True])
def test_what_a_judge_does_not_say_is_counted(in_words: bool) -> None:
    many = 12
    newest, start = (answered(*(f"{word} {number}" for number in range(many))) for word in ("long", "x"))
    found = compare_models(newest, {"start": start}, [Absent(in_words=in_words)], RatingSettings())
    assert (found.verdicts, found.failed, found.unread) == (2 * many, 1, 1)
    assert sum(row["preferred/start"] is None for row in found.rows) == 1
