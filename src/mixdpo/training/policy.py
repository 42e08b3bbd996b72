"""The policy and its frozen reference, made ready for training."""

from __future__ import annotations

import copy
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from mixdpo.engine import disable_dropout
from mixdpo.errors import InputError
from mixdpo.model import ModelSettings, load_policy
from mixdpo.training.config import MixDPOConfig


def prepare_policy(
    model: PreTrainedModel | PeftModel | str,
    ref_model: PreTrainedModel | None,
    peft_config: PeftConfig | None,
) -> tuple[PreTrainedModel | PeftModel, bool]:
    """Return the policy without dropout, and whether it equals its reference before the first step."""
    policy: Any = model
    if isinstance(model, str):
        policy = load_policy(ModelSettings(name_or_path=model), with_adapters=peft_config is not None)
    # A continued adapter and a reference of one's own differ from the policy from the start.
    starts_at_reference = ref_model is None and not isinstance(policy, PeftModel)
    if peft_config is not None:
        if isinstance(policy, PeftModel):
            raise InputError("the model has adapters already; leave out peft_config to continue training them")
        policy = get_peft_model(policy, peft_config)
    disable_dropout(policy)
    return policy, starts_at_reference


def frozen_reference(policy: nn.Module, ref_model: nn.Module | None, args: MixDPOConfig) -> nn.Module | None:
    """Return a model for the reference, or None where the policy itself serves (adapters off, or one pass first)."""
    if ref_model is policy:
        raise InputError("ref_model is the policy itself and would be trained; leave it out or give a copy")
    needs_copy = not args.precompute_ref_log_probs and not isinstance(policy, PeftModel)
    if ref_model is None and not needs_copy:
        return None
    reference = copy.deepcopy(policy) if ref_model is None else ref_model
    disable_dropout(reference)
    return reference.requires_grad_(False).eval().to(args.device)
