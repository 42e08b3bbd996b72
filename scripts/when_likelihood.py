"""How the log-probability of chosen answers changed, by how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mixdpo.common.tables import TextTable, as_markdown
from mixdpo.study.world.map_effects import PairedEffect, paired_effect
from mixdpo.study.world.map_format import interval, listed, signed


def likelihood_block(likelihood: Mapping[str, Any]) -> str:
    """By how many nats the chosen answers of each quality changed under a policy that never saw them."""
    of_worlds = [LikelihoodByQuality(one) for one in likelihood["worlds"]]
    most = max(len(one.changes) for one in of_worlds)
    rows = []
    for one in of_worlds:
        entries = [
            f"{_nats(change)} at {signed(height, 2)}" for height, change in zip(one.heights, one.changes, strict=True)
        ]
        trained = f"{_nats(one.easy)} at {signed(one.easy_height, 2)}"
        rows.append((one.world, *entries, *[""] * (most - len(entries)), trained))
    headings = ("world", "poorest answers", *[""] * (most - 2), "best answers", "pairs it was trained on")
    table = as_markdown(TextTable("", headings, rows)).rstrip()
    ordered = [one.world for one in of_worlds if one.rank_correlation > 0.99]
    right, count = (sum(values) for values in zip(*(one.right_signs for one in of_worlds), strict=True))
    return (
        f"{table}\n\nThe change orders the answers exactly by their quality in {listed(ordered) or 'no world'}. "
        f"Its sign says in {right} of {count} cells whether they are better than the policy."
    )


class LikelihoodByQuality:
    """The changes of log-probability in one world, on the scale of the figure."""

    def __init__(self, one: Mapping[str, Any]) -> None:
        level, start = float(np.mean(one["level"])), float(np.mean(one["start"]))
        self.world = one["world"]
        self.changes = [paired_effect(np.array(values)) for values in one["changes"]]
        self.heights = [(float(np.mean(values)) - level) / (level - start) for values in one["qualities"]]
        self.easy = paired_effect(np.array(one["easy_change"]))
        self.easy_height = (float(np.mean(one["easy_quality"])) - level) / (level - start)

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of quality and change."""
        return float(spearmanr(self.heights, [change.estimate for change in self.changes]).statistic)

    @property
    def right_signs(self) -> tuple[int, int]:
        """In how many cells the change has the sign of the surplus of quality, and how many cells there are."""
        agree = [height * change.estimate > 0 for height, change in zip(self.heights, self.changes, strict=True)]
        return sum(agree), len(agree)


def _nats(effect: PairedEffect) -> str:
    return interval((effect.estimate, effect.low, effect.high), 1)
