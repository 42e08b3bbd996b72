"""A checkpoint of a run, or an adapter, as a folder that transformers loads."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mixdpo.common.errors import InputError
from mixdpo.common.files import check_output, unfinished
from mixdpo.models.loading import load_policy, load_tokenizer
from mixdpo.models.model_settings import ModelSettings
from mixdpo.training.preparation import prepare_tokenizer
from mixdpo.training.saving import holds_weights

_OF_FSDP = "pytorch_model_fsdp_0"
# DeepSpeed writes it beside its parts. Runs of mixdpo write the weights there as well, whole.
_OF_DEEPSPEED = "zero_to_fp32.py"


def merge(source: Path, output: Path) -> None:
    """Write the model of a checkpoint or an adapter to a new folder, with its tokenizer and generation settings.

    Args:
        source: a checkpoint of a run on any kind of processes, or the folder of an adapter.
        output: the folder, which appears when it is whole.

    Raises:
        InputError: `source` is neither, a base model cannot be loaded, or `output` is there already.
    """
    if output.exists():
        raise InputError("the folder is there already", file=output, hint="choose another output folder")
    check_output(output)
    model = merged_model(source)
    tokenizer = load_tokenizer(ModelSettings(name_or_path=_place_of_tokenizer(source)))
    prepare_tokenizer(model, tokenizer)
    temporary = unfinished(output)
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(output)


def merged_model(source: Path) -> PreTrainedModel:
    """Return the model of a checkpoint or an adapter, an adapter as part of its base model.

    Raises:
        InputError: `source` is neither, or a base model cannot be loaded.
    """
    weights = None if holds_weights(source) else _gathered(source)
    if (source / "adapter_config.json").exists():
        return _with_adapter(source, weights)
    if weights is None:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
        return model
    config = AutoConfig.from_pretrained(source)
    with torch.device("meta"):
        model_class = type(AutoModelForCausalLM.from_config(config))
    return model_class.from_pretrained(None, config=config, state_dict=weights)


def _gathered(source: Path) -> dict[str, Tensor]:
    """Return the weights that a checkpoint keeps in the shards of its processes, by name."""
    if (source / _OF_FSDP).is_dir():
        return _of_fsdp(source / _OF_FSDP)
    if (source / _OF_DEEPSPEED).exists():
        raise InputError(
            "the checkpoint holds DeepSpeed's parts of the weights alone",
            file=source,
            hint=f"run its {_OF_DEEPSPEED}, which puts them together, if you trust them: it unpickles",
        )
    raise InputError(
        "neither a checkpoint of a run nor an adapter",
        file=source,
        hint="give the folder RUN/checkpoint-N, or RUN/model of a run with adapters",
    )


def _of_fsdp(folder: Path) -> dict[str, Tensor]:
    reader = FileSystemReader(folder)
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this is one process, as it is meant to be
        load(state, storage_reader=reader, no_dist=True)
    return {name.removeprefix("model."): value for name, value in state.items()}


def _with_adapter(source: Path, weights: dict[str, Tensor] | None) -> PreTrainedModel:
    """Return the base model with an adapter merged in float32, for bfloat16 would round its small changes away."""
    config = PeftConfig.from_pretrained(str(source))
    base = ModelSettings(name_or_path=config.base_model_name_or_path, revision=config.revision, dtype="float32")
    model: Any
    if weights is None:
        model = load_policy(ModelSettings(**{**vars(base), "adapter": str(source)}))
    else:
        model = get_peft_model(load_policy(base), config)
        set_peft_model_state_dict(model, weights)
    merged: PreTrainedModel = model.merge_and_unload()
    return merged


def _place_of_tokenizer(source: Path) -> str:
    """Return where the tokenizer is: with the weights, or with the base model of an adapter that has none."""
    if (source / "tokenizer_config.json").exists():
        return str(source)
    return str(PeftConfig.from_pretrained(str(source)).base_model_name_or_path)
