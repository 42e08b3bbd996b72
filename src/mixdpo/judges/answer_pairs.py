"""Answers side by side: a model's and the baseline's to the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixdpo.common.errors import InputError
from mixdpo.generation.answer_files import JOINED_BY_ID, AnswerFile, PromptTexts


@dataclass(frozen=True)
class AnswerPair:
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
    prompts: PromptTexts | None = None,
    categories: Mapping[str, str] | None = None,
    category: str | None = None,
) -> list[AnswerPair]:
    """Put the answers to the baseline's prompts side by side: by id where both files have real ones, else by prompt.

    Args:
        model: answers of the model.
        baseline: answers of the baseline.
        prompts: texts for answers that come without, see `AnswerFile.texts`.
        categories: of each prompt by an id of `JOINED_BY_ID`; otherwise the files' own.
        category: only prompts of this category.

    Raises:
        InputError: the model answered no prompt of the baseline, one id stands for two prompts, or what a prompt says
            is not known.
    """
    ids, known, own_texts = baseline.keys(), baseline.texts(prompts), model.texts(prompts)
    by_id = categories if categories and baseline.id_column in JOINED_BY_ID else {}
    own = same_prompts(model, baseline, own_texts, known)
    pairs = []
    for index, (id, text) in enumerate(zip(ids, known, strict=True)):
        row = own.get(index)
        if row is None:
            continue
        kind = by_id.get(id) or _category(baseline, index) or _category(model, row)
        if category is not None and kind != category:
            continue
        prompt = text or own_texts[row]
        if not prompt:
            raise no_text(id, baseline.file)
        pairs.append(AnswerPair(index, id, prompt, baseline.answers_at(index), model.answers_at(row), kind))
    if not pairs:
        of = f" of the category {category!r}" if category is not None else ""
        raise InputError(
            f"no prompt{of} that the baseline ({baseline.file}) answers is answered here",
            file=model.file,
            hint=f"let both answer the same prompts, with their texts or under the same {', '.join(JOINED_BY_ID)}",
        )
    return pairs


def no_text(id: str, file: str) -> InputError:
    """Return the error for a prompt whose text is not known."""
    return InputError(
        f"nothing says what the prompt {id!r:.60} is", file=file,
        hint=f"give the prompts with --questions, in both files under the same {', '.join(JOINED_BY_ID)}",
    )  # fmt: skip


def same_prompts(
    model: AnswerFile, baseline: AnswerFile, of_model: Sequence[str], of_baseline: Sequence[str]
) -> dict[int, int]:
    """Return, by row of the baseline's file, the row of the model's that answers the same prompt.

    By an id of `JOINED_BY_ID` where both files have one, else by the text of the prompt.

    Args:
        model: answers of the model.
        baseline: answers of the baseline.
        of_model: prompts of the model's rows.
        of_baseline: of the baseline's.
    """
    if model.prompts is not None and model.prompts == baseline.prompts:
        return {row: row for row in range(len(model.prompts))}
    found: dict[int, int] = {}
    if model.ids and baseline.ids and {model.id_column, baseline.id_column} <= set(JOINED_BY_ID):
        found = _joined(model.ids, baseline.ids, model.file)
        _check_prompts(found, model, baseline, of_model, of_baseline)
    return found or _joined(of_model, of_baseline, model.file)


def _joined(of_model: Sequence[str], of_baseline: Sequence[str], file: str) -> dict[int, int]:
    own: dict[str, int] = {}
    for row, key in enumerate(of_model):
        if key and own.setdefault(key, row) != row:
            raise InputError(
                f"a second answer to the prompt {key!r:.60}", file=file, row=row + 1, hint="leave one answer to each"
            )
    return {row: own[key] for row, key in enumerate(of_baseline) if key in own}


def _check_prompts(
    found: Mapping[int, int], model: AnswerFile, baseline: AnswerFile, of_model: Sequence[str],
    of_baseline: Sequence[str],
) -> None:  # fmt: skip
    """Refuse an id under which the two files answer different prompts; white space makes no difference."""
    for theirs, ours in found.items():
        texts = (of_model[ours].split(), of_baseline[theirs].split())
        if all(texts) and texts[0] != texts[1]:
            raise InputError(
                f"under the {model.id_column} {model.keys()[ours]!r:.60} is another prompt than in {baseline.file}, "
                f"row {theirs + 1}",
                file=model.file,
                row=ours + 1,
                hint="give a prompt one id in both files, or leave the ids out: prompts are then compared by their "
                "texts",
            )


def _category(file: AnswerFile, row: int) -> str | None:
    return file.categories[row] if file.categories else None
