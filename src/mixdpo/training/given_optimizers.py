"""An optimizer and a schedule that the caller made, instead of those of the settings."""

from __future__ import annotations

import logging
from typing import TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mixdpo.common.errors import InputError
from mixdpo.plan.plan import Plan
from mixdpo.training.config import MixDPOConfig

logger = logging.getLogger(__name__)

Optimizers: TypeAlias = tuple[Optimizer | None, LambdaLR | None]


def check_optimizers(optimizers: Optimizers, policy: nn.Module, args: MixDPOConfig, plan: Plan) -> None:
    """Check that they train this policy, and that nothing else depends on the learning rate.

    Raises:
        InputError: the optimizer has other parameters, as before adapters were added; or a setting reads the schedule
            of `args`.
    """
    optimizer, scheduler = optimizers
    if optimizer is not None:
        own = {id(parameter) for parameter in policy.parameters() if parameter.requires_grad}
        given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if not any(id(parameter) in own for parameter in given):
            raise InputError(
                "the optimizer has no parameter of the policy that is trained",
                hint="load the model and add adapters yourself, make the optimizer of it, and give both",
            )
    reader = "plan.weight rate" if plan.settings.weight == "rate" else None
    if args.phase_schedule != "shared":
        reader = f"phase_schedule {args.phase_schedule}"
    if scheduler is not None and reader is not None:
        raise InputError(
            f"{reader} reads the schedule of the settings, and another one is given",
            hint="set learning_rate, lr_scheduler_type and warmup_steps in args instead",
        )
    if scheduler is not None:
        logger.warning(
            "learning rates in the table before the first step are of the settings, not of the given schedule"
        )
