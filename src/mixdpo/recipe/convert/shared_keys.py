"""Keys that several trainers share, since they hand them on to the same libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.recipe.convert.conversion import Conversion

LAUNCH: Final = "start with accelerate launch --config_file; mixdpo examples lists files that work"
CLEAN: Final = "mixdpo audit finds duplicates, and mixdpo clean takes them out"
RESUME: Final = "mixdpo train --resume continues the run of its output folder"
NO_OVERWRITE: Final = "a run is never written over; choose another train.output_dir"
WANDB: Final = "set it as the environment variable of wandb"
LORAPLUS: Final = "one learning rate trains all; in Python give optimizers"
NO_EVALUATION: Final = "there is no data to measure on; add a section eval_data"
_ATTENTION: Final = "attention over packed rows is chosen by mixdpo, and another one would need padded rows"


def eight_bit(conversion: Conversion, key: str = "load_in_8bit") -> None:
    """Leave 8-bit weights out, where they are asked for."""
    conversion.drop_unless_on(
        {key: "weights are loaded in bfloat16 under adapters; set model.load_in_4bit for less memory"}
    )


def attention(conversion: Conversion, key: str) -> None:
    """Take an attention that has to be kept, and drop those that only make rows faster."""
    if conversion.given.get(key) in ("eager", "disabled"):
        conversion.take(key)
        conversion.put("model.attn_implementation", "eager")
    else:
        conversion.drop_needless({key: _ATTENTION})


def without_evaluation(conversion: Conversion) -> None:
    """Leave out when to measure, where there is nothing to measure on."""
    for key in ("eval_strategy", "evaluation_strategy", "eval_steps"):
        if conversion.given.get(key) not in (None, "no", False):
            conversion.leave_out(key, NO_EVALUATION)


def number_format(conversion: Conversion, key: str) -> None:
    """Take the number format of the weights; what is to be found out is left to `model.dtype: auto`."""
    value = str(conversion.given.get(key, "")).removeprefix("torch.")
    if value in ("float32", "bfloat16", "float16"):
        conversion.take(key)
        conversion.put("model.dtype", value)
    elif key in conversion.given:
        conversion.take(key)
        conversion.guessed[key] = "model.dtype stays auto: float32 for full fine-tuning, bfloat16 under adapters"


def target_modules(value: Any) -> Any:
    """Return which modules get adapters, as `peft.LoraConfig` is told: a list, or all-linear."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    return "all-linear" if names in (["all"], ["all-linear"], ["all_linear"]) else names


def only_these(conversion: Conversion, key: str, accepted: Mapping[str, Any], default: str) -> Any:
    """Take the key that says what is trained, and return what it stands for.

    Raises:
        InputError: it is something else than training on pairs.
    """
    value = str(conversion.take(key, default)).lower()
    if value not in accepted:
        raise InputError(
            f"{key} is {value}, and only training on preference pairs is converted",
            hint=f"{key} can be {', '.join(accepted)}",
        )
    return accepted[value]
