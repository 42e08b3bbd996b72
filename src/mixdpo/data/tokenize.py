"""Pairs to token ids: the prompt once, and two completions.

The rule. For conversations, the ids of the whole conversation as the tokenizer's chat template gives them are the
truth. The prompt ids are the longest common beginning of three renderings: the prompt with the generation prompt,
the whole chosen conversation, the whole rejected one. So both completions share exactly one prompt, and prompt plus
completion is always the template's own result. Where that beginning is shorter than the rendered prompt (a merge
across the boundary, or a template without generation prompt) the rest belongs to the completions and the pair is
counted as `boundary_moved`. A template that closes an answer with no special token gets the EOS token added,
since otherwise nobody learns to stop. Plain texts follow the same rule with the tokenizer's own special tokens, and
always end with one EOS.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from mixdpo.errors import InputError
from mixdpo.io import digest

_COUNTS = {
    "prompt_too_long": "pairs dropped because the prompt leaves no room for an answer within max_length",
    "prompt_truncated": "prompts cut on the left to max_prompt_length",
    "chosen_truncated": "chosen answers cut on the right to max_length: their end token is lost",
    "rejected_truncated": "rejected answers cut on the right to max_length: their end token is lost",
    "boundary_moved": "pairs whose prompt ends inside a token, or before the generation prompt",
    "eos_appended": "answers to which the end token was added, since the chat template closes them with none",
}


@dataclass(kw_only=True, frozen=True)
class TokenSettings:
    """Limits of length, in tokens."""

    max_length: int | None = field(default=1024, metadata={"help": "tokens of prompt + completion"})
    max_prompt_length: int | None = field(default=None, metadata={"help": "tokens of the prompt"})
    num_proc: int | None = field(default=None, metadata={"help": "processes"})


@dataclass
class TokenReport:
    """Counts of what happened in tokenisation, and lengths in tokens after truncation."""

    pairs: int
    counts: dict[str, int]
    lengths: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report in words: lengths, then whatever happened at least once."""
        lengths = ", ".join(f"{s} {v['mean']:.0f} (95 %: {v['p95']:.0f})" for s, v in self.lengths.items())
        counts = [f"{count:,} {_COUNTS[name]}" for name, count in self.counts.items() if count]
        return [f"{self.pairs:,} pairs; mean tokens: {lengths}", *counts]


