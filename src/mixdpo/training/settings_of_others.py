"""Settings and arguments that scripts for TRL, or for an older transformers, pass: what they are called here.

What has the same effect under another name is passed on by that name. What asks for something that holds in any case
is taken off, and said. All else is refused, with the way there is: no setting is accepted and ignored.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, ParamSpec, TypeVar

from mixdpo.common.errors import InputError
from mixdpo.common.settings import unknown_key
from mixdpo.losses.loss_settings import LossSettings

logger = logging.getLogger(__name__)

_C = TypeVar("_C", bound=type[Any])
_P = ParamSpec("_P")

RENAMED: Final[Mapping[str, str]] = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}
"""Older names of settings that are here."""


_WRITTEN_ANEW: Final = ("warmup_ratio", "logging_dir")
"""What has the same effect, said in another way."""


@dataclass(frozen=True)
class Refused:
    """What is not accepted, unless it asks for nothing or for what holds in any case.

    Attributes:
        reason: why, and what to do instead.
        holds: the values that may be given beside null, since they say how it is.
    """

    reason: str
    holds: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Holds:
    """What any value may be given for, since it changes how something is computed elsewhere, and no result."""

    reason: str


_ROWS = Holds("rows are packed, or padded by the engine, and padding is never trained")
_LOGITS = Holds("no more logits are kept than the answers need")

OTHERS: Final[Mapping[str, Refused | Holds]] = {
    "activation_offloading": Refused("set activation_checkpointing=True, which saves more memory", (False,)),
    "base_model_attribute_name": Holds("the decoder is found by transformers' own names"),
    "disable_dropout": Refused("dropout is always off, in policy and reference", (True,)),
    "dispatch_batches": Refused("every process makes its own batches of the plan", (False,)),
    "eval_packing": _ROWS,
    "force_use_ref_model": Holds("a ref_model that is given is used, with adapters too"),
    "generate_during_eval": Refused(
        "give answers=AnswersSettings(prompts=...), in a recipe the section answers: the policy answers prompts at "
        "every evaluation",
        (False,),
    ),
    "group_by_length": Refused(
        "the plan decides the order; set length_window=N to put the longest first within every N pairs",
        (False,),
    ),
    "include_tokens_per_second": Holds("every line of the log has tokens_per_second"),
    "is_encoder_decoder": Refused("only causal language models are trained", (False,)),
    "label_pad_token_id": _ROWS,
    "max_completion_length": Refused("answers are cut by max_length, together with their prompts"),
    "max_seq_length": Refused("set max_length, tokens of prompt and answer together"),
    "max_target_length": Refused("answers are cut by max_length, together with their prompts"),
    "model_adapter_name": Refused("the one adapter there is, is trained"),
    "overwrite_output_dir": Refused(
        "a run is never written over; choose another output_dir, or train(resume_from_checkpoint=True)", (False,)
    ),
    "packing": _ROWS,
    "pad_to_multiple_of": _ROWS,
    "padding_free": _ROWS,
    "padding_value": _ROWS,
    "ref_adapter_name": Refused(
        "the reference of adapters is the base model; merge the other adapter, and give the model as ref_model",
        (None,),
    ),
    "ref_model_init_kwargs": Refused("load the reference yourself, and give it as ref_model"),
    "reference_free": Refused(
        "set loss_type to one that reads no reference, such as simpo, cpo, orpo or slic", (False,)
    ),
    "save_safetensors": Refused("weights are saved as safetensors", (True,)),
    "split_batches": Refused("a step has per_device_train_batch_size pairs of every process", (False,)),
    "tools": Refused("put them into a column tools of the data, as JSON"),
    "truncation_mode": Refused(
        "answers are cut on the right by max_length; set max_prompt_length, which cuts prompts on the left",
        ("keep_start",),
    ),
    "use_liger_loss": _LOGITS,
    "use_logits_to_keep": _LOGITS,
    "use_num_logits_to_keep": _LOGITS,
}
"""Settings of TRL's `DPOConfig`, of its predecessors and of transformers 4 that are none of `MixDPOConfig`."""

ARGUMENTS: Final[Mapping[str, Refused]] = {
    "compute_loss_func": Refused("set loss_type, or write a loss as CONTRIBUTING.md says"),
    "data_collator": Refused(
        "batches are laid out by the plan; change the rows of the data set before the trainer gets it", (None,)
    ),
    "max_length": Refused("set it in args=MixDPOConfig(max_length=...)"),
    "max_prompt_length": Refused("set it in args=MixDPOConfig(max_prompt_length=...)"),
    "beta": Refused("set it in args=MixDPOConfig(beta=...)"),
    "loss_type": Refused("set it in args=MixDPOConfig(loss_type=...)"),
    "model_init": Refused("give the model, and make a trainer per trial"),
    "model_init_kwargs": Refused("set it in args=MixDPOConfig(model_init_kwargs=...)"),
    "optimizer_cls_and_kwargs": Refused("set optim and optim_args in args, or give optimizers"),
    "preprocess_logits_for_metrics": Refused(
        "no logits are kept; compute_metrics gets the rewards of every pair", (None,)
    ),
    "ref_model_init_kwargs": Refused("load the reference yourself, and give it as ref_model"),
    "tools": Refused("put them into a column tools of the data, as JSON"),
}
"""Arguments of TRL's `DPOTrainer`, of its predecessors and of transformers' `Trainer` that `MixDPOTrainer` lacks."""


