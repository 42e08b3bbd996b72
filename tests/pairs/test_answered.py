"""Files of several answers to a prompt, in our columns and in those of other tools."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from mixdpo.common.errors import InputError
from mixdpo.pairs.answered import Answer, AnsweredPrompt, read_answered, write_answered
from mixdpo.pairs.make_pairs import make_pairs
from mixdpo.pairs.selection_settings import SelectionSettings


def file_of(tmp_path: Path, rows: list[dict[str, Any]], name: str = "answers.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def known(prompts: list[AnsweredPrompt]) -> list[tuple[str, str, float | None]]:
    return [
        (one.text, one.model, None if math.isnan(one.score) else one.score) for each in prompts for one in each.answers
    ]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rated = Answer("Elbe", "m", True, 3, 7.5, {"a": 7.0, "b": 8.0}, {"sample": 0, "reasoning": "Hm."})
    chat = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "A river?"))
    prompts = [
        AnsweredPrompt("x", "uid", (("user", "A river?"),), (rated, Answer("", "n", False, 0))),
        AnsweredPrompt("y", "uid", chat, (Answer("Oder", "m", score=1.0),)),
    ]
    write_answered(tmp_path / "answers.jsonl", prompts)
    again = read_answered(tmp_path / "answers.jsonl")
    assert [each.chat for each in again] == [each.chat for each in prompts]
    assert again[0].answers[0].columns["sample"] == 0
    assert again[0].answers[0].ratings == rated.ratings
    assert known(again) == known(prompts)
    write_answered(tmp_path / "twice.jsonl", again)
    assert known(read_answered(tmp_path / "twice.jsonl")) == known(prompts)


ULTRAFEEDBACK = {
    "source": "evol", "instruction": "A river?", "models": ["a", "b", "c"], "correct_answers": ["None"],
    "completions": [
        {"model": "a", "response": "Elbe", "overall_score": 10, "fine-grained_score": 1.25, "critique": "Wrong."},
        {"model": "b", "response": "Oder", "overall_score": 8.5, "fine-grained_score": 4.5, "critique": "Good."},
        {"model": "c", "response": "Rhine", "overall_score": 7, "fine-grained_score": None, "critique": ""},
    ],
}  # fmt: skip
EXPECTED = [("Elbe", "a", 1.0), ("Oder", "b", 2.0)]
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "distilabel": [
        {
            "instruction": "A river?",
            "generations": ["Elbe", "Oder"],
            "ratings": [1, 2],
            "generation_models": ["a", "b"],
        }
    ],
    "distilabel's ratings as text": [
        {"input": "A river?", "generations": ["Elbe", "Oder"], "ratings": ["1", "2.0"], "model_name": ["a", "b"]}
    ],
    "SimPO": [
        {
            "prompt": "A river?",
            "all_generated_responses": ["Elbe", "Oder"],
            "all_rm_scores": [1.0, 2.0],
            "models": ["a", "b"],
            "chosen": [{"role": "user", "content": "x"}],
            "rejected": [],
        }
    ],
    "ranks in objects": [
        {
            "prompt": [{"role": "user", "content": "A river?"}],
            "answers": [{"answer": "Elbe", "rank": -1.0, "model": "a"}, {"answer": "Oder", "rank": -2, "model": "b"}],
        }
    ],
    "long": [
        {"question": "A river?", "response": "Elbe", "model": "a", "reward": 1},
        {"question": "A river?", "response": "Oder", "model": "b", "reward": 2},
    ],
    "long with ranks": [
        {"prompt": "A river?", "completion": "Elbe", "model_name": "a", "rank": -1},
        {"prompt": "A river?", "completion": "Oder", "model_name": "b", "rank": -2},
    ],
    "answers as messages": [
        {"prompt": "A river?", "completion": [{"role": "assistant", "content": text}], "generator": model, "score": s}
        for text, model, s in EXPECTED
    ],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_other_tools_are_the_same_answers(name: str, tmp_path: Path) -> None:
    (read,) = read_answered(file_of(tmp_path, LAYOUTS[name]))
    assert read.chat == (("user", "A river?"),)
    assert known([read]) == EXPECTED
    write_answered(tmp_path / "again.jsonl", [read])
    (again,) = read_answered(tmp_path / "again.jsonl")
    assert (again.chat, known([again])) == (read.chat, EXPECTED)


def test_lists_that_csv_holds_as_text(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text('instruction,generations,ratings\nA river?,"[""Elbe"", ""Oder""]","[1, 2]"\n')
    (read,) = read_answered(path)
    assert [(text, score) for text, _, score in known([read])] == [("Elbe", 1.0), ("Oder", 2.0)]


def test_ultrafeedback_is_read_by_the_mean_of_its_aspects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its overall score has about 2,000 tens that are ones; one scale holds for the file."""
    caplog.set_level(logging.INFO)
    (read,) = read_answered(file_of(tmp_path, [ULTRAFEEDBACK]))
    assert known([read]) == [("Elbe", "a", 1.25), ("Oder", "b", 4.5), ("Rhine", "c", None)]
    assert read.answers[0].columns == {"source": "evol"}
    assert "scores from fine-grained_score" in caplog.text


