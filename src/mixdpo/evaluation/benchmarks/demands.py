"""Checkable demands as a judge: how many of them the answers of files or models meet on held-out prompts."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import clustered_mean, proportion
from mixdpo.common.table_files import ENDINGS
from mixdpo.evaluation.constraints import Demand, demands_from_text, demands_met, task_of
from mixdpo.generation.answer_files import plain_text, read_answers
from mixdpo.generation.completion import Completion
from mixdpo.generation.degenerate import find_degenerate
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.generation.local_generation import generate_answers
from mixdpo.models.loading import load_for_inference, load_tokenizer
from mixdpo.models.model_settings import ModelSettings

DATA = files("mixdpo.evaluation") / "data"
GENERATION = SamplingSettings(max_new_tokens=120, temperature=0.0, batch_size=40)


@dataclass(frozen=True)
class HeldOut:
    """Prompts that nothing was trained on, with what each demands of an answer."""

    prompts: list[list[dict[str, str]]]
    demands: list[list[Demand]]

    @property
    def tasks(self) -> list[str]:
        """The task of each prompt. Prompts of one differ in their demands alone: what helps one helps the others."""
        texts = (prompt[-1]["content"] for prompt in self.prompts)
        return [task_of(text, demands) for text, demands in zip(texts, self.demands, strict=True)]


def read_held_out(split: str, limit: int | None = None) -> HeldOut:
    """Return the distinct prompts of a split of the demo's data, in the order of the file."""
    rows = pq.read_table(str(DATA / f"{split}.parquet"), columns=["prompt", "demands"]).to_pylist()
    rows = list({row["prompt"][-1]["content"]: row for row in rows}.values())[:limit]
    return HeldOut([row["prompt"] for row in rows], [demands_from_text(row["demands"]) for row in rows])


def answer_held_out(model: str, held_out: HeldOut) -> list[Completion]:
    """Let a model answer the held-out prompts, greedily, in bfloat16 where the hardware has it."""
    settings = ModelSettings(name_or_path=model)
    policy: Any = load_for_inference(settings)
    answers = generate_answers(policy, load_tokenizer(settings), held_out.prompts, settings=GENERATION)
    del policy
    gc.collect()  # the next thing to load is a model of the same size
    return answers


def count_demands(answers: Sequence[str], held_out: HeldOut) -> np.ndarray:
    """Return the demands that each answer meets, float64, shape (prompts,)."""
    pairs = zip(answers, held_out.demands, strict=True)
    return np.array([demands_met(answer, demands) for answer, demands in pairs], dtype=np.float64)


def answers_of(source: str, held_out: HeldOut, column: str | None = None) -> list[str]:
    """Return a source's answer to every held-out prompt.

    Args:
        source: a file of answers with a column `prompt`, or a model (folder or hub id), which answers now.
        held_out: the prompts.
        column: of the answers in a file.

    Raises:
        InputError: a prompt has no answer, or the file or the model cannot be read.
    """
    if not source.endswith(ENDINGS):
        return [answer.text for answer in answer_held_out(source, held_out)]
    found = read_answers(Path(source), column).by_prompt()
    prompts = [plain_text(prompt) for prompt in held_out.prompts]
    missing = [prompt for prompt in prompts if prompt not in found]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(prompts)} held-out prompts have no answer, first {missing[0]!r:.80}",
            file=source,
            hint=f"the prompts are in {DATA / 'test.parquet'}",
        )
    return [found[prompt] for prompt in prompts]


def summarise_demands(answers: Sequence[str], met: np.ndarray, held_out: HeldOut) -> dict[str, Any]:
    """Return demands met per answer and the share of answers that meet all, with 95 % intervals, and lengths.

    The interval of the first is of percentiles of a bootstrap that resamples tasks, that of the share Wilson's.
    """
    mean = clustered_mean(met, held_out.tasks, rng=np.random.default_rng(0))
    every = met == np.array([len(demands) for demands in held_out.demands])
    all_met = proportion(int(every.sum()), len(every))
    return {
        "demands_met": mean.estimate,
        "demands_met_interval": [mean.low, mean.high],
        "all_met": 100 * all_met.estimate,
        "all_met_interval": [100 * all_met.low, 100 * all_met.high],
        "avg_length": int(np.mean([len(answer) for answer in answers])),
        "flags": [str(flag) for flag in find_degenerate(answers)],
        "n": len(met),
    }


def items_of(met: Mapping[str, np.ndarray], answers: Mapping[str, Sequence[str]], held_out: HeldOut) -> dict[str, Any]:
    """Return one row per model and prompt, column by column, as `mixdpo compare` reads them; clusters are tasks."""
    prompts = [plain_text(prompt) for prompt in held_out.prompts]
    return {
        "model": [name for name in met for _ in prompts],
        "metric": ["demands_met"] * (len(met) * len(prompts)),
        "id": [str(number) for _ in met for number in range(len(prompts))],
        "score": np.concatenate(list(met.values())),
        "cluster": held_out.tasks * len(met),
        "prompt": prompts * len(met),
        "answer": [answer for name in met for answer in answers[name]],
    }
