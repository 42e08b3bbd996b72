"""Keys of LLaMA-Factory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.recipe.convert.conversion import Conversion
from mixdpo.recipe.convert.shared_keys import (
    LAUNCH,
    LORAPLUS,
    NO_OVERWRITE,
    RESUME,
    attention,
    only_these,
    target_modules,
    without_evaluation,
)
from mixdpo.recipe.convert.splits import cut_off, first_rows, put_sources

MODEL: Final = {
    "model_name_or_path": "model.name_or_path",
    "model_revision": "model.revision",
    "adapter_name_or_path": "model.adapter",
    "trust_remote_code": "model.trust_remote_code",
}
ADAPTERS: Final = {
    "lora_rank": "peft.r",
    "lora_alpha": "peft.lora_alpha",
    "lora_dropout": "peft.lora_dropout",
    "additional_target": "peft.modules_to_save",
    "use_rslora": "peft.use_rslora",
    "use_dora": "peft.use_dora",
}
LOSSES: Final = {name: name for name in ("sigmoid", "hinge", "ipo", "orpo", "simpo")}
TRAIN: Final = {
    "cutoff_len": "train.max_length",
    "pref_beta": "train.beta",
    "dpo_label_smoothing": "train.label_smoothing",
    "simpo_gamma": "train.simpo_gamma",
    "moe_aux_loss_coef": "train.router_aux_loss_coef",
    "preprocessing_num_workers": "train.dataset_num_proc",
    "early_stopping_steps": "train.early_stopping_patience",
    "enable_liger_kernel": "train.use_liger_kernel",
}
NEEDLESS: Final = {
    "do_train": "mixdpo train trains",
    "do_eval": "train.eval_strategy says whether pairs are measured",
    "overwrite_cache": "what is read is cached by its content",
    "plot_loss": "training.png is drawn in any case",
    "packing": "rows are packed in any case",
    "neat_packing": "rows are packed in any case",
    "double_quantization": "4-bit weights are quantised twice",
    "use_fast_tokenizer": "tokenizers are fast ones",
    "low_cpu_mem_usage": "models are loaded so",
    "use_reentrant_gc": "checkpointing is chosen by mixdpo",
    "upcast_layernorm": "norms are computed in float32",
    "preprocessing_batch_size": "rows are read in parts",
    "data_shared_file_system": "what is read is cached by its content",
    "compute_accuracy": "every evaluation has rewards/accuracies",
    "include_effective_tokens_per_second": "every line of the log has tokens_per_second",
    "freeze_vision_tower": "only text is trained on",
    "freeze_multi_modal_projector": "only text is trained on",
    "ignore_pad_token_for_loss": "padding is never trained",
    "mix_strategy": "sources are put together; set a weight of each to change its share",
}
_OPTIMIZER: Final = "another optimizer can be given in Python, as optimizers"
_TOKENS: Final = "add tokens to the tokenizer and the model, and save both"
LEFT_OUT: Final = {
    "deepspeed": LAUNCH,
    "fsdp": LAUNCH,
    "fsdp_config": LAUNCH,
    "resume_from_checkpoint": RESUME,
    "overwrite_output_dir": NO_OVERWRITE,
    "ref_model": "the reference is the model before its first step; in Python give MixDPOTrainer(ref_model=...)",
    "ref_model_adapters": "give the merged model as MixDPOTrainer(ref_model=...) in Python",
    "loraplus_lr_ratio": LORAPLUS,
    "loraplus_lr_embedding": LORAPLUS,
    "ddp_find_unused_parameters": "set by mixdpo",
    "tokenized_path": "what is read is cached by its content",
    "interleave_probs": "set a weight of each source",
    "tool_format": "the chat template says it",
    "default_system": "the chat template says it",
    "disable_shuffling": "the plan decides the order",
    "cache_dir": "set the environment variable HF_HOME",
    "hf_hub_token": "log in with hf auth login, or set the environment variable HF_TOKEN",
    "add_tokens": _TOKENS,
    "add_special_tokens": _TOKENS,
    "rope_scaling": "set it in the model's configuration, and save it",
}
UNLESS_ON: Final = {
    "use_unsloth": "mixdpo packs rows and computes every prompt once instead",
    "use_unsloth_gc": "set train.activation_checkpointing",
    "use_galore": "set train.optim galore_adamw and train.optim_target_modules",
    "use_apollo": "set train.optim apollo_adamw and train.optim_target_modules",
    "use_badam": _OPTIMIZER,
    "use_adam_mini": _OPTIMIZER,
    "use_muon": _OPTIMIZER,
    "use_swanlab": "set train.report_to swanlab",
    "streaming": "a plan needs all pairs at once",
    "train_on_prompt": "only answers are trained on",
    "resize_vocab": _TOKENS,
    "shift_attn": "attention is not changed",
    "pissa_convert": "mixdpo merge makes a model of an adapter",
    "include_num_input_tokens_seen": "metrics.jsonl has the tokens per second",
    "include_tokens_per_second": "every line of the log has tokens_per_second",
    "predict_with_generate": "the section answers has the policy answer prompts",
    "eval_on_each_dataset": "in Python give MixDPOTrainer(eval_dataset={name: pairs})",
}
DEFAULTS: Final = {
    "train.learning_rate": 5e-5,
    "train.lr_scheduler_type": "linear",
    "train.warmup_steps": 0,
    "train.num_train_epochs": 3.0,
    "train.max_length": 2048,
}
_IMAGES: Final = ("image_max_pixels", "image_min_pixels", "video_max_pixels", "audio_sampling_rate")


def convert_llama_factory(conversion: Conversion) -> None:
    """Fill in the recipe of a configuration for LLaMA-Factory's stage dpo.

    Raises:
        InputError: it is another stage, freezes layers, or trains on images.
    """
    only_these(conversion, "stage", {"dpo": "dpo"}, "sft")
    for key in _IMAGES:
        conversion.refuse(key, "this trains on images, and mixdpo on text alone", "take a text model and its data")
    conversion.move(MODEL)
    attention(conversion, "flash_attn")
    _quantisation(conversion)
    _adapters(conversion)
    template = conversion.take("template")
    if template is not None:
        conversion.guessed["template"] = (
            f"the tokenizer's own chat template instead of {template}; if it has none, name a file as "
            "model.chat_template"
        )
    _data(conversion)
    _losses(conversion)
    conversion.drop_needless(NEEDLESS)
    conversion.leave_out_all(LEFT_OUT)
    conversion.drop_unless_on(UNLESS_ON)
    conversion.move(TRAIN)
    if conversion.take("disable_gradient_checkpointing"):
        conversion.put("train.activation_checkpointing", False)
    if conversion.take("pure_bf16"):
        conversion.put("model.dtype", "bfloat16")
    if "enable_thinking" in conversion.given:
        conversion.put("model.chat_template_kwargs", {"enable_thinking": conversion.take("enable_thinking")})
    if conversion.take("mask_history"):
        conversion.put("train.loss_turns", "last")
    conversion.rest_to_train()
    conversion.write_defaults(DEFAULTS)


def _quantisation(conversion: Conversion) -> None:
    bits = conversion.take("quantization_bit")
    if bits == 4:
        conversion.put("model.load_in_4bit", True)
    elif bits is not None:
        conversion.left_out["quantization_bit"] = "4 bits or none; weights are loaded in bfloat16 under adapters"
    for key, plain in (("quantization_method", ("bitsandbytes", "bnb")), ("quantization_type", ("nf4",))):
        if str(conversion.given.get(key)).lower() in plain:
            conversion.drop_needless({key: "4-bit weights are bitsandbytes' NF4"})
        else:
            conversion.leave_out(key, "4-bit weights are bitsandbytes' NF4")


def _adapters(conversion: Conversion) -> None:
    kind = only_these(conversion, "finetuning_type", {"lora": "lora", "full": "full"}, "lora")
    keys = ("lora_target", "pissa_init", "create_new_adapter", *ADAPTERS)
    if kind == "full":
        conversion.drop_needless(dict.fromkeys(keys, "all weights are trained"))
        return
    conversion.put("peft.target_modules", target_modules(conversion.take("lora_target", "all")))
    if isinstance(conversion.given.get("additional_target"), str):
        conversion.given["additional_target"] = target_modules(conversion.given["additional_target"])
    if conversion.take("pissa_init"):
        conversion.put("peft.init_lora_weights", "pissa")
    conversion.move(ADAPTERS)
    conversion.drop_unless_on({"create_new_adapter": "merge the first adapter with mixdpo merge, and train the model"})
    if "adapter" in conversion.recipe["model"]:
        conversion.recipe["peft"].clear()
        conversion.guessed["adapter_name_or_path"] = "that adapter is trained on, with its own rank and modules"
        return
    rank = conversion.recipe["peft"].get("r", 8)
    conversion.write_defaults({"peft.r": rank, "peft.lora_alpha": 2 * rank})


def _losses(conversion: Conversion) -> None:
    name = only_these(conversion, "pref_loss", LOSSES, "sigmoid")
    conversion.put("train.loss_type", name)
    if factor := conversion.take("pref_ftx"):
        conversion.add_likelihood(float(factor))
    conversion.drop_unless_on({"pref_bco_weight": "add bco_pair to train.loss_type and its weight to loss_weights"})


def _data(conversion: Conversion) -> None:
    folder = Path(str(conversion.take("dataset_dir", "data")))
    conversion.take("media_dir")
    known = _dataset_info(folder)
    sources = [_source(conversion, name, folder, known) for name in _names(conversion.take("dataset"))]
    if not sources:
        raise InputError("it names no data", hint="add dataset")
    if count := conversion.take("max_samples"):
        first_rows(sources, int(count))
    tests = [_source(conversion, name, folder, known) for name in _names(conversion.take("eval_dataset"))]
    size = conversion.take("val_size", 0)
    if tests:
        put_sources(conversion, "eval_data", tests)
    else:
        cut_off(conversion, "val_size", size, sources)
    if not conversion.recipe["eval_data"]:
        without_evaluation(conversion)
    put_sources(conversion, "data", sources)


def _names(value: Any) -> list[str]:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value or [])


def _dataset_info(folder: Path) -> Mapping[str, Any]:
    """Return what dataset_info.json of a folder says, nothing where it is not there."""
    try:
        content = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _source(conversion: Conversion, name: str, folder: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    info = known.get(name)
    if info is None:
        path = str(folder / f"{name}.json")
        conversion.guessed[f"dataset {name}"] = (
            f"the file {path}, for {folder / 'dataset_info.json'} does not say what it is; run this where "
            "LLaMA-Factory is run, or change data.path"
        )
        return {"path": path}
    if "ranking" not in info or not info["ranking"]:
        raise InputError(f"dataset {name} has no ranking, and mixdpo trains on pairs", hint="name one of pairs")
    source = {"path": info.get("hf_hub_url") or str(folder / info.get("file_name", f"{name}.json"))}
    source |= {ours: info[theirs] for theirs, ours in (("subset", "name"), ("split", "split")) if info.get(theirs)}
    names = {"prompt": "prompt", "messages": "prompt", "query": "input"}
    names |= {key: key for key in ("chosen", "rejected", "system", "tools", "history")}
    given = info.get("columns") or {}
    columns = {names[key]: column for key, column in given.items() if key in names}
    if media := sorted({"images", "videos", "audios"} & set(given)):
        raise InputError(f"dataset {name} has {media[0]}, and mixdpo trains on text alone", hint="name one of text")
    columns = {key: column for key, column in columns.items() if key != column}
    return {**source, "columns": columns} if columns else source