def test_a_row_whose_ratings_are_missing_has_answers_without_scores(tmp_path: Path) -> None:
    """As distilabel writes it where its judge's reply could not be read."""
    given: dict[str, list[float] | None] = {"P": [1.0, 2.0], "Q": None, "R": []}
    rows = [{"instruction": name, "generations": ["a", "b"], "ratings": ratings} for name, ratings in given.items()]
    for read, ratings in zip(read_answered(file_of(tmp_path, rows)), given.values(), strict=True):
        assert [score for _, _, score in known([read])] == (ratings or [None, None])


@pytest.mark.parametrize("score", ["N/A", 10**400, "1e999"])
def test_a_score_that_is_no_finite_number_leaves_out_its_answer(score: object, tmp_path: Path) -> None:
    rows = [{"instruction": "Q", "output": text, "score": value} for text, value in (("a", 1), ("b", 2), ("c", score))]
    made = make_pairs(read_answered(file_of(tmp_path, rows)), SelectionSettings())
    assert made.report["answers"]["left_out"] == {"no_score": {"answers": 1, "prompts": 1}}
    assert len(made.pairs) == 1


def test_answers_in_a_row_need_no_scores_to_be_rated(tmp_path: Path) -> None:
    rows = [{"prompt": "A river?", "all_generated_responses": ["<think>Hm.</think>Elbe", None]}]
    (read,) = read_answered(file_of(tmp_path, rows))
    assert known([read]) == [("Elbe", "", None), ("", "", None)]
    assert read.answers[0].columns["reasoning"] == "Hm."


def test_what_may_be_a_part_of_the_prompt_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"system": None, "instruction": "Q", "output": "a"},
        {"system": "Rhyme.", "instruction": "R", "output": "b"},
    ]
    read_answered(file_of(tmp_path, rows))
    assert "perhaps a part of the prompt: system" in caplog.text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "Q", "reply": "a"}, ("output", "completions")),
        ({"output": "a"}, ("no prompt", "row 1")),
        ({"instruction": "Q", "output": 7}, ("row 1", "'output'")),
        ({"instruction": "Q", "output": "a", "score": [1]}, ("row 1", "'score'", "a list")),
        ({"instruction": "Q", "generations": ["a", "b"], "ratings": [1]}, ("row 1", "'ratings'", "2 scores")),
        ({"instruction": "Q", "completions": [{"score": 1}]}, ("row 1", "'completions'", "without a text")),
        ({"turns": ["Q", "R"], "output": "a"}, ("row 1", "one turn")),
        ({"instruction": "Q", "output": "a", "finished": "false"}, ("row 1", "'finished'", "is text")),
    ],
)
def test_what_cannot_be_read_is_named(row: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    path = file_of(tmp_path, [row])
    with pytest.raises(InputError) as error:
        read_answered(path)
    assert str(path) in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_answers_and_prompts_of_csv_stay_texts_where_all_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("instruction,output,score\n12,2.0,1\n12,03,0.5\n")
    (prompt,) = read_answered(path)
    assert prompt.chat == (("user", "12"),)
    assert known([prompt]) == [("2.0", "", 1.0), ("03", "", 0.5)]


def test_names_of_models_that_are_not_one_for_each_answer_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"instruction": "Q", "generations": ["a", "b"], "ratings": [1, 5]}
    rows = [row | {"generation_models": ["m"]}, row | {"instruction": "R", "generation_models": ["m", "n"]}]
    assert [name for _, name, _ in known(read_answered(file_of(tmp_path, rows)))] == ["", "", "m", "n"]
    assert "1 rows have another number of generation_models" in caplog.text
