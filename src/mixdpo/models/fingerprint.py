"""What a pass depends on, as the name of a file and the names of its rows: weights, number format, token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from mixdpo.common.files import cache_folder, digest
from mixdpo.data.arrays import trained_counts
from mixdpo.models.engine import without_wrappers

_FORMAT: Final = "3"
_PAIRS_AT_ONCE: Final = 50_000
# Entries of a model's config that name it or say how it was saved or is run, and leave its outputs as they are.
_NOT_OF_THE_FORWARD: Final = {
    "_name_or_path",
    "transformers_version",
    "architectures",  # the model's class is in the key
    "dtype",  # so is that of every weight
    "torch_dtype",
    "use_cache",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
}


def cache_file(kind: str, model: nn.Module, precision: str) -> Path | None:
    """Return where the values of a model's pass over pairs are kept, None if its weights are spread over processes.

    Args:
        kind: what is computed: `reference` (log-probabilities), `reward`, `ches`.
        model: with its weights as they are in the pass, not yet sharded.
        precision: the number format of the forward pass, as accelerate names it.
    """
    weights = weights_digest(model)
    if weights is None:
        return None
    return cache_folder() / kind / f"{digest([_FORMAT, weights, precision])}.parquet"


def weights_digest(model: nn.Module) -> str | None:
    """Return a digest (32 hexadecimal digits) of what decides a model's outputs, None if weights are not whole.

    That is every parameter and buffer with its name, dtype and shape, the model's class, and its config without the
    entries that only describe it. Of a model with adapters it is the base model alone, under the names it has
    without them.
    """
    inner = without_wrappers(model)
    adapters_off = hasattr(inner, "disable_adapter")
    base = inner.get_base_model() if adapters_off else inner
    named = list(_named_tensors(base, adapters_off))
    if any(tensor.is_meta or hasattr(tensor, "ds_id") or hasattr(tensor, "__tensor_flatten__") for _, tensor in named):
        return None  # on no device yet, partitioned by DeepSpeed, or a DTensor
    named = list({id(tensor): (name, tensor) for name, tensor in reversed(named)}.values())  # tied ones once
    # Hashing leaves the interpreter free, so threads help; each holds one tensor on the host.
    with ThreadPoolExecutor(max_workers=8) as pool:
        contents = list(pool.map(_tensor_digest, [tensor for _, tensor in named]))
    described = [
        (name, str(tensor.dtype), tuple(tensor.shape), content)
        for (name, tensor), content in zip(named, contents, strict=True)
    ]
    config = json.dumps(_of_the_forward(base.config.to_dict()), sort_keys=True, default=str)
    return digest([type(base).__name__, config, *map(repr, sorted(described))])


def describe_tokens(tokens: Dataset, index: np.ndarray) -> pa.Table:
    """Return the columns `pair` (digest of ids and masks), `chosen_tokens` and `rejected_tokens` (trained ones).

    Masks are part of the digest only where some token is untrained.

    Args:
        tokens: output of `tokens_of`.
        index: int64, which of its pairs.
    """
    table = tokens.with_format("arrow")[:]  # mapped from disk; what is taken out of it is in memory
    blocks = np.array_split(index, max(1, -(-len(index) // _PAIRS_AT_ONCE)))
    chosen, rejected = trained_counts(tokens)[index].astype(np.int32).T
    return pa.table(
        {
            "pair": pa.array([key for block in blocks for key in _pair_keys(table.take(block))], pa.string()),
            "chosen_tokens": chosen,
            "rejected_tokens": rejected,
        }
    )


def _pair_keys(table: pa.Table) -> Iterator[str]:
    ids = zip(*(_id_bytes(table[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")), strict=True)
    masks = zip(*(_mask_bytes(table[f"{side}_mask"]) for side in ("chosen", "rejected")), strict=True)
    for sides, untrained in zip(ids, masks, strict=True):
        yield digest([*sides, *untrained] if any(untrained) else sides)


def _named_tensors(module: nn.Module, adapters_off: bool, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters and buffers, without adapters if these are off."""
    while adapters_off and isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
    # Unlike named_parameters this has the scales of quantised weights; it lacks buffers that are not saved.
    own: dict[str, Any] = {}
    module._save_to_state_dict(own, prefix, keep_vars=True)
    own.update((prefix + name, buffer) for name, buffer in module.named_buffers(recurse=False))
    yield from ((name, value) for name, value in own.items() if isinstance(value, Tensor))
    for name, child in module.named_children():
        yield from _named_tensors(child, adapters_off, f"{prefix}{name}.")


def _tensor_digest(tensor: Tensor) -> str:
    data = tensor.data.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(data.data, digest_size=16).hexdigest()


def _of_the_forward(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _of_the_forward(value) if isinstance(value, dict) else value  # the parts of a composed model
        for name, value in config.items()
        if name not in _NOT_OF_THE_FORWARD
    }


def _id_bytes(column: pa.ChunkedArray) -> Iterator[bytes]:
    for chunk in column.chunks:
        values = chunk.values.to_numpy().astype("<i4", copy=False)
        for start, end in pairwise(chunk.offsets.to_numpy()):
            yield values[start:end].tobytes()


def _mask_bytes(column: pa.ChunkedArray) -> Iterator[bytes]:
    """Yield each mask as bits, and nothing where all tokens are trained."""
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        for start, end in pairwise(chunk.offsets.to_numpy()):
            mask = values[start:end]
            yield b"" if mask.all() else np.packbits(mask).tobytes()
