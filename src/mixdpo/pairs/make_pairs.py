"""Pairs from answers with scores: which answers are usable, what every rule makes of them, and the data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import write_json
from mixdpo.common.tables import TextTable, percent_text
from mixdpo.data.pair_files import beside, save_pairs
from mixdpo.data.scored_answers import Pair
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.select import allowed_pairs, pairs_by_rule, together
from mixdpo.pairs.selection_settings import RULE_NAMES, SelectionRule, SelectionSettings
from mixdpo.pairs.usable import REASONS, UsableAnswers, usable_answers

WITHOUT_PAIRS: Final = {
    "one_answer": "there is one answer or none",
    "too_few_left": "fewer than two answers are left",
    "all_equal": "all answers have one score",
    "no_match": "no two answers are what the rule looks for",
}
"""Why a prompt has no pair; it has the first reason that applies."""
_TOGETHER: Final = "together"
_REASONING: Final = "reasoning"
_TOLD: Final = "chat_template_kwargs"


@dataclass(frozen=True)
class MadePairs:
    """Pairs and how they came to be.

    Attributes:
        pairs: `prompt`, `chosen`, `rejected` (messages), `score_chosen`, `score_rejected`, `model_chosen`,
            `model_rejected`, `prompt_id`, and with several judges `ratings_chosen` and `ratings_rejected`, whose order
            is that of `judges` of the report; with prompts about which the chat template is told something
            `chat_template_kwargs`.
        report: prompts, answers and pairs by what became of them, and the figures of every rule, as plain values.
    """

    pairs: Dataset
    report: dict[str, Any]


def make_pairs(prompts: Sequence[AnsweredPrompt], settings: SelectionSettings) -> MadePairs:
    """Choose pairs among the answers to each prompt.

    Raises:
        InputError: no answer has a score.
    """
    if settings.writers:
        prompts = [by_writer(prompt, settings.writers) for prompt in prompts]
    if not any(np.isfinite(answer.score) for prompt in prompts for answer in prompt.answers):
        if settings.writers:
            there = sorted({answer.model for prompt in prompts for answer in prompt.answers})
            raise InputError(
                f"no answer is by {' or '.join(settings.writers)}", hint=f"the file has answers by {', '.join(there)}"
            )
        raise InputError("no answer has a score", hint="rate the answers first: mixdpo rate ANSWERS --judge JUDGE")
    usable = usable_answers(prompts, settings)
    rules = [rule for rule in RULE_NAMES if rule != "gap" or settings.gap is not None]
    by_rule: dict[SelectionRule, list[list[Pair]]] = {rule: [] for rule in rules}
    chosen: list[list[Pair]] = []
    for prompt, answers in zip(prompts, usable.answers, strict=True):
        key = "\n".join(f"{role}: {content}" for role, content in prompt.chat)
        scores = [answer.score for answer in answers]
        allowed = allowed_pairs(scores, [len(answer.text) for answer in answers], settings.length_ratio)
        found = {rule: pairs_by_rule(rule, scores, allowed, settings, key) for rule in rules}
        for rule, pairs in found.items():
            by_rule[rule].append(together([pairs], settings))
        chosen.append(together([found[rule] for rule in settings.select], settings))
    written = _TOGETHER if len(settings.select) > 1 else settings.select[0]
    made: dict[str, list[list[Pair]]] = dict(by_rule.items())
    if written == _TOGETHER:
        made[_TOGETHER] = chosen
    score_A = np.array([answer.score for answers in usable.answers for answer in answers])
    length_A = np.array([len(answer.text) for answers in usable.answers for answer in answers])
    figures = [
        {
            "rule": rule,
            "written": rule == written,
            "prompts": sum(map(bool, found)),
            **rule_figures(score_A, length_A, _answers_of(found, usable)),
        }
        for rule, found in made.items()
    ]
    judges = _judges(prompts)
    pairs = _dataset(prompts, usable.answers, chosen, judges)
    return MadePairs(pairs, _report(prompts, usable, chosen, figures, judges, settings))


def by_writer(prompt: AnsweredPrompt, writers: Sequence[str]) -> AnsweredPrompt:
    """Return a prompt whose answers are scored by who wrote them: 0 for the last writer, 1 more for each before it.

    Answers of others have no score. Such pairs are those of delta learning (Geng et al. 2025, arXiv 2507.06187), where
    the chosen answer comes from a larger model and the rejected one from a smaller, and nothing is judged.
    """
    score = {writer: float(place) for place, writer in enumerate(reversed(writers))}
    answers = [replace(answer, score=score.get(answer.model, np.nan), ratings={}) for answer in prompt.answers]
    return replace(prompt, answers=tuple(answers))


def save_made_pairs(made: MadePairs, output: Path) -> Path:
    """Write pairs, and the report beside them, whose path is returned.

    Raises:
        RunError: there are no pairs.
    """
    if not len(made.pairs):
        reasons = made.report["prompts"]["without_pairs"]
        listed = ", ".join(f"{count:,} prompts: {WITHOUT_PAIRS[reason]}" for reason, count in reasons.items())
        raise RunError(f"no pair is left ({listed}); the table says what other rules make of the answers")
    save_pairs(made.pairs, output)
    report = beside(output, ".report.json")
    write_json(report, made.report)
    return report


def rule_figures(score_A: np.ndarray, length_A: np.ndarray, pairs_N2: np.ndarray) -> dict[str, Any]:
    """Return what pairs are like: how many, their margins and ties, and the lengths' bias.

    `longer` is the share of pairs of unequal length whose chosen answer is the longer one, `length_difference` the
    mean of the chosen answer's length less the rejected one's. Shares, margins and lengths of no pairs are None.

    Args:
        score_A: of all answers, float64.
        length_A: of all answers, int64.
        pairs_N2: the chosen and the rejected answer of each pair, int64.
    """
    chosen_N, rejected_N = pairs_N2.T
    margin, longer = (values_A[chosen_N] - values_A[rejected_N] for values_A in (score_A, length_A))
    unequal = longer[longer != 0]
    low, median, high = np.quantile(margin, [0.1, 0.5, 0.9]).tolist() if len(pairs_N2) else (None, None, None)
    return {
        "pairs": len(pairs_N2),
        "margin": {"10 %": low, "median": median, "90 %": high},
        "ties": float((margin == 0).mean()) if len(pairs_N2) else None,
        "longer": float((unequal > 0).mean()) if len(unequal) else None,
        "length_difference": float(longer.mean()) if len(pairs_N2) else None,
    }


def _answers_of(pairs: Sequence[Sequence[Pair]], usable: UsableAnswers) -> np.ndarray:
    """Return the answers of the pairs of all prompts, counted through all prompts; int64 of shape (N, 2)."""
    starts = accumulate(map(len, usable.answers), initial=0)
    flat = [start + at for start, found in zip(starts, pairs, strict=False) for pair in found for at in pair]
    return np.array(flat, dtype=np.int64).reshape(-1, 2)


def rules_table(report: Mapping[str, Any]) -> TextTable:
    """Return the table of what every rule makes of the answers, with a star at what is written.

    Its columns: pairs, prompts with a pair, the median margin, the range of 80 % of them, the share of ties, how often
    the longer answer is chosen, and by how many characters the chosen one is longer on average.
    """
    prompts, answers = report["prompts"]["read"], report["answers"]["read"]
    return TextTable(
        title=f"pairs by rule, of {answers:,} answers to {prompts:,} prompts",
        headings=("rule", "pairs", "prompts", "margin", "10 to 90 %", "ties", "longer", "length"),
        rows=[_cells(one) for one in report["rules"]],
    )


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return what was left out, for a person: answers by reason, prompts without a pair, columns that pairs lack."""
    lines = [
        f"{count['answers']:,} answers to {count['prompts']:,} prompts left out: {REASONS[reason]}"
        for reason, count in report["answers"]["left_out"].items()
    ]
    lines += [
        f"{count:,} prompts without a pair: {WITHOUT_PAIRS[reason]}"
        for reason, count in report["prompts"]["without_pairs"].items()
    ]
    if report["columns_left_out"]:
        lines.append(f"columns that pairs do not have: {', '.join(report['columns_left_out'])}")
    return lines


