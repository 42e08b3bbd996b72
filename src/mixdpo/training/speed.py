"""How fast a run trains, and the most memory it has taken."""

from __future__ import annotations

import sys
import time
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from transformers import TrainerCallback

from mixdpo.training.memory import GIB


class Speed(TrainerCallback):
    """Counts the tokens that are computed, and the time that takes without evaluations and checkpoints."""

    def __init__(self) -> None:
        self._tokens, self._seconds, self._since = 0, 0.0, 0.0

    def add(self, tokens: int) -> None:
        """Count the tokens of a micro-batch: packed rows hold each prompt once, padded ones their padding."""
        self._tokens += tokens

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin."""
        self._tokens, self._seconds = 0, 0.0
        if torch.cuda.is_available():  # what was tried before the first step is no part of the run
            torch.cuda.reset_peak_memory_stats()
        self._go_on()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Count the time since the last step, or since what came after it."""
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Leave out an evaluation."""
        self._go_on()

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        """Leave out a checkpoint."""
        self._go_on()

    def _go_on(self) -> None:
        self._since = time.perf_counter()

    def metrics(self, accelerator: Accelerator) -> dict[str, float]:
        """Return `tokens_per_second` since the last call over all processes, and the largest `peak_memory_gib`."""
        tokens, peak = float(self._tokens), float(peak_memory(accelerator.device))
        if accelerator.num_processes > 1:
            own = torch.tensor([[tokens, peak]], device=accelerator.device)
            everyone = accelerator.gather(own)
            tokens, peak = float(everyone[:, 0].sum()), float(everyone[:, 1].max())
        seconds, self._tokens, self._seconds = self._seconds, 0, 0.0
        speed = {"tokens_per_second": round(tokens / seconds, 1)} if seconds else {}
        return {**speed, "peak_memory_gib": round(peak / GIB, 3)}


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that tensors have taken on a GPU; elsewhere, that the process has taken of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # of Unix alone

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
