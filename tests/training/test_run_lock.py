"""Two runs in one folder: the second is refused, until the first has ended in whatever way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from mixdpo.cli.main import main
from mixdpo.training.run_lock import check_no_other_run, sole_run
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import trainer_for

_HOLDER = """
import sys
from pathlib import Path
from mixdpo.training.run_lock import sole_run
with sole_run(Path(sys.argv[1]), True):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder until it is killed, or its input is closed."""
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_is_refused_until_the_first_is_killed(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, refused: Callable[..., object]
) -> None:
    pairs, run = chat_pairs(tmp_path, n=8), tmp_path / "run"

    def train(resume: bool = False) -> None:
        model = tiny_llama(vocab_size=len(tokenizer))
        trainer = trainer_for(model, tokenizer, pairs, run, save_strategy="steps", save_steps=1, num_train_epochs=1)
        trainer.train(resume_from_checkpoint=resume)

    with another_run(run) as process:
        refused(train, "another run is training in this folder", str(run))
        assert not (run / "metrics.jsonl").exists()
        process.kill()
        process.wait()
        train()
    metrics = (run / "metrics.jsonl").read_text()
    with another_run(run):
        refused(lambda: train(resume=True), "another run is training in this folder")
    assert (run / "metrics.jsonl").read_text() == metrics
    train(resume=True)


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_the_command_refuses_it_before_it_loads_anything(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with another_run(tmp_path / "run"):
        words = ["--model.name_or_path", "nowhere", "--train.use_cpu", "true", "--train.bf16", "false"]
        assert main(["train", "nowhere.jsonl", *words, "--output", str(tmp_path / "run"), *options]) == 2
    assert "another run is training in this folder" in capsys.readouterr().err


def test_a_process_holds_its_own_folder_twice_and_others_do_not_hold_it(
    tmp_path: Path, refused: Callable[..., object]
) -> None:
    check_no_other_run(tmp_path / "new", is_main=True)
    assert not (tmp_path / "new").exists()
    with sole_run(tmp_path, True), sole_run(tmp_path, True):
        check_no_other_run(tmp_path, is_main=True)
    with another_run(tmp_path):
        check_no_other_run(tmp_path, is_main=False)
        refused(lambda: check_no_other_run(tmp_path, is_main=True), "another run")
    check_no_other_run(tmp_path, is_main=True)
