"""The answers that are judged: their files, and a model's and the baseline's to the same prompts side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges
from mixdpo.common.table_files import read_table, row_in_file
from mixdpo.generation.answer_files import (
    JOINED_BY_ID,
    AnswerFile,
    PromptTexts,
    ReasoningCount,
    read_answers,
    read_prompt_texts,
)
from mixdpo.judges.prompt import JudgePrompt, read_judge_prompt

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True)
class AnswerSources:
    """Whose answers are judged, and what a language model is asked about them."""

    models: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "a model (folder, hub id or MODEL@URL), which answers --questions or the baseline's prompts "
            "first, or a file of answers; may be given again",
            "option": "--model",
            "metavar": "[NAME=]MODEL",
        },
    )
    judge_prompt: Path | None = field(default=None, metadata={"help": "what a language model is asked"})
    questions: Path | None = field(default=None, metadata={"help": "prompts by id, for answers without them"})
    max_tokens: int | None = field(
        default=None,
        metadata={
            "help": "longest judgement; default: the benchmark's",
            "option": "--judge-max-tokens",
            "at_least": 1,
        },
    )
    limit: int | None = field(
        default=None, metadata={"help": "judge the first prompts only: a trial, no result", "at_least": 1}
    )

    def __post_init__(self) -> None:
        check_ranges(self)

    @cached_property
    def answers(self) -> list[AnswerFile]:
        """The models' answers.

        Raises:
            InputError: a file cannot be read, or two models have one name.
        """
        files: dict[str, AnswerFile] = {}
        for name, path in map(_named, self.models):
            file = read_answers(path)
            name = name or file.name
            if name in files:
                raise InputError(f"a second model called {name}", file=path, hint="tell them apart: --model NAME=FILE")
            _check_once(file)
            files[name] = replace(file, name=name)
        return list(files.values())

    def prompt(self) -> JudgePrompt | None:
        """Read the judge prompt, where there is one."""
        return read_judge_prompt(self.judge_prompt) if self.judge_prompt is not None else None

    def texts(self) -> PromptTexts | None:
        """Read the prompts, where they are given."""
        return read_prompt_texts(self.questions) if self.questions is not None else None

    def texts_of(self, file: AnswerFile) -> list[str]:
        """Return the prompt of each answer; `InputError` for one that nothing says."""
        texts = file.texts(self.texts())
        for id, text in zip(file.keys(), texts, strict=True):
            if not text:
                raise _no_text(id, file.file)
        return texts

    def pairs(self, baseline: AnswerFile, category: str | None = None) -> dict[str, list[AnswerPair]]:
        """Put each model's answers beside the baseline's, up to the limit; see `pair_up`."""
        texts, categories = self.texts(), self._categories()
        _check_once(baseline)
        return {file.name: pair_up(file, baseline, texts, categories, category, self.limit) for file in self.answers}

    def reasoning(self, *others: AnswerFile) -> dict[str, ReasoningCount]:
        """Return how many answers of the models and of other files come after reasoning; those that have some."""
        return {file.name: file.reasoning for file in (*self.answers, *others) if file.reasoning.with_reasoning}

    def _categories(self) -> dict[str, str]:
        if self.questions is None or "category" not in read_table(self.questions):
            return {}
        return read_categories(self.questions)


def _check_once(file: AnswerFile) -> None:
    """Refuse a second answer to a prompt before a judge is paid for it; of answers without ids, texts are compared."""
    by_id = file.ids is not None and file.id_column in JOINED_BY_ID
    _by_key(file.keys() if by_id else file.prompts or [], file.file)


def _named(given: str) -> tuple[str | None, Path]:
    name, equals, file = given.partition("=")
    return (name, Path(file)) if equals and not Path(given).exists() else (None, Path(given))


def read_categories(path: str | Path) -> dict[str, str]:
    """Read the category of every question id."""
    table = read_table(path)
    return dict(zip(table.ids("question_id", "uid"), table.texts("category"), strict=True))


def pair_up(
    model: AnswerFile,
    baseline: AnswerFile,
    prompts: PromptTexts | None = None,
    categories: Mapping[str, str] | None = None,
    category: str | None = None,
    limit: int | None = None,
) -> list[AnswerPair]:
    """Put the answers to the baseline's prompts side by side: by id where both files have real ones, else by prompt.

    Args:
        model: answers of the model.
        baseline: answers of the baseline.
        prompts: texts for answers that come without, see `AnswerFile.texts`.
        categories: of each prompt by an id of `JOINED_BY_ID`; otherwise the files' own.
        category: only prompts of this category.
        limit: number of pairs at most, the first ones.

    Raises:
        InputError: the model answered no prompt of the baseline, one id stands for two prompts, or what a prompt says
            is not known.
    """
    ids, known, own_texts = baseline.keys(), baseline.texts(prompts), model.texts(prompts)
    by_id = categories if categories and baseline.id_column in JOINED_BY_ID else {}
    own = same_prompts(model, baseline, own_texts, known)
    pairs: list[AnswerPair] = []
    missing: list[str] = []
    for index, (id, text) in enumerate(zip(ids, known, strict=True)):
        if len(pairs) == limit:
            break
        row = own.get(index)
        kind = by_id.get(id) or _category(baseline, index) or (_category(model, row) if row is not None else None)
        if category is not None and kind != category:
            continue
        if row is None:
            missing.append(text or id)
            continue
        prompt = text or own_texts[row]
        if not prompt:
            raise _no_text(id, baseline.file)
        pairs.append(AnswerPair(index, id, prompt, baseline.answers_at(index), model.answers_at(row), kind))
    if not pairs:
        of = f" of the category {category!r}" if category is not None else ""
        raise InputError(
            f"no prompt{of} that the baseline ({baseline.file}) answers is answered here",
            file=model.file,
            hint=f"let both answer the same prompts, with their texts or under the same {', '.join(JOINED_BY_ID)}",
        )
    if missing:
        _log.warning(
            "%s: %d of %d prompts that the baseline answers have no answer, first %.60r",
            model.file, len(missing), len(missing) + len(pairs), missing[0],
        )  # fmt: skip
    return pairs


def _no_text(id: str, file: str) -> InputError:
    return InputError(
        f"nothing says what the prompt {id!r:.60} is", file=file,
        hint=f"give the prompts with --questions, in both files under the same {', '.join(JOINED_BY_ID)}",
    )  # fmt: skip


def same_prompts(
    model: AnswerFile, baseline: AnswerFile, of_model: Sequence[str], of_baseline: Sequence[str]
) -> dict[int, int]:
    """Return, by row of the baseline's file, the row of the model's that answers the same prompt.

    By an id of `JOINED_BY_ID` where both files have one, else by the text of the prompt, of which white space makes no
    difference where no other prompt is alike.

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


