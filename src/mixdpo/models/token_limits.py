"""Whether a model can read pairs: their token ids have embeddings, and their tokens positions.

A GPU answers a token id without an embedding with an assertion of the device, long after the run was planned.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from torch import nn

from mixdpo.common.errors import InputError
from mixdpo.data.arrays import place_of, token_counts
from mixdpo.models.engine import causal_model

# Their positions are computed, and only as many as the config says.
_COMPUTED_ONCE = {"gptj": "n_positions", "codegen": "n_positions", "ctrl": "n_positions", "mpt": "max_seq_len"}
_SIDES = ("prompt", "chosen", "rejected")
# GPT-2's wpe, OPT's embed_positions, BERT's position_embeddings, also under what peft wraps them in.
_POSITIONS = re.compile(r"(?:^|\.)(?:wpe|\w*pos\w*)(?:\.base_layer|\.original_module)?$")


def check_tokens_fit(tokens: Dataset, model: nn.Module, loaded: Dataset) -> None:
    """Check that a model has an embedding for every token id of pairs and a position for every token.

    Args:
        tokens: pairs from `tokens_of`.
        model: with its weights, perhaps with adapters.
        loaded: the pairs they were made of, or `tokens` itself with what `place_of` reads.

    Raises:
        InputError: it lacks one; names the first such pair.
    """
    rows = embedding_rows(model)
    table = tokens.select_columns([f"{side}_ids" for side in _SIDES]).with_format("arrow")[:]
    highest = max(pc.max(pc.list_flatten(column)).as_py() for column in table.columns)
    if highest >= rows:
        index, token = _first_beyond(tokens, rows)
        raise InputError(
            f"the pair has token id {token}, and the model has embeddings for ids 0 to {rows - 1:,} (highest of all "
            f"pairs: {highest:,})",
            **place_of(loaded, int(tokens[index]["row"])),
            hint="take the tokenizer that the model was trained with, or resize the model's embeddings to the "
            "tokenizer with resize_token_embeddings and save it",
        )
    positions = fixed_positions(model)
    lengths = tokens_of_longer_side(tokens)
    if positions is not None and lengths.max() > positions:
        longer = np.flatnonzero(lengths > positions)
        raise InputError(
            f"prompt and answer are {lengths[longer[0]]:,} tokens, and the model has {positions:,} positions "
            f"({len(longer):,} of {len(lengths):,} pairs are longer)",
            **place_of(loaded, int(tokens[int(longer[0])]["row"])),
            hint=f"set max_length to {positions} or less",
        )


def long_pairs_warning(model: nn.Module, lengths: np.ndarray) -> str | None:
    """Return a warning if pairs are longer than what a model whose positions have no end is made for.

    Args:
        model: a language model.
        lengths: `tokens_of_longer_side` of the pairs.
    """
    most = getattr(causal_model(model).config.get_text_config(), "max_position_embeddings", None)
    if most is None or fixed_positions(model) is not None or lengths.max() <= most:
        return None
    return (
        f"{(lengths > most).sum():,} of {len(lengths):,} pairs are longer than the {most:,} tokens that the model is "
        f"made for (the longest has {lengths.max():,}); set max_length to {most} to cut them"
    )


def tokens_of_longer_side(tokens: Dataset) -> np.ndarray:
    """Return the tokens of each prompt with the longer of its answers; int64, shape (N,)."""
    prompt, chosen, rejected = token_counts(tokens, _SIDES).T
    return prompt + np.maximum(chosen, rejected)


def embedding_rows(model: nn.Module) -> int:
    """Return how many token ids, from 0, have an embedding and an output; some models pad both."""
    inner = causal_model(model)
    tables = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    shapes = [getattr(table.weight, "ds_shape", table.weight.shape) for table in tables if table is not None]
    return min(int(shape[0]) for shape in shapes)


def fixed_positions(model: nn.Module) -> int | None:
    """Return how many tokens a model can read whose positions are a table, None where they have no end, as in RoPE."""
    inner: Any = causal_model(model)
    config = inner.config.get_text_config()
    if config.model_type in _COMPUTED_ONCE:
        return int(getattr(config, _COMPUTED_ONCE[config.model_type]))
    for name, module in inner.get_decoder().named_modules():
        if isinstance(module, nn.Embedding) and _POSITIONS.search(name):
            padding = module.padding_idx
            # OPT's table begins with two rows, RoBERTa's with those up to padding, that no token gets.
            return module.num_embeddings - getattr(module, "offset", 0 if padding is None else padding + 1)
    return None


def _first_beyond(tokens: Dataset, rows: int) -> tuple[int, int]:
    """Return the first pair with a token id that is not below `rows`, and the id."""
    return next(
        (index, token)
        for index, pair in enumerate(tokens)
        for side in _SIDES
        for token in pair[f"{side}_ids"]
        if token >= rows
    )
