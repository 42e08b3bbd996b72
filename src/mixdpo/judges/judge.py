"""What a judge is given and what it gives back; the same for language models, reward models and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mixdpo.generation.completion import Completion, Request

Chat = tuple[tuple[str, str], ...]
"""(role, content) of each message."""
Progress = Callable[[int, int], None]
"""Called with (verdicts done, verdicts in all)."""


@dataclass(frozen=True)
class JudgeItem:
    """What is judged: one answer, to be graded, or two, to be compared.

    Attributes:
        chat: what was answered.
        answers: as they are shown; of two, the first is A.
        request: what a language model is asked about them; None for judges that are asked nothing in words, which
            read `chat` and `answers`.
    """

    chat: Chat
    answers: tuple[str, ...]
    request: Request | None = None


@dataclass(frozen=True)
class Verdict:
    """What a judge says of an item.

    Attributes:
        reply: its words, or the failure that they are missing for.
        score: the grade, or of two answers how much the first is preferred, 0 to 1; None if it cannot be read.
        label: of two answers, such as `A>B`; None if it cannot be read.
    """

    reply: Completion
    score: float | None = None
    label: str | None = None


ParseReply = Callable[[Completion], Verdict]
"""How a language model's reply is read."""
FollowUp = Callable[[Request, Completion], Request | None]
"""What a language model is asked after a reply, None for nothing."""


class Judge(Protocol):
    """Something that grades or compares answers."""

    @property
    def name(self) -> str:
        """What a result calls it."""

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
    return {
        "judge": judge,
        "judge_versions": sorted({reply.model for reply in answered if reply.model}),
        "calls": len(replies),
        "failed_calls": dict(Counter(reply.failure for reply in replies if reply.failure)),
        "unread_verdicts": sum(verdict.score is None for verdict in verdicts if not verdict.reply.failure),
        "tokens_in": sum(reply.tokens_in for reply in answered),
        "tokens_out": sum(reply.tokens_out for reply in answered),
    }
