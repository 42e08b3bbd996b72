"""From loaded pairs to what the training step reads: tokenised, routed by the plan, with what the losses need."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from mixdpo.common.errors import InputError
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_report import TokenReport
from mixdpo.data.tokenize import tokenize_pairs
from mixdpo.generation.local_generation import stop_token_ids
from mixdpo.models.loading import load_tokenizer
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.plan import Plan, make_plan
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.sampling import PlannedPairs, mismatched_pairs


def prepare_tokenizer(policy: Any, given: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer, by default the policy's own, and name its stop tokens in what is saved with the policy.

    Servers such as vLLM stop at the tokens of the generation settings alone. A base model's end only its texts, while
    it is trained here to end its turns as the chat template does; served without that token it would write on to
    the limit.
    """
    tokenizer = given or load_tokenizer(ModelSettings(name_or_path=policy.config._name_or_path))
    if policy.generation_config is not None:
        policy.generation_config.eos_token_id = stop_token_ids(policy, tokenizer) or None
    return tokenizer


class PairPreparation:
    """Prepares the pairs of a run; `reports` tells what tokenising did to each data set."""

    def __init__(self, args: MixDPOConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.args, self.tokenizer = args, tokenizer
        self.reports: dict[str, TokenReport] = {}

    def train(self, dataset: Dataset, plan: Plan) -> PlannedPairs:
        """Return pairs to train by `plan`."""
        return self._planned(dataset, "train", plan, sft_target=self.args.sft_target)

    def evaluation(self, dataset: Dataset, metric: str) -> PlannedPairs:
        """Return pairs that are all measured with the preference loss, in buckets by `margin/<metric>`.

        Raises:
            InputError: the loss reads margins, and the pairs have none.
        """
        plan = make_plan(dataset, "dpo", order="as_is", metric=metric)
        self.args.check_margins(plan, "the evaluation data")
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
            pairs.mismatched = mismatched_pairs(pairs, self.args.max_length)
        return pairs
