"""From a plan to the stream of pairs that each process trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from mixdpo.common.files import digest
from mixdpo.data.arrays import token_counts
from mixdpo.data.cached_map import cached_map
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.batch import PairItem
from mixdpo.training.micro_batches import PairSize, TokenBudget, fewest_parts


class CutRow(NamedTuple):
    """A row of the loaded data, and in how many micro-batches its batch is computed."""

    row: int
    micro_batches: int


_CUT_AT_ONCE: Final = 10_000
"""Pairs whose answers are cut together."""


class PlannedPairs(TorchDataset[PairItem]):
    """The pairs of a data set with what the plan says of each, addressed by row of the loaded data.

    A negative index `~row` (that is, -row - 1) gives the same pair with weight 0: a copy that only fills up a
    batch, so that all processes take part in every step. A `CutRow` gives the pair of its row.

    Args:
        tokens: output of `tokens_of`; pairs that it dropped are not in it and never trained.
        plan: the plan of the loaded data.
        sft_target: which answer the routes `sft` and `both` imitate.
        hard_loss: the routes `sft` and `both` have a loss that compares both answers instead of SFT.
        easy_reference: whether the preference route's loss reads the reference.
        hard_reference: whether the hard loss does.
        all_sides: the preference loss of every pair, whatever its route (evaluation).
        loaded: the loaded data, by which messages name pairs; None if all of it is in `tokens`.
    """

    def __init__(
        self,
        tokens: Dataset,
        plan: Plan,
        sft_target: str = "chosen",
        hard_loss: bool = False,
        easy_reference: bool = True,
        hard_reference: bool = False,
        all_sides: bool = False,
        loaded: Dataset | None = None,
    ) -> None:
        self.tokens = tokens
        self.loaded = tokens if loaded is None else loaded
        self._sft_target, self._hard_loss, self._all_sides = sft_target, hard_loss, all_sides
        self._easy_reference, self._hard_reference = easy_reference, hard_reference
        self.mismatched: PlannedPairs | None = None
        """The same prompts with answers to other prompts, for losses that read them."""
        rows = np.asarray(tokens["row"][:], dtype=np.int64)
        self.index_of_row = np.full(len(plan), -1, dtype=np.int64)
        self.index_of_row[rows] = np.arange(len(rows))
        """Place in `tokens` of every row of the loaded data, -1 if tokenisation lost it; int64."""
        self.reference = np.full((len(plan), 2), np.nan, dtype=np.float32)
        """Reference log-probabilities of (chosen, rejected) by row, in nats; NaN where not computed."""
        self.follow(plan)

    def follow(self, plan: Plan, stage_rows: np.ndarray | None = None) -> None:
        """Train the pairs by `plan` from the next epoch on.

        Args:
            plan: of the loaded data.
            stage_rows: int64, the rows of every epoch from now on, in order; None: what the plan says of the epoch.
        """
        self.plan, self._stage_rows = plan, stage_rows
        all_sides = self._all_sides
        routes = np.asarray(ROUTES)[plan.route]
        self.is_tie = (routes == "tie") & (not all_sides)
        self.has_preference = np.isin(routes, ("preference", "both", "tie")) | all_sides
        on_hard_route = np.isin(routes, ("sft", "both")) & (not all_sides)
        self.has_hard = on_hard_route & self._hard_loss
        has_sft = on_hard_route & (not self._hard_loss)
        self.has_both_sides = self.has_preference | self.has_hard
        self.reads_reference = (self.has_preference & self._easy_reference) | (self.has_hard & self._hard_reference)
        ones = np.ones(len(plan))
        self.weight = ones if plan.weight is None or all_sides else plan.weight
        self.label_probability = ones if plan.label_probability is None or all_sides else plan.label_probability
        coin = np.random.default_rng([plan.settings.seed, 1]).integers(2, size=len(plan))
        target = {"chosen": 1.0, "rejected": 0.0, "both": 0.5}
        on_chosen: np.ndarray | float = target.get(self._sft_target, coin)
        self.sft_chosen = np.where(has_sft, on_chosen, 0.0)
        self.sft_rejected = np.where(has_sft, 1.0 - on_chosen, 0.0)

    def weigh(self, weight: np.ndarray) -> None:
        """Give the pairs these weights; float64 at least 0, shape (N,)."""
        self.plan, self.weight = replace(self.plan, weight=weight), weight

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int | CutRow) -> PairItem:
        row, micro_batches = place if isinstance(place, CutRow) else (place, 1)
        is_copy = row < 0
        row = ~row if is_copy else row
        pair = self._tokens_of(row)
        both = bool(self.has_both_sides[row])
        return PairItem(
            row=row,
            prompt_ids=pair["prompt_ids"],
            chosen_ids=pair["chosen_ids"] if both or self.sft_chosen[row] else None,
            rejected_ids=pair["rejected_ids"] if both or self.sft_rejected[row] else None,
            chosen_mask=pair["chosen_mask"],
            rejected_mask=pair["rejected_mask"],
            # A copy has no loss of its own, for it must not count in losses of whole batches either.
            preference=bool(self.has_preference[row]) and not is_copy,
            tie=bool(self.is_tie[row]) and not is_copy,
            hard=bool(self.has_hard[row]) and not is_copy,
            sft_chosen=0.0 if is_copy else float(self.sft_chosen[row]),
            sft_rejected=0.0 if is_copy else float(self.sft_rejected[row]),
            bucket=int(self.plan.bucket[row]),
            margin=float(self.plan.margin[row]),
            pair_weight=float(self.weight[row]),
            label_probability=float(self.label_probability[row]),
            weight=0.0 if is_copy else 1.0,
            ref_chosen=float(self.reference[row, 0]),
            ref_rejected=float(self.reference[row, 1]),
            mismatched=self.mismatched[row] if self.mismatched is not None else None,
            micro_batches=micro_batches,
        )

    def _tokens_of(self, row: int) -> Mapping[str, Any]:
        return self.tokens[int(self.index_of_row[row])]

    def epoch_rows(self, epoch: int, epochs: int) -> np.ndarray:
        """Return the rows trained in one epoch, in the plan's order, without those lost in tokenisation."""
        if self._stage_rows is not None:
            return self._stage_rows
        return self.plan.epoch_rows(epoch, epochs, present=self.index_of_row >= 0)

    @property
    def trained_pairs(self) -> int:
        """Number of pairs in every epoch."""
        if self._stage_rows is not None:
            return len(self._stage_rows)
        return self.plan.epoch_length(present=self.index_of_row >= 0)

    def tokens_per_row(self) -> np.ndarray:
        """Return, by row, the tokens of the sequences a step computes for the pair; int64, shape (N,), 0 if lost."""
        prompt, chosen, rejected = self.computed_tokens()
        return (prompt + chosen) * (chosen > 0) + (prompt + rejected) * (rejected > 0)

    def size_per_row(self) -> np.ndarray:
        """Return, by row, the values of `PairSize`; int64, shape (N, 3), 0 if lost in tokenisation."""
        prompt, chosen, rejected = self.computed_tokens()
        sequences = (chosen > 0).astype(np.int64) + (rejected > 0)
        return np.stack([prompt + chosen + rejected, sequences, prompt + np.maximum(chosen, rejected)], axis=1)

    def computed_tokens(self) -> np.ndarray:
        """Return, by row, tokens of prompt, chosen and rejected; int64, shape (3, N), 0 where none are computed."""
        rows = np.flatnonzero(self.index_of_row >= 0)
        counts = token_counts(self.tokens, ("prompt", "chosen", "rejected"))[self.index_of_row[rows]]
        for column, sft in ((1, self.sft_chosen), (2, self.sft_rejected)):
            counts[:, column] *= self.has_both_sides[rows] | (sft[rows] > 0)
        computed = np.zeros((3, len(self.plan)), dtype=np.int64)
        computed[:, rows] = counts.T
        return computed


