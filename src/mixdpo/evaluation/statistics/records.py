"""What results say of a judge's biases and of answers, in the form that a result file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import Interval, proportion, sign_test
from mixdpo.common.table_files import TableFile
from mixdpo.evaluation.statistics.paired import agreement, compare_all, length_effect
from mixdpo.generation.answer_files import without_reasoning
from mixdpo.generation.degenerate import find_constant_length, find_degenerate

MOST_COMPARED: Final = 6
"""With more models than this a result holds no differences; `mixdpo compare` draws them against one model."""


def by_model(table: TableFile, values: list[Any]) -> dict[str, dict[str, Any]]:
    """Return a value for each row of a file of verdicts, by model and prompt.

    Raises:
        InputError: a prompt comes twice.
    """
    found: dict[str, dict[str, Any]] = {}
    rows = zip(table.texts("model"), table.ids("id", "question_id", "uid"), values, strict=True)
    for place, (model, id, value) in enumerate(rows):
        own = found.setdefault(model, {})
        if id in own:
            raise InputError(
                f"a second verdict on {model}'s answer to {id!r:.60}", file=table.file, row=table.row_of(place)
            )
        own[id] = value
    return found


def check_once(table: TableFile, rows: Sequence[int] | np.ndarray, *keys: tuple[str, np.ndarray]) -> None:
    """Raise `InputError` for the first of these rows of a file of verdicts whose keys are those of a row before.

    Args:
        table: the file.
        rows: from 0.
        keys: what each key is called, and its value in every row of the file.
    """
    seen: dict[tuple[str, ...], int] = {}
    for row in map(int, rows):
        key = tuple(str(values[row]) for _, values in keys)
        if (first := seen.setdefault(key, row)) != row:
            what = ", ".join(f"{name} {value!r:.60}" for (name, _), value in zip(keys, key, strict=True))
            raise InputError(
                f"a second verdict on {what}, after row {table.row_of(first)}", file=table.file, row=table.row_of(row),
                hint="leave one; several judges are several files of verdicts",
            )  # fmt: skip


@dataclass(frozen=True)
class JudgedAnswers:
    """A model's answers in a file of verdicts, without reasoning: of each row the prompt's id, the answer, the
    baseline's."""

    ids: list[str]
    answers: list[str]
    baseline: list[str] | None


def judged_answers(table: TableFile) -> dict[str, JudgedAnswers]:
    """Return the answers by model, nothing where the verdicts come without."""
    column = next((name for name in ("output_2", "answer") if name in table), None)
    if column is None:
        return {}
    ids, (answers, _) = table.ids("question_id", "uid", "id"), without_reasoning(table.texts(column))
    baseline = without_reasoning(table.texts("output_1"))[0] if "output_1" in table else None
    models = table.texts("model")
    found = {}
    for model in dict.fromkeys(models):
        rows = [row for row, name in enumerate(models) if name == model]
        others = [baseline[row] for row in rows] if baseline else None
        found[model] = JudgedAnswers([ids[row] for row in rows], [answers[row] for row in rows], others)
    return found


def reasoning_record(*tables: TableFile) -> dict[str, Any]:
    """Return `reasoning` for a result: how many answers in files of verdicts come after reasoning, by model; empty
    where none does."""
    answers: dict[str, list[str]] = {}
    for table in tables:
        models = table.texts("model", "generator_2")
        for column, names in (("output_2", models), ("answer", models), ("output_1", ["baseline"] * len(table))):
            for name, answer in zip(names, table.columns.get(column, ()), strict=False):
                answers.setdefault(name, []).append(answer if isinstance(answer, str) else "")
    counts = {name: without_reasoning(given)[1] for name, given in answers.items()}
    found = {name: asdict(count) for name, count in counts.items() if count.with_reasoning}
    return {"reasoning": found} if found else {}


def answers_record(judged: JudgedAnswers | None, scores: Mapping[str, float]) -> dict[str, Any]:
    """Return mean length in characters, signs of a degenerate model, and how scores (0 to 1, by prompt id) go with
    length; empty where there are no answers."""
    if judged is None:
        return {}
    record: dict[str, Any] = {
        "avg_length": float(np.mean([len(answer) for answer in judged.answers])),
        "flags": flags_record(judged.answers),
    }
    others = judged.baseline or [""] * len(judged.answers)
    difference = [len(answer) - len(other) for answer, other in zip(judged.answers, others, strict=True)]
    known = [scores.get(id, np.nan) for id in judged.ids]
    effect = length_effect_record(np.array(known), np.array(difference, dtype=np.float64))
    if effect is not None and judged.baseline is None:
        del effect["longer_wins"]  # of a grade there is no other answer to be longer than
    return record | {"length_effect": effect}


def flags_record(answers: Sequence[str] | None, lengths: np.ndarray | None = None) -> list[str]:
    """Return the signs of a degenerate model, from the lengths of its answers where these are not known."""
    if answers:
        return list(map(str, find_degenerate(answers)))
    return list(map(str, find_constant_length(lengths))) if lengths is not None else []


def bounded_ends(rate: Interval) -> list[float] | None:
    """Return both ends of an interval in percent, within 0 and 100; None for an interval without bounds."""
    if not np.isfinite([rate.low, rate.high]).all():
        return None
    return [max(0.0, rate.low), min(100.0, rate.high)]


def length_effect_record(score: np.ndarray, length_difference: np.ndarray) -> dict[str, Any] | None:
    """Return `length_effect` for a result file."""
    found = length_effect(score, length_difference)
    return None if found is None else asdict(found)


def first_shown_record(score: np.ndarray, model_first: np.ndarray) -> dict[str, Any] | None:
    """Return how often the answer shown first wins, where the order was drawn by chance.

    Args:
        score: of the model, 0 to 1, NaN for none; (rows,).
        model_first: whether the model's answer was shown first; (rows,).
    """
    decided = np.isfinite(score) & (score != 0.5)
    if not decided.any():
        return None
    first = int(((score > 0.5) == model_first)[decided].sum())
    share = proportion(first, int(decided.sum()))
    return {"share": asdict(share), "p_value": sign_test(first, int(decided.sum()) - first)}


def difference_records(scores: Mapping[str, Mapping[str, float]], seed: int = 0) -> list[dict[str, Any]]:
    """Return all paired differences between up to `MOST_COMPARED` models on the same prompts, corrected by Holm."""
    known = {
        model: {id: value for id, value in by_id.items() if np.isfinite(value)} for model, by_id in scores.items()
    }
    if len(known) > MOST_COMPARED:
        return []
    shared = set.intersection(*map(set, known.values())) if known else set()
    return [asdict(one) for one in compare_all(known, seed=seed)] if len(known) > 1 and len(shared) > 1 else []


def agreement_record(first: Mapping[str, float], second: Mapping[str, float], middle: float) -> dict[str, Any] | None:
    """Return how often two judges see the same winner, on the prompts that both gave a score.

    Args:
        first: scores by prompt.
        second: likewise.
        middle: the score of a tie.
    """
    shared = [id for id in first if np.isfinite(first[id]) and np.isfinite(second.get(id, np.nan))]
    if not shared:
        return None
    winners = [[str(np.sign(scores[id] - middle)) for id in shared] for scores in (first, second)]
    return asdict(agreement(*winners)) | {"n": len(shared)}
