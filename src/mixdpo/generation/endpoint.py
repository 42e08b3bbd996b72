"""Calls to an OpenAI-compatible endpoint (a provider, vLLM, SGLang, ...): cached, retried, a bounded number at a time.

The client is the `openai` package: it retries 408, 409, 429, 5xx and lost connections with growing pauses and heeds
`Retry-After`. Finished calls are cached by content, so a run that was killed continues where it was.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from mixdpo.common.errors import InputError, RunError, install_extra
from mixdpo.common.urls import shown_url
from mixdpo.data.reasoning import closes_unopened
from mixdpo.generation.chat_model import Completion, Progress, Request
from mixdpo.generation.endpoint_calls import CHAT, NO_KEY, REFUSED, Calls, Route, cache_key, key_refused, side_by_side
from mixdpo.generation.endpoint_replies import well_formed_completion
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.reply_cache import ReplyCache, reply_cache

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English text, for estimates only."""
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class EndpointModel:
    """A model behind an OpenAI-compatible endpoint, which applies the chat template and the stop tokens itself.

    Attributes:
        settings: which model, and how it is called.
        cache: folder of finished completions; None for the one of all runs. A model that is trained further is served
            under one name again and again: its completions belong in a folder of their own.
        route: what the server is asked for.
    """

    settings: EndpointSettings
    cache: Path | None = None
    route: Route = CHAT

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.settings.model

    def estimate(self, requests: Sequence[Request]) -> str:
        """Count the calls that are not cached, their tokens by a rule of thumb, and the cost if prices are known."""
        return str(estimate(requests, self.settings, self.cache, self.route))

    def complete(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        """Call the endpoint; see `complete_all`."""
        return complete_all(requests, self.settings, progress, self.cache, self.route)

    def record(self) -> dict[str, Any]:
        """Return the endpoint's settings; of the key only the variable's name, of the URL only what can be no key."""
        return {"engine": "endpoint", **asdict(self.settings), "base_url": shown_url(self.settings.base_url)}


@dataclass(frozen=True)
class CostEstimate:
    """What a run would cost: calls that are not cached, and their tokens (by a rule of thumb, at most).

    Where the endpoint answers several times to one call there are `calls_at_once`, and each prompt is read once.
    """

    calls: int
    calls_at_once: int
    cached: int
    tokens_in: int
    tokens_out: int
    dollars: float | None

    def __str__(self) -> str:
        cost = f", about ${self.dollars:.2f}" if self.dollars is not None else ""
        at_once = f", or {self.calls_at_once:,} if the endpoint knows n" if self.calls_at_once < self.calls else ""
        calls = f"{self.calls:,} calls{at_once} ({self.cached:,} more are cached)"
        return f"{calls}: about {self.tokens_in:,} tokens read and at most {self.tokens_out:,} written{cost}"


def estimate(
    requests: Sequence[Request], settings: EndpointSettings, folder: Path | None = None, route: Route = CHAT
) -> CostEstimate:
    """Count the calls that `complete_all` would make, and estimate their tokens and cost."""
    bodies = {cache_key(request, settings, route): request for request in requests}
    new = list(bodies.values())
    if folder is None or folder.is_dir():  # an estimate makes none
        with reply_cache(folder) as cache:
            new = [request for key, request in bodies.items() if cache.get(key) is None]
    read = sum(len(content) for request in new for _, content in request.messages) // CHARACTERS_PER_TOKEN
    written = sum(request.max_tokens for request in new)
    dollars = None
    if settings.dollars_in is not None and settings.dollars_out is not None:
        dollars = (read * settings.dollars_in + written * settings.dollars_out) / 1e6
    return CostEstimate(len(new), len(side_by_side(new)), len(bodies) - len(new), read, written, dollars)


def complete_all(
    requests: Sequence[Request],
    settings: EndpointSettings,
    progress: Progress | None = None,
    folder: Path | None = None,
    route: Route = CHAT,
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
        route: what the server is asked for.

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
    key = os.environ.get(settings.api_key_env) or NO_KEY
    distinct = list(dict.fromkeys(requests))

    async def run(cache: ReplyCache) -> dict[Request, Completion]:
        client = openai.AsyncOpenAI(
            api_key=key, base_url=settings.base_url, max_retries=settings.max_retries, timeout=settings.timeout
        )
        cached = {request: _cached(cache_key(request, settings, route), cache) for request in distinct}
        completions = {request: completion for request, completion in cached.items() if completion is not None}

        def show() -> None:
            if progress is not None and completions:
                progress(len(completions), len(distinct))

        show()
        try:
            await Calls(client, settings, route, key, cache, completions, show).answer(
                [request for request in distinct if request not in completions]
            )
        finally:
            await client.close()
        return completions

    def work() -> dict[Request, Completion]:
        with reply_cache(folder) as cache:
            return asyncio.run(run(cache))

    completions = _beside_any_loop(work)
    failures = [completion.failure for completion in completions.values() if completion.failure]
    if len(failures) == len(distinct):
        if all(failure.startswith(REFUSED) for failure in failures):
            raise key_refused(settings, failures[0])
        silent = all(failure.startswith("no content") for failure in failures)
        raise RunError(
            f"{shown_url(settings.base_url)}: none of {len(distinct)} calls was answered; the first: {failures[0]}"
            f"{'; take another model or prompt, or look at the chat template of the server' if silent else ''}"
        )
    return _without_reasoning([completions[request] for request in requests])


def _cached(key: str, cache: ReplyCache) -> Completion | None:
    stored = cache.get(key)
    return None if stored is None else well_formed_completion(Completion.of_stored(stored))


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
