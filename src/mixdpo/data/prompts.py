"""Telling the prompt from the two completions when the data does not, and what makes a pair unusable."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from mixdpo.data.messages import ROLES, Message, answers, is_blank, says
from mixdpo.data.reasoning import is_only_reasoning
from mixdpo.data.turns import UserTurnsDiffer, answer_start, extra_turn

REASONS: Final[dict[str, str]] = {
    "empty_prompt": "the prompt holds only white space",
    "empty_completion": "a completion holds only white space",
    "thoughts_only": "a completion is reasoning without an answer",
    "identical_completions": "chosen and rejected are the same",
    "bad_roles": "a role is unknown, or a completion does not start and end with the assistant",
    "no_shared_prompt": "there is no prompt, and chosen and rejected do not begin alike",
    "invalid_score": "a score is missing, not a number, or infinite",
    "contradiction": "chosen is scored lower than rejected",
    "tie": "neither answer won",
    "no_ranking": "fewer than two answers with different scores",
}
"""Why a pair is dropped; a pair has the first reason that applies."""

DOUBTS: Final[dict[str, str]] = {
    "unmarked_prompt": "no turn is announced, so the words that both answers begin with are taken for the prompt",
    "unread_prompt": "the answers hold the conversation, and the prompt, a text that stands in none of its messages "
    "before them, is left out",
    "repeated_prompt": "an answer begins with the prompt's words, which stay in it, for most answers do not",
    "extra_turn": "an answer goes on with a turn of the user's, which is left out with all behind it",
}
"""What is doubtful about a pair that is kept."""


_SEVERAL: Final = 4
"""Words of a prompt that no answer begins with by chance, as with "Hello"."""


class DropPair(Exception):
    """The pair cannot be used.

    Attributes:
        reason: a key of `REASONS`.
        detail: what it is in this pair, where that says more.
        side: which of prompt, chosen and rejected it is about, if one.
    """

    def __init__(self, reason: str, detail: str | None = None, side: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.side = reason, detail, side


def split_text(prompt: str | None, chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return prompt, chosen and rejected of a pair of texts.

    Without a prompt, chosen and rejected hold the whole conversation. The prompt then ends after the last
    announcement of an answer ("Assistant:") that both share; in texts that announce no turns, at the last white
    space before they part, which goes to the completions as tokenizers expect.

    Raises:
        DropPair: the pair is unusable.
    """
    if not chosen.strip() or not rejected.strip():
        raise DropPair("empty_completion")
    if chosen == rejected:
        raise DropPair("identical_completions")
    if prompt is None:
        shared = _common_beginning(chosen, rejected)
        try:
            end = answer_start(shared)
        except UserTurnsDiffer:
            raise DropPair("no_shared_prompt", "they part before an answer of the assistant's") from None
        end = _last_space(shared, chosen, rejected) if end is None else end
        if not shared[:end].strip():
            raise DropPair("no_shared_prompt")
        prompt, chosen, rejected = shared[:end], chosen[end:], rejected[end:]
        if not chosen.strip() or not rejected.strip():
            raise DropPair("empty_completion")
    if not prompt.strip():
        raise DropPair("empty_prompt")
    if is_only_reasoning(chosen) or is_only_reasoning(rejected):
        raise DropPair("thoughts_only")
    return prompt, chosen, rejected


def repeats(prompt: str, answer: str) -> bool:
    """Whether an answer begins with a prompt of several words."""
    asked = prompt.strip()
    return len(asked.split()) >= _SEVERAL and answer.lstrip().startswith(asked)


def without_extra_turn(prompt: str, chosen: str, rejected: str) -> tuple[str, str] | None:
    """Return both answers up to a further turn of the user's, which no model is to write; None if there is none.

    Raises:
        DropPair: nothing is left of an answer, or both are the same then.
    """
    ends = [extra_turn(prompt, side) for side in (chosen, rejected)]
    if ends == [None, None]:
        return None
    sides = zip((chosen, rejected), ends, strict=True)
    chosen, rejected = (side if end is None else side[:end].rstrip() for side, end in sides)
    if not chosen.strip() or not rejected.strip():
        raise DropPair("empty_completion")
    if chosen.rstrip() == rejected.rstrip():
        raise DropPair("identical_completions", "up to a further turn of the user's")
    return chosen, rejected


def split_repeated(prompt: str, chosen: str, rejected: str) -> tuple[str, str, str] | None:
    """Return prompt, chosen and rejected where both texts hold the whole conversation that `prompt` begins.

    They do if both begin with the prompt, or with turns of which the last user's holds it. None: they do not.
    """
    asked, shared = prompt.strip(), _common_beginning(chosen, rejected)
    try:
        end = answer_start(shared)
    except UserTurnsDiffer:
        return None
    if not asked or end is None or asked not in shared[:end]:
        end = len(prompt) if asked and shared.startswith(prompt) else None
    if end is None or not all(_begins_anew(side, end) for side in (chosen, rejected)):
        return None
    return shared[:end], chosen[end:], rejected[end:]


def _begins_anew(text: str, end: int) -> bool:
    """Whether something follows in `text` at `end`, and not within a word."""
    return bool(text[end:].strip()) and not (text[end - 1].isalnum() and text[end].isalnum())


