"""A model's answers to a prompt set: drawn turn by turn, written in the layouts that judges read, and reported on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.answering.askers import Asker, Progress
from mixdpo.answering.prompts import Prompt
from mixdpo.errors import InputError
from mixdpo.evaluation.degenerate import find_degenerate
from mixdpo.evaluation.endpoint import Reply, Request
from mixdpo.evaluation.mt_bench import MAX_NEW_TOKENS, TEMPERATURES
from mixdpo.evaluation.tables import write_json_lines
from mixdpo.io import write_json

_LONGEST: Final = 2048


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How answers are drawn. None takes MT-Bench's rule for its questions, and greedy, 2,048 tokens for others."""

    max_new_tokens: int | None = field(default=None, metadata={"help": "longest answer, in tokens"})
    temperature: float | None = field(default=None, metadata={"help": "0: the likeliest token each time"})
    top_p: float | None = field(default=None, metadata={"help": "share of probability that is sampled from"})
    seed: int = field(default=0, metadata={"help": "seed of the sampling"})

    def __post_init__(self) -> None:
        for name, value, wrong in (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens is not None and self.max_new_tokens < 1),
            ("temperature", self.temperature, self.temperature is not None and not 0 <= self.temperature < 100),
            ("top_p", self.top_p, self.top_p is not None and not 0 < self.top_p <= 1),
        ):
            if wrong:
                raise InputError(f"generation setting {name} is {value}")


@dataclass(frozen=True)
class Drawn:
    """One prompt's answers, a reply for each turn; the last one failed if turns are missing."""

    prompt: Prompt
    replies: tuple[Reply, ...]

    @property
    def failure(self) -> str | None:
        """Why there is no whole answer."""
        return self.replies[-1].failure


def draw_answers(
    prompts: Sequence[Prompt],
    asker: Asker,
    settings: AnswerSettings,
    progress: Callable[[str], Progress] | None = None,
) -> list[Drawn]:
    """Answer every prompt, all first turns before all second ones, which see the model's own first answers.

    Args:
        prompts: what to answer.
        asker: who answers.
        settings: how.
        progress: makes a function of (answers done, answers in all) for a turn of that name.
    """
    drawn: list[tuple[Reply, ...]] = [()] * len(prompts)
    for turn in range(max(len(prompt.turns) for prompt in prompts)):
        going = [
            index
            for index, prompt in enumerate(prompts)
            if len(prompt.turns) > turn and not any(reply.failure for reply in drawn[index])
        ]
        if not going:
            break
        requests = [_request(prompts[index], [one.text for one in drawn[index]], prompts, settings) for index in going]
        show = progress(f"answers of {asker.name}" + (f", turn {turn + 1}" if turn else "")) if progress else None
        for index, reply in zip(going, asker.ask(requests, show), strict=True):
            drawn[index] = (*drawn[index], reply)
    return [Drawn(prompt, replies) for prompt, replies in zip(prompts, drawn, strict=True)]


def first_requests(prompts: Sequence[Prompt], settings: AnswerSettings) -> list[Request]:
    """Return the requests of all first turns, for an estimate; later ones depend on what is answered."""
    return [_request(prompt, [], prompts, settings) for prompt in prompts]


def longest_answer(prompts: Sequence[Prompt], settings: AnswerSettings) -> int:
    """Return how many tokens an answer may have."""
    return settings.max_new_tokens or (MAX_NEW_TOKENS if is_mt_bench(prompts) else _LONGEST)


def is_mt_bench(prompts: Sequence[Prompt]) -> bool:
    """Whether these are questions of two turns in MT-Bench's categories, which decide the temperature."""
    return all(len(prompt.turns) == 2 and prompt.category in TEMPERATURES for prompt in prompts)


def write_answers(path: str | Path, drawn: Sequence[Drawn], generator: str) -> int:
    """Write the whole answers, in AlpacaEval's columns or, of several turns, in MT-Bench's; return how many.

    An ending of `.json` gives one list, as AlpacaEval reads it, others one object a line.
    """
    rows = [_row(one, generator) for one in drawn if one.failure is None]
    if Path(path).suffix == ".json":
        write_json(path, rows)
    else:
        write_json_lines(path, rows)
    return len(rows)


def answer_report(drawn: Sequence[Drawn], asker: Asker, settings: AnswerSettings) -> dict[str, Any]:
    """Return how the answers were drawn and what they are like; lengths in tokens and characters, of single turns."""
    prompts = [one.prompt for one in drawn]
    replies = [reply for one in drawn if one.failure is None for reply in one.replies]
    failures: dict[str, int] = {}
    for one in drawn:
        if one.failure is not None:
            failures[one.failure] = failures.get(one.failure, 0) + 1
    temperature: Any = settings.temperature
    if temperature is None:
        temperature = dict(TEMPERATURES) if is_mt_bench(prompts) else 0.0
    return {
        "model": asker.name,
        "model_versions": sorted({reply.model for reply in replies if reply.model}),
        "mixdpo": version("mixdpo"),
        "settings": {
            **asdict(settings),
            "max_new_tokens": longest_answer(prompts, settings),
            "temperature": temperature,
            **asker.record(),
        },
        "prompts": len(drawn),
        "answered": sum(one.failure is None for one in drawn),
        "failures": failures,
        "unfinished_share": float(np.mean([not reply.finished for reply in replies])) if replies else None,
        "tokens": _spread([reply.tokens_out for reply in replies]),
        "characters": _spread([len(reply.text) for reply in replies]),
        "flags": [str(flag) for flag in find_degenerate([reply.text for reply in replies])],
    }


def report_file(answers: str | Path) -> Path:
    """Return where the report on a file of answers is written: beside it."""
    path = Path(answers)
    return path.with_name(f"{path.name.split('.')[0]}.report.json")


def _request(prompt: Prompt, answers: Sequence[str], prompts: Sequence[Prompt], settings: AnswerSettings) -> Request:
    messages = list(prompt.history)
    for turn, answer in zip(prompt.turns, answers, strict=False):
        messages += [("user", turn), ("assistant", answer)]
    messages.append(("user", prompt.turns[len(answers)]))
    temperature = settings.temperature
    if temperature is None:
        temperature = TEMPERATURES[prompt.category or ""] if is_mt_bench(prompts) else 0.0
    return Request(
        messages=tuple(messages),
        max_tokens=longest_answer(prompts, settings),
        temperature=temperature,
        top_p=settings.top_p,
        seed=settings.seed if temperature > 0 else None,
    )


def _row(drawn: Drawn, generator: str) -> dict[str, Any]:
    prompt, replies = drawn.prompt, drawn.replies
    row: dict[str, Any] = {prompt.id_column: prompt.id} if prompt.id is not None else {}
    if prompt.category is not None:
        row["category"] = prompt.category
    if len(prompt.turns) == 1:
        return row | {
            "instruction": prompt.text,
            "output": replies[0].text,
            "generator": generator,
            "tokens": replies[0].tokens_out,
            "finished": replies[0].finished,
        }
    return row | {
        "turns": list(prompt.turns),
        "choices": [{"index": 0, "turns": [reply.text for reply in replies]}],
        "model_id": generator,
        "tokens": [reply.tokens_out for reply in replies],
        "finished": [reply.finished for reply in replies],
    }


def _spread(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": float(np.mean(values)), "median": float(np.median(values)), "largest": float(max(values))}
