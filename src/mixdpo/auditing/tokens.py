"""What a tokenizer and its chat template make of the pairs, and which of them training cuts, drops or spoils."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import RARE, Flagged, Section, each_alone
from mixdpo.auditing.texts import SIDES
from mixdpo.auditing.token_facts import LIMITED

MOST_CHARACTERS: Final = 8
"""Characters that the tokens of a text have in the mean at most; of English they have 4 or 5."""


def tokens_check(data: AuditData) -> Section:
    """Show the token counts, and flag the pairs that training would cut (`too_long`) and those of `FLAGGED`."""
    facts = data.tokens
    if facts is None:
        return Section(figures=None, flagged={"too_long": _probably_too_long(data)})
    figures, limit = facts.figures, data.settings.max_length
    longest = facts.counts["prompt"] + np.maximum(facts.counts["chosen"], facts.counts["rejected"])
    too_long = replace(
        each_alone(longest > limit),
        looked_at=figures["pairs"],
        measure=f"of pairs tokenised exceed {limit} tokens",
        line=f"`train.max_length: {_next_length(figures['cut'], limit)}`",
    )
    flagged = {"too_long": too_long}
    for name, mask in facts.flags.items():
        line = too_long.line if name in LIMITED else None
        told = {"looked_at": figures["tokenised"], "measure": "of pairs tokenised", "line": line}
        flagged[name] = replace(each_alone(mask), **told)
    return Section(figures=figures, flagged=flagged)


def _probably_too_long(data: AuditData) -> Flagged:
    """Flag the pairs that training would cut as far as their words and characters, without a tokenizer, say it."""
    limit, lengths = data.settings.max_length, {}
    for side in SIDES:
        words, chars = (data.features[f"{side}/{unit}"].to_numpy().astype(np.int64) for unit in ("words", "chars"))
        lengths[side] = np.maximum(words, chars // MOST_CHARACTERS)
    longest = lengths["prompt"] + np.maximum(lengths["chosen"], lengths["rejected"])
    return replace(
        each_alone(longest > limit),
        measure=f"of pairs have over {limit} words, so about as many tokens or more",
        line=f"`train.max_length`, which is {limit} here; count the tokens with `--tokenizer MODEL`",
    )


def _next_length(cuts: Sequence[Mapping[str, Any]], max_length: int) -> int:
    """Return the shortest of the usual lengths that cuts fewer than `RARE` of the pairs, or the longest."""
    longer = [cut for cut in cuts if cut["max_length"] > max_length]
    enough = [cut["max_length"] for cut in longer if cut["pairs"]["value"] < RARE]
    return enough[0] if enough else max([max_length, *(cut["max_length"] for cut in longer)])
