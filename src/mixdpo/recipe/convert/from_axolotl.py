"""Keys of Axolotl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.recipe.convert.conversion import Conversion
from mixdpo.recipe.convert.shared_keys import (
    CLEAN,
    LAUNCH,
    LORAPLUS,
    NO_EVALUATION,
    RESUME,
    WANDB,
    attention,
    eight_bit,
    only_these,
    target_modules,
)
from mixdpo.recipe.convert.splits import cut_off, put_sources

MODEL: Final = {
    "base_model": "model.name_or_path",
    "revision_of_model": "model.revision",
    "tokenizer_config": "model.tokenizer",
    "trust_remote_code": "model.trust_remote_code",
    "load_in_4bit": "model.load_in_4bit",
    "lora_model_dir": "model.adapter",
}
ADAPTERS: Final = {
    "lora_r": "peft.r",
    "lora_alpha": "peft.lora_alpha",
    "lora_dropout": "peft.lora_dropout",
    "lora_modules_to_save": "peft.modules_to_save",
    "lora_fan_in_fan_out": "peft.fan_in_fan_out",
    "lora_target_parameters": "peft.target_parameters",
    "peft_layers_to_transform": "peft.layers_to_transform",
    "peft_layers_pattern": "peft.layers_pattern",
    "peft_init_lora_weights": "peft.init_lora_weights",
    "peft_use_dora": "peft.use_dora",
    "peft_use_rslora": "peft.use_rslora",
}
LOSSES: Final = {"dpo": "sigmoid", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}
TRAIN: Final = {
    "sequence_len": "train.max_length",
    "max_prompt_len": "train.max_prompt_length",
    "micro_batch_size": "train.per_device_train_batch_size",
    "eval_batch_size": "train.per_device_eval_batch_size",
    "num_epochs": "train.num_train_epochs",
    "optimizer": "train.optim",
    "lr_scheduler": "train.lr_scheduler_type",
    "dataset_processes": "train.dataset_num_proc",
    "dpo_label_smoothing": "train.label_smoothing",
    "dpo_use_weighting": "train.use_weighting",
    "dpo_loss_type": "train.loss_type",
    "dpo_loss_weights": "train.loss_weights",
    "wandb_name": "train.run_name",
    "gradient_checkpointing": "train.activation_checkpointing",
}
NEEDLESS: Final = {
    "model_type": "the class is found by the model's configuration",
    "tokenizer_type": "the class is found by the tokenizer's files",
    "dataset_prepared_path": "what is read is cached by its content",
    "sample_packing": "rows are packed in any case",
    "eval_sample_packing": "rows are packed in any case",
    "pad_to_sequence_len": "rows are packed in any case",
    "strict": "every key of a recipe is checked",
    "debug": "mixdpo tokens shows what is trained",
    "local_rank": "accelerate sets it",
    "remove_unused_columns": "columns are found by their names",
    "dpo_padding_free": "rows are packed in any case",
    "dpo_use_logits_to_keep": "no more logits are kept than the answers need",
    "eval_table_size": "records/ has every pair of every evaluation",
    "wandb_watch": "gradients' norm is logged",
    "save_first_step": "mixdpo train shows at once whether a checkpoint can be written",
}
_LIGER: Final = "Liger's kernels are used where liger-kernel is installed (train.use_liger_kernel)"
_WATCHDOG: Final = "training ends where a loss, a gradient or a weight is not finite"
LEFT_OUT: Final = {
    "deepspeed": LAUNCH,
    "fsdp": LAUNCH,
    "fsdp_config": LAUNCH,
    "fsdp_version": LAUNCH,
    "resume_from_checkpoint": RESUME,
    "plugins": _LIGER,
    "special_tokens": "the tokenizer's own tokens are used; change them there, and save it",
    "tokens": "add tokens to the tokenizer and the model, and save both",
    "wandb_entity": f"{WANDB}, WANDB_ENTITY",
    "wandb_mode": f"{WANDB}, WANDB_MODE",
    "wandb_log_model": f"{WANDB}, WANDB_LOG_MODEL",
    "wandb_run_id": f"{WANDB}, WANDB_RUN_ID",
    "mlflow_tracking_uri": "set it as the environment variable of mlflow, MLFLOW_TRACKING_URI",
    "mlflow_experiment_name": "set it as the environment variable of mlflow, MLFLOW_EXPERIMENT_NAME",
    "auto_resume_from_checkpoints": RESUME,
    "curriculum_sampling": "the plan decides the order",
    "default_system_message": "the chat template says it; see model.chat_template",
    "excess_length_strategy": "train.max_length cuts answers, and how many is said",
    "gpu_memory_limit": "train.max_tokens_per_batch auto fits batches to the memory",
    "loraplus_lr_ratio": LORAPLUS,
    "loss_watchdog_patience": _WATCHDOG,
    "loss_watchdog_threshold": _WATCHDOG,
    "resize_token_embeddings_to_32x": "embeddings stay as they are",
    "rl_adapter_ref_model": "the reference of adapters is the base model",
    **dict.fromkeys(
        (
            "liger_rope",
            "liger_rms_norm",
            "liger_layer_norm",
            "liger_glu_activation",
            "liger_cross_entropy",
            "liger_fused_linear_cross_entropy",
            "liger_use_token_scaling",
        ),
        _LIGER,
    ),
}
UNLESS_ON: Final = {
    "train_on_inputs": "only answers are trained on",
    "dataset_exact_deduplication": CLEAN,
    "shuffle_merged_datasets": "the plan decides the order",
    "lora_mlp_kernel": "adapters run by peft",
    "lora_qkv_kernel": "adapters run by peft",
    "lora_o_kernel": "adapters run by peft",
    "unfrozen_parameters": "all weights are trained, or adapters",
    "relora": "adapters are trained by peft",
    "cosine_min_lr_ratio": "set train.lr_scheduler_type cosine_with_min_lr and lr_scheduler_kwargs",
    "eval_max_new_tokens": "the section answers has the policy answer prompts",
}
ATTENTION: Final = (
    "attn_implementation", "flash_attention", "sdp_attention", "xformers_attention", "s2_attention", "flex_attention",
    "eager_attention",
)  # fmt: skip
DEFAULTS: Final = {
    "train.loss_type": "sigmoid",
    "train.lr_scheduler_type": "cosine",
    "train.warmup_steps": 0.03,
    "train.per_device_train_batch_size": 1,
    "train.max_length": 512,
}
PROMPT_COLUMN: Final = {
    "argilla": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
    "argilla_chat": {},
    "icr": {"prompt": "input"},
    "intel": {"prompt": "question"},
    "prompt_pairs": {"prompt": "prompt"},
    "ultra": {"prompt": "prompt"},
    "default": {},
}
"""By the second half of a data set's type: how its columns are called where that is not chosen and rejected."""


