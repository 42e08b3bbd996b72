"""The commands and the code of README.md, run as a reader would: on small files of the named kinds, a tiny model."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from string import Template

import pytest
from datasets import Dataset

from mixdpo.cli.main import main
from pages import ROOT, SHELL, Block, blocks, commands
from synthetic import chat_rows
from tiny import saved, tiny_llama

README = (ROOT / "README.md").read_text(encoding="utf-8")
REPLACED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "tiny-model",
    'load_dataset("HuggingFaceH4/ultrafeedback_binarized", split=["train_prefs[:400]", "test_prefs[:100]"])':
        'load_dataset("parquet", data_files="pairs.parquet", split=["train[:80]", "train[80:]"])',
    "recipes/NAME.yaml": "recipes/qlora-7b.yaml",
    "--SECTION.KEY VALUE": "--train.beta 0.2",
}  # fmt: skip
"""What a test cannot have, or a reader fills in, and what stands for it."""
NOT_RUN = {
    "git clone": "this is a clone",
    "pip install": "the package is installed",
    "make": "`make test` runs this test and `.ci/run` the demo; that there are such targets is tested below",
    "accelerate launch": "starts several processes; tests/invariant/test_two_processes.py does",
    "mixdpo train --config recipes/": "recipes are of models that are not here; tests/cli resolves each",
}
"""Beginnings of the commands that are not run, and why."""


def replaced(text: str) -> str:
    for name, other in REPLACED.items():
        text = text.replace(name, other)
    return text


def code(language: str) -> list[Block]:
    return [block for block in blocks(README) if block.language == language]


COMMANDS = [block for language in SHELL for block in code(language)]


@pytest.fixture
def reader(tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README names, which is the working folder."""
    for name, seed in (("pairs.parquet", 0), ("held_out.parquet", 1)):
        Dataset.from_list(chat_rows(96, seed)).to_parquet(tmp_path / name)
    saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "tiny-model")
    for folder in ("recipes", "studies", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(block: Block) -> list[str]:
    """Run a block's `mixdpo` commands in their order and return the others, as they stand there."""
    variables, others = {}, []
    for words in commands(Block(block.language, replaced(block.text))):
        assigned = re.fullmatch(r"(\w+)=(.*)", words[0])
        line = " ".join(words)
        if assigned:
            variables[assigned[1]] = assigned[2]
        elif words[0] == "mixdpo" and not line.startswith(tuple(NOT_RUN)):
            assert main([Template(word).substitute(variables) for word in words[1:]]) == 0, line
        else:
            others.append(line)
    return others


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.text.splitlines()[0][:40])
@pytest.mark.slow
def test_commands(block: Block, reader: Path) -> None:
    for line in run(block):
        assert line.startswith(tuple(NOT_RUN)), f"neither run nor named in NOT_RUN: {line}"


def test_the_changed_script(reader: Path) -> None:
    """The script of the quick start with its changes: the lines that a diff adds or leaves."""
    (diff,) = code("diff")
    lines = [line[1:] for line in replaced(diff.text).splitlines() if not line.startswith("-")]
    exec("\n".join(lines), {})
    assert (reader / "runs" / "first" / "run.json").exists()


@pytest.mark.parametrize("block", code("python"), ids=lambda block: block.text.splitlines()[0][:40])
def test_python(block: Block, reader: Path) -> None:
    exec(replaced(block.text), {})


def test_commands_in_sentences_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for text in re.findall(r"`mixdpo ([^`]+)`", README):
        command = list(takewhile(re.compile(r"[a-z][a-z0-9-]*").fullmatch, text.split()))
        assert main([*command, "--help"]) == 0, text


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", README, re.M)) <= targets


def test_every_block_is_of_a_known_kind() -> None:
    assert {block.language for block in blocks(README)} <= {*SHELL, "diff", "python"}
