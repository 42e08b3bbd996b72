"""What a comparison comes to, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from mixdpo.evaluation.compare.collect import BenchmarkResults
from mixdpo.evaluation.compare.tables import decimals, written
from mixdpo.evaluation.sentences import difference_sentence, win_sentence, win_warnings


def sentences(results: BenchmarkResults) -> list[str]:
    """Return who wins: against the baseline where each result says it, and between models on the same prompts."""
    found = []
    for model, result in results.models.items():
        if _has_games(results, model) and model not in results.unread:
            baseline, judge = result.settings.get("baseline") or "the baseline", result.settings.get("judge")
            found.append(win_sentence(model, str(baseline), result.record, str(judge) if judge else None))
    return [*found, *_between_models(results, led=bool(found))]


def warnings(results: BenchmarkResults) -> list[str]:
    """Return what a reader of win rates must know, model by model."""
    return [
        f"{model}: {line}"
        for model, result in results.models.items()
        if _has_games(results, model)
        for line in win_warnings(result.record)
    ]


def _has_games(results: BenchmarkResults, model: str) -> bool:
    """Whether the result of a model is of games that a sentence can be made of; earlier versions stored less."""
    return {"p_value", "win_rate"} <= results.models[model].record.keys()


def _between_models(results: BenchmarkResults, led: bool) -> Iterator[str]:
    """Yield the difference of two models; of more, who is first, unless sentences `led` to it, and how many differ."""
    for metric, differences in results.differences.items():
        label = results.names.label(metric)
        if len(differences) == 1:
            yield difference_sentence(differences[0], label, "groups of prompts" if results.grouped else "prompts")
        elif differences:
            clear = sum(one.p_adjusted < 0.05 and not one.gain.low <= 0 <= one.gain.high for one in differences)
            first = _first(results) if not led and metric == results.headline else ""
            yield (
                f"{first}{clear} of {len(differences)} differences in {label} on the same prompts are clear "
                f"(p < 0.05 after Holm's correction)"
            )


def _first(results: BenchmarkResults) -> str:
    """Return which model that is not flagged is best, with its figure."""
    ranked = [model for model in results.models if model not in results.unread]
    best = next((model for model in ranked if not results.models[model].flags), ranked[0])
    metrics, digits = results.models[best].metrics, decimals(results, results.headline)
    ends = metrics.intervals.get(results.headline)
    interval = f" (95 % interval {written(ends[0], digits)} to {written(ends[1], digits)})" if ends else ""
    extreme = "lowest" if results.headline in results.names.lower_is_better else "highest"
    against = f" against {results.baseline}" if results.baseline is not None else ""
    value = written(metrics.values[results.headline], digits)
    return f"{best} has the {extreme} {results.names.label(results.headline)}{against}: {value}{interval}; "
