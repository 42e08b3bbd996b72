"""Pairs to token ids: the prompt once, and two completions.

The rule. For conversations the truth is `tokenizer.apply_chat_template` of the whole conversation. The prompt ids are
the longest common beginning of three renderings: the prompt with the generation prompt, the whole chosen
conversation, the whole rejected one. So both completions share exactly one prompt, and prompt plus completion is the
template's own result. Where that beginning ends before the rendered prompt does (a merge over the boundary, a
template that ignores the generation prompt and ends the prompt in another way), the rest belongs to the completions
and the pair is counted as `boundary_moved`. Where a template closes the answer with no special token, an EOS is
added, or nobody would learn to stop; that is counted too.

Which tokens are trained. Of an answer that is one message of the assistant, all; not an empty think block, nor the
header of a next answer that some templates write behind every conversation. Of an answer of several turns, what the
assistant says, each turn through its end token (`loss_masks.py`). There the prompt also takes what both answers share
before their first trained token.

Plain texts follow the same rule with `tokenizer(prompt)` and `tokenizer(prompt + completion)`: special tokens as the
tokenizer adds them, never a second BOS, one end token at the end.

Then lengths: the prompt is cut on the left to `max_prompt_length` (a leading BOS stays), prompt and completion
together on the right to `max_length`. Every cut and every dropped pair is counted, and no completion is ever empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from mixdpo.common.errors import InputError
from mixdpo.common.files import digest
from mixdpo.data.arrays import place_of
from mixdpo.data.cached_map import cached_map
from mixdpo.data.data_settings import LossTurns, TokenSettings
from mixdpo.data.loss_masks import Span
from mixdpo.data.render import ChatRenderer, Rendered, Renderer, TextRenderer
from mixdpo.data.template_arguments import CLOCK, today
from mixdpo.data.token_ids import Ids, shared_length
from mixdpo.data.token_report import ALARMS, COUNTS, DROPS, TokenReport, length_statistics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mixdpo.data.pair_dataset import PairDataset

PAIRS_PER_PROCESS: Final = 2000
"""So many pairs make up for starting a process."""

_CACHE_FORMAT: Final = "4"
_SIDES: Final = ("prompt", "chosen", "rejected")
_IDS: Final = tuple(f"{side}_ids" for side in _SIDES)
_MASKS: Final = ("chosen_mask", "rejected_mask")


def tokenize_pairs(
    pairs: PairDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template_kwargs: dict[str, Any] | None = None,
    assistant_only_loss: bool = True,
    loss_turns: LossTurns = "all",
    mask_empty_thinking: bool = True,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
) -> tuple[PairDataset, TokenReport]:
    """Return the tokens that training would see, and which of them it would train.

    Args:
        pairs: from `load_pairs`.
        tokenizer: of the model.
        chat_template_kwargs: settings of its chat template, such as ``{"enable_thinking": False}``.
        assistant_only_loss: train only what the assistant says in answers of several turns.
        loss_turns: `all` assistant turns of an answer, or the `last`.
        mask_empty_thinking: leave an empty think block at the start of an answer untrained.
        max_length: tokens of prompt and completion together, cut on the right; None: no limit.
        max_prompt_length: tokens of the prompt, cut on the left; None: no limit.

    Returns:
        A data set with the columns `row` (int64, index in `pairs`), `pair_id`, `prompt_ids`, `chosen_ids` and
        `rejected_ids` (lists of int32, none of them empty), `chosen_mask` and `rejected_mask` (lists of bool over the
        completion's ids; true where trained), without the pairs that the report counts as dropped.

    Raises:
        InputError: messages but no chat template, texts but no EOS token, no pair is left, a setting is out of its
            range, or `pairs` are rows that nobody has read yet.
    """
    if "pair_id" not in getattr(pairs, "column_names", ()):
        raise InputError("these rows are not read yet", hint="give load_pairs(rows)")
    settings = TokenSettings(
        chat_template_kwargs=chat_template_kwargs,
        assistant_only_loss=assistant_only_loss,
        loss_turns=loss_turns,
        mask_empty_thinking=mask_empty_thinking,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
    )
    return tokens_of(pairs, tokenizer, settings)


def tokens_of(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings | None = None
) -> tuple[Dataset, TokenReport]:
    """Tokenise pairs as `tokenize_pairs` does; the module's docstring has the rule.

    Raises:
        InputError: messages but no chat template, texts but no EOS token, or no pair is left.
    """
    settings = settings or TokenSettings()
    return kept_tokens(counted_tokens(dataset, tokenizer, settings), dataset, settings)


def counted_tokens(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> Dataset:
    """Tokenise every pair, and say of each what happened to it.

    Returns:
        A data set with a row for each pair, in their order: the columns of `tokenize_pairs`, with empty lists where
        the pair is dropped; one per name of `COUNTS` (int32); and `refusal` (string), why the template refuses it.

    Raises:
        InputError: messages but no chat template, or texts but no EOS token.
    """
    is_chat = not isinstance(dataset.features["chosen"], Value)
    renderer: Renderer = ChatRenderer(tokenizer, settings) if is_chat else TextRenderer(tokenizer)
    ids = List(Value("int32"))
    features = Features(
        {
            "row": Value("int64"),
            "pair_id": Value("string"),
            **dict.fromkeys(_IDS, ids),
            **dict.fromkeys(_MASKS, List(Value("bool"))),
            **dict.fromkeys(COUNTS, Value("int32")),
            "refusal": Value("string"),
        }
    )
    processes = settings.num_proc or min(_cores(), len(dataset) // PAIRS_PER_PROCESS)
    return cached_map(
        dataset,
        partial(_tokenize_batch, renderer=renderer, settings=settings, bos=tokenizer.bos_token_id),
        kind="tokens",
        key=_cache_key(dataset, tokenizer, settings),
        batched=True,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=features,
        num_proc=min(processes, len(dataset)) if processes > 1 else None,
        desc="tokenise",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cache_key(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> str:
    """Hash all that decides the token ids: pairs in their order, tokenizer, template and limits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    columns = [n for n in ("pair_id", *_SIDES, "tools", "chat_template_kwargs") if n in dataset.column_names]
    told = {**asdict(settings), "num_proc": None, "template_date": None}
    if CLOCK in template:
        told["template_date"] = settings.template_date or today()
    contents = dataset.select_columns(columns).with_format("arrow")[:].combine_chunks()
    return digest(
        [
            _CACHE_FORMAT,
            f"{type(tokenizer).__name__} {tokenizer.special_tokens_map}",
            own,
            template,
            json.dumps(told, sort_keys=True, default=repr),
            *(batch.serialize().to_pybytes() for batch in contents.to_batches()),
        ]
    )


def kept_tokens(tokens: Dataset, dataset: Dataset, settings: TokenSettings) -> tuple[Dataset, TokenReport]:
    """Return what `tokens_of` does, of what `counted_tokens` gave for the same pairs and settings.

    Raises:
        InputError: no pair is left.
    """
    table = tokens.with_format("arrow")[:]
    counts = {name: int(pc.sum(table[name]).as_py()) for name in COUNTS}
    refusal = next((text for text in table["refusal"].drop_null().slice(0, 1).to_pylist()), None)
    keep = sum(table[name].to_numpy() for name in DROPS) == 0
    if not keep.any():
        found = ", ".join(f"{counts[name]:,} {name}" for name in (*DROPS, *ALARMS) if counts[name])
        raise InputError(
            f"all {len(tokens):,} pairs were dropped in tokenisation ({found})" + (f": {refusal}" if refusal else ""),
            hint=f"raise max_length (it is {settings.max_length})"
            if counts["prompt_too_long"] or counts["nothing_trained"]
            else "use a chat template that fits the messages",
        )
    lengths = {side: pc.list_value_length(table[f"{side}_ids"]).to_numpy()[keep] for side in _SIDES}
    report = TokenReport(
        pairs=int(keep.sum()),
        counts=counts,
        lengths=length_statistics(lengths),
        refusal=refusal,
        first=_first_rows(table, dataset),
    )
    tokens = tokens.remove_columns([*COUNTS, "refusal"])
    return (tokens if keep.all() else tokens.select(np.flatnonzero(keep))), report


def _first_rows(table: pa.Table, dataset: Dataset) -> dict[str, int]:
    """Return the row, from 1, of the first pair that each count touched."""
    firsts = {name: int(np.argmax(table[name].to_numpy() > 0)) for name in COUNTS if pc.max(table[name]).as_py()}
    return {name: place_of(dataset, table["row"][place].as_py())["row"] for name, place in firsts.items()}


def _tokenize_batch(
    batch: Mapping[str, list[Any]],
    rows: Sequence[int],
    *,
    renderer: Renderer,
    settings: TokenSettings,
    bos: int | None,
) -> dict[str, list[Any]]:
    pairs = [
        {"template_refused": 1, "refusal": pair} if isinstance(pair, str) else _fitted(pair, settings, bos, renderer)
        for pair in renderer(batch)
    ]
    result: dict[str, list[Any]] = {"row": list(rows), "pair_id": batch["pair_id"]}
    for name in (*_IDS, *_MASKS):
        result[name] = [pair.get(name, []) for pair in pairs]
    for name in COUNTS:
        result[name] = [pair.get(name, 0) for pair in pairs]
    result["refusal"] = [pair.get("refusal") for pair in pairs]
    return result


def _fitted(pair: Rendered, settings: TokenSettings, bos: int | None, renderer: Renderer) -> dict[str, Any]:
    """Return ids, masks and counts of a pair, split at its boundary and cut to its limits; of a dropped one counts."""
    if "turns_unclear" in pair.counts:
        return {"turns_unclear": 1}
    end = shared_length(pair.prompt, pair.chosen, pair.rejected)
    moved = end < len(pair.prompt)
    if moved and pair.counts.get("untrained_turns"):
        # A template may write a conversation's first turns in another way when more of them follow.
        first = min(spans[0][0] for spans in pair.trained.values())
        end = max(end, min(first, shared_length(pair.chosen, pair.rejected)))
        moved = end < first
    if end == 0:
        # Nothing stands before the first token, so no model can say how likely it is.
        return {"no_shared_tokens": 1}
    prompt, chosen, rejected = pair.chosen[:end], pair.chosen[end:], pair.rejected[end:]
    if not chosen or not rejected:
        return {"not_rendered": 1}
    answers = {"chosen": chosen, "rejected": rejected}
    masks = [_mask(pair.trained.get(side), end, len(ids)) for side, ids in answers.items()]
    trained = [list(compress(ids, mask)) for ids, mask in zip(answers.values(), masks, strict=True)]
    if any(map(renderer.ends.say_nothing, trained)):
        return {**pair.counts, "only_end_token": 1}
    counts = {**pair.counts, "boundary_moved": int(moved), "same_after_template": int(chosen == rejected)}
    if settings.max_prompt_length is not None and len(prompt) > settings.max_prompt_length:
        prompt = _cut_left(prompt, settings.max_prompt_length, bos)
        counts["prompt_truncated"] = 1
    if settings.max_length is not None:
        room = settings.max_length - len(prompt)
        if room < 1:
            return {"prompt_too_long": 1}
        counts["chosen_truncated"], counts["rejected_truncated"] = int(len(chosen) > room), int(len(rejected) > room)
        were_equal = chosen == rejected
        chosen, rejected, masks = chosen[:room], rejected[:room], [mask[:room] for mask in masks]
        counts["same_after_truncation"] = int(chosen == rejected and not were_equal)
    if not all(map(any, masks)):
        return {"nothing_trained": 1}
    ids = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    return {**counts, **ids, **dict(zip(_MASKS, masks, strict=True))}


def _mask(trained: Sequence[Span] | None, start: int, length: int) -> list[bool]:
    """Return which of the `length` ids from `start` on are trained."""
    if trained is None:
        return [True] * length
    mask = [False] * length
    for first, last in trained:
        first, last = max(first - start, 0), max(last - start, 0)
        mask[first:last] = [True] * (last - first)
    return mask


def _cut_left(ids: Ids, length: int, bos: int | None) -> Ids:
    keep_bos = bos is not None and ids[0] == bos
    tail = ids[len(ids) - length + keep_bos :]
    return [ids[0], *tail] if keep_bos else tail
