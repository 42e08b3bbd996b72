"""Whether the rule's advice holds in regimes that it was not made from: the advised arm against the best one.

The rule is told what its user would measure: how often hard labels are right, how good the chosen answers are against
two policies, and how many pairs are hard. The best arm is chosen on the first half of the seeds and compared on the
other half, because the largest of several means is too large on the seeds that it was chosen on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mixdpo.common.tables import TextTable
from mixdpo.plan.advice_parts import Part, Range
from mixdpo.plan.advice_rule import LARGEST_VALUE, advise_parts
from mixdpo.plan.rule_table import RuleTable
from mixdpo.study.world.map_effects import PairedEffect, paired_effect
from mixdpo.study.world.map_rule import ARMS, surplus_of
from mixdpo.study.world.map_settings import START
from mixdpo.study.world.map_standing import comparable_rewards

MOST_LOST: Final = 5.0
"""What the advised arm may lose to the best one, in per cent of what the baseline gains."""


@dataclass(frozen=True, kw_only=True)
class RuleCheck:
    """The advice on one cell.

    Attributes:
        world, cell: where.
        right: P of the hard pairs; `surplus` of their chosen answers; `share` of all pairs.
        advised, best: arms.
        lost: reward of the best arm less that of the advised one, on seeds that did not choose it, in per cent of the
            baseline's gain.
        expected: what the rule says that the advised arm gains over the baseline, and `gained`, what it does, in the
            same unit.
    """

    world: str
    cell: str
    right: float
    surplus: float
    share: float
    advised: str
    best: str
    lost: PairedEffect
    expected: Range
    gained: PairedEffect

    @property
    def holds(self) -> bool:
        """Whether the advised arm loses little, and is not clearly worse than the best."""
        return self.lost.estimate <= MOST_LOST and not self.lost.low > 0


def check_rule(table: Mapping[str, Any], rule: RuleTable, least: float, all_arms: bool) -> Iterator[RuleCheck]:
    """Yield the check of each cell in which the arms of all treatments were run and the baseline clearly gains.

    Args:
        table: of a map.
        rule: that advises.
        least: an effect that matters, in per cent of the baseline's gain.
        all_arms: compare with the best of all arms at the baseline's learning rate, not only of those that the rule
            can advise.
    """
    of_route = {"preference": table["baseline"], **ARMS}
    for cell in table["cells"]:
        arms = comparable_rewards(table, cell)
        if cell["gain"]["low"] <= 0 or not set(of_route.values()) <= arms.keys():
            continue
        measured = cell["measured"]
        part = _part(cell["hard_share"], _known(measured["hard_right"]), _known(surplus_of(cell)), LARGEST_VALUE)
        rest = _part(1 - cell["hard_share"], _known(measured["easy_right"]), None, 1.0)
        (hard, _) = advise_parts([part, rest], rule, least).parts
        advised = of_route[hard.route]
        gain = float(np.mean(arms[table["baseline"]] - cell["arms"][START]["rewards"]))
        candidates = [name for name in arms if all_arms or name in of_route.values()]
        half = len(table["seeds"]) // 2
        best = max(candidates, key=lambda name: _mean(arms[name][:half]))
        yield RuleCheck(
            world=cell["world"],
            cell=cell["name"],
            right=measured["hard_right"],
            surplus=surplus_of(cell),
            share=cell["hard_share"],
            advised=advised,
            best=best,
            lost=paired_effect(100 / gain * (arms[best] - arms[advised])[half:]),
            expected=hard.effect or Range(estimate=0.0, low=0.0, high=0.0),
            gained=paired_effect(100 / gain * (arms[advised] - arms[table["baseline"]])),
        )


def check_table(checks: Sequence[RuleCheck]) -> TextTable:
    """Return the checks as a table, and how many hold in its title."""
    holding = sum(one.holds for one in checks)
    rows = [
        (
            one.world, one.cell, f"{one.right:.2f}", f"{one.surplus:+.2f}", one.advised, one.best,
            f"{one.lost.estimate:+.1f} ({one.lost.low:+.1f} to {one.lost.high:+.1f})",
            f"{one.expected.estimate:+.0f} ({one.expected.low:+.0f} to {one.expected.high:+.0f})",
            f"{one.gained.estimate:+.0f}", "yes" if one.holds else "no",
        )
        for one in checks
    ]  # fmt: skip
    headings = ("world", "cell", "P", "surplus", "advised", "best", "lost, % of gain", "expected", "gained", "holds")
    title = f"The advice holds in {holding} of {len(checks)} cells: at most {MOST_LOST:g} % lost, not clearly worse"
    return TextTable(title, headings, rows, names=2)


def _part(share: float, right: Range, surplus: Range | None, margin: float) -> Part:
    return Part(
        margin_min=margin,
        margin_max=margin,
        pairs=round(1000 * share),
        share=share,
        relative_margin=margin,
        right=right,
        surplus=surplus,
        policies="none" if surplus is None else "both",
    )


def _known(value: float) -> Range:
    return Range(estimate=value, low=value, high=value)


def _mean(rewards: np.ndarray) -> float:
    """Return the mean; that of an arm of which a policy broke is the least."""
    return float(rewards.mean()) if np.isfinite(rewards).all() else -np.inf