def _cells(figures: Mapping[str, Any]) -> list[str]:
    name = f"{figures['rule']}{' *' if figures['written'] else ''}"
    counts = [f"{figures['pairs']:,}", f"{figures['prompts']:,}"]
    if not figures["pairs"]:
        return [name, *counts, *["-"] * 5]
    low, median, high = (f"{value:.3g}" for value in figures["margin"].values())
    longer = "-" if figures["longer"] is None else percent_text(figures["longer"], 0)
    lengths = f"{figures['length_difference']:+,.0f}"
    return [name, *counts, median, f"{low} to {high}", percent_text(figures["ties"], 0), longer, lengths]


def _report(
    prompts: Sequence[AnsweredPrompt],
    usable: UsableAnswers,
    chosen: Sequence[Sequence[Pair]],
    figures: Sequence[Mapping[str, Any]],
    judges: Sequence[str],
    settings: SelectionSettings,
) -> dict[str, Any]:
    without = Counter(
        _without_pairs(prompt, answers)
        for prompt, answers, pairs in zip(prompts, usable.answers, chosen, strict=True)
        if not pairs
    )
    columns = dict.fromkeys(name for prompt in prompts for answer in prompt.answers for name in answer.columns)
    return {
        "prompts": {
            "read": len(prompts),
            "with_pairs": sum(map(bool, chosen)),
            "without_pairs": {reason: without[reason] for reason in WITHOUT_PAIRS if without[reason]},
        },
        "answers": {
            "read": sum(len(prompt.answers) for prompt in prompts),
            "in_pairs": sum(len({answer for pair in pairs for answer in pair}) for pairs in chosen),
            "left_out": usable.left_out,
        },
        "pairs": sum(map(len, chosen)),
        "judges": list(judges),
        "rules": list(figures),
        "columns_left_out": [name for name in columns if name != _REASONING],
        "settings": asdict(settings),
        "mixdpo": version("mixdpo"),
    }


