"""Help that fits on a screen, and all settings by topic."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import click
import pytest

from mixdpo import MixDPOConfig
from mixdpo.cli.main import app, main
from mixdpo.recipe.recipe_file import OF_MODEL
from mixdpo.recipe.settings_help import settings_topics
from mixdpo.recipe.training_topics import OF_TRANSFORMERS, TOPICS
from mixdpo.training.training_settings import TrainingSettings
from snapshots import check_snapshot


def test_help_of_train_is_short(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 60
    check_snapshot("train_help", text)
    assert main(["train", "--help", "hub"]) == 0
    assert capsys.readouterr().out.startswith("hub (pushing the trained model):\n  --train.push_to_hub")
    assert main(["train", "--help", "lr"]) == 2
    assert "the topics of mixdpo train are model, peft, data" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pairs", "rate", "versus"])
def test_options_of_a_group_are_told_by_its_topic(command: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) <= 70
    assert main([command, "--help", "all"]) == 0
    grouped = capsys.readouterr().out
    options = [one for one in app.commands[command].params if isinstance(one, click.Option)]
    told = {text: set(re.findall(r"^ +(?:-o, )?(--[a-z-]+)", text, re.MULTILINE)) for text in (short, grouped)}
    assert not told[short] & told[grouped]
    assert {one.opts[0] for one in options} <= told[short] | told[grouped]
    names = {name for _, group in app.commands[command].groups.values() for name in group}  # type: ignore[attr-defined]
    assert names <= {one.name for one in options}


def test_help_of_all_has_a_line_of_each_command(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    listed = re.findall(r"^  ([a-z]+)  +([^ -].*)$", capsys.readouterr().out, re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(app.commands)
    assert not any("..." in about for _, about in listed)


def commands() -> list[list[str]]:
    found = [[name] for name in app.commands]
    return [*found, *(["eval", name] for name in app.commands["eval"].commands)]  # type: ignore[attr-defined]


def test_help_of_every_command_fits(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in commands():
        for more in ([], ["all"]) if hasattr(command_of(words), "topics") else ([],):
            assert main([*words, "--help", *more]) == 0
            text = capsys.readouterr().out
            assert max(map(len, text.splitlines())) <= 80, (words, more)
            assert more or len(text.splitlines()) <= 140, words


def command_of(words: list[str]) -> Any:
    command: Any = app
    for word in words:
        command = command.commands[word]
    return command


def test_every_setting_of_training_has_one_topic() -> None:
    named = [name for _, names in TOPICS.values() for name in names]
    assert len(named) == len(set(named))
    own = {f.name for f in fields(TrainingSettings)} - set(OF_MODEL)
    assert own | set(OF_TRANSFORMERS) == set(named)


def test_defaults_of_transformers_are_told_as_they_are() -> None:
    args = MixDPOConfig(use_cpu=True)
    for name, (_, default) in OF_TRANSFORMERS.items():
        value = getattr(args, name)
        assert getattr(value, "value", value) == default or name in ("eval_steps",), name


def test_topics_name_every_section_once() -> None:
    for command in (
        "train",
        "reference",
        "rounds",
        "plan",
        "advise",
        "audit",
        "clean",
        "score",
        "tokens",
        "preferences",
    ):
        keys = [key for topic in settings_topics(command) for key, _ in topic.entries if not key.endswith(".KEY")]
        assert len(keys) == len(set(keys)), command
