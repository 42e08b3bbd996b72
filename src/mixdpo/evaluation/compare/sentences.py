"""What a comparison comes to, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from mixdpo.evaluation.compare.collect import BenchmarkResults
from mixdpo.evaluation.compare.tables import decimals
from mixdpo.evaluation.sentences import (
    clear_sentence,
    difference_sentence,
    leader_sentence,
    win_sentence,
    win_warnings,
)


def sentences(results: BenchmarkResults) -> list[str]:
    """Return who wins: against the baseline where each result says it, and between models on the same prompts."""
    found = []
    for model, result in results.models.items():
        if _has_games(results, model) and model not in results.unread:
            baseline, judge = result.settings.get("baseline") or "the baseline", result.settings.get("judge")
            found.append(win_sentence(model, str(baseline), result.record, str(judge) if judge else None))
    return [*found, *_between_models(results, led=bool(found))]


def warnings(results: BenchmarkResults) -> list[str]:
    """Return what a reader of win rates must know, model by model, and what a result notes of its own accord."""
    return [
        line
        for model, result in results.models.items()
        if _has_games(results, model)
        for line in (*result.record.get("notes", ()), *(f"{model}: {one}" for one in win_warnings(result.record)))
    ]


def _has_games(results: BenchmarkResults, model: str) -> bool:
    """Whether the result of a model is of games that a sentence can be made of; earlier versions stored less."""
    return {"p_value", "win_rate"} <= results.models[model].record.keys()


def _between_models(results: BenchmarkResults, led: bool) -> Iterator[str]:
    """Yield the difference of two models; of more, who is first, unless sentences `led` to it, and how many differ."""
    for metric, differences in results.differences.items():
        label = results.names.words(metric)
        if len(differences) == 1:
            drawn = "groups of prompts" if results.grouped else "prompts"
            yield difference_sentence(differences[0], label, drawn, results.names.unit(metric))
        elif differences:
            first = [_first(results)] if not led and metric == results.headline else []
            yield "; ".join([*first, clear_sentence(differences, label)])


def leader(results: BenchmarkResults) -> str:
    """Return which model is best: none that is flagged, or graded on one prompt alone, where there are others."""
    ranked = [model for model in results.models if model not in results.unread] or list(results.models)
    several = [one for one in ranked if results.models[one].metrics.values.get("n_prompts", 2) > 1] or ranked
    return next((model for model in several if not results.models[model].flags), several[0])


def _first(results: BenchmarkResults) -> str:
    best, metric = leader(results), results.headline
    metrics = results.models[best].metrics
    return leader_sentence(
        best, results.names.words(metric), metrics.values[metric], metrics.intervals.get(metric), results.baseline,
        unit=results.names.unit(metric), digits=decimals(results, metric),
        lowest=metric in results.names.lower_is_better,
    )  # fmt: skip
