"""Effects of arms over seeds and test items: hierarchical bootstrap, intervals, Holm's correction, detectable effects.

Seeds and items are crossed: every seed trains a model of its own, and all models answer the same prompts. A resample
draws seeds, then items, and takes the same items in every drawn seed, since a prompt that is hard for one model is
hard for the next. Arms are compared at the same seed and the same item, so what they share cancels.

Legend: S seeds, G groups of items that belong together (prompts of one task, pairs of one prompt), R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from mixdpo.common.statistics import Interval
from mixdpo.evaluation.statistics.paired import holm

RESAMPLES = 20_000
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Variances:
    """What the variance of a mean difference is made of, and from how many seeds and groups it is known.

    Attributes:
        over_seeds: of the mean over drawn seeds; it holds the seeds' own part and the interaction.
        over_groups: of the mean over drawn groups; it holds the groups' own part and the interaction.
        interaction: the part that is particular to a seed and a group, which is in both.
        seeds: S.
        groups: G.
    """

    over_seeds: float
    over_groups: float
    interaction: float
    seeds: int
    groups: int

    @property
    def total(self) -> float:
        """Variance of the mean over drawn seeds and groups, the interaction counted once."""
        return max(self.over_seeds + self.over_groups - self.interaction, self.over_seeds, self.over_groups)

    @property
    def degrees_of_freedom(self) -> float:
        """Those of `total`, by Satterthwaite's approximation; not fewer than the fewest of its parts have.

        A sum of parts has at least as many; the part that is taken off could bring the approximation below one, where
        t quantiles mean nothing.
        """
        parts = [
            (self.over_seeds, self.seeds - 1),
            (self.over_groups, self.groups - 1),
            (self.interaction, (self.seeds - 1) * (self.groups - 1)),
        ]
        known = [(part, degrees) for part, degrees in parts if degrees > 0]
        spread = sum(part**2 / degrees for part, degrees in known)
        return max(self.total**2 / spread, min(degrees for _, degrees in known)) if spread > 0 else self.groups - 1.0

    def tests(self) -> list[tuple[float, float]]:
        """Return standard error and degrees of freedom of each test that a difference has to pass.

        With few seeds their variance comes out too small by luck now and then, and the first test then believes it:
        of three seeds twice as many false alarms as there should be. So Student's test over the means of the seeds
        has to agree.
        """
        tests = [(float(np.sqrt(self.total)), self.degrees_of_freedom)]
        if self.seeds > 1:
            tests.append((float(np.sqrt(self.over_seeds)), float(self.seeds - 1)))
        return tests

    def smallest_effect(self, alpha: float) -> float:
        """Return the smallest true effect that all `tests` find at `alpha`, two-sided, each with probability `POWER`.

        Power is that of the noncentral t distribution.
        """
        return max(error * standard_errors_seen(degrees, alpha) for error, degrees in self.tests())


@dataclass(frozen=True, kw_only=True)
class Effect(Interval):
    """A mean difference with its interval, in the unit of the measure.

    Attributes:
        variances: of the estimate, from the bootstrap.
        p_value: two-sided, of no difference.
        p_adjusted: the same, corrected by Holm's method for the arms compared together.
        items: items of each seed.
    """

    variances: Variances
    p_value: float
    p_adjusted: float
    items: int

    @property
    def seeds(self) -> int:
        """Seeds that both sides have."""
        return self.variances.seeds


@dataclass(frozen=True)
class Resamples:
    """How often each seed (R, S) and each group (R, G) was drawn, as shares that add up to 1 per resample."""

    seeds: np.ndarray
    groups: np.ndarray


def draw_resamples(seeds: int, groups: int, rng: np.random.Generator, count: int = RESAMPLES) -> Resamples:
    """Draw n - 1 of n seeds and n - 1 of n groups with replacement.

    Drawing n of n would make variances too small by (n - 1) / n, which with five seeds is a fifth (Rao and Wu 1988,
    "Resampling inference with complex survey data").

    Raises:
        ValueError: no seed, or fewer than two groups.
    """
    if seeds < 1 or groups < 2:
        raise ValueError(f"{seeds} seeds and {groups} groups of items; an interval needs 1 and 2 at least")

    def shares(n: int) -> np.ndarray:
        if n == 1:
            return np.ones((count, 1))
        return rng.multinomial(n - 1, np.full(n, 1 / n), size=count) / (n - 1)

    return Resamples(seeds=shares(seeds), groups=shares(groups))


def effect(
    differences: np.ndarray,
    group: np.ndarray,
    resamples: Resamples | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Effect:
    """Estimate the mean of differences over seeds and items.

    The bootstrap's standard error comes from resamples of seeds alone, of groups alone and of both. In the last, the
    variation particular to a seed and an item (luck of one answer) counts three times (Owen 2007, "The pigeonhole
    bootstrap"); the first two tell how large it is, so that it is counted once. The interval is the estimate plus
    or minus that error times a t quantile, whose degrees of freedom say how many seeds and groups the error itself
    was estimated from; or that of the seeds' means alone, if it is wider (`Variances.tests`). With one seed it speaks
    of that seed's models alone.

    Args:
        differences: finite values, shape (S, items).
        group: the group of each item, any labels, shape (items,).
        resamples: from `draw_resamples`, for these S and G; default: drawn by `seed`.
        level: of the interval.
        seed: of the default resamples.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or fewer than two groups.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(group) or not np.isfinite(values).all():
        raise ValueError(f"differences of shape {values.shape} with {len(group)} groups, or one that is not finite")
    _, of_item = np.unique(np.asarray(group), return_inverse=True)
    counts_G = np.bincount(of_item)
    totals_SG = np.stack([np.bincount(of_item, weights=row) for row in values])
    S, G = totals_SG.shape
    drawn = resamples or draw_resamples(S, G, np.random.default_rng(seed))
    even_S, even_G = np.full((1, S), 1 / S), np.full((1, G), 1 / G)

    def variance(seeds_RS: np.ndarray, groups_RG: np.ndarray) -> float:
        totals = ((seeds_RS @ totals_SG) * groups_RG).sum(axis=1)
        return float((totals / (groups_RG @ counts_G)).var())

    over_seeds, over_groups = variance(drawn.seeds, even_G), variance(even_S, drawn.groups)
    interaction = max(variance(drawn.seeds, drawn.groups) - over_seeds - over_groups, 0.0) if S > 1 else 0.0
    variances = Variances(over_seeds=over_seeds, over_groups=over_groups, interaction=interaction, seeds=S, groups=G)
    estimate = float(values.mean())
    reach = max(error * float(stats.t.ppf((1 + level) / 2, degrees)) for error, degrees in variances.tests())
    p_value = max(two_sided(estimate, error, degrees) for error, degrees in variances.tests())
    return Effect(
        estimate=estimate,
        low=estimate - reach,
        high=estimate + reach,
        level=level,
        variances=variances,
        p_value=p_value,
        p_adjusted=p_value,
        items=values.shape[1],
    )


def compare_arms(
    scores: Mapping[str, Mapping[int, np.ndarray]],
    against: Mapping[int, np.ndarray] | np.ndarray,
    group: np.ndarray,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Effect]:
    """Compare arms with one other thing: an arm, seed by seed, or a model that has no seeds.

    All comparisons use the same resamples, and their p-values are corrected together (Holm 1979). Arms that share
    no seed with the other side are left out.

    Args:
        scores: of each arm and seed, the value of every item, shape (items,).
        against: of each seed, or of the model without seeds, the same.
        group: the group of each item, shape (items,).
        level: of the intervals.
        seed: of the resamples.
    """
    groups = len(np.unique(group))
    resamples: dict[int, Resamples] = {}
    found: dict[str, Effect] = {}
    for name, by_seed in scores.items():
        shared = sorted(set(by_seed) & set(against)) if isinstance(against, Mapping) else sorted(by_seed)
        if not shared:
            continue
        other = [against[s] if isinstance(against, Mapping) else against for s in shared]
        if len(shared) not in resamples:
            resamples[len(shared)] = draw_resamples(len(shared), groups, np.random.default_rng(seed))
        differences = np.stack([by_seed[s] for s in shared]) - np.stack(other)
        found[name] = effect(differences, group, resamples[len(shared)], level=level)
    adjusted = holm([one.p_value for one in found.values()])
    return {name: replace(one, p_adjusted=p) for (name, one), p in zip(found.items(), adjusted, strict=True)}


def detectable(effects: Sequence[Effect], level: float = 0.95) -> float:
    """Return the smallest true effect that a study of these comparisons finds with probability `POWER`.

    Found means significant at Holm's first step, as the only arm that differs has to be. Variances are pooled over
    the arms, because that of one arm with few seeds is mostly luck.

    Raises:
        ValueError: no effects, or of different numbers of seeds or groups.
    """
    designs = {(one.variances.seeds, one.variances.groups) for one in effects}
    if len(designs) != 1:
        raise ValueError(f"effects of {len(designs)} designs")
    ((seeds, groups),) = designs
    of_arms = [one.variances for one in effects]
    pooled = Variances(
        over_seeds=float(np.mean([one.over_seeds for one in of_arms])),
        over_groups=float(np.mean([one.over_groups for one in of_arms])),
        interaction=float(np.mean([one.interaction for one in of_arms])),
        seeds=seeds,
        groups=groups,
    )
    return pooled.smallest_effect((1 - level) / len(effects))


def two_sided(estimate: float, error: float, degrees: float) -> float:
    """Return the p-value of a t test of no difference."""
    if error == 0:  # all differences equal: no resample shows anything else
        return float(estimate == 0)
    return 2 * float(stats.t.sf(abs(estimate) / error, degrees))


def standard_errors_seen(degrees: float, alpha: float) -> float:
    """Return the effect, in standard errors, that a two-sided t test at `alpha` finds with probability `POWER`."""
    critical = float(stats.t.isf(alpha / 2, degrees))
    highest = 10 + critical * float(np.sqrt(stats.chi2.ppf(0.99, degrees) / degrees))
    return float(optimize.brentq(lambda size: stats.nct.sf(critical, degrees, size) - POWER, 0, highest))
