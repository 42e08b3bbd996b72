"""Loading policies and tokenizers, with errors a person can act on."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from mixdpo.common.errors import InputError, install_extra
from mixdpo.common.hub import from_hub
from mixdpo.models.engine import hardware_has_bf16
from mixdpo.models.freed_memory import keep_freed_memory
from mixdpo.models.model_settings import ModelSettings, check_is_model


def load_policy(
    settings: ModelSettings, with_adapters: bool = False, more: Mapping[str, Any] | None = None
) -> PreTrainedModel | PeftModel:
    """Load a causal language model, on the CPU unless quantised, with its trained adapter if one is named.

    Args:
        settings: see `ModelSettings`.
        with_adapters: whether adapters will be added; decides what `dtype: auto` means.
        more: keywords of `from_pretrained`, which go before what `settings` say.

    Raises:
        InputError: no such model, an adapter without its base model, no causal language model, or quantised weights
            that nothing would train.
    """
    adapters = with_adapters or settings.adapter is not None
    arguments: dict[str, Any] = {"dtype": weight_format(settings, adapters), **hub_arguments(settings)}
    if settings.attn_implementation != "auto":
        arguments["attn_implementation"] = settings.attn_implementation
    if settings.load_in_4bit:
        arguments["quantization_config"] = _four_bit()
    arguments |= more or {}
    quantised = settings.load_in_4bit or arguments.get("quantization_config") is not None
    if quantised and not settings.load_in_4bit and not adapters:
        raise InputError(
            "quantised weights are not trained, and there are no adapters", hint="give peft_config=LoraConfig(...)"
        )
    check_is_model(settings.name_or_path)
    with loading("model", settings.name_or_path, settings.revision):
        _check_is_no_adapter(settings.name_or_path, settings.revision)
        model = AutoModelForCausalLM.from_pretrained(settings.name_or_path, **arguments)
    if quantised:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # a setting of the run
    if settings.adapter is not None:
        try:
            with loading("adapter", settings.adapter):
                return PeftModel.from_pretrained(model, settings.adapter, is_trainable=True)
        except (RuntimeError, IndexError) as error:  # weights of other shapes, tokens that are not there
            raise InputError(
                f"the adapter {settings.adapter!r} does not fit {settings.name_or_path!r}: {_last_line(error)}",
                hint="give the model that it was trained on; if its embeddings were resized for that, resize and save "
                "them first",
            ) from error
    return model


def load_for_inference(settings: ModelSettings) -> PreTrainedModel | PeftModel:
    """Load a model to be asked: on the device there is, and under `dtype: auto` in bfloat16 where it has that.

    Raises:
        InputError: as `load_policy` does.
    """
    if settings.dtype == "auto":
        settings = replace(settings, dtype="bfloat16" if hardware_has_bf16() else "float32")
    model: Any = load_policy(settings)
    if not settings.load_in_4bit:
        model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    if model.device.type == "cpu":
        keep_freed_memory()
    return model.eval()


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to the model, or the one that is named: of its main branch."""
    name = settings.tokenizer or settings.name_or_path
    arguments = hub_arguments(settings if name == settings.name_or_path else replace(settings, revision=None))
    check_is_model(name)
    with loading("tokenizer", name, arguments["revision"]):
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **arguments)
        except ValueError:
            _check_is_no_adapter(name, arguments["revision"])  # many of which come without a tokenizer
            raise
    if settings.chat_template is not None:
        try:
            tokenizer.chat_template = Path(settings.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"cannot read the chat template ({error.strerror})", file=settings.chat_template
            ) from error
    return tokenizer


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _check_is_no_adapter(name: str, revision: str | None) -> None:
    # transformers would load the base model with the adapter frozen, and training would train nothing.
    try:
        found = find_adapter_config_file(name, revision=revision)
    except (OSError, ValueError):
        return  # loading the model fails for the same reason, and says it
    if found is not None:
        raise InputError(
            f"{name!r} is an adapter, not a model",
            hint=f"use --model.name_or_path BASE --model.adapter {name}; of generate and eval they are "
            f"--model BASE --adapter {name}",
        )


def weight_format(settings: ModelSettings, adapters: bool = False) -> torch.dtype:
    """Return the number format of the weights; `adapters` decides what `dtype: auto` means."""
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if settings.dtype == "auto":
        return torch.bfloat16 if adapters else torch.float32
    if settings.dtype not in names:
        raise InputError(f"model.dtype is {settings.dtype!r}; it is auto, {', '.join(names)}")
    return names[settings.dtype]


def hub_arguments(settings: ModelSettings) -> dict[str, Any]:
    """Return what `from_pretrained` is told about where a model comes from."""
    return {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}


def _four_bit() -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("4-bit weights need bitsandbytes", hint=install_extra("gpu"))
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


@contextmanager
def loading(what: str, name: str, revision: str | None = None) -> Iterator[None]:
    """Load, in the block, a model or a part of one from a folder or the hub.

    Raises:
        InputError: it cannot be had, with the reason on one line.
    """
    try:
        with from_hub(name, what, revision=revision):
            yield
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"cannot load the {what} {name!r}: {first_line}",
            hint="check the name, and what the folder or repository holds",
        ) from error
