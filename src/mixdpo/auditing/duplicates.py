"""Exact duplicates, opposite labels and cycles, from the hashes of the texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Flagged, Section


def exact_duplicates_check(data: AuditData) -> Section:
    """Flag the pairs that repeat or contradict one another."""
    figures, groups = duplicate_figures(data.features)
    return Section(figures=figures, flagged={name: Flagged(group=group) for name, group in groups.items()})


def duplicate_figures(features: pl.DataFrame) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Find pairs that repeat or contradict one another, whatever their case and white space.

    Prompts are the same if their system messages and tools are, too.

    Returns:
        figures, and by finding the group of each pair (int64 of shape (N,), -1 for none): `same_answers` (chosen is
        rejected), `duplicates` (pairs of the same three texts), `opposite` (the same answers to the same prompt with
        both labels), `cycles` (answers of one prompt preferred in a circle of three or more).
    """
    prompt, chosen, rejected = (features[f"{side}/hash"].to_numpy() for side in ("question", "chosen", "rejected"))
    same = chosen == rejected
    low, high = np.minimum(chosen, rejected), np.maximum(chosen, rejected)
    keys = pl.DataFrame({"prompt": prompt, "low": low, "high": high, "up": chosen > rejected})
    together = keys.with_columns(
        directed=pl.len().over("prompt", "low", "high", "up"),
        directed_group=pl.struct("prompt", "low", "high", "up").rank("dense"),
        group=pl.struct("prompt", "low", "high").rank("dense"),
        labels=pl.col("up").n_unique().over("prompt", "low", "high"),
    )
    duplicate = together["directed"].to_numpy() > 1
    opposite = (together["labels"].to_numpy() > 1) & ~same
    duplicates = np.where(duplicate, together["directed_group"].to_numpy().astype(np.int64), -1)
    cycle = _cycles(prompt, chosen, rejected, ~same)
    groups = {
        "same_answers": np.where(same, np.arange(len(same)), -1),
        "duplicates": duplicates,
        "opposite": np.where(opposite, together["group"].to_numpy().astype(np.int64), -1),
        "cycles": cycle,
    }
    per_prompt = np.unique(prompt, return_counts=True)[1]
    figures = {
        "same_answers": int(same.sum()),
        "duplicates": {"pairs": int(duplicate.sum()), "beyond_first": int(duplicate.sum() - _groups(duplicates))},
        "opposite": {"pairs": int(opposite.sum()), "prompts": len(np.unique(prompt[opposite]))},
        "cycles": {"pairs": int((cycle >= 0).sum()), "cycles": _groups(cycle)},
        "prompts": {
            "distinct": len(per_prompt),
            "repeated": int((per_prompt > 1).sum()),
            "most": int(per_prompt.max()),
        },
    }
    return figures, groups


def _groups(group: np.ndarray) -> int:
    return len(np.unique(group[group >= 0]))


def _cycles(prompt: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return the cycle of each pair: strongly connected answers of one prompt, three or more; -1 for none."""
    answers = np.concatenate([np.column_stack([prompt, chosen]), np.column_stack([prompt, rejected])])
    # One column of 16 bytes sorts faster than rows of two numbers.
    flat = np.ascontiguousarray(answers).view([("prompt", np.uint64), ("answer", np.uint64)]).ravel()
    table = pl.DataFrame({"prompt": flat["prompt"], "answer": flat["answer"]})
    node = (table.select(pl.struct("prompt", "answer").rank("dense")).to_series().to_numpy() - 1).astype(np.int64)
    winner, loser = node[: len(prompt)], node[len(prompt) :]
    size = int(node.max()) + 1
    ones = np.ones(int(usable.sum()), dtype=np.int8)
    graph = coo_array((ones, (winner[usable], loser[usable])), shape=(size, size))
    component = connected_components(graph, directed=True, connection="strong")[1]
    large = np.bincount(component) >= 3
    inside = usable & (component[winner] == component[loser]) & large[component[winner]]
    return np.where(inside, component[winner], -1).astype(np.int64)
