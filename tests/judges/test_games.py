from __future__ import annotations

from mixdpo.judges.games import parse_game
from mixdpo.judges.grades import parse_grade
from mixdpo.judges.judge import Verdict


def test_own_verdicts_are_read_strictly() -> None:
    for text, label in (("[[A]]", "A>B"), ("so [[C]]", "A=B"), ("[[B>>A]] yes [[B>>A]]", "B>>A")):
        assert Verdict.of(text, parse_game(text)).label == label
    for text in ("", "A", "[A]", "[[A]] or [[B]]", "[[D]]", "[[A>C]]"):
        assert Verdict.of(text, parse_game(text)).score is None
    assert parse_grade("[[7.5]]") == 7.5
    for text in ("", "[5]", "[[5]] [[6]]", "[[five]]"):
        assert parse_grade(text) is None
