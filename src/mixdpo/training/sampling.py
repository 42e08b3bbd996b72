"""From a plan to the stream of pairs that each process trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from mixdpo.data.arrays import token_counts
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.batch import PairItem


class PlannedPairs(TorchDataset[PairItem]):
    """The pairs of a data set with what the plan says of each, addressed by row of the loaded data.

    A negative index `~row` (that is, -row - 1) gives the same pair with weight 0: a copy that only fills up a
    batch, so that all processes take part in every step.

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
        self.tokens, self.plan = tokens, plan
        self.loaded = tokens if loaded is None else loaded
        self.mismatched: PlannedPairs | None = None
        """The same prompts with answers to other prompts, for losses that read them."""
        rows = np.asarray(tokens["row"][:], dtype=np.int64)
        self.index_of_row = np.full(len(plan), -1, dtype=np.int64)
        self.index_of_row[rows] = np.arange(len(rows))
        """Place in `tokens` of every row of the loaded data, -1 if tokenisation lost it; int64."""
        self.reference = np.full((len(plan), 2), np.nan, dtype=np.float32)
        """Reference log-probabilities of (chosen, rejected) by row, in nats; NaN where not computed."""

        routes = np.asarray(ROUTES)[plan.route]
        self.has_preference = np.isin(routes, ("preference", "both")) | all_sides
        on_hard_route = np.isin(routes, ("sft", "both")) & (not all_sides)
        self.has_hard = on_hard_route & hard_loss
        has_sft = on_hard_route & (not hard_loss)
        self.has_both_sides = self.has_preference | self.has_hard
        self.reads_reference = (self.has_preference & easy_reference) | (self.has_hard & hard_reference)
        coin = np.random.default_rng([plan.settings.seed, 1]).integers(2, size=len(plan))
        on_chosen: np.ndarray | float = {"chosen": 1.0, "rejected": 0.0, "both": 0.5}.get(sft_target, coin)
        self.sft_chosen = np.where(has_sft, on_chosen, 0.0)
        self.sft_rejected = np.where(has_sft, 1.0 - on_chosen, 0.0)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> PairItem:
        is_copy = row < 0
        row = ~row if is_copy else row
        pair = self.tokens[int(self.index_of_row[row])]
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
            hard=bool(self.has_hard[row]) and not is_copy,
            sft_chosen=0.0 if is_copy else float(self.sft_chosen[row]),
            sft_rejected=0.0 if is_copy else float(self.sft_rejected[row]),
            bucket=int(self.plan.bucket[row]),
            margin=float(self.plan.margin[row]),
            weight=0.0 if is_copy else 1.0,
            ref_chosen=float(self.reference[row, 0]),
            ref_rejected=float(self.reference[row, 1]),
            mismatched=self.mismatched[row] if self.mismatched is not None else None,
        )

    def epoch_rows(self, epoch: int, epochs: int) -> np.ndarray:
        """Return the rows trained in one epoch, in the plan's order, without those lost in tokenisation."""
        return self.plan.epoch_rows(epoch, epochs, present=self.index_of_row >= 0)

    @property
    def trained_pairs(self) -> int:
        """Number of pairs in every epoch."""
        return len(self.plan.epoch_rows(0, 1, present=self.index_of_row >= 0))

    def tokens_per_row(self) -> np.ndarray:
        """Return, by row, the tokens a step computes for the pair; int64, shape (N,), 0 if lost in tokenisation."""
        prompt, *answers = token_counts(self.tokens, ("prompt", "chosen", "rejected")).T
        rows = np.flatnonzero(self.index_of_row >= 0)
        total = np.zeros(len(self.plan), dtype=np.int64)
        index = self.index_of_row[rows]
        for answer, sft in zip(answers, (self.sft_chosen, self.sft_rejected), strict=True):
            computed = self.has_both_sides[rows] | (sft[rows] > 0)
            total[rows] += computed * (prompt + answer)[index]
        return total


def mismatched_pairs(pairs: PlannedPairs, max_length: int | None) -> PlannedPairs:
    """Return the prompts of `pairs` with both answers of the nearest pair before that has another prompt.

    The first take those of the last. Of an answer with which the prompt exceeds `max_length` tokens the beginning is
    taken that fits; where that has no trained token, as much from the first trained one on.
    """
    columns = [f"{side}_{kind}" for side in ("chosen", "rejected") for kind in ("ids", "mask")]
    room: list[int | None] = []
    order: list[int] = []
    first_of_prompt, before = 0, None  # rows of one prompt usually stand together
    for index, prompt in enumerate(pairs.tokens["prompt_ids"]):
        first_of_prompt = index if prompt != before else first_of_prompt
        order.append((first_of_prompt - 1) % len(pairs.tokens))
        room.append(None if max_length is None else max(max_length - len(prompt), 1))
        before = prompt

    def cut(row: dict[str, list[Any]], index: int) -> dict[str, list[Any]]:
        fits = {side: _window(row[f"{side}_mask"], room[index]) for side in ("chosen", "rejected")}
        return {name: row[name][fits[name.split("_")[0]]] for name in columns}

    answers = pairs.tokens.select_columns(columns).select(order).map(cut, with_indices=True)
    mismatched = copy.copy(pairs)
    mismatched.tokens = concatenate_datasets([pairs.tokens.remove_columns(columns), answers], axis=1)
    mismatched.reference = np.full_like(pairs.reference, np.nan)
    return mismatched


def _window(mask: list[bool], room: int | None) -> slice:
    """Return which part of an answer of the given mask is taken where `room` tokens are left (None: all of it)."""
    first = 0 if any(mask[:room]) else mask.index(True)
    return slice(first, None if room is None else first + room)


class PlanSampler(Sampler[int]):
    """Yields the rows of an epoch in the plan's order, padded with `~row` to a multiple of all processes' batches.

    Accelerate deals consecutive batches to the processes in turn, so with W processes of batch b and a
    accumulation steps, optimizer step k holds pairs k*W*b*a ... (k+1)*W*b*a - 1 of the epoch: the same set as one
    process with a * W accumulation steps.

    Args:
        pairs: the planned pairs.
        epochs: epochs of the whole run.
        batch_of_all_processes: W * b.
        window: pairs within which the longest come first, so that what is computed together has similar lengths
            and memory peaks early. With the W * b * a pairs of a step, every step holds the plan's pairs.
    """

    def __init__(self, pairs: PlannedPairs, epochs: int, batch_of_all_processes: int = 1, window: int = 1) -> None:
        self.pairs, self.epochs, self.multiple, self.window = pairs, epochs, batch_of_all_processes, window
        self._tokens = pairs.tokens_per_row()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        planned = self.pairs.epoch_rows(self.epoch, self.epochs)
        window_of = np.arange(len(planned)) // self.window
        rows = planned[np.lexsort((-self._tokens[planned], window_of))].tolist()
        yield from rows
        yield from [~rows[-1]] * (-len(rows) % self.multiple)

    def __len__(self) -> int:
        return math.ceil(self.pairs.trained_pairs / self.multiple) * self.multiple
