"""One forward pass of a frozen model over all pairs, of which what the cache holds is not computed again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn

from mixdpo.common.errors import InputError
from mixdpo.common.processes import processes
from mixdpo.common.progress import pairs_bar
from mixdpo.data.arrays import place_of, token_counts
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_report import DROPS
from mixdpo.data.tokenize import tokens_of
from mixdpo.models.cached_logprobs import cached_values
from mixdpo.models.engine import (
    PackedRows,
    PaddedRows,
    PromptGroup,
    completion_logprobs,
    disable_dropout,
    hardware_has_bf16,
    pack_rows,
    pad_rows,
    prepare_packing,
    to_device,
)
from mixdpo.models.fingerprint import cache_file, describe_tokens
from mixdpo.models.forward_settings import ForwardSettings
from mixdpo.models.loading import load_policy, load_tokenizer
from mixdpo.models.model_settings import ModelSettings
from mixdpo.models.token_limits import check_tokens_fit, long_pairs_warning, tokens_of_longer_side

logger = logging.getLogger(__name__)


def check_same_tokens(model: ModelSettings, reference: ModelSettings, name: str) -> None:
    """Raise `InputError` unless two models read texts as the same tokens; `name` is the setting of the second."""
    if load_tokenizer(model).get_vocab() != load_tokenizer(reference).get_vocab():
        raise InputError(
            f"{model.name_or_path} and {reference.name_or_path} have different tokenizers, so their "
            "log-probabilities are not of the same tokens",
            hint=f"give the model that the aligned one was trained from as {name}",
        )


def load_frozen(settings: ModelSettings) -> nn.Module:
    """Load a model to run as it is: on its device, without dropout, a trained adapter part of it.

    Raises:
        InputError: no such model or adapter.
    """
    merged = settings.adapter is not None and not settings.load_in_4bit
    if merged and settings.dtype == "auto":
        settings = replace(settings, dtype="float32")  # merging would round the adapter's small changes away
    model: Any = load_policy(settings)
    if merged:
        model = model.merge_and_unload()
    elif settings.adapter is not None:  # 4-bit weights would round it away, so its layers stay beside them
        model = model.get_base_model()
    disable_dropout(model)
    model.requires_grad_(False).eval()
    return model if settings.load_in_4bit else model.to(processes().device)


def all_tokens(dataset: Dataset, settings: ModelSettings, limits: TokenSettings, metric: str) -> Dataset:
    """Tokenise pairs, none of which may be lost: a margin of every pair is wanted.

    Returns:
        What `tokens_of` does, with the columns of `dataset` that say where a pair stands.

    Raises:
        InputError: some pairs cannot be tokenised within the limits; says how many, why, and which is the first.
    """
    limits = replace(limits, chat_template_kwargs=settings.chat_template_kwargs, template_date=settings.template_date)
    tokens, report = tokens_of(dataset, load_tokenizer(settings), limits)
    lost = np.setdiff1d(np.arange(len(dataset)), tokens["row"][:])
    if len(lost):
        reasons = ", ".join(f"{report.counts[name]:,} {name}" for name in DROPS if report.counts[name])
        raise InputError(
            f"{metric} cannot read {len(lost):,} of {len(dataset):,} pairs ({reasons}), this one first",
            **place_of(dataset, int(lost[0])),
            hint="cut long prompts with max_prompt_length, raise max_length, or take these pairs out of the data",
        )
    if processes().is_main_process:
        report.log(logger, metric)
    places = [name for name in ("source_row", "source_file") if name in dataset.column_names]
    return concatenate_datasets([tokens, dataset.select_columns(places)], axis=1) if places else tokens


def pass_over(
    tokens: Dataset,
    model: nn.Module,
    rows_of: Callable[[list[PromptGroup]], Any],
    values_of: Callable[[Any], Tensor],
    settings: ForwardSettings,
    *,
    kind: str,
    name: str,
) -> np.ndarray:
    """Run a frozen model over pairs, longest first, on all processes; what the cache holds is not computed again.

    Args:
        tokens: from `all_tokens`.
        model: on its device.
        rows_of: lays out pairs (a prompt with two completions each) as input.
        values_of: the pass itself, from that input to shape (2 * pairs,): chosen, rejected, chosen, ...
        settings: batch size and number format.
        kind: what is computed; the cache's folder.
        name: what log and progress call it.

    Returns:
        float64, shape (N, 2): chosen, rejected.

    Raises:
        InputError: a pair has a token id or more tokens than the model can read.
    """
    check_tokens_fit(tokens, model, tokens)
    state = processes()
    if state.is_main_process and (warning := long_pairs_warning(model, tokens_of_longer_side(tokens))):
        logger.warning(warning)
    autocasts = _autocasts(settings)

    def values(index: np.ndarray) -> Tensor:
        pairs = tokens[index.tolist()]
        completions = zip(pairs["chosen_ids"], pairs["rejected_ids"], strict=True)
        masks = zip(pairs["chosen_mask"], pairs["rejected_mask"], strict=True)
        groups = [PromptGroup(*group) for group in zip(pairs["prompt_ids"], completions, masks, strict=True)]
        rows = to_device(rows_of(groups), state.device)
        with torch.no_grad(), torch.autocast(state.device.type, torch.bfloat16, enabled=autocasts):
            return values_of(rows).view(-1, 2)

    result, _ = cached_values(
        name,
        token_counts(tokens, ("prompt", "chosen", "rejected")) @ np.array([2, 1, 1]),  # tokens of both sequences
        values,
        batch_size=settings.batch_size,
        describe=lambda: describe_tokens(tokens, np.arange(len(tokens))),
        file=cache_file(kind, model, "bf16" if autocasts else "no") if state.is_main_process else None,
        on_progress=pairs_bar(name),
    )
    return result


RowsOf = Callable[[list[PromptGroup]], PackedRows | PaddedRows]


def _autocasts(settings: ForwardSettings) -> bool:
    """Whether the model runs in bfloat16."""
    return hardware_has_bf16() if settings.bf16 is None else settings.bf16


def layout_for(model: nn.Module, settings: ForwardSettings) -> RowsOf:
    """Return how the engine wants a causal model's input, packed where the model's attention allows it."""
    on_gpu = processes().device.type == "cuda"
    if prepare_packing(model, on_gpu, torch.bfloat16 if _autocasts(settings) else None) is None:
        return pack_rows
    return partial(pad_rows, pad_token_id=0)  # padding is masked out, so any id will do


def dataset_logprobs(tokens: Dataset, model: ModelSettings, settings: ForwardSettings, name: str) -> np.ndarray:
    """Return log pi(y | x) of chosen and rejected, sums over trained tokens in nats; float64, shape (N, 2)."""
    loaded = load_frozen(model)
    rows_of = layout_for(loaded, settings)
    return pass_over(
        tokens, loaded, rows_of, partial(completion_logprobs, loaded), settings, kind="reference", name=name
    )
