"""A reward model behind a server's `/classify` or `/pooling`, as vLLM has them: it grades as one on this machine does.

Rewards are the outputs of the model's head as they are: vLLM would pass them through a sigmoid or softmax otherwise,
which makes margins of large rewards small, and of one output nothing at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.urls import shown_url
from mixdpo.generation.chat_model import Completion, Progress, Request
from mixdpo.generation.endpoint import EndpointModel
from mixdpo.generation.endpoint_calls import Route
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.judges.judge import FollowUp, JudgeItem, ParseReply, Verdict
from mixdpo.judges.rewards import all_conversations, conversations_of, reward_verdict

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Service = Literal["classify", "pooling"]
_SERVICES: Final[tuple[Service, ...]] = ("classify", "pooling")
_PROBES: Final = 3


@dataclass(frozen=True)
class RewardEndpointJudge:
    """A sequence classifier with one output, or one of a reward for every token, whose last one counts.

    The server applies the chat template. The URL is the server's, up to and with /v1, or that of one service. Of the
    first `/classify` is asked, and `/pooling` where there is none.
    """

    settings: EndpointSettings

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.settings.model

    @property
    def in_words(self) -> bool:
        """It is not."""
        return False

    def estimate(self, items: Sequence[JudgeItem]) -> str:
        """Count calls and tokens; see `EndpointModel.estimate`."""
        return self._model(_service_in(self.settings.base_url) or "classify").estimate(_requests(items))

    def judge(
        self,
        items: Sequence[JudgeItem],
        parse: ParseReply,
        follow_up: FollowUp | None = None,
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """Grade every answer once; rewards that are known from an earlier run are not asked for again.

        Raises:
            InputError: the endpoint refuses the key, does not know the model or has no such service, or it returns
                probabilities or several outputs.
            RunError: no call was answered.
        """
        requests = _requests(items)
        service = self._service(requests)
        replies = self._model(service).complete(requests, progress)
        rewards = [None if reply.failure else self._reward(reply) for reply in replies]
        self._check_raw(service, requests, rewards)
        found = dict(zip(all_conversations(items), zip(replies, rewards, strict=True), strict=True))
        return [_verdict([found[one] for one in conversations_of(item)]) for item in items]

    def record(self) -> dict[str, Any]:
        """Return the endpoint's settings."""
        return self._model("classify").record() | {"engine": "reward model behind an endpoint"}

    def _model(self, service: Service, activated: bool = False) -> EndpointModel:
        return EndpointModel(self.settings, route=_route(service, activated))

    def _service(self, requests: Sequence[Request]) -> Service:
        """Return which service there is; what it answers to find that out is kept."""
        service = _service_in(self.settings.base_url)
        if service is not None or not requests:
            return service or "classify"
        try:
            self._model("classify").complete(requests[:_PROBES])
        except InputError:  # if it is the key or the name that is wrong, the other service says so, too
            return "pooling"
        return "classify"

    def _reward(self, reply: Completion) -> float:
        outputs = json.loads(reply.text)
        if len(outputs) != 1:
            raise InputError(
                f"the reward model {self.name!r} has {len(outputs):,} outputs",
                hint="serve one with a single output (num_labels 1)",
            )
        return float(outputs[0])

    def _check_raw(self, service: Service, requests: Sequence[Request], rewards: Sequence[float | None]) -> None:
        """Refuse probabilities of a server that does not know `use_activation`, and leaves it out of account.

        Where all rewards could be some, the first are asked for once more with activation: they would be the same.
        """
        known = [(request, reward) for request, reward in zip(requests, rewards, strict=True) if reward is not None]
        if not known or not all(0 <= reward <= 1 for _, reward in known):
            return
        again = self._model(service, activated=True).complete([request for request, _ in known[:_PROBES]])
        if all(
            reply.failure is None and np.isclose(self._reward(reply), reward, rtol=0, atol=1e-6)
            for reply, (_, reward) in zip(again, known, strict=False)
        ):
            raise InputError(
                f"{shown_url(self.settings.base_url)} returns probabilities, where rewards are wanted",
                hint="serve the model without activation, in vLLM with a newer version, or with --pooler-config",
            )


def _route(service: Service, activated: bool) -> Route:
    def url(settings: EndpointSettings) -> str:
        base = settings.base_url.rstrip("/")
        return f"{base.removesuffix(f'/{_service_in(base)}').removesuffix('/v1')}/{service}"

    def body(request: Request, settings: EndpointSettings) -> dict[str, Any]:
        template = settings.chat_template_kwargs
        return {
            "model": settings.model,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
            "use_activation": activated,
            **({"chat_template_kwargs": template} if template else {}),
        }

    async def send(client: AsyncOpenAI, settings: EndpointSettings, body: dict[str, Any]) -> Any:
        return await client.post(url(settings), body=body, cast_to=object)

    return Route(url, body, send, _read)


def _read(response: Any, wanted: int) -> list[Completion | None]:
    """Return the outputs of the model's head for the one conversation of a call, as JSON text."""
    (item,) = response["data"]
    outputs = item["probs"] if "probs" in item else item["data"]
    while isinstance(outputs[-1], list):  # of every token; the last one has read all others
        outputs = outputs[-1]
    values = [float(output) for output in outputs]
    if not np.isfinite(values).all():
        raise ValueError(f"the reward is {values}")
    read = response.get("usage", {}).get("prompt_tokens", 0)
    return [Completion(text=json.dumps(values), finished=True, model=response.get("model") or "", tokens_in=read)]


def _service_in(url: str) -> Service | None:
    return next((service for service in _SERVICES if url.rstrip("/").endswith(f"/{service}")), None)


def _requests(items: Sequence[JudgeItem]) -> list[Request]:
    return [Request(messages=one, max_tokens=0, temperature=None) for one in all_conversations(items)]


def _verdict(found: Sequence[tuple[Completion, float | None]]) -> Verdict:
    rewards = [reward for _, reward in found if reward is not None]
    if len(rewards) < len(found):
        return Verdict(next(reply for reply, reward in found if reward is None))
    return reward_verdict(rewards, found[0][0])
