"""One raw row to one valid pair, or to the reason why it is none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mixdpo.data.columns import Columns
from mixdpo.errors import InputError
from mixdpo.io import digest

DROP_REASONS: Final = {
    "empty_completion": "an answer is empty or only white space",
    "identical_completions": "both answers are the same",
    "empty_prompt": "the prompt is empty",
    "no_shared_prompt": "no prompt column, and the two conversations have no common beginning",
    "bad_roles": "unknown role, or an answer that does not begin and end with the assistant",
    "invalid_score": "a score is missing, NaN or infinite",
    "contradicted": "the chosen answer is scored lower than the rejected one",
    "over_cap": "left out by max_pairs or weight",
}
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_TURN_MARKS: Final = ("\n\nAssistant:", "\nAssistant:", "<|assistant|>", "[/INST]")

Text = str | list[dict[str, Any]]


class Dropped(Exception):
    """The row is no pair; its message is a key of `DROP_REASONS`."""


@dataclass(frozen=True)
class Pair:
    """A valid pair: texts, or message lists in which the completions hold only what follows the prompt."""

    prompt: Text
    chosen: Text
    rejected: Text
    tools: str | None

    @property
    def pair_id(self) -> str:
        """Hash of the content, 20 hexadecimal digits; the same for every file format and order of keys."""
        texts = (
            json.dumps(part, sort_keys=True, ensure_ascii=False) for part in (self.prompt, self.chosen, self.rejected)
        )
        return digest([*texts, self.tools or ""], size=10)


def read_pair(row: Mapping[str, Any], columns: Columns, file: str, number: int) -> Pair:
    """Validate a row and bring it to the one form.

    Raises:
        Dropped: the row is no usable pair.
        InputError: a value has the wrong type.
    """
    chosen = _text_or_messages(row[columns.chosen], columns.chosen, file, number)
    rejected = _text_or_messages(row[columns.rejected], columns.rejected, file, number)
    prompt = None
    if columns.prompt is not None and row[columns.prompt] is not None:
        prompt = _text_or_messages(row[columns.prompt], columns.prompt, file, number)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise InputError(
            "chosen and rejected must both be texts or both be message lists",
            file=file, row=number, column=columns.rejected,
        )  # fmt: skip
    tools = row[columns.tools] if columns.tools is not None else None
    tools = json.dumps(tools, sort_keys=True, ensure_ascii=False) if isinstance(tools, list | dict) else tools
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(
                "the prompt is a message list, but the answers are texts",
                file=file, row=number, column=columns.prompt,
            )  # fmt: skip
        return _text_pair(prompt, chosen, rejected, tools)
    return _chat_pair(prompt, chosen, rejected, tools)  # type: ignore[arg-type]


def read_score(value: Any, column: str, file: str, number: int, drop_invalid: bool) -> float:
    """Return a finite score, or raise `Dropped` or `InputError` as the setting says."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise InputError(f"the score {value!r} is not a number", file=file, row=number, column=column)
    if value is None or not math.isfinite(value):
        if drop_invalid:
            raise Dropped("invalid_score")
        what = "missing" if value is None else "NaN" if math.isnan(value) else "infinite"
        raise InputError(
            f"the score is {what}",
            file=file, row=number, column=column, mend="mend it, or set data.invalid_scores: drop to leave such rows out",
        )  # fmt: skip
    return float(value)


def _text_or_messages(value: Any, column: str, file: str, number: int) -> Text:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        what = "missing" if value is None else f"of type {type(value).__name__}"
        raise InputError(
            f"the value is {what}",
            file=file,
            row=number,
            column=column,
            mend="it must be a text or a list of messages",
        )
    messages = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError("a message is not an object with role and content", file=file, row=number, column=column)
        if not isinstance(message.get("content"), str | None):
            raise InputError("a message's content is not a text", file=file, row=number, column=column)
        messages.append(_without_nulls(message))
    return messages


def _without_nulls(value: Any) -> Any:
    """Remove keys whose value is None: Arrow adds them to every message that lacks a key another one has."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _text_pair(prompt: str | None, chosen: str, rejected: str, tools: str | None) -> Pair:
    if chosen.strip() == rejected.strip():
        raise Dropped("identical_completions" if chosen.strip() else "empty_completion")
    if prompt is None:
        cut = _shared_text(chosen, rejected)
        prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
        if not prompt.strip():
            raise Dropped("no_shared_prompt")
    if not prompt.strip():
        raise Dropped("empty_prompt")
    if not chosen.strip() or not rejected.strip():
        raise Dropped("empty_completion")
    return Pair(prompt, chosen, rejected, tools)


def _shared_text(chosen: str, rejected: str) -> int:
    """Return where the shared prompt of two whole texts ends: after the last assistant mark, or at a space."""
    limit = min(len(chosen), len(rejected))
    common = next((i for i in range(limit) if chosen[i] != rejected[i]), limit)
    shared = chosen[:common]
    for mark in _TURN_MARKS:
        if mark in shared:
            return shared.rindex(mark) + len(mark)
    # Two answers that begin with the same letters share no word, so the cut moves back to the last space.
    return max(shared.rfind(" "), shared.rfind("\n"), 0)


def _chat_pair(
    prompt: Text | None, chosen: list[dict[str, Any]], rejected: list[dict[str, Any]], tools: str | None
) -> Pair:
    if isinstance(prompt, str) or prompt is None:
        limit = min(len(chosen), len(rejected))
        common = next((i for i in range(limit) if chosen[i] != rejected[i]), limit)
        if common == len(chosen) == len(rejected):
            raise Dropped("identical_completions" if chosen else "empty_completion")
        if common > 0:
            prompt, chosen, rejected = chosen[:common], chosen[common:], rejected[common:]
        elif prompt is None:
            raise Dropped("no_shared_prompt")
        else:
            prompt = [{"role": "user", "content": prompt}]
    elif chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not any(str(message.get("content", "")).strip() for message in prompt):
        raise Dropped("empty_prompt")
    for completion in (chosen, rejected):
        if not completion:
            raise Dropped("empty_completion")
        if completion[0]["role"] != "assistant" or completion[-1]["role"] != "assistant":
            raise Dropped("bad_roles")
        if not any(str(m.get("content", "")).strip() or m.get("tool_calls") for m in completion):
            raise Dropped("empty_completion")
    if any(message["role"] not in _ROLES for message in [*prompt, *chosen, *rejected]):
        raise Dropped("bad_roles")
    if chosen == rejected:
        raise Dropped("identical_completions")
    return Pair(prompt, chosen, rejected, tools)
