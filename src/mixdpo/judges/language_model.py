"""Who judges: a language model behind an endpoint or on this machine, a reward model, or a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

from mixdpo.common.errors import InputError
from mixdpo.generation.chat_model import ChatModel
from mixdpo.generation.completion import Completion, Request
from mixdpo.generation.endpoint import EndpointModel
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.local_model import LocalModel
from mixdpo.judges.items import FollowUp, JudgeItem, ParseReply, Progress, Verdict
from mixdpo.judges.program import ProgramJudge
from mixdpo.judges.reward_model import RewardJudge
from mixdpo.models.loading import cannot_load, hub_arguments
from mixdpo.models.model_settings import ModelSettings, check_is_model

Kind = Literal["endpoint", "model", "reward", "program"]
_PROBES: Final = 3


class Judge(Protocol):
    """Something that grades or compares answers."""

    @property
    def name(self) -> str:
        """What a result calls it."""

    def plan(self, cases: Sequence[JudgeItem]) -> str:
        """Say in a line what judging would take."""

    def judge(
        self,
        cases: Sequence[JudgeItem],
        read: ParseReply,
        follow_up: FollowUp | None = None,
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """Return a verdict on every case, in order.

        Args:
            cases: what is judged.
            read: how a language model's reply is read.
            follow_up: what a language model is asked after a reply.
            progress: see `Progress`.
        """

    def record(self) -> dict[str, Any]:
        """Return the settings that a result names; no credentials."""


@dataclass(frozen=True)
class LanguageJudge:
    """A chat model that is asked in words. Finished replies are kept by content, whatever ends the run."""

    chat_model: ChatModel

    @property
    def name(self) -> str:
        """The model's name."""
        return self.chat_model.name

    def plan(self, cases: Sequence[JudgeItem]) -> str:
        """Count calls and tokens, without a second question about a reply; see the chat_model's `estimate`."""
        return self.chat_model.estimate([case.request for case in cases])

    def judge(
        self,
        cases: Sequence[JudgeItem],
        read: ParseReply,
        follow_up: FollowUp | None = None,
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """Ask about every case, and once more where `follow_up` says so."""
        requests = [case.request for case in cases]
        if requests and requests[0].top_logprobs is not None:
            self._check_logprobs(requests[:_PROBES])
        replies = self.chat_model.complete(requests, progress)
        if follow_up is not None:
            replies = self._asked_again(requests, replies, follow_up)
        return [Verdict(reply) if reply.failure else read(reply) for reply in replies]

    def record(self) -> dict[str, Any]:
        """Return the chat_model's settings."""
        return self.chat_model.record()

    def _asked_again(
        self, requests: Sequence[Request], replies: Sequence[Completion], follow_up: FollowUp
    ) -> list[Completion]:
        answered = {request: reply for request, reply in zip(requests, replies, strict=True) if not reply.failure}
        further = {
            request: second for request in answered if (second := follow_up(request, answered[request])) is not None
        }
        if not further:
            return list(replies)
        # Together with what is kept already: where every second question is refused, the endpoint still answers.
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
                f"the judge {self.name} returns no log-probabilities, which the weighted annotator reads",
                hint="take a judge that does, or --annotator ranking",
            )


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge to take."""

    judge: str = field(metadata={"help": "name at the endpoint; folder or hub id of a model; or a command"})
    kind: Kind | None = field(
        default=None,
        metadata={"help": "null: endpoint where a URL is given, else a model or reward model, by its architecture"},
    )
    endpoint: EndpointSettings | None = field(default=None, metadata={"help": "how an endpoint is called"})
    batch_size: int = field(default=8, metadata={"help": "cases at once, of a model on this machine"})


def find_judge(settings: JudgeSettings) -> Judge:
    """Return the judge that the settings name.

    Raises:
        InputError: they contradict each other, or there is no such model.
    """
    kind = settings.kind or ("endpoint" if settings.endpoint else _kind_of_model(settings.judge))
    if (kind == "endpoint") != (settings.endpoint is not None):
        raise InputError(
            "an endpoint needs a URL" if kind == "endpoint" else f"a judge of kind {kind} has no endpoint",
            hint="give --endpoint URL" if kind == "endpoint" else "leave out --endpoint or --judge-kind",
        )
    if settings.endpoint is not None:
        return LanguageJudge(EndpointModel(settings.endpoint))
    if kind == "program":
        return ProgramJudge(settings.judge)
    model = ModelSettings(name_or_path=settings.judge)
    check_is_model(settings.judge)
    if kind == "reward":
        return RewardJudge(model, settings.batch_size)
    return LanguageJudge(LocalModel(model, settings.batch_size))


def _kind_of_model(name: str) -> Kind:
    from transformers import AutoConfig

    settings = ModelSettings(name_or_path=name)
    check_is_model(name)
    try:
        config = AutoConfig.from_pretrained(name, **hub_arguments(settings))
    except (OSError, ValueError, ImportError) as error:
        failed = cannot_load("judge", name, error)
        raise InputError(
            str(failed), hint="a model behind an endpoint needs --endpoint URL, a program --judge-kind program"
        ) from error
    classifies = any(one.endswith("ForSequenceClassification") for one in config.architectures or [])
    return "reward" if classifies else "model"


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
