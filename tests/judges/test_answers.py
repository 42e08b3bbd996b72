from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mixdpo.common.errors import InputError
from mixdpo.generation.answer_files import AnswerFile, PromptTexts, read_answers, read_prompt_texts
from mixdpo.judges.answers import AnswerSources, pair_up
from mixdpo.judges.grades import grade_items, grade_task
from mixdpo.judges.prompt import JudgePrompt


def test_answers_are_joined_by_id_or_by_prompt(tmp_path: Path) -> None:
    def file(name: str, rows: list[dict[str, Any]]) -> Any:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_answers(tmp_path / name)

    base = file("base.jsonl", [{"instruction": p, "output": f"b{p}"} for p in "xyz"])
    own = file("own.jsonl", [{"id": 7, "instruction": p, "output": f"m{p}"} for p in "zx"])
    pairs = pair_up(own, base)
    assert [(pair.index, pair.prompt, pair.baseline, pair.model) for pair in pairs] == [
        (0, "x", "bx", "mx"),
        (2, "z", "bz", "mz"),
    ]
    arena = [{"uid": f"u{n}", "messages": [{"role": "assistant", "content": {"answer": str(n)}}]} for n in range(2)]
    texts = PromptTexts("uid", {"u0": "p0", "u1": "p1"})
    found = pair_up(file("b.jsonl", arena), file("a.jsonl", arena[::-1]), texts, {"u1": "c"}, "c")
    assert [(pair.id, pair.prompt, pair.model) for pair in found] == [("u1", "p1", "1")]

    def answers(name: str, ids: str, prompts: Sequence[str]) -> Any:
        rows = [{ids: row, "instruction": text, "output": name + text} for row, text in enumerate(prompts)]
        return file(name, rows)

    # `mixdpo generate` numbers the rows of a set without ids, and numbers of two sets mean different prompts.
    found = pair_up(answers("a.jsonl", "index", "xyz"), answers("b.jsonl", "index", "wzx"))
    assert [(pair.prompt, pair.model) for pair in found] == [("z", "a.jsonlz"), ("x", "a.jsonlx")]
    bare = [{"index": 0, "output": "a"}]
    with pytest.raises(InputError, match="with their texts or under the same uid"):
        pair_up(file("a.jsonl", bare), file("b.jsonl", bare))
    with pytest.raises(InputError, match=r"a.jsonl, row 2: under the id '1' is another prompt .*b.jsonl, row 2"):
        pair_up(answers("a.jsonl", "id", "xyz"), answers("b.jsonl", "id", "xw"))
    assert len(pair_up(answers("a.jsonl", "id", ["x", "y\r\n"]), answers("b.jsonl", "id", ["x ", "y"]))) == 2


def test_texts_of_questions_are_joined_by_real_ids_only(tmp_path: Path) -> None:
    """Else question 1 would be put over the second answer, which is in row 1 from 0."""

    def file(name: str, rows: list[dict[str, Any]]) -> Path:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    numbered = [{"question_id": row, "question": f"p{row}"} for row in (1, 2, 3)]
    questions = read_prompt_texts(file("questions.jsonl", numbered))
    rows = [{"output": f"a{row}"} for row in range(3)]
    own = read_answers(file("own.jsonl", rows))
    base = read_answers(file("base.jsonl", [{**one, "output": "b"} for one in numbered]))
    with pytest.raises(InputError, match="is answered here"):
        pair_up(own, base, questions)
    # Categories go by the same ids as texts.
    pairs = pair_up(own, own, PromptTexts(None, {"0": "x", "1": "y", "2": "z"}), {"1": "of question 1"})
    assert [(pair.prompt, pair.model, pair.category) for pair in pairs] == [
        ("x", "a0", None), ("y", "a1", None), ("z", "a2", None)
    ]  # fmt: skip
    sources = AnswerSources(models=(own.file,), questions=tmp_path / "questions.jsonl")
    with pytest.raises(InputError, match="nothing says what the prompt '0' is; give the prompts with --questions"):
        grade_task(sources, None, 9)
    indexed = read_answers(file("indexed.jsonl", [{"index": row, **one} for row, one in enumerate(rows)]))
    for known in (questions, PromptTexts("index", {"0": "x", "1": "y", "2": "z"}), PromptTexts(None, {"0": "x"})):
        assert indexed.texts(known) == ["", "", ""]
    # A row without a prompt of its own takes the known one.
    half = [{**numbered[0], "output": "a"}, {**numbered[1], "question": None, "output": "b"}]
    assert read_answers(file("half.jsonl", half)).texts(questions) == ["p1", "p2"]


def test_references_belong_to_the_same_prompt(tmp_path: Path) -> None:
    prompt = JudgePrompt((("user", "{question} {answer} {reference}"),))

    def file(rows: list[dict[str, Any]]) -> AnswerFile:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_answers(tmp_path / "rows.jsonl")

    def asked(answers: AnswerFile, references: AnswerFile) -> list[str]:
        items = grade_items(answers, ["p", "q"], prompt, references, 1)
        return [item.request.messages[0][1] for item in items if item.request]

    own = [{"prompt": "p", "output": "a"}, {"prompt": "q", "output": "b"}]
    reversed_rows = [{"prompt": "q", "output": "Q"}, {"prompt": "p", "output": "P"}]
    assert asked(file(own), file(reversed_rows)) == ["p a P", "q b Q"]
    numbered = [{"index": row, **one} for row, one in enumerate(own)]
    assert asked(file(numbered), file([{"index": row, **one} for row, one in enumerate(reversed_rows)])) == [
        "p a P", "q b Q"
    ]  # fmt: skip
    by_id = [{"id": id, **one} for id, one in zip("xy", own, strict=True)]
    assert asked(file(by_id), file([{"id": "y", "output": "Q"}, {"id": "x", "output": "P"}])) == ["p a P", "q b Q"]
    assert asked(file(own), file([{"output": "P"}, {"output": "Q"}])) == ["p a P", "q b Q"], "row by row"
    with pytest.raises(InputError, match=r"no reference answer to the prompt '0'; give it .* under the same uid"):
        asked(file(own), file([{"question_id": row, "output": "P"} for row in (0, 1)]))


def test_prompts_are_joined_whatever_their_white_space_and_missing_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def file(name: str, prompts: Sequence[str]) -> AnswerFile:
        rows = [{"instruction": prompt, "output": f"{name} {number}"} for number, prompt in enumerate(prompts)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_answers(tmp_path / name)

    base = file("base.jsonl", ["a b", "c", "d"])
    pairs = pair_up(file("own.jsonl", ["a  b\n", "c", "e"]), base)
    assert [(pair.prompt, pair.model) for pair in pairs] == [("a b", "own.jsonl 0"), ("c", "own.jsonl 1")]
    assert "1 of 3 prompts that the baseline answers have no answer, first 'd'" in caplog.text
    # Of prompts that differ in white space alone, each is its own.
    pairs = pair_up(file("own.jsonl", ["c ", "c", "d "]), base)
    assert [(pair.prompt, pair.model) for pair in pairs] == [("c", "own.jsonl 1")]
