"""Moving means that some losses read: updated once per optimizer step, over all its pairs and processes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from mixdpo.common.errors import RunError
from mixdpo.common.files import atomic_path
from mixdpo.losses import Running

MOMENTUM = 0.9
"""Share of the moving mean and deviation that a step keeps; as in beta-DPO and AlphaDPO."""

_FILE = "loss_statistics.json"


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
        with atomic_path(folder / _FILE) as temporary:
            temporary.write_text(json.dumps(content))

    def load(self, folder: Path, device: torch.device) -> None:
        """Read what `save` wrote; raises `RunError` if it is not there or broken."""
        try:
            content = json.loads((folder / _FILE).read_text())
            for name, (mean, deviation, started) in content.items():
                self.current[name] = Running(*(torch.tensor(float(v), device=device) for v in (mean, deviation)))
                self._started[name] = torch.tensor(bool(started), device=device)
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{folder / _FILE}: the moving statistics of the loss cannot be read ({error})") from error
