"""The part of the trainer that feeds it: pairs in the plan's order, and the learning rate of every step."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from mixdpo.common.signals import begin_worker
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.finite_trainer import FiniteTrainer
from mixdpo.training.micro_batches import TokenBudget
from mixdpo.training.sampling import PlannedPairs, PlanSampler
from mixdpo.training.schedule import (
    StepPlan,
    learning_rate_factors,
    log_run_summary,
    make_step_plan,
    phase_lengths,
)


class PlannedTrainer(FiniteTrainer):
    """A trainer over `PlannedPairs`, which it reads in their plan's order."""

    _budget: TokenBudget

    def _get_train_sampler(self, train_dataset: TorchDataset | None = None) -> Sampler[Any]:
        step = self.get_total_train_batch_size(self.args)
        window = self.args.length_window if self.args.length_window is not None else step
        processes = self.accelerator.num_processes
        self._sampler = PlanSampler(
            self.train_dataset, self._rounds(), self._train_batch_size, processes, window, self._budget
        )
        return self._sampler

    def _sampler_to_fit(self) -> PlanSampler:
        """Return the sampler whose batches have to fit into memory."""
        return self._sampler

    def _get_eval_sampler(self, eval_dataset: TorchDataset) -> Sampler[Any]:
        assert isinstance(eval_dataset, PlannedPairs)
        processes = self.accelerator.num_processes
        return PlanSampler(eval_dataset, 1, self.args.eval_batch_size, processes, budget=self._budget)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        """Have workers outlive a signal to the whole group: the step under way needs their batches."""
        loader = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)  # accelerate wraps the one that starts workers
        inner.worker_init_fn = partial(begin_worker, inner.worker_init_fn)
        return loader

    def start_epoch(self, epoch: int) -> None:
        """Tell the sampler which epoch comes next, also when a run continues in the middle of one."""
        self._sampler.set_epoch(epoch)

    # ---- steps and learning rate ----

    @property
    def progress(self) -> float:
        """Share of the run's optimizer steps that are done, in [0, 1]; 0 where none is planned."""
        return self.state.global_step / max(self.state.max_steps, 1)

    def step_plan(self) -> StepPlan:
        """Return routes and pairs of every optimizer step of the run."""
        batch_size = self.get_total_train_batch_size(self.args)
        return make_step_plan(self.train_dataset, batch_size, self.args.num_train_epochs, self.args.max_steps)

    def first_hard_step(self) -> int | None:
        """Return the step, counted from 1, that is the first to train pairs of a hard route; None if none does."""
        hard = self.step_plan().route_share[:, [ROUTES.index("sft"), ROUTES.index("both")]].any(axis=1)
        return int(hard.argmax()) + 1 if hard.any() else None

    def learning_rate_factors(self) -> np.ndarray:
        """Return the learning rate of every step as a share of the peak."""
        steps = self.step_plan()
        return learning_rate_factors(self.args, phase_lengths(steps, self.args.phase_schedule, self._rounds()))

    def log_summary(self) -> None:
        """Say, before the first step, what the run is about to train."""
        factors = self.learning_rate_factors()
        log_run_summary(self.train_dataset, self.step_plan(), factors, self.args.phase_schedule)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Make the shared schedule of transformers, or one with a warm-up at each change of route."""
        if self.args.phase_schedule == "shared" or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        factors = self.learning_rate_factors()
        scheduled = optimizer if optimizer is not None else self.optimizer
        assert scheduled is not None
        self.lr_scheduler = LambdaLR(scheduled, lambda step: float(factors[min(step, len(factors) - 1)]))
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _rounds(self) -> int:
        batch_size = self.get_total_train_batch_size(self.args)
        if self.args.max_steps > 0:
            return math.ceil(self.args.max_steps / math.ceil(self.train_dataset.trained_pairs / batch_size))
        return math.ceil(self.args.num_train_epochs)
