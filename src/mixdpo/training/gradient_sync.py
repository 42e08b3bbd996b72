"""When processes exchange gradients: where a batch is cut into micro-batches, and over accumulation steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn


def shards_weights(accelerator: Accelerator) -> bool:
    """Whether FSDP or DeepSpeed runs the model."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


@contextmanager
def more_to_come(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Within the context a backward pass is not the last of its batch.

    Data-parallel processes exchange gradients after the last one alone. Sharded ones do so after each, because until
    then every process would hold the gradients of all weights. DeepSpeed would update the weights after each.
    """
    if not shards_weights(accelerator):
        with accelerator.no_sync(model):
            yield
        return
    state = accelerator.gradient_state
    ends_step = state.sync_gradients
    state._set_sync_gradients(False)
    try:
        yield
    finally:
        state._set_sync_gradients(ends_step)
