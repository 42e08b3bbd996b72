"""The part of the trainer that has the policy answer prompts at every evaluation."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput

from mixdpo.common.errors import InputError
from mixdpo.common.tables import percent_text
from mixdpo.judges.find_judge import find_judge
from mixdpo.pairs.answered import AnsweredPrompt
from mixdpo.training.answers import (
    check_can_answer,
    count_trained,
    fixed_prompts,
    load_start,
    mean_measures,
    policy_answers,
    save_start,
    save_step,
)
from mixdpo.training.answers_compared import Comparison, compare_with_start, try_judge
from mixdpo.training.answers_settings import ANSWERS, WIN_RATE, AnswersSettings
from mixdpo.training.degeneration import find_degeneration
from mixdpo.training.early_stopping import EarlyStopping, best_metric, check_best_metric
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.staged_trainer import StagedTrainer

logger = logging.getLogger(__name__)


class AnsweringTrainer(StagedTrainer):
    """A trainer whose policy answers fixed prompts at every evaluation, and before its first step.

    The answers are judged on the main process, while the others wait for as long as `ddp_timeout`.
    """

    answers: AnswersSettings | None = None
    _of_answers: dict[str, float]

    def prepare_evaluation(
        self, answers: AnswersSettings | None, pairs: PlannedPairs | dict[str, PlannedPairs] | None
    ) -> None:
        """Read the prompts, find the judge, and check that evaluations measure what the best model is told by.

        Args:
            answers: what to ask the policy, if anything.
            pairs: what to measure on, if anything; several by name.

        Raises:
            InputError: nothing is evaluated, or something is wrong with the prompts, the judge or the processes.
        """
        check_best_metric(self.args, answers, list(pairs) if isinstance(pairs, dict) else pairs is not None)
        self.answers, self.eval_dataset = answers, pairs
        self._of_answers, self._warned = {}, set[str]()
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping(self.args.early_stopping_patience, self.args.early_stopping_threshold))
        if answers is None:
            return
        if self.args.eval_strategy == "no":
            raise InputError(
                "the section answers is given, and nothing is evaluated",
                hint="set eval_strategy to steps, with eval_steps, or to epoch",
            )
        check_can_answer(self.accelerator)
        assert isinstance(self.processing_class, PreTrainedTokenizerBase)
        self._fixed = fixed_prompts(answers, self.model, self.processing_class, self.args)
        self._judge = None if answers.judge is None else find_judge(answers.judge)
        self._start: list[AnsweredPrompt] | None = None

    def evaluation_sets(self) -> dict[str, PlannedPairs]:
        """Return the pairs to measure on by what their metrics begin with: `eval`, or `eval_NAME` where several."""
        pairs = self.eval_dataset
        if isinstance(pairs, dict):
            return {f"eval_{name}": one for name, one in pairs.items() if isinstance(one, PlannedPairs)}
        return {"eval": pairs} if isinstance(pairs, PlannedPairs) else {}

    def describe_answers(self) -> dict[str, Any] | None:
        """Return what `run.json` says of the answers."""
        if self.answers is None:
            return None
        own = {"prompts": len(self._fixed.prompts), "fingerprint": self._fixed.fingerprint}
        return {**own, **self.answers.to_record()}

    def begin_answers(self) -> None:
        """Have the policy answer before its first step and try the judge, or read these answers back.

        Raises:
            InputError: the judge cannot be asked.
            RunError: the judge does not answer, or the start's answers of a run that continues are not there.
        """
        if self.answers is None:
            return
        folder, is_main = Path(self.args.output_dir or "."), self.is_world_process_zero()
        if self.state.global_step > 0:
            self._start = load_start(folder, self._fixed)
            return
        self._start = self._write_answers()
        if is_main:
            save_start(folder, self._start)
            if trained := count_trained(self._fixed, self.train_dataset.tokens["prompt_ids"]):
                every = f"{trained:,} of {len(self._fixed.ids):,}"
                logger.info(f"answers: {every} prompts are of training pairs, and say less of how others are answered")
            if self._judge is not None:
                try_judge(self._start, self._fixed.prompts, self._judge, self.answers.rating)
        self.log({f"eval_{name}": value for name, value in mean_measures(self._start).items()})

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate; with `answers`, and where no other pairs are given, the policy answers first."""
        answers = self.answers is not None and eval_dataset is None
        found = {f"{metric_key_prefix}_{name}": value for name, value in self._answer().items()} if answers else {}
        if not answers or self.eval_dataset is not None:
            if eval_dataset is None:  # of several sets each comes with its name, and the first takes them up
                self._of_answers = found
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Run transformers' loop; its metrics take up those of the answers that were written just before."""
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        found, self._of_answers = self._of_answers, {}
        return output._replace(metrics={**(output.metrics or {}), **found})

    def _answer(self) -> dict[str, float]:
        """Return the metrics of the policy's answers, the same on all processes."""
        began = time.perf_counter()
        own = self._write_answers()
        metrics: list[dict[str, float]] = [{}]
        if self.is_world_process_zero():
            judged = self._judge_answers(own)
            metrics = [{**judged, f"{ANSWERS}seconds": round(time.perf_counter() - began, 3)}]
        broadcast_object_list(metrics)
        return metrics[0]

    def _write_answers(self) -> list[AnsweredPrompt]:
        assert self.answers is not None
        tokenizer: Any = self.processing_class
        return policy_answers(self.model_wrapped, tokenizer, self._fixed, self.answers, self.accelerator)

    def _judge_answers(self, own: list[AnsweredPrompt]) -> dict[str, float]:
        """Judge, keep and tell of the policy's answers; return their metrics."""
        assert self.answers is not None
        step, comparison = self.state.global_step, Comparison(own)
        metrics = mean_measures(own)
        if self._start is not None:
            if self._judge is not None:
                comparison = compare_with_start(
                    own, self._start, self._fixed.prompts, self._judge, self.answers.rating
                )
                metrics = comparison.metrics | metrics
            self._tell(step, comparison, metrics)
            for sign, found in find_degeneration(own, self._start).items():
                if sign not in self._warned:
                    self._warned.add(sign)
                    logger.warning(
                        f"step {step}: answers degenerate: {found}; see {ANSWERS}step-{step}.jsonl of the run"
                    )
        save_step(Path(self.args.output_dir or "."), step, comparison.answers)
        return metrics

    def _tell(self, step: int, comparison: Comparison, metrics: dict[str, float]) -> None:
        """Log a line for a person; of a judge that failed a warning."""
        if comparison.failure is not None:
            left_out = best_metric(self.args) == f"eval_{WIN_RATE}"
            logger.warning(
                f"step {step}: no win rate, for the judge failed: {comparison.failure}"
                + ("; this step cannot be the best one, and does not count for early stopping" if left_out else "")
            )
        said = [f"{metrics[f'{ANSWERS}tokens']:.0f} tokens, {percent_text(metrics[f'{ANSWERS}finished'], 0)} finished"]
        if (share := comparison.win_rate) is not None:
            low, high = (metrics[f"{WIN_RATE}_{end}"] for end in ("low", "high"))
            said.insert(
                0,
                f"{percent_text(share.estimate, 0)} (95 % interval {percent_text(low, 0)} to {percent_text(high, 0)}) "
                f"preferred to the start's, on {comparison.compared} prompts",
            )
        logger.info(f"step {step}: answers: {'; '.join(said)}")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether this evaluation is the best so far; not where a judge that failed left its metric out."""
        name = best_metric(self.args)
        if name is not None and name.startswith(f"eval_{ANSWERS}") and name not in metrics:
            return False
        return super()._determine_best_metric(metrics, trial)

    def _load_best_model(self) -> None:
        """Go back to the best model, and say which that is."""
        name, state = self.args.metric_for_best_model, self.state
        if self.is_world_process_zero():
            logger.info(f"the model of step {state.best_global_step} is the best one: {name} {state.best_metric:.4g}")
        super()._load_best_model()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch, unless the run that goes on had been stopped early."""
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)
