"""What reward calibration carries from step to step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from accelerate import Accelerator
from torch import Tensor

from mixdpo.common.errors import RunError
from mixdpo.common.files import atomic_path
from mixdpo.losses.calibration import equalising_factor

MOMENTUM: Final = 0.98
"""Share of the moving logarithms that a step keeps; as in the authors' code."""

_LEAST: Final = 1e-12
_FILE: Final = "reward_calibration.json"


class CalibrationState:
    """Moving logarithms of the incentives and score norms of both answers; the first step that has any starts them.

    A step's values are means over its pairs on all processes, so they do not depend on how it is cut. A step whose
    mean incentives are not both above 0, which have no logarithm, changes nothing. Nothing waits for the device.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sums = torch.zeros(5, device=accelerator.device)  # the four and the number of pairs
        self._logs = torch.zeros(4, device=accelerator.device)
        self._started = torch.zeros((), dtype=torch.bool, device=accelerator.device)

    @property
    def factor(self) -> Tensor:
        """By what the chosen answers' gradients are multiplied, and the rejected ones' divided; 0-d, 1 at first."""
        return equalising_factor(self._logs)

    def add(self, values: Tensor) -> None:
        """Add a micro-batch: incentives and score norms of its preference pairs, (4, B)."""
        count = torch.full((1,), float(values.shape[1]), device=values.device)
        self._sums = self._sums + torch.cat([values.sum(1), count])

    def end_step(self) -> None:
        """Move the logarithms towards those of the step, the same on every process."""
        total = self._accelerator.reduce(self._sums, reduction="sum")
        self._sums = torch.zeros_like(self._sums)
        known = (total > 0).all()  # some losses of good and bad answers pull them back beyond a target
        logs = (total[:4] / total[4].clamp(min=1)).clamp(min=_LEAST).log()
        kept = torch.where(known, MOMENTUM * self._started, 1.0)
        self._logs = torch.lerp(logs, self._logs, kept)
        self._started = self._started | known

    def save(self, folder: Path) -> None:
        """Write the moving logarithms beside a checkpoint."""
        with atomic_path(folder / _FILE) as temporary:
            temporary.write_text(json.dumps({"logs": self._logs.tolist(), "started": bool(self._started)}))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; raises `RunError` if it is not there or broken."""
        try:
            content = json.loads((folder / _FILE).read_text())
            self._logs = torch.tensor([float(value) for value in content["logs"]], device=self._logs.device)
            self._started = torch.tensor(bool(content["started"]), device=self._logs.device)
            if len(self._logs) != 4:
                raise ValueError(f"{len(self._logs)} values instead of 4")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{folder / _FILE}: the reward calibration cannot be read ({error})") from error
