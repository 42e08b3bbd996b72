"""A reward model as judge: it grades single answers, and compares two by their rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.common.errors import InputError
from mixdpo.common.files import cache_folder, digest
from mixdpo.common.processes import processes
from mixdpo.data.template_arguments import template_arguments
from mixdpo.generation.chat_model import Completion, Progress
from mixdpo.generation.endpoint import CHARACTERS_PER_TOKEN
from mixdpo.generation.reply_cache import reply_cache
from mixdpo.judges.judge import Chat, FollowUp, JudgeItem, ParseReply, Verdict
from mixdpo.judges.rewards import all_conversations, conversations_of, reward_verdict
from mixdpo.models.engine import disable_dropout
from mixdpo.models.fingerprint import weights_digest
from mixdpo.models.loading import hub_arguments, load_tokenizer, loading, weight_format
from mixdpo.models.model_settings import ModelSettings, check_is_model

_FORMAT: Final = "1"


@dataclass(frozen=True)
class RewardJudge:
    """A sequence classifier with one output, which reads whole conversations in its own chat template.

    Of two answers the first is preferred with the probability that the Bradley-Terry model gives their rewards. Which
    is shown first makes no difference to it.
    """

    model: ModelSettings
    batch_size: int = 8

    @property
    def name(self) -> str:
        """Folder or hub id."""
        return self.model.name_or_path

    @property
    def in_words(self) -> bool:
        """It is not."""
        return False

    def estimate(self, items: Sequence[JudgeItem]) -> str:
        """Say how much there is to judge, before it is known what is cached."""
        conversations = all_conversations(items)
        read = sum(len(content) for one in conversations for _, content in one) // CHARACTERS_PER_TOKEN
        return (
            f"{len(conversations):,} answers to be graded by the reward model {self.name}: about {read:,} tokens read"
        )

    def judge(
        self,
        items: Sequence[JudgeItem],
        parse: ParseReply,
        follow_up: FollowUp | None = None,
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """Grade every answer once; rewards that are known from an earlier run are not computed again.

        Raises:
            InputError: the model is no reward model, or has no chat template.
        """
        tokenizer = load_tokenizer(self.model)
        if tokenizer.chat_template is None:
            raise InputError(
                f"the reward model {self.name!r} has no chat template", hint="save one with its tokenizer"
            )
        conversations = all_conversations(items)
        told = template_arguments(tokenizer, self.model.chat_template_kwargs, self.model.template_date)
        ids = [_ids(tokenizer, conversation, told) for conversation in conversations]
        rewards = dict(zip(conversations, self._rewards(ids, progress), strict=True))
        reply = Completion(finished=True)
        return [reward_verdict([rewards[one] for one in conversations_of(item)], reply) for item in items]

    def record(self) -> dict[str, Any]:
        """Return what a result names."""
        told = {"chat_template_kwargs": self.model.chat_template_kwargs} if self.model.chat_template_kwargs else {}
        return {"engine": "reward model", "model": self.name, "revision": self.model.revision, **told}

    def _rewards(self, ids: list[list[int]], progress: Progress | None) -> list[float]:
        model = load_reward_model(self.model)
        weights = weights_digest(model) or repr(self.model)
        keys = [digest([_FORMAT, weights, repr(one)]) for one in ids]
        found: dict[str, float] = {}
        with reply_cache(cache_folder() / "rewards") as cache:
            for key in keys:
                if (known := cache.get(key)) is not None:
                    found[key] = known["reward"]
            # Longest first: what does not fit in memory shows at once.
            missing = sorted((row for row, key in enumerate(keys) if key not in found), key=lambda row: -len(ids[row]))
            for begin in range(0, len(missing), self.batch_size):
                rows = missing[begin : begin + self.batch_size]
                for row, reward in zip(rows, _forward(model, [ids[row] for row in rows]), strict=True):
                    found[keys[row]] = reward
                    cache.put(keys[row], {"reward": reward})
                if progress is not None:
                    progress(len(found), len(keys))
        return [found[key] for key in keys]


def load_reward_model(settings: ModelSettings) -> PreTrainedModel:
    """Load a sequence-classification model with one trained output, on its device.

    Raises:
        InputError: no such model, its score head is not in the file, or it has several outputs.
    """
    name = settings.name_or_path
    check_is_model(name)
    dtype = "auto" if settings.dtype == "auto" else weight_format(settings)
    with loading("reward model", name, settings.revision):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=dtype, output_loading_info=True, **hub_arguments(settings)
        )
    if info["missing_keys"]:
        raise InputError(
            f"{name!r} is no reward model: it has no trained {', '.join(sorted(info['missing_keys']))}",
            hint="give a model that was saved as a sequence classifier",
        )
    if model.config.num_labels != 1:
        raise InputError(
            f"the reward model {name!r} has {model.config.num_labels} outputs",
            hint="give one with a single output (num_labels 1)",
        )
    disable_dropout(model)
    loaded: PreTrainedModel = model.requires_grad_(False).eval().to(processes().device)
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


def _forward(model: PreTrainedModel, ids: list[list[int]]) -> list[float]:
    config: Any = model.config.get_text_config()
    known = config.pad_token_id
    rows = {name: values.to(model.device) for name, values in padded(ids, known).items()}
    if known is None:
        config.pad_token_id = int(rows["pad"])
    try:
        with torch.inference_mode():
            logits = cast(Any, model)(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    finally:
        config.pad_token_id = known
    return logits[:, 0].float().tolist()


def _ids(tokenizer: PreTrainedTokenizerBase, conversation: Chat, told: Mapping[str, Any]) -> list[int]:
    messages = [{"role": role, "content": content} for role, content in conversation]
    try:
        return list(cast(Any, tokenizer).apply_chat_template(messages, return_dict=False, **told))
    except Exception as error:  # a template is a program: jinja2's errors, and any it raises by itself
        raise InputError(f"the reward model's chat template refuses a conversation: {error}") from error