def mismatched_pairs(pairs: PlannedPairs, max_length: int | None) -> PlannedPairs:
    """Return the prompts of `pairs` with both answers of the nearest pair before that has another prompt.

    The first take those of the last. Of an answer with which the prompt exceeds `max_length` tokens the beginning is
    taken that fits; where that has no trained token, as much from the first trained one on.
    """
    columns = [f"{side}_{kind}" for side in ("chosen", "rejected") for kind in ("ids", "mask")]
    tokens, n = pairs.tokens, len(pairs.tokens)
    starts_prompt = np.array([before != now for before, now in pairwise([None, *_prompts(tokens)])])
    first_of_prompt = np.maximum.accumulate(np.where(starts_prompt, np.arange(n), 0))  # its rows stand together
    order = (first_of_prompt - 1) % n
    room = np.full(n, np.iinfo(np.int64).max)
    if max_length is not None:
        room = np.maximum(max_length - token_counts(tokens, ("prompt",))[:, 0], 1)

    def cut(table: pa.Table, index: list[int]) -> pa.Table:
        sides = [_windows(table[f"{side}_ids"], table[f"{side}_mask"], room[index]) for side in ("chosen", "rejected")]
        return pa.table(dict(zip(columns, chain.from_iterable(sides), strict=True)))

    answers = cached_map(
        tokens.select_columns(columns).select(order).with_format("arrow"),
        cut,
        kind="mismatched",
        key=digest(["1", tokens._fingerprint, str(max_length)]),
        batched=True,
        batch_size=_CUT_AT_ONCE,
        with_indices=True,
        features=tokens.select_columns(columns).features,
    ).with_format(None)
    mismatched = copy.copy(pairs)
    mismatched.tokens = concatenate_datasets([tokens.remove_columns(columns), answers], axis=1)
    mismatched.reference = np.full_like(pairs.reference, np.nan)
    return mismatched


