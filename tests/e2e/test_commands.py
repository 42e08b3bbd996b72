"""Commands and code of README.md and docs/, run as a reader would: on small files of the named kinds, tiny models."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import pairwise, takewhile
from pathlib import Path
from string import Template
from unittest import mock

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from loopback import running
from mixdpo.cli.main import main
from mixdpo.losses import LOSSES
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.study.study_file import load_study
from pages import ROOT, SHELL, Block, blocks, commands
from reader import furnish, reply

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
REPLACED = {
    "train_prefs[:400]": "train_prefs[:24]",
    "test_prefs[:100]": "test_prefs[:24]",
    "pairs: 2000 ": "held_out_pairs: 8\n  pairs: 8 ",
    "--rounds 3": "--rounds 1",
    "--rounds 4": "--rounds 2",
    "http://localhost:8000/v1": "URL",
    "https://api.openai.com/v1": "URL",
    "[--SECTION.KEY VALUE ...]": "--train.beta 0.2",
    "--verdicts annotations.parquet": "--verdicts annotations.parquet --gamed gamed.csv --difficulty difficulty.csv",
    "alpaca_eval_clf.txt": "alpaca_eval_clf.txt --no-length-control",
    "--score.validation_loss.preset cheap": "--score.validation_loss.step_size 8",
}
"""What a test cannot have (servers, the hub's files, many pairs, time) or a reader fills in, and what stands there."""
NOT_RUN = {
    "WANDB_MODE=offline mixdpo *": "trackers are not among the packages of the tests",
    "_MIXDPO_COMPLETE=bash_source mixdpo *": "writes into the home folder; tests/cli/test_completion.py has them",
    "accelerate launch *": "starts several processes; tests/invariant/test_two_processes.py does",
    "echo *": "changes the shell's start-up file",
    "export OPENAI_API_KEY=...": "the key is set",
    "git clone *": "this is a clone",
    "make *": "installs, or takes minutes to hours; that there are such targets is tested below",
    "mixdpo demo *": "the real model; `.ci/run` does",
    "mixdpo eval open-llm-v1 *": "the leaderboard's data are not here; tests/e2e/test_hub.py does, on made-up ones",
    "mixdpo map mixdpo:map -o runs/map": "takes hours",
    "mixdpo map mixdpo:map-small *": "takes minutes; `.ci/run` does",
    "mixdpo rate * --judge-kind reward *": "another kind of server; tests/judges/test_reward_endpoint.py has one",
    "mixdpo study my.yaml *": "trains forty models; its file is checked below",
    "mixdpo study studies/core.yaml": "takes days",
    "mixdpo train * --train.report_to *": "trackers are not among the packages of the tests",
    "mixdpo train --config *qlora-7b*": "needs a GPU for four bits; tests/recipe/test_shipped_files.py resolves it",
    "pip install *": "the package is installed",
    "python benchmarks/*": "takes minutes to hours",
    "vllm serve *": "vLLM is not here",
}
"""Patterns of the commands that are not run, and why."""
WRITE_OVER_NOTHING = ("convert", "generate", "pairs", "train")


def page_blocks(page: Path, url: str = "URL") -> list[Block]:
    """The blocks of a page as they are run, with an endpoint at `url`."""
    text = page.read_text(encoding="utf-8")
    for name, other in REPLACED.items():
        text = text.replace(name, other)
    return blocks(re.sub(r"\bURL\b", url, text))


def is_run(words: list[str]) -> bool:
    return not any(fnmatchcase(" ".join(words), pattern) for pattern in NOT_RUN)


@pytest.fixture(scope="module")
def furnished(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("reader"), tokenizer)


@pytest.fixture
def reader(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name, which is the working folder; `python` is the one of the tests."""
    folder = shutil.copytree(furnished, tmp_path / "reader", symlinks=True)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an endpoint, whose key is set."""
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with running(reply) as endpoint:
        yield endpoint.url


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.slow
def test_page(page: Path, reader: Path, furnished: Path, url: str) -> None:
    for block in page_blocks(page, url):
        if block.language in ("python", "diff"):
            run_code(block)
        elif block.language == "yaml":
            check_settings(block)
        else:
            run_commands(block, furnished)


def run_code(block: Block) -> None:
    """Run Python, of a diff the lines that it adds or leaves; a block that begins with a file's name is that file."""
    text = re.sub(r"(?m)^(-.*\n|[+ ])", "", block.text) if block.language == "diff" else block.text
    file = re.match(r"# (\w+\.py)\n", text)
    if file:
        Path(file[1]).write_text(text)
    else:
        for folder in re.findall(r'output_dir="([^"]+)"', text):
            shutil.rmtree(folder, ignore_errors=True)
        with mock.patch.dict(LOSSES):
            exec(text, {})


def check_settings(block: Block) -> None:
    """Read a study, or a recipe or a part of one; a whole recipe is what commands of the page call recipe.yaml."""
    content = yaml.safe_load(block.text)
    if "arms" in content:
        Path("study.yaml").write_text(block.text)
        load_study("study.yaml")
    else:
        load_recipe(None, content).training_config("runs/any")
    if "model" in content:
        Path("recipe.yaml").write_text(block.text)


def run_commands(block: Block, furnished: Path) -> None:
    """Run a block's `mixdpo` commands in their order."""
    variables = {}
    for words in commands(block):
        line = " ".join(words)
        assigned = re.fullmatch(r"(\w+)=(.*)", words[0])
        if assigned and len(words) == 1:
            variables[assigned[1]] = assigned[2]
        elif is_run(words):
            assert words[0] == "mixdpo", f"neither run nor named in NOT_RUN: {line}"
            make_way(words, furnished)
            assert main([Template(word).substitute(variables) for word in words[1:]]) == 0, line


def make_way(words: list[str], furnished: Path) -> None:
    """Remove what an earlier command wrote where this one is to write: commands of a page may be alternatives."""
    output = Path(dict(pairwise(words)).get("--output", "none"))
    if words[1] in WRITE_OVER_NOTHING:
        shutil.rmtree(output, ignore_errors=True)
        for file in [output, *output.parent.glob(f"{output.stem}.*")]:
            if file.is_file() and (file == output or not (furnished / file).exists()):
                file.unlink()


def test_what_is_not_run_stands_on_a_page() -> None:
    lines = [" ".join(words) for page in PAGES for block in page_blocks(page) for words in commands(block)]
    assert [pattern for pattern in NOT_RUN if not any(fnmatchcase(line, pattern) for line in lines)] == []
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    assert [name for name in REPLACED if not any(name in text for text in texts)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_are_commands(page: Path) -> None:
    for text in re.findall(r"`mixdpo ([^`]+)`", page.read_text(encoding="utf-8")):
        command = list(takewhile(re.compile(r"[a-z][a-z0-9-]*").fullmatch, text.split()))
        assert main([*command, "--help"]) == 0, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_has_the_targets(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_known_kind(page: Path) -> None:
    assert {block.language for block in page_blocks(page)} <= {*SHELL, "diff", "python", "text", "yaml"}
