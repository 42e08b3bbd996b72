"""Which model to load and how, as a recipe or an option says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.settings import build
from mixdpo.data.data_settings import (
    TEMPLATE_DATE_HELP,
    TEMPLATE_KWARGS_HELP,
    check_template_date,
    check_template_kwargs,
)

MODEL_HELP: Final = "folder or hub id, or a mapping of the settings of a recipe's section model"


@dataclass(kw_only=True, frozen=True)
class ModelSettings:
    """Which model to load and how.

    Raises:
        InputError: the chat template would be told what is not its own, or `template_date` is no date.
    """

    name_or_path: str = field(metadata={"help": "folder or hub id of the model"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit on the hub"})
    tokenizer: str | None = field(default=None, metadata={"help": "folder or hub id; null: the model's own"})
    chat_template: str | None = field(
        default=None, metadata={"help": "file with a Jinja chat template; null: the tokenizer's own"}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": TEMPLATE_KWARGS_HELP,
            "keyed_if_set": True,
        },
    )
    template_date: str | None = field(
        default=None,
        metadata={
            "help": TEMPLATE_DATE_HELP,
            "keyed_if_set": True,
        },
    )
    adapter: str | None = field(default=None, metadata={"help": "folder or hub id of a trained adapter to continue"})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "number format of the weights: float32, bfloat16 or float16; auto: float32 for full fine-tuning "
            "(small learning rates are lost in bfloat16 weights), bfloat16 under adapters"
        },
    )
    attn_implementation: str = field(
        default="auto",
        metadata={
            "help": "auto: mixdpo_flex on a GPU and mixdpo_packed elsewhere, where the model can be packed; "
            "mixdpo_packed everywhere; or another of transformers, such as eager, on padded rows"
        },
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "QLoRA: 4-bit NF4 base weights (needs the extra gpu)"})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "run Python code that comes with the model; only for code you have read"},
    )

    def __post_init__(self) -> None:
        check_template_kwargs(self.chat_template_kwargs)
        check_template_date(self.template_date)


def model_named(
    value: str | dict[str, Any] | ModelSettings | None, name: str, *, is_start: bool = True
) -> ModelSettings:
    """Return what a setting `name` says of a model; `is_start`: of the one training starts from.

    Raises:
        InputError: it says nothing, or something that `ModelSettings` does not know.
    """
    if value is None:
        start = " or --model.name_or_path MODEL" if is_start else ""
        raise InputError(
            f"{name} names no model", hint=f"give a folder or hub id; on the command line --score.{name} MODEL{start}"
        )
    if isinstance(value, str):
        return ModelSettings(name_or_path=value)
    return value if isinstance(value, ModelSettings) else build(ModelSettings, value, name)


def model_name(name_or_path: str) -> str:
    """Return what results call a model: the folder's name, of a run's folder `model` the run's; else the hub id."""
    path = Path(name_or_path).expanduser()
    if not path.is_dir():
        return name_or_path
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "model" else resolved.name


def check_is_model(name_or_path: str) -> None:
    """Raise `InputError` if the name is neither a model folder nor of the form of a hub id."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "tokenizer_config.json").is_file():
            raise InputError("the folder holds no model: config.json is missing", file=path)
        return
    if path.exists():
        raise InputError("a file, not a model folder", file=path, hint="give the folder that holds config.json")
    check_may_be_on_hub(name_or_path)


def check_may_be_on_hub(name_or_path: str) -> None:
    """Raise `InputError` if a name, of which there is no folder, has not the form of a hub id either."""
    if Path(name_or_path).is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") > 1:
        raise InputError("no such model folder", file=name_or_path)
