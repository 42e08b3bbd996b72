"""From a row of any preference format to a pair in the one form that everything downstream reads.

The form: `pair_id`, `prompt`, `chosen`, `rejected` (all text, or all lists of messages where the completions hold only
what follows the prompt), `tools` and `chat_template_kwargs` (JSON text or null) if the data has such; `score_chosen`,
`score_rejected`, `margin` and `margin/<metric>` (float64), `quality/<policy>/chosen` and its like (float64, null where
not known), `weight/<name>` and `label_probability` (float64), `tie` (bool), and `ratings_chosen` and
`ratings_rejected` (lists of float64, one per annotator, NaN where one is missing). Then `source_row` (the row of the
file, from 1) and, where several files were read, `source_file`: they say where a pair stands, and are no part of its
id or of a cache's key.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from datasets import Features, LargeList, List, Value

from mixdpo.common.errors import InputError
from mixdpo.common.files import digest
from mixdpo.data.column_names import of_list
from mixdpo.data.columns import (
    CONVERSATION_NAMES,
    PairColumns,
    is_quality,
    message_feature,
    of_other_answer,
)
from mixdpo.data.data_settings import Contradictions, InvalidScores, check_template_kwargs
from mixdpo.data.messages import (
    Message,
    WrongType,
    canonical,
    check_length,
    kind_of,
    read_history,
    read_messages,
    read_system,
    read_template_kwargs,
    read_tools,
)
from mixdpo.data.printed import parse_text
from mixdpo.data.prompts import DropPair, repeats, split_messages, split_repeated, split_text, without_extra_turn
from mixdpo.data.row_places import RowPlaces
from mixdpo.data.training_columns import LABEL_PROBABILITY, TIE, hint, training_value
from mixdpo.data.turns import announces_answer
from mixdpo.data.views import View, ViewFault

ExchangedMargin = Callable[[str, float], float]
"""From a metric's name and a pair's margin to the margin of the pair with chosen and rejected exchanged."""

PAIR_ID_SIZE: Final = 10
"""Bytes of an id; it is written in twice as many hexadecimal digits."""

_SIDES: Final = ("prompt", "chosen", "rejected")
_RATINGS: Final = ("ratings_chosen", "ratings_rejected")


class RowFault(Exception):
    """A row that must stop the loading; turned into an `InputError` by who knows the file."""

    def __init__(self, row: int, column: str, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.row, self.column, self.problem, self.hint = row, column, problem, hint


@dataclass
class Tally:
    """What happened to the rows of a source.

    Attributes:
        dropped: indices of rows by reason.
        details: by reason, how many rows say what more about it.
        doubted: indices of rows by what is doubtful about a pair that is kept.
        parsed: rows whose messages were kept as text.
        repeated: pairs of texts whose answers began with the prompt.
        added: pairs that rows made beyond one each.
        contradicted: pairs whose chosen answer is scored lower.
        ties: pairs whose answers are scored equally.
    """

    dropped: dict[str, list[int]] = field(default_factory=dict)
    details: dict[str, Counter[str]] = field(default_factory=dict)
    doubted: dict[str, list[int]] = field(default_factory=dict)
    parsed: int = 0
    repeated: int = 0
    added: int = 0
    contradicted: int = 0
    ties: int = 0


def is_conversational(features: Features, first: Mapping[str, Any], columns: PairColumns) -> bool:
    """Whether the data is made of messages; decided by the types, and by the first row where those are open."""
    names = [name for name in (columns.prompt, columns.chosen, columns.rejected) if name is not None]
    return any(name is not None for name in (columns.system, columns.history)) or any(
        isinstance(features[name], (List, LargeList, dict)) or isinstance(first.get(name), (list, dict))
        for name in names
    )


def repeats_prompt(rows: Sequence[Mapping[str, Any]], columns: PairColumns) -> bool:
    """Whether the answers of most of these rows of texts are whole conversations, which begin with the prompt."""
    texts = [[row[str(getattr(columns, side))] for side in _SIDES] for row in rows]
    texts = [sides for sides in texts if all(isinstance(text, str) for text in sides)]
    return 2 * sum(split_repeated(*sides) is not None for sides in texts) > len(texts)


def pair_features(
    sources: Sequence[tuple[Features, PairColumns]], conversational: bool, calls: bool = False, files: bool = False
) -> Features:
    """Return the columns of pairs that come from all these sources, without `source`.

    Scores, margins, weights, label probabilities and ties are there if every source has them, tools and qualities if
    any has. `calls`: as `message_feature` has it; `files`: whether the pairs say which file they come from.
    """
    used = [features[name] for features, c in sources for name in (c.prompt, c.chosen, c.rejected) if name]
    side = message_feature(used, calls) if conversational else Value("string")
    result = Features({"pair_id": Value("string"), **dict.fromkeys(_SIDES, side)})
    if any(columns.tools for _, columns in sources):
        result["tools"] = Value("string")
    if conversational and any(columns.chat_template_kwargs for _, columns in sources):
        result["chat_template_kwargs"] = Value("string")
    for name in ("score_chosen", "score_rejected", "margin"):
        if all(getattr(columns, name) for _, columns in sources):
            result[name] = Value("float64")
    if all(columns.ratings_chosen and columns.ratings_rejected for _, columns in sources):
        result.update(dict.fromkeys(_RATINGS, List(Value("float64"))))
    for name in sources[0][1].margins:
        if all(name in columns.margins for _, columns in sources):
            result[name] = Value("float64")
    result.update({name: Value("float64") for _, columns in sources for name in columns.qualities})
    for name, _ in sources[0][1].of_training():
        if all(name in dict(columns.of_training()) for _, columns in sources):
            result[name] = Value("bool" if name == TIE else "float64")
    result["source_row"] = Value("int64")
    if files:
        result["source_file"] = Value("string")
    return result


@dataclass(frozen=True, kw_only=True)
class PairReader:
    """Reads the rows of one source.

    Attributes:
        columns: where the source holds what.
        conversational: whether pairs are lists of messages or texts.
        features: the columns to make, from `pair_features`.
        invalid_scores: what a missing, NaN or infinite score does to the row: stop the loading or drop it.
        contradictions: what is done with a pair whose chosen answer is scored lower.
        exchanged: what flipping such a pair makes of its `margin/<metric>` columns.
        places: where the rows of the source stand.
        repeats_prompt: whether text answers are whole conversations, although there is a prompt.
        view: what makes rows of pairs of rows of the source, None where they are those.
        tally: counts, filled while reading.
    """

    columns: PairColumns
    conversational: bool
    features: Features
    invalid_scores: InvalidScores
    contradictions: Contradictions
    exchanged: ExchangedMargin = field(repr=False)
    places: RowPlaces = field(repr=False)
    repeats_prompt: bool = False
    view: View | None = None
    tally: Tally = field(default_factory=Tally)

    def read_batch(self, batch: Mapping[str, list[Any]], rows: Sequence[int]) -> dict[str, list[Any]]:
        """Return the usable pairs of a batch of rows, column by column.

        Raises:
            RowFault: a row of the wrong type, or with an invalid score that is not to be dropped.
        """
        result: dict[str, list[Any]] = {name: [] for name in self.features}
        for at, row in enumerate(rows):
            for given in self._viewed({name: values[at] for name, values in batch.items()}, row):
                pair = self.read(given, row)
                if pair is not None:
                    for name, values in result.items():
                        values.append(pair.get(name))
        return result

    def read(self, values: Mapping[str, Any], row: int) -> dict[str, Any] | None:
        """Return the pair in a row, None if it is unusable; both are counted. `row` is for messages.

        Raises:
            RowFault: as `read_batch`.
        """
        try:
            return self._pair(values, row)
        except DropPair as dropped:
            self._drop(dropped, row)
            return None

    def _viewed(self, values: Mapping[str, Any], row: int) -> Sequence[Mapping[str, Any]]:
        if self.view is None:
            return [values]
        try:
            made = self.view.rows(values)
        except DropPair as dropped:
            self._drop(dropped, row)
            return []
        except ViewFault as fault:
            raise RowFault(row, fault.column, f"the value {fault}", "fix or delete the row") from fault
        self.tally.added += len(made) - 1
        self.tally.parsed += any(
            not isinstance(row[name], str | None) for name in self.view.parses for row in made[:1]
        )
        return made

    def _drop(self, dropped: DropPair, row: int) -> None:
        self.tally.dropped.setdefault(dropped.reason, []).append(row)
        if dropped.detail is not None:
            column = getattr(self.columns, dropped.side) if dropped.side is not None else None
            detail = dropped.detail if column is None else f"{dropped.detail} in {column!r}"
            self.tally.details.setdefault(dropped.reason, Counter())[detail] += 1

    def _pair(self, values: Mapping[str, Any], row: int) -> dict[str, Any]:
        prompt, chosen, rejected = (self._side(values, name, row) for name in _SIDES)
        if self.columns.input is not None:
            prompt = self._with_input(prompt, values, row)
        if self.columns.prompt in CONVERSATION_NAMES and not isinstance(values[self.columns.chosen], list):
            self._check_is_open(prompt, row)
        if self.conversational:
            given = prompt
            prompt, chosen, rejected = split_messages(given, chosen or "", rejected or "")
            if isinstance(given, str) and not any(given.strip() in (said.get("content") or "") for said in prompt):
                self.tally.doubted.setdefault("unread_prompt", []).append(row)
            prompt = self._with_context(prompt, values, row)
        else:
            prompt, chosen, rejected = self._texts(prompt, chosen or "", rejected or "", row)
        pair = {"prompt": prompt, "chosen": chosen, "rejected": rejected, **self._scores(values, row)}
        pair |= self._how_to_train(values, row)
        for name in _RATINGS:
            if name in self.features:
                pair[name] = _ratings(values, getattr(self.columns, name), row)
        if self.columns.tools is not None:
            pair["tools"] = self._tools(values[self.columns.tools], row)
        if self.columns.chat_template_kwargs is not None:
            pair["chat_template_kwargs"] = self._template_kwargs(values[self.columns.chat_template_kwargs], row)
        pair = self._against_label(pair)
        pair["pair_id"] = pair_id(pair["prompt"], pair["chosen"], pair["rejected"], pair.get("tools"))
        pair["source_file"], pair["source_row"] = self.places[row]
        return pair

    def _side(self, values: Mapping[str, Any], name: str, row: int) -> Any:
        column = getattr(self.columns, name)
        if column is None:
            return None
        value = values[column]
        if value is None:
            # An empty cell is an empty text; only a column that is not there makes the prompt implicit.
            return ""
        if isinstance(value, str):
            self._check_length(value, column, row)
            return value
        if not self.conversational or not isinstance(value, (list, Mapping)):
            expected = "a list of messages" if self.conversational else "text"
            raise RowFault(row, column, f"the value is {kind_of(value)}, not {expected}", "fix or delete the row")
        try:
            messages = read_messages([value] if isinstance(value, Mapping) else value)
        except WrongType as error:
            raise RowFault(row, column, f"the value {error}", "give messages as {role, content}") from error
        self._check_length(messages, column, row)
        return messages

    def _check_length(self, value: str | list[Message], column: str, row: int) -> None:
        try:
            check_length(value)
        except WrongType as error:
            raise RowFault(row, column, f"the value {error}", "cut it, or delete the row") from error

    def _texts(self, prompt: str | None, chosen: str, rejected: str, row: int) -> tuple[str, str, str]:
        parts = split_repeated(prompt, chosen, rejected) if self.repeats_prompt and prompt is not None else None
        if parts is not None:
            self.tally.repeated += 1
        parts = split_text(*(parts or (prompt, chosen, rejected)))
        if prompt is None and not announces_answer(parts[0]):
            self.tally.doubted.setdefault("unmarked_prompt", []).append(row)
        elif prompt is not None and any(repeats(parts[0], side) for side in parts[1:]):
            self.tally.doubted.setdefault("repeated_prompt", []).append(row)
        shorter = without_extra_turn(*parts)
        if shorter is None:
            return parts
        self.tally.doubted.setdefault("extra_turn", []).append(row)
        return parts[0], *shorter

    def _with_context(self, prompt: list[Message], values: Mapping[str, Any], row: int) -> list[Message]:
        """Put the system message and the turns before, which have columns of their own, before the prompt."""
        before = []
        for name, read in (("system", read_system), ("history", read_history)):
            column = getattr(self.columns, name)
            if column is not None:
                try:
                    before += read(values[column])
                except WrongType as error:
                    raise RowFault(row, column, f"the value {error}", "fix or delete the row") from error
                self._check_length(before, column, row)
        has_own = prompt[0]["role"] == "system"
        return [*(message for message in before if message["role"] != "system" or not has_own), *prompt]

    def _with_input(self, prompt: Any, values: Mapping[str, Any], row: int) -> Any:
        further = self._side(values, "input", row)
        if not isinstance(prompt, str) or not isinstance(further, str):
            raise RowFault(row, self.columns.input or "input", "only texts can be put together", "unmap `input`")
        return "\n\n".join(part for part in (prompt, further) if part.strip())

    def _check_is_open(self, conversation: Any, row: int) -> None:
        """Refuse a conversation beside single answers that holds an answer itself."""
        if isinstance(conversation, list) and conversation and conversation[-1]["role"] == "assistant":
            raise RowFault(
                row,
                str(self.columns.prompt),
                "the conversation ends with the assistant's message, so it is more than the prompt",
                "name the prompt's column with `columns: {prompt: ...}`, or delete this one if the answers hold whole "
                "conversations",
            )

    def _tools(self, value: Any, row: int) -> str | None:
        try:
            return read_tools(value)
        except WrongType as error:
            raise RowFault(row, self.columns.tools or "tools", f"the value {error}", "give a list of tools") from error

    def _template_kwargs(self, value: Any, row: int) -> str | None:
        column = str(self.columns.chat_template_kwargs)
        try:
            text = read_template_kwargs(value)
            check_template_kwargs(None if text is None else json.loads(text))
        except (WrongType, InputError) as error:
            problem = f"the value {error}" if isinstance(error, WrongType) else str(error)
            raise RowFault(row, column, problem, "fix or delete the row") from error
        return text

    def _scores(self, values: Mapping[str, Any], row: int) -> dict[str, float | None]:
        scores: dict[str, float | None] = {}
        for name in ("score_chosen", "score_rejected", "margin"):
            column = getattr(self.columns, name)
            if column is None or name not in self.features:
                continue
            cell = _score_cell(values, column, row)
            score = read_number(cell, row, column)
            if not math.isfinite(score):
                if self.invalid_scores == "drop":
                    raise DropPair("invalid_score")
                raise RowFault(
                    row,
                    column,
                    f"the score is {_in_words(cell, score)}, not a finite number",
                    "fix the row, or drop such pairs with `invalid_scores: drop`",
                )
            scores[name] = score
        for name in self.columns.margins:
            scores[name] = read_number(values[name], row, name)
        for name in self.columns.qualities:
            number = read_number(values[name], row, name)
            scores[name] = None if math.isnan(number) else number
        return scores

    def _how_to_train(self, values: Mapping[str, Any], row: int) -> dict[str, float | bool]:
        cells = {}
        for name, column in self.columns.of_training():
            if name in self.features:
                try:
                    cells[name] = training_value(name, values[column])
                except WrongType as error:
                    raise RowFault(row, column, f"the value {error}", hint(name)) from error
        return cells

    def _against_label(self, pair: dict[str, Any]) -> dict[str, Any]:
        margin = pair["score_chosen"] - pair["score_rejected"] if "score_chosen" in pair else pair.get("margin", 1.0)
        if margin >= 0:
            self.tally.ties += margin == 0
            return pair
        self.tally.contradicted += 1
        if self.contradictions == "drop":
            raise DropPair("contradiction")
        return flipped(pair, self.exchanged) if self.contradictions == "flip" else pair


def _score_cell(values: Mapping[str, Any], column: str, row: int) -> Any:
    """Return the cell of a score column; of a list of scores its best or worst, or null if one is missing."""
    if column in values:
        return values[column]
    name, function = of_list(column)
    scores = values[name]
    if not isinstance(scores, list) or not scores:
        raise RowFault(row, name, f"the value is {kind_of(scores)}, not a list of scores", "fix or delete the row")
    if None in scores:
        return None
    numbers = [read_number(score, row, name) for score in scores]
    return max(numbers) if function == "max" else min(numbers)


def _ratings(values: Mapping[str, Any], column: str, row: int) -> list[float]:
    ratings = values[column]
    if isinstance(ratings, str):  # as CSV has lists
        with suppress(ValueError):
            ratings = parse_text(ratings)
    if ratings is not None and not isinstance(ratings, list):
        raise RowFault(row, column, f"the value is {kind_of(ratings)}, not a list of ratings", "fix or delete the row")
    return [read_number(rating, row, column) for rating in ratings or []]


def read_number(value: Any, row: int, column: str) -> float:
    """Return a cell as float: NaN for null and for text that is no number ("N/A"). Text occurs in CSV.

    Raises:
        RowFault: it is neither a number nor text.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise RowFault(row, column, f"the value is {kind_of(value)}, not a number", "fix or delete the row")
    try:
        return float(value)
    except ValueError:
        return math.nan


