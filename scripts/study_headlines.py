"""Six questions to the studies of a real model, each with the one number that answers it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixdpo.common.tables import TextTable
from mixdpo.study.analysis import Analysis
from mixdpo.study.effects import Effect
from mixdpo.study.study_tables import interval


@dataclass(frozen=True)
class Headline:
    """A question, and where its answer is: an arm of a study against the start or the baseline, or a contrast."""

    asks: str
    compared: str
    study: str
    arm: str = ""
    is_against_start: bool = False
    contrast: str = ""


HEADLINES = (
    Headline("Does DPO learn from easy pairs?", "easy third − untrained", "subsets", "DPO, easy third", True),
    Headline("Does DPO learn from hard pairs?", "hard third − untrained", "subsets", "DPO, hard third", True),
    Headline(
        "Does SFT learn more from hard pairs?", "SFT − DPO, hard third", "subsets",
        contrast="SFT against DPO on hard pairs",
    ),
    Headline("Does MixDPO beat DPO?", "MixDPO as published − DPO", "core", "MixDPO as published"),
    Headline("Does the order help by itself?", "DPO easy to hard − DPO", "core", "DPO, easy to hard"),
    Headline(
        "Is SFT better than dropping?", "hardest 10 to 50 %: SFT − dropped", "hardest",
        contrast="SFT against drop, any share",
    ),
)  # fmt: skip


def headlines_table(studies: Sequence[Analysis]) -> TextTable:
    """Return the answers that the studies hold, with the smallest effect that each would have found."""
    by_name = {one.runs["study"]["name"]: one for one in studies}
    rows = []
    for headline in HEADLINES:
        if headline.study in by_name:
            analysis = by_name[headline.study]
            effect, detectable = _found(analysis, headline)
            clear = "yes" if effect.p_adjusted < 1 - analysis.runs["study"]["level"] else "no"
            size = "" if detectable is None else f"{detectable:.2f}"
            rows.append((headline.asks, headline.compared, interval(effect), size, clear))
    return TextTable("", ("question", "compared", "difference", "would find", "clear"), rows, names=2)


def _found(analysis: Analysis, headline: Headline) -> tuple[Effect, float | None]:
    if headline.contrast:
        contrast = next(one for one in analysis.contrasts if one.name == headline.contrast)
        return contrast.effect, contrast.detectable
    arm = next(one for one in analysis.arms if one.name == headline.arm)
    effect = arm.against_start if headline.is_against_start else arm.against_baseline
    assert effect is not None
    return effect, None if headline.is_against_start else analysis.detectable
