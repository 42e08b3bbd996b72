"""Calls to an OpenAI-compatible endpoint (a provider, vLLM, SGLang, ...): cached, retried, a bounded number at a time.

The client is the `openai` package: it retries 408, 409, 429, 5xx and lost connections with growing pauses and heeds
`Retry-After`. Finished calls are kept by content, so a run that was killed continues where it was.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from mixdpo.common.errors import InputError, RunError, install_extra
from mixdpo.common.table_files import well_formed
from mixdpo.generation.reply_cache import ReplyCache, reply_cache, request_key

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English text, for estimates only."""
_TRIES_OF_MALFORMED = 3
_REFUSED: Final = "PermissionDeniedError"
"""What the failure of a call that ended in 403 begins with."""
_REFUSED_IN_A_ROW: Final = 16
"""Calls that ended in 403, one after the other, after which it is the key that is refused and not single prompts."""
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_Done = TypeVar("_Done")


@dataclass(kw_only=True, frozen=True)
class EndpointSettings:
    """Which model answers where, and how it is called."""

    model: str = field(metadata={"help": "name of the model at the endpoint"})
    base_url: str = field(
        default="https://api.openai.com/v1", metadata={"help": "URL of the endpoint, up to and including /v1"}
    )
    api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "environment variable that holds the key; it may be unset"}
    )
    concurrency: int = field(default=16, metadata={"help": "calls at a time"})
    timeout: float = field(default=300.0, metadata={"help": "seconds until a call counts as lost and is tried again"})
    max_retries: int = field(default=8, metadata={"help": "times a call is tried again"})
    token_limit: str = field(
        default="max_tokens",
        metadata={"help": "how the endpoint calls the longest answer: max_tokens or max_completion_tokens"},
    )
    dollars_in: float | None = field(default=None, metadata={"help": "price of a million tokens read, for estimates"})
    dollars_out: float | None = field(
        default=None, metadata={"help": "price of a million tokens written, for estimates"}
    )

    def __post_init__(self) -> None:
        if not _names_a_variable(self.api_key_env):  # what it is instead may be the key
            raise InputError(
                "what is given as the name of the key's environment variable is none (letters, digits and _)",
                hint="give the name without $, as in --key-variable OPENAI_API_KEY",
            )
        if "@" in self.base_url or "?" in self.base_url:  # not repeated here either
            raise InputError(
                "the endpoint's URL holds a user name, password or query, which would be recorded with the results",
                hint=f"put the key into the environment variable {self.api_key_env}",
            )
        for name, wrong in (
            ("concurrency", self.concurrency < 1),
            ("timeout", self.timeout <= 0),
            ("max_retries", self.max_retries < 0),
            ("token_limit", self.token_limit not in ("max_tokens", "max_completion_tokens")),
            ("base_url", not _is_url(self.base_url)),
        ):
            if wrong:
                raise InputError(f"endpoint setting {name} is {getattr(self, name)!r}")


