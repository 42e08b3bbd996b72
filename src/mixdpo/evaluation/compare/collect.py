"""From sources to a comparison: models under one name each, benchmark by benchmark, with paired differences."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.evaluation.benchmark import MetricNames
from mixdpo.evaluation.benchmarks import benchmark_of
from mixdpo.evaluation.compare.compare_settings import CompareSettings
from mixdpo.evaluation.compare.result_metrics import headline, names_of, shown_metrics
from mixdpo.evaluation.compare.sources import TRAINING, ModelResult, read_source
from mixdpo.evaluation.items import Transcript
from mixdpo.evaluation.statistics.paired import Difference, compare_pairs, holm
from mixdpo.evaluation.unread import is_mostly_unread, unread_notes
from mixdpo.generation.answer_files import read_answers, read_prompt_texts

MOST_FOR_ALL_PAIRS: Final = 6
"""With more models than this, each is compared with one instead of with every other."""


@dataclass(frozen=True)
class BenchmarkResults:
    """Everything known of one benchmark.

    Attributes:
        name: of the benchmark.
        names: what its metrics are called.
        headline: the metric that models are ranked by.
        shown: the metrics of its table, the headline first.
        models: each one's result, best first.
        differences: by metric, between models on the same prompts.
        notes: what a reader must know before comparing.
        unread: models whose verdicts mostly could not be read, which are no part of the ranking.
    """

    name: str
    names: MetricNames
    headline: str
    shown: Sequence[str]
    models: Mapping[str, ModelResult]
    differences: Mapping[str, Sequence[Difference]]
    notes: Sequence[str]
    unread: frozenset[str] = frozenset()

    @property
    def grouped(self) -> bool:
        """Whether differences are of groups of prompts, such as those of one task, and not of prompts."""
        return any(one.items.groups for one in self.models.values())

    @property
    def baseline(self) -> str | None:
        """What all models were compared with; None where that is nothing, or not the same for all."""
        benchmark = benchmark_of(self.name)
        if benchmark is None:
            return None
        found = {
            benchmark.baseline({"benchmark": self.name, "settings": one.settings}) for one in self.models.values()
        }
        return found.pop() if len(found) == 1 else None


def collect(sources: Sequence[str | Path], settings: CompareSettings | None = None) -> list[BenchmarkResults]:
    """Read result files and run folders and put together what belongs to one benchmark.

    Models of one name from several sources are told apart by their source.

    Raises:
        InputError: a source holds no result, comes twice, or there is no model to compare against.
    """
    settings = settings or CompareSettings()
    by_benchmark: dict[str, list[ModelResult]] = {}
    for result in (result for source in sources for result in read_source(source)):
        by_benchmark.setdefault(result.benchmark, []).append(result)
    named = {name: _named(group) for name, group in by_benchmark.items()}
    models = list(dict.fromkeys(model for group in named.values() for model in group))
    if settings.against is not None:
        _check_known("model to compare against", settings.against, models)
    for name in settings.answers:
        _check_known(
            "BENCHMARK/MODEL for answers", name, [f"{b}/{model}" for b, group in named.items() for model in group]
        )
    for name in settings.prompts:
        _check_known("benchmark for prompts", name, list(named))
    in_order = sorted(named.items(), key=lambda item: item[0] == TRAINING)  # the primary measures first
    return [_benchmark(name, group, settings) for name, group in in_order]


def _check_known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is {_few(known)}"
        raise InputError(f"no {what} {name!r}", hint=hint)


def _benchmark(name: str, named: Mapping[str, ModelResult], settings: CompareSettings) -> BenchmarkResults:
    found, names = [result.metrics for result in named.values()], names_of(name)
    try:
        first = headline(found, names)
    except ValueError as error:
        raise InputError(f"{name}: {error}", file=next(iter(named.values())).source) from error
    sign = 1 if first in names.lower_is_better else -1
    unread = {model for model in named if is_mostly_unread(named[model].metrics.values)}
    ranked = sorted(named, key=lambda model: (model in unread, sign * named[model].metrics.values[first]))
    # Ids of prompts are a benchmark's own: another's texts would be of other questions.
    prompts = read_prompt_texts(settings.prompts[name]).by_id if name in settings.prompts else {}
    with_texts = {
        model: _with_texts(named[model], settings.answers.get(f"{name}/{model}"), prompts) for model in ranked
    }
    return BenchmarkResults(
        name=name,
        names=names,
        headline=first,
        shown=shown_metrics(found, first, names),
        models=with_texts,
        differences=dict(
            _differences({model: with_texts[model] for model in ranked if model not in unread}, first, settings)
        ),
        notes=[*unread_notes({model: named[model].metrics.values for model in ranked}), *_notes(with_texts)],
        unread=frozenset(unread),
    )


def _named(results: Sequence[ModelResult]) -> dict[str, ModelResult]:
    """Give every result of a benchmark a name of its own."""
    names = [result.model for result in results]
    named: dict[str, ModelResult] = {}
    for result in results:
        name = result.model if names.count(result.model) == 1 else f"{result.model} ({_source_name(result, results)})"
        if name in named:
            raise InputError(
                f"{result.benchmark}: two results of {name}", file=result.source, hint="give each file once"
            )
        named[name] = result
    return named


def _source_name(result: ModelResult, results: Sequence[ModelResult]) -> str:
    """Return the end of a source's path that tells it from those of the other results of the same model."""
    others = {other.source for other in results if other.model == result.model and other is not result}
    parts = result.source.with_suffix("").parts
    for count in range(1, len(parts) + 1):
        if not any(other.with_suffix("").parts[-count:] == parts[-count:] for other in others):
            return "/".join(parts[-count:])
    return str(result.source)


