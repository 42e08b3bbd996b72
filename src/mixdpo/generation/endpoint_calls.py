"""The calls of one run to an OpenAI-compatible endpoint: several answers to a call where it knows `n`, each cached."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.urls import hidden_parts, shown_url
from mixdpo.generation.chat_model import Completion, Request, first_sample
from mixdpo.generation.endpoint_replies import MALFORMED, read_replies
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.reply_cache import ReplyCache, request_key

if TYPE_CHECKING:
    from openai import AsyncOpenAI

NO_KEY: Final = "none"
"""What is sent where the variable of the key is unset; local servers take any key."""
REFUSED: Final = "PermissionDeniedError"
"""What the failure of a call that ended in 403 begins with."""
_REFUSED_IN_A_ROW: Final = 16
"""Calls that ended in 403, one after the other, after which it is the key that is refused and not single prompts."""
_REFUSALS_OF_N: Final = 3
"""Calls for several answers that are refused (400, 422) before any is answered, after which it is not for a prompt."""
_TRIES_OF_MALFORMED: Final = 3
_SHORTEST_SECRET: Final = 4
"""Characters of a part of the URL from which it is blanked in errors; shorter ones are parts of words."""
_NOT_OPENAIS: Final = ("chat_template_kwargs", "min_p")
"""Parts of a request that only servers of open models take, and the client only in its `extra_body`."""


def request_body(request: Request, settings: EndpointSettings) -> dict[str, Any]:
    """Return what is sent for a request."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        settings.token_limit: request.max_tokens,
    }
    optional = {name: getattr(request, name) for name in ("temperature", "top_p", "min_p", "seed")}
    body |= {name: value for name, value in optional.items() if value is not None}
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    template = {**(settings.chat_template_kwargs or {}), **json.loads(request.chat_template_kwargs or "{}")}
    return body | ({"chat_template_kwargs": template} if template else {})


async def _complete_chat(client: AsyncOpenAI, settings: EndpointSettings, body: dict[str, Any]) -> Any:
    beside = {name: body[name] for name in _NOT_OPENAIS if name in body}
    own = {name: value for name, value in body.items() if name not in beside}
    return await client.chat.completions.create(**own, extra_body=beside)


@dataclass(frozen=True)
class Route:
    """What a server is asked for: chat completions, or another of its services.

    Attributes:
        url: of the service, as part of what completions are cached under.
        body: what is sent for a request.
        send: calls the service.
        read: what its reply to a call for so many answers holds; see `read_replies`.
    """

    url: Callable[[EndpointSettings], str]
    body: Callable[[Request, EndpointSettings], dict[str, Any]]
    send: Callable[[AsyncOpenAI, EndpointSettings, dict[str, Any]], Awaitable[Any]]
    read: Callable[[Any, int], list[Completion | None]]


CHAT: Final = Route(lambda settings: settings.base_url, request_body, _complete_chat, read_replies)


def cache_key(request: Request, settings: EndpointSettings, route: Route) -> str:
    """Return what a completion is cached under: that of a sample under what a call for it alone, with its seed, is."""
    return request_key(route.url(settings), route.body(request, settings))


def side_by_side(requests: Sequence[Request]) -> list[list[Request]]:
    """Put together the samples of a prompt that follow each other: what one call may ask for.

    Endpoints count the seeds of the answers to a call up from the one they are given, and so do samples.
    """
    groups: list[list[Request]] = []
    latest: dict[Request, list[Request]] = {}
    for request in requests:
        first = first_sample(request)
        if first in latest and request.sample == latest[first][-1].sample + 1:
            latest[first].append(request)
        else:
            latest[first] = [request]
            groups.append(latest[first])
    return groups