def convert_axolotl(conversion: Conversion) -> None:
    """Fill in the recipe of a configuration for Axolotl's training on pairs.

    Raises:
        InputError: it trains on something else.
    """
    loss = only_these(conversion, "rl", LOSSES, "none: supervised fine-tuning")
    conversion.put("train.loss_type", loss)
    conversion.move(MODEL)
    eight_bit(conversion)
    _adapters(conversion)
    for key in ATTENTION:
        attention(conversion, key)
    _template(conversion)
    _data(conversion)
    conversion.drop_needless(NEEDLESS)
    conversion.leave_out_all(LEFT_OUT)
    conversion.drop_unless_on(UNLESS_ON)
    conversion.move(TRAIN)
    _numbers(conversion)
    _beta(conversion)
    _per_epoch(conversion)
    _trackers(conversion)
    conversion.rest_to_train()
    conversion.write_defaults(DEFAULTS)


def _adapters(conversion: Conversion) -> None:
    kind = conversion.take("adapter")
    keys = ("lora_target_modules", "lora_target_linear", *ADAPTERS)
    if kind is None:
        conversion.drop_needless(dict.fromkeys(keys, "adapter is empty, and all weights are trained"))
        return
    if kind not in ("lora", "qlora"):
        raise InputError(f"adapter is {kind}, and LoRA is what is converted", hint="adapter can be lora or qlora")
    linear, modules = conversion.take("lora_target_linear"), conversion.take("lora_target_modules")
    conversion.move(ADAPTERS)
    conversion.put("peft.target_modules", "all-linear" if linear or modules is None else target_modules(modules))
    if linear and modules:
        conversion.guessed["lora_target_modules"] = "lora_target_linear is on, so all linear modules get adapters"


