"""Kernels for what stands between a model's matrix products: gated activations, rotary embeddings, RMS norms.

They take the place of a layer's forward, never of its class, so a model is saved as what it is; the head and the loss
are not touched. No list of models decides: a layer's own forward is run on made-up numbers in place of its weights,
and only where the kernel gives the same, with the same gradients, does it take over.

RMS norms that compute weight * x / rms(x) keep PyTorch's fused kernel (`norms.py`), which rounds once under autocast;
those that compute (1 + weight) * x / rms(x), Gemma's, have no other.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixdpo.models.engine.norms import LeanNorm, stand_in, use_lean_norms
from mixdpo.models.engine.wrappers import causal_model

Product = Callable[[Tensor, Tensor], Tensor]
_ROTARY = "apply_rotary_pos_emb"  # what modeling modules of transformers call it
_WIDTH = 64  # of made-up numbers


@dataclass(frozen=True)
class LayerKernels:
    """Functions that give what PyTorch's operations give, in fewer kernels.

    Attributes:
        gated: one for each activation, (gate, up) -> activation(gate) * up; gradients may overwrite what was given.
        rotary: (queries (R, H, T, D), keys (R, K, T, D), cosines, sines (R or 1, T, D)) -> both turned; may be
            computed in place.
        offset_norm: (x (..., E), weight (E,), epsilon) -> (1 + weight) * x / rms(x).
    """

    gated: Sequence[Product]
    rotary: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    offset_norm: Callable[[Tensor, Tensor, float], Tensor]


def liger_kernels() -> LayerKernels:
    """Return Liger's kernels; raises `ImportError` where they or Triton are not installed."""
    from liger_kernel.transformers import functional

    def offset_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        return functional.liger_rms_norm(x, weight, epsilon, offset=1.0, casting_mode="gemma", in_place=False)

    return LayerKernels([functional.liger_swiglu, functional.liger_geglu], functional.liger_rope, offset_norm)


@dataclass(frozen=True)
class Replaced:
    """Layers by class with a kernel in place of their forward, and those of the same kinds that keep theirs."""

    layers: Counter[str]
    kept: Counter[str]

    def __str__(self) -> str:
        def listed(layers: Counter[str]) -> str:
            return ", ".join(f"{count:,} {name}" for name, count in layers.items()) or "none"

        return f"layer kernels compute {listed(self.layers)}; left as they are: {listed(self.kept)}"


class GatedLayer:
    """Stands in for the forward of one gated feed-forward layer of transformers."""

    def __init__(self, layer: nn.Module, product: Product, device: str) -> None:
        self.layer, self.product, self.device = layer, product, device

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the layer's result."""
        layer: Any = self.layer
        if hidden.device.type != self.device:
            return type(layer).forward(layer, hidden)
        if hasattr(layer, "gate_up_proj"):
            gate, up = layer.gate_up_proj(hidden).chunk(2, dim=-1)
        else:
            gate, up = layer.gate_proj(hidden), layer.up_proj(hidden)
        return layer.down_proj(self.product(gate, up))


