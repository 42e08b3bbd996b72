"""The files of a model's answers: the answers in the layouts that judges read, and a report on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.files import check_output, write_json
from mixdpo.common.table_files import write_json_lines
from mixdpo.generation.chat_model import ChatModel
from mixdpo.generation.degenerate import find_degenerate
from mixdpo.generation.generate import MT_BENCH_TEMPERATURES, Generation, settings_for
from mixdpo.generation.generation_settings import GenerationSettings

_ENDINGS: Final = (".jsonl", ".json")


def check_writable(path: Path) -> None:
    """Raise `InputError` where answers could not be written, before a model is run."""
    if path.suffix not in _ENDINGS:
        raise InputError("the ending is not known", file=path, hint=f"it is one of {', '.join(_ENDINGS)}")
    check_output(path)


def write_answers(path: Path, generations: Sequence[Generation], generator: str) -> None:
    """Write the whole answers, in AlpacaEval's columns or, of several turns, in MT-Bench's.

    An ending of `.json` gives one list, as AlpacaEval reads it, `.jsonl` one object a line. Reasoning stands in a
    column of its own, where any answer has some; an answer that reasoning left no room for is empty.
    """
    whole = [one for one in generations if one.failure is None]
    thought = any(each.reasoning is not None for one in whole for each in one.completions)
    rows = [_row(one, generator, thought) for one in whole]
    if path.suffix == ".json":
        write_json(path, rows)
    else:
        write_json_lines(path, rows)


def answer_report(
    generations: Sequence[Generation], chat_model: ChatModel, settings: GenerationSettings
) -> dict[str, Any]:
    """Return how answers were generated and what they are like: shares and lengths are of single turns.

    Lengths and signs of a degenerate model are of the answers without their reasoning, tokens of those whose endpoint
    says how many the reasoning has.

    Args:
        generations: of all prompts.
        chat_model: who answered.
        settings: as they were given.
    """
    settings = settings_for([one.prompt for one in generations], settings)
    completions = [each for one in generations if one.failure is None for each in one.completions]
    thought = [one for one in completions if one.reasoning is not None]
    counted = [one for one in completions if one.reasoning is None or one.reasoning_tokens]
    without = Counter(one.no_answer for one in generations if one.no_answer is not None)
    how = asdict(settings)
    if settings.temperature is None:
        how["temperature"] = dict(MT_BENCH_TEMPERATURES)
    return {
        "model": chat_model.name,
        "model_versions": sorted({one.model for one in completions if one.model}),
        "mixdpo": version("mixdpo"),
        "settings": {**how, **chat_model.record()},
        "prompts": len(generations),
        "answered": sum(one.failure is None and one.no_answer is None for one in generations),
        "failures": dict(Counter(one.failure for one in generations if one.failure is not None)),
        "without_answer": dict(without),
        "reasoning": {
            "answers": len(thought),
            "tokens": _spread([one.reasoning_tokens for one in thought if one.reasoning_tokens]),
        },
        "unfinished_share": float(np.mean([not one.finished for one in completions])) if completions else None,
        "tokens": _spread([one.tokens_out - one.reasoning_tokens for one in counted]),
        "characters": _spread([len(one.text) for one in completions]),
        "flags": [str(flag) for flag in find_degenerate([one.text for one in completions])],
    }


def report_file(answers: Path) -> Path:
    """Return where the report on a file of answers is written: beside it."""
    return answers.with_name(f"{answers.stem}.report.json")


def _row(generation: Generation, generator: str, thought: bool) -> dict[str, Any]:
    prompt, completions = generation.prompt, generation.completions
    row: dict[str, Any] = {prompt.id_column: prompt.id}
    if prompt.category is not None:
        row["category"] = prompt.category
    if len(prompt.turns) == 1:
        return row | {
            "instruction": prompt.text,
            "output": completions[0].text,
            **({"reasoning": completions[0].reasoning} if thought else {}),
            "generator": generator,
            "tokens": completions[0].tokens_out,
            "finished": completions[0].finished,
        }
    return row | {
        "turns": list(prompt.turns),
        "choices": [{"index": 0, "turns": [one.text for one in completions]}],
        **({"reasoning": [one.reasoning for one in completions]} if thought else {}),
        "model_id": generator,
        "tokens": [one.tokens_out for one in completions],
        "finished": [one.finished for one in completions],
    }


def _spread(values: Sequence[int]) -> dict[str, float] | None:
    """Return mean, median and largest; None where nothing was counted, as by endpoints that report no usage."""
    if not any(values):
        return None
    return {"mean": float(np.mean(values)), "median": float(np.median(values)), "largest": float(max(values))}
