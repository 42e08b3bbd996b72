"""How turns are announced in conversations that are kept as one text, and where the last answer of one begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final


@dataclass(frozen=True)
class Template:
    """How a family of chat templates announces turns.

    Attributes:
        sign: what every announcement of it holds.
        user: a turn of the user's.
        assistant: a turn of the assistant's; a prompt ends behind it.
    """

    sign: str
    user: re.Pattern[str]
    assistant: re.Pattern[str]


def _template(sign: str, user: str, assistant: str) -> Template:
    return Template(sign, re.compile(user), re.compile(assistant))


TEMPLATES: Final = (
    _template("<|im_start|>", r"<\|im_start\|>user", r"<\|im_start\|>assistant(?:\n|<\|im_sep\|>)"),  # ChatML, Phi-4
    _template(
        "<|start_header_id|>", r"<\|start_header_id\|>user", r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n"
    ),  # Llama 3
    _template(
        "<|header_start|>", r"<\|header_start\|>user", r"<\|header_start\|>assistant<\|header_end\|>\n\n"
    ),  # Llama 4
    _template("<start_of_turn>", r"<start_of_turn>user", r"<start_of_turn>model\n"),  # Gemma
    _template("INST]", r"(?:<s>)?\[INST\]", r"\[/INST\]"),  # Llama 2, Mistral
    _template("<|", r"<\|user\|>", r"<\|assistant\|>\n?"),  # Zephyr, Tulu, Phi-3, GLM
    _template("<｜", r"<｜User｜>", r"<｜Assistant｜>"),  # DeepSeek
    _template("<|start|>", r"<\|start\|>user", r"<\|start\|>assistant"),  # gpt-oss
    _template(
        "_TURN_TOKEN|>",
        r"(?:<\|START_OF_TURN_TOKEN\|>)?<\|USER_TOKEN\|>",
        r"<\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>",
    ),  # Command
    _template(
        "<|start_of_role|>", r"<\|start_of_role\|>user", r"<\|start_of_role\|>assistant<\|end_of_role\|>"
    ),  # Granite
    _template("GPT4 Correct", r"GPT4 Correct User:", r"GPT4 Correct Assistant:"),  # OpenChat, Starling
    _template("### ", r"### (?:Instruction|Input|User|Human):", r"### (?:Response|Assistant):\n?"),  # Alpaca
    _template("ASSISTANT", r"(?:^|\s|</s>)USER[ \t]*:", r"(?:^|\s|</s>)ASSISTANT[ \t]*:"),  # Vicuna, also on one line
)

WORDS: Final = {
    **dict.fromkeys(("Human", "User", "user", "USER", "H", "Prompter"), ("chat", "user")),
    **dict.fromkeys(("Assistant", "assistant", "AI", "Bot"), ("chat", "assistant")),
    "Question": ("question", "user"),
    "Answer": ("question", "assistant"),
    "Q": ("q", "user"),
    "A": ("q", "assistant"),
}
"""Words that announce a turn at the beginning of a line: the family they belong to, and whose turn it is."""

CERTAIN: Final = "chat"
"""The family of words that mean nothing else there; answers have lines "A:" and "Answer:" of their own."""

_WORD: Final = re.compile(rf"^[ \t]*({'|'.join(WORDS)})[ \t]*:", re.MULTILINE)

_ANSWERERS: Final = "|".join(word for word, (_, whose) in WORDS.items() if whose == "assistant")
ANNOUNCED: Final = "|".join(
    rf"(?:{pattern})\s*$"
    for pattern in (
        *(template.assistant.pattern for template in TEMPLATES),
        rf"(?m:^)[ \t]*(?:{_ANSWERERS})[ \t]*:",
    )
)
"""What a prompt with two line ends behind it ends with where it announces an answer, also for Rust's expressions."""
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
    for template in TEMPLATES:
        if template.sign in shared:
            ends = [match.end() for match in template.assistant.finditer(shared)]
            if ends:
                return ends[-1]
            if template.user.search(shared) is not None:
                raise UserTurnsDiffer
    marks = _marks(shared)
    for family in dict.fromkeys(family for family, _, _ in marks):
        ends = _answers_of(family, marks)
        if ends:
            return ends[-1]
        if family == CERTAIN:
            raise UserTurnsDiffer
    return None


def extra_turn(prompt: str, answer: str) -> int | None:
    """Return where in an answer a further turn of the user's begins, None if there is none.

    It is announced as the last one in the prompt, which itself ends with the announcement of the answer.
    """
    end = prompt.rstrip()[-_LONGEST_MARK:]
    for template in TEMPLATES:
        if template.sign in end and re.search(rf"(?:{template.assistant.pattern})\s*$", f"{end}\n\n") is not None:
            return _start(template.user.search(answer))
    marks = list(_WORD.finditer(prompt))
    if not marks or marks[-1].end() != len(prompt.rstrip()) or WORDS[marks[-1][1]][1] != "assistant":
        return None
    words = [mark[1] for mark in marks if WORDS[mark[1]][1] == "user"]
    if not words:
        return None
    return _start(re.search(rf"\n[ \t]*{words[-1]}[ \t]*:", answer))


def _start(found: re.Match[str] | None) -> int | None:
    return None if found is None else found.start()


def announces_answer(prompt: str) -> bool:
    """Whether a prompt ends with the announcement of an answer; "A:" is one only after a "Q:"."""
    end = prompt[-_LONGEST_MARK:]
    for template in TEMPLATES:
        if template.sign in end and any(match.end() == len(end) for match in template.assistant.finditer(end)):
            return True
    marks = _marks(prompt)
    if not marks or marks[-1][1:] != ("assistant", len(prompt)):
        return False
    family = marks[-1][0]
    return family == CERTAIN or (family, "user") in [mark[:2] for mark in marks]


def _marks(text: str) -> list[tuple[str, str, int]]:
    """Return the words that announce turns, in order: their family, whose turn it is and where they end."""
    return [(*WORDS[match[1]], match.end()) for match in _WORD.finditer(text)]


def _answers_of(family: str, marks: list[tuple[str, str, int]]) -> list[int]:
    """Return where answers begin: behind the first mark of the assistant's after each turn of the user's.

    Where the user has no turn, behind every mark of the assistant's. After "Question:" the first of "Answer:" and
    "Assistant:" announces answers, and the other is a word of theirs.
    """
    asked = next((at for at, (kind, whose, _) in enumerate(marks) if (kind, whose) == (family, "user")), len(marks))
    behind = [kind for kind, whose, _ in marks[asked:] if whose == "assistant" and kind in (family, CERTAIN)]
    answers = family if family == CERTAIN or not behind else behind[0]
    own = [(whose, end) for kind, whose, end in marks if kind == (family if whose == "user" else answers)]
    turns = list(pairwise([("", 0), *own]))
    if any(whose == "user" for whose, _ in own):
        return [end for (before, _), (whose, end) in turns if (before, whose) == ("user", "assistant")]
    return [end for _, end in own]
