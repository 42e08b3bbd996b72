"""The commands `score`, `reference` and `train` as functions: from a recipe to files."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import IntervalStrategy

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.processes import processes
from mixdpo.data.load_report import LoadReport
from mixdpo.data.pair_files import check_pairs_output, save_pairs
from mixdpo.difficulty.scored_pairs import load_pairs_with_report
from mixdpo.models.cached_logprobs import CacheUse
from mixdpo.models.loading import load_policy, load_tokenizer
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.plan import Plan
from mixdpo.recipe.planned_pairs import load_and_score, load_eval_pairs, plan_from_recipe
from mixdpo.recipe.recipe_file import Recipe
from mixdpo.recipe.scoring import score
from mixdpo.training.checkpoints import checkpoint_to_continue, last_complete_checkpoint
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.run_folder import (
    check_is_free,
    logged_metrics,
    recorded_template_date,
)
from mixdpo.training.run_lock import check_no_other_run, sole_run
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.trainer import MixDPOTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun:
    """Where a finished run is and what it logged."""

    folder: Path
    metrics: list[dict[str, float]]


def score_from_recipe(recipe: Recipe, metrics: Sequence[str], output: Path) -> tuple[Dataset, LoadReport]:
    """Write a recipe's pairs with the margins of metrics to a file that `load_pairs` reads back.

    Args:
        recipe: `data` is read, and what the metrics' settings take from `model`, `train` and `score`.
        metrics: see `Recipe.metrics_to_score`.
        output: the file; its name says the format. Columns of the input that no pair is made of are in it, too.

    Raises:
        InputError: anything wrong with the recipe, the data, a metric or the place of the file.
    """
    names = recipe.metrics_to_score(metrics)
    check_pairs_output(output)
    state = processes(cpu=bool(recipe.train.get("use_cpu")))
    with state.main_process_first():
        pairs, report = load_pairs_with_report(recipe.required("data"), keep_columns=True)
    pairs = score(pairs, names, **{name: recipe.metric_parameters(name) for name in names})
    if state.is_main_process:
        save_pairs(pairs, output)
    return pairs, report


def train_from_recipe(
    recipe: Recipe, output: str | None = None, resume: bool = False, reference: ModelSettings | None = None
) -> TrainedRun:
    """Run a recipe: load, plan, train, save the model to `<output>/model`.

    Args:
        recipe: what to train, on what, how.
        output: folder of the run; None: the recipe's `train.output_dir`.
        resume: continue the run in that folder.
        reference: the frozen reference; None: the model as it is before its first step.

    Raises:
        InputError: anything wrong with the recipe, the data or the folders, before anything is written.
        RunError: training diverged, or the device's memory is too small.
    """
    args = recipe.training_config(output)
    folder = Path(args.output_dir or ".")
    checkpoint, is_main = None, args.process_index == 0
    check_no_other_run(folder, is_main)  # before any model or data is loaded
    if resume:
        checkpoint = str(checkpoint_to_continue(folder, log=is_main))
    else:
        check_is_free(folder)
    if resume and args.template_date is None:
        args.template_date = recorded_template_date(folder)
    trainer = _trainer(recipe, args, reference)
    with sole_run(folder, is_main):
        with _memory_explained(), _trackers_explained(trainer):
            trainer.train(resume_from_checkpoint=checkpoint)
        if args.push_to_hub:
            trainer.push_to_hub()
        else:
            trainer.save_run_model()
    return TrainedRun(folder=folder, metrics=logged_metrics(folder))


def train_or_resume(recipe: Recipe, folder: Path, reference: ModelSettings | None = None) -> None:
    """Train a recipe in a folder, from the last complete checkpoint there if the run can go on from one.

    Raises:
        InputError, RunError: as `train_from_recipe` does.
    """
    check_no_other_run(folder, is_main=True)  # whose folder is not ours to begin anew
    if last_complete_checkpoint(folder) is not None:
        try:
            train_from_recipe(recipe, str(folder), resume=True, reference=reference)
            return
        except InputError as error:  # begun by other versions, or where the model lay elsewhere
            logger.warning(f"{folder} begins anew: {error}")
    shutil.rmtree(folder, ignore_errors=True)
    train_from_recipe(recipe, str(folder), reference=reference)


def reference_from_recipe(recipe: Recipe) -> dict[str, CacheUse]:
    """Compute the reference that a recipe's training will read, where the cache lacks it, and keep it there.

    Returns:
        What was found and computed for `train` and, if the recipe has such data, for `eval`.

    Raises:
        InputError: anything wrong with the recipe or the data, or its training would not read the cache.
        RunError: the cache cannot be written.
    """
    # The trainer makes its folder, and the folder of the run to come is not ours to make.
    with tempfile.TemporaryDirectory() as folder:
        args = recipe.training_config(folder)
        _check_reads_cache(args)
        trainer = _trainer(recipe, args)
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise InputError(
                "mixdpo reference does not run under FSDP or DeepSpeed",
                hint="start it without them, or leave the reference to mixdpo train",
            )
        named = {"train": trainer.pairs_with_reference, "eval": trainer.eval_dataset}
        with _memory_explained():
            uses = {
                name: trainer.precompute_reference(pairs, name)
                for name, pairs in named.items()
                if isinstance(pairs, PlannedPairs)
            }
        if trainer.is_world_process_zero() and any(use.file is None for use in uses.values()):
            raise RunError("the reference was computed and could not be kept; the line before this one says why")
        return uses


@contextmanager
def _memory_explained() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"a batch does not fit in the device's memory ({str(error).splitlines()[0]}); set "
            "train.max_tokens_per_batch to auto, then train.activation_checkpointing to true; further help a lower "
            "train.max_length, LoRA adapters (section peft) and model.load_in_4bit"
        ) from error


@contextmanager
def _trackers_explained(trainer: MixDPOTrainer) -> Iterator[None]:
    """Say whose error it is that a tracker's own library raises, such as one that nobody has logged in to."""
    begun = trainer.state.global_step
    try:
        yield
    except Exception as error:
        tracker = type(error).__module__.partition(".")[0]
        if tracker not in (trainer.args.report_to or ()):
            raise
        what_to_do = f"log in to {tracker}, have it work offline, or leave it out of train.report_to"
        if trainer.state.global_step == begun:
            raise InputError(f"train.report_to: {tracker}: {error}", hint=what_to_do) from error
        raise RunError(f"{tracker} failed: {error}; {what_to_do}, and continue with --resume") from error


