"""A model on this machine as a chat model. Finished completions are cached by content, a batch at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save
from transformers import PreTrainedTokenizerBase

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import cache_folder, digest
from mixdpo.data.template_arguments import today
from mixdpo.generation.chat_model import Completion, Progress, Request, first_sample
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.generation.local_generation import (
    answer_rendered,
    positions,
    render_prompts,
    stop_token_ids,
    without_reasoning,
)
from mixdpo.generation.reply_cache import ReplyCache, reply_cache
from mixdpo.models.fingerprint import weights_digest
from mixdpo.models.loading import load_for_inference, load_tokenizer
from mixdpo.models.model_settings import ModelSettings, model_name

_FORMAT: Final = "1"
_NOT_CACHED: Final = ("model", "failure", "reasoning", "reasoning_tokens", "entropy")
"""Fields of a completion that a model on this machine does not fill in, or that follow from its text."""

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class LocalModel:
    """A causal language model in transformers, which answers in batches of prompts of like length."""

    model: ModelSettings
    batch_size: int = 32

    @property
    def name(self) -> str:
        """The folder's or hub model's own name; the adapter's, if there is one."""
        return model_name(self.model.adapter or self.model.name_or_path)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model)

    @cached_property
    def _loaded(self) -> Any:
        return load_for_inference(self.model)

    @cached_property
    def _weights(self) -> str:
        return content_digest(self._loaded)

    @cached_property
    def _date(self) -> str:
        return self.model.template_date or today()

    @property
    def _stops(self) -> list[int]:
        return stop_token_ids(self._loaded, self._tokenizer)

    def estimate(self, requests: Sequence[Request]) -> str:
        """Count answers and tokens by the model's tokenizer; the model itself is not loaded."""
        rendered = self._render(requests)
        read_once = {first_sample(request): len(ids) for request, ids in rendered.items()}
        read, written = sum(read_once.values()), sum(request.max_tokens for request in rendered)
        return f"{len(rendered):,} answers: {read:,} tokens read and at most {written:,} written"

    def complete(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        """Answer the requests, longest prompts first; one that does not fit into the model's positions fails.

        Batches are formed before the cache is read, and the seed of each is made from its content: a run that was
        killed and is continued writes what an uninterrupted one writes.

        Raises:
            InputError: a request leaves the temperature to the model, which has none of its own here.
        """
        if any(request.temperature is None for request in requests):
            raise InputError("a model on this machine has no temperature of its own", hint="give a number")
        rendered = self._render(requests)
        completions = self._too_long(rendered)
        with reply_cache(cache_folder() / "answers") as cache:
            fitting = {request: ids for request, ids in rendered.items() if request not in completions}
            for batch in _batches(fitting, self.batch_size):
                completions |= self._answer(batch, cache)
                if progress is not None:
                    progress(len(completions), len(rendered))
        return [completions[request] for request in requests]

    def record(self) -> dict[str, Any]:
        """Return the model's settings, a digest of its weights, its stop tokens, and what it runs on."""
        return {
            "engine": "transformers",
            "transformers": version("transformers"),
            "batch_size": self.batch_size,
            "device": str(self._loaded.device),
            **asdict(self.model),
            "template_date": self._date,
            "dtype": str(self._loaded.dtype).removeprefix("torch."),
            "weights": self._weights,
            "stop_tokens": self._tokenizer.convert_ids_to_tokens(self._stops),
        }

    def _render(self, requests: Sequence[Request]) -> dict[Request, TokenIds]:
        """Return the prompt of every distinct request as token ids; that of samples is rendered once."""
        asked = list(dict.fromkeys((one.messages, one.chat_template_kwargs) for one in requests))
        chats = [[{"role": role, "content": content} for role, content in messages] for messages, _ in asked]
        shared = self.model.chat_template_kwargs or {}
        kwargs = [{**shared, **json.loads(own or "{}")} for _, own in asked]
        rendered = map(tuple, render_prompts(self._tokenizer, chats, kwargs, self._date))
        ids_of = dict(zip(asked, rendered, strict=True))
        return {one: ids_of[one.messages, one.chat_template_kwargs] for one in requests}

    def _too_long(self, rendered: Mapping[Request, TokenIds]) -> dict[Request, Completion]:
        room = positions(self._loaded)
        if room is None:
            return {}
        return {
            request: Completion(
                failure=f"the prompt and {request.max_tokens:,} tokens of an answer are more than the model's "
                f"{room:,} positions; shorten one of them"
            )
            for request, ids in rendered.items()
            if len(ids) + request.max_tokens > room
        }

    def _answer(self, batch: Mapping[Request, TokenIds], cache: ReplyCache) -> dict[Request, Completion]:
        """Return the completions of a batch of requests of equal settings, from the cache where they are there."""
        keys = _keys(batch, [_FORMAT, self._weights, str(self._loaded.dtype), repr(self._stops)])
        cached = {request: stored for request, key in keys.items() if (stored := cache.get(key)) is not None}
        found = {request: Completion.of_stored(stored) for request, stored in cached.items()}
        missing = [request for request in batch if request not in found]
        if missing:
            seed = int(digest(keys.values())[:12], 16)
            written = self._generate([batch[one] for one in missing], missing[0], seed)
            found |= dict(zip(missing, written, strict=True))
            cache.put_all({keys[request]: _stored(found[request]) for request in missing})
        return {request: without_reasoning(one, batch[request], self._tokenizer) for request, one in found.items()}

    def _generate(self, rendered: Sequence[TokenIds], request: Request, seed: int) -> list[Completion]:
        settings = SamplingSettings(
            max_new_tokens=request.max_tokens,
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            batch_size=len(rendered),
            seed=seed,
        )
        try:
            return answer_rendered(
                self._loaded, self._tokenizer, rendered, settings, top_logprobs=request.top_logprobs or 0,
                min_p=request.min_p,
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{len(rendered)} answers at once do not fit in the memory of {self._loaded.device}; continue with a "
                f"smaller --batch-size"
            ) from error


def _stored(completion: Completion) -> dict[str, Any]:
    return {name: value for name, value in asdict(completion).items() if name not in _NOT_CACHED}


def content_digest(model: Any) -> str:
    """Return a digest of all that decides what a model writes."""
    # Of weights that cannot be hashed, nothing that was cached is found again.
    parts: list[str | bytes] = [weights_digest(model) or os.urandom(16)]
    if isinstance(model, PeftModel):
        settings = {name: config.to_dict() for name, config in model.peft_config.items()}
        parts += [json.dumps(settings, sort_keys=True, default=_plain), save(get_peft_model_state_dict(model))]
    return digest(parts)


def _plain(value: Any) -> Any:
    """Return what JSON has no form for, the same in every process: the order of a set of texts is not."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def _batches(rendered: Mapping[Request, TokenIds], size: int) -> list[dict[Request, TokenIds]]:
    alike: dict[tuple[Any, ...], list[Request]] = {}
    for request in rendered:
        alike.setdefault(_settings(first_sample(request)), []).append(request)
    batches = []
    for group in alike.values():
        # Longest first: little padding within a batch, and what does not fit in memory shows at once. The samples of
        # a prompt stay side by side.
        group.sort(key=lambda request: -len(rendered[request]))
        batches += [group[begin : begin + size] for begin in range(0, len(group), size)]
    return [{request: rendered[request] for request in batch} for batch in batches]


def _settings(request: Request) -> tuple[tuple[str, Any], ...]:
    """Return all of a request but what is in the ids of its prompt."""
    settings = asdict(replace(request, messages=()))
    # Fields that came later are no part of the keys of requests without them.
    left_out = {"chat_template_kwargs"} | {name for name in ("min_p", "sample") if not settings[name]}
    return tuple((name, value) for name, value in settings.items() if name not in left_out)


def _keys(batch: Mapping[Request, TokenIds], model: Sequence[str]) -> dict[Request, str]:
    """Return what each completion is cached under. Sampled ones depend on all of their batch, and so do their keys."""
    contents = {request: json.dumps([ids, dict(_settings(request))], sort_keys=True) for request, ids in batch.items()}
    sampled = (next(iter(batch)).temperature or 0.0) > 0
    together = list(contents.values()) if sampled else []
    return {request: digest([*model, content, *together]) for request, content in contents.items()}
