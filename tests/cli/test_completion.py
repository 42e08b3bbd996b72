"""Completion by the shell, as docs/completion.md says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from mixdpo.cli.main import app
from pages import ROOT

LINES = {
    "bash": 'eval "$(_MIXDPO_COMPLETE=bash_source mixdpo)"',
    "zsh": 'eval "$(_MIXDPO_COMPLETE=zsh_source mixdpo)"',
}


@pytest.fixture
def command(tmp_path: Path) -> dict[str, str]:
    """An environment in which `mixdpo` is this package."""
    (tmp_path / "mixdpo").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mixdpo "$@"\n')
    (tmp_path / "mixdpo").chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_and_options(command: dict[str, str]) -> None:
    ask = 'COMP_WORDS=({0}); COMP_CWORD={1}; COMPREPLY=(); _mixdpo_completion mixdpo; echo "${{COMPREPLY[@]}}"'
    script = "\n".join([LINES["bash"], ask.format("mixdpo vers", 1), ask.format("mixdpo compare --ag", 2)])
    done = subprocess.run(["bash", "-c", script], env=command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["versus", "--against"], done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_script(shell: str, command: dict[str, str]) -> None:
    asked = {**command, "_MIXDPO_COMPLETE": f"{shell}_source"}
    done = subprocess.run(["mixdpo"], env=asked, capture_output=True, text=True, timeout=120)
    assert f"_MIXDPO_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        "audit", "train", "plan", "versus", "versus a.jsonl", "generate", "rate", "pairs", "compare",
        "eval preferences", "eval demands", "audit --scores", "audit p.jsonl --against", "versus --prompts",
        "versus --judge", "generate --model", "eval grade --model", "train --output", "train --config", "demo --model",
    ],
)  # fmt: skip
def test_names_of_files_are_completed(words: str) -> None:
    (found,) = BashComplete(app, {}, "mixdpo", "_MIXDPO_COMPLETE").get_completions(words.split(), "pa")
    assert (found.type, found.value) == ("file", "pa")


def test_the_page_has_the_lines() -> None:
    page = (ROOT / "docs" / "completion.md").read_text(encoding="utf-8")
    assert all(f"`{line}`" in page for line in LINES.values())
    assert "_MIXDPO_COMPLETE=fish_source mixdpo" in page