class OffsetNorm:
    """Stands in for the forward of one RMS norm of transformers whose weight is added to 1."""

    def __init__(self, norm: nn.Module, kernel: Callable[[Tensor, Tensor, float], Tensor], device: str) -> None:
        self.norm, self.kernel, self.device = norm, kernel, device

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the norm's result, in autocast's format if the input is float32 and autocast is on."""
        norm: Any = self.norm
        if hidden.device.type != self.device:
            return type(norm).forward(norm, hidden)
        result = self.kernel(hidden, norm.weight, norm.eps)
        rounds = hidden.dtype == torch.float32 and torch.is_autocast_enabled(self.device)
        return result.to(torch.get_autocast_dtype(self.device)) if rounds else result


class Rotary:
    """Stands in for a modeling module's function that turns queries and keys."""

    def __init__(self, plain: Callable[..., Any], kernel: Callable[..., Any], device: str) -> None:
        self.plain, self.kernel, self.device = plain, kernel, device

    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return turned queries and keys."""
        if args or kwargs or q.device.type != self.device:
            return self.plain(q, k, cos, sin, *args, **kwargs)
        return self.kernel(q, k, cos, sin)


def use_layer_kernels(model: nn.Module, kernels: LayerKernels, device: torch.device, dtype: torch.dtype) -> Replaced:
    """Put kernels in place of the layers of a model whose result they give, on the device they are for.

    Args:
        model: a causal language model, perhaps with adapters, not yet wrapped for training; weights may be anywhere.
        kernels: what to put in their place.
        device: where the model will run, and where kernels are tried beforehand; elsewhere it keeps its own forward.
        dtype: number format of the forward pass.
    """
    inner = causal_model(model)
    layers, kept = Counter[str](), Counter[str]()
    use_lean_norms(inner)
    for layer in inner.modules():
        activation = getattr(layer, "act_fn", getattr(layer, "activation_fn", None))
        is_norm = "RMSNorm" in type(layer).__name__
        if activation is None and not is_norm:
            continue
        if not isinstance(vars(layer).get("forward"), LeanNorm):
            find = partial(_offset_norm, layer) if is_norm else partial(_gated_layer, layer, activation)
            if (forward := find(kernels, device, dtype)) is None:
                kept[type(layer).__name__] += 1
                continue
            layer.forward = forward
        layers[type(layer).__name__] += 1
    for namespace, plain in _rotary_functions(inner):
        turns = _gives_the_same(plain, kernels.rotary, _rotary_inputs(device), dtype)
        namespace[_ROTARY] = Rotary(plain, kernels.rotary, device.type) if turns else plain
        (layers if turns else kept)[_ROTARY] += 1
    return Replaced(layers, kept)


def use_plain_rotary(model: nn.Module) -> None:
    """Give the modeling modules of a model their own functions back, which other models in this process share."""
    for namespace, plain in _rotary_functions(causal_model(model)):
        namespace[_ROTARY] = plain


def _rotary_functions(model: nn.Module) -> Iterator[tuple[dict[str, Any], Callable[..., Any]]]:
    for name in sorted({type(module).__module__ for module in model.modules()}):
        namespace = vars(sys.modules[name])
        if (found := namespace.get(_ROTARY)) is not None:
            yield namespace, found.plain if isinstance(found, Rotary) else found


def _random(device: torch.device, *shapes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).to(device) for shape in shapes]


def _rotary_inputs(device: torch.device) -> list[Tensor]:
    q, k, angles = _random(device, (1, 4, 6, _WIDTH), (1, 2, 6, _WIDTH), (1, 6, _WIDTH // 2))
    angles = torch.cat([angles, angles], dim=-1)
    return [q, k, angles.cos(), angles.sin()]


def _gated_layer(
    layer: nn.Module, activation: Any, kernels: LayerKernels, device: torch.device, dtype: torch.dtype
) -> GatedLayer | None:
    """Return what computes a layer's activation(gate) * up by a kernel, None where it computes something else."""

    def plain(gate: Tensor, up: Tensor) -> Tensor:
        stub = stand_in(
            layer,
            act_fn=activation,
            activation_fn=activation,
            gate_proj=lambda _: gate,
            up_proj=lambda _: up,
            gate_up_proj=lambda _: torch.cat([gate, up], dim=-1),
            down_proj=lambda product: product,
        )
        return type(layer).forward(stub, gate)

    inputs = _random(device, (3, _WIDTH), (3, _WIDTH))
    for product in kernels.gated:
        if _gives_the_same(plain, product, inputs, dtype):
            return GatedLayer(layer, product, device.type)
    return None


def _offset_norm(
    norm: nn.Module, kernels: LayerKernels, device: torch.device, dtype: torch.dtype
) -> OffsetNorm | None:
    """Return what computes an RMS norm by a kernel, None where it computes something else."""

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return type(norm).forward(stand_in(norm, weight=weight), x)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return kernels.offset_norm(x, weight, norm.eps)  # type: ignore[arg-type]

    same = _gives_the_same(plain, ours, _random(device, (3, _WIDTH), (_WIDTH,)), dtype)
    return OffsetNorm(norm, kernels.offset_norm, device.type) if same else None


def _gives_the_same(
    plain: Callable[..., Any], kernel: Callable[..., Any], inputs: list[Tensor], dtype: torch.dtype
) -> bool:
    """Whether a kernel runs and gives a function's values and gradients: in float32, and roughly in `dtype`.

    What does not run at all, such as a kernel that the card cannot hold, is not the same.
    """

    def results(function: Callable[..., Any], number_format: torch.dtype) -> list[Tensor]:
        leaves = [x.to(number_format).requires_grad_() for x in inputs]
        out = function(*(x.clone() for x in leaves))  # kernels may compute in place
        outs = out if isinstance(out, tuple) else (out,)
        weights = [torch.linspace(-1, 2, x.numel(), device=x.device).view_as(x).to(x.dtype) for x in outs]
        grads = torch.autograd.grad(outs, leaves[:2], weights)
        return [x.float() for x in (*outs, *grads)]

    try:
        return all(
            torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.detach().abs().max()))
            for number_format, tolerance in ((torch.float32, 1e-4), (dtype, 0.05))
            for ours, theirs in zip(results(kernel, number_format), results(plain, number_format), strict=True)
        )
    except Exception:  # Triton, the driver and the forward of unknown layers raise errors of all kinds
        return False
