"""What runs under DeepSpeed need besides: a model that is saved whole, and a reference with an engine of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftConfig
from torch import nn

from mixdpo.common.errors import InputError
from mixdpo.models.engine import is_spread, whole


def save_whole_model(accelerator: Accelerator) -> None:
    """Have ZeRO-3 gather the model where it is saved; to be called before the weights are spread.

    Accelerate's default is not to. What is then saved as the model is a folder without weights.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.deepspeed_plugin.deepspeed_config
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True


def _is_zero3(plugin: Any) -> bool:
    """Whether accelerate's plugin of DeepSpeed, None without it, spreads weights too."""
    return plugin is not None and plugin.zero_stage == 3


def check_adapters(adapters: Iterable[PeftConfig | None], plugin: Any) -> None:
    """Raise `InputError` for adapters that ZeRO-3 cannot run: they read weights of the base outside its layers.

    There the weights are spread, so a process has nothing of them.

    Args:
        adapters: their settings, None where there are none.
        plugin: accelerate's of DeepSpeed, None without it.
    """
    if not _is_zero3(plugin):
        return
    for config in adapters:
        for name in ("use_dora", "trainable_token_indices"):
            if getattr(config, name, None):
                raise InputError(
                    f"peft's {name} does not work under ZeRO-3", hint="leave it out, or use FSDP2 or ZeRO-2"
                )


def check_formats(policy: nn.Module, plugin: Any) -> None:
    """Raise `InputError` for trained weights of several number formats, whose gradients ZeRO-3 cannot put together.

    Args:
        policy: with its adapters. Layers trained whole beside them (`modules_to_save`) keep the format of the base.
        plugin: accelerate's of DeepSpeed, None without it.
    """
    formats = {str(weight.dtype).removeprefix("torch.") for weight in policy.parameters() if weight.requires_grad}
    if _is_zero3(plugin) and len(formats) > 1:
        raise InputError(
            f"trained weights are in {' and '.join(sorted(formats))}, and ZeRO-3 trains one format",
            hint="set model.dtype to float32, or use FSDP2 or ZeRO-2",
        )


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of a model; of weights that ZeRO-3 has spread, in the same parts.

    One weight is whole at a time. All processes must come here.
    """
    copied: dict[int, Any] = {}
    for parameter in model.parameters():
        if is_spread(parameter):
            with whole([parameter]):
                copied[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            cast(Any, parameter).convert_to_zero_parameters(param_list=[copied[id(parameter)]])
    return copy.deepcopy(model, copied)


def with_engine(reference: nn.Module | None, accelerator: Accelerator) -> nn.Module | None:
    """Return a frozen reference inside a DeepSpeed engine, in the number format of the policy's forward pass.

    Under ZeRO-3 its weights are spread as the policy's are. Other stages spread what the optimizer needs, and a
    reference has none of it, so it stays whole. Without DeepSpeed, or a reference, nothing is done.
    """
    if reference is None or accelerator.distributed_type != DistributedType.DEEPSPEED:
        return reference
    import deepspeed

    plugin = accelerator.deepspeed_plugin
    config = copy.deepcopy(plugin.deepspeed_config)
    if not _is_zero3(plugin):
        config["zero_optimization"] = {"stage": 0}
    engine, *_ = deepspeed.initialize(model=reference, config=config)
    engine.eval()  # which returns nothing
    return cast(nn.Module, engine)


def check_zero_stage(checkpoint: Path, accelerator: Accelerator) -> None:
    """Raise `InputError` if a run of DeepSpeed would go on from a checkpoint that another stage of ZeRO cut in parts.

    ZeRO-3 writes a file of each process's weights beside those of the optimizer, the other stages one of all weights.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return
    was_spread = any(checkpoint.glob("global_step*/zero_pp_rank_*_model_states.pt"))
    if was_spread != _is_zero3(accelerator.deepspeed_plugin):
        was, now = ("ZeRO-3", "another stage") if was_spread else ("another stage", "ZeRO-3")
        raise InputError(
            f"the checkpoint is of a run under {was}, and this one is under {now}",
            file=checkpoint,
            hint="continue it with the zero_stage it was started with",
        )
