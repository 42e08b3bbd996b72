"""What to do with the pairs of small margins, and how much it will matter: a pure rule that rests on a map.

Theory, to first order: a pair is worth (2 P - 1) x margin to a preference loss, where P is the probability that its
label is right, and to SFT what its chosen answer is better than the policy's own at that time. So hard pairs, which
are worth little to a preference loss, are placed by P and by the surplus of their chosen answers, and `rule_table.py`
says what every treatment of such pairs was worth in worlds whose rewards are known. No statement goes beyond those
worlds, and what harms in one of them is not advised. Of the rest that is advised which falls least behind the best
treatment of any one world, because a user's data may be like each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

import numpy as np

from mixdpo.plan.advice import Advice
from mixdpo.plan.advice_parts import (
    POINTS,
    AdvisedRoute,
    Measurement,
    Part,
    PartAdvice,
    Range,
    Unknown,
    WrongLabels,
)
from mixdpo.plan.rule_table import TREATMENTS, RuleTable, Treatment

LARGEST_VALUE: Final = 0.1
"""Largest (2 P - 1) x margin of hard pairs, where the mean margin of the easiest third counts as 1. The hard pairs of
the map's worlds have at most that; of pairs that are worth more it says nothing, and they keep the preference loss."""
_EASY_MARGIN: Final = 0.75
"""Mean margin, in the same unit, of the pairs of those worlds whose wrong labels were counted: 0.72, 0.75 and 0.80."""
_TOLERATED: Final = 0.1
"""How far P and the surplus may lie beyond what was measured before it is told."""
_UNKNOWN_RIGHT: Final = 0.75
"""P that stands for an unknown one where it is asked whether pairs are hard."""


def advise_parts(parts: Sequence[Part], rule: RuleTable, least: float, label_source: str | None = None) -> Advice:
    """Return what to do with each part.

    Args:
        parts: hardest first.
        rule: what the map says.
        least: an effect that matters, in per cent of what a preference loss on all pairs gains over the start.
        label_source: where `right` of the parts comes from.
    """
    hard = _hard_parts(parts, rule)
    hard_share = sum(part.share for part in hard)
    advised = [_advised(part, rule, hard_share, least) if part in hard else _kept(part) for part in parts]
    effects = [one.effect for one in advised if one.effect is not None]
    return Advice(
        parts=advised,
        hard_share=hard_share,
        effect=Range(
            estimate=sum(one.estimate or 0.0 for one in effects),
            low=sum(one.low for one in effects),
            high=sum(one.high for one in effects),
        ),
        wrong_labels=_wrong_labels([part for part in parts if part not in hard], rule, least),
        measurements=_measurements(advised, rule, hard_share, least),
        least=least,
        worlds=[world.name for world in rule.worlds],
        label_source=label_source,
    )


def is_hard(part: Part) -> bool:
    """Whether a part is worth as little to a preference loss as the map's hard pairs."""
    right = _UNKNOWN_RIGHT if part.right is None or part.right.estimate is None else part.right.estimate
    return (2 * right - 1) * part.relative_margin <= LARGEST_VALUE


def _hard_parts(parts: Sequence[Part], rule: RuleTable) -> list[Part]:
    """Return the parts that advice speaks of: hardest first, as long as the map has so many hard pairs, never all."""
    hard: list[Part] = []
    for part in parts[:-1]:
        if not is_hard(part) or sum(one.share for one in hard) >= rule.largest_share:
            break
        hard.append(part)
    return hard


def _kept(part: Part) -> PartAdvice:
    return PartAdvice(
        part=part, is_hard=False, route="preference", effects={}, by_world={}, harms={}, hardly=False, beyond=False
    )


@dataclass(frozen=True, eq=False)
class _Worth:
    """What a treatment of a part is worth if all hard pairs were like it: estimates by world, and their range."""

    by_world: Mapping[str, float]
    worst: Mapping[str, float]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """The mean over worlds."""
        return _mean(self.by_world)

    def of_part(self, share: float) -> Range:
        """Return what it is worth for a share of the hard pairs."""
        return Range(estimate=share * self.mean, low=share * self.low, high=share * self.high)


def _worth(rule: RuleTable, treatment: Treatment, right: Range, surplus: Range, hard_share: float) -> _Worth:
    """Evaluate the map over what is known of P and of the surplus.

    The estimate is the mean over worlds; its range is the hull of all worlds' intervals over all that P and the
    surplus may be.
    """
    by_world, worst, lows, highs = {}, {}, [], []
    for world in rule.worlds:
        at_points = world.effects(treatment, right.points(), surplus.points(), hard_share)
        by_world[world.name] = float(at_points[:, 0].mean())
        worst[world.name] = float(at_points[:, 0].min())
        everywhere = world.effects(treatment, _ends(right), _ends(surplus), hard_share)
        lows.append(everywhere[:, 1].min())
        highs.append(everywhere[:, 2].max())
    return _Worth(by_world, worst, float(min(lows)), float(max(highs)))


def _mean(by_world: Mapping[str, float]) -> float:
    return float(np.mean(list(by_world.values())))


def _ends(known: Range) -> np.ndarray:
    return np.unique(np.append(np.linspace(known.low, known.high, POINTS), known.points()))


def _placed(part: Part, rule: RuleTable) -> tuple[Range, Range]:
    """Return P and surplus of a part within what the map has measured; all of it where they are not known."""
    anything = Range(estimate=None, low=-np.inf, high=np.inf)
    return (part.right or anything).within(*rule.rights), (part.surplus or anything).within(*rule.surpluses)