def _names_a_variable(name: str) -> bool:
    # Some keys look like names; then a variable holds what was meant to be its name.
    expanded = name not in os.environ and not name.isupper() and name in os.environ.values()
    return _VARIABLE.fullmatch(name) is not None and not expanded


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:  # a port that is no number, or half an IPv6 address
        return False
    return known and text.isprintable() and " " not in text


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) of each message."""
    max_tokens: int
    temperature: float | None
    """None sends none: some models take only their own."""
    top_p: float | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    """Likeliest first tokens to return with their log-probabilities."""

    def body(self, settings: EndpointSettings) -> dict[str, Any]:
        """Return what is sent."""
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            settings.token_limit: self.max_tokens,
        }
        optional = (("temperature", self.temperature), ("top_p", self.top_p), ("seed", self.seed))
        body |= {name: value for name, value in optional if value is not None}
        if self.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return body


@dataclass(frozen=True)
class Completion:
    """What came back. `failure` is None, or why there is no reply after all tries."""

    text: str = ""
    finished: bool = False
    """Whether the model ended by itself."""
    first_token: tuple[tuple[str, float], ...] = ()
    """Likeliest first tokens and their log-probabilities, where they were asked for."""
    model: str = ""
    """Name of the model as the endpoint gives it, often with a date."""
    tokens_in: int = 0
    tokens_out: int = 0
    failure: str | None = None


@dataclass(frozen=True)
class Estimate:
    """What a run would cost: calls that are not cached, and their tokens (by a rule of thumb, at most)."""

    calls: int
    cached: int
    tokens_in: int
    tokens_out: int
    dollars: float | None

    def __str__(self) -> str:
        cost = f", about ${self.dollars:.2f}" if self.dollars is not None else ""
        return (
            f"{self.calls:,} calls ({self.cached:,} more are cached): about {self.tokens_in:,} tokens read and "
            f"at most {self.tokens_out:,} written{cost}"
        )


def estimate(requests: Sequence[Request], settings: EndpointSettings, folder: Path | None = None) -> Estimate:
    """Count the calls that `complete_all` would make, and estimate their tokens and cost."""
    bodies = {request_key(settings.base_url, request.body(settings)): request for request in requests}
    new = list(bodies.values())
    if folder is None or folder.is_dir():  # an estimate makes none
        with reply_cache(folder) as cache:
            new = [request for key, request in bodies.items() if cache.get(key) is None]
    read = sum(len(content) for request in new for _, content in request.messages) // CHARACTERS_PER_TOKEN
    written = sum(request.max_tokens for request in new)
    dollars = None
    if settings.dollars_in is not None and settings.dollars_out is not None:
        dollars = (read * settings.dollars_in + written * settings.dollars_out) / 1e6
    return Estimate(len(new), len(bodies) - len(new), read, written, dollars)


def complete_all(
    requests: Sequence[Request],
    settings: EndpointSettings,
    progress: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
) -> list[Completion]:
    """Send all requests and return the replies in their order. Equal requests are sent once.

    A request that fails after all tries gives a `Completion` with `failure`, which is not cached: the next run tries
    again.

    Args:
        requests: what to ask.
        settings: whom to ask.
        progress: called with (replies done, replies in all) after every reply.
        folder: of finished replies; None for the user's. They are found again by URL and request, which do not tell
            that another model is served under the same name.

    Raises:
        InputError: the `openai` package is missing, or the endpoint refuses the key or does not know the model.
        RunError: no request at all could be answered.
    """
    if not requests:
        return []
    try:
        import openai
    except ImportError as error:
        raise InputError("calls to an endpoint need the openai package", hint=install_extra("eval")) from error
    key = os.environ.get(settings.api_key_env) or "none"  # local servers take any
    distinct = list(dict.fromkeys(requests))

    async def run(cache: ReplyCache) -> dict[Request, Completion]:
        client = openai.AsyncOpenAI(
            api_key=key, base_url=settings.base_url, max_retries=settings.max_retries, timeout=settings.timeout
        )
        gate = asyncio.Semaphore(settings.concurrency)
        replies = {request: reply for request in distinct if (reply := _known(request, settings, cache)) is not None}
        refused = 0

        async def one(request: Request) -> None:
            nonlocal refused
            async with gate:
                reply = replies[request] = await _ask(client, request, settings, cache, key)
            refused = refused + 1 if reply.failure and reply.failure.startswith(_REFUSED) else 0
            if refused == _REFUSED_IN_A_ROW:
                raise _key_refused(settings, str(reply.failure))
            if progress is not None:
                progress(len(replies), len(distinct))

        tasks = [asyncio.ensure_future(one(request)) for request in distinct if request not in replies]
        if progress is not None and replies:
            progress(len(replies), len(distinct))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.close()
        return replies

    def work() -> dict[Request, Completion]:
        with reply_cache(folder) as cache:
            return asyncio.run(run(cache))

    replies = _beside_any_loop(work)
    failures = [reply.failure for reply in replies.values() if reply.failure]
    if len(failures) == len(distinct):
        if all(failure.startswith(_REFUSED) for failure in failures):
            raise _key_refused(settings, failures[0])
        raise RunError(f"{settings.base_url}: none of {len(distinct)} calls was answered; the first: {failures[0]}")
    return [replies[request] for request in requests]


def _beside_any_loop(work: Callable[[], _Done]) -> _Done:
    """Do work that runs an event loop, in a thread where one is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(work).result()


def _key_refused(settings: EndpointSettings, said: str) -> InputError:
    return InputError(
        f"{settings.base_url} refuses the key ({said})", hint=f"set the environment variable {settings.api_key_env}"
    )


def _known(request: Request, settings: EndpointSettings, cache: ReplyCache) -> Completion | None:
    known = cache.get(request_key(settings.base_url, request.body(settings)))
    if known is None:
        return None
    return _well_formed(Completion(**{**known, "first_token": tuple(map(tuple, known["first_token"]))}))


async def _ask(
    client: AsyncOpenAI, request: Request, settings: EndpointSettings, cache: ReplyCache, key: str
) -> Completion:
    import openai

    body = request.body(settings)
    failure = ""
    for _ in range(_TRIES_OF_MALFORMED):
        try:
            reply = _well_formed(_read(await client.chat.completions.create(**body)))
        except openai.AuthenticationError as error:
            raise _key_refused(settings, _scrubbed(error, key)) from None
        except openai.NotFoundError as error:
            raise InputError(
                f"{settings.base_url} does not know the model {settings.model!r} ({_scrubbed(error, key)})"
            ) from None
        except openai.APIResponseValidationError as error:
            failure = f"malformed reply: {_scrubbed(error, key)}"
        except openai.OpenAIError as error:  # with 403 a provider may refuse a prompt and not the key
            return Completion(failure=f"{type(error).__name__}: {_scrubbed(error, key)}")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            failure = f"malformed reply: {_scrubbed(error, key)}"
        else:
            cache.put(request_key(settings.base_url, body), asdict(reply))
            return reply
    return Completion(failure=failure)


def _read(completion: Any) -> Completion:
    choice = completion.choices[0]
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    first = logprobs[0].top_logprobs if logprobs else []
    usage = completion.usage
    return Completion(
        text=choice.message.content or "",
        finished=choice.finish_reason == "stop",
        first_token=tuple((top.token, float(top.logprob)) for top in first),
        model=completion.model or "",
        tokens_in=usage.prompt_tokens if usage else 0,
        tokens_out=usage.completion_tokens if usage else 0,
    )


def _well_formed(reply: Completion) -> Completion:
    first_token = tuple((well_formed(token), chance) for token, chance in reply.first_token)
    return replace(reply, text=well_formed(reply.text), first_token=first_token)


def _scrubbed(error: Exception, key: str) -> str:
    """Return the first line of an error, without the key that some endpoints repeat."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.replace(key, "[key]")[:300] if key != "none" else line[:300]
