"""What losses carry from step to step: moving statistics, and a reference that follows the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import atomic_path
from mixdpo.losses import LOSSES, Running, statistics
from mixdpo.training.batch import PairBatch
from mixdpo.training.calibration_state import CalibrationState
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.step import StepResult, StepSettings

MOMENTUM = 0.9
"""Share of the moving mean and deviation that a step keeps; as in beta-DPO and AlphaDPO."""

_STATISTICS_FILE = "loss_statistics.json"
_REFERENCE_FILE = "reference.safetensors"


class RunningStatistics:
    """Moving mean and deviation of a statistic by loss; the values of the first step that has any start them.

    Sums, and whether there was such a step, stay on the device; nothing waits for it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._started: dict[str, Tensor] = {}  # bool, 0-d
        self.current: dict[str, Running] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add the values (B,) of a micro-batch to those of the step."""
        values = values.detach().float()
        count = torch.full((), float(len(values)), device=values.device)
        sums = torch.stack([values.sum(), values.square().sum(), count])
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def end_step(self, names: list[str], accelerator: Accelerator) -> None:
        """Move mean and deviation towards those of the step, the same on every process."""
        for name in names:
            sums = self._sums.pop(name, torch.zeros(3, device=accelerator.device))
            total, squares, count = accelerator.reduce(sums, reduction="sum").unbind()
            mean = total / count.clamp(min=1)
            deviation = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
            last = self.current.get(name, Running.initial(accelerator.device))
            known = count > 0  # a step without such pairs changes nothing
            started = self._started.get(name, torch.zeros_like(known))
            kept = torch.where(known, MOMENTUM * started, 1.0)
            self.current[name] = Running(
                torch.lerp(mean, last.mean, kept), torch.lerp(deviation, last.deviation, kept)
            )
            self._started[name] = started | known

    def save(self, folder: Path) -> None:
        """Write the moving values beside a checkpoint."""
        content = {
            name: [float(value.mean), float(value.deviation), bool(self._started[name])]
            for name, value in self.current.items()
        }
        with atomic_path(folder / _STATISTICS_FILE) as temporary:
            temporary.write_text(json.dumps(content))

    def load(self, folder: Path, device: torch.device) -> None:
        """Read what `save` wrote; raises `RunError` if it is not there or broken."""
        try:
            content = json.loads((folder / _STATISTICS_FILE).read_text())
            for name, (mean, deviation, started) in content.items():
                self.current[name] = Running(*(torch.tensor(float(v), device=device) for v in (mean, deviation)))
                self._started[name] = torch.tensor(bool(started), device=device)
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{folder / _STATISTICS_FILE}: the moving statistics of the loss cannot be read ({error})"
            ) from error


class LossState:
    """Updated once per optimizer step, kept with every checkpoint, the same on every process.

    Args:
        args: the TR-DPO settings are read.
        settings: the losses.
        policy: the policy, its weights whole on every process.
        reference: the live reference, None without one.
        accelerator: reduces sums over processes.

    Raises:
        InputError: the reference cannot follow the policy.
    """

    def __init__(
        self,
        args: MixDPOConfig,
        settings: StepSettings,
        policy: nn.Module,
        reference: nn.Module | None,
        accelerator: Accelerator,
    ) -> None:
        self._args, self._settings, self._accelerator = args, settings, accelerator
        self._policy, self._reference = policy, reference if args.sync_ref_model else None
        if args.sync_ref_model and (reference is None or isinstance(policy, PeftModel)):
            raise InputError(
                "sync_ref_model needs a reference with weights of its own, and with adapters it is the base model",
                hint="train all weights, or leave sync_ref_model out",
            )
        names = (*settings.loss_names, *settings.hard_loss_names)
        self._names = [name for name in dict.fromkeys(names) if LOSSES[name].statistic is not None]
        self._statistics = RunningStatistics()
        self._calibration = CalibrationState(accelerator) if settings.reward_calibration else None

    @property
    def carried(self) -> dict[str, Any]:
        """What `pair_losses` reads of the steps before this one, by argument."""
        factor = None if self._calibration is None else self._calibration.factor
        return {"running": self._statistics.current, "calibration_factor": factor}

    def add(self, batch: PairBatch, result: StepResult) -> None:
        """Note a micro-batch of this step."""
        if self._calibration is not None and result.calibration is not None:
            self._calibration.add(result.calibration)
        if not self._names:
            return
        for index, names in (
            (batch["preference_index"], self._settings.loss_names),
            (batch["hard_index"], self._settings.hard_loss_names),
        ):
            for name, values in statistics(result.pairs.select(index), names, self._settings.loss_settings).items():
                self._statistics.add(name, values)

    def end_step(self, step: int) -> None:
        """Move the statistics, and every `ref_model_sync_steps` the reference."""
        self._statistics.end_step(self._names, self._accelerator)
        if self._calibration is not None:
            self._calibration.end_step()
        if self._reference is not None and step % self._args.ref_model_sync_steps == 0:
            policy = self._accelerator.unwrap_model(self._policy)
            mix_weights(self._reference, policy, self._args.ref_model_mixup_alpha)

    def save(self, folder: Path) -> None:
        """Write what a continued run needs into a checkpoint's folder."""
        if self._names:
            self._statistics.save(folder)
        if self._calibration is not None:
            self._calibration.save(folder)
        if self._reference is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self._reference, str(folder / _REFERENCE_FILE))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            RunError: a file is missing or broken.
        """
        if self._names:
            self._statistics.load(folder, self._accelerator.device)
        if self._calibration is not None:
            self._calibration.load(folder)
        if self._reference is not None:
            try:
                load_model(self._reference, folder / _REFERENCE_FILE)
            except Exception as error:  # safetensors raises errors of several kinds
                raise RunError(f"{folder / _REFERENCE_FILE}: the reference cannot be read ({error})") from error


@torch.no_grad()
def mix_weights(reference: nn.Module, policy: nn.Module, alpha: float) -> None:
    """Set every weight of the reference to alpha * policy + (1 - alpha) * reference.

    Source: Gorbatovski et al. 2024, "TR-DPO" (arXiv 2404.09656), equation 2.
    """
    for old, new in zip(reference.parameters(), policy.parameters(), strict=True):
        old.lerp_(new.to(old.dtype), alpha)