def _is_beyond(known: Range | None, placed: Range) -> bool:
    """Whether a measured value was cut by more than a tenth, for chance alone may bring P under a half."""
    if known is None or known.estimate is None or placed.estimate is None:
        return False
    return abs(known.estimate - placed.estimate) > _TOLERATED


def _best(
    rule: RuleTable, right: Range, surplus: Range, hard_share: float, least: float, treatments: Sequence[Treatment]
) -> tuple[AdvisedRoute, Mapping[Treatment, _Worth], Mapping[Treatment, Sequence[str]]]:
    """Return the treatment of least regret of those that harm in no world, `preference` where it does not matter.

    The regret of a treatment is how far it is behind the best one allowed, in the world in which that is most.
    """
    worth = {one: _worth(rule, one, right, surplus, hard_share) for one in treatments}
    harms = {one: [name for name, value in of.worst.items() if value < -least] for one, of in worth.items()}
    nothing = dict.fromkeys((world.name for world in rule.worlds), 0.0)
    allowed: dict[AdvisedRoute, Mapping[str, float]] = {
        "preference": nothing,
        **{one: worth[one].by_world for one in treatments if not harms[one]},
    }
    ahead = {name: max(of[name] for of in allowed.values()) for name in nothing}
    best = min(allowed, key=lambda one: max(ahead[name] - value for name, value in allowed[one].items()))
    return ("preference" if _mean(allowed[best]) < least else best), worth, harms


def _treatments(part: Part) -> Sequence[Treatment]:
    """Return what can be done: labels are smoothed by a P that is known."""
    return [one for one in TREATMENTS if one != "smoothed" or part.right is not None]


def _advised(part: Part, rule: RuleTable, hard_share: float, least: float) -> PartAdvice:
    right, surplus = _placed(part, rule)
    route, worth, harms = _best(rule, right, surplus, hard_share, least, _treatments(part))
    of_part = part.share / hard_share
    return PartAdvice(
        part=part,
        is_hard=True,
        route=route,
        effects={one: of.of_part(of_part) for one, of in worth.items()},
        by_world={one: {name: of_part * value for name, value in of.by_world.items()} for one, of in worth.items()},
        harms={one: names for one, names in harms.items() if names},
        hardly=all(of.mean < least for of in worth.values()),
        beyond=_is_beyond(part.surplus, surplus) or _is_beyond(part.right, right),
    )


def _wrong_labels(others: Sequence[Part], rule: RuleTable, least: float) -> WrongLabels | None:
    """Return what wrong labels of pairs that are not hard cost, None where none is clear or it does not matter.

    A wrong label costs in proportion to its margin.
    """
    doubted = [(part, part.right) for part in others if part.right is not None and part.right.high < 1]
    if not doubted:
        return None
    # Shares of wrong labels in each part: estimate, least, most.
    wrong = 1 - np.array([[_middle(right), right.high, right.low] for _, right in doubted])
    shares = np.array([part.share for part, _ in doubted])
    pairs = np.array([part.pairs for part, _ in doubted])
    found = WrongLabels(share=float(shares @ wrong[:, 0]), pairs=round(float(pairs @ wrong[:, 0])), cost=None)
    costs = np.array([cost for _, kind, cost in rule.wrong_labels if kind == "easy"])
    if not len(costs):
        return found
    weights = shares * np.array([part.relative_margin for part, _ in doubted]) / _EASY_MARGIN
    estimate, low, high = 100 * (weights @ wrong) * [costs[:, 0].mean(), costs[:, 1].min(), costs[:, 2].max()]
    cost = Range(estimate=float(estimate), low=float(low), high=float(high))
    return replace(found, cost=cost) if estimate >= least else None


def _middle(known: Range) -> float:
    return (known.low + known.high) / 2 if known.estimate is None else known.estimate


def _measurements(
    advised: Sequence[PartAdvice], rule: RuleTable, hard_share: float, least: float
) -> list[Measurement]:
    """Return what may change the advice by as much as matters, the most useful first."""
    found = []
    kinds: tuple[Unknown, ...] = get_args(Unknown)
    for of in kinds:
        gains, pairs = [], 0
        for one in advised:
            known = one.part.surplus if of == "quality" else one.part.right
            if one.is_hard and (known is None or known.estimate is None):
                gains.append(one.part.share / hard_share * _gain_of_knowing(one, rule, hard_share, least, of))
                pairs += one.part.pairs
        if sum(gains) >= least:
            found.append(Measurement(of=of, gain=sum(gains), pairs=pairs))
    return sorted(found, key=lambda one: -one.gain)


def _gain_of_knowing(one: PartAdvice, rule: RuleTable, hard_share: float, least: float, of: Unknown) -> float:
    """Return the most that the best treatment can be better than the advised one, over what a measurement may say."""
    right, surplus = _placed(one.part, rule)
    most = 0.0
    for value in (surplus if of == "quality" else right).points():
        known = Range(estimate=value, low=value, high=value)
        at = (right, known) if of == "quality" else (known, surplus)
        treatments = TREATMENTS if of == "labels" else _treatments(one.part)
        best, worth, _ = _best(rule, *at, hard_share, least, treatments)
        then, now = (0.0 if route == "preference" else worth[route].mean for route in (best, one.route))
        most = max(most, then - now)
    return most
