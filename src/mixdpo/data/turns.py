"""How turns are announced in conversations that are kept as one text, and where the last answer of one begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Turns:
    """How a family of texts announces turns.

    Attributes:
        user: a turn of the user's.
        assistant: a turn of the assistant's; a prompt ends behind it.
        certain: whether these marks come up for nothing else.
    """

    user: re.Pattern[str]
    assistant: re.Pattern[str]
    certain: bool = True


def _turns(user: str, assistant: str, certain: bool = True) -> Turns:
    return Turns(re.compile(user), re.compile(assistant), certain)


def _words(user: str, assistant: str, certain: bool) -> Turns:
    return _turns(rf"(?:^|\n)[ \t]*(?:{user})[ \t]*:", rf"(?:^|\n)[ \t]*(?:{assistant})[ \t]*:", certain)


TEMPLATES: Final = (
    _turns(r"<\|im_start\|>user", r"<\|im_start\|>assistant(?:\n|<\|im_sep\|>)"),  # ChatML, Phi-4
    _turns(r"<\|start_header_id\|>user", r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n"),  # Llama 3
    _turns(r"<\|header_start\|>user", r"<\|header_start\|>assistant<\|header_end\|>\n\n"),  # Llama 4
    _turns(r"<start_of_turn>user", r"<start_of_turn>model\n"),  # Gemma
    _turns(r"\[INST\]", r"\[/INST\]"),  # Llama 2, Mistral
    _turns(r"<\|user\|>", r"<\|assistant\|>\n?"),  # Zephyr, Tulu, Phi-3, GLM
    _turns(r"<｜User｜>", r"<｜Assistant｜>"),  # DeepSeek
    _turns(r"<\|start\|>user", r"<\|start\|>assistant"),  # gpt-oss
    _turns(r"<\|START_OF_TURN_TOKEN\|><\|USER_TOKEN\|>", r"<\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>"),  # Command
    _turns(r"<\|start_of_role\|>user", r"<\|start_of_role\|>assistant<\|end_of_role\|>"),  # Granite
    _turns(r"GPT4 Correct User:", r"GPT4 Correct Assistant:"),  # OpenChat, Starling
    _turns(r"### (?:Instruction|Input|User|Human):", r"### (?:Response|Assistant):\n?"),  # Alpaca
    _turns(r"(?:^|\s|</s>)USER[ \t]*:", r"(?:^|\s|</s>)ASSISTANT[ \t]*:"),  # Vicuna, also on one line
)
"""Families of chat templates."""

WORDS: Final = (
    _words("Human|User|user|H|Prompter", "Assistant|assistant|AI|Bot", certain=True),
    _words("Question", "Answer", certain=False),
    _words("Q", "A", certain=False),
)
"""Families of words at the beginning of a line, of which answers have some too."""

_LONGEST_MARK: Final = 80


class UserTurnsDiffer(Exception):
    """Both texts part within a turn of the user's."""


def answer_start(shared: str) -> int | None:
    """Return where the last answer begins that is announced in the shared beginning of two conversations.

    The first mark in it says of which family the text is, and only a mark of that family ends a prompt: a line
    "A:" within an answer after "Assistant:" is a part of the answer. So is, of words, what comes after the first mark
    behind the user's turn. None: no turn is announced.

    Raises:
        UserTurnsDiffer: there are turns, and none of the assistant's.
    """
    families = [turns for turns in TEMPLATES if _first(turns, shared) is not None]
    if not families:
        found = [(at, number) for number, turns in enumerate(WORDS) if (at := _first(turns, shared)) is not None]
        families = [WORDS[number] for _, number in sorted(found)]
    for turns in families:
        ends = [match.end() for match in turns.assistant.finditer(shared)]
        asked = [match.start() for match in turns.user.finditer(shared) if ends and match.start() < ends[-1]]
        if asked and turns in WORDS:
            return next(end for end in ends if end > asked[-1])
        if ends:
            return ends[-1]
        if turns.certain:
            raise UserTurnsDiffer
    return None


def announces_answer(prompt: str) -> bool:
    """Whether a prompt ends with the announcement of an answer; "A:" is one only after a "Q:"."""
    end = prompt[-_LONGEST_MARK:]
    return any(
        any(match.end() == len(end) for match in turns.assistant.finditer(end))
        and (turns.certain or turns.user.search(prompt) is not None)
        for turns in (*TEMPLATES, *WORDS)
    )


def _first(turns: Turns, text: str) -> int | None:
    places = [match.start() for mark in (turns.user, turns.assistant) if (match := mark.search(text)) is not None]
    return min(places, default=None)
