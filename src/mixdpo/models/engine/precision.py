"""Number formats and determinism of the forward pass."""

from __future__ import annotations

import torch
from torch import nn


def hardware_has_bf16() -> bool:
    """Whether the device that training will use computes bfloat16 natively (GPU, or CPU with AVX512-BF16 or AMX)."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available():
        return True
    # Without these instructions bfloat16 runs on a CPU but slower than float32.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability of `model` to 0, in place, and the noise on what routers of experts read.

    Policy and reference must be comparable: with dropout the implicit reward of an untrained policy is noise.
    Covers dropout modules and the plain floats that attention layers pass to functional dropout.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if ("dropout" in name or "jitter_noise" in name) and isinstance(value, float):
                setattr(module, name, 0.0)
