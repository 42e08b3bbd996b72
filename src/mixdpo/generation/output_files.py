"""The files of a model's answers: the answers in the layouts that judges read, and a report on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.files import check_output, write_json
from mixdpo.common.table_files import write_json_lines
from mixdpo.data.scored_answers import ANSWERS, MODEL_KEYS, MODEL_LISTS, RANK_KEY, SCORE_KEYS, SCORE_LISTS
from mixdpo.generation.chat_model import ChatModel
from mixdpo.generation.degenerate import find_degenerate
from mixdpo.generation.generate import MT_BENCH_TEMPERATURES, Generation, settings_for
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.generation.prompts import Prompt

_ENDINGS: Final = (".jsonl", ".json")
_TAKEN: Final = frozenset(
    (*("input", "output", "reasoning", "tokens", "finished", "sample", "seed", "win_rate"),
     *ANSWERS, *MODEL_KEYS, *MODEL_LISTS, *SCORE_KEYS, *SCORE_LISTS, RANK_KEY)
)  # fmt: skip
"""What columns of answers and of their ratings are called, by us or where we read those of others; `_OF_RATINGS`: what
further ones of ratings begin with."""
_OF_RATINGS: Final = ("rating/", "raw_rating/", "quality/")


def check_writable(path: Path) -> None:
    """Raise `InputError` where answers could not be written, before a model is run."""
    if path.suffix not in _ENDINGS:
        raise InputError("the ending is not known", file=path, hint=f"it is one of {', '.join(_ENDINGS)}")
    check_output(path)


def write_answers(path: Path, by_model: Mapping[str, Sequence[Generation]]) -> None:
    """Write the whole answers, in AlpacaEval's columns or, of several turns, in MT-Bench's.

    An ending of `.json` gives one list, as AlpacaEval reads it, `.jsonl` one object a line. Reasoning stands in a
    column of its own, where any answer has some; an answer that reasoning left no room for is empty.

    Several answers to a prompt, by samples or by models, stand below each other, each with its sample and seed, and
    with what the chat template is told about its prompt and the columns of the prompt that `columns_left_out` does not
    name. A chat stands there as messages.

    Args:
        path: of the answers.
        by_model: the answers of each model by its name, all to the same prompts and in the same order.
    """
    several = len(by_model) > 1 or any(one.sample for generations in by_model.values() for one in generations)
    whole = [
        (name, one)
        for of_all_models in zip(*by_model.values(), strict=True)
        for name, one in zip(by_model, of_all_models, strict=True)
        if one.failure is None
    ]
    thought = any(each.reasoning is not None for _, one in whole for each in one.completions)
    rows = [_row(one, name, thought, several) for name, one in whole]
    if several:
        left_out = columns_left_out([one.prompt for _, one in whole])
        for row, (_, one) in zip(rows, whole, strict=True):
            row |= {"sample": one.sample, "seed": one.seed}
            if one.prompt.chat_template_kwargs is not None:
                row["chat_template_kwargs"] = one.prompt.chat_template_kwargs
            row |= {column: value for column, value in one.prompt.columns.items() if column not in left_out}
    write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows of a file that `check_writable` takes: an ending of `.json` gives one list, else one row a line."""
    if path.suffix == ".json":
        write_json(path, list(rows))
    else:
        write_json_lines(path, rows)


def columns_left_out(prompts: Sequence[Prompt]) -> list[str]:
    """Return the columns of prompts that do not stand beside several answers to them.

    They are those whose names answers and their ratings have themselves, and those that hold more than texts, numbers
    and lists of these.
    """
    columns = [column for prompt in prompts for column in prompt.columns.items()]
    return sorted({name for name, value in columns if not _is_carried(name, value)})


def answer_report(
    generations: Sequence[Generation], chat_model: ChatModel, settings: GenerationSettings
) -> dict[str, Any]:
    """Return how a model's answers were generated and what they are like: shares and lengths are of single turns.

    `prompts` counts prompts, all other counts are of answers. `empty` are those without a word, `repeated` those that
    are the same as an earlier one to their prompt, and `prompts_all_alike` the prompts whose answers are all the same.
    Lengths and signs of a degenerate model are of the answers without their reasoning, tokens of those whose endpoint
    says how many the reasoning has.

    Args:
        generations: of all prompts, the samples of each below each other.
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
        "prompts": len(generations) // settings.samples,
        "answers": len(generations),
        "answered": sum(one.failure is None and one.no_answer is None for one in generations),
        "failures": dict(Counter(one.failure for one in generations if one.failure is not None)),
        "without_answer": dict(without),
        "empty": sum(not one.text.strip() for one in completions),
        **(_repetition(generations) if settings.samples > 1 else {}),
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


def _repetition(generations: Sequence[Generation]) -> dict[str, int]:
    answers: dict[Any, list[str]] = {}
    for one in generations:
        if one.failure is None:
            answers.setdefault((one.prompt.id, one.prompt.messages), []).append(one.completions[0].text)
    alike = [texts for texts in answers.values() if len(texts) > 1 == len(set(texts))]
    return {
        "repeated": sum(len(texts) - len(set(texts)) for texts in answers.values()),
        "prompts_all_alike": len(alike),
    }


def _row(generation: Generation, generator: str, thought: bool, several: bool) -> dict[str, Any]:
    prompt, completions = generation.prompt, generation.completions
    row: dict[str, Any] = {prompt.id_column: prompt.id}
    if prompt.category is not None:
        row["category"] = prompt.category
    if len(prompt.turns) > 1:
        row |= {
            "turns": list(prompt.turns),
            "choices": [{"index": 0, "turns": [one.text for one in completions]}],
            **({"reasoning": [one.reasoning for one in completions]} if thought else {}),
            "model_id": generator,
            "tokens": [one.tokens_out for one in completions],
            "finished": [one.finished for one in completions],
        }
    else:
        (answer,) = completions
        as_chat = several and prompt.history
        counted = answer.tokens_out > 0 or not answer.text or not several
        row |= {
            **({"prompt": _messages(prompt)} if as_chat else {"instruction": prompt.text}),
            "output": answer.text,
            **({"reasoning": answer.reasoning} if thought else {}),
            "generator": generator,
            "tokens": answer.tokens_out if counted else None,
            "finished": answer.finished,
        }
    return row


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in prompt.messages]


def _is_carried(column: str, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    plain = all(one is None or isinstance(one, (str, int, float)) for one in values)
    return plain and column not in _TAKEN and not column.startswith(_OF_RATINGS)


def _spread(values: Sequence[int]) -> dict[str, float] | None:
    """Return mean, median and largest; None where nothing was counted, as by endpoints that report no usage."""
    if not any(values):
        return None
    return {"mean": float(np.mean(values)), "median": float(np.median(values)), "largest": float(max(values))}
