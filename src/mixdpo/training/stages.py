"""The stages of a run whose plan moves: each one's plan, what the policy says of the pairs, the next reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from torch import nn

from mixdpo.common.errors import InputError, RunError
from mixdpo.data.arrays import trained_counts
from mixdpo.plan.make_plan import make_plan
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.plan.stages import first_stage, moved_plan, next_stage, rank_correlation, stage_pool, stage_rows
from mixdpo.training.batch import RowLayout
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.records import load_reference, save_reference
from mixdpo.training.reference import values_of_all
from mixdpo.training.sampling import PlannedPairs


def check_stages(args: MixDPOConfig, plan: Plan) -> None:
    """Raise `InputError` for settings of a run that its plan's stages contradict."""
    settings = plan.settings
    if settings.stages == 1:
        if args.stage_reference != "kept":
            raise InputError(
                f"stage_reference is {args.stage_reference}, and the plan has one stage",
                hint="set plan.stages to 2 or more, or leave stage_reference out",
            )
        return
    of_reference = [
        f"{name} {value}"
        for name, value, reads in (
            ("stage_reference", args.stage_reference, args.stage_reference != "kept"),
            ("plan.stage_metric", settings.stage_metric, settings.stage_metric == "implicit_reward"),
            ("plan.gate", settings.gate, settings.gate is not None),
        )
        if reads
    ]
    if args.sync_ref_model and args.stage_reference != "kept":
        raise InputError("sync_ref_model and stage_reference both move the reference", hint="leave one of them out")
    if of_reference and not (args.reads_reference and args.precompute_ref_log_probs):
        raise InputError(
            f"{' and '.join(of_reference)} compares with the reference's log-probabilities of all pairs",
            hint="set precompute_ref_log_probs to true, and take a loss that reads the reference",
        )
    for wrong, problem in (
        (
            args.phase_schedule != "shared",
            f"phase_schedule {args.phase_schedule} asks for the routes of all steps, and a stage decides its own when "
            "it begins",
        ),
        (args.reads_mismatched, "kto reads answers to other prompts, which stages do not compute anew"),
        (args.ld_alpha is not None, "ld_alpha discounts the tails of answers, and stages measure them whole"),
        (args.dataloader_persistent_workers, "workers that outlive an epoch would keep the first stage's plan"),
    ):
        if wrong:
            raise InputError(problem, hint="leave it out, or set plan.stages to 1")


