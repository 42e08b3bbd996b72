"""Findings: what in the data needs a decision, how sure that is, and the command or recipe line that deals with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from mixdpo.auditing.finding_types import LEVELS, ROW_FINDINGS, Action, Level
from mixdpo.auditing.statistics import Estimate, share

MOST: Final = 10
"""Pieces of advice; the small findings together are one."""

LENGTH_TOLERANCE: Final = 0.05
"""Distance from one half under which the share of longer chosen answers is no finding."""
STYLE_TOLERANCE: Final = 0.60
"""Accuracy of the style classifier under which style is no finding."""
RARE: Final = 0.01
"""Share under which ties and cuts are no finding, and rows that can be cleaned are small repairs."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that needs a decision.

    Attributes:
        name: key of `ROW_FINDINGS`, or `length_bias`, `style`, `label_noise`, `dropped`, `ratings_spike`.
        pairs: pairs it affects.
        estimate: its number with interval and sample size; what it is of is in `measure`.
        fix: the command or recipe line that deals with it.
        action: what `mixdpo clean` does, None if nothing.
        small: whether it affects fewer than `RARE` of the pairs, spoils nothing else, and `mixdpo clean` can deal with
            it.
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
    small: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def find(figures: Mapping[str, Any], flags: Mapping[str, np.ndarray], max_length: int, clean: str) -> list[Finding]:
    """Return the findings, the most harmful and most frequent first, the small ones last.

    There are `MOST` at most, all small ones counted as one.

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
    ranked = sorted(present, key=lambda f: (LEVELS.index(f.level), -f.pairs))
    small = [finding for finding in ranked if finding.small]
    return [finding for finding in ranked if not finding.small][: MOST - bool(small)] + small


def small_repairs(findings: Sequence[Finding], clean: str) -> str | None:
    """Return the command that deals with all small findings at once; None without any."""
    names = ",".join(finding.name for finding in findings if finding.small)
    return f"{clean} --apply {names}" if names else None


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
    # Dropping every pair leaves nothing, and `mixdpo clean` refuses it.
    action = None if kind.action == "drop" and pairs == figures["overview"]["pairs"] else kind.action
    command = f"{clean} --apply {name}" if action else None
    return Finding(
        name=name,
        level=kind.level,
        title=kind.title,
        meaning=kind.meaning,
        measure=f"of pairs tokenised exceed {max_length} tokens" if name == "too_long" else "of all pairs",
        estimate=estimate,
        pairs=pairs,
        fix=_fix(name, command, figures, max_length),
        action=action,
        # One leaked prompt is one too many, and ties are no fault.
        small=action is not None and name not in ("leaked", "ties") and pairs < RARE * looked_at,
    )


def _fix(name: str, command: str | None, figures: Mapping[str, Any], max_length: int) -> str:
    line = ROW_FINDINGS[name].line
    if name == "too_long":
        line = f"train.max_length: {_next_length(figures, max_length)}"
    elif name == "ties":
        least = figures["margins"]["least_positive"]
        line = "collect ratings that differ" if least is None else f"plan.threshold: {least}  (ties go to SFT)"
    elif line is None and command is None:
        line = "fix the source: all pairs are affected, and without them nothing would be left"
    return "  or  ".join(part for part in (line, command) if part)


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
