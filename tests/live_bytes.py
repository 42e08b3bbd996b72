"""How many bytes of tensors are alive at a time, on any device: what PyTorch's allocator counts on a GPU."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make within the context, until they are freed.

    Attributes:
        alive: bytes now.
        peak: the most since the context began or `reset_peak`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def reset_peak(self) -> None:
        """Begin to look for the most anew."""
        self.peak = self.alive

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((arguments, named)) if isinstance(t, torch.Tensor)}
        result = function(*arguments, **(named or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage(), inputs)
        return result

    def _add(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in inputs:
            return
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def free() -> None:
            self._known.discard(key)
            self.alive -= size

        weakref.finalize(storage, free)