def _differences(
    results: Mapping[str, ModelResult], first: str, settings: CompareSettings
) -> Iterator[tuple[str, list[Difference]]]:
    """Yield the differences by metric; the headline's or, where it is a mean of tasks, those of the tasks.

    Their p-values are corrected together.
    """
    found: dict[str, list[Difference]] = {}
    metrics = dict.fromkeys(metric for result in results.values() for metric in result.items.scores)
    for metric in [first] if first in metrics else metrics:
        scores = {
            model: result.items.independent(metric)
            for model, result in results.items()
            if metric in result.items.scores
        }
        pairs = [
            (a, b)
            for a, b in _pairs(scores, _reference(results, scores, settings.against))
            if len(scores[a].keys() & scores[b].keys()) >= 2
        ]
        if pairs:
            found[metric] = compare_pairs(scores, pairs, seed=settings.seed, level=settings.level)
    adjusted = iter(holm([one.p_value for several in found.values() for one in several]))
    for metric, several in found.items():
        yield (
            metric,
            [replace(one, p_adjusted=p) for one, p in zip(several, islice(adjusted, len(several)), strict=True)],
        )


def _reference(results: Mapping[str, ModelResult], ranked: Iterable[str], against: str | None) -> str | None:
    """Return the model that all others are compared with: the one asked for, of many the best that is not flagged."""
    ranked = list(ranked)
    if against in ranked or len(ranked) <= MOST_FOR_ALL_PAIRS:
        return against if against in ranked else None
    return next((model for model in ranked if not results[model].flags), ranked[0])


def _pairs(ranked: Iterable[str], reference: str | None) -> list[tuple[str, str]]:
    """Return which models are compared, the second of each pair with the first."""
    if reference is not None:
        return [(reference, other) for other in ranked if other != reference]
    return list(combinations(reversed(list(ranked)), 2))  # the better one second, so that gains are above zero


def _notes(results: Mapping[str, ModelResult]) -> Iterator[str]:
    by_text: dict[str, list[str]] = {}
    names = dict.fromkeys(name for result in results.values() for name in result.settings)
    for name in names:
        values: dict[str, list[str]] = {}
        for model, result in results.items():
            if name == "temperature" and name not in result.settings:
                continue  # a result from before it was recorded: unknown is no difference
            values.setdefault(json.dumps(result.settings.get(name), sort_keys=True, default=str), []).append(model)
        if len(values) > 1 and name not in ("model", "adapter", "sources"):
            who = "; ".join(f"{value} ({_few(models)})" for value, models in values.items())
            yield f"setting {name} differs, so the results may not be comparable: {who}"
    for model, result in results.items():
        if result.comparable is not None:
            by_text.setdefault(_one_line(result.comparable), []).append(model)
        for flag in result.flags:
            yield f"{model}: {flag}"
    yield from (f"comparable with published results: {text} ({_few(models)})" for text, models in by_text.items())


def _few(models: Sequence[str]) -> str:
    return ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")


def _one_line(value: Any) -> str:
    """Write what a result says of its comparability, whatever form it has, on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_one_line(one)}" for name, one in value.items())
    return ", ".join(map(_one_line, value)) if isinstance(value, list) else str(value)


def _with_texts(result: ModelResult, given: str | Path | None, prompts: Mapping[str, str]) -> ModelResult:
    """Add the texts of the model's answers, and of the prompts, to what there is to read."""
    transcripts = dict(result.items.transcripts)
    path = Path(given) if given is not None else result.answers
    if path is not None:
        if given is None and not path.is_file():
            return result  # the result has moved without its answers
        file = read_answers(path)
        texts = dict(zip(file.keys(), file.prompts, strict=True)) if file.prompts else {}
        for id, answer in file.by_id().items():
            before = transcripts.get(id, Transcript())
            transcripts[id] = replace(before, answer=answer, prompt=before.prompt or texts.get(id))
    for id, text in prompts.items():
        if id in transcripts or any(id in scores for scores in result.items.scores.values()):
            transcripts[id] = replace(transcripts.get(id, Transcript()), prompt=text)
    return replace(result, items=replace(result.items, transcripts=transcripts))


def title(results: BenchmarkResults) -> str:
    """Return the heading of a benchmark: its name, what its models are ranked by, and what they were compared with."""
    against = f" against {results.baseline}" if results.baseline is not None else ""
    return f"{results.name}, {results.names.label(results.headline)}{against}"