def tokenize_pairs(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings
) -> tuple[Dataset, TokenReport]:
    """Tokenise the pairs of `load_pairs`.

    Returns:
        A data set with the columns `row` (index in `dataset`), `pair_id`, `prompt_ids`, `chosen_ids`,
        `rejected_ids` (lists of int32), without the pairs whose prompt leaves no room for an answer; and a report.

    Raises:
        InputError: messages but no chat template, or no pair is left.
    """
    is_chat = not isinstance(dataset.features["chosen"], Value)
    if is_chat and tokenizer.chat_template is None:
        raise InputError(
            f"the data holds messages, and the tokenizer {tokenizer.name_or_path!r} has no chat template",
            mend="use an instruct model's tokenizer or set model.chat_template to a template file",
        )
    render = _chat_renderer(tokenizer) if is_chat else _text_renderer(tokenizer)
    bos = tokenizer.bos_token_id

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in features}
        for i, index in enumerate(indices):
            tools = batch["tools"][i] if "tools" in batch else None
            texts = [batch[name][i] for name in ("prompt", "chosen", "rejected")]
            record = {"row": index, "pair_id": batch["pair_id"][i], **_token_pair(render, texts, tools, settings, bos)}
            for name, values in columns.items():
                values.append(record[name])
        return columns

    ids = List(Value("int32"))
    features = Features(
        {
            "row": Value("int64"),
            "pair_id": Value("string"),
            "prompt_ids": ids,
            "chosen_ids": ids,
            "rejected_ids": ids,
            **{name: Value("int8") for name in _COUNTS},
        }
    )
    key = [dataset._fingerprint, repr(settings), tokenizer.chat_template or "", repr(tokenizer.init_kwargs)]
    tokens = dataset.map(
        convert,
        batched=True,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=features,
        num_proc=settings.num_proc,
        load_from_cache_file=False,
        new_fingerprint=digest([*key, str(len(tokenizer))]),
        desc="tokenise",
    )
    counts = {name: int(np.sum(tokens[name][:])) for name in _COUNTS}
    if counts["prompt_too_long"] == len(tokens):
        raise InputError(
            f"all {len(tokens):,} prompts are too long for max_length {settings.max_length}", mend="raise max_length"
        )
    if counts["prompt_too_long"]:
        tokens = tokens.select(np.flatnonzero(np.asarray(tokens["prompt_too_long"][:]) == 0))
    tokens = tokens.remove_columns(list(_COUNTS))
    lengths = {side: _length_statistics(tokens[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")}
    return tokens, TokenReport(pairs=len(tokens), counts=counts, lengths=lengths)


# (prompt, completion or None, tools) -> (ids, whether an EOS was added); None renders the prompt alone.
_Renderer = Callable[[Any, Any, str | None], tuple[list[int], bool]]


def _chat_renderer(tokenizer: PreTrainedTokenizerBase) -> _Renderer:
    special = set(tokenizer.all_special_ids)
    special.update(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)

    def render(prompt: Any, completion: Any, tools: str | None) -> tuple[list[int], bool]:
        ids = tokenizer.apply_chat_template(
            [*prompt, *(completion or [])],
            tools=json.loads(tools) if tools else None,
            add_generation_prompt=completion is None,
            return_dict=False,
        )
        # After the answer's last token a template may still write a line end; a special token is among the last few.
        unclosed = completion is not None and tokenizer.eos_token_id is not None and not special & set(ids[-3:])
        return ([*ids, tokenizer.eos_token_id] if unclosed else ids), unclosed

    return render


def _text_renderer(tokenizer: PreTrainedTokenizerBase) -> _Renderer:
    eos = tokenizer.eos_token_id

    def render(prompt: Any, completion: Any, tools: str | None) -> tuple[list[int], bool]:
        ids = tokenizer(prompt + (completion or "")).input_ids
        if completion is not None and eos is not None and ids[-1:] != [eos]:
            ids = [*ids, eos]
        return ids, False

    return render


def _token_pair(
    render: _Renderer, texts: Sequence[Any], tools: str | None, settings: TokenSettings, bos: int | None
) -> dict[str, Any]:
    prompt, chosen, rejected = texts
    alone, _ = render(prompt, None, tools)
    (whole_chosen, appended_1), (whole_rejected, appended_2) = (render(prompt, c, tools) for c in (chosen, rejected))
    cut = _common_prefix(alone, whole_chosen, whole_rejected)
    prompt_ids, chosen_ids, rejected_ids = whole_chosen[:cut], whole_chosen[cut:], whole_rejected[cut:]
    record: dict[str, Any] = dict.fromkeys(_COUNTS, 0)
    record["boundary_moved"] = int(cut < len(alone))
    record["eos_appended"] = int(appended_1) + int(appended_2)

    limit = settings.max_prompt_length
    if limit is not None and len(prompt_ids) > limit:
        keeps_bos = bos is not None and prompt_ids[0] == bos and limit > 1
        prompt_ids = [bos, *prompt_ids[len(prompt_ids) - limit + 1 :]] if keeps_bos else prompt_ids[-limit:]
        record["prompt_truncated"] = 1
    if settings.max_length is not None:
        room = settings.max_length - len(prompt_ids)
        record["prompt_too_long"] = int(room < 1)
        record["chosen_truncated"] = int(1 <= room < len(chosen_ids))
        record["rejected_truncated"] = int(1 <= room < len(rejected_ids))
        chosen_ids, rejected_ids = chosen_ids[: max(room, 0)], rejected_ids[: max(room, 0)]

    return {**record, "prompt_ids": prompt_ids, "chosen_ids": chosen_ids, "rejected_ids": rejected_ids}


def _common_prefix(*sequences: Sequence[int]) -> int:
    """Return the length of the longest common beginning, leaving every whole conversation at least one token."""
    limit = min(len(sequences[0]), *(len(s) - 1 for s in sequences[1:]))
    first = sequences[0]
    return next((i for i in range(limit) if any(s[i] != first[i] for s in sequences[1:])), limit)


def _length_statistics(column: Sequence[Sequence[int]]) -> dict[str, float]:
    lengths = np.fromiter(map(len, column), dtype=np.int64, count=len(column))
    p50, p95 = np.percentile(lengths, [50, 95])
    return {"mean": float(lengths.mean()), "p50": float(p50), "p95": float(p95), "max": float(lengths.max())}
