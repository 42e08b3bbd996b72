"""What rounds came to: shares and gains with intervals, warnings, and one row a round."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.recipe.rounds_results import (
    HeldOutResult,
    RoundResult,
    answers_result,
    compared_result,
    rounds_figure,
    rounds_table,
    with_warnings,
)

PLAIN = HeldOutResult(answers=20, tokens=40.0, cut=0.1)
START = RoundResult(number=0, model="start", held_out=PLAIN)


def test_answers_are_counted_with_their_lengths() -> None:
    def prompt(number: int, *answers: Answer) -> AnsweredPrompt:
        return AnsweredPrompt(number, "index", (("user", "Hi"),), answers)

    answers = [Answer("a", "m", True, 10), Answer("b", "m", False, 30), Answer("c", "m", None, None)]
    assert answers_result([prompt(0, answers[0]), prompt(1, *answers[1:]), prompt(2)]) == HeldOutResult(
        answers=3, tokens=20.0, cut=1 / 3
    )
    assert answers_result([prompt(0)]) == HeldOutResult(answers=0, tokens=None, cut=0.0)


def test_shares_and_gains_are_of_prompts_with_both_answers() -> None:
    rng = np.random.default_rng(0)
    wins, own, first = rng.choice([0, 0.5, 1], 30), rng.normal(size=30), rng.normal(size=30)
    rows = [
        {"preferred/start": win, "preferred/last": 1.0, "rating/newest": a, "rating/start": b}
        for win, a, b in zip(wins.tolist(), own.tolist(), first.tolist(), strict=True)
    ]
    rows.append({"preferred/start": None, "preferred/last": None, "rating/newest": 3.0, "rating/start": None})
    found = compared_result(PLAIN, rows)
    assert (found.answers, found.compared, found.left_out) == (20, 30, 1)
    for interval, values in ((found.over_start, wins), (found.gain, own - first)):
        test = scipy.stats.ttest_1samp(values, 0)
        low, high = test.confidence_interval(0.95)
        assert (interval.estimate, interval.low, interval.high) == pytest.approx((values.mean(), low, high))
    assert found.rating == pytest.approx(own.mean())
    assert found.start_rating == pytest.approx(first.mean())
    assert found.over_last.estimate == 1.0 > found.over_last.low > 0.8, "30 wins do not show a share of 1"


def test_a_judge_that_only_compares_gives_no_ratings() -> None:
    found = compared_result(PLAIN, [{"preferred/start": 1.0, "preferred/last": 0.0}] * 4)
    assert found.rating is found.start_rating is found.gain is None
    assert "rating" not in rounds_table([START, RoundResult(number=1, model="m", held_out=found)]).headings


@pytest.mark.parametrize(
    ("now", "answers", "words"),
    [
        (HeldOutResult(answers=20, tokens=61.0, cut=0.1), [], ["1.5 times as long as the start's (61 tokens"]),
        (HeldOutResult(answers=20, tokens=60.0, cut=0.2), [], []),
        (HeldOutResult(answers=20, tokens=40.0, cut=0.25), [], ["25 % of answers are cut", "the start's 10 %"]),
        (HeldOutResult(answers=20, tokens=None, cut=0.0), [], []),
        (PLAIN, ["Yes."] * 20, ["same answer: 100 %"]),
        (PLAIN, [f"answer {k}" if k % 4 else "" for k in range(20)], ["empty: 25 %"]),
    ],
)
def test_a_model_that_degenerates_is_warned_of(now, answers, words) -> None:
    warnings = with_warnings(RoundResult(number=1, model="m", held_out=now), START, answers).warnings
    assert len(warnings) == bool(words)
    assert all(word in warnings[0] for word in words)


def test_one_row_a_round_and_one_figure() -> None:
    rows = [
        {"preferred/start": win, "preferred/last": win, "rating/newest": 2 + win, "rating/start": 2.0}
        for win in (0.0, 1.0, 1.0, 0.5)
    ]
    results = [
        START,
        RoundResult(
            number=1, model="m", pairs=1234, median_margin=1.5, ties=0.25, routes={"preference": 1000, "sft": 234},
            held_out=compared_result(PLAIN, rows),
        ),
    ]  # fmt: skip
    table = rounds_table(results)
    assert "20 held-out prompts" in table.title
    assert dict(zip(table.headings, table.rows[1], strict=True)) == {
        "round": "1",
        "pairs": "1,234",
        "median margin": "1.50",
        "ties": "25 %",
        "preferred to start": "62 % (0 % to 100 %)",
        "to round before": "62 % (0 % to 100 %)",
        "rating": "2.62",
        "gain on start": "+0.62 (-0.14 to +1.39)",
        "tokens": "40",
        "cut": "10 %",
    }
    assert table.rows[0][0] == "start"
    wins, margins, lengths = rounds_figure(results).axes[:3]
    assert [text.get_text() for text in wins.get_xticklabels()] == ["start", "1"]
    assert not math.isnan(margins.lines[0].get_ydata()[0])
    assert list(lengths.lines[0].get_ydata()) == [40.0, 40.0]
