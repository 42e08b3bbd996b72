"""`MixDPOTrainer`: transformers' Trainer, fed by a plan. The training step itself is in `step.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, TrainOutput
from transformers.utils.quantization_config import QuantizationConfigMixin

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.progress import pairs_bar
from mixdpo.common.settings import key_values
from mixdpo.data.in_memory import Named, Rows
from mixdpo.data.template_arguments import today
from mixdpo.models.cached_logprobs import CacheUse
from mixdpo.models.engine import pack_rows, to_device
from mixdpo.models.freed_memory import keep_freed_memory
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.training.answers_settings import AnswersSettings
from mixdpo.training.batch import MicroBatches, PairBatch, collate_parts
from mixdpo.training.callbacks import AtStart, DisplacementAlarm, PlanCallback
from mixdpo.training.checkpoints import checkpoint_path, delete_oldest, mark_incomplete
from mixdpo.training.checks import check_first_loss
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.deepspeed_run import with_engine
from mixdpo.training.finite import (
    StepRecords,
    broken_reference_error,
    not_finite_anywhere,
)
from mixdpo.training.given_arguments import check_arguments
from mixdpo.training.given_data import given_evaluation_sets, given_pairs, plan_of
from mixdpo.training.given_optimizers import Optimizers, check_optimizers
from mixdpo.training.gradient_sync import more_to_come
from mixdpo.training.layer_kernels import apply_layer_kernels
from mixdpo.training.loss_state import LossState
from mixdpo.training.memory_plan import MemoryPlan, Run, plan_memory
from mixdpo.training.metrics import MetricSums, add_step_metrics
from mixdpo.training.micro_batches import TokenBudget
from mixdpo.training.preparation import (
    PairPreparation,
    check_pairs_fit,
    choose_layout,
    frozen_reference,
    given_reference,
    listed_sets,
    prepare_data_parallel,
    prepare_policy,
    prepare_sharding,
    prepare_tokenizer,
    router_factor,
)
from mixdpo.training.progress import TrainingProgress, show_own_progress
from mixdpo.training.pushing_trainer import PushingTrainer
from mixdpo.training.records import EvaluationRecords, load_reference, own_metrics, rewards_of, save_reference
from mixdpo.training.reference import (
    adapters_off,
    fill_reference,
    live_reference,
    reference_file,
    reference_rows,
    reference_values,
    take_reference,
)
from mixdpo.training.run_folder import RunFolder, describe_run, starting_point
from mixdpo.training.run_lock import sole_run
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.settings_of_others import refuse_argument, refuses_arguments_of_others
from mixdpo.training.speed import Speed
from mixdpo.training.step import StepResult, StepSettings, pair_losses, reduce_losses
from mixdpo.training.step_settings import estimate_of_ties, step_settings, unread_labels
from mixdpo.training.stop import StopCallback
from mixdpo.training.token_record import describe_run_tokens

logger = logging.getLogger(__name__)


class MixDPOTrainer(PushingTrainer):
    """Trains a causal language model on preference pairs by a plan.

    Args:
        model: the policy, or a name or folder to load it from.
        ref_model: the frozen reference, or a name or folder to load it from. Default: the policy as it is when
            training starts, or, with adapters, the base model with the adapters off (also when a trained adapter is
            continued).
        args: settings; default `MixDPOConfig()`. `TrainingArguments` and TRL's `DPOConfig` are taken, too.
        data_collator: None; the plan lays batches out.
        train_dataset: pairs from `load_pairs`, or what it takes: a data set, a table, a list of dicts, a path.
        eval_dataset: the same, or several by name; all pairs are measured with the preference loss.
        processing_class: the tokenizer; default the model's own.
        compute_metrics: gets an `EvalPrediction` at the end of each evaluation: as predictions the rewards of every
            pair, float32 of shape (N, 2), chosen and rejected, beta times the log-probability less that of the
            reference where the loss reads one; as label_ids N zeros, for the first is to be larger. Returns metrics.
        callbacks: additional callbacks of transformers.
        optimizers: an optimizer over the policy's parameters, and a schedule of it; None is the one of `args`.
        quantization_config: of a model that is given by its name, such as `BitsAndBytesConfig`, or its fields.
        peft_config: adapters to add, for example `peft.LoraConfig`.
        plan: from `make_plan` or `Plan.load`, or settings or a name to make one by. Default: MixDPO's where the pairs
            have scores or `margin/rating`, else DPO's.
        answers: prompts that the policy answers at every evaluation, and who judges the answers; default none.

    The order of arguments is that of TRL's `DPOTrainer`.

    Raises:
        InputError: the plan does not belong to the data, or settings contradict each other.
    """

    loss_is_scaled_for_ga = True  # reduce_losses divides by the pairs of the whole step

    @refuses_arguments_of_others
    def __init__(
        self,
        model: PreTrainedModel | PeftModel | str | Path,
        ref_model: PreTrainedModel | str | Path | None = None,
        args: MixDPOConfig | TrainingArguments | None = None,
        data_collator: None = None,
        train_dataset: Named | Rows | None = None,
        eval_dataset: Named | Rows | Mapping[str, Named | Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
        quantization_config: QuantizationConfigMixin | dict[str, Any] | None = None,
        peft_config: PeftConfig | None = None,
        plan: Plan | PlanSettings | str | Path | None = None,
        answers: AnswersSettings | None = None,
    ) -> None:
        refuse_argument("data_collator", data_collator, [])
        check_arguments(
            model=model, ref_model=ref_model, processing_class=processing_class, compute_metrics=compute_metrics,
            callbacks=callbacks, optimizers=optimizers, peft_config=peft_config, plan=plan, answers=answers,
        )  # fmt: skip
        args = MixDPOConfig() if args is None else MixDPOConfig.of(args)
        args.template_date = args.template_date or today()  # one for the whole run, which records it
        if args.n_gpu > 1:
            raise InputError(
                f"one process sees {args.n_gpu} GPUs",
                hint="start one process per GPU with `accelerate launch -m mixdpo train ...`",
            )
        if train_dataset is None:
            raise InputError("MixDPOTrainer needs a train_dataset")
        if args.device.type == "cpu":
            keep_freed_memory()
        with args.main_process_first(desc="load pairs"):
            train_rows = given_pairs(train_dataset, "train_dataset", scored=not isinstance(plan, Plan))
            plan = plan_of(plan, train_rows)
            eval_rows = given_evaluation_sets(eval_dataset)
        plan.check_belongs_to(train_rows)
        args.tell_plan(key_values(plan.settings))
        policy = prepare_policy(model, peft_config, args, quantization_config)
        # A continued adapter and a reference of one's own differ from the policy from the start.
        self._starts_at_reference = ref_model is None and not isinstance(model, PeftModel)
        check_optimizers(optimizers, policy, args, plan)
        reference = given_reference(ref_model, args, isinstance(policy, PeftModel))
        tokenizer = prepare_tokenizer(policy, processing_class, args)
        self._lay_out = choose_layout(policy, reference, args)
        apply_layer_kernels([model for model in (policy, reference) if model is not None], args)

        self._preparation = PairPreparation(args, tokenizer)
        with args.main_process_first(desc="tokenise"):
            train_pairs = self._preparation.train(train_rows, plan)
            eval_pairs = self._preparation.evaluation_sets(eval_rows, plan.settings.metric)

        check_pairs_fit(policy, reference, tokenizer, [train_pairs, *listed_sets(eval_pairs)])
        self._ref_model = frozen_reference(policy, reference, args)
        self._precomputes_reference = args.reads_reference and args.precompute_ref_log_probs
        self._step_settings = replace(step_settings(args, plan), router_coefficient=router_factor(policy, args))
        self.prepare_stages(args, train_rows, train_pairs)
        self._sums = {"train": MetricSums(), "eval": MetricSums()}
        self._records = EvaluationRecords()
        self._steps, self._speed = StepRecords(), Speed()
        self._first_loss_checked = not self._starts_at_reference
        tokens = args.max_tokens_per_batch
        self._budget = TokenBudget(tokens if isinstance(tokens, int) else None, padded=self._lay_out is not pack_rows)
        self._memory: MemoryPlan | None = None
        super().__init__(
            model=policy,
            args=args,
            train_dataset=train_pairs,
            eval_dataset=eval_pairs if eval_pairs is not None or answers is None else {},  # answers need no pairs
            processing_class=tokenizer,
            data_collator=partial(  # type: ignore[arg-type]
                collate_parts,
                lay_out=self._lay_out,
                live_reference=args.reads_reference and not self._precomputes_reference,
                in_step=args.world_size > 1,
            ),
            callbacks=[
                AtStart(self._plan_memory),
                RunFolder(self.plan, self.describe),
                PlanCallback(self.before_first_step, self.start_epoch, self.end_step),
                self._speed,
                DisplacementAlarm(args.displacement_bound, answers is not None),
                *(callbacks or ()),
            ],
            compute_metrics=compute_metrics,
            optimizers=optimizers,
        )
        self.prepare_evaluation(answers, eval_pairs)
        self.accelerator.dataloader_config.non_blocking = args.dataloader_pin_memory  # copies wait for no step
        prepare_sharding(args, self.accelerator)
        self._ref_model = with_engine(self._ref_model, self.accelerator)
        prepare_data_parallel(policy, args, self.accelerator)
        self.loss_state = LossState(args, self._step_settings, policy, self._ref_model, self.accelerator)
        self._stop = StopCallback(self.accelerator)
        self.add_callback(self._stop)
        shown = None if args.disable_tqdm else TrainingProgress(self.routes(), self.first_hard_step)
        show_own_progress(self, shown)

    # ---- the step ----

    def training_step(  # type: ignore[override]  # our collator makes the batches
        self, model: nn.Module, inputs: MicroBatches, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run forward and backward over each micro-batch of a device's batch."""
        losses = []
        for number, part in enumerate(inputs["parts"], start=1):
            last = number == len(inputs["parts"])
            with nullcontext() if last else more_to_come(self.accelerator, model):
                losses.append(super().training_step(model, part, num_items_in_batch))  # type: ignore[arg-type]
        return torch.stack(losses).sum()

    def compute_loss(  # type: ignore[override]  # our collator makes the batches
        self,
        model: nn.Module,
        inputs: PairBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return this micro-batch's share of the step's loss, scaled for the gradient average over processes."""
        batch = self._with_live_reference(inputs)
        result = self._pair_losses(model, batch, self._step_settings)
        self.loss_state.add(batch, result)
        self._steps.add_pairs(self.state.global_step + 1, batch, result)
        self._speed.add(batch["rows"]["input_ids"].numel())
        self._check_first_loss(batch, result)
        add_step_metrics(self._sums["train"], result, batch, self.args.beta)
        assert num_items_in_batch is not None  # transformers asks `_get_num_items_in_batch` before every step
        # Data-parallel wrappers average gradients over processes; the step's mean needs their sum.
        return reduce_losses(result.losses, batch["weight"], num_items_in_batch) * self.accelerator.num_processes

    def _pair_losses(self, model: nn.Module, batch: PairBatch, settings: StepSettings) -> StepResult:
        return pair_losses(model, batch, settings, progress=self.progress, **self.loss_state.carried)

    def _get_num_items_in_batch(self, batch_samples: list[MicroBatches], device: torch.device) -> Tensor:
        """Count the pairs of the whole optimizer step, over its micro-batches and all processes."""
        weights = torch.cat([part["weight"] for batch in batch_samples for part in batch["parts"]])
        return self._stop.sum_over_processes(weights.sum().to(device))

    def prediction_step(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: MicroBatches,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """Measure a micro-batch of the evaluation set."""
        for part in self._prepare_input(inputs)["parts"]:
            with torch.no_grad():
                batch = self._with_live_reference(part)
                result = self._pair_losses(model, batch, self._eval_settings)
            self._sums["eval"].add(["loss"], result.losses[None], batch["weight"][None] > 0)
            add_step_metrics(self._sums["eval"], result, batch, self.args.beta)
            self._records.add(batch, result.pairs)
        return result.losses.mean(), None, None

    def _prepare_input(self, data: Any) -> Any:
        """Move a batch to the device; transformers would also round its floats to DeepSpeed's number format."""
        return to_device(data, self.args.device)

    def _with_live_reference(self, batch: PairBatch) -> PairBatch:
        if self._precomputes_reference or not self.args.reads_reference:
            return batch
        with self.accelerator.autocast():  # as the policy's own forward, which accelerate wrapped
            return live_reference(self._ref_model or self.model_wrapped, batch, self.args.ld_alpha)

    # ---- start, continuation, evaluation ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train; with True continue from the newest checkpoint of `output_dir` that was written to its end.

        Raises:
            InputError: there is no such checkpoint or no optimizer in it, or the folder is another run's.
            RunError: a loss, a gradient or a weight became NaN or infinite; no such weights are saved.
            Terminated: a signal told the program to end; see `StopCallback`.
        """
        folder, is_main = Path(self.args.output_dir or "."), self.is_world_process_zero()
        with sole_run(folder, is_main):
            start = starting_point(folder, resume_from_checkpoint, self.accelerator)
            if self._precomputes_reference:  # its weights are known only before they are sharded and trained
                model = self._ref_model or self.model_wrapped
                self._reference_file = reference_file(model, self.args, self.accelerator)
            self._resumed_from = Path(str(start))
            try:
                output = super().train(start, *args, **kwargs)
            finally:
                self._stop.release()
        self._check_weights()
        return output

    def _plan_memory(self) -> None:
        args, accelerator, optimizer = self.args, self.accelerator, self.optimizer
        assert optimizer is not None
        sampler = self._sampler_to_fit()
        run = Run(args, accelerator, self.model_wrapped, self._ref_model, optimizer, sampler, self._lay_out)
        self._memory = plan_memory(run)

    def before_first_step(self) -> None:
        """Compute the reference, or read it back when a run continues, and say what is about to happen."""
        for name, pairs in {"train": self.pairs_with_reference, **self.evaluation_sets()}.items():
            if self._precomputes_reference:
                self._fill_reference(pairs, name)
        self._first_step = self.state.global_step + 1
        if self.state.global_step > 0:
            self.loss_state.load(self._resumed_from)
            self._first_loss_checked = True
        elif self.is_world_process_zero():
            self.log_summary()
            if (unread := self.plan.unread(self.train_dataset.loaded)) is not None:
                logger.info(unread)
            if (estimate := estimate_of_ties(self.args, self.plan)) is not None:
                logger.info(estimate)
            if (unread := unread_labels(self.args, self.plan)) is not None:
                logger.warning(unread)
            for name, report in self._preparation.reports.items():
                report.log(logger, name)
        self.begin_answers()

    def end_step(self, step: int) -> None:
        """Move what the losses carry from one optimizer step to the next."""
        self.loss_state.end_step(step)

    def _fill_reference(self, pairs: PlannedPairs, name: str) -> None:
        if pairs.mismatched is not None:
            self._fill_reference(pairs.mismatched, f"{name}-mismatched")
        folder = Path(self.args.output_dir or ".")
        if self.state.global_step > 0 and self._starts_at_reference:
            # The policy has moved on; its starting point is kept in the run folder.
            pairs.reference = load_reference(folder, name, pairs)
            return
        self.precompute_reference(pairs, name)
        if self.is_world_process_zero():
            save_reference(folder, name, pairs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_weights()
        run, step = Path(self._get_output_dir(trial)), self.state.global_step
        if self.is_world_process_zero():  # first, for what makes a checkpoint complete is written last
            mark_incomplete(checkpoint_path(run, step))
            self.loss_state.save(checkpoint_path(run, step))
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # transformers deletes by age
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            delete_oldest(run, step, limit, self.state.best_model_checkpoint)

    def precompute_reference(self, pairs: PlannedPairs, name: str) -> CacheUse:
        """Fill in the reference of `pairs`, from the cache and for the rest by forward passes.

        Raises:
            RunError: a value is NaN or infinite.
        """
        model = self._ref_model or self.model_wrapped
        file = self._reference_file if self.is_in_train else reference_file(model, self.args, self.accelerator)
        engine = {"lay_out": self._lay_out, "device": self.accelerator.device, "ld_alpha": self.args.ld_alpha}
        values_of = partial(reference_values, model, pairs, **engine)
        with adapters_off(model), self.accelerator.autocast():
            use = fill_reference(
                pairs,
                name,
                values_of,
                batch_size=self.args.precompute_ref_batch_size or self.args.per_device_eval_batch_size,
                file=file,
                on_progress=None if self.args.disable_tqdm else pairs_bar(f"reference ({name})"),
            )
        rows = reference_rows(pairs)
        broken = rows[~np.isfinite(pairs.reference[rows]).all(axis=1)]
        if len(broken):
            weights = not_finite_anywhere(model, self.accelerator)
            raise broken_reference_error(broken, len(rows), name, pairs.loaded, weights)
        return use

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run transformers' loop; metrics are exact means over pairs, and every pair's values are kept."""
        pairs = dataloader.dataset
        assert isinstance(pairs, PlannedPairs)
        self._stop_if_broken()
        if self._precomputes_reference and np.isnan(pairs.reference).all():
            if not (self.state.global_step > 0 and self._starts_at_reference):
                self._fill_reference(pairs, metric_key_prefix)
            elif not take_reference(pairs, [self.pairs_with_reference, *self.evaluation_sets().values()]):
                raise RunError(
                    "the reference of this data was not computed before training; give it as eval_dataset, which may "
                    "be several by name, or a ref_model"
                )
        self._records.clear()
        self._sums["eval"] = MetricSums()  # an evaluation that was interrupted left some
        output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        means = self._sums["eval"].means(self.accelerator)
        metrics = {**(output.metrics or {}), **{f"{metric_key_prefix}_{name}": value for name, value in means.items()}}
        table = self._records.gather(self.accelerator, pairs)
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir or ".") / "records"
            self._records.save(table, folder / f"{metric_key_prefix}-step-{self.state.global_step}.parquet")
        predictions, label_ids = rewards_of(table, self.args.beta)
        if self.compute_metrics is not None:
            measured = EvalPrediction(predictions=predictions, label_ids=label_ids)
            metrics |= own_metrics(self.compute_metrics, measured, metric_key_prefix)
        return output._replace(metrics=metrics, predictions=predictions, label_ids=label_ids)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure `eval_dataset` (as the trainer takes it; default the trainer's own) with the preference loss.

        Where none is given the policy answers the prompts of `answers`, too.
        """
        self._stop_if_broken()
        return super().evaluate(self._to_measure(eval_dataset), ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Return metrics and, as predictions, the rewards of every pair of a data set, shape (N, 2).

        Raises:
            RunError: the reference is not at hand any more, for the policy has been trained.
        """
        self._stop_if_broken()
        return super().predict(self._to_measure(test_dataset), ignore_keys, metric_key_prefix)

    def _to_measure(self, given: Any) -> Any:
        """Return pairs that are measured; names of sets and what is prepared already stay."""
        own = self.eval_dataset
        is_name = isinstance(given, str) and isinstance(own, dict) and given in own
        if given is None or is_name or isinstance(given, PlannedPairs):
            return given
        return self._preparation.evaluation_sets(given_evaluation_sets(given), self.plan.settings.metric)

    # ---- what a person watches ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means since the last line."""
        if "loss" in logs:
            self._stop_if_broken()
            logs |= self._sums["train"].means(self.accelerator) | self._speed.metrics(self.accelerator)
        if "train_loss" in logs and self._first_step > 1:
            del logs["train_loss"]  # the mean over a run, of which one that was continued saw the end only
        super().log(logs, start_time)

    def _check_first_loss(self, batch: PairBatch, result: Any) -> None:
        if self._first_loss_checked or self.state.global_step > 0 or not len(batch["preference_index"]):
            return
        self._first_loss_checked = True
        dtype = self.accelerator.unwrap_model(self.model).dtype
        whole = self.accelerator.mixed_precision == "no" and dtype == torch.float32
        check_first_loss(result, batch, self._step_settings, "fp32" if whole else "bf16")

    def describe(self) -> dict[str, Any]:
        """Return what `run.json` says of this run."""
        model, preparation = self.accelerator.unwrap_model(self.model), self._preparation
        data = {"train": self.train_dataset, **self.evaluation_sets()}
        tokens = {name: pairs.tokens for name, pairs in data.items()}
        digests = describe_run_tokens(tokens, preparation.tokenizer)
        plan, processes = self.plan, self.accelerator.num_processes
        record = describe_run(self.args, model, plan, preparation.reports, digests, processes)
        record["answers"] = self.describe_answers()
        return record if self._memory is None else {**record, "memory": self._memory.to_record()}
