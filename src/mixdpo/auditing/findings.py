"""Findings: what in the data needs a decision, how sure that is, and the command or recipe line that deals with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from mixdpo.auditing.estimates import Estimate, share

Action = Literal["drop", "drop_repeats", "flip"]
Level = Literal["harmful", "doubtful", "notable"]
LEVELS: Final[tuple[Level, ...]] = ("harmful", "doubtful", "notable")
MOST: Final = 10
"""Findings on a page."""

LENGTH_TOLERANCE: Final = 0.05
"""Distance from one half under which the share of longer chosen answers is no finding."""
STYLE_TOLERANCE: Final = 0.60
"""Accuracy of the style classifier under which style is no finding."""
RARE: Final = 0.01
"""Share under which ties and cuts are no finding."""


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
    """

    title: str
    level: Level
    meaning: str
    action: Action | None = None
    line: str | None = None


ROW_FINDINGS: Final[dict[str, RowFinding]] = {
    "leaked": RowFinding(
        title="Prompts of evaluation sets",
        level="harmful",
        meaning="Scores on those sets would measure memory of the training data.",
        action="drop",
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
    ),
    "near_prompts": RowFinding(
        title="Near-duplicate prompts",
        level="notable",
        meaning="Split them into training and evaluation data together, or the evaluation has seen its prompts.",
        line="split by the column `group` of flagged.parquet",
    ),
}
"""By name, in the order in which a row's findings are listed."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that needs a decision.

    Attributes:
        name: key of `ROW_FINDINGS`, or `length_bias`, `style`, `label_noise`, `dropped`, `ratings_spike`.
        pairs: pairs it affects.
        estimate: its number with interval and sample size; what it is of is in `measure`.
        fix: the command or recipe line that deals with it.
        action: what `mixdpo clean` does, None if nothing.
    """

    name: str
    level: Level
    title: str
    meaning: str
    measure: str
    estimate: Estimate
    pairs: int
    fix: str
    action: Action | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def find(figures: Mapping[str, Any], flags: Mapping[str, np.ndarray], max_length: int, clean: str) -> list[Finding]:
    """Return the findings, the most harmful and most frequent first, `MOST` at most.

    Args:
        figures: the sections of the audit.
        flags: by name of `ROW_FINDINGS`, the group of each pair, -1 for none; int64 of shape (N,).
        max_length: tokens that training will keep.
        clean: the command that cleans this data by this report, to which findings are added.
    """
    n = figures["overview"]["pairs"]
    found = [_from_rows(kind, group, figures, max_length, clean) for kind, group in flags.items()]
    found += [_length(figures["length"], n), _style(figures["style"], n), _noise(figures["noise"], n)]
    found += [_dropped(figures["overview"]["loading"]), _spike(figures["noise"]["ratings_of_ten"])]
    present = [finding for finding in found if finding is not None]
    return sorted(present, key=lambda f: (LEVELS.index(f.level), -f.pairs))[:MOST]


def _from_rows(
    name: str, group: np.ndarray, figures: Mapping[str, Any], max_length: int, clean: str
) -> Finding | None:
    kind = ROW_FINDINGS[name]
    pairs, looked_at = int((group >= 0).sum()), len(group)
    if name == "too_long":
        looked_at = figures["tokens"]["pairs"] if figures["tokens"] else 0
    estimate = share(pairs, looked_at)
    if pairs == 0 or (name in ("ties", "too_long") and (estimate["low"] or 0) <= RARE):
        return None
    fix = _fix(name, figures, max_length, clean)
    return Finding(
        name=name,
        level=kind.level,
        title=kind.title,
        meaning=kind.meaning,
        measure=f"of pairs tokenised exceed {max_length} tokens" if name == "too_long" else "of all pairs",
        estimate=estimate,
        pairs=pairs,
        fix=fix,
        action=kind.action,
    )


def _fix(name: str, figures: Mapping[str, Any], max_length: int, clean: str) -> str:
    if name == "too_long":
        return f"train.max_length: {_next_length(figures, max_length)}"
    if name == "ties":
        least = figures["margins"]["least_positive"]
        return "collect ratings that differ" if least is None else f"plan.threshold: {least:.4g}  (ties go to SFT)"
    kind = ROW_FINDINGS[name]
    command = f"{clean} --apply {name}" if kind.action else None
    return "  or  ".join(line for line in (kind.line, command) if line)