def _check_reads_cache(args: MixDPOConfig) -> None:
    for wrong, problem in (
        (not args.reads_reference, f"no loss of loss_type {args.loss_type!r} reads a reference"),
        (not args.precompute_ref_log_probs, "precompute_ref_log_probs is false, so training runs a live reference"),
        (not args.reference_cache, "reference_cache is false, so training would not read what is computed"),
    ):
        if wrong:
            raise InputError(problem, hint="change that setting of the section train:, or do without mixdpo reference")


def _trainer(recipe: Recipe, args: MixDPOConfig, reference: ModelSettings | None = None) -> MixDPOTrainer:
    """Load a recipe's pairs, plan, model and, if one is named, reference, and make the trainer."""
    model_settings, data_settings = recipe.required("model"), recipe.required("data")
    if args.eval_strategy != "no" and recipe.eval_data is None and recipe.answers is None:
        raise InputError(
            f"train.eval_strategy is {IntervalStrategy(args.eval_strategy).value}, without a section eval_data or "
            "answers",
            file=recipe.file,
            hint="add one, or --eval_data.path PAIRS; or leave eval_strategy out",
        )
    metric = Plan.load(recipe.plan_path).settings if recipe.plan_path else recipe.plan
    with args.main_process_first(desc="load pairs"):
        pairs, report = load_and_score(recipe, data_settings, metric)
        report.log(logger)
        plan = plan_from_recipe(recipe, pairs)
        if plan.curve is not None:
            logger.info(f"threshold: {plan.curve.reason}")
        eval_pairs = load_eval_pairs(recipe, metric.metric, f"margin/{metric.metric}" in pairs.column_names)
    tokenizer = load_tokenizer(model_settings)
    policy = load_policy(model_settings, with_adapters=recipe.peft is not None)
    frozen: Any = None if reference is None else load_policy(reference, with_adapters=recipe.peft is not None)
    if recipe.peft is not None and recipe.peft.revision is None:
        recipe.peft.revision = model_settings.revision  # else the adapter is put on the main branch when it is loaded
    try:
        trainer = MixDPOTrainer(
            model=policy,
            ref_model=frozen,
            args=args,
            train_dataset=pairs,
            eval_dataset=eval_pairs,
            plan=plan,
            processing_class=tokenizer,
            peft_config=recipe.peft,
            answers=recipe.answers,
        )
        trainer.data_names = [source.path for source in data_settings.sources()]
        return trainer
    except ValueError as error:  # accelerate's, of sizes that do not fit the processes
        if isinstance(error, InputError) or "arallelism" not in str(error):
            raise
        raise InputError(f"the processes cannot be laid out as accelerate was told: {error}") from error
    except RuntimeError as error:  # what transformers' callbacks for trackers raise
        if "to be installed" not in str(error):
            raise
        raise InputError(f"train.report_to: {error}", file=recipe.file) from error
