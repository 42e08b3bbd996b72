"""Duplicates: exact ones, opposite labels and cycles from the hashes of the texts, near ones by MinHash.

Signatures of 60 hash functions in 12 bands of 5: texts that share all of a band are compared, which finds a pair of
Jaccard similarity 0.8 with probability 0.991, one of 0.9 with 0.99999. The similarity is estimated from the
signature, with a standard error of 0.05 at 0.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
import scipy
from datasets import Dataset

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Flagged, Section
from mixdpo.auditing.texts import text_batches
from mixdpo.common.shingles import NGRAM, minhash, shingles

BANDS: Final = 12
ROWS: Final = 5


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
    graph = scipy.sparse.coo_array((ones, (winner[usable], loser[usable])), shape=(size, size))
    component = scipy.sparse.csgraph.connected_components(graph, directed=True, connection="strong")[1]
    large = np.bincount(component) >= 3
    inside = usable & (component[winner] == component[loser]) & large[component[winner]]
    return np.where(inside, component[winner], -1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Signatures:
    """Signatures of the distinct texts of prompts and answers, and which of them each pair has.

    Attributes:
        prompts: uint32, shape (distinct prompts, BANDS * ROWS).
        answers: the same for the answers, chosen and rejected together.
        index: by side, int64 of shape (N,): the row of each pair's text in its table.
    """

    prompts: np.ndarray
    answers: np.ndarray
    index: dict[str, np.ndarray]


def near_duplicates_check(data: AuditData) -> Section:
    """Flag the pairs whose texts resemble each other or those of other pairs."""
    if not data.settings.near_duplicates:
        return Section(figures=None)
    signatures = sign(data.pairs, data.features, data.settings.seed)
    figures, groups = near_duplicate_figures(signatures, data.settings.near_similarity)
    return Section(figures=figures, flagged={name: Flagged(group=group) for name, group in groups.items()})


def sign(dataset: Dataset, features: pl.DataFrame, seed: int) -> Signatures:
    """Compute the signature of every distinct text, in one pass over the data."""
    hashes = {side: features[f"{side}/hash"].to_numpy() for side in ("prompt", "chosen", "rejected")}
    n = len(features)
    _, first_prompt, prompt = np.unique(hashes["prompt"], return_index=True, return_inverse=True)
    # Interleaved, so that chosen and rejected of pair i are 2i and 2i + 1.
    both = np.column_stack([hashes["chosen"], hashes["rejected"]]).ravel()
    _, first_answer, answer = np.unique(both, return_index=True, return_inverse=True)
    new_prompt, new_answer = np.zeros(n, dtype=bool), np.zeros(2 * n, dtype=bool)
    new_prompt[first_prompt], new_answer[first_answer] = True, True
    prompts = np.empty((len(first_prompt), BANDS * ROWS), dtype=np.uint32)
    answers = np.empty((len(first_answer), BANDS * ROWS), dtype=np.uint32)
    start = 0
    for batch in text_batches(dataset, "near-duplicates"):
        pairs = slice(start, start + len(batch))
        wanted = new_prompt[pairs]
        prompts[prompt[pairs][wanted]] = _signatures(batch["prompt"].filter(wanted), seed)
        for offset, side in enumerate(("chosen", "rejected")):
            wanted = new_answer[2 * start + offset : 2 * pairs.stop : 2]
            texts = answer[2 * start + offset : 2 * pairs.stop : 2][wanted]
            answers[texts] = _signatures(batch[side].filter(wanted), seed)
        start = pairs.stop
    return Signatures(
        prompts=prompts,
        answers=answers,
        index={"prompt": prompt, "chosen": answer[::2], "rejected": answer[1::2]},
    )


def _signatures(texts: pl.Series, seed: int) -> np.ndarray:
    return minhash(shingles(texts, NGRAM), BANDS * ROWS, np.random.default_rng(seed))


def near_duplicate_figures(signatures: Signatures, least: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Group texts of similarity `least` or more.

    Returns:
        figures, and by finding the group of each pair (int64 of shape (N,), -1 for none): `near_prompts` of pairs
        whose prompt resembles another prompt, `near_pairs` of pairs whose prompt and answers all resemble those of
        another pair without being the same, `near_answers` of pairs whose two answers resemble each other.
    """
    index = signatures.index
    prompt_group = clusters(signatures.prompts, least)
    answer_group = clusters(signatures.answers, least)
    # A group of one distinct prompt is no near-duplicate.
    many = np.bincount(prompt_group)[prompt_group] > 1
    near_prompts = np.where(many[index["prompt"]], prompt_group[index["prompt"]], -1)

    chosen, rejected = signatures.answers[index["chosen"]], signatures.answers[index["rejected"]]
    filled = chosen[:, 0] != np.iinfo(np.uint32).max
    alike = np.zeros(len(filled), dtype=bool)
    for part in np.array_split(np.arange(len(filled)), max(1, len(filled) // 50_000)):
        alike[part] = (chosen[part] == rejected[part]).mean(axis=1) >= least
    alike &= filled & (index["chosen"] != index["rejected"])
    near_answers = np.where(alike, np.arange(len(alike)), -1)

    texts = np.column_stack([index[side] for side in ("prompt", "chosen", "rejected")])
    groups = np.column_stack(
        [prompt_group[index["prompt"]], answer_group[index["chosen"]], answer_group[index["rejected"]]]
    )
    # Exact duplicates are counted elsewhere: a group needs two different triples of texts.
    distinct, which = np.unique(texts, axis=0, return_inverse=True)
    first_of = np.zeros(len(distinct), dtype=np.int64)
    first_of[which] = np.arange(len(which))
    group_of, counts = np.unique(groups[first_of], axis=0, return_inverse=True, return_counts=True)[1:]
    near_pairs = np.where(counts[group_of[which]] > 1, group_of[which], -1)
    figures = {
        "similarity": least,
        "ngram": NGRAM,
        "prompts": _figures(prompt_group),
        "answers": _figures(answer_group),
        "pairs": int((near_pairs >= 0).sum()),
        "pairs_beyond_first": int(len(distinct) - len(counts)),
        "alike_within_pair": int(alike.sum()),
    }
    return figures, {"near_prompts": near_prompts, "near_pairs": near_pairs, "near_answers": near_answers}


def _figures(group: np.ndarray) -> dict[str, int]:
    counts = np.bincount(group) if len(group) else np.zeros(0, dtype=int)
    many = counts[counts > 1]
    return {
        "distinct": len(group),
        "in_groups": int(many.sum()),
        "groups": len(many),
        "largest": int(counts.max(initial=0)),
    }


def clusters(signatures: np.ndarray, least: float) -> np.ndarray:
    """Return the group of each text, int64 of shape (T,): linked where similar.

    Inside a band every text is compared with the first of those that share it, not with all, so that a thousand
    copies are a thousand comparisons.
    """
    filled = np.flatnonzero(signatures[:, 0] != np.iinfo(np.uint32).max)
    links = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[filled, band * ROWS : (band + 1) * ROWS])
        key = np.zeros(len(filled), dtype=np.uint64)
        for column in part.T:
            key = key * np.uint64(0x9E3779B97F4A7C15) + column
        order = np.argsort(key, kind="stable")
        is_first = np.ones(len(key), dtype=bool)
        is_first[1:] = key[order][1:] != key[order][:-1]
        head = filled[order[np.maximum.accumulate(np.where(is_first, np.arange(len(key)), 0))]]
        links.append(np.column_stack([head, filled[order]])[~is_first])
    candidates = np.unique(np.concatenate(links), axis=0)
    similar = np.zeros(len(candidates), dtype=bool)
    for rows in np.array_split(np.arange(len(candidates)), max(1, len(candidates) // 50_000)):
        first, second = candidates[rows].T
        similar[rows] = (signatures[first] == signatures[second]).mean(axis=1) >= least
    first, second = candidates[similar].T
    size = len(signatures)
    graph = scipy.sparse.coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(size, size))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)