def _check_steps(steps: int, stages: int) -> None:
    """Raise `InputError` if the steps of a run end before its last stage begins, each having a share rounded up."""
    in_stage = -(-steps // stages)
    if (stages - 1) * in_stage >= steps:
        raise InputError(
            f"max_steps is {steps}, which {in_stage} for each of {stages} stages use up before the last one begins",
            hint=f"set max_steps to a multiple of {stages}, or plan.stages to fewer",
        )


class Stages:
    """The stage that a run is in.

    Args:
        args: settings of the run.
        dataset: the loaded pairs.
        pairs: the same with the plan of the start; their plan and reference are set for each stage.

    Attributes:
        number: of the stage, from 1; 0 before the run.
        count: how many there are.
        draws: pairs of every stage, one that comes twice counted twice.
        steps: optimizer steps of every stage.
        every_pair: all pairs with both answers; its reference is that of the start.
    """

    def __init__(self, args: MixDPOConfig, dataset: Dataset, pairs: PlannedPairs) -> None:
        self._args, self._dataset, self._pairs, self._first = args, dataset, pairs, pairs.plan
        self._present = pairs.index_of_row >= 0
        as_is = make_plan(dataset, "dpo", order="as_is", metric=pairs.plan.settings.metric)
        self.every_pair = PlannedPairs(pairs.tokens, as_is, all_sides=True, loaded=dataset)
        self.count = pairs.plan.settings.stages
        kept = len(pairs.plan.kept_rows(self._present))
        self._pool_size = -(-kept // self.count)
        in_epoch = len(pairs.plan.epoch_rows(0, 1, self._present))  # more than are kept where it is refilled
        step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        if args.max_steps > 0:
            _check_steps(args.max_steps, self.count)
            self.draws = -(-args.max_steps // self.count) * step
        else:
            self.draws = int(np.ceil(args.num_train_epochs * -(-in_epoch // self.count)))
        self.steps = -(-self.draws // step)
        self._follow(first_stage(self._first), 1)
        self.number = 0

    @property
    def asks_policy(self) -> bool:
        """Whether the policy's log-probabilities of all pairs are needed at the end of a stage."""
        settings = self._first.settings
        return (settings.stage_metric, settings.gate) != (None, None) or self._args.stage_reference != "kept"

    def first_step(self, number: int) -> int:
        """Return how many optimizer steps are done when a stage begins."""
        return (number - 1) * self.steps

    def begin(self, number: int, logprobs: np.ndarray | None) -> dict[str, float]:
        """Make the plan of a stage, and its reference, and follow them from now on.

        Args:
            number: of the stage, from 1; those after the first begin when the one before has ended.
            logprobs: the policy's of (chosen, rejected), float64, shape (N, 2), in nats; None where nothing asks.

        Returns:
            What the metrics say of it.
        """
        before, pairs = self._pairs.plan, self._pairs
        if number == 1:
            pairs.reference = self.every_pair.reference.copy()
            self._follow(first_stage(self._first), 1)
            return self._record(self._first)
        settings, start = self._first.settings, self.every_pair.reference.astype(np.float64)
        margin = has_risen = None
        if logprobs is not None and settings.stage_metric is not None:
            margin = self._margin(settings.stage_metric, logprobs, start)
        if logprobs is not None and settings.gate is not None:
            has_risen = logprobs[:, 0] > start[:, 0]
        moved = moved_plan(self._dataset, self._first, margin)
        plan = next_stage(moved, before, self._pool, has_risen)
        if logprobs is not None and self._args.stage_reference != "kept":
            share = 1.0 if self._args.stage_reference == "replaced" else self._args.ref_model_mixup_alpha
            pairs.reference = mixed_reference(pairs.reference, logprobs, share)
        self._follow(plan, number)
        return self._record(before, moved.is_hard if has_risen is not None else None)

    def save(self, folder: Path) -> None:
        """Write the stage's plan to `plans/stage-K.parquet`, and its reference where that moves."""
        self._pairs.plan.save(_plan_file(folder, self.number))
        if self.number > 1 and self._args.stage_reference != "kept":
            save_reference(folder, _reference_name(self.number), self._pairs)

    def resume(self, folder: Path, number: int) -> None:
        """Go on in the middle of a stage, with its plan and reference as they were written when it began.

        Raises:
            RunError: they cannot be read, or are of another run.
        """
        path = _plan_file(folder, number)
        try:
            plan = Plan.load(path)
            plan.check_belongs_to(self._dataset)
        except InputError as error:
            raise RunError(f"the plan of stage {number} cannot be read ({error}); start the run anew") from error
        moved = number > 1 and self._args.stage_reference != "kept"
        self._pairs.reference = (
            load_reference(folder, _reference_name(number), self._pairs) if moved else self.every_pair.reference.copy()
        )
        self._follow(plan, number)

    def _follow(self, plan: Plan, number: int) -> None:
        self.number = number
        self._pool = stage_pool(plan, self._pool_size, self._present)
        self._pairs.follow(plan, stage_rows(plan, self._pool, self.draws))

    def _margin(self, metric: str, logprobs: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return what a metric of likelihood gives for the policy; float64, shape (N,), NaN for lost pairs."""
        if metric == "implicit_reward":
            logprobs = self._args.beta * (logprobs - start)
        elif metric == "nll_gap":
            tokens = np.full(logprobs.shape, np.nan)
            tokens[self._present] = trained_counts(self._pairs.tokens)[self._pairs.index_of_row[self._present]]
            logprobs = logprobs / tokens
        return logprobs[:, 0] - logprobs[:, 1]

    def _record(self, before: Plan, hard: np.ndarray | None = None) -> dict[str, float]:
        plan, rows = self._pairs.plan, self._pairs.epoch_rows(0, 1)
        trained = np.bincount(plan.route[rows], minlength=len(ROUTES)) / len(rows)
        record = {"stage": float(self.number), "stage/pairs": float(len(self._pool))}
        record |= {
            f"stage/route/{route}": share for route, share in zip(ROUTES, trained.tolist(), strict=True) if share
        }
        if self.number > 1:
            record["stage/changed_route"] = float((plan.route != before.route)[self._present].sum())
        if (correlation := rank_correlation(plan, self._first)) is not None:
            record["stage/rank_correlation"] = correlation
        if hard is not None:
            asked = hard & self._present
            record["stage/gate/open"] = float((asked & plan.is_hard).sum())
            record["stage/gate/closed"] = float((asked & ~plan.is_hard).sum())
        return record


def policy_logprobs(
    model: nn.Module,
    pairs: PlannedPairs,
    accelerator: Accelerator,
    lay_out: RowLayout,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the policy's log-probabilities of all pairs' answers; float64, shape (N, 2), NaN for lost pairs.

    See `values_of_all`.

    Raises:
        RunError: one is NaN or infinite.
    """
    with accelerator.autocast():
        values = values_of_all(
            model, pairs, lay_out=lay_out, device=accelerator.device, batch_size=batch_size, on_progress=on_progress
        )
    known = values[pairs.index_of_row >= 0]
    broken = int((~np.isfinite(known)).any(axis=1).sum())
    if broken:
        raise RunError(
            f"at the end of a stage the policy gives no finite log-probability for {broken:,} of "
            f"{len(known):,} pairs, though its weights are finite; load it in float32 or bfloat16, or lower "
            "learning_rate"
        )
    return values


def mixed_reference(reference: np.ndarray, logprobs: np.ndarray, share: float) -> np.ndarray:
    """Return share * log pi + (1 - share) * log pi_ref; float32, shape (N, 2), in nats.

    A share a below 1 gives the geometric mixture of policy and reference, pi^a pi_ref^(1 - a) / Z(x), without its
    Z(x), which cancels wherever a loss compares the two answers to a prompt. (TR-DPO mixes weights: arXiv 2404.09656,
    equation 2.) The share 1 is the policy itself.
    """
    return (share * logprobs + (1 - share) * reference.astype(np.float64)).astype(np.float32)


def _plan_file(folder: Path, number: int) -> Path:
    return folder / "plans" / f"stage-{number}.parquet"


def _reference_name(number: int) -> str:
    return f"train-stage-{number}"
