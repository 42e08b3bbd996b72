"""What a judge is given and what it gives back; the same for language models, reward models and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from mixdpo.generation.chat_model import Completion, Progress, Request

Chat = tuple[tuple[str, str], ...]
"""(role, content) of each message."""
_SHOWN_OF_A_REPLY: Final = 80
"""Characters of the end of a reply without a verdict that a result shows."""
STRONG: Final = 3
"""Battles that a game with a significant winner counts for."""
_FOR_A: Final = {">>": (1.0, STRONG), ">": (1.0, 1), "=": (0.5, 1), "<": (0.0, 1), "<<": (0.0, STRONG)}


def score_of_a(label: str | None) -> tuple[float, int] | None:
    """Return the score of assistant A (1, 0.5 or 0) and for how many battles it counts, or None for no valid label."""
    if label is None or len(label) < 3 or {label[0], label[-1]} != {"A", "B"} or label[1:-1] not in _FOR_A:
        return None
    score, battles = _FOR_A[label[1:-1]]
    return (score, battles) if label[0] == "A" else (1 - score, battles)


def label_of(score: float) -> str:
    """Return the label of a score that says how much the first of two answers is preferred."""
    return "A>B" if score > 0.5 else "B>A" if score < 0.5 else "A=B"


@dataclass(frozen=True)
class JudgeItem:
    """What is judged: one answer, to be graded, or two, to be compared.

    Attributes:
        chat: what was answered.
        answers: as they are shown; of two, the first is A.
        request: what a language model is asked about them; None for judges that are asked nothing in words, which
            read `chat` and `answers`.
        columns: what else is known of the answer, such as a reference, for programs; of two, what it is alike.
    """

    chat: Chat
    answers: tuple[str, ...]
    request: Request | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a judge says of an item.

    Attributes:
        reply: its words, without the reasoning before them, or the failure that they are missing for.
        score: the grade, or of two answers how much the first is preferred, 0 to 1; None if it cannot be read.
        label: of two answers, such as `A>B`; None if it cannot be read.
    """

    reply: Completion
    score: float | None = None
    label: str | None = None

    @classmethod
    def of(cls, reply: Completion | str, found: float | str | None) -> Verdict:
        """Return what a reply, or the text of one, says: a score, a label such as `A>B`, or None."""
        reply = Completion(text=reply, finished=True) if isinstance(reply, str) else reply
        if not isinstance(found, str):
            return cls(reply, found)
        score = score_of_a(found)
        return cls(reply) if score is None else cls(reply, score[0], found)


ParseReply = Callable[[Completion], float | str | None]
"""How a language model's reply is read: the score or the label in it, None if there is none."""
FollowUp = Callable[[str], str | None]
"""What a language model is asked after a reply with that text, None for nothing."""


class Judge(Protocol):
    """Something that grades or compares answers."""

    @property
    def name(self) -> str:
        """What a result calls it."""

    @property
    def in_words(self) -> bool:
        """Whether it is asked in words, and so needs a judge prompt."""

    def estimate(self, items: Sequence[JudgeItem]) -> str:
        """Say in a line what judging would take."""

    def judge(
        self,
        items: Sequence[JudgeItem],
        parse: ParseReply,
        follow_up: FollowUp | None = None,
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """Return a verdict on every item, in order.

        Args:
            items: what is judged.
            parse: how a language model's reply is read.
            follow_up: what a language model is asked after a reply.
            progress: see `Progress`.
        """

    def record(self) -> dict[str, Any]:
        """Return the settings that a result names; no credentials."""


def verdict_record(verdicts: Sequence[Verdict], judge: str) -> dict[str, Any]:
    """Return who judged and what came back, for the result."""
    replies = [verdict.reply for verdict in verdicts]
    answered = [reply for reply in replies if not reply.failure]
    thought = sum(reply.reasoning is not None for reply in answered)
    unread = [verdict.reply for verdict in verdicts if verdict.score is None and not verdict.reply.failure]
    return {
        "judge": judge,
        "judge_versions": sorted({reply.model for reply in answered if reply.model}),
        "calls": len(replies),
        "failed_calls": dict(Counter(reply.failure for reply in replies if reply.failure)),
        **({"replies_with_reasoning": thought} if thought else {}),
        "unread_verdicts": len(unread),
        **({"unread_replies": _of_unread(unread)} if unread else {}),
        "tokens_in": sum(reply.tokens_in for reply in answered),
        "tokens_out": sum(reply.tokens_out for reply in answered),
    }


def _of_unread(replies: Sequence[Completion]) -> dict[str, Any]:
    """Return what replies without a verdict are like: how many are cut, and how the first one ends."""
    return {"cut": sum(not reply.finished for reply in replies), "first": replies[0].text.strip()[-_SHOWN_OF_A_REPLY:]}
