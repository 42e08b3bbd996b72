"""Stages: what is there is not made again, and what was made of something else is neither used nor written over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from peft import LoraConfig

from mixdpo.common.errors import InputError
from mixdpo.common.files import content_name
from mixdpo.common.stages import Stage, by_key, run_stage


@dataclass
class Inner:
    temperature: float | None = None
    select: tuple[str, ...] = ("best-worst",)


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    judges: list[Inner] = field(default_factory=list)
    path: Path | None = None
    batch_size: int = 8


class Kitchen:
    """Makes a file of another one, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, 0
        (folder / "flour").write_text("wheat")

    def bake(self, dies: bool = False, **settings: object) -> None:
        stage = Stage("bread", "bread", settings, {"flour": self.folder / "flour"})

        def make() -> None:
            self.made += 1
            if dies:
                raise KeyboardInterrupt
            (self.folder / "bread").write_text("bread")

        run_stage(self.folder, stage, make)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    kitchen.bake(degrees=220, kinds=("a", "b"))
    kitchen.bake(degrees=220, kinds=("a", "b"))
    assert kitchen.made == 1
    (tmp_path / "bread").unlink()
    kitchen.bake(degrees=180)
    assert kitchen.made == 2, "what is gone is made anew, by the settings of now"
    kitchen.bake(degrees=180)
    assert kitchen.made == 2


def test_what_was_killed_goes_on(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        kitchen.bake(dies=True)
    kitchen.bake()
    kitchen.bake()
    assert kitchen.made == 2


def test_a_part_that_is_there_is_known_by_its_record(tmp_path: Path, refused) -> None:
    """A run has files long before it has a model."""

    def train(rate: float) -> None:
        def make() -> None:
            (tmp_path / "run").mkdir(exist_ok=True)

        run_stage(tmp_path, Stage("training", "run", {"train.rate": rate}, finished="run/model"), make)

    train(0.1)
    train(0.1)
    refused(lambda: train(0.2), "train.rate = 0.1", "0.2 now", "remove run")


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"degrees": 220}, {"degrees": 180}, ["with degrees = 220", "180 now"]),
        ({"degrees": 220}, {}, ["with degrees = 220", "not set now"]),
        ({}, {"degrees": 220}, ["without degrees", "220 now"]),
    ],
)
def test_another_setting_is_refused_by_its_key(tmp_path: Path, refused, before, now, words) -> None:
    kitchen = Kitchen(tmp_path)
    kitchen.bake(**before)
    refused(lambda: kitchen.bake(**now), str(tmp_path / "bread"), *words, "remove bread")
    kitchen.bake(**before)
    assert kitchen.made == 1


def test_another_input_is_refused(tmp_path: Path, refused) -> None:
    kitchen = Kitchen(tmp_path)
    kitchen.bake()
    (tmp_path / "flour").write_text("rye")
    refused(kitchen.bake, "made of other flour")


def test_a_file_that_no_stage_made_is_refused(tmp_path: Path, refused) -> None:
    kitchen = Kitchen(tmp_path)
    (tmp_path / "bread").write_text("bought")
    refused(kitchen.bake, "nothing says what it was made of")
    (tmp_path / "bread").unlink()
    (tmp_path / "stages.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        kitchen.bake()


def test_settings_by_key() -> None:
    settings = Outer(Inner(0.5), [Inner(), Inner(select=("all", "ties"))], Path("a/b"), batch_size=4)
    assert by_key(settings, "pairs", ["batch_size"]) == {
        "pairs.inner.temperature": 0.5, "pairs.judges.2.select": ["all", "ties"], "pairs.path": "a/b"
    }  # fmt: skip
    assert by_key(Outer(), "pairs") == by_key(None, "pairs") == {}, "a field that comes later changes no record"
    assert by_key({"beta": 0.1, "tags": ["a"]}, "train") == {"train.beta": 0.1, "train.tags": ["a"]}
    adapters = LoraConfig(r=4, target_modules=["q_proj", "k_proj"])  # which holds a set, in no order
    known = by_key(adapters, "peft", ["peft_type", "peft_version"])
    assert known == {"peft.r": 4, "peft.target_modules": ["k_proj", "q_proj"]}


@pytest.mark.parametrize("name", ["prompts.parquet", "deeper/prompts.jsonl.gz", "config.json"])
def test_a_folder_is_another_once_a_file_of_it_is(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("one")
    before = content_name(str(tmp_path))
    assert content_name(str(tmp_path)) == before
    file.write_text("other")
    assert content_name(str(tmp_path)) != before
