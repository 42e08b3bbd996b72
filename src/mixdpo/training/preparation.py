"""From loaded pairs to what the training step reads: tokenised, routed by the plan, with what the losses need."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from mixdpo.data import TokenReport, TokenSettings, tokenize_pairs
from mixdpo.errors import InputError
from mixdpo.plan import Plan, make_plan
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.sampling import PlannedPairs, mismatched_pairs


class PairPreparation:
    """Prepares the pairs of a run; `reports` tells what tokenising did to each data set."""

    def __init__(self, args: MixDPOConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.args, self.tokenizer = args, tokenizer
        self.reports: dict[str, TokenReport] = {}

    def train(self, dataset: Dataset, plan: Plan) -> PlannedPairs:
        """Return pairs to train by `plan`."""
        return self._planned(dataset, "train", plan, sft_target=self.args.sft_target)

    def evaluation(self, dataset: Dataset, metric: str) -> PlannedPairs:
        """Return pairs that are all measured with the preference loss, in buckets by `margin/<metric>`."""
        plan = make_plan(dataset, "dpo", order="as_is", metric=metric)
        return self._planned(dataset, "eval", plan, all_sides=True)

    def _planned(self, dataset: Dataset, name: str, plan: Plan, **settings: Any) -> PlannedPairs:
        limits = TokenSettings(
            max_length=self.args.max_length,
            max_prompt_length=self.args.max_prompt_length,
            num_proc=self.args.dataset_num_proc,
        )
        tokens, self.reports[name] = tokenize_pairs(dataset, self.tokenizer, limits)
        pairs = PlannedPairs(tokens, plan, **self.args.pair_needs(), **settings)
        if self.args.reads_mismatched:
            if len(tokens) < 2:
                raise InputError("kto reads answers to other prompts, and the data has one pair")
            pairs.mismatched = mismatched_pairs(pairs)
        return pairs
