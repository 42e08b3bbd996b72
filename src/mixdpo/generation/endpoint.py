"""Calls to an OpenAI-compatible endpoint (a provider, vLLM, SGLang, ...): cached, retried, a bounded number at a time.

The client is the `openai` package: it retries 408, 409, 429, 5xx and lost connections with growing pauses and heeds
`Retry-After`. Finished calls are cached by content, so a run that was killed continues where it was.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mixdpo.common.errors import InputError, RunError, install_extra
from mixdpo.common.table_files import well_formed
from mixdpo.common.urls import hidden_parts, shown_url
from mixdpo.data.reasoning import closes_unopened
from mixdpo.generation.chat_model import Completion, Progress, Request
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.reply_cache import ReplyCache, reply_cache, request_key

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English text, for estimates only."""
_TRIES_OF_MALFORMED = 3
_NO_KEY: Final = "none"
"""What is sent where the variable is unset; local servers take any key."""
_SHORTEST_SECRET: Final = 4
"""Characters of a part of the URL from which it is blanked in errors; shorter ones are parts of words."""
_REFUSED: Final = "PermissionDeniedError"
"""What the failure of a call that ended in 403 begins with."""
_REFUSED_IN_A_ROW: Final = 16
"""Calls that ended in 403, one after the other, after which it is the key that is refused and not single prompts."""
_REASONING: Final = ("reasoning_content", "reasoning", "thinking")
"""Fields beside a message's content: of vLLM, SGLang and DeepSeek; of OpenRouter and newer vLLM; of Ollama."""
_NOT_OPENAIS: Final = ("chat_template_kwargs",)
"""Parts of a request that only servers of open models take, and the client only in its `extra_body`."""
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class EndpointModel:
    """A model behind an OpenAI-compatible endpoint, which applies the chat template and the stop tokens itself.

    Attributes:
        settings: which model, and how it is called.
        cache: folder of finished completions; None for the one of all runs. A model that is trained further is served
            under one name again and again: its completions belong in a folder of their own.
    """

    settings: EndpointSettings
    cache: Path | None = None

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.settings.model

    def estimate(self, requests: Sequence[Request]) -> str:
        """Count the calls that are not cached, their tokens by a rule of thumb, and the cost if prices are known."""
        return str(estimate(requests, self.settings, self.cache))

    def complete(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        """Call the endpoint; see `complete_all`."""
        return complete_all(requests, self.settings, progress, self.cache)

    def record(self) -> dict[str, Any]:
        """Return the endpoint's settings; of the key only the variable's name, of the URL only what can be no key."""
        return {"engine": "endpoint", **asdict(self.settings), "base_url": shown_url(self.settings.base_url)}


@dataclass(frozen=True)
class CostEstimate:
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


def estimate(requests: Sequence[Request], settings: EndpointSettings, folder: Path | None = None) -> CostEstimate:
    """Count the calls that `complete_all` would make, and estimate their tokens and cost."""
    bodies = {_key(request, settings): request for request in requests}
    new = list(bodies.values())
    if folder is None or folder.is_dir():  # an estimate makes none
        with reply_cache(folder) as cache:
            new = [request for key, request in bodies.items() if cache.get(key) is None]
    read = sum(len(content) for request in new for _, content in request.messages) // CHARACTERS_PER_TOKEN
    written = sum(request.max_tokens for request in new)
    dollars = None
    if settings.dollars_in is not None and settings.dollars_out is not None:
        dollars = (read * settings.dollars_in + written * settings.dollars_out) / 1e6
    return CostEstimate(len(new), len(bodies) - len(new), read, written, dollars)


def request_body(request: Request, settings: EndpointSettings) -> dict[str, Any]:
    """Return what is sent for a request."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        settings.token_limit: request.max_tokens,
    }
    optional = (("temperature", request.temperature), ("top_p", request.top_p), ("seed", request.seed))
    body |= {name: value for name, value in optional if value is not None}
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    template = {**(settings.chat_template_kwargs or {}), **json.loads(request.chat_template_kwargs or "{}")}
    return body | ({"chat_template_kwargs": template} if template else {})


def _key(request: Request, settings: EndpointSettings) -> str:
    return request_key(settings.base_url, request_body(request, settings))


def complete_all(
    requests: Sequence[Request],
    settings: EndpointSettings,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> list[Completion]:
    """Send all requests and return the completions in their order. Equal requests are sent once.

    A request that fails after all tries, or is answered with no content, gives a `Completion` with `failure`, which is
    not cached: the next run tries again. Reasoning is apart from the text, and may have left it empty.

    Args:
        requests: what is sent.
        settings: where to.
        progress: see `Progress`.
        folder: of finished completions; None for the user's. They are found again by URL and request, which do not
            tell that another model is served under the same name.

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
    key = os.environ.get(settings.api_key_env) or _NO_KEY
    distinct = list(dict.fromkeys(requests))

    async def run(cache: ReplyCache) -> dict[Request, Completion]:
        client = openai.AsyncOpenAI(
            api_key=key, base_url=settings.base_url, max_retries=settings.max_retries, timeout=settings.timeout
        )
        gate = asyncio.Semaphore(settings.concurrency)
        cached = {request: _cached(request, settings, cache) for request in distinct}
        completions = {request: completion for request, completion in cached.items() if completion is not None}
        refused = 0

        async def one(request: Request) -> None:
            nonlocal refused
            async with gate:
                completion = completions[request] = await _call(client, request, settings, cache, key)
            refused = refused + 1 if completion.failure and completion.failure.startswith(_REFUSED) else 0
            if refused == _REFUSED_IN_A_ROW:
                raise _key_refused(settings, str(completion.failure))
            if progress is not None:
                progress(len(completions), len(distinct))

        tasks = [asyncio.ensure_future(one(request)) for request in distinct if request not in completions]
        if progress is not None and completions:
            progress(len(completions), len(distinct))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.close()
        return completions

    def work() -> dict[Request, Completion]:
        with reply_cache(folder) as cache:
            return asyncio.run(run(cache))

    completions = _beside_any_loop(work)
    failures = [completion.failure for completion in completions.values() if completion.failure]
    if len(failures) == len(distinct):
        if all(failure.startswith(_REFUSED) for failure in failures):
            raise _key_refused(settings, failures[0])
        raise RunError(
            f"{shown_url(settings.base_url)}: none of {len(distinct)} calls was answered; the first: {failures[0]}"
        )
    return _without_reasoning([completions[request] for request in requests])


def _without_reasoning(completions: Sequence[Completion]) -> list[Completion]:
    """Split reasoning from the answers.

    Where most finished texts close reasoning that they do not open, the prompts opened it, and one that was cut before
    it closed anything is reasoning too.
    """
    closing = [closes_unopened(one.text) for one in completions if one.finished]
    opened = 2 * sum(closing) > len(closing)
    return [one.without_reasoning(opened and not one.finished and one.failure is None) for one in completions]


def _beside_any_loop(work: Callable[[], _Done]) -> _Done:
    """Do work that runs an event loop, in a thread where one is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(work).result()


def _key_refused(settings: EndpointSettings, why: str) -> InputError:
    return InputError(
        f"{shown_url(settings.base_url)} refuses the key ({why})",
        hint=f"set the environment variable {settings.api_key_env}",
    )


def _cached(request: Request, settings: EndpointSettings, cache: ReplyCache) -> Completion | None:
    stored = cache.get(_key(request, settings))
    return None if stored is None else _well_formed(Completion.of_stored(stored))


async def _call(
    client: AsyncOpenAI, request: Request, settings: EndpointSettings, cache: ReplyCache, key: str
) -> Completion:
    import openai

    failure = ""
    in_url = [part for part in hidden_parts(settings.base_url) if len(part) >= _SHORTEST_SECRET]
    secrets = [*([key] if key != _NO_KEY else []), *in_url]
    body = request_body(request, settings)
    beside = {name: body.pop(name) for name in _NOT_OPENAIS if name in body}
    for _ in range(_TRIES_OF_MALFORMED):
        try:
            completion = _well_formed(_read(await client.chat.completions.create(**body, extra_body=beside)))
        except openai.AuthenticationError as error:
            raise _key_refused(settings, _scrubbed(error, secrets)) from None
        except openai.NotFoundError as error:
            url, why = shown_url(settings.base_url), _scrubbed(error, secrets)
            raise InputError(f"{url} does not know the model {settings.model!r} ({why})") from None
        except openai.APIResponseValidationError as error:
            failure = f"malformed reply: {_scrubbed(error, secrets)}"
        except openai.OpenAIError as error:  # with 403 a provider may refuse a prompt and not the key
            return Completion(failure=f"{type(error).__name__}: {_scrubbed(error, secrets)}")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            failure = f"malformed reply: {_scrubbed(error, secrets)}"
        else:
            if completion.failure is None:
                cache.put(_key(request, settings), asdict(completion))
            return completion
    return Completion(failure=failure)


def _read(response: Any) -> Completion:
    choice = response.choices[0]
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    first = logprobs[0].top_logprobs if logprobs else []
    usage, details = response.usage, getattr(response.usage, "completion_tokens_details", None)
    text, reasoning = _parts(choice.message)
    return Completion(
        text=text,
        reasoning=reasoning,
        finished=choice.finish_reason == "stop",
        first_token=tuple((top.token, float(top.logprob)) for top in first) if reasoning is None else (),
        model=response.model or "",
        tokens_in=usage.prompt_tokens if usage else 0,
        tokens_out=usage.completion_tokens if usage else 0,
        reasoning_tokens=getattr(details, "reasoning_tokens", None) or 0,
        failure=None if text.strip() or first else _no_content(choice, reasoning),
    )


def _parts(message: Any) -> tuple[str, str | None]:
    """Return the answer, and the reasoning that some endpoints keep apart: beside it, or as a part of it (Mistral)."""
    beside = [getattr(message, name, None) for name in _REASONING]
    reasoning = next((text for text in beside if isinstance(text, str) and text.strip()), None)
    content = message.content
    if not isinstance(content, list):
        return content or "", reasoning
    texts = {
        kind: "".join(_part_text(part[kind]) for part in content if kind in part) for kind in ("text", "thinking")
    }
    return texts["text"], reasoning or texts["thinking"] or None


def _part_text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(str(part.get("text", "")) for part in value)


def _no_content(choice: Any, reasoning: str | None) -> str | None:
    """Return why a reply without content is no answer; None where its reasoning took all there was to write."""
    if choice.finish_reason == "content_filter":
        return "no content: a filter of the provider withheld it"
    if getattr(choice.message, "refusal", None):
        return "no content: the model refused"
    if choice.finish_reason == "length" or reasoning is not None:
        return None
    return f"no content: the reply is empty (finish_reason {choice.finish_reason})"


def _well_formed(completion: Completion) -> Completion:
    first_token = tuple((well_formed(token), chance) for token, chance in completion.first_token)
    reasoning = None if completion.reasoning is None else well_formed(completion.reasoning)
    return replace(completion, text=well_formed(completion.text), reasoning=reasoning, first_token=first_token)


def _scrubbed(error: Exception, secrets: Sequence[str]) -> str:
    """Return the first line of an error, without the key or parts of the URL that some endpoints repeat."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    for secret in secrets:
        line = line.replace(secret, "[key]")
    return line[:300]
