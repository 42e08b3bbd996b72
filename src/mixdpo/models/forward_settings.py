"""The settings that all metrics of a language model share: limits and number format of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from mixdpo.common.settings import check_ranges
from mixdpo.data.data_settings import TokenSettings


@dataclass(frozen=True, kw_only=True)
class ForwardSettings:
    """Limits and number format of a forward pass. Where training has the same, training reads this pass's values.

    The metadata `recipe` names the key of a recipe that a field is taken from when it is not given.

    Raises:
        InputError: a value is out of its range.
    """

    max_length: int | None = field(
        default=1024,
        metadata={
            "help": "tokens of prompt + completion, cut on the right; null: no limit",
            "recipe": "train.max_length",
        },
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "tokens of the prompt, cut on the left; null: no limit",
            "recipe": "train.max_prompt_length",
        },
    )
    batch_size: int = field(default=8, metadata={"help": "pairs per device in a forward pass", "at_least": 1})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast; null: where the hardware has it", "recipe": "train.bf16"}
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        self.token_settings()

    def token_settings(self) -> TokenSettings:
        """Return the limits of length."""
        return TokenSettings(max_length=self.max_length, max_prompt_length=self.max_prompt_length)
