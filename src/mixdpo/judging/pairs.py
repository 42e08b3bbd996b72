"""Answers side by side: a model's and the baseline's to the same prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mixdpo.errors import InputError
from mixdpo.evaluation.answers import AnswerFile


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    index: int
    """Position of the prompt in the baseline's file, from 0."""
    id: str
    prompt: str
    baseline: str
    model: str
    category: str | None


def pair_up(
    model: AnswerFile,
    baseline: AnswerFile,
    prompts: Mapping[str, str] | None = None,
    categories: Mapping[str, str] | None = None,
    category: str | None = None,
) -> list[Pair]:
    """Put the answers to the baseline's prompts side by side: by id where both files have ids, else by prompt.

    Args:
        model: answers of the model.
        baseline: answers of the baseline.
        prompts: text of each prompt by id, for answers that come without.
        categories: of each prompt by id; otherwise the files' own.
        category: only prompts of this category.

    Raises:
        InputError: the model answered no prompt of the baseline, or what a prompt says is not known.
    """
    own, ids = _rows(model, baseline), baseline.keys()
    known = baseline.prompts or [(prompts or {}).get(id, "") for id in ids]
    pairs = []
    for index, (id, text) in enumerate(zip(ids, known, strict=True)):
        row = own.get(index)
        if row is None:
            continue
        kind = (categories or {}).get(id) or _category(baseline, index) or _category(model, row)
        if category is not None and kind != category:
            continue
        prompt = text or (model.prompts[row] if model.prompts else "") or (prompts or {}).get(id, "")
        if not prompt:
            raise InputError(
                f"nothing says what the prompt {id!r:.60} is", file=baseline.file, mend="give the prompts: --questions"
            )
        pairs.append(Pair(index, id, prompt, baseline.answers_at(index), model.answers_at(row), kind))
    if not pairs:
        of = f" of the category {category!r}" if category is not None else ""
        raise InputError(
            f"no prompt{of} that the baseline ({baseline.file}) answers is answered here",
            file=model.file,
            mend="let both answer the same prompts, under the same ids",
        )
    return pairs


def _rows(model: AnswerFile, baseline: AnswerFile) -> dict[int, int]:
    """Return, by row of the baseline's file, the row of the model's that answers the same prompt."""
    if model.prompts is not None and model.prompts == baseline.prompts:
        return {row: row for row in range(len(model.prompts))}
    for of_model, of_baseline in ((model.ids, baseline.ids), (model.prompts, baseline.prompts)):
        if of_model is None or of_baseline is None:
            continue
        own = _unique(of_model, model.file)
        found = {row: own[key] for row, key in enumerate(of_baseline) if key in own}
        if found:
            return found
    return {}


def _unique(keys: list[str], file: str) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, key in enumerate(keys):
        if rows.setdefault(key, row) != row:
            raise InputError(
                f"a second answer to the prompt {key!r:.60}", file=file, row=row + 1, mend="leave one answer to each"
            )
    return rows


def _category(file: AnswerFile, row: int) -> str | None:
    return file.categories[row] if file.categories else None