def _in_words(value: Any, score: float) -> str:
    if value is None:
        return "missing"
    return "infinite" if math.isinf(score) else f"{value!r}" if isinstance(value, str) else "NaN"


def unknown_margin(metric: str, margin: float) -> float:
    """Return NaN: where nobody says what exchanging the answers does to a metric, it has to be computed anew."""
    return math.nan


def flipped(pair: Mapping[str, Any], exchanged: ExchangedMargin) -> dict[str, Any]:
    """Return a pair with chosen and rejected exchanged, with their scores, ratings, qualities, and its margins.

    A label that was right with probability P is then right with 1 - P.
    """
    result = dict(pair)
    for first, second in (("chosen", "rejected"), ("score_chosen", "score_rejected"), _RATINGS):
        if first in pair:
            result[first], result[second] = pair[second], pair[first]
    for name, value in pair.items():
        if name == "margin":
            result[name] = -value
        elif name == LABEL_PROBABILITY:
            result[name] = 1 - value
        elif name.startswith("margin/"):
            result[name] = exchanged(name.removeprefix("margin/"), value)
        elif is_quality(name):
            result[name] = pair.get(of_other_answer(name))
    return result


def pair_id(prompt: Any, chosen: Any, rejected: Any, tools: str | None) -> str:
    """Return the id of a pair: 20 hexadecimal digits of its content, not of its scores or its way of storage."""
    # Stored tools keep the order of their keys, which a chat template may print.
    tools_key = canonical(json.loads(tools)) if tools is not None else ""
    return digest([canonical(prompt), canonical(chosen), canonical(rejected), tools_key], size=PAIR_ID_SIZE)
