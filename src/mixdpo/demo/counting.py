"""Checkable demands as a judge: how many of them the answers of files or models meet on held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixdpo.demo.run import DATA, HeldOut, answer_held_out
from mixdpo.errors import InputError
from mixdpo.evaluation.answers import plain_text, read_answers
from mixdpo.evaluation.degenerate import find_degenerate
from mixdpo.evaluation.tables import ENDINGS
from mixdpo.stats import clustered_mean, proportion


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
            mend=f"the prompts are in {DATA / 'test.parquet'}",
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