def _template(conversion: Conversion) -> None:
    value = conversion.take("chat_template")
    if value is not None and value != "tokenizer_default":
        conversion.guessed["chat_template"] = (
            f"the tokenizer's own chat template, which may differ from {value}; name a file as model.chat_template"
        )
    if "chat_template_jinja" in conversion.given:
        conversion.leave_out("chat_template_jinja", "write it to a file, and name that as model.chat_template")


def _data(conversion: Conversion) -> None:
    listed = conversion.take("datasets") or []
    sources = [source for one in listed for source in _sources(conversion, one)]
    if not sources:
        raise InputError("it names no data", hint="add datasets")
    tests = [source for one in conversion.take("test_datasets") or [] for source in _sources(conversion, one)]
    size = conversion.take("val_set_size", 0)
    if tests:
        put_sources(conversion, "eval_data", tests)
    else:
        cut_off(conversion, "val_set_size", size, sources)
    put_sources(conversion, "data", sources)


def _sources(conversion: Conversion, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = dict(given)
    files = given.pop("data_files", None)
    path = given.pop("path", None)
    files = [files] if isinstance(files, str) else list(files or [])
    paths = files if path in (None, "json", "csv", "parquet") else [path]
    if path in paths and files:
        conversion.left_out["datasets.data_files"] = "name files as paths of sources"
    shared: dict[str, Any] = {}
    for key in ("split", "name", "revision"):
        if given.get(key) is not None:
            shared[key] = given[key]
        given.pop(key, None)
    given.pop("ds_type", None)
    columns = _columns(conversion, given)
    if columns:
        shared["columns"] = columns
    for key, value in given.items():
        if value not in (None, False):
            conversion.left_out[f"datasets.{key}"] = "no setting of a source; see docs/data.md"
    return [{"path": one, **shared} for one in paths]


def _columns(conversion: Conversion, given: dict[str, Any]) -> dict[str, str]:
    """Take what says how rows are read, and return the columns of the pairs where they have names of their own."""
    kind = given.pop("type", None)
    columns: dict[str, str] = {}
    if isinstance(kind, Mapping):
        formats = {key: value for key, value in kind.items() if key.endswith("_format")}
        given |= {key: value for key, value in kind.items() if key not in formats}
        plain = {f"{name}_format": f"{{{name}}}" for name in ("prompt", "chosen", "rejected")}
        for key, value in formats.items():
            if value != plain.get(key):
                conversion.left_out[f"datasets.type.{key}"] = "texts are taken as they are; write them so in the data"
    elif kind is not None:
        style, _, form = str(kind).rpartition(".")
        if form not in PROMPT_COLUMN and style:
            conversion.left_out["datasets.type"] = f"{kind} is not known; name the columns with data.columns"
        else:
            columns |= PROMPT_COLUMN.get(form, {})
        if style not in ("", "chat_template"):
            conversion.guessed["datasets.type"] = (
                f"{kind} writes prompts in a format of its own; here the tokenizer's chat template does, where rows "
                "hold messages"
            )
    for key, name in (
        ("field_messages", "prompt"), ("field_prompt", "prompt"), ("field_system", "system"),
        ("field_chosen", "chosen"), ("field_rejected", "rejected"), ("field_tools", "tools"),
    ):  # fmt: skip
        if (value := given.pop(key, None)) is not None:
            columns[name] = value
    _message_names(conversion, given)
    return {name: column for name, column in columns.items() if name != column}


def _message_names(conversion: Conversion, given: dict[str, Any]) -> None:
    names = given.pop("message_property_mappings", None) or {}
    if {(key, str(value)) for key, value in names.items()} - {
        ("role", "role"), ("role", "from"), ("content", "content"), ("content", "value"),
    }:  # fmt: skip
        conversion.left_out["datasets.message_property_mappings"] = "messages have role and content, or from and value"
    roles = given.pop("roles", None) or {}
    known = {"system": {"system"}, "user": {"user", "human"}, "assistant": {"assistant", "gpt"}, "tool": {"tool"}}
    if any(set(names) - known.get(role, set()) for role, names in roles.items()):
        conversion.left_out["datasets.roles"] = "roles are system, user, assistant and tool, also human and gpt"


def _numbers(conversion: Conversion) -> None:
    """Take numbers that Axolotl also reads as text, and the number formats that it chooses itself."""
    for key in ("learning_rate", "weight_decay"):
        if isinstance(conversion.given.get(key), str):
            conversion.given[key] = float(conversion.given[key])
    for key in ("bf16", "fp16", "bfloat16"):
        if conversion.given.get(key) in ("auto", "full"):
            value = conversion.take(key)
            if value == "full":
                conversion.put("model.dtype", "bfloat16")
    if conversion.recipe["train"].get("activation_checkpointing") == "offload":
        conversion.put("train.activation_checkpointing", True)
        conversion.left_out["gradient_checkpointing"] = (
            "offload keeps activations on the CPU; here they are computed anew"
        )
    if conversion.recipe["train"].get("lr_scheduler_type") in ("one_cycle", "rex"):
        name = conversion.recipe["train"].pop("lr_scheduler_type")
        conversion.left_out["lr_scheduler"] = (
            f"{name} is Axolotl's own; {DEFAULTS['train.lr_scheduler_type']} is taken"
        )


def _beta(conversion: Conversion) -> None:
    of_trl = conversion.take("trl") or {}
    for name, value in of_trl.items():
        if name == "beta":
            conversion.put("train.beta", value)
        else:
            conversion.left_out[f"trl.{name}"] = "it is of online training"
    for key in ("orpo_alpha", "dpo_beta", "rl_beta"):  # the later goes first, as there
        if key in conversion.given:
            conversion.put("train.beta", conversion.take(key))


def _per_epoch(conversion: Conversion) -> None:
    """Write so many times an epoch as a share of all steps."""
    epochs = float(conversion.recipe["train"].get("num_train_epochs", 1))
    for key, name in (("evals_per_epoch", "eval"), ("saves_per_epoch", "save")):
        times = conversion.given.get(key)
        if times is None:
            continue
        if name == "eval" and (not conversion.recipe["eval_data"] or not times):
            conversion.leave_out(key, NO_EVALUATION)
            continue
        conversion.take(key)
        if not times:
            conversion.put(f"train.{name}_strategy", "no")
        elif times == 1:
            conversion.put(f"train.{name}_strategy", "epoch")
        else:
            conversion.put(f"train.{name}_strategy", "steps")
            conversion.put(f"train.{name}_steps", round(1 / (times * epochs), 6))


def _trackers(conversion: Conversion) -> None:
    project, asked = conversion.take("wandb_project"), conversion.take("use_wandb")
    trackers = ["wandb"] if project or asked else []
    if project:
        conversion.left_out["wandb_project"] = f"wandb is on; {WANDB}, WANDB_PROJECT={project}"
    trackers += [name for name in ("tensorboard", "mlflow", "comet") if conversion.take(f"use_{name}")]
    if trackers:
        conversion.put("train.report_to", trackers)
    if "hub_model_id" in conversion.given:
        conversion.put("train.push_to_hub", True)
