"""The section `answers` of a recipe: prompts that a policy answers at every evaluation, and who judges the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges
from mixdpo.common.stages import by_key
from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.pairs.rating_settings import RatingSettings

ANSWERS: Final = "answers/"
"""What the names of metrics of answers begin with; at evaluation `eval_` stands before it."""
WIN_RATE: Final = f"{ANSWERS}win_rate"
OF_JUDGE: Final = (WIN_RATE, f"{WIN_RATE}_low", f"{WIN_RATE}_high", f"{ANSWERS}compared", f"{ANSWERS}unread",
                     f"{ANSWERS}failed")  # fmt: skip
OF_ANSWERS: Final = tuple(f"{ANSWERS}{name}" for name in ("tokens", "finished", "repetition", "entropy"))


@dataclass(frozen=True, kw_only=True)
class AnswersSettings:
    """Which prompts a policy answers greedily at every evaluation, and who compares with its answers at the start."""

    prompts: str = field(
        metadata={"help": "file, folder or hub id of prompts that the policy answers at every evaluation"}
    )
    limit: int | None = field(
        default=64, metadata={"help": "the first prompts so many; null: all of them", "at_least": 1}
    )
    max_new_tokens: int = field(
        default=256, metadata={"help": "longest answer, in tokens; a longer one is cut", "at_least": 1}
    )
    batch_size: int = field(default=32, metadata={"help": "answers written at once, by each process", "at_least": 1})
    judge: JudgeSettings | None = field(
        default=None,
        metadata={"help": "who compares with the answers at the start: judge, kind, endpoint, ...; null: nobody"},
    )
    rating: RatingSettings = field(
        default_factory=RatingSettings, metadata={"help": "how it judges: mode, judge_prompt, lower_is_better, ..."}
    )

    def __post_init__(self) -> None:
        check_ranges(self, "answers setting ")
        if self.judge is None and self.rating != RatingSettings():
            raise InputError("answers.rating says how a judge rates, and there is none", hint="set answers.judge")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what is measured, without `eval_`."""
        return OF_ANSWERS if self.judge is None else (*OF_JUDGE, *OF_ANSWERS)

    def to_record(self) -> dict[str, Any]:
        """Return, ready for JSON, what has to stay as it was for a run to be continued."""
        judge, rating = self.judge, by_key(self.rating, "rating")
        judged_by = None if judge is None else {"judge": judge.judge, "kind": judge.kind}
        return {"max_new_tokens": self.max_new_tokens, "judge": judged_by, "rating": rating}