def _without_pairs(prompt: AnsweredPrompt, answers: Sequence[Answer]) -> str:
    if len(prompt.answers) < 2:
        return "one_answer"
    if len(answers) < 2:
        return "too_few_left"
    return "all_equal" if len({answer.score for answer in answers}) == 1 else "no_match"


def _judges(prompts: Sequence[AnsweredPrompt]) -> list[str]:
    return list(dict.fromkeys(judge for prompt in prompts for answer in prompt.answers for judge in answer.ratings))


def _dataset(
    prompts: Sequence[AnsweredPrompt],
    answers: Sequence[Sequence[Answer]],
    pairs: Sequence[Sequence[Pair]],
    judges: Sequence[str],
) -> Dataset:
    thought = any(answer.columns.get(_REASONING) for of_prompt in answers for answer in of_prompt)
    message = {"role": Value("string"), "content": Value("string")}
    said = {**message, "reasoning_content": Value("string")} if thought else message
    features: dict[str, Any] = {"prompt": List(message), "chosen": List(said), "rejected": List(said)}
    features |= dict.fromkeys(("score_chosen", "score_rejected"), Value("float64"))
    features |= dict.fromkeys(("model_chosen", "model_rejected", "prompt_id"), Value("string"))
    if any(prompt.chat_template_kwargs is not None for prompt in prompts):
        features[_TOLD] = Value("string")
    if len(judges) > 1:
        features |= dict.fromkeys(("ratings_chosen", "ratings_rejected"), List(Value("float64")))
    columns: dict[str, list[Any]] = {name: [] for name in features}
    for row in _rows(prompts, answers, pairs, judges, thought):
        for name, values in columns.items():
            values.append(row[name])
    return Dataset(pa.Table.from_pydict(columns, schema=Features(features).arrow_schema))


def _rows(
    prompts: Sequence[AnsweredPrompt],
    answers: Sequence[Sequence[Answer]],
    pairs: Sequence[Sequence[Pair]],
    judges: Sequence[str],
    thought: bool,
) -> Iterator[dict[str, Any]]:
    for prompt, of_prompt, found in zip(prompts, answers, pairs, strict=True):
        asked = [{"role": role, "content": content} for role, content in prompt.chat]
        for pair in found:
            row: dict[str, Any] = {"prompt": asked, "prompt_id": str(prompt.id), _TOLD: prompt.chat_template_kwargs}
            for side, answer in zip(("chosen", "rejected"), (of_prompt[at] for at in pair), strict=True):
                reasoning = {"reasoning_content": answer.columns.get(_REASONING)} if thought else {}
                row[side] = [{"role": "assistant", "content": answer.text, **reasoning}]
                row[f"score_{side}"] = answer.score
                row[f"model_{side}"] = answer.model or None
                row[f"ratings_{side}"] = [answer.ratings.get(judge, np.nan) for judge in judges]
            yield row
