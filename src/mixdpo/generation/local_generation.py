"""Answers of a chat model to prompts: batched, seeded, stopped at every token that ends a turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.common.errors import InputError
from mixdpo.data.reasoning import MARKS, opens_reasoning, split_reasoning
from mixdpo.data.template_arguments import template_arguments
from mixdpo.generation.chat_model import Completion, Progress
from mixdpo.generation.decoding import write_batch
from mixdpo.generation.generation_settings import SamplingSettings

ChatMessage = Mapping[str, Any]
_LONGEST_MARK: Final = 16
"""Tokens at the end of a prompt among which a mark that opens reasoning is looked for."""


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[ChatMessage]],
    *,
    settings: SamplingSettings | None = None,
    progress: Progress | None = None,
    top_logprobs: int = 0,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    template_date: str | None = None,
) -> list[Completion]:
    """Answer every prompt once, in the order given.

    Equal arguments give equal answers on the same machine. Afterwards the random generators of the processor and of
    the model's device, and the model's train or eval mode, are as they were.

    Args:
        model: a causal language model, with or without adapters.
        tokenizer: its tokenizer, with a chat template.
        prompts: conversations that end where the assistant is to speak; repeat one for several samples.
        settings: see `SamplingSettings`.
        progress: called with (answers done, answers in all) after every batch.
        top_logprobs: likeliest first tokens to return with their log-probabilities.
        chat_template_kwargs: settings of the chat template.
        template_date: that it writes, such as 2026-01-31; None: today.

    Raises:
        InputError: no chat template, one that refuses a prompt, or a prompt too long for the model.
    """
    settings = settings or SamplingSettings()
    rendered = render_prompts(tokenizer, prompts, [chat_template_kwargs] * len(prompts), template_date)
    check_lengths(model, rendered, settings.max_new_tokens)
    written = answer_rendered(model, tokenizer, rendered, settings, progress, top_logprobs)
    return [without_reasoning(one, ids, tokenizer) for one, ids in zip(written, rendered, strict=True)]


def answer_rendered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rendered: Sequence[Sequence[int]],
    settings: SamplingSettings,
    progress: Progress | None = None,
    top_logprobs: int = 0,
    min_p: float | None = None,
    entropy: bool = False,
) -> list[Completion]:
    """Answer prompts that are token ids already, of `render_prompts`; otherwise as `generate_answers`.

    They must fit: see `check_lengths`. Reasoning stays in the text, with its marks: see `without_reasoning`. Tokens
    less likely than `min_p` of the likeliest one are not sampled. `entropy`: measure `Completion.entropy`.
    """
    stops = stop_token_ids(model, tokenizer)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=0)
    config = _generation_config(settings, stops, padding, logits=top_logprobs > 0)
    # 0 only where the model's own file has another: it changes nothing and yet has all tokens sorted at every step.
    own_min_p = model.generation_config is not None and model.generation_config.min_p
    config.min_p = (min_p or (0.0 if own_min_p else None)) if config.do_sample else None
    answers: dict[int, Completion] = {}
    # Longest first: little padding within a batch, and what does not fit in memory shows at once.
    order = sorted(range(len(rendered)), key=lambda index: -len(rendered[index]))
    with _evaluating(model), _own_randomness(model.device, settings.seed):
        for begin in range(0, len(order), settings.batch_size):
            indices = order[begin : begin + settings.batch_size]
            ids, mask = pad_left([rendered[index] for index in indices], padding)
            written = write_batch(
                model, ids.to(model.device), mask.to(model.device), settings.max_new_tokens, config, entropy
            )
            likeliest: list[tuple[tuple[str, float], ...]] = [()] * len(indices)
            if written.logits is not None:
                likeliest = _first_tokens(tokenizer, written.logits, top_logprobs)
            for place, index in enumerate(indices):
                row, entropies = written.rows[place], written.entropies[place]
                answers[index] = _read_answer(tokenizer, row, stops, likeliest[place], rendered[index], entropies)
            if progress is not None:
                progress(len(answers), len(order))
    return [answers[index] for index in range(len(rendered))]


def without_reasoning(completion: Completion, prompt: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Completion:
    """Return a completion of `answer_rendered` with its reasoning apart and its tokens counted.

    Args:
        completion: as the model wrote it.
        prompt: token ids of the prompt, which may end within reasoning.
        tokenizer: the model's.
    """
    split = completion.without_reasoning(_opens_reasoning(tokenizer, prompt))
    if split is completion:
        return completion
    of_answer = len(tokenizer.encode(split.text, add_special_tokens=False))
    return replace(split, reasoning_tokens=max(0, split.tokens_out - of_answer))


def render_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[ChatMessage]],
    kwargs: Sequence[Mapping[str, Any] | None] | None = None,
    date: str | None = None,
) -> list[list[int]]:
    """Turn each conversation into token ids by the chat template, up to where the assistant speaks.

    The template's ids are used as they are: encoding its text again would add a second beginning-of-sequence token.

    Args:
        tokenizer: with a chat template.
        prompts: the conversations.
        kwargs: settings of the template for each; None: none.
        date: that it writes, such as 2026-01-31; None: today.
    """
    if tokenizer.chat_template is None:
        raise InputError("the tokenizer has no chat template", hint="name a template file, or take an instruct model")
    rendered = []
    for number, (prompt, own) in enumerate(zip(prompts, kwargs or [None] * len(prompts), strict=True), start=1):
        try:
            ids = tokenizer.apply_chat_template(
                [dict(message) for message in prompt],
                add_generation_prompt=True,
                return_dict=False,
                **template_arguments(tokenizer, own, date),
            )
        except Exception as error:  # a template is a program: jinja2's errors, and any it raises by itself
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"the chat template refuses prompt {number}: {reason}") from error
        rendered.append(list(ids))
    return rendered


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends an assistant's turn, ascending.

    These are the end tokens of the tokenizer and of the model's generation settings, and the token with which the
    chat template closes an answer. A model trained on the template ends with the last, and many a published
    generation config does not name it. A token that ends a message and not the turn, harmony's `<|end|>` behind the
    reasoning, is none of them.
    """
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    stops = {declared} if isinstance(declared, int) else set(declared or ())
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    closing = _closing_token_id(tokenizer)
    if closing is not None:
        stops.add(closing)
    return sorted(stops)


def positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens prompt and answer may have together, None where the model sets no bound."""
    return getattr(model.config, "max_position_embeddings", None)


def check_lengths(model: PreTrainedModel, rendered: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise `InputError` for a prompt that does not fit into the model's positions with its longest answer."""
    room = positions(model)
    for number, ids in enumerate(rendered, start=1):
        if room is not None and len(ids) + max_new_tokens > room:
            raise InputError(
                f"prompt {number} has {len(ids)} tokens, which with max_new_tokens {max_new_tokens} is more than the "
                f"model's {room} positions",
                hint="shorten the prompt or max_new_tokens",
            )


def pad_left(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Stack rows of ids, padded on the left; return ids and attention mask, both of shape (rows, longest)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), padding, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[index, width - len(row) :] = 1
    return ids, mask


def _closing_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the first special token that the chat template puts behind an assistant's answer, if there is one."""
    if tokenizer.chat_template is None:
        return None
    marker = "answer"
    conversation = [{"role": "user", "content": "question"}, {"role": "assistant", "content": marker}]
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
    except Exception:  # a template may raise whatever Python can; what it refuses is said of the data's own messages
        return None
    tail = str(text).rpartition(marker)[2]
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    if "<|channel|>" in str(tokenizer.chat_template):
        special.discard(tokenizer.convert_tokens_to_ids("<|end|>"))
    ids = tokenizer.encode(tail, add_special_tokens=False)
    return next((id for id in ids if id in special), None)


def _generation_config(
    settings: SamplingSettings, stops: list[int], padding: int, *, logits: bool
) -> GenerationConfig:
    """Name every setting that published models set: what is left out, `generate` takes from the model's own file."""
    sampled = settings.temperature > 0
    return GenerationConfig(
        eos_token_id=stops or None,
        pad_token_id=padding,
        num_beams=1,
        num_return_sequences=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=logits,
        do_sample=sampled,
        temperature=settings.temperature if sampled else 1.0,
        top_p=settings.top_p if sampled else 1.0,
        top_k=settings.top_k if sampled else 50,  # the default, which is not warned of and not used
    )


def _read_answer(
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    stops: list[int],
    first_token: tuple[tuple[str, float], ...],
    prompt: Sequence[int],
    entropies: Sequence[float],
) -> Completion:
    end = next((position for position, id in enumerate(ids) if id in stops), None)
    text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
    marked = _text_with_marks(tokenizer, ids[:end])
    if split_reasoning(marked, _opens_reasoning(tokenizer, prompt))[1] != marked:
        text = marked
    return Completion(
        text=text,
        finished=end is not None,
        first_token=first_token,
        tokens_in=len(prompt),
        tokens_out=len(ids[:end]),
        entropy=fmean(own) if (own := entropies[: None if end is None else end + 1]) else None,
    )


def _text_with_marks(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode ids without special tokens, but for those that mark reasoning in some families of models."""
    special = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    marks = {id for id, token in special.items() if _is_mark(token)}
    parts = [list(part) for _, part in groupby(ids, key=lambda id: id in marks)]
    return "".join(str(tokenizer.decode(part, skip_special_tokens=part[0] not in marks)) for part in parts)


def _is_mark(token: str) -> bool:
    return bool(token) and any(token in mark for mark in MARKS)


def _opens_reasoning(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> bool:
    return opens_reasoning(str(tokenizer.decode(list(prompt[-_LONGEST_MARK:]))))


def _first_tokens(
    tokenizer: PreTrainedTokenizerBase, logits_BV: Tensor, count: int
) -> list[tuple[tuple[str, float], ...]]:
    """Return the likeliest tokens of every row, as text, and their log-probabilities."""
    found = torch.log_softmax(logits_BV.float(), dim=-1).topk(count)
    return [
        tuple((str(tokenizer.decode([id])), value) for id, value in zip(ids, values, strict=True))
        for ids, values in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators that `generate` draws from, and give them back as they were."""
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield
