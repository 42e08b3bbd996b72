"""Per-pair tables of a run: the reference's values, and log-probabilities at each evaluation, joined by pair_id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import EvalPrediction

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import atomic_path, digest
from mixdpo.data.arrays import token_counts, tokens_digest, trained_counts
from mixdpo.losses import PairLogprobs
from mixdpo.plan.plan_settings import BUCKETS
from mixdpo.training.batch import PairBatch
from mixdpo.training.sampling import PlannedPairs

_TOKENS = b"mixdpo.tokens"
_COLUMNS = ("ref_chosen", "ref_rejected", "chosen", "rejected", "chosen_tokens", "rejected_tokens")


def save_reference(folder: Path, name: str, pairs: PlannedPairs) -> None:
    """Write `reference/<name>.parquet`: pair_id, ref_chosen, ref_rejected (nats, null where not computed).

    A digest of the tokens they are of is in its metadata.
    """
    rows = np.asarray(pairs.tokens["row"][:])
    table = pa.table(
        {
            "pair_id": pairs.tokens["pair_id"][:],
            "ref_chosen": pa.array(pairs.reference[rows, 0], from_pandas=True),
            "ref_rejected": pa.array(pairs.reference[rows, 1], from_pandas=True),
        }
    )
    with atomic_path(folder / "reference" / f"{name}.parquet") as temporary:
        pq.write_table(table.replace_schema_metadata({_TOKENS: tokens_digest(pairs.tokens)}), temporary)


def load_reference(folder: Path, name: str, pairs: PlannedPairs) -> np.ndarray:
    """Read what `save_reference` wrote for these pairs; float32, shape (number of loaded pairs, 2).

    Raises:
        RunError: the file is missing, or of other pairs or tokens.
    """
    path = folder / "reference" / f"{name}.parquet"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"{path}: the reference of the run's start cannot be read ({error}); start the run anew"
        ) from error
    if table["pair_id"].to_pylist() != list(pairs.tokens["pair_id"][:]):
        raise RunError(f"{path}: the reference values are of other pairs; start the run anew")
    written = (table.schema.metadata or {}).get(_TOKENS)
    if written is None:  # an earlier version, which trained all tokens of an answer
        if (trained_counts(pairs.tokens) < token_counts(pairs.tokens)).any():
            raise RunError(
                f"{path}: the reference values are of whole answers, of which this version trains a part; set "
                "assistant_only_loss and mask_empty_thinking to false, or start the run anew"
            )
    elif written.decode() != tokens_digest(pairs.tokens):
        raise RunError(f"{path}: the reference values are of other tokens; start the run anew")
    reference = np.full_like(pairs.reference, np.nan)
    rows = np.asarray(pairs.tokens["row"][:])
    reference[rows] = np.stack(
        [table[column].to_numpy(zero_copy_only=False) for column in ("ref_chosen", "ref_rejected")], axis=1
    )
    return reference


class EvaluationRecords:
    """Collects the values of every evaluated pair on the device; gathered once at the end."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._values: list[Tensor] = []

    def clear(self) -> None:
        """Forget everything collected so far."""
        self._rows, self._values = [], []

    def add(self, batch: PairBatch, pairs: PairLogprobs) -> None:
        """Keep the rows (B,) of one micro-batch, and in float32 its weights and `_COLUMNS`, shape (B, 7)."""
        # Not together: a row needs float64, which Apple's GPUs lack.
        columns = [batch["weight"], *(getattr(pairs, name).detach() for name in _COLUMNS)]
        self._rows.append(batch["row"])
        self._values.append(torch.stack([column.float() for column in columns], dim=1))

    def gather(self, accelerator: Accelerator, pairs: PlannedPairs) -> pa.Table:
        """Return one row per pair over all processes, in the order of the data set."""
        rows, values = (accelerator.gather(torch.cat(x)).cpu().numpy() for x in (self._rows, self._values))
        real = values[:, 0] > 0
        order = np.argsort(rows[real], kind="stable")
        rows, values = rows[real][order], values[real][order]
        bucket_names = {-1: None, **dict(enumerate(BUCKETS))}
        tokens = pairs.tokens.select(pairs.index_of_row[rows])
        columns = {name: pa.array(values[:, 1 + i]) for i, name in enumerate(_COLUMNS)}
        return pa.table(
            {
                "pair_id": tokens["pair_id"][:],
                "prompt_id": [digest([repr(ids)], size=10) for ids in tokens["prompt_ids"][:]],
                "bucket": pa.array([bucket_names[code] for code in pairs.plan.bucket[rows].tolist()], pa.string()),
                **columns,
            }
        )

    def save(self, table: pa.Table, path: Path) -> None:
        """Write the table atomically."""
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)


def rewards_of(table: pa.Table, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rewards of evaluated pairs, and zeros, the place of the answer whose reward is to be larger.

    Returns:
        float32, shape (N, 2), chosen and rejected: beta times the log-probability, in nats, less that of the reference
        where there is one; and int64, shape (N,).
    """
    sides = []
    for side in ("chosen", "rejected"):
        reference = table[f"ref_{side}"].to_numpy()
        sides.append(beta * (table[side].to_numpy() - np.where(np.isnan(reference), 0, reference)))
    return np.stack(sides, axis=1).astype(np.float32), np.zeros(len(table), dtype=np.int64)


def own_metrics(compute: Callable[[EvalPrediction], Any], prediction: EvalPrediction, prefix: str) -> dict[str, Any]:
    """Return what the caller's function makes of an evaluation, by names with what all of it begin with.

    Raises:
        InputError: the function returns no metrics by name.
    """
    found = compute(prediction)
    if not isinstance(found, Mapping):
        raise InputError(f"compute_metrics returned {found!r:.40}", hint='return a dict, such as {"accuracy": 0.5}')
    return {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in found.items()}
