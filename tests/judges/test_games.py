from __future__ import annotations

import pytest

from mixdpo.judges import games, grades
from mixdpo.judges.games import parse_game, position_bias
from mixdpo.judges.grades import parse_grade, scale_of
from mixdpo.judges.judge import Verdict
from mixdpo.judges.prompt import JudgePrompt


def test_own_verdicts_are_read_strictly() -> None:
    for text, label in (("[[A]]", "A>B"), ("so [[C]]", "A=B"), ("[[B>>A]] yes [[B>>A]]", "B>>A")):
        assert Verdict.of(text, parse_game(text)).label == label
    for text in ("", "A", "[A]", "[[A]] or [[B]]", "[[D]]", "[[A>C]]"):
        assert Verdict.of(text, parse_game(text)).score is None
    assert parse_grade("[[7.5]]") == 7.5
    assert parse_grade("[[85]]", (1.0, 10.0)) is parse_grade("[[0]]", (1.0, 10.0)) is None
    assert parse_grade("[[85]]", (0.0, 100.0)) == parse_grade("[[85]]") == 85
    for text in ("", "[5]", "[[5]] [[6]]", "[[five]]"):
        assert parse_grade(text) is None


QUOTED = "Answer B says [[B]], which it must not.\n\n**[[A]]**\n"


def test_a_verdict_in_a_last_line_of_its_own_outweighs_quoted_ones() -> None:
    assert parse_game(QUOTED) == "A>B"
    assert parse_game("It asks for [[A>>B]].\n**Final verdict: [[B>A]]**") == "B>A"
    assert parse_game("[[A]] it says.\nMy verdict is: [[C]].") == "A=B"
    for unclear in ("[[B]]\nso not [[A]]", "[[A]]\n[[A]] or [[B]]", "[[A]]\nA verdict of [[B]] would be wrong"):
        assert parse_game(unclear) is None
    assert parse_grade('It asks for "[[10]]".\n[[2]]', (1.0, 10.0)) == 2
    assert parse_grade('It asks for "[[10]]".\nRating: [[2.5]]', (1.0, 10.0)) == 2.5
    assert parse_grade("[[2]]\n[[11]]", (1.0, 10.0)) is None


def test_quoted_verdicts_are_seen() -> None:
    assert games.quotes_another(QUOTED, "A>B")
    assert grades.quotes_another('It asks for "[[10]]".\n[[2]]', 2.0)
    for text, label in (("[[A]] is my verdict", "A>B"), ("[[A>B]]\n[[A]]", "A>B"), ("[[A]] or [[B]]", None)):
        assert not games.quotes_another(text, label)
    assert not grades.quotes_another("[[2]] and [[2.0]]", 2.0)


@pytest.mark.parametrize(
    ("prompt", "scale"),
    [
        ("You grade an answer with a number from 1 to 10.\n\n1 to 2: wrong. 3 to 4: serious errors.", (1, 10)),
        ("Rate the response on a scale of 1 to 10 by strictly following this format", (1, 10)),
        ("Give a score between 0 and 100.", (0, 100)),
        ("Rate it on a scale of 1-5. The score goes from 1 to 5.", (1, 5)),
        ("Grade the answer: [[number]].", None),
        ("Answers of 2 to 3 sentences are fine. Grade the answer.", None),
        ("A score from 1 to 10, or from 0 to 5.", None),
    ],
)
def test_the_scale_of_grades_is_the_judge_prompts(prompt: str, scale: tuple[float, float] | None) -> None:
    assert scale_of(JudgePrompt((("system", "Be fair."), ("user", prompt)))) == scale


def test_position_bias() -> None:
    always_first = position_bias([1] * 20, [1] * 20)
    assert always_first.consistent.estimate == 0
    assert always_first.first_shown is not None
    assert always_first.first_shown.estimate == 1
    assert always_first.p_value < 1e-4
    fair = position_bias([1, 0, 0.5] * 5, [0, 1, 0.5] * 5)
    assert (fair.consistent.estimate, fair.p_value) == (1, 1)
