"""The table of checks, and the table of what they can flag.

To add a check, write a function from `AuditData` to a `Section` in the file of its subject (or in a new one), and name
it in `CHECKS`. If it flags pairs, describe them in `FINDING_TYPES`; then `mixdpo clean --apply` knows them, too. What
an existing check flags beside the rest needs its entry there alone. Findings and examples are on the page in any case;
`templates/audit.html` shows the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mixdpo.auditing.advice import advice_check
from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.duplicates import exact_duplicates_check, near_duplicates_check
from mixdpo.auditing.findings import RARE, FindingType, Section
from mixdpo.auditing.leakage import leakage_check
from mixdpo.auditing.margins import margins_check
from mixdpo.auditing.noise import noise_check
from mixdpo.auditing.overview import overview_check
from mixdpo.auditing.plan_preview import plan_check
from mixdpo.auditing.quality import quality_check
from mixdpo.auditing.style import length_check, style_check
from mixdpo.auditing.tokens import tokens_check

CHECKS: Final[dict[str, Callable[[AuditData], Section]]] = {
    "overview": overview_check,
    "margins": margins_check,
    "quality": quality_check,
    "advice": advice_check,
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
        is_advised=True,
        line="evaluate on other sets",
        together=False,
        is_fault=False,  # one is one too many
    ),
    "opposite": FindingType(
        title="Same pair, opposite labels",
        level="harmful",
        meaning="The same two answers to the same prompt are preferred both ways: the pairs cancel out.",
        action="drop",
        is_advised=True,
    ),
    "cycles": FindingType(
        title="Preference cycles",
        level="harmful",
        meaning="Answers of one prompt are preferred in a circle of three or more: no ranking satisfies all of them.",
        action="drop",
        is_advised=True,
    ),
    "contradicted": FindingType(
        title="Labels that the ratings contradict",
        level="harmful",
        meaning="The chosen answer is rated lower than the rejected one.",
        action="flip",
        is_advised=True,
        line="`data.contradictions: flip`",
    ),
    "mislabelled": FindingType(
        title="Labels most margins contradict",
        level="doubtful",
        meaning="Most of the margin columns prefer the rejected answer.",
        action="drop",
        is_mended_by_flip=True,
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
        is_advised=True,
    ),
    "duplicates": FindingType(
        title="Exact duplicates",
        level="doubtful",
        meaning="The same pair occurs several times and counts as often.",
        action="drop_repeats",
        is_advised=True,
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
    "template_refused": FindingType(
        title="Messages that the chat template refuses",
        level="harmful",
        meaning="The template raises an error for them, and training drops the pairs.",
        action="drop",
        line="set `model.chat_template` to a template that takes them",
    ),
    "turns_unclear": FindingType(
        title="Turns that cannot be told apart",
        level="harmful",
        meaning="It is not certain which tokens of the answer are the assistant's, and training drops the pairs.",
        action="drop",
        line="set `model.chat_template` to a template with {% generation %}",
    ),
    "not_rendered": FindingType(
        title="Answers that the chat template does not write",
        level="harmful",
        meaning="The template writes nothing for an answer, and training drops the pairs.",
        action="drop",
        line="set `model.chat_template` to a template that writes the answer",
    ),
    "only_end_token": FindingType(
        title="Answers of which only the end is left",
        level="harmful",
        meaning="The template leaves nothing of an answer but its end token, and training drops the pairs.",
        action="drop",
        line="set `model.chat_template` to a template that writes tool calls and thinking",
    ),
    "no_shared_tokens": FindingType(
        title="Prompts without a token",
        level="harmful",
        meaning="The ids of prompt and answers do not begin alike, and training drops the pairs.",
        action="drop",
    ),
    "lost_content": FindingType(
        title="Content that the chat template leaves out",
        level="harmful",
        meaning="The words of a message are not in what the template writes, so the model never sees them.",
        action="drop",
        line="set `model.chat_template` to a template that writes them",
    ),
    "lost_thinking": FindingType(
        title="Thinking that the chat template leaves out",
        level="harmful",
        meaning="An answer's reasoning is not in what the template writes: the model learns to answer without it.",
        action="drop",
        line="set `model.chat_template` to a template that writes it, or `model.chat_template_kwargs` to what does",
    ),
    "lost_tool_calls": FindingType(
        title="Tool calls that the chat template leaves out",
        level="harmful",
        meaning="The name or an argument of a tool call is not in what the template writes.",
        action="drop",
        line="set `model.chat_template` to a template that writes tool calls",
    ),
    "same_after_template": FindingType(
        title="Answers that the chat template makes equal",
        level="harmful",
        meaning="They differ only in what the template leaves out or trims: no preference can be learned from them.",
        action="drop",
        line="set `model.chat_template` to a template that writes what differs",
    ),
    "prompt_too_long": FindingType(
        title="Prompts that leave no room for an answer",
        level="harmful",
        meaning="The prompt alone has max_length tokens, and training drops the pairs.",
        action="drop",
    ),
    "nothing_trained": FindingType(
        title="Answers cut before their first trained token",
        level="harmful",
        meaning="Within max_length an answer has no token that is trained, and training drops the pairs.",
        action="drop",
    ),
    "same_after_truncation": FindingType(
        title="Answers that differ only in what is cut",
        level="harmful",
        meaning="Within max_length both answers are equal: no preference can be learned from them.",
        action="drop",
    ),
    "second_end": FindingType(
        title="Answers that end twice",
        level="doubtful",
        meaning="The text of an answer ends with an end token, and the template or the tokenizer adds another.",
        action="drop",
        line="take the end tokens out of the texts",
    ),
    "next_header": FindingType(
        title="A template that always writes the next header",
        level="notable",
        meaning="It writes the header of a next answer behind every answer: not trained here, but by others.",
        line="set `model.chat_template` to a template that asks for add_generation_prompt",
        is_fault=False,
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
