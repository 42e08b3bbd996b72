"""What to run after an audit: clean, plan, train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mixdpo.auditing.repairs import Repairs

CLEANED: Final = "cleaned.parquet"
"""The file that `mixdpo clean` writes where its `--output` says nothing else."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command, and what it is for."""

    purpose: str
    command: str


def next_steps(data: str, repairs: Repairs | None, metric: str | None, advice: Mapping[str, Any] | None) -> list[Step]:
    """Return the commands that lead from the audited data to a trained model.

    Args:
        data: words that name the data on the command line, with the options that say how they are read.
        repairs: what `mixdpo clean` does first, if anything is advised.
        metric: of the margins that a plan can be made from, None without margins.
        advice: on hard pairs, as the audit's figures have it.
    """
    steps = []
    if repairs is not None:
        steps.append(Step(purpose="Clean the data", command=repairs.command))
        data = CLEANED
    routes = {part["route"] for part in advice["parts"]} if advice and advice["problem"] is None else set()
    plan = "advised" if routes - {"preference"} else "dpo"
    words = f"{data} --plan {plan}"
    if plan != "dpo" and metric not in (None, "rating"):
        words += f" --plan.metric {metric}"
    purposes = {"advised": "Route the hard pairs as advised", "dpo": "Plan a preference loss on all pairs"}
    steps.append(Step(purpose=purposes[plan], command=f"mixdpo plan {words}"))
    smoothed = " --train.label_smoothing per_pair" if "smoothed" in routes else ""
    steps.append(Step(purpose="Train", command=f"mixdpo train {words}{smoothed} --model MODEL --output RUN"))
    return steps
