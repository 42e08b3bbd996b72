"""The reward-model metric: what a sequence-classification reward model says of the two answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mixdpo.common.errors import InputError
from mixdpo.data.messages import THOUGHTS
from mixdpo.data.reasoning import split_reasoning
from mixdpo.models.forward_settings import ForwardSettings
from mixdpo.models.model_settings import MODEL_HELP, ModelSettings, model_named

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor

    from mixdpo.models.engine import PromptGroup


@dataclass(frozen=True, kw_only=True)
class RewardModelSettings(ForwardSettings):
    """Settings of `reward_model`. `max_length` and `max_prompt_length` are its own, not those of training."""

    model: str | dict[str, Any] | ModelSettings | None = field(
        default=None, metadata={"help": f"the reward model (dtype auto: as it was saved): {MODEL_HELP}"}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "tokens of prompt + completion, cut on the right; null: no limit"}
    )
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "tokens of the prompt, cut on the left; null: no limit"}
    )
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 autocast; null: where the hardware has it"})


def reward_model(dataset: Dataset, settings: RewardModelSettings) -> np.ndarray:
    """Return r(x, y_w) - r(x, y_l) of a reward model with one output; float64, shape (N,).

    The model reads whole conversations in its own chat template, without the reasoning before answers; a pair of texts
    is read as one user turn and one assistant turn.

    Raises:
        InputError: the model has no chat template, no trained score head, or more than one output.
    """
    from mixdpo.judges.reward_model import load_reward_model, padded
    from mixdpo.models.forward import all_tokens, pass_over
    from mixdpo.models.loading import load_tokenizer

    source = model_named(settings.model, "reward_model.model", is_start=False)
    if load_tokenizer(source).chat_template is None:
        raise InputError(
            f"the reward model {source.name_or_path!r} has no chat template",
            hint="set reward_model.model to {name_or_path: ..., chat_template: FILE}",
        )
    limits = replace(settings.token_settings(), assistant_only_loss=False)  # it reads whole conversations
    tokens = all_tokens(_as_messages(dataset), source, limits, "reward_model")
    model = load_reward_model(source)
    pad = model.config.get_text_config().pad_token_id

    def rows_of(groups: list[PromptGroup]) -> dict[str, Tensor]:
        return padded([[*group.prompt, *completion] for group in groups for completion in group.completions], pad)

    def values_of(rows: Mapping[str, Tensor]) -> Tensor:
        if pad is None:
            model.config.get_text_config().pad_token_id = int(rows["pad"])
        logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        return logits[:, 0].float()

    rewards = pass_over(tokens, model, rows_of, values_of, settings, kind="reward", name="reward_model")
    return rewards[:, 0] - rewards[:, 1]


def _as_messages(dataset: Dataset) -> Dataset:
    """Return the pairs as messages, without the reasoning before the answers, which reward models do not read."""
    from datasets import Value

    if not isinstance(dataset.features["chosen"], Value):
        return dataset.map(_without_reasoning, features=dataset.features)

    def wrap(batch: Mapping[str, list[str]]) -> dict[str, list[Any]]:
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {
            name: [[_spoken({"role": role, "content": text})] for text in batch[name]] for name, role in roles.items()
        }

    return dataset.select_columns(["pair_id", "prompt", "chosen", "rejected"]).map(wrap, batched=True)


def _without_reasoning(pair: Mapping[str, Any]) -> dict[str, Any]:
    return {side: [_spoken(message) for message in pair[side]] for side in ("prompt", "chosen", "rejected")}


def _spoken(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] != "assistant" or not message.get("content"):
        return {**message}
    spoken = {**message, "content": split_reasoning(message["content"])[1]}
    return {key: None if key in THOUGHTS else value for key, value in spoken.items()}
