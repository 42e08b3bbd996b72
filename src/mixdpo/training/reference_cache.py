"""Reference log-probabilities kept on disk: one file per reference, one row per pair of token sequences.

A file belongs to the weights of a reference and the number format of its forward pass; its name says which. Inside,
a pair is known by its token ids. So another template, tokenizer, limit of length or data set finds the pairs whose
ids are the same, and nothing else of a run (losses, learning rate, batches, plan) matters. Every row carries the
sums over a completion's tokens, in nats, and how many tokens these are.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from filelock import FileLock
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from mixdpo.engine import without_wrappers
from mixdpo.io import atomic_path, cache_folder, digest
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.reference import reference_rows
from mixdpo.training.sampling import PlannedPairs

logger = logging.getLogger(__name__)

_FORMAT: Final = "1"
_SCHEMA: Final = pa.schema(
    {
        "pair": pa.string(),
        "ref_chosen": pa.float32(),
        "ref_rejected": pa.float32(),
        "chosen_tokens": pa.int32(),
        "rejected_tokens": pa.int32(),
    }
)
_VALUES: Final = ("ref_chosen", "ref_rejected")
_DIGEST: Final = b"mixdpo_digest"
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


@dataclass(frozen=True)
class CacheUse:
    """How many pairs a data set's reference needed: found in the cache, and computed; `file` is None without one."""

    found: int
    computed: int
    file: Path | None


def fill_reference(
    pairs: PlannedPairs,
    name: str,
    compute: Callable[[PlannedPairs, np.ndarray], np.ndarray],
    file: Path | None,
    accelerator: Accelerator,
) -> CacheUse:
    """Fill in `pairs.reference` where a loss reads it, computing only what the cache does not hold.

    Args:
        pairs: the data set.
        name: what the log calls it.
        compute: `reference_pass` given all but pairs and rows; called on all processes, or on none if nothing lacks.
        file: the cache of this reference, None to do without; only that of the main process is used.
        accelerator: tells the other processes what the main process found.

    Returns:
        Where the values come from. A cache that cannot be written is warned of, and is None there.
    """
    rows = reference_rows(pairs)
    reference = np.full_like(pairs.reference, np.nan)
    if file is not None:
        described = describe_pairs(pairs, rows)
        reference[rows] = look_up(file, described["pair"])
    reference = broadcast(torch.from_numpy(reference).to(accelerator.device)).cpu().numpy()
    lacking = np.isnan(reference[rows]).any(axis=1)
    use = CacheUse(found=int((~lacking).sum()), computed=int(lacking.sum()), file=file)
    if file is not None:
        logger.info("reference (%s): %d pairs from the cache, %d to compute", name, use.found, use.computed)
    if use.computed:
        reference[rows[lacking]] = compute(pairs, rows[lacking])[rows[lacking]]
    if file is not None and use.computed:
        values = dict(zip(_VALUES, reference[rows[lacking]].T.copy(), strict=True))
        computed = described.filter(pa.array(lacking))
        try:
            add_to_cache(file, pa.table({**values, **{name: computed[name] for name in computed.column_names}}))
        except OSError as error:
            logger.warning("%s: the reference cannot be kept (%s)", file, error.strerror or error)
            use = replace(use, file=None)
    pairs.reference = reference
    return use


def reference_file(model: nn.Module, args: MixDPOConfig, accelerator: Accelerator) -> Path | None:
    """Return where the log-probabilities of a reference are kept; None without a cache and on other processes.

    Args:
        model: the reference, with its weights as they are in the reference pass, not yet sharded.
        args: `reference_cache`, `tf32` and `ld_alpha` are read.
        accelerator: knows the number format of the forward pass.
    """
    if not (args.reference_cache and accelerator.is_main_process):
        return None
    weights = weights_digest(model)
    if weights is None:
        logger.info("the reference's weights are spread over processes: its values are not kept in the cache")
        return None
    precision = f"{accelerator.mixed_precision}{' tf32' if args.tf32 else ''}"
    variant = [] if args.ld_alpha is None else [f"ld_alpha {args.ld_alpha}"]
    return cache_folder() / "reference" / f"{digest([_FORMAT, weights, precision, *variant])}.parquet"


# ---- keys ----


def weights_digest(model: nn.Module) -> str | None:
    """Return a digest (32 hexadecimal digits) of what decides a reference's outputs, None if weights are not whole.

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


def describe_pairs(pairs: PlannedPairs, rows: np.ndarray) -> pa.Table:
    """Return the columns `pair` (digest of the token ids), `chosen_tokens` and `rejected_tokens` of loaded rows."""
    tokens = pairs.tokens.with_format("arrow")[:]
    position = np.full(len(pairs.plan), -1)
    position[tokens["row"].to_numpy()] = np.arange(len(tokens))
    tokens = tokens.take(position[rows])
    ids = zip(*(_id_bytes(tokens[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")), strict=True)
    counts = {f"{side}_tokens": pc.list_value_length(tokens[f"{side}_ids"]) for side in ("chosen", "rejected")}
    return pa.table(
        {
            "pair": pa.array([digest(sides) for sides in ids], pa.string()),
            **{name: column.cast(pa.int32()) for name, column in counts.items()},
        }
    )


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


# ---- the file ----


def look_up(file: Path, keys: pa.ChunkedArray) -> np.ndarray:
    """Return the values of pairs by their keys, float32, shape (number of keys, 2), NaN where they are not known.

    A file that is not as it was written is reported and counts as empty.
    """
    try:
        table = _read(file)
    except ValueError as error:
        logger.warning("%s: the reference cache is damaged (%s); it is made anew", file, error)
        table = _SCHEMA.empty_table()
    index = pc.index_in(keys, value_set=table["pair"])
    found = index.is_valid().to_numpy()
    values = np.full((len(keys), 2), np.nan, dtype=np.float32)
    values[found] = _values(table)[index.drop_null().to_numpy()]
    return values


def add_to_cache(file: Path, rows: pa.Table) -> None:
    """Join rows, which have the columns of `_SCHEMA`, to those of a file; what others wrote meanwhile is kept.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    _, first = np.unique(rows["pair"].to_numpy(), return_index=True)  # data may hold a pair twice
    first = first[np.isfinite(_values(rows)[first]).all(axis=1)]  # an overflow of this run is not for the next
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        try:
            known = _read(file)
        except ValueError:
            known = _SCHEMA.empty_table()  # reported when it was looked up
        new = rows.select(_SCHEMA.names).take(np.sort(first))
        new = new.filter(pc.invert(pc.is_in(new["pair"], value_set=known["pair"])))
        joined = pa.concat_tables([known, new.cast(_SCHEMA)])
        with atomic_path(file) as temporary:
            pq.write_table(joined.replace_schema_metadata({_DIGEST: _table_digest(joined, file)}), temporary)


def _read(file: Path) -> pa.Table:
    """Return the rows of a file, none if it does not exist.

    Raises:
        ValueError: the file is torn, altered, of another reference, or cannot be read.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return _SCHEMA.empty_table()
    except OSError as error:
        raise ValueError(error.strerror) from error
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        written = (table.schema.metadata or {}).get(_DIGEST)
        table = table.replace_schema_metadata(None)
        complete = table.schema == _SCHEMA and not any(column.null_count for column in table.columns)
        intact = complete and written == _table_digest(table, file).encode()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ValueError("it is no whole parquet file") from error
    if not intact:
        raise ValueError("its digest does not fit its content")
    if not np.isfinite(_values(table)).all():
        raise ValueError("it holds values that are not finite")
    return table


def _values(table: pa.Table) -> np.ndarray:
    return np.stack([table[name].to_numpy() for name in _VALUES], axis=1)


def _table_digest(table: pa.Table, file: Path) -> str:
    numbers = [table[name].to_numpy().tobytes() for name in _SCHEMA.names[1:]]
    return digest([file.stem, "\n".join(table["pair"].to_pylist()), *numbers])
