"""What is known of the pairs as tokens: figures, lengths, what was counted of each, and a few pairs to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from datasets import Dataset

from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.auditing.statistics import length_histograms, share, summary
from mixdpo.auditing.texts import SIDES
from mixdpo.auditing.token_examples import token_examples
from mixdpo.data.arrays import place_of, token_counts, trained_counts
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.template_arguments import today
from mixdpo.data.token_report import ALARMS, COUNTS, DROPS
from mixdpo.data.tokenize import counted_tokens, kept_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FLAGGED: Final = tuple(name for name in (*DROPS, *ALARMS) if name not in ("bos_in_answer", "special_in_text"))
"""What tokenisation counts and the audit flags; the other two are `special`, which is looked for in all pairs."""
LIMITED: Final = ("prompt_too_long", "nothing_trained", "same_after_truncation")
"""Those that come from limits of length."""
SHOWN: Final = 2
"""Pairs shown as tokens: so many from the start, so many of which a part is not trained, and one of each finding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenFacts:
    """N pairs as tokens, of which a random part was tokenised.

    Attributes:
        figures: for the page and `report.json`.
        counts: by side, the tokens of every text without limits, int64 of shape (N,), -1 where they are not known.
        flags: by name in `FLAGGED`, whether it happened to a pair; bool of shape (N,).
        examples: a few pairs to be read.
    """

    figures: dict[str, Any]
    counts: Mapping[str, np.ndarray]
    flags: Mapping[str, np.ndarray]
    examples: list[dict[str, Any]]


def token_facts(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    settings: AuditSettings,
    told: TokenSettings,
    rng: np.random.Generator,
) -> TokenFacts:
    """Tokenise a random subset exactly as training does, and count.

    Args:
        dataset: pairs from `load_pairs`.
        tokenizer: of the model.
        settings: how many pairs, and the `max_length` that training will keep.
        told: what tokenisation is told besides.
        rng: draws the subset.

    Raises:
        InputError: as `tokens_of`.
    """
    rows = np.sort(rng.permutation(len(dataset))[: settings.token_pairs])
    part = dataset if len(rows) == len(dataset) else dataset.select(rows)
    limits = replace(told, max_length=settings.max_length, num_proc=1)
    no_limits = replace(limits, max_length=None, max_prompt_length=None)
    counted = counted_tokens(part, tokenizer, no_limits)
    tokens, _ = kept_tokens(counted, part, no_limits)
    table = tokens.with_format("arrow")[:]
    kept = table["row"].to_numpy()
    ids = {side: table[f"{side}_ids"].combine_chunks() for side in SIDES}
    lengths = {side: np.diff(values.offsets.to_numpy()) for side, values in ids.items()}
    longest = lengths["prompt"] + np.maximum(lengths["chosen"], lengths["rejected"])
    everywhere = {side: np.full(len(dataset), -1, dtype=np.int64) for side in SIDES}
    for side, values in lengths.items():
        everywhere[side][rows[kept]] = values

    happened = _happened(counted)
    longest_prompt = np.inf if told.max_prompt_length is None else told.max_prompt_length
    long = kept[(longest > settings.max_length) | (lengths["prompt"] > longest_prompt)]
    if len(long):  # of the others a limit changes nothing
        for name, values in _happened(counted_tokens(part.select(long), tokenizer, limits)).items():
            happened[name][long] = np.maximum(happened[name][long], values)
    flags = {name: np.zeros(len(dataset), dtype=bool) for name in FLAGGED}
    for name, flag in flags.items():
        flag[rows] = happened[name] > 0

    answers = token_counts(tokens)
    first_of_each = [np.flatnonzero(happened[name])[:1] for name in FLAGGED]
    partly = kept[(trained_counts(tokens) < answers).any(axis=1)]
    shown = np.unique(np.concatenate([np.arange(len(part))[:SHOWN], partly[:SHOWN], *first_of_each]))
    return TokenFacts(
        figures={
            "tokenizer": tokenizer.name_or_path,
            "pairs": len(table),
            "tokenised": len(part),
            "of": len(dataset),
            "max_length": settings.max_length,
            "told": {
                "max_prompt_length": told.max_prompt_length,
                "assistant_only_loss": told.assistant_only_loss,
                "loss_turns": told.loss_turns,
                "mask_empty_thinking": told.mask_empty_thinking,
                "chat_template_kwargs": told.chat_template_kwargs,
                "template_date": told.template_date or today(),
            },
            **_length_figures(lengths, longest, settings),
            **_special_figures(ids, tokenizer),
            "counts": [_count(name, values, part) for name, values in happened.items()],
        },
        counts=everywhere,
        flags=flags,
        examples=token_examples(part, shown.tolist(), tokenizer, limits),
    )


def _happened(counted: Dataset) -> dict[str, np.ndarray]:
    """Return by name how often everything that is counted happened to each pair; int64 of shape (N,)."""
    table = counted.select_columns(list(COUNTS)).with_format("arrow")[:]
    return {name: table[name].to_numpy().astype(np.int64) for name in COUNTS}


def _count(name: str, happened: np.ndarray, part: Dataset) -> dict[str, Any]:
    touched = np.flatnonzero(happened)
    first = place_of(part, int(touched[0]))["row"] if len(touched) else None
    return {"name": name, "meaning": COUNTS[name], "pairs": int(happened.sum()), "first": first}


def _length_figures(lengths: Mapping[str, np.ndarray], longest: np.ndarray, settings: AuditSettings) -> dict[str, Any]:
    n = len(longest)
    cuts = ((limit, int((longest > limit).sum())) for limit in settings.max_lengths)
    return {
        "lengths": {**{side: summary(v) for side, v in lengths.items()}, "total": summary(longest)},
        "histograms": length_histograms({"prompt": lengths["prompt"]})
        | length_histograms({side: lengths[side] for side in ("chosen", "rejected")})
        | length_histograms({"total": longest}),
        "cut": [{"max_length": limit, "pairs": share(cut, n)} for limit, cut in cuts],
    }


def _special_figures(ids: Mapping[str, pa.ListArray], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    n = len(ids["prompt"])
    ends = np.concatenate([_occurrences(ids[side], tokenizer.eos_token_id) for side in ("chosen", "rejected")])
    unknown = tokenizer.unk_token_id
    has_unknown = np.zeros(n, dtype=bool)
    for values in ids.values() if unknown is not None and unknown != tokenizer.eos_token_id else ():
        has_unknown |= _occurrences(values, unknown) > 0
    bos_counts = None if tokenizer.bos_token_id is None else _occurrences(ids["prompt"], tokenizer.bos_token_id)
    return {
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
    }


def _occurrences(texts: pa.ListArray, token: int | None) -> np.ndarray:
    """Return how often each text holds a token, int64 of shape (N,)."""
    owner = np.repeat(np.arange(len(texts)), np.diff(texts.offsets.to_numpy()))
    return np.bincount(owner[texts.flatten().to_numpy() == token], minlength=len(texts))


def _bos_in_turns(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many BOS tokens the chat template puts into three turns; 0 without a template."""
    if tokenizer.chat_template is None:
        return 0
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    try:
        ids: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    except Exception:  # a template may raise whatever Python can; what it refuses of the data is counted
        return 0
    return list(ids).count(tokenizer.bos_token_id)


def _would_double(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether text made by the chat template gets a second BOS when it is tokenised as plain text."""
    bos = tokenizer.bos_token
    if bos is None or tokenizer.chat_template is None:
        return False
    message = [{"role": "user", "content": "a"}]
    try:
        text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    except Exception:  # as above
        return False
    return text.startswith(bos) and tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
