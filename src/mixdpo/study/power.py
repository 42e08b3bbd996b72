"""What a planned study could see: variances of earlier studies, taken apart and put together for another design.

A difference of two arms varies between seeds (pairs, order), between groups of items (tasks), between items of a
group, and for reasons particular to a seed and a group or to a seed and an item. Each part shrinks with something
else: seeds, tasks, prompts. So earlier studies tell what a design of other numbers would find.

Legend: S seeds, N items, G groups of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from mixdpo.study.effects import Variances

MOST_SEEDS = 10_000
"""More seeds are not looked for: what takes more is out of reach."""


@dataclass(frozen=True, kw_only=True)
class VarianceParts:
    """Variances of one draw of each kind, in the squared unit of the measure.

    An estimate from data may be negative, where the part is small; the mean of many is not cut off before it is used.

    Attributes:
        seeds: of a seed's own mean.
        groups: of a group's own mean.
        items: of an item's own mean within its group.
        seeds_by_groups: of what is particular to a seed and a group.
        answers: of what is particular to a seed and an item; with one answer to each prompt, most of it is the luck
            of the two answers that are compared.
    """

    seeds: float
    groups: float
    items: float
    seeds_by_groups: float
    answers: float

    def of_design(self, seeds: int, groups: int, items_per_group: float) -> Variances:
        """Return the variances of a mean difference over so many seeds, groups, and items of each group."""
        seed, group, item, lasting, answer = (max(getattr(self, one.name), 0.0) for one in fields(self))
        interaction = (lasting + answer / items_per_group) / (seeds * groups)
        return Variances(
            over_seeds=seed / seeds + interaction,
            over_groups=(group + item / items_per_group) / groups + interaction,
            interaction=interaction,
            seeds=seeds,
            groups=groups,
        )

    def scaled(self, factor: float) -> VarianceParts:
        """Return the parts of a difference whose variance is `factor` times this one's."""
        return VarianceParts(**{one.name: factor * getattr(self, one.name) for one in fields(self)})


def variance_parts(differences: np.ndarray, group: np.ndarray) -> VarianceParts:
    """Take the variance of differences between two arms apart, by the means of squares (the method of moments).

    Groups of unequal size count as of their harmonic mean.

    Args:
        differences: finite values, shape (S, N), two seeds at least.
        group: the group of each item, any labels, shape (N,); two groups at least, of more than one item somewhere.

    Raises:
        ValueError: too few seeds or groups, or no group of several items.
    """
    values = np.asarray(differences, dtype=np.float64)
    _, of_item = np.unique(np.asarray(group), return_inverse=True)
    counts_G = np.bincount(of_item)
    S, N = values.shape
    G = len(counts_G)
    if S < 2 or G < 2 or N == G:
        raise ValueError(f"{S} seeds, {N} items in {G} groups; parts need 2, 2, and a group of several items")
    means_SG = np.stack([np.bincount(of_item, weights=row) for row in values]) / counts_G
    size = 1 / float(np.mean(1 / counts_G))
    over_items, over_groups = _residual(values), _residual(means_SG)
    answers = (over_items - over_groups) / (1 - 1 / size)
    lasting = over_items - answers
    own_items = values.mean(axis=0).var(ddof=1) - over_items / S
    own_groups = means_SG.mean(axis=0).var(ddof=1) - over_groups / S
    items = (own_items - own_groups) / (1 - 1 / size)
    return VarianceParts(
        seeds=float(values.mean(axis=1).var(ddof=1) - over_groups / G),
        groups=float(own_items - items),
        items=float(items),
        seeds_by_groups=float(lasting),
        answers=float(answers),
    )


def pooled(parts: Sequence[VarianceParts]) -> VarianceParts:
    """Return the mean of the parts of several differences: that of one, of few seeds, is mostly luck."""
    return VarianceParts(
        **{one.name: float(np.mean([getattr(part, one.name) for part in parts])) for one in fields(VarianceParts)}
    )


def smallest_effect(parts: VarianceParts, seeds: int, groups: int, items_per_group: float, alpha: float) -> float:
    """Return the smallest true effect that a design finds at `alpha`, two-sided, with 80 % power."""
    return parts.of_design(seeds, groups, items_per_group).smallest_effect(alpha)


def seeds_needed(parts: VarianceParts, effect: float, groups: int, items_per_group: float, alpha: float) -> int | None:
    """Return the fewest seeds, two or more, with which a design finds an effect; None where no number of them does."""

    def sees(seeds: int) -> bool:
        return smallest_effect(parts, seeds, groups, items_per_group, alpha) <= effect

    low, high = 1, 2
    while not sees(high):
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if sees(middle) else (middle, high)
    return high


def _residual(values: np.ndarray) -> float:
    """Return the mean square of what rows and columns do not explain, with its degrees of freedom."""
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return float((rest**2).sum() / ((values.shape[0] - 1) * (values.shape[1] - 1)))
