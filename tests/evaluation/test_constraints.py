from __future__ import annotations

import random

import pytest

from mixdpo.evaluation.constraints import (
    KINDS,
    Constraint,
    constraints_from_text,
    constraints_met,
    constraints_to_text,
    prompt_text,
    sample_constraints,
)

# For each kind: arguments, an answer that meets it, and answers that do not.
CASES: dict[str, tuple[dict[str, str | int], str, list[str]]] = {
    "word": ({"word": "light"}, "Some Light, at last.", ["Lightning is near.", "It is dark."]),
    "no_word": ({"word": "it"}, "The cat sits.", ["It sits.", "I see it."]),
    "sentences": (
        {"count": 2},
        'He paid 3.50 for it. "Was that too much?"',
        ["One only.", "One. Two. Three.", "A title\nOne. Two."],
    ),
    "one_sentence": ({}, "Rain falls, and I walk", ["Rain falls. I walk.", "Rain falls\nI walk"]),
    "bullets": (
        {"count": 2},
        "- one\n- two",
        ["- one", "- one\n- two\n- three", "one - two - three", "-one\n-two", "-\none\n-\ntwo", "* one\n* two"],
    ),
    "numbered": ({"count": 2}, "Here:\n1. one\n2) two", ["1. one", "1. one\n3. two", "2. one\n1. two", "1.5 and 2.5"]),
    "paragraphs": ({"count": 2}, "One.\nStill one.\n \nTwo.", ["One.", "One.\nTwo.", "One.\n\nTwo.\n\nThree."]),
    "case": ({"case": "lowercase"}, "no, 3 of them.", ["No.", "123"]),
    "capitals": ({}, "This is VERY good.", ["This is good.", "I am OK."]),
    "starts_with": (
        {"phrase": "Well"},
        '"well, I think so."',
        ["I think so. Well.", "Wellness is good."],
    ),
    "ends_with": ({"phrase": "The end."}, "They slept.\n**The end!**", ["The end. They slept.", "It was lathe end."]),
    "max_words": ({"count": 3}, "Don't panic - run!", ["One two three four."]),
    "min_words": ({"count": 3}, "Don't ever panic!", ["Don't panic - !"]),
    "digit": ({}, "1. Take 2 eggs", ["1. Take two eggs\n2. Boil them"]),
    "last_question": ({}, "Yes. And you? ", ["You? Yes."]),
    "question": ({}, "You? Yes.", ["Yes."]),
    "exclamation": ({}, "Oh! Yes.", ["Oh."]),
    "title": (
        {},
        "<<Snow>>\nIt fell.",
        ["<Snow>\nIt fell.", "It fell.\n<<Snow>>", "<<>>\nIt fell.", "<<Snow>> fell."],
    ),
    "bold": ({}, "It was **very cold** here.", ["It was *cold*.", "5 ** 2 ** 1", "****"]),
    "no_commas": ({}, "Red and blue.", ["Red, blue."]),
    "parentheses": ({}, "Snow (the first) fell.", ["Snow fell.", "Snow () fell.", "a) Snow"]),
    "postscript": ({}, "I left.\n\nP.S. Feed the cat.", ["I left. Feed the cat.", "I left.\nP.S."]),
}


def test_every_kind_has_cases() -> None:
    assert set(CASES) == set(KINDS)


@pytest.mark.parametrize("kind", CASES)
def test_check(kind: str) -> None:
    arguments, good, bad = CASES[kind]
    demand = Constraint(kind, arguments)
    assert demand.is_met(good)
    assert demand.is_met(f"  {good}\n")
    for answer in [*bad, "", " \n"]:
        assert not demand.is_met(answer), answer


def test_capital_letters() -> None:
    demand = Constraint("case", {"case": "capital"})
    assert demand.is_met("NO, 3 OF THEM.")
    assert not demand.is_met("NO, 3 of THEM.")


def test_count_of_demands_met() -> None:
    demands = [Constraint("no_commas"), Constraint("max_words", {"count": 2}), Constraint("question")]
    assert constraints_met("Yes. Really. Quite.", demands) == 1
    assert constraints_met("Really?", demands) == 3
    assert constraints_met("", demands) == 0


def test_json_round_trip() -> None:
    rng = random.Random(0)
    for _ in range(200):
        demands = sample_constraints(rng)
        again = constraints_from_text(constraints_to_text(demands))
        assert again == demands
        assert [demand.instruction for demand in again] == [demand.instruction for demand in demands]


@pytest.mark.parametrize(
    "text",
    ['[{"kind": "rhymes"}]', '[{"kind": "max_words"}]', '[{"kind": "bold", "count": 2}]', '[{"count": 2}]'],
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a constraint"):
        constraints_from_text(text)


def test_sampled_demands_go_together() -> None:
    rng = random.Random(3)
    seen = set()
    for _ in range(2000):
        demands = sample_constraints(rng)
        concerns = [concern for demand in demands for concern in KINDS[demand.kind].concerns]
        assert len(demands) == 3
        assert len(concerns) == len(set(concerns))
        seen.update(demand.kind for demand in demands)
        for demand in demands:
            assert demand.arguments.items() <= {
                (name, value) for name, values in KINDS[demand.kind].choices.items() for value in values
            }
    assert seen == set(KINDS)


def test_no_phrase_asks_for_a_forbidden_word_or_comma() -> None:
    phrases = [phrase for kind in ("starts_with", "ends_with") for phrase in KINDS[kind].choices["phrase"]]
    for phrase in phrases:
        assert "," not in str(phrase)
        for word in KINDS["no_word"].choices["word"]:
            # "Have a nice day." and the like must be possible whatever word is forbidden.
            assert Constraint("no_word", {"word": word}).is_met(str(phrase)), (phrase, word)
    assert not set(KINDS["word"].choices["word"]) & set(KINDS["no_word"].choices["word"])


def test_sampling_follows_the_seed() -> None:
    assert sample_constraints(random.Random(5)) == sample_constraints(random.Random(5))
    assert [sample_constraints(random.Random(seed)) for seed in range(5)] != [sample_constraints(random.Random(9))] * 5


def test_prompt_text() -> None:
    demands = [Constraint("max_words", {"count": 15}), Constraint("question")]
    assert prompt_text("Describe rain.", demands) == (
        "Describe rain. Use at most 15 words. Ask at least one question."
    )
