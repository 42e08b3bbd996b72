"""The table of checks, and the table of what they can flag.

To add a check, write a function from `AuditData` to a `Section` in the file of its subject (or in a new one), and name
it in `CHECKS`. If it flags pairs, describe them in `FINDING_TYPES`; then `mixdpo clean --apply` knows them, too. What
an existing check flags beside the rest needs its entry there alone. Findings and examples are on the page in any case;
`templates/audit.html` shows the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.duplicates import exact_duplicates_check, near_duplicates_check
from mixdpo.auditing.findings import RARE, FindingType, Section
from mixdpo.auditing.leakage import leakage_check
from mixdpo.auditing.margins import margins_check
from mixdpo.auditing.noise import noise_check
from mixdpo.auditing.overview import overview_check
from mixdpo.auditing.plan_preview import plan_check
from mixdpo.auditing.style import length_check, style_check
from mixdpo.auditing.tokens import tokens_check

CHECKS: Final[dict[str, Callable[[AuditData], Section]]] = {
    "overview": overview_check,
    "margins": margins_check,
    "plan": plan_check,
    "length": length_check,
    "style": style_check,
    "duplicates": exact_duplicates_check,
    "near": near_duplicates_check,
    "leakage": leakage_check,
    "noise": noise_check,
    "tokens": tokens_check,
}
"""By section of `report.json`, in its order."""

FINDING_TYPES: Final[dict[str, FindingType]] = {
    "leaked": FindingType(
        title="Prompts of evaluation sets",
        level="harmful",
        meaning="Scores on those sets would measure memory of the training data.",
        action="drop",
        line="evaluate on other sets",
        together=False,
        is_fault=False,  # one is one too many
    ),
    "opposite": FindingType(
        title="Same pair, opposite labels",
        level="harmful",
        meaning="The same two answers to the same prompt are preferred both ways: the pairs cancel out.",
        action="drop",
    ),
    "cycles": FindingType(
        title="Preference cycles",
        level="harmful",
        meaning="Answers of one prompt are preferred in a circle of three or more: no ranking satisfies all of them.",
        action="drop",
    ),
    "contradicted": FindingType(
        title="Labels that the ratings contradict",
        level="harmful",
        meaning="The chosen answer is rated lower than the rejected one.",
        action="flip",
        line="data.contradictions: flip",
    ),
    "mislabelled": FindingType(
        title="Labels most margins contradict",
        level="doubtful",
        meaning="Most of the margin columns prefer the rejected answer.",
        action="drop",
        ranked=True,
    ),
    "ratings_of_ten": FindingType(
        title="Ratings of 10 that another margin contradicts",
        level="doubtful",
        meaning="UltraFeedback is known to have stored overall ratings of 1 as 10.",
        action="drop",
    ),
    "same_answers": FindingType(
        title="Chosen is rejected",
        level="harmful",
        meaning="Both answers are the same but for case and white space: nothing can be preferred.",
        action="drop",
    ),
    "duplicates": FindingType(
        title="Exact duplicates",
        level="doubtful",
        meaning="The same pair occurs several times and counts as often.",
        action="drop_repeats",
    ),
    "near_pairs": FindingType(
        title="Near-duplicate pairs",
        level="doubtful",
        meaning="Prompt and both answers resemble those of another pair.",
        action="drop_repeats",
    ),
    "near_answers": FindingType(
        title="Answers that hardly differ",
        level="doubtful",
        meaning="Chosen and rejected share most of their word 3-grams: DPO tends to lower the likelihood of both.",
        action="drop",
    ),
    "special": FindingType(
        title="Special tokens in the text",
        level="harmful",
        meaning="Traces of a chat template become a second BOS, an early end or a false turn.",
        action="drop",
    ),
    "bad_turns": FindingType(
        title="Odd turns",
        level="doubtful",
        meaning="A prompt has a blank message, one role twice in a row, or ends with the assistant.",
        action="drop",
    ),
    "broken": FindingType(
        title="Broken characters",
        level="doubtful",
        meaning="The text holds U+FFFD, the mark of a wrong decoding.",
        action="drop",
    ),
    "too_long": FindingType(
        title="Answers that will be cut",
        level="doubtful",
        meaning="Prompt and answer exceed max_length, so the end token of a cut answer is never learned.",
        least_share=RARE,
    ),
    "ties": FindingType(
        title="Ties",
        level="notable",
        meaning="Both answers have the same rating: a preference loss learns noise from the label.",
        action="drop",
        least_share=RARE,
        is_fault=False,
    ),
    "near_prompts": FindingType(
        title="Near-duplicate prompts",
        level="notable",
        meaning="Split them into training and evaluation data together, or the evaluation has seen its prompts.",
        line="split by the column `group` of flagged.parquet",
    ),
}
"""By name, in the order in which a row's findings are listed."""