def _next_length(figures: Mapping[str, Any], max_length: int) -> int:
    """Return the shortest of the usual lengths that cuts fewer than `RARE` of the pairs, or the longest."""
    longer = [cut for cut in figures["tokens"]["cut"] if cut["max_length"] > max_length]
    enough = [cut["max_length"] for cut in longer if cut["pairs"]["value"] < RARE]
    return enough[0] if enough else max([max_length, *(cut["max_length"] for cut in longer)])


def _length(figures: Mapping[str, Any], n: int) -> Finding | None:
    longer = figures["longer"]
    if longer["n"] == 0 or longer["low"] <= 0.5 + LENGTH_TOLERANCE:
        return None
    ratio = figures["ratio"]["value"]
    return Finding(
        name="length_bias",
        level="doubtful",
        title="Chosen answers are longer",
        meaning=f"They have {ratio:.2f} times the words of rejected ones (geometric mean): training learns length.",
        measure="of pairs of unequal length have the longer answer chosen",
        estimate=longer,
        pairs=n,
        fix="train.loss_type: sigmoid_norm  (or r_dpo, simpo); judge with a length-controlled win rate",
    )


def _style(figures: Mapping[str, Any], n: int) -> Finding | None:
    classifier = figures["classifier"]
    if classifier is None or classifier["accuracy"]["low"] <= STYLE_TOLERANCE:
        return None
    strongest = ", ".join(item["name"] for item in classifier["weights"][:3])
    return Finding(
        name="style",
        level="doubtful",
        title="Style predicts the label",
        meaning=f"A classifier that sees only counts on the surface finds the chosen answer, mostly by {strongest}.",
        measure="of labels predicted from surface features, cross-validated (guessing: 50 %)",
        estimate=classifier["accuracy"],
        pairs=n,
        fix="judge with a style-controlled win rate; collect answers of like style",
    )


def _noise(figures: Mapping[str, Any], n: int) -> Finding | None:
    known = [item for item in figures["estimate"] if item["error"]["low"] is not None]
    worst = min(known, key=lambda item: item["error"]["low"], default=None)
    if worst is None or worst["error"]["low"] <= RARE:
        return None
    value = worst["error"]["value"]
    return Finding(
        name="label_noise",
        level="doubtful",
        title="Label noise",
        meaning=f"Estimated from margins {worst['first']} and {worst['second']}, taken as independent.",
        measure="of labels are wrong, estimated",
        estimate=worst["error"],
        pairs=round(value * n),
        fix=f"train.label_smoothing: {value:.2f}",
    )


def _dropped(loading: Mapping[str, Any] | None) -> Finding | None:
    if loading is None or loading["read"] == loading["kept"]:
        return None
    dropped = loading["read"] - loading["kept"]
    commonest = loading["dropped"][0]
    return Finding(
        name="dropped",
        level="notable",
        title="Rows that cannot be used",
        meaning=f"Loading drops them, most ({commonest['rows']:,}) as {commonest['reason']}: {commonest['meaning']}.",
        measure="of rows read",
        estimate=share(dropped, loading["read"]),
        pairs=dropped,
        fix="nothing to do: mixdpo drops them; see Overview for their rows",
    )


def _spike(tens: Mapping[str, Any] | None) -> Finding | None:
    if tens is None or not tens["spike"]:
        return None
    return Finding(
        name="ratings_spike",
        level="notable",
        title="A spike of ratings of exactly 10",
        meaning=f"{tens['tens']:,} ratings are 10 and {tens['nine_to_ten']:,} from 9 up to it. UltraFeedback stored "
        "about 2,000 ratings of 1 as 10.",
        measure="of ratings from 9 to 10 are exactly 10",
        estimate=share(tens["tens"], tens["tens"] + tens["nine_to_ten"]),
        pairs=tens["tens"],
        fix="data.columns: {score_chosen: chosen-rating, score_rejected: rejected-rating}  (mean of the aspects)",
    )
