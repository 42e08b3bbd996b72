"""Verifiable constraints on an answer, as in IFEval: what they ask, how they are checked, which go together."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Argument = str | int


@dataclass(frozen=True)
class ConstraintKind:
    """A kind of constraint: its instruction, its check, and the arguments it is used with."""

    instruction: str
    """Sentence for the prompt, with a `{name}` for each argument."""
    check: Callable[..., bool]
    """Takes the answer without surrounding blanks, never empty, and the arguments by name."""
    concerns: frozenset[str]
    """Aspects of the answer it lays down. Two constraints go together if these are disjoint."""
    choices: Mapping[str, tuple[Argument, ...]] = field(default_factory=dict)
    """Values each argument is drawn from."""


@dataclass(frozen=True)
class Constraint:
    """One constraint of one prompt."""

    kind: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)

    @property
    def instruction(self) -> str:
        """The sentence that asks for it."""
        return KINDS[self.kind].instruction.format(**self.arguments)

    def is_met(self, answer: str) -> bool:
        """Whether `answer` meets it. An empty answer meets nothing."""
        stripped = answer.strip()
        return bool(stripped) and KINDS[self.kind].check(stripped, **self.arguments)

    def to_json(self) -> dict[str, Argument]:
        """Return `{"kind": ..., argument: value, ...}`."""
        return {"kind": self.kind, **self.arguments}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Constraint:
        """Make a constraint of what `to_json` gave."""
        arguments = {name: argument for name, argument in value.items() if name != "kind"}
        kind = str(value.get("kind"))
        if kind not in KINDS or set(arguments) != set(KINDS[kind].choices):
            raise ValueError(f"not a constraint: {dict(value)}")
        return cls(kind, arguments)


def constraints_met(answer: str, constraints: Sequence[Constraint]) -> int:
    """Count the constraints that `answer` meets."""
    return sum(constraint.is_met(answer) for constraint in constraints)


def constraints_to_text(constraints: Sequence[Constraint]) -> str:
    """Return the constraints as one line of JSON, as the demo's tables hold them."""
    return json.dumps([constraint.to_json() for constraint in constraints])


def constraints_from_text(text: str) -> list[Constraint]:
    """Read what `constraints_to_text` wrote."""
    return [Constraint.from_json(value) for value in json.loads(text)]


def sample_constraints(rng: random.Random, count: int = 3) -> list[Constraint]:
    """Draw `count` constraints of different kinds that one answer can meet together."""
    chosen: list[Constraint] = []
    settled: set[str] = set()
    for name in rng.sample(list(KINDS), len(KINDS)):
        kind = KINDS[name]
        if len(chosen) < count and not kind.concerns & settled:
            settled |= kind.concerns
            arguments = {argument: rng.choice(values) for argument, values in kind.choices.items()}
            chosen.append(Constraint(name, arguments))
    if len(chosen) < count:  # a greedy draw can settle every aspect early; another draw will do
        return sample_constraints(rng, count)
    return chosen


def prompt_text(task: str, constraints: Sequence[Constraint]) -> str:
    """Return the user's message: the task, then what is asked of the answer."""
    return " ".join([task, *(constraint.instruction for constraint in constraints)])


def task_of(text: str, constraints: Sequence[Constraint]) -> str:
    """Return the task of a user's message: what `prompt_text` made it of, without the constraints."""
    return text.removesuffix(prompt_text("", constraints))