def references_by_row(answers: AnswerFile, texts: Sequence[str], references: AnswerFile) -> dict[int, str]:
    """Return the reference answer to each row, joined as two models' answers are; `texts` are the rows' prompts."""
    known = PromptTexts(answers.id_column, dict(zip(answers.keys(), texts, strict=True)))
    rows = same_prompts(references, answers, references.texts(known), texts)
    return {row: references.answers_at(theirs) for row, theirs in rows.items()}


def no_reference(key: str) -> InputError:
    """Return the error for a prompt without a reference answer."""
    return InputError(
        f"no reference answer to the prompt {key!r:.60}",
        hint=f"give it in --references FILE, under the same {', '.join(JOINED_BY_ID)} or prompt",
    )


def _joined(of_model: Sequence[str], of_baseline: Sequence[str], file: str) -> dict[int, int]:
    own = _by_key(of_model, file)
    alike = {plain_prompt(key): key for key in own}
    if len(alike) < len(own):  # prompts of the model that differ in white space alone
        alike = {}
    keys = (key if key in own else alike.get(plain_prompt(key)) for key in of_baseline)
    return {row: own[key] for row, key in enumerate(keys) if key in own}


def plain_prompt(text: str) -> str:
    """Return a prompt as it is compared where none is the same to the letter: any white space is one space."""
    return " ".join(text.split())


def _by_key(keys: Sequence[str], file: str) -> dict[str, int]:
    """Return the row of each key that is not empty; `InputError` for one that comes twice."""
    rows: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key and rows.setdefault(key, row) != row:
            raise InputError(
                f"a second answer to the prompt {key!r:.60}",
                file=file,
                row=row_in_file(file, row),
                hint="leave one answer to each",
            )
    return rows


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
                f"row {row_in_file(baseline.file, theirs)}",
                file=model.file,
                row=row_in_file(model.file, ours),
                hint="give a prompt one id in both files, or leave the ids out: prompts are then compared by their "
                "texts",
            )


def _category(file: AnswerFile, row: int) -> str | None:
    return file.categories[row] if file.categories else None