@dataclass
class Calls:
    """The calls of one run, a bounded number at a time.

    Attributes:
        client: of the `openai` package, which retries.
        settings: where to, and how many calls at a time.
        route: what is called there.
        key: what the client sends; it is blanked in messages.
        cache: where completions are kept as soon as they are there.
        completions: of the requests that are answered or have failed so far.
        show: is called after every call.
        knows_n: whether the endpoint answers several times to one call; None until it is known.
    """

    client: AsyncOpenAI
    settings: EndpointSettings
    route: Route
    key: str
    cache: ReplyCache
    completions: dict[Request, Completion]
    show: Callable[[], None]
    knows_n: bool | None = None
    _refusals_of_n: int = 0
    _refused: int = 0
    _gate: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._gate = asyncio.Semaphore(self.settings.concurrency)

    async def answer(self, requests: Sequence[Request]) -> None:
        """Answer requests, samples of a prompt by one call if the endpoint knows `n`, and singly what is missing then.

        Raises:
            InputError: the endpoint refuses the key or does not know the model.
        """
        await _together(self._at_once(group) for group in side_by_side(requests) if len(group) > 1)
        await _together(self._call([request]) for request in requests if request not in self.completions)

    async def _at_once(self, samples: Sequence[Request]) -> None:
        if self.knows_n is not False:
            await self._call(samples)

    async def _call(self, samples: Sequence[Request]) -> None:
        async with self._gate:
            if len(samples) > 1 and self.knows_n is False:  # it became known while this call waited
                return
            found = await self._replies(samples)
        self.completions |= found
        refused = any((one.failure or "").startswith(REFUSED) for one in found.values())
        self._refused = self._refused + 1 if refused else 0
        if self._refused == _REFUSED_IN_A_ROW:
            raise key_refused(self.settings, str(next(iter(found.values())).failure))
        self.show()

    async def _replies(self, samples: Sequence[Request]) -> dict[Request, Completion]:
        """Call once for all of these samples; return those that were answered, or the failure of all.

        Those that the endpoint left out are to be asked for singly: it answered fewer times, or refuses `n`.
        """
        import openai

        several, failure = len(samples) > 1, ""
        body = self.route.body(samples[0], self.settings) | ({"n": len(samples)} if several else {})
        for _ in range(_TRIES_OF_MALFORMED):
            try:
                response = await self.route.send(self.client, self.settings, body)
                replies = self.route.read(response, len(samples))
            except openai.AuthenticationError as error:
                raise key_refused(self.settings, self._scrubbed(error)) from None
            except openai.NotFoundError as error:
                url, model = shown_url(self.settings.base_url), self.settings.model
                raise InputError(
                    f"{url} does not know the model {model!r} ({self._scrubbed(error)})",
                    hint="check its name, and the URL, which ends before /chat/completions, mostly with /v1",
                ) from None
            except openai.APIResponseValidationError as error:
                failure = f"malformed reply: {self._scrubbed(error)}"
            except openai.OpenAIError as error:  # with 403 a provider may refuse a prompt and not the key
                bad = isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError))
                if several and bad and not self.knows_n:
                    self._refusals_of_n += 1
                    if self._refusals_of_n >= _REFUSALS_OF_N:
                        self.knows_n = False
                    return {}
                failure = f"{type(error).__name__}: {self._scrubbed(error)}"
                break
            except MALFORMED as error:
                failure = f"malformed reply: {self._scrubbed(error)}"
            else:
                if several:
                    self.knows_n = len(replies) == len(samples)
                found = {one: reply for one, reply in zip(samples, replies, strict=False) if reply is not None}
                self._keep(found)
                return found
        return dict.fromkeys(samples, Completion(failure=failure))

    def _keep(self, found: Mapping[Request, Completion]) -> None:
        """Cache what is no failure, all of a call or nothing."""
        good = {one: completion for one, completion in found.items() if completion.failure is None}
        if good:
            self.cache.put_all(
                {cache_key(one, self.settings, self.route): asdict(reply) for one, reply in good.items()}
            )

    def _scrubbed(self, error: Exception) -> str:
        in_url = [part for part in hidden_parts(self.settings.base_url) if len(part) >= _SHORTEST_SECRET]
        return scrubbed(error, [*([self.key] if self.key != NO_KEY else []), *in_url])


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at a time; once a part of it raises, end the others and then raise that."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def key_refused(settings: EndpointSettings, why: str) -> InputError:
    """Return the error for a key that is refused."""
    return InputError(
        f"{shown_url(settings.base_url)} refuses the key ({why})",
        hint=f"set the environment variable {settings.api_key_env}",
    )


def scrubbed(error: Exception, secrets: Sequence[str]) -> str:
    """Return the first line of an error, without the key or parts of the URL that some endpoints repeat."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    for secret in secrets:
        line = line.replace(secret, "[key]")
    return line[:300]
