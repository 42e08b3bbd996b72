"""Keys of TRL's command line and of the alignment handbook, which is written for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.recipe.convert.conversion import Conversion
from mixdpo.recipe.convert.shared_keys import (
    LAUNCH,
    NO_OVERWRITE,
    RESUME,
    attention,
    eight_bit,
    number_format,
    target_modules,
    without_evaluation,
)
from mixdpo.recipe.convert.splits import cut_off, put_sources
from mixdpo.training.settings_of_others import RENAMED as OLD_NAMES

MODEL: Final = {
    "model_name_or_path": "model.name_or_path",
    "model_revision": "model.revision",
    "tokenizer_name_or_path": "model.tokenizer",
    "chat_template_path": "model.chat_template",
    "trust_remote_code": "model.trust_remote_code",
    "load_in_4bit": "model.load_in_4bit",
}
ADAPTERS: Final = {
    "lora_r": "peft.r",
    "lora_alpha": "peft.lora_alpha",
    "lora_dropout": "peft.lora_dropout",
    "lora_modules_to_save": "peft.modules_to_save",
    "lora_target_parameters": "peft.target_parameters",
    "use_rslora": "peft.use_rslora",
    "use_dora": "peft.use_dora",
}
RENAMED: Final = {"preprocessing_num_workers": "train.dataset_num_proc", "hub_model_revision": "train.hub_revision"}
NEEDLESS: Final = {
    "do_train": "mixdpo train trains",
    "do_eval": "train.eval_strategy says whether pairs are measured",
    "lora_task_type": "causal language models are trained",
    "bnb_4bit_quant_type": "4-bit weights are NF4",
    "use_bnb_nested_quant": "4-bit weights are quantised twice",
    "ignore_bias_buffers": "processes exchange gradients alone",
    "gradient_checkpointing_use_reentrant": "checkpointing is chosen by mixdpo",
}
LEFT_OUT: Final = {
    "env": "set environment variables before the command",
    "chat_template": "write it to a file, and name that as model.chat_template",
    "dataset_streaming": "a plan needs all pairs at once",
    "resume_from_checkpoint": RESUME,
    "overwrite_output_dir": NO_OVERWRITE,
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "fsdp": LAUNCH,
    "fsdp_config": LAUNCH,
    "auto_insert_empty_system_msg": "the chat template says it",
    "max_steps_per_epoch": "set train.max_steps",
}
DEFAULTS: Final = {"train.lr_scheduler_type": "linear", "train.warmup_steps": 0, "train.num_train_epochs": 3.0}
"""Of TRL's `DPOConfig`; its learning rate, 1e-6, and beta, 0.1, are those of mixdpo."""


def convert_trl(conversion: Conversion) -> None:
    """Fill in the recipe of a configuration for TRL's DPO.

    Raises:
        InputError: it is not one of DPO.
    """
    for key in ("reward_model_path", "reward_funcs", "num_generations", "value_model_name_or_path"):
        conversion.refuse(key, "this is online training", "only configurations of DPO are converted")
    _switched_off(conversion)
    conversion.move(MODEL)
    number_format(conversion, "torch_dtype")
    number_format(conversion, "dtype")
    attention(conversion, "attn_implementation")
    _adapters(conversion)
    eight_bit(conversion)
    _data(conversion)
    conversion.drop_needless(NEEDLESS)
    conversion.leave_out_all(LEFT_OUT)
    conversion.move(RENAMED)
    conversion.rest_to_train()
    conversion.write_defaults(DEFAULTS)


def _switched_off(conversion: Conversion) -> None:
    """Read `no_KEY: true`, as transformers' parser calls what switches a key off that is on by default."""
    for key in [key for key in conversion.given if key.startswith("no_") and key not in OLD_NAMES]:
        if isinstance(conversion.given[key], bool):
            conversion.given[key.removeprefix("no_")] = not conversion.given.pop(key)