def _words(answer: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", answer)


def _has_word(answer: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) is not None


def _sentences(answer: str) -> int:
    """Count stretches that hold a letter and end in a full stop, a question or exclamation mark, or a line's end."""
    stretches = re.split(r"(?<![.!?])[.!?]+[\"'”’)*]*(?:\s+|$)|\n+", answer)
    return sum(any(character.isalpha() for character in stretch) for stretch in stretches)


def _lines_with(answer: str, pattern: str) -> list[str]:
    return re.findall(pattern, answer, re.MULTILINE)


def _numbered(answer: str, count: int) -> bool:
    return _lines_with(answer, r"^[ \t]*(\d+)[.)][ \t]+\S") == [str(number + 1) for number in range(count)]


def _paragraphs(answer: str) -> int:
    return len(re.split(r"\n\s*\n", answer))


def _starts_with(answer: str, phrase: str) -> bool:
    return re.match(rf"[\W_]*{re.escape(phrase)}(?!\w)", answer, re.IGNORECASE) is not None


def _ends_with(answer: str, phrase: str) -> bool:
    words = phrase.rstrip(".!")  # whichever mark closes it
    return re.search(rf"(?<!\w){re.escape(words)}[\W_]*$", answer, re.IGNORECASE) is not None


def _in_case(answer: str, case: str) -> bool:
    letters = "".join(character for character in answer if character.isalpha())
    return letters.islower() if case == "lowercase" else letters.isupper()


def _kind(
    instruction: str, check: Callable[..., bool], concerns: str, **choices: tuple[Argument, ...]
) -> ConstraintKind:
    return ConstraintKind(instruction, check, frozenset(concerns.split()), choices)


KINDS: Mapping[str, ConstraintKind] = {
    "word": _kind(
        'Use the word "{word}".',
        _has_word,
        "content",
        word=(
            "morning",
            "because",
            "together",
            "simple",
            "window",
            "friend",
            "often",
            "light",
            "careful",
            "water",
            "story",
            "quiet",
        ),
    ),
    "no_word": _kind(
        'Do not use the word "{word}".',
        lambda answer, word: not _has_word(answer, word),
        "avoidance",
        word=("and", "of", "it", "you", "very", "can"),
    ),
    "sentences": _kind(
        "Write exactly {count} sentences.",
        lambda answer, count: _sentences(answer) == count,
        "length layout",
        count=(2, 3, 4),
    ),
    "one_sentence": _kind("Answer in a single sentence.", lambda answer: _sentences(answer) == 1, "length layout"),
    "bullets": _kind(
        'Answer with exactly {count} bullet points that start with "- ".',
        lambda answer, count: len(_lines_with(answer, r"^[ \t]*-[ \t]+\S")) == count,
        "layout beginning ending",
        count=(2, 3, 4, 5),
    ),
    "numbered": _kind(
        "Answer with a numbered list of exactly {count} items.",
        _numbered,
        "layout beginning ending",
        count=(2, 3, 4, 5),
    ),
    "paragraphs": _kind(
        "Write exactly {count} paragraphs, with a blank line between them.",
        lambda answer, count: _paragraphs(answer) == count,
        "layout",
        count=(2, 3),
    ),
    "case": _kind("Write everything in {case} letters.", _in_case, "case", case=("lowercase", "capital")),
    "capitals": _kind(
        "Write at least one word in CAPITAL letters.",
        lambda answer: re.search(r"\b[A-Z]{3,}\b", answer) is not None,
        "case",
    ),
    "starts_with": _kind(
        'Begin your answer with "{phrase}".',
        _starts_with,
        "beginning",
        phrase=("Well", "To be honest", "In short", "Once upon a time", "My advice:", "Good question!"),
    ),
    "ends_with": _kind(
        'End your answer with "{phrase}".',
        _ends_with,
        "ending",
        phrase=("That is all.", "Have a nice day.", "Good luck!", "I hope this helps.", "The end."),
    ),
    "max_words": _kind(
        "Use at most {count} words.", lambda answer, count: len(_words(answer)) <= count, "length", count=(15, 25, 35)
    ),
    "min_words": _kind(
        "Use at least {count} words.", lambda answer, count: len(_words(answer)) >= count, "length", count=(40, 50, 60)
    ),
    "digit": _kind(
        "Include at least one number written in digits.",
        # A list's own numbers are not the number that was asked for.
        lambda answer: re.search(r"\d", re.sub(r"(?m)^[^\S\n]*\d+[.)]", "", answer)) is not None,
        "number",
    ),
    "last_question": _kind("End with a question.", lambda answer: answer.endswith("?"), "ending marks"),
    "question": _kind("Ask at least one question.", lambda answer: "?" in answer, "marks"),
    "exclamation": _kind("Use at least one exclamation mark.", lambda answer: "!" in answer, "marks"),
    "title": _kind(
        "Put a title in double angle brackets, like <<title>>, on the first line.",
        lambda answer: re.match(r"<<[^<>\n]+>>[ \t]*(?:\n|$)", answer) is not None,
        "beginning length",
    ),
    "bold": _kind(
        "Mark at least one word in bold with **two asterisks** on each side.",
        lambda answer: re.search(r"\*\*[^*\s](?:[^*\n]*[^*\s])?\*\*", answer) is not None,
        "emphasis",
    ),
    "no_commas": _kind("Do not use any commas.", lambda answer: "," not in answer, "commas"),
    "parentheses": _kind(
        "Put one remark in parentheses.", lambda answer: re.search(r"\([^()]+\)", answer) is not None, "remark"
    ),
    "postscript": _kind(
        'Add a postscript that starts with "P.S." at the end.',
        lambda answer: re.search(r"(?:^|\n)[^\w\n]*P\.\s?S\.\W*\w", answer, re.IGNORECASE) is not None,
        "ending length layout",
    ),
}
"""Every kind by its name."""