def is_of_others(name: str) -> bool:
    """Whether a setting is one of other versions of TRL and transformers."""
    return name in RENAMED or name in OTHERS or name in _WRITTEN_ANEW


def settings_here(given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return settings by the names they have in `MixDPOConfig`; names that nobody knows stay.

    Args:
        given: by name, as a script or a recipe has them.
        known: the names of all settings of `MixDPOConfig`.

    Raises:
        InputError: one is not supported.
    """
    known = set(known)
    values: dict[str, Any] = {}
    held: dict[str, list[str]] = {}
    for name, value in given.items():
        target = RENAMED.get(name, name)
        other = OTHERS.get(name)
        if name in _WRITTEN_ANEW:
            continue
        if target in known or other is None:
            values[target] = value
        elif isinstance(other, Holds):
            if value is not None:
                held.setdefault(other.reason, []).append(name)
        elif not _is_one_of(value, other.holds) and value not in (None, {}, []):
            raise InputError(f"{name} is {value!r}, which is not supported", hint=other.reason)
    for reason, names in held.items():
        logger.warning(f"{', '.join(names)}: without effect here: {reason}")
    _warm_up(given, values)
    if given.get("logging_dir") is not None:  # as transformers 5 is told of it
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(given["logging_dir"])
    _add_likelihood(values, is_copy=known <= set(values))
    return values


def _warm_up(given: Mapping[str, Any], values: dict[str, Any]) -> None:
    """Write `warmup_ratio` as the fraction that `warmup_steps` takes; steps that are given go first, as they did."""
    ratio = given.get("warmup_ratio")
    if ratio is None or values.get("warmup_steps"):
        return
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
        raise InputError(f"warmup_ratio is {ratio!r}; it is a share of all steps, at least 0 and below 1")
    values["warmup_steps"] = float(ratio)


def _add_likelihood(values: dict[str, Any], is_copy: bool) -> None:
    """Write `rpo_alpha` beside losses that do not read it as TRL once meant it: so much of SFT added.

    A copy of all settings, as parsers of command lines make, has it whether or not anybody set it.
    """
    if "rpo_alpha" not in values or (is_copy and values["rpo_alpha"] == LossSettings.rpo_alpha):
        return
    losses = _listed(values.get("loss_type", "sigmoid"))
    alpha = values["rpo_alpha"]
    if alpha is None:
        del values["rpo_alpha"]
    elif not {"rpo", "rpo_paper"} & {*losses, *_listed(values.get("hard_loss_type", "sft"))}:
        del values["rpo_alpha"]
        weights = values.get("loss_weights") or [1.0] * len(losses)
        values |= {"loss_type": [*losses, "sft"], "loss_weights": [*weights, alpha]}
        logger.warning(f"rpo_alpha: trained as loss_type {values['loss_type']}, loss_weights {values['loss_weights']}")


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    return any(value is one or (value == one and type(value) is type(one)) for one in values)


def takes_settings_of_others(config: _C) -> _C:
    """Have a dataclass of settings take those of others, too, as keywords."""
    known = [f.name for f in fields(config) if f.init]
    plain = config.__init__

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **given: Any) -> None:
        values = settings_here(given, known)
        for name in values:
            if name not in known:
                raise unknown_key(name, sorted(known))
        plain(self, *args, **values)

    config.__init__ = init
    return config


def settings_of(args: Any, known: Iterable[str]) -> dict[str, Any]:
    """Return the settings of another class, such as `TrainingArguments` or TRL's `DPOConfig`, by their names here.

    All of its own are taken, its defaults too, since what was set cannot be told from them. Those that are not
    settings here are passed on where they differ from their default.

    Raises:
        InputError: one of them is not supported.
    """
    known = set(known)
    values = {}
    for f in fields(args):
        value = getattr(args, f.name)
        if f.init and (f.name in known or value != f.default):
            values[f.name] = value
    return values


def refuse_argument(name: str, value: Any, known: Iterable[str]) -> None:
    """Raise `InputError` for an argument that a trainer does not have, unless it asks for nothing."""
    other = ARGUMENTS.get(name)
    if other is None:
        raise unknown_key(name, known)
    if value is not None:
        raise InputError(f"{name} is not supported", hint=other.reason)


def refuses_arguments_of_others(init: Callable[_P, None]) -> Callable[_P, None]:
    """Have a trainer's `__init__` answer arguments that it lacks with what to do instead; `tokenizer` is taken."""
    names = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(*args: _P.args, **given: _P.kwargs) -> None:
        if "tokenizer" in given:  # as it was called before TRL 0.12
            given.setdefault("processing_class", given.pop("tokenizer"))
        for name in [name for name in given if name not in names]:
            refuse_argument(name, given.pop(name), names)
        init(*args, **given)

    return checked
