"""What kinds of values the trainer takes, so that another is answered by its name before it fails within."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from peft import PeftConfig
from torch import nn
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from mixdpo.common.errors import InputError
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.training.answers_settings import AnswersSettings

KINDS: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "model": ((nn.Module, str, Path), "a model, or its name or folder"),
    "ref_model": ((nn.Module, str, Path), "a model, or its name or folder"),
    "processing_class": ((PreTrainedTokenizerBase, ProcessorMixin), "a tokenizer: AutoTokenizer.from_pretrained(...)"),
    "compute_metrics": ((Callable,), "a function of an EvalPrediction"),
    "callbacks": ((Iterable,), "a list of callbacks"),
    "optimizers": ((tuple, list), "an optimizer and a schedule, of which each may be None"),
    "peft_config": ((PeftConfig,), "peft's configuration: LoraConfig(...)"),
    "plan": ((Plan, PlanSettings, str, Path), "a plan, its settings, its name or the file of one"),
    "answers": ((AnswersSettings,), "AnswersSettings(...)"),
}
"""Types of the trainer's arguments, and what to give; all but the model may be None."""


def check_arguments(**given: Any) -> None:
    """Raise `InputError` for the first argument of a kind that the trainer does not take."""
    for name, value in given.items():
        kinds, expected = KINDS[name]
        if not isinstance(value, kinds) and (value is not None or name == "model"):
            found = "None" if value is None else f"a {type(value).__name__}"
            raise InputError(f"{name} is {found}", hint=f"give {expected}")