def split_messages(
    prompt: str | list[Message] | None, chosen: str | list[Message], rejected: str | list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Return prompt, chosen and rejected of a conversational pair, the completions without the prompt's messages.

    A completion may be an answer (text, or messages from the assistant's on) or the whole conversation; in that
    case the prompt is what both share, up to an answer of the assistant, and a prompt given as text only repeats a
    part of it.

    Raises:
        DropPair: the pair is unusable.
    """
    sides = [_as_messages(side, "assistant") for side in (chosen, rejected)]
    if any(all(is_blank(message) for message in side) for side in sides):
        raise DropPair("empty_completion")
    given = _as_messages(prompt, "user") if prompt is not None else []
    _check_roles(given, *sides)
    if isinstance(prompt, list) and given:
        repeated = _without_prompt(given, sides)
        if repeated is not None:
            given, sides = repeated
            shared = 0 if _answers(sides) else _shared_turns(sides)
            given, sides = given + sides[0][:shared], [side[shared:] for side in sides]
    elif not given or not _answers(sides):
        shared = _shared_turns(sides)
        if shared == 0:
            raise DropPair("empty_prompt" if prompt is not None and _answers(sides) else "no_shared_prompt")
        given, sides = sides[0][:shared], [side[shared:] for side in sides]
    if all(is_blank(message) for message in given):
        raise DropPair("empty_prompt")
    if not all(sides):
        raise DropPair("empty_completion")
    _check_ends(sides)
    if any(is_blank(side[-1]) for side in sides):
        raise DropPair("empty_completion")
    if not all(answers(side[-1]) for side in sides):
        raise DropPair("thoughts_only")
    if len(sides[0]) == len(sides[1]) and all(says(one) == says(other) for one, other in zip(*sides, strict=True)):
        raise DropPair("identical_completions")
    return given, sides[0], sides[1]


def _as_messages(value: str | list[Message], role: str) -> list[Message]:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _answers(sides: list[list[Message]]) -> bool:
    return all(side and side[0]["role"] == "assistant" for side in sides)


def _said(messages: list[Message]) -> list[tuple[str, ...]]:
    return [says(message) for message in messages]


def _said_loosely(messages: list[Message]) -> list[tuple[str, ...]]:
    """Return what messages say without the white space around it."""
    return [tuple(part.strip() for part in says(message)) for message in messages]


def _check_roles(*sides: list[Message]) -> None:
    for name, side in zip(("prompt", "chosen", "rejected"), sides, strict=True):
        for message in side:
            if message["role"] not in ROLES:
                raise DropPair("bad_roles", f"unknown role {message['role']!r:.40}", name)


def _check_ends(sides: list[list[Message]]) -> None:
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        for at, where in ((0, "begins behind the prompt"), (-1, "ends")):
            if side[at]["role"] != "assistant":
                raise DropPair("bad_roles", f"{name} {where} with the role {side[at]['role']!r}", name)


def _without_prompt(
    given: list[Message], sides: list[list[Message]]
) -> tuple[list[Message], list[list[Message]]] | None:
    """Return the prompt and what follows it on both sides, None if they do not repeat it.

    A system message that only the prompt has, or only the answers, is part of the prompt.
    """
    system, body = _system_apart(given)
    if _answers(sides) and not _answers([body]):
        return None  # as most data has it
    for said in (_said, _said_loosely):
        wanted = said(given)
        if all(said(side[: len(given)]) == wanted for side in sides):
            return given, [side[len(given) :] for side in sides]
    first, second = (_system_apart(side) for side in sides)
    wanted = _said_loosely(body)
    alike = all(_said_loosely(rest[: len(body)]) == wanted for _, rest in (first, second))
    systems = [part for part in (system, first[0], second[0]) if part]
    if body and alike and all(_said_loosely(part) == _said_loosely(systems[0]) for part in systems[1:]):
        return [*(systems[0] if systems else []), *body], [rest[len(body) :] for _, rest in (first, second)]
    return None


def _system_apart(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    count = next(
        (at for at, message in enumerate(messages) if message["role"] not in ("system", "developer")), len(messages)
    )
    return messages[:count], messages[count:]


def _shared_turns(sides: list[list[Message]]) -> int:
    """Return how many messages both conversations share before the answer in which they part."""
    return _shared_by(_said, sides) or _shared_by(_said_loosely, sides)


def _shared_by(said: Callable[[list[Message]], list[tuple[str, ...]]], sides: list[list[Message]]) -> int:
    first, second = (said(side) for side in sides)
    shared = 0
    while shared < min(len(first), len(second)) - 1 and first[shared] == second[shared]:
        shared += 1
    while shared > 0 and not _answers([side[shared:] for side in sides]):
        shared -= 1
    return shared


def _common_beginning(first: str, second: str) -> str:
    end = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    return first[:end]


def _last_space(shared: str, chosen: str, rejected: str) -> int:
    if all(side[len(shared) : len(shared) + 1].isspace() for side in (chosen, rejected)):
        return len(shared)  # both part after a whole word
    return max((match.start() for match in re.finditer(r"\s+", shared)), default=0)
