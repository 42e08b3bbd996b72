"""A language model as judge, behind an endpoint or on this machine: it is asked in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.data.reasoning import outside_reasoning
from mixdpo.generation.chat_model import ChatModel, Completion, Progress, Request
from mixdpo.judges.judge import FollowUp, JudgeItem, ParseReply, Verdict
from mixdpo.judges.judge_settings import Temperature

_PROBES: Final = 3


@dataclass(frozen=True)
class LanguageJudge:
    """A chat model that is asked in words. Finished replies are cached by content, whatever ends the run.

    Attributes:
        chat_model: who is asked.
        temperature: at which it writes, instead of the requests' own; None for those.
    """

    chat_model: ChatModel
    temperature: Temperature | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.chat_model.name

    @property
    def in_words(self) -> bool:
        """It is."""
        return True

    def estimate(self, items: Sequence[JudgeItem]) -> str:
        """Count calls and tokens, without a second question about a reply; see `ChatModel.estimate`."""
        return self.chat_model.estimate(self._requests(items))

    def judge(
        self,
        items: Sequence[JudgeItem],
        parse: ParseReply,
        follow_up: FollowUp | None = None,
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """Ask about every item, and once more where `follow_up` says so."""
        requests = self._requests(items)
        if requests and requests[0].top_logprobs is not None:
            self._check_logprobs(requests[:_PROBES])
        replies = self.chat_model.complete(requests, progress)
        if follow_up is not None:
            replies = self._asked_again(requests, replies, follow_up)
        # A verdict is never read off thoughts, not even off those behind a preamble.
        spoken = [replace(reply, text=outside_reasoning(reply.text)) for reply in replies]
        verdicts = zip(replies, spoken, strict=True)
        return [Verdict(reply) if reply.failure else Verdict.of(reply, parse(said)) for reply, said in verdicts]

    def record(self) -> dict[str, Any]:
        """Return the chat model's settings."""
        return self.chat_model.record()

    def _requests(self, items: Sequence[JudgeItem]) -> list[Request]:
        requests = [item.request for item in items if item.request is not None]
        if self.temperature is None:
            return requests
        sent = None if self.temperature == "default" else self.temperature
        return [replace(request, temperature=sent) for request in requests]

    def _asked_again(
        self, requests: Sequence[Request], replies: Sequence[Completion], follow_up: FollowUp
    ) -> list[Completion]:
        answered = {request: reply for request, reply in zip(requests, replies, strict=True) if not reply.failure}
        further = {
            request: _continued(request, reply.text, question)
            for request, reply in answered.items()
            if (question := follow_up(reply.text)) is not None
        }
        if not further:
            return list(replies)
        # Together with what is cached already: where every second question is refused, the endpoint still answers.
        seconds = self.chat_model.complete([*answered, *further.values()])[len(answered) :]
        joined = {
            request: _joined(answered[request], second) for request, second in zip(further, seconds, strict=True)
        }
        return [joined.get(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def _check_logprobs(self, requests: Sequence[Request]) -> None:
        """Ask few requests before all others: a judge that gives no log-probabilities is found for their price.

        One alone would not do: a judge that refuses just that one would end the run.
        """
        answered = [reply for reply in self.chat_model.complete(requests) if not reply.failure]
        if answered and not any(reply.first_token for reply in answered):
            raise InputError(
                f"the judge {self.name} returns no log-probabilities of a verdict, which the weighted annotator reads",
                hint="take a judge that does and does not think first (--judge-chat-template-kwargs "
                "'{enable_thinking: false}'), or --annotator ranking",
            )


def _continued(request: Request, reply: str, question: str) -> Request:
    return replace(request, messages=(*request.messages, ("assistant", reply), ("user", question)))


def _joined(first: Completion, second: Completion) -> Completion:
    """Return two replies as one, which fails if the second does: another run asks that again."""
    if second.failure:
        return replace(first, failure=second.failure)
    return replace(
        first,
        text=f"{first.text}\n{second.text}",
        finished=second.finished,
        tokens_in=first.tokens_in + second.tokens_in,
        tokens_out=first.tokens_out + second.tokens_out,
    )