def _adapters(conversion: Conversion) -> None:
    if not conversion.take("use_peft", False):
        conversion.drop_needless(
            dict.fromkeys(("lora_target_modules", *ADAPTERS), "use_peft is off, and all weights are trained")
        )
        return
    conversion.move(ADAPTERS)
    conversion.put("peft.target_modules", target_modules(conversion.take("lora_target_modules", "all-linear")))
    for key, value in {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}.items():  # TRL's ModelConfig
        conversion.write_defaults({f"peft.{key}": value})


def _data(conversion: Conversion) -> None:
    test_size: Any = None
    for key in ("datasets", "dataset_mixture", "dataset_mixer", "dataset_name"):
        if key not in conversion.given:
            continue
        if conversion.recipe["data"]:
            conversion.leave_out(key, "the data is named by another key already")
            continue
        value = conversion.take(key)
        if key == "dataset_name":
            _by_name(conversion, value)
        elif key == "dataset_mixer":
            _by_mixer(conversion, value)
        else:
            mixture = {"datasets": value} if key == "datasets" else dict(value)
            test_size = mixture.pop("test_split_size", conversion.take("test_split_size"))
            sources = [_source(conversion, one) for one in mixture.pop("datasets")]
            conversion.left_out |= {f"{key}.{name}": "the plan decides the order" for name in mixture}
            if test_size:
                conversion.taken.append("test_split_size")
                cut_off(conversion, "test_split_size", test_size, sources)
            put_sources(conversion, "data", sources)
    if conversion.given.get("dataset_streaming") is False:
        conversion.drop_needless({"dataset_streaming": "is off"})
    if not conversion.recipe["data"]:
        raise InputError("it names no data", hint="add dataset_name, or datasets")
    if not conversion.recipe["eval_data"]:
        without_evaluation(conversion)


def _by_name(conversion: Conversion, name: str) -> None:
    of_data = {"path": name, "name": conversion.take("dataset_config")}
    split = conversion.take("dataset_train_split", "train")
    conversion.recipe["data"] |= {**of_data, "split": split} if of_data["name"] else {"path": name, "split": split}
    test = conversion.take("dataset_test_split", "test")
    if conversion.given.get("eval_strategy", conversion.given.get("evaluation_strategy", "no")) not in ("no", False):
        conversion.recipe["eval_data"] |= {**conversion.recipe["data"], "split": test}


def _by_mixer(conversion: Conversion, mixer: Mapping[str, float]) -> None:
    splits = conversion.take("dataset_splits", ["train", "test"])
    configs = conversion.take("dataset_configs") or [None] * len(mixer)
    sources: dict[str, list[dict[str, Any]]] = {"data": [], "eval_data": []}
    for (path, fraction), config in zip(mixer.items(), configs, strict=False):
        for split in splits:
            source: dict[str, Any] = {"path": path, "split": split}
            if config is not None:
                source["name"] = config
            if "test" in split:
                sources["eval_data"].append(source)
            else:
                sources["data"].append({**source, "weight": float(fraction)} if fraction != 1 else source)
    for section, listed in sources.items():
        put_sources(conversion, section, listed)


def _source(conversion: Conversion, given: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(given)
    given.pop("columns", None)  # only those that the trainer needs, which are found by their names
    source = {"path": given.pop("id", None) or given.pop("path", None)}
    for key in ("data_files", "data_dir"):
        value = given.pop(key, None)
        if isinstance(value, str):
            source["path"] = value
        elif value is not None:
            conversion.left_out[f"datasets.{key}"] = "name files as data.path, or sources with a path each"
    for key, target in (("config", "name"), ("name", "name"), ("split", "split"), ("revision", "revision")):
        if given.get(key) is not None:
            source[target] = given[key]
        given.pop(key, None)
    share = given.pop("weight", given.pop("fraction", None))
    if share is not None and float(share) != 1:
        source["weight"] = float(share)
    for key in given:
        conversion.left_out[f"datasets.{key}"] = "no setting of a source; see docs/data.md"
    if not source["path"]:
        raise InputError("a data set has neither id nor path")
    return source
