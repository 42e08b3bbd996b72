"""What the page lets a person read side by side: prompts, answers, scores and verdicts, within a bound of size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from mixdpo.evaluation.compare.collect import BenchmarkResults
from mixdpo.evaluation.compare.sources import ModelResult
from mixdpo.evaluation.items import Transcript, verdict_in_words

MOST_CHARACTERS: Final = 12_000_000
"""Of all texts of a benchmark together: more, and a browser is slow to search them."""
LONGEST_TEXT: Final = 20_000
_GAME: Final = re.compile(r"^game ([12]): ([AB<>=]+|None)$", re.MULTILINE)
Side = tuple[Mapping[str, Transcript], Mapping[str, float]]
"""What one model says, and its scores, by prompt."""


def readings(comparison: Sequence[BenchmarkResults]) -> list[dict[str, Any]]:
    """Return what can be read of each benchmark that has scores or texts by prompt.

    Each has `name`, `models`, `first` (the two to begin with), `of` (number of prompts there are) and `prompts`,
    each with `id`, `prompt` and, in lists as long as `models`, `answers`, `scores` and `verdicts`, None for nothing.
    If the texts are too many, prompts spread evenly over all are taken.
    """
    found = []
    for results in comparison:
        sides: dict[str, Side] = {
            model: (result.items.transcripts, _scores(result, results.headline))
            for model, result in results.models.items()
        }
        sides |= {name: (transcripts, {}) for name, transcripts in _baselines(results).items() if name not in sides}
        ids = list(dict.fromkeys(id for transcripts, scores in sides.values() for id in (*transcripts, *scores)))
        if not ids:
            continue
        prompts = [one for id in ids if _is_readable(one := _prompt(id, sides))]
        if not prompts:  # only scores, of which there is nothing to read
            continue
        sizes = np.array([_size(prompt) for prompt in prompts])
        every = max(1, int(np.ceil(sizes.sum() / MOST_CHARACTERS)))
        # Start with models that there is something to read of.
        texts = [sum(one.answer is not None for one in transcripts.values()) for transcripts, _ in sides.values()]
        first = sorted(range(len(texts)), key=lambda side: -texts[side])[:2]
        found.append(
            {
                "name": results.name,
                "models": list(sides),
                "first": first,
                "of": len(prompts),
                "prompts": prompts[::every],
            }
        )
    return found


def _scores(result: ModelResult, headline: str) -> dict[str, float]:
    """Return the headline's scores by prompt; where it is a mean of tasks, those of all tasks, whose ids differ."""
    found = [result.items.scores[headline]] if headline in result.items.scores else result.items.scores.values()
    return {id: value for scores in found for id, value in scores.items()}


def _baselines(results: BenchmarkResults) -> dict[str, dict[str, Transcript]]:
    """Return the answers that models were compared with, by the baseline's name."""
    found: dict[str, dict[str, Transcript]] = {}
    for result in results.models.values():
        name = f"{result.settings.get('baseline') or 'unnamed'} (baseline)"
        for id, one in result.items.transcripts.items():
            if one.baseline is not None:
                found.setdefault(name, {}).setdefault(id, Transcript(prompt=one.prompt, answer=one.baseline))
    return found


def _prompt(id: str, sides: Mapping[str, Side]) -> dict[str, Any]:
    transcripts = [texts.get(id, Transcript()) for texts, _ in sides.values()]
    scores = [values.get(id) for _, values in sides.values()]
    return {
        "id": id,
        "prompt": next((_cut(one.prompt) for one in transcripts if one.prompt), None),
        "answers": [_cut(one.answer) for one in transcripts],
        "verdicts": [_cut(_in_words(model, one.verdict)) for model, one in zip(sides, transcripts, strict=True)],
        "scores": [None if score is None or not np.isfinite(score) else round(score, 2) for score in scores],
    }


def _is_readable(prompt: Mapping[str, Any]) -> bool:
    return any((*prompt["answers"], *prompt["verdicts"]))


def _in_words(model: str, verdict: str | None) -> str | None:
    """Return a verdict with the labels of games in words; earlier versions stored these as they are."""
    if verdict is None:
        return None
    return _GAME.sub(lambda game: verdict_in_words(model, int(game[1]) - 1, game[2]), verdict)


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= LONGEST_TEXT:
        return text
    return text[:LONGEST_TEXT] + f" […] ({len(text):,} characters)"


def _size(prompt: Mapping[str, Any]) -> int:
    texts = [prompt["prompt"], *prompt["answers"], *prompt["verdicts"]]
    return 200 + sum(len(text) for text in texts if text)
