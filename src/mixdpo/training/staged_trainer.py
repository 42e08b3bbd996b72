"""The part of the trainer that moves the plan: between two stages it asks the policy about all pairs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from mixdpo.common.progress import pairs_bar
from mixdpo.common.tables import percent_text
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.batch import RowLayout
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.planned_trainer import PlannedTrainer
from mixdpo.training.sampling import PlannedPairs, PlanSampler
from mixdpo.training.schedule import StepPlan, learning_rate_factors, log_run_summary, make_step_plan
from mixdpo.training.stages import Stages, check_stages, policy_logprobs
from mixdpo.training.step import StepSettings
from mixdpo.training.step_settings import step_settings

logger = logging.getLogger(__name__)


class StagedTrainer(PlannedTrainer):
    """A trainer whose epochs are the stages of its plan where that has several; else a `PlannedTrainer`.

    Attributes:
        plan: that of the start; `train_dataset` has the current stage's.
    """

    plan: Plan
    _stages: Stages | None
    _step_settings: StepSettings
    _lay_out: RowLayout

    def prepare_stages(self, args: MixDPOConfig, dataset: Dataset, pairs: PlannedPairs) -> None:
        """Begin the plan of `pairs`, which are those of `dataset`, with its first stage where it has several.

        Raises:
            InputError: settings of the run and of the stages contradict each other.
        """
        self.plan = pairs.plan
        check_stages(args, self.plan)
        self._eval_settings = self._step_settings  # evaluations are the same in every stage
        self._stages = Stages(args, dataset, pairs) if self.plan.settings.stages > 1 else None

    @property
    def pairs_with_reference(self) -> PlannedPairs:
        """The pairs to train whose reference is computed at the start; with stages all, whatever their route."""
        return self.train_dataset if self._stages is None else self._stages.every_pair

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch, which may be a stage; a run that continues within one goes on with its plan."""
        if self._stages is not None:
            self._start_stage(self._stages, epoch + 1)
        super().start_epoch(epoch)

    def _start_stage(self, stages: Stages, number: int) -> None:
        folder, step = Path(self.args.output_dir or "."), self.state.global_step
        if step > stages.first_step(number):
            stages.resume(folder, number)
            self._take_step_settings()
            return
        logprobs = None
        if number > 1:
            if stages.number != number - 1:  # the run continues between the two
                stages.resume(folder, number - 1)
            self._check_weights()
            if stages.asks_policy:
                logprobs = self._policy_logprobs(stages, f"policy (end of stage {number - 1})")
        record = stages.begin(number, logprobs)
        self._take_step_settings()
        if self.is_world_process_zero():
            stages.save(folder)
            logger.info("%s", stage_line(record, stages))
            steps = self.step_plan()
            factors = self.learning_rate_factors()[step : step + len(steps)]
            label = f"stage {number} of {stages.count}: "
            log_run_summary(self.train_dataset, steps, factors, self.args.phase_schedule, label, step)
        self.log(record)

    def _take_step_settings(self) -> None:
        changed = step_settings(self.args, self.train_dataset.plan, self.plan)
        self._step_settings = replace(changed, router_coefficient=self._step_settings.router_coefficient)

    def _policy_logprobs(self, stages: Stages, name: str) -> np.ndarray:
        return policy_logprobs(
            self.model_wrapped,
            stages.every_pair,
            self.accelerator,
            self._lay_out,
            self.args.precompute_ref_batch_size or self.args.per_device_eval_batch_size,
            None if self.args.disable_tqdm else pairs_bar(name),
        )

    # ---- steps and learning rate ----

    def log_summary(self) -> None:
        """Say what the run is about to train; each stage says it of its own when it begins."""
        if self._stages is None:
            super().log_summary()

    def step_plan(self) -> StepPlan:
        """Return routes and pairs of every optimizer step; in stages, which know no more, those of the current one."""
        if self._stages is None:
            return super().step_plan()
        left = self._all_steps(self._stages) - self._stages.first_step(self._stages.number)
        batch_size = self.get_total_train_batch_size(self.args)
        return make_step_plan(self.train_dataset, batch_size, 1, min(left, self._stages.steps))

    def first_hard_step(self) -> int | None:
        """Return the first step that trains pairs of a hard route; in stages the first of the current one."""
        first = super().first_hard_step()
        return first if first is None or self._stages is None else first + self._stages.first_step(self._stages.number)

    def routes(self) -> set[str]:
        """Return the routes that pairs take; in stages, which know no more, that they may take."""
        settings = self.plan.settings
        later = {settings.easy_route, settings.hard_route} if self._stages is not None else set()
        return {*(ROUTES[code] for code in np.unique(self.plan.route).tolist()), *later}

    def learning_rate_factors(self) -> np.ndarray:
        """Return the learning rate of every step as a share of the peak, over all stages."""
        if self._stages is None:
            return super().learning_rate_factors()
        return learning_rate_factors(self.args, [self._all_steps(self._stages)])

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """Have transformers run one epoch per stage."""
        if self._stages is not None:
            args = copy.copy(args)
            args.num_train_epochs = self._stages.count
        return super().set_initial_training_values(args, dataloader)

    def _rounds(self) -> int:
        return super()._rounds() if self._stages is None else self._stages.count

    def _all_steps(self, stages: Stages) -> int:
        return self.args.max_steps if self.args.max_steps > 0 else stages.count * stages.steps

    def _sampler_to_fit(self) -> PlanSampler:
        """Return a sampler whose batches take the most memory; later stages may put any pairs into one batch."""
        if self._stages is None:
            return super()._sampler_to_fit()
        pairs, processes = self._stages.every_pair, self.accelerator.num_processes
        return PlanSampler(pairs, 1, self._train_batch_size, processes, window=len(pairs.plan), budget=self._budget)


def stage_line(record: Mapping[str, float], stages: Stages) -> str:
    """Return what a log says of a stage, from its line of metrics."""
    prefix = "stage/route/"
    routes = [
        f"{name.removeprefix(prefix)} {percent_text(share)}"
        for name, share in record.items()
        if name.startswith(prefix)
    ]
    parts = [
        f"stage {stages.number} of {stages.count}: {stages.draws:,} pairs, drawn from {record['stage/pairs']:,.0f}",
        f"routes {', '.join(routes)}",
    ]
    if "stage/changed_route" in record:
        parts.append(f"{record['stage/changed_route']:,.0f} pairs changed their route")
    if "stage/rank_correlation" in record and stages.number > 1:
        parts.append(f"rank correlation with the first order {record['stage/rank_correlation']:.3f}")
    if "stage/gate/open" in record:
        opened, closed = record["stage/gate/open"], record["stage/gate/closed"]
        parts.append(f"the gate let {opened:,.0f} of {opened + closed:,.0f} hard pairs through")
    return "; ".join(parts)
