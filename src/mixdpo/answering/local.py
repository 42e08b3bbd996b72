"""A model on this machine as asker. Finished replies are kept by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.answering.askers import Progress
from mixdpo.evaluation.endpoint import Reply, Request
from mixdpo.evaluation.generate import GenerationSettings, Message, generate_answers, render_prompts, stop_token_ids
from mixdpo.evaluation.reply_cache import reply_cache
from mixdpo.io import cache_folder, digest
from mixdpo.model import ModelSettings, load_for_inference, load_tokenizer
from mixdpo.passes.keys import weights_digest

_FORMAT = "1"
Answer = Callable[[list[Request], int], list[Reply]]
"""Replies to a batch of requests of equal settings, drawn with a seed."""


@dataclass(frozen=True)
class TransformersAsker:
    """A causal language model in transformers, in batches."""

    model: ModelSettings
    batch_size: int = 8

    @property
    def name(self) -> str:
        """The folder's or hub model's own name."""
        return own_name(self.model)

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        model: Any = load_for_inference(self.model)
        if self.model.adapter is not None:
            model = model.merge_and_unload()
        return model, load_tokenizer(self.model)

    def ask(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Reply]:
        """Write the replies, longest prompts first; see `ask_in_batches`."""
        model, tokenizer = self._loaded
        stops = stop_token_ids(model, tokenizer)

        def answer(batch: list[Request], seed: int) -> list[Reply]:
            chats, request = [_chat(one) for one in batch], batch[0]
            settings = GenerationSettings(
                max_new_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p if request.top_p is not None else 1.0,
                batch_size=len(batch),
                seed=seed,
            )
            lengths = [len(ids) for ids in render_prompts(tokenizer, chats)]
            answers = generate_answers(
                model, tokenizer, chats, settings=settings, top_logprobs=request.top_logprobs or 0
            )
            return [
                Reply(one.text, one.finished, one.first_token, self.name, read, one.tokens)
                for one, read in zip(answers, lengths, strict=True)
            ]

        weights = weights_digest(model) or repr(self.model)
        key = digest([_FORMAT, weights, str(model.dtype), str(tokenizer.chat_template), str(stops)])
        return ask_in_batches(requests, key, answer, self.batch_size, progress)

    def record(self) -> dict[str, Any]:
        """Return the model's settings, and what it runs on."""
        model, _ = self._loaded
        return {
            "engine": "transformers",
            "transformers": version("transformers"),
            "batch_size": self.batch_size,
            "device": str(model.device),
            **asdict(self.model),
            "dtype": str(model.dtype).removeprefix("torch."),
        }


def own_name(model: ModelSettings) -> str:
    """Return what a result calls a model: the folder's name, or the hub id. A run's `model` folder bears its run's."""
    path = Path(model.name_or_path).expanduser()
    if not path.is_dir():
        return model.name_or_path
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "model" else resolved.name


def ask_in_batches(
    requests: Sequence[Request], model_key: str, answer: Answer, batch_size: int, progress: Progress | None
) -> list[Reply]:
    """Return a reply to every request, from the cache or from `answer`, a batch at a time.

    Batches are formed before the cache is read, and each has a seed made from its requests: a run that was killed
    and is continued writes what an uninterrupted one writes. Of a sampled batch with a reply missing all are drawn
    again, as they depend on each other.
    """
    replies: dict[Request, Reply] = {}
    batches = _batches(requests, batch_size)
    total = sum(map(len, batches))
    with reply_cache(cache_folder() / "answers") as cache:
        for batch in batches:
            keys = _keys(batch, model_key)
            known = [cache.get(key) for key in keys]
            missing = [index for index, reply in enumerate(known) if reply is None]
            if missing and _sampled(batch[0]):
                missing = list(range(len(batch)))
            if missing:
                drawn = answer([batch[index] for index in missing], int(digest(keys)[:12], 16))
                for index, reply in zip(missing, drawn, strict=True):
                    known[index] = asdict(reply)
                    cache.put(keys[index], asdict(reply))
            for request, stored in zip(batch, known, strict=True):
                if stored is not None:
                    first = tuple((str(token), float(chance)) for token, chance in stored["first_token"])
                    replies[request] = Reply(**{**stored, "first_token": first})
            if progress is not None:
                progress(len(replies), total)
    return [replies[request] for request in requests]


def _batches(requests: Sequence[Request], size: int) -> list[list[Request]]:
    alike: dict[Request, list[Request]] = {}
    for request in dict.fromkeys(requests):
        alike.setdefault(replace(request, messages=()), []).append(request)
    batches = []
    for group in alike.values():
        # Longest first: little padding within a batch, and what does not fit in memory shows at once.
        group.sort(key=lambda request: -sum(len(content) for _, content in request.messages))
        batches += [group[begin : begin + size] for begin in range(0, len(group), size)]
    return batches


def _sampled(request: Request) -> bool:
    return request.temperature > 0


def _keys(batch: list[Request], model_key: str) -> list[str]:
    contents = [json.dumps(asdict(request), sort_keys=True, ensure_ascii=False) for request in batch]
    together = contents if _sampled(batch[0]) else []
    return [digest([model_key, content, *together]) for content in contents]


def _chat(request: Request) -> list[Message]:
    return [{"role": role, "content": content} for role, content in request.messages]
