"""The settings that all metrics of a language model share: limits and number format of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from mixdpo.common.settings import check_ranges
from mixdpo.data.data_settings import (
    ASSISTANT_ONLY_HELP,
    EMPTY_THINKING_HELP,
    LOSS_TURNS_HELP,
    LossTurns,
    TokenSettings,
)


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
    assistant_only_loss: bool = field(
        default=True,
        metadata={"help": ASSISTANT_ONLY_HELP, "keyed_if_set": True, "recipe": "train.assistant_only_loss"},
    )
    loss_turns: LossTurns = field(
        default="all",
        metadata={
            "help": LOSS_TURNS_HELP,
            "keyed_if_set": True,
            "recipe": "train.loss_turns",
        },
    )
    mask_empty_thinking: bool = field(
        default=True,
        metadata={"help": EMPTY_THINKING_HELP, "keyed_if_set": True, "recipe": "train.mask_empty_thinking"},
    )
    batch_size: int = field(default=8, metadata={"help": "pairs per device in a forward pass", "at_least": 1})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast; null: where the hardware has it", "recipe": "train.bf16"}
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        self.token_settings()

    def token_settings(self) -> TokenSettings:
        """Return what tokenisation reads, without what the model's settings say of its template."""
        shared = {f.name for f in fields(TokenSettings)} & {f.name for f in fields(ForwardSettings)}
        return TokenSettings(**{name: getattr(self, name) for name in shared})
