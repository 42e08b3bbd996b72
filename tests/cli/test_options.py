"""Options made from a settings dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from mixdpo.cli.options import given_options, settings_options
from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges


@dataclass(frozen=True, kw_only=True)
class _Settings:
    name: str = field(metadata={"help": "name at the endpoint"})
    api_key_env: str = field(
        default="KEY", metadata={"help": "variable that holds the key", "option": "--key-variable"}
    )
    at_once: int = field(default=16, metadata={"help": "calls at a time", "at_least": 1})
    dollars: float | None = field(default=None, metadata={"help": "price", "above": 0, "below": 100})
    layout: Literal["plain", "padded"] = field(default="plain", metadata={"help": "how rows are laid out"})
    temperature: float | Literal["default"] | None = field(
        default=None, metadata={"help": "of the judge", "at_least": 0}
    )
    models: tuple[Path, ...] = field(
        default=(), metadata={"help": "answers; may be given again", "option": ("--model", "-m")}
    )
    files: Mapping[str, str | None] = field(
        default_factory=dict, metadata={"help": "files by name", "metavar": "NAME=FILE"}
    )
    dry_run: bool = field(default=False, metadata={"help": "run nothing"})
    control: bool = field(default=True, metadata={"help": "hold lengths equal"})

    def __post_init__(self) -> None:
        check_ranges(self)


def made(*words: str) -> Any:
    found = []

    @click.command()
    @settings_options(_Settings, "settings")
    @click.option("--other", type=int)
    def command(settings: _Settings, other: int | None) -> None:
        found.append((settings, other))

    result = CliRunner().invoke(command, words, catch_exceptions=False)
    return found[0] if found else result.output


def test_defaults_are_the_fields() -> None:
    assert made("--name", "x", "--other", "3") == (_Settings(name="x"), 3)


def test_every_type() -> None:
    words = (
        "--name x --key-variable MINE --at-once 2 --dollars 0.5 --layout padded --temperature default -m a --model b "
        "--files one=1.json --files two=2=3.json --dry-run --no-control"
    )
    expected = _Settings(
        name="x", api_key_env="MINE", at_once=2, dollars=0.5, layout="padded", temperature="default",
        models=(Path("a"), Path("b")), files={"one": "1.json", "two": "2=3.json"}, dry_run=True, control=False,
    )  # fmt: skip
    assert made(*words.split())[0] == expected
    assert made("--name", "x", "--temperature", "0.7")[0].temperature == 0.7


def test_help_says_what_the_fields_say() -> None:
    text = " ".join(made("--help").split())
    for part in (
        "--name TEXT Name at the endpoint. [required]",
        "--key-variable TEXT Variable that holds the key. [default: KEY]",
        "Calls at a time. [default: 16; x>=1]",
        "Price. [0<x<100]",
        "--layout [plain|padded] How rows are laid out. [default: plain]",
        "--temperature default|FLOAT RANGE Of the judge.",
        "-m, --model PATH Answers; may be given again. --files",
        "--files NAME=FILE Files by name. --dry-run Run nothing. --control / --no-control Hold lengths equal.",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "Missing option '--name'"),
        (["--at-once", "0"], "0 is not in the range x>=1"),
        (["--dollars", "0"], "not in the range 0<x<100"),
        (["--layout", "packed"], "is not one of 'plain', 'padded'"),
        (["--temperature", "warm"], "not a valid float range, and not default"),
        (["--files", "one"], "one: write it as NAME=FILE"),
    ],
)
def test_wrong_words_are_refused(words: list[str], reason: str) -> None:
    assert reason in " ".join(made(*(["--name", "x"] if words else []), *words).split())


def test_a_command_may_give_fields_itself() -> None:
    found = []

    @click.command()
    @settings_options(_Settings, "settings", leave_out=("name", "models"))
    def command(settings: Any) -> None:
        found.append(settings(name="mine"))

    assert CliRunner().invoke(command, ["--at-once", "3"], catch_exceptions=False).exit_code == 0
    assert found == [_Settings(name="mine", at_once=3)]
    assert "No such option" in CliRunner().invoke(command, ["--name", "x"]).output


@pytest.mark.parametrize("wrong", [{"at_once": 0}, {"dollars": 0.0}, {"dollars": 100.0}, {"dollars": float("nan")}])
def test_bounds_hold_for_instances_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))} is .*; it must be (at least 1|above 0 and below 100)"):
        _Settings(name="x", **wrong)


def test_two_settings_of_a_command_are_told_apart_by_a_prefix() -> None:
    found = []

    @dataclass(frozen=True)
    class Calls:
        at_once: int = 1

    @dataclass(frozen=True)
    class JudgeCalls(Calls):
        kind: str = field(default="x", metadata={"option": "--judge-kind"})

    @click.command()
    @settings_options(Calls, "model")
    @settings_options(JudgeCalls, "judge", prefix="judge-")
    def command(model: Calls, judge: JudgeCalls) -> None:
        found.append((model, judge, given_options("judge_at_once", "at_once")))

    words = ["--at-once", "2", "--judge-at-once", "3", "--judge-kind", "y"]
    CliRunner().invoke(command, words, catch_exceptions=False)
    assert found == [(Calls(2), JudgeCalls(3, "y"), ["--at-once", "--judge-at-once"])]
