"""The task of a study: where its pairs come from and what its models are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from mixdpo.generation.chat_model import Completion
from mixdpo.plan.plan_settings import BUCKETS

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["validation", "test"]
ANSWER_MEASURES: Final = ("finished", "tokens")
"""What is measured of answers beside their grades."""
DISPLACEMENTS: Final = ("displacement_chosen", "displacement_rejected")
PAIR_MEASURES: Final = (*DISPLACEMENTS, "preference_accuracy")
"""What is measured of held-out pairs."""
HELD_OUT_BUCKETS: Final = (*BUCKETS, "tie")
"""Thirds of the held-out pairs by true margin, equal margins together; ties, of which neither is better, apart."""


@dataclass(frozen=True)
class HeldOutData:
    """What a model is measured on; nothing of it is trained.

    Attributes:
        prompts: conversations to answer; empty where nothing is generated.
        prompt_groups: of each prompt, what prompts it belongs to: those of a group are resampled together.
        pairs: pairs of `load_pairs` with scores, for preference accuracy and displacement; None without.
        pair_groups: of each pair, likewise.
    """

    prompts: list[list[dict[str, str]]]
    prompt_groups: list[str]
    pairs: Dataset | None
    pair_groups: list[str]


class StudyTask(Protocol):
    """A source of training pairs and held-out measures. Splits share no prompt."""

    @property
    def primary(self) -> str:
        """The measure that arms are tuned and compared by, unless the study names another."""

    @property
    def pairs(self) -> int:
        """Number of training pairs of every seed."""

    @property
    def validation_measures(self) -> Sequence[str]:
        """What is measured on the validation split."""

    @property
    def training_settings(self) -> Sequence[str]:
        """Names of the settings that decide training pairs alone: an arm may have its own."""

    def fingerprint(self) -> str:
        """Return a digest of everything of the task that decides numbers."""

    def write_train(self, seed: int, path: Path) -> None:
        """Write the training pairs of a seed, with scores, as a parquet file that `load_pairs` reads."""

    def held_out(self, split: Split, folder: Path) -> HeldOutData:
        """Return a split; `folder` may be written to."""

    def judge(self, split: Split, answers: Sequence[Completion]) -> dict[str, list[float]]:
        """Grade the answers to the split's prompts: of each measure, one value per answer, larger is better."""


def conversation_key(prompt: Any) -> str:
    """Return the text of a prompt that tells it from others."""
    return prompt if isinstance(prompt, str) else "\n".join(str(message.get("content")) for message in prompt)
