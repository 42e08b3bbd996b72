"""Telling the prompt from the two completions when the data does not, and what makes a pair unusable."""

from __future__ import annotations

import re
from typing import Final

from mixdpo.data.messages import ROLES, Message, canonical, is_blank

REASONS: Final[dict[str, str]] = {
    "empty_prompt": "the prompt holds only white space",
    "empty_completion": "a completion holds only white space",
    "identical_completions": "chosen and rejected are the same",
    "bad_roles": "a role is unknown, or a completion does not start and end with the assistant",
    "no_shared_prompt": "there is no prompt, and chosen and rejected do not begin alike",
    "invalid_score": "a score is missing, not a number, or infinite",
    "contradiction": "chosen is scored lower than rejected",
}
"""Why a pair is dropped; a pair has the first reason that applies."""

_TURN: Final = re.compile(
    r"(?:^|\n)[ \t]*(?:Assistant|ASSISTANT|assistant|AI|Bot|Answer|A)[ \t]*:"
    r"|<\|assistant\|>\n?|<\|im_start\|>assistant\n|<\|start_header_id\|>assistant<\|end_header_id\|>\n\n"
    r"|<start_of_turn>model\n|\[/INST\]|### (?:Response|Assistant):\n?"
)
"""How an answer is announced in conversations that are kept as text."""


class DropPair(Exception):
    """The pair cannot be used; the argument is a key of `REASONS`."""


def split_text(prompt: str | None, chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return prompt, chosen and rejected of a pair of texts.

    Without a prompt, chosen and rejected hold the whole conversation. The prompt then ends after the last
    announcement of an answer ("Assistant:") that both share; in texts without one, at the last white space
    before they part, which goes to the completions as tokenizers expect.

    Raises:
        DropPair: the pair is unusable.
    """
    if not chosen.strip() or not rejected.strip():
        raise DropPair("empty_completion")
    if chosen == rejected:
        raise DropPair("identical_completions")
    if prompt is None:
        shared = _common_beginning(chosen, rejected)
        turns = list(_TURN.finditer(shared))
        end = turns[-1].end() if turns else _last_space(shared, chosen, rejected)
        if not shared[:end].strip():
            raise DropPair("no_shared_prompt")
        prompt, chosen, rejected = shared[:end], chosen[end:], rejected[end:]
        if not chosen.strip() or not rejected.strip():
            raise DropPair("empty_completion")
    if not prompt.strip():
        raise DropPair("empty_prompt")
    return prompt, chosen, rejected


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
    if any(message["role"] not in ROLES for message in [*given, *sides[0], *sides[1]]):
        raise DropPair("bad_roles")
    if isinstance(prompt, list) and given and all(side[: len(given)] == given for side in sides):
        sides = [side[len(given) :] for side in sides]
        shared = _shared_turns(sides) if not _answers(sides) else 0
        given, sides = given + sides[0][:shared], [side[shared:] for side in sides]
    elif not given or (isinstance(prompt, str) and not _answers(sides)):
        shared = _shared_turns(sides)
        if shared == 0:
            raise DropPair("empty_prompt" if prompt is not None and _answers(sides) else "no_shared_prompt")
        given, sides = sides[0][:shared], [side[shared:] for side in sides]
    if all(is_blank(message) for message in given):
        raise DropPair("empty_prompt")
    if not all(sides):
        raise DropPair("empty_completion")
    if not _answers(sides) or any(side[-1]["role"] != "assistant" for side in sides):
        raise DropPair("bad_roles")
    if any(is_blank(side[-1]) for side in sides):
        raise DropPair("empty_completion")
    if canonical(sides[0]) == canonical(sides[1]):
        raise DropPair("identical_completions")
    return given, sides[0], sides[1]


def _as_messages(value: str | list[Message], role: str) -> list[Message]:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _answers(sides: list[list[Message]]) -> bool:
    return all(side and side[0]["role"] == "assistant" for side in sides)


def _shared_turns(sides: list[list[Message]]) -> int:
    """Return how many messages both conversations share before the answer in which they part."""
    first, second = sides
    shared = 0
    while shared < min(len(first), len(second)) - 1 and first[shared] == second[shared]:
        shared += 1
    while shared > 0 and not _answers([first[shared:], second[shared:]]):
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
