"""The kinds of findings that have rows: what they mean, and what deals with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Action = Literal["drop", "drop_repeats", "flip"]
Level = Literal["harmful", "doubtful", "notable"]
LEVELS: Final[tuple[Level, ...]] = ("harmful", "doubtful", "notable")


@dataclass(frozen=True, kw_only=True)
class RowFinding:
    """A kind of finding that has rows.

    Attributes:
        title: what it is, for a heading.
        level: what it does to training.
        meaning: why it matters, one sentence.
        action: what `mixdpo clean` does with its rows; None if it does nothing. `drop_repeats` keeps the first pair
            of each group.
        line: what else deals with it: a recipe line or advice.
        together: whether the rows of a group say more side by side than alone.
    """

    title: str
    level: Level
    meaning: str
    action: Action | None = None
    line: str | None = None
    together: bool = True


ROW_FINDINGS: Final[dict[str, RowFinding]] = {
    "leaked": RowFinding(
        title="Prompts of evaluation sets",
        level="harmful",
        meaning="Scores on those sets would measure memory of the training data.",
        action="drop",
        line="evaluate on other sets",
        together=False,
    ),
    "opposite": RowFinding(
        title="Same pair, opposite labels",
        level="harmful",
        meaning="The same two answers to the same prompt are preferred both ways: the pairs cancel out.",
        action="drop",
    ),
    "cycles": RowFinding(
        title="Preference cycles",
        level="harmful",
        meaning="Answers of one prompt are preferred in a circle of three or more: no ranking satisfies all of them.",
        action="drop",
    ),
    "contradicted": RowFinding(
        title="Labels that the ratings contradict",
        level="harmful",
        meaning="The chosen answer is rated lower than the rejected one.",
        action="flip",
        line="data.contradictions: flip",
    ),
    "mislabelled": RowFinding(
        title="Labels most margins contradict",
        level="doubtful",
        meaning="Most of the margin columns prefer the rejected answer.",
        action="drop",
    ),
    "ratings_of_ten": RowFinding(
        title="Ratings of 10 that another margin contradicts",
        level="doubtful",
        meaning="UltraFeedback is known to have stored overall ratings of 1 as 10.",
        action="drop",
    ),
    "same_answers": RowFinding(
        title="Chosen is rejected",
        level="harmful",
        meaning="Both answers are the same but for case and white space: nothing can be preferred.",
        action="drop",
    ),
    "duplicates": RowFinding(
        title="Exact duplicates",
        level="doubtful",
        meaning="The same pair occurs several times and counts as often.",
        action="drop_repeats",
    ),
    "near_pairs": RowFinding(
        title="Near-duplicate pairs",
        level="doubtful",
        meaning="Prompt and both answers resemble those of another pair.",
        action="drop_repeats",
    ),
    "near_answers": RowFinding(
        title="Answers that hardly differ",
        level="doubtful",
        meaning="Chosen and rejected share most of their word 3-grams: DPO tends to lower the likelihood of both.",
        action="drop",
    ),
    "special": RowFinding(
        title="Special tokens in the text",
        level="harmful",
        meaning="Traces of a chat template become a second BOS, an early end or a false turn.",
        action="drop",
    ),
    "bad_turns": RowFinding(
        title="Odd turns",
        level="doubtful",
        meaning="A prompt has a blank message, one role twice in a row, or ends with the assistant.",
        action="drop",
    ),
    "broken": RowFinding(
        title="Broken characters",
        level="doubtful",
        meaning="The text holds U+FFFD, the mark of a wrong decoding.",
        action="drop",
    ),
    "too_long": RowFinding(
        title="Answers that will be cut",
        level="doubtful",
        meaning="Prompt and answer exceed max_length, so the end token of a cut answer is never learned.",
    ),
    "ties": RowFinding(
        title="Ties",
        level="notable",
        meaning="Both answers have the same rating: a preference loss learns noise from the label.",
        action="drop",
    ),
    "near_prompts": RowFinding(
        title="Near-duplicate prompts",
        level="notable",
        meaning="Split them into training and evaluation data together, or the evaluation has seen its prompts.",
        line="split by the column `group` of flagged.parquet",
    ),
}
"""By name, in the order in which a row's findings are listed."""
