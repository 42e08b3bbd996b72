"""What a run needs of a device's memory, worked out from sizes and from a few small steps. Nothing here runs a model.

All sizes are bytes. What grows with a micro-batch is a line over the tokens it computes, laid through two measured
points: layers keep and make tensors of so many bytes a token, beside what does not depend on tokens, such as weights
that autocast rounded. The language-model head is not on that line, for it keeps no more than a fixed amount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

GIB: Final = 2**30
USABLE: Final = 0.9
"""Share of a device's memory to plan with: the allocator leaves gaps, and the estimate may be off by a tenth."""

# Copies of a weight in its own format that an optimizer keeps.
_COPIES: Final = {
    "adamw_torch": 2, "adamw_torch_fused": 2, "adamw_apex_fused": 2, "rmsprop": 1, "adagrad": 1,
}  # fmt: skip
# Numbers per weight that optimizers of bitsandbytes keep in 8 bits, with a float32 factor for each block of them.
_EIGHT_BIT: Final = {"adamw_8bit": 2, "adamw_bnb_8bit": 2, "lion_8bit": 1, "rmsprop_bnb_8bit": 1}
_BLOCK, _LEAST_IN_EIGHT_BIT = 256, 4096


@dataclass(frozen=True)
class Line:
    """Bytes over computed tokens."""

    fixed: float
    per_token: float

    @classmethod
    def through(cls, one: tuple[int, float], other: tuple[int, float]) -> Line:
        """Return the line through two points (tokens, bytes)."""
        per_token = (other[1] - one[1]) / (other[0] - one[0])
        return cls(one[1] - per_token * one[0], per_token)

    def at(self, tokens: float) -> float:
        """Return the bytes at so many tokens."""
        return self.fixed + self.per_token * tokens


@dataclass(frozen=True)
class StepMemory:
    """What forward and backward passes take beside weights and optimizer.

    Attributes:
        kept: what is there for the backward pass when the forward pass ends.
        first: the most that a step's first micro-batch takes, gradients included, which it makes.
        later: the most that a further one takes beside the gradients that are there.
        gradients: of all trained weights, on this device.
        head: what the language-model head takes for so many scored tokens.
    """

    kept: Line
    first: Line
    later: Line
    gradients: int
    head: Callable[[int], int]

    def at(self, tokens: int, scored: float, several: bool) -> float:
        """Return what a micro-batch takes.

        Args:
            tokens: that it computes.
            scored: share of them that the head scores.
            several: whether a step has more than one micro-batch.
        """
        at_the_head = self.kept.at(tokens) + self.head(round(scored * tokens))
        if several:
            return self.gradients + max(self.later.at(tokens), at_the_head)
        return max(self.first.at(tokens), self.later.at(tokens), at_the_head)


@dataclass(frozen=True)
class DeviceMemory:
    """What one process needs of its device.

    Attributes:
        device: its name.
        weights: of the policy, with buffers, as much of them as the process holds.
        reference: of a reference with weights of its own.
        other: what else PyTorch holds before the first step, such as buckets of gradients.
        optimizer: state that the optimizer keeps; None where it is not known.
        gradients: of the trained weights.
        activations: the most that a micro-batch takes beside all that; None where it was not measured.
        available: what there is for all of it.
    """

    device: str
    weights: int
    reference: int
    other: int
    optimizer: int | None
    gradients: int
    activations: int | None
    available: int

    @property
    def needed(self) -> int:
        """The sum of what is known."""
        known = (self.optimizer or 0, self.gradients, self.activations or 0)
        return self.weights + self.reference + self.other + sum(known)

    @property
    def fits(self) -> bool:
        """Whether that leaves the rest that is not planned with."""
        return self.needed <= USABLE * self.available

    def to_record(self) -> dict[str, Any]:
        """Return it for `run.json`, sizes in GiB."""
        sizes = {
            name: round(value / GIB, 3) if isinstance(value, int) else value for name, value in asdict(self).items()
        }
        return {**sizes, "needed": round(self.needed / GIB, 3)}

    def describe(self) -> str:
        """Return it on one line."""
        parts: list[tuple[str, int | None]] = [
            ("weights", self.weights), ("reference", self.reference), ("other", self.other),
            ("gradients", self.gradients), ("optimizer", self.optimizer), ("activations", self.activations),
        ]  # fmt: skip
        words = [f"{name} {size / GIB:.2f}" for name, size in parts if size]
        unknown = [name for name, size in parts if size is None]
        needed = f"{self.needed / GIB:.2f}{f' and {unknown[0]} (not known)' if unknown else ''}"
        return f"{self.device}: {' + '.join(words)} = {needed} of {self.available / GIB:.2f} GiB"


def held_bytes(model: nn.Module) -> int:
    """Return what a process holds of a model's weights and buffers."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(_local(t).nbytes for t in tensors.values())


def gradient_bytes(model: nn.Module) -> int:
    """Return what a process holds of the gradients of a model's trained weights."""
    return sum(_local(p).nbytes for p in model.parameters() if p.requires_grad)


def optimizer_bytes(model: nn.Module, optim: str) -> int | None:
    """Return what an optimizer of transformers keeps on the device for a model's trained weights, None if unknown.

    Args:
        model: whose weights this process trains, or its share of them.
        optim: its name in `TrainingArguments`. The state of paged ones is in memory that the driver moves to the
            host where the device's is full, so none is counted.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [(_local(p), id(p) in embeddings) for p in model.parameters() if p.requires_grad]
    if optim == "sgd" or optim.startswith("paged_"):
        return 0
    if optim in _COPIES:
        return _COPIES[optim] * sum(p.nbytes for p, _ in trained)
    if optim in _EIGHT_BIT:  # transformers keeps embeddings in 32 bits
        per_weight = ((4 if whole or p.numel() < _LEAST_IN_EIGHT_BIT else 1 + 4 / _BLOCK, p) for p, whole in trained)
        return round(_EIGHT_BIT[optim] * sum(size * p.numel() for size, p in per_weight))
    if optim == "adafactor":
        return sum(4 * _factored(p.shape) for p, _ in trained)
    return None


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return what an optimizer keeps already, as after a checkpoint was read."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(_local(value).nbytes for value in values if isinstance(value, Tensor))


def most_that_fits(fits: Callable[[int], bool], least: int, most: int) -> int | None:
    """Return the largest number of tokens from `least` to `most` that fits, None if not even `least` does."""
    if not fits(least):
        return None
    below, above = least, most + 1
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _factored(shape: Iterable[int]) -> int:
    """Numbers that Adafactor keeps of a weight: sums of rows and of columns of its last two axes."""
    *outer, rows, columns = (1, 1, *shape)
    lines = 1
    for size in outer:
        lines *= size
    return lines * (rows + columns if rows > 1 else columns)
