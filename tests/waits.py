"""Counts what makes the host wait for the device, without a GPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations whose result, or whose result's size, the host has to know before it can go on.
WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "repeat_interleave"}


class Waits(TorchDispatchMode):
    """Counts what would wait on a GPU: the operations of that name, and places chosen by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = tree_leaves(args[1]) if name.strip("_") in ("index", "index_put", "index_put_impl") else ()
        if name in WAITING or any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))
