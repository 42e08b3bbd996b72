"""What two names on a command line can mean: answers, models, adapters, runs, endpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixdpo.common.errors import InputError
from mixdpo.evaluation.contenders import Answering, Contender, check_names, find_contender, is_answer_file
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.models.model_settings import ModelSettings


def found(given: str | Path) -> Contender:
    return find_contender(str(given), Answering())


def folder(path: Path, **files: dict) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_sources(tmp_path) -> None:
    answers = tmp_path / "own.jsonl"
    answers.write_text('{"instruction": "q", "output": "a", "generator": "mine"}\n')
    assert found(answers) == Contender("mine", answers)
    assert found(f"B={answers}") == Contender("B", answers)

    model = folder(tmp_path / "runs" / "dpo" / "model", config={})
    for given in (model, model.parent):
        assert found(given) == Contender("dpo", ModelSettings(name_or_path=str(model)))
    adapter = folder(tmp_path / "runs" / "lora" / "model", adapter_config={"base_model_name_or_path": "some/base"})
    expected = ModelSettings(name_or_path="some/base", adapter=str(adapter))
    assert found(adapter) == found(adapter.parent) == Contender("lora", expected)
    assert found("start=some/base") == Contender("start", ModelSettings(name_or_path="some/base"))
    assert found("gpt@http://localhost:1/v1") == Contender(
        "gpt", EndpointSettings(model="gpt", base_url="http://localhost:1/v1")
    )
    assert found("G=org/gpt@http://localhost:1/v1").name == "G"


@pytest.mark.parametrize(
    ("given", "said"),
    [("no.jsonl", "no such file"), ("{folder}", "holds no model"), ("{folder}/x", "no such model folder")],
)
def test_what_is_not_there(tmp_path, given, said) -> None:
    with pytest.raises(InputError, match=said):
        found(given.format(folder=tmp_path))


def test_an_adapter_names_its_base(tmp_path) -> None:
    with pytest.raises(InputError, match="does not name its base model"):
        found(folder(tmp_path / "lora", adapter_config={}))


def test_two_of_one_name() -> None:
    one = Contender("a", Path("a.jsonl"))
    with pytest.raises(InputError, match=r"two models are called a; tell them apart: NAME=MODEL"):
        check_names([one, one])


def test_files_of_answers_are_told_from_models(tmp_path) -> None:
    assert is_answer_file("no.jsonl")
    assert is_answer_file("name=no.jsonl.gz")
    assert not is_answer_file(str(tmp_path))
    assert not is_answer_file("name=org/model")
    assert not is_answer_file("gpt@http://localhost:1/v1")
