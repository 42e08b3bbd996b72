"""What share of the learning rates the SFT part of a sorted run gets, by the project's own schedule."""

from __future__ import annotations

import numpy as np

from map_answers import Table
from mixdpo.common.tables import TextTable, as_markdown
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.schedule import StepPlan, learning_rate_factors, mass_by_route

ULTRAFEEDBACK_PAIRS, ULTRAFEEDBACK_BATCH = 61_135, 160
ULTRAFEEDBACK_UNDER = {0.5: 7_387, 1.0: 18_653, 1.5: 30_652}
"""Pairs of UltraFeedback whose ratings are less apart than that."""


def schedule_block(table: Table) -> str:
    """Where SFT begins in a sorted run and what it gets of all learning rate: for UltraFeedback and for the map."""
    # As published, the last step of fewer pairs is left out, which are hard ones.
    left_over = ULTRAFEEDBACK_PAIRS % ULTRAFEEDBACK_BATCH
    cases = [
        (
            f"UltraFeedback, margins under {margin:g}",
            ULTRAFEEDBACK_PAIRS - left_over,
            hard - left_over,
            ULTRAFEEDBACK_BATCH,
        )
        for margin, hard in ULTRAFEEDBACK_UNDER.items()
    ]
    cases += [
        (
            f"a cell of {100 * share:.0f} % hard pairs",
            table["pairs"],
            round(share * table["pairs"]),
            table["batch_size"],
        )
        for share in sorted({cell["hard_share"] for cell in table["cells"]})
    ]
    rows = []
    for name, pairs, hard, batch in cases:
        first, factors, mass = sft_mass(pairs, hard, batch)
        shares = (f"{100 * share:.1f} %" for share in (hard / pairs, factors[first], mass))
        of_pairs, rate, of_all = shares
        rows.append((name, of_pairs, f"{first + 1} of {len(factors)}", rate, of_all))
    headings = ("pairs", "to SFT", "from step", "rate there, of the peak", "of all learning rate")
    return as_markdown(TextTable("", headings, rows)).rstrip()


def sft_mass(pairs: int, hard: int, batch: int) -> tuple[int, np.ndarray, float]:
    """Return the first step with SFT, every step's rate over the peak, and SFT's share of all learning rate.

    Of one epoch from easy to hard with the hard pairs to SFT, under the default schedule: a cosine with 10 % warm-up
    over both parts, as published.
    """
    route = np.where(np.arange(pairs) < pairs - hard, ROUTES.index("preference"), ROUTES.index("sft"))
    rows = [np.arange(start, min(start + batch, pairs)) for start in range(0, pairs, batch)]
    share = np.array([np.bincount(route[of_step], minlength=len(ROUTES)) / len(of_step) for of_step in rows])
    steps = StepPlan(rows=rows, route_share=share, route_weight=share, phases=[len(rows)])
    factors = learning_rate_factors(MixDPOConfig(output_dir="unused", use_cpu=True, bf16=False), [len(steps)])
    first = int(np.flatnonzero(share[:, ROUTES.index("sft")])[0])
    return first, factors, mass_by_route(steps, factors)["sft"]
