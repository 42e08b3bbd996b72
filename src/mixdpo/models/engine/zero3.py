"""Weights that DeepSpeed's ZeRO-3 spreads over processes, made whole for as long as they are read.

DeepSpeed's own engine does so while a run trains; this is for the time before. All processes must come here together
and ask for the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


def is_spread(parameter: Tensor) -> bool:
    """Whether a parameter is one of ZeRO-3's, of which each process keeps a part."""
    return hasattr(parameter, "ds_id")


def weights_of(parameter: Tensor) -> int:
    """Return the number of a parameter's weights, on all processes together."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@contextmanager
def whole(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Within the context these parameters, which must not be changed there, are whole on every process."""
    spread = [parameter for parameter in parameters if is_spread(parameter)]
    if not spread:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(spread):
        yield


@contextmanager
def whole_in_forward(model: nn.Module) -> Iterator[None]:
    """Within the context every module has its own weights whole while its forward runs, so one layer's at a time."""
    spread = [module for module in model.modules() if any(map(is_spread, module.parameters(recurse=False)))]
    with ExitStack() as hooks:
        gathered: dict[nn.Module, ExitStack] = {}

        def gather(module: nn.Module, *arguments: Any) -> None:
            gathered[module] = hooks.enter_context(ExitStack())
            gathered[module].enter_context(whole(module.parameters(recurse=False)))

        def scatter(module: nn.Module, *arguments: Any) -> None:
            gathered[module].close()

        for module in spread:
            hooks.callback(module.register_forward_pre_hook(gather).remove)
            hooks.callback(module.register_forward_hook(scatter).remove)
        yield
