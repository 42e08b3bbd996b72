"""What a tokenizer and its chat template make of the pairs: lengths, cuts, BOS and EOS, unknown tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import RARE, Section, each_alone
from mixdpo.auditing.statistics import length_histograms, share, summary
from mixdpo.auditing.texts import SIDES
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_report import COUNTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokens_check(data: AuditData) -> Section:
    """Show the token counts, and flag the pairs that training would cut: `too_long`."""
    if data.tokens is None or data.token_counts is None:
        return Section(figures=None)
    counted, limit = data.token_counts, data.settings.max_length
    longest = counted["prompt"] + np.maximum(counted["chosen"], counted["rejected"])
    flagged = replace(
        each_alone(longest > limit),
        looked_at=data.tokens["pairs"],
        measure=f"of pairs tokenised exceed {limit} tokens",
        line=f"train.max_length: {_next_length(data.tokens['cut'], limit)}",
    )
    return Section(figures=data.tokens, flagged={"too_long": flagged})


def token_figures(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_lengths: Sequence[int],
    most_pairs: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Tokenise a random subset exactly as training does, without limits of length, and count.

    Returns:
        figures, and the tokens of every pair by side, int64 of shape (N,), -1 for those left out.

    Raises:
        InputError: as `tokens_of`.
    """
    from mixdpo.data.tokenize import tokens_of  # loads transformers

    rows = np.sort(rng.permutation(len(dataset))[:most_pairs])
    part = dataset if len(rows) == len(dataset) else dataset.select(rows)
    tokens, report = tokens_of(part, tokenizer, TokenSettings(max_length=None, num_proc=1))
    table = tokens.with_format("arrow")[:]
    ids = {side: table[f"{side}_ids"].combine_chunks() for side in SIDES}
    lengths = {side: np.diff(values.offsets.to_numpy()) for side, values in ids.items()}
    longest = lengths["prompt"] + np.maximum(lengths["chosen"], lengths["rejected"])
    n = len(table)
    ends = np.concatenate([_occurrences(ids[side], tokenizer.eos_token_id) for side in ("chosen", "rejected")])
    unknown = tokenizer.unk_token_id
    has_unknown = np.zeros(n, dtype=bool)
    for values in ids.values() if unknown is not None and unknown != tokenizer.eos_token_id else ():
        has_unknown |= _occurrences(values, unknown) > 0
    bos_counts = None if tokenizer.bos_token_id is None else _occurrences(ids["prompt"], tokenizer.bos_token_id)
    everywhere = {side: np.full(len(dataset), -1, dtype=np.int64) for side in SIDES}
    for side, values in lengths.items():
        everywhere[side][rows[table["row"].to_numpy()]] = values
    figures = {
        "tokenizer": tokenizer.name_or_path,
        "pairs": n,
        "of": len(dataset),
        "lengths": {**{side: summary(v) for side, v in lengths.items()}, "total": summary(longest)},
        "histograms": length_histograms({"prompt": lengths["prompt"]})
        | length_histograms({side: lengths[side] for side in ("chosen", "rejected")})
        | length_histograms({"total": longest}),
        "cut": [{"max_length": limit, "pairs": share(int((longest > limit).sum()), n)} for limit in max_lengths],
        "unknown": share(int(has_unknown.sum()), n),
        "no_bos": None if bos_counts is None else share(int((bos_counts == 0).sum()), n),
        # Templates such as ChatML begin every turn with the BOS token; there, several are right.
        "double_bos": None
        if bos_counts is None or _bos_in_turns(tokenizer) > 1
        else share(int((bos_counts > 1).sum()), n),
        "eos": {
            "answers": len(ends),
            "none": share(int((ends == 0).sum()), len(ends)),
            "several": share(int((ends > 1).sum()), len(ends)),
        },
        "template_would_double_bos": _would_double(tokenizer),
        "counts": [
            {"name": name, "meaning": COUNTS[name], "pairs": count}
            for name, count in report.counts.items()
            if not name.endswith("_truncated") and name not in ("prompt_too_long", "same_after_truncation")
        ],
    }
    return figures, everywhere


def _occurrences(texts: pa.ListArray, token: int | None) -> np.ndarray:
    """Return how often each text holds a token, int64 of shape (N,)."""
    owner = np.repeat(np.arange(len(texts)), np.diff(texts.offsets.to_numpy()))
    return np.bincount(owner[texts.flatten().to_numpy() == token], minlength=len(texts))


def _bos_in_turns(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many BOS tokens the chat template puts into three turns; 0 without a template."""
    if tokenizer.chat_template is None:
        return 0
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    ids: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    return list(ids).count(tokenizer.bos_token_id)


def _would_double(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether text made by the chat template gets a second BOS when it is tokenised as plain text."""
    bos = tokenizer.bos_token
    if bos is None or tokenizer.chat_template is None:
        return False
    message = [{"role": "user", "content": "a"}]
    text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    return text.startswith(bos) and tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2


def _next_length(cuts: Sequence[Mapping[str, Any]], max_length: int) -> int:
    """Return the shortest of the usual lengths that cuts fewer than `RARE` of the pairs, or the longest."""
    longer = [cut for cut in cuts if cut["max_length"] > max_length]
    enough = [cut["max_length"] for cut in longer if cut["pairs"]["value"] < RARE]
    return enough[0] if enough else max([max_length, *(cut["max_length"] for cut in longer)])
