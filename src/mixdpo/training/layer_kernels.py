"""The setting `use_liger_kernel`: whether Liger's kernels compute the layers of a run's models."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence

import torch
from torch import nn

from mixdpo.common.errors import InputError, install_extra
from mixdpo.models.engine import liger_kernels, use_layer_kernels, use_plain_rotary
from mixdpo.training.config import MixDPOConfig

logger = logging.getLogger(__name__)

# Transformers applies Liger once more when training starts, and its loss would take the place of the model's forward.
_NOTHING_MORE = dict.fromkeys(
    (
        "rope",
        "rms_norm",
        "layer_norm",
        "swiglu",
        "geglu",
        "relu_squared",
        "cross_entropy",
        "fused_linear_cross_entropy",
    ),
    False,
)


def apply_layer_kernels(models: Sequence[nn.Module], args: MixDPOConfig) -> None:
    """Put Liger's kernels in place of layers as `use_liger_kernel` says, write into it what null came to, and log it.

    Raises:
        InputError: it is true where the kernels cannot run.
    """
    if args.liger_kernel_config not in (None, _NOTHING_MORE):
        raise InputError(
            "liger_kernel_config is given, and layers are chosen by what they compute",
            hint="leave it out and set use_liger_kernel to true or false",
        )
    on_gpu, asked = args.device.type == "cuda", args.use_liger_kernel
    if asked and not on_gpu:
        raise InputError("use_liger_kernel is true, and its kernels run on GPUs only", hint="leave it out")
    if asked is None:
        asked = on_gpu and not args.torch_compile  # which fuses what it can itself
    kernels = None
    if asked:
        try:
            kernels = liger_kernels()
        except ImportError as error:
            if args.use_liger_kernel:
                reason = f"use_liger_kernel is true, and liger-kernel cannot be imported ({error})"
                raise InputError(reason, hint=install_extra("liger")) from error
            if importlib.util.find_spec("liger_kernel") is not None:
                logger.warning("layers run without Liger's kernels, which cannot be imported: %s", error)
    args.use_liger_kernel = kernels is not None
    for model in models:
        use_plain_rotary(model)
        if kernels is not None:
            dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else next(model.parameters()).dtype
            logger.info("%s", use_layer_kernels(model, kernels, args.device, dtype))
            args.liger_kernel_config = _NOTHING_MORE