def _prompts(tokens: Dataset) -> Iterator[bytes]:
    for table in tokens.select_columns(["prompt_ids"]).with_format("arrow").iter(_CUT_AT_ONCE):
        for prompts in table["prompt_ids"].chunks:
            values = prompts.values.to_numpy()
            yield from (values[start:end].tobytes() for start, end in pairwise(prompts.offsets.to_numpy()))


def _windows(ids: pa.ChunkedArray, masks: pa.ChunkedArray, room: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Return of every answer and its mask the part that is taken where `room` tokens (int64, shape (N,)) are left."""
    values, flags = (pc.list_flatten(column.combine_chunks()) for column in (ids, masks))
    lengths = pc.list_value_length(ids).to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    trained = np.flatnonzero(flags.to_numpy(zero_copy_only=False))
    first = trained[np.searchsorted(trained, starts)] - starts  # no answer is without a trained token
    first = np.where(first < room, 0, first)
    taken = np.minimum(room, lengths - first)
    offsets = np.concatenate([[0], np.cumsum(taken)])
    places = pa.array(np.repeat(starts + first - offsets[:-1], taken) + np.arange(offsets[-1]))
    ends = pa.array(offsets, pa.int32())
    return pa.ListArray.from_arrays(ends, values.take(places)), pa.ListArray.from_arrays(ends, flags.take(places))


class PlanSampler(Sampler[int | CutRow]):
    """Yields the rows of an epoch in the plan's order, padded with `~row` to a multiple of all processes' batches.

    Accelerate deals consecutive batches to the processes in turn, so with W processes of batch b and a
    accumulation steps, optimizer step k holds pairs k*W*b*a ... (k+1)*W*b*a - 1 of the epoch: the same set as one
    process with a * W accumulation steps.

    Under a budget of tokens the rows come as `CutRow`: batches that processes compute at the same time are cut into
    equally many micro-batches, for processes with sharded weights wait for each other in every forward pass. All
    know all lengths, so none has to ask.

    Args:
        pairs: the planned pairs.
        epochs: epochs of the whole run.
        batch: b.
        processes: W.
        window: pairs within which the longest come first, so that what is computed together has similar lengths
            and memory peaks early. With the W * b * a pairs of a step, every step holds the plan's pairs.
        budget: of a micro-batch; looked at when an epoch begins.
    """

    def __init__(
        self,
        pairs: PlannedPairs,
        epochs: int,
        batch: int = 1,
        processes: int = 1,
        window: int = 1,
        budget: TokenBudget | None = None,
    ) -> None:
        self.pairs, self.epochs, self.batch, self.window = pairs, epochs, batch, window
        self.multiple = batch * processes
        self.budget = budget or TokenBudget(None, padded=False)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int | CutRow]:
        rows = self.rows_of_epoch(self.epoch)
        if self.budget.tokens is None:
            yield from rows.tolist()
            return
        sizes = self.pairs.size_per_row()
        for together in rows.reshape(-1, self.multiple):
            parts = 1
            for batch in together.reshape(-1, self.batch):
                of_batch = [PairSize(*size) for size in sizes[np.where(batch < 0, ~batch, batch)].tolist()]
                parts = max(parts, len(fewest_parts(of_batch, self.budget.tokens, self.budget.padded)))
            yield from (CutRow(row, parts) for row in together.tolist())

    def rows_of_epoch(self, epoch: int) -> np.ndarray:
        """Return what an iteration over an epoch yields, without the cut; int64."""
        planned, tokens = self.pairs.epoch_rows(epoch, self.epochs), self.pairs.tokens_per_row()
        window_of = np.arange(len(planned)) // self.window
        rows = planned[np.lexsort((-tokens[planned], window_of))]
        return np.concatenate([rows, np.repeat(~rows[-1:], -len(rows) % self.multiple)])

    def __len__(self) -> int:
        return math.ceil(self.pairs.trained_pairs / self.multiple) * self.multiple
