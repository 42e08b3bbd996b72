"""Held-out prompts whose verifiable constraints a program checks: read, answered by a model, and counted."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import ENDINGS
from mixdpo.evaluation.constraints import Constraint, constraints_from_text, constraints_met, task_of
from mixdpo.generation.answer_files import ReasoningCount, plain_text, read_answers
from mixdpo.generation.chat_model import Completion
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.models.model_settings import ModelSettings

DATA = files("mixdpo.evaluation") / "data"
GENERATION = SamplingSettings(max_new_tokens=120, temperature=0.0, batch_size=40)


@dataclass(frozen=True)
class ConstrainedPrompts:
    """Prompts that nothing was trained on, with the constraints on an answer to each."""

    prompts: list[list[dict[str, str]]]
    constraints: list[list[Constraint]]

    @property
    def tasks(self) -> list[str]:
        """The task of each prompt. Prompts of one differ in their constraints alone: what helps one helps the
        others."""
        texts = (prompt[-1]["content"] for prompt in self.prompts)
        return [task_of(text, constraints) for text, constraints in zip(texts, self.constraints, strict=True)]


def read_held_out(split: str, limit: int | None = None) -> ConstrainedPrompts:
    """Return the distinct prompts of a split of the demo's data, in the order of the file."""
    rows = pq.read_table(str(DATA / f"{split}.parquet"), columns=["prompt", "demands"]).to_pylist()
    rows = list({row["prompt"][-1]["content"]: row for row in rows}.values())[:limit]
    return ConstrainedPrompts([row["prompt"] for row in rows], [constraints_from_text(row["demands"]) for row in rows])


def answer_held_out(model: str, held_out: ConstrainedPrompts) -> list[Completion]:
    """Let a model answer the held-out prompts, greedily, in bfloat16 where the hardware has it."""
    from mixdpo.generation.local_generation import generate_answers
    from mixdpo.models.loading import load_for_inference, load_tokenizer

    settings = ModelSettings(name_or_path=model)
    policy: Any = load_for_inference(settings)
    answers = generate_answers(policy, load_tokenizer(settings), held_out.prompts, settings=GENERATION)
    del policy
    gc.collect()  # the next thing to load is a model of the same size
    return answers


def count_met(answers: Sequence[str], held_out: ConstrainedPrompts) -> np.ndarray:
    """Return how many constraints each answer meets, float64, shape (prompts,)."""
    pairs = zip(answers, held_out.constraints, strict=True)
    return np.array([constraints_met(answer, constraints) for answer, constraints in pairs], dtype=np.float64)


def answers_of(
    source: str, held_out: ConstrainedPrompts, column: str | None = None
) -> tuple[list[str], ReasoningCount]:
    """Return a source's answer to every held-out prompt, and how many of its answers come after reasoning.

    Args:
        source: a file of answers with a column `prompt`, or a model (folder or hub id), which answers now.
        held_out: the prompts.
        column: of the answers in a file.

    Raises:
        InputError: a prompt has no answer, or the file or the model cannot be read.
    """
    if not source.endswith(ENDINGS):
        written = answer_held_out(source, held_out)
        count = ReasoningCount(
            answers=len(written),
            with_reasoning=sum(one.reasoning is not None for one in written),
            without_answer=sum(one.reasoning is not None and one.no_answer is not None for one in written),
        )
        return [one.text for one in written], count
    file = read_answers(Path(source), column)
    found = file.by_prompt()
    prompts = [plain_text(prompt) for prompt in held_out.prompts]
    missing = [prompt for prompt in prompts if prompt not in found]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(prompts)} held-out prompts have no answer, first {missing[0]!r:.80}",
            file=source,
            hint=f"the prompts are in {DATA / 'test.parquet'}",
        )
    return [found[prompt] for prompt in prompts], file.reasoning
