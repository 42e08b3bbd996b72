"""The reward-model metric: what a sequence-classification reward model says of the two answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, Value
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from mixdpo.difficulty.forward import MODEL_HELP, ForwardSettings, all_tokens, model_settings, pass_over
from mixdpo.engine import PromptGroup, disable_dropout
from mixdpo.errors import InputError
from mixdpo.model import ModelSettings, cannot_load, check_is_model, hub_arguments, load_tokenizer, weight_format


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

    The model reads whole conversations in its own chat template; a pair of texts is read as one user turn and one
    assistant turn.

    Raises:
        InputError: the model has no chat template, no trained score head, or more than one output.
    """
    source = model_settings(settings.model, "reward_model.model", is_start=False)
    if load_tokenizer(source).chat_template is None:
        raise InputError(
            f"the reward model {source.name_or_path!r} has no chat template",
            mend="set reward_model.model to {name_or_path: ..., chat_template: FILE}",
        )
    tokens = all_tokens(_as_messages(dataset), source, settings.token_settings(), "reward_model")
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


def load_reward_model(settings: ModelSettings) -> PreTrainedModel:
    """Load a sequence-classification model with one trained output, on its device.

    Raises:
        InputError: no such model, its score head is not in the file, or it has several outputs.
    """
    name = settings.name_or_path
    check_is_model(name)
    dtype = "auto" if settings.dtype == "auto" else weight_format(settings)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=dtype, output_loading_info=True, **hub_arguments(settings)
        )
    except (OSError, ValueError, ImportError) as error:
        raise cannot_load("reward model", name, error) from error
    if info["missing_keys"]:
        raise InputError(
            f"{name!r} is no reward model: it has no trained {', '.join(sorted(info['missing_keys']))}",
            mend="give a model that was saved as a sequence classifier",
        )
    if model.config.num_labels != 1:
        raise InputError(
            f"the reward model {name!r} has {model.config.num_labels} outputs",
            mend="give one with a single output (num_labels 1)",
        )
    disable_dropout(model)
    loaded: PreTrainedModel = model.requires_grad_(False).eval().to(PartialState().device)
    return loaded


def padded(sequences: list[list[int]], pad: int | None) -> dict[str, Tensor]:
    """Lay out sequences in rows, padded on the right.

    The models find a row's end by the last token that is not padding. Where they know no padding token, `pad` None,
    one is chosen that none of the sequences holds.
    """
    if pad is None:
        used = {token for sequence in sequences for token in sequence}
        pad = next(token for token in range(len(used) + 1) if token not in used)
    width = max(map(len, sequences))
    return {
        "input_ids": torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in sequences]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]),
        "pad": torch.tensor(pad),
    }


def _as_messages(dataset: Dataset) -> Dataset:
    if not isinstance(dataset.features["chosen"], Value):
        return dataset

    def wrap(batch: Mapping[str, list[str]]) -> dict[str, list[Any]]:
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {name: [[{"role": role, "content": text}] for text in batch[name]] for name, role in roles.items()}

    return dataset.select_columns(["pair_id", "prompt", "chosen", "rejected"]).map(wrap, batched=True)
