from __future__ import annotations

from mixdpo.generation.completion import Completion
from mixdpo.judges.games import parse_game
from mixdpo.judges.grades import parse_grade


def test_own_verdicts_are_read_strictly() -> None:
    for text, label in (("[[A]]", "A>B"), ("so [[C]]", "A=B"), ("[[B>>A]] yes [[B>>A]]", "B>>A")):
        assert parse_game(Completion(text=text)).label == label
    for text in ("", "A", "[A]", "[[A]] or [[B]]", "[[D]]", "[[A>C]]"):
        assert parse_game(Completion(text=text)).score is None
    assert parse_grade(Completion(text="[[7.5]]")).score == 7.5
    for text in ("", "[5]", "[[5]] [[6]]", "[[five]]"):
        assert parse_grade(Completion(text=text)).score is None
