"""Runs of recipes: where they go on, and where they begin anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixdpo.common.errors import InputError
from mixdpo.recipe import runs


def test_a_checkpoint_that_cannot_be_resumed_is_begun_anew(monkeypatch, tmp_path: Path) -> None:
    calls: list[bool] = []

    def train(recipe: Any, output: str, *, resume: bool = False, reference: Any = None) -> None:
        calls.append(resume)
        if resume:
            raise InputError("this run was started with model /elsewhere")

    monkeypatch.setattr(runs, "train_from_recipe", train)
    monkeypatch.setattr(runs, "last_complete_checkpoint", lambda run: run / "checkpoint-2")
    (tmp_path / "run" / "checkpoint-2").mkdir(parents=True)
    runs.train_or_resume(Any, tmp_path / "run")
    assert calls == [True, False]
    assert not (tmp_path / "run").exists()
