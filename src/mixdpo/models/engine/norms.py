"""RMS norms that hand the next matrix product what it reads, and keep only what their gradient needs.

Under autocast the residual stream is float32. Transformers' RMS norms then make several float32 tensors, and each
projection that follows casts the result anew and keeps its own copy. Here the result is rounded once, to the very
values those casts give, and the gradient is computed from the norm's input alone.

On a GPU that is one kernel of PyTorch. It serves bfloat16 as well, where transformers' norm takes six kernels and
keeps float32 tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F


class _RMSNorm(torch.autograd.Function):
    """x float32 (..., E), weight (E,) -> weight * x / rms(x) in `dtype`, shape (..., E)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean_square.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad = grad.to(x.dtype)
        normed = x * scale
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        grad = grad * weight
        along = torch.linalg.vecdot(grad, normed).unsqueeze(-1).div_(x.shape[-1])
        return grad.sub_(normed.mul_(along)).mul_(scale), grad_weight, None, None


class LeanNorm:
    """Stands in for the forward of one RMS norm of transformers."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm
        self.plain = type(norm).forward

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the norm's result, in autocast's format if the input is float32 and autocast is on."""
        device = hidden.device.type
        if device == "cuda" and hidden.dtype == self.norm.weight.dtype:
            return self._fused(hidden)
        if hidden.dtype != torch.float32 or not torch.is_autocast_enabled(device):
            return self.plain(self.norm, hidden)
        dtype = torch.get_autocast_dtype(device)
        return _RMSNorm.apply(hidden, self.norm.weight, self.norm.variance_epsilon, dtype)

    def _fused(self, hidden: Tensor) -> Tensor:
        norm: Any = self.norm
        device = hidden.device.type
        rounds = hidden.dtype == torch.float32 and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if rounds else hidden.dtype
        with torch.autocast(device, enabled=False):  # which would make everything float32
            return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon).to(dtype)


def stand_in(layer: nn.Module, **attributes: Any) -> nn.Module:
    """Return a layer of the same class and settings, with `attributes` in place of its weights and of layers in it."""
    stub = object.__new__(type(layer))
    nn.Module.__init__(stub)
    for name, value in {**vars(layer), **attributes}.items():
        if name in attributes or not name.startswith("_"):
            setattr(stub, name, value)
    return stub


def use_lean_norms(model: nn.Module) -> None:
    """Replace the forward of every RMS norm that computes weight * x / rms(x), as one look at a result of it tells."""
    for module in model.modules():
        weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if not isinstance(weight, Tensor) or not isinstance(epsilon, float) or weight.ndim != 1:
            continue
        if _computes_plain_norm(module, epsilon):
            module.forward = LeanNorm(module)


def _computes_plain_norm(norm: nn.Module, epsilon: float) -> bool:
    weight = torch.linspace(-1, 2, 8)
    hidden = torch.linspace(-2, 3, 16).view(2, 8)
    with torch.no_grad():
        try:
            theirs = type(norm).forward(stand_in(norm, weight=weight), hidden)
        except (AttributeError, TypeError, RuntimeError):  # it reads more than a weight
            return False
        return torch.allclose(theirs, _RMSNorm.apply(hidden, weight, epsilon, torch.float32), rtol=1e-4, atol=1e-5)
