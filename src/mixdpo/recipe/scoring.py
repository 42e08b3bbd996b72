"""`score`: where the metric that trains models meets training.

All metrics stand in `difficulty/`, below `training/`. The one that trains is handed its training function here, and
only here, so that neither package knows the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixdpo.common.settings import unknown_key
from mixdpo.difficulty.metrics import add_margins, find_metric, metric_settings

if TYPE_CHECKING:
    from mixdpo.data.pair_dataset import PairDataset


def score(dataset: PairDataset, metric: str | Sequence[str] = "rating", **parameters: Any) -> PairDataset:
    """Return `dataset` with a column `margin/<metric>` per metric (float64, larger = easier), replaced if it exists.

    Args:
        dataset: pairs from `load_pairs`.
        metric: a key of `METRICS`, or several. `rating` is the score of the chosen minus that of the rejected answer.
        **parameters: of one metric the fields of its settings, such as ``score(pairs, "nll_gap", model="...")``; of
            several these fields by metric, such as ``score(pairs, ["rating", "nll_gap"], nll_gap={"model": "..."})``.
            Type checkers let any pass, as it hangs on the metric; a wrong name or value is refused when run.

    Raises:
        InputError: unknown metric or parameter, the data or the settings lack what a metric needs, or a margin is not
            a finite number.
    """
    if isinstance(metric, str):
        parameters = {metric: parameters}
    chosen = {name: find_metric(name) for name in ([metric] if isinstance(metric, str) else metric)}
    for name in parameters:
        if name not in chosen:
            raise unknown_key(f"metric {name} (of its parameters)", [f"metric {known}" for known in chosen])
    settings = {name: metric_settings(name, parameters.get(name, {})) for name in chosen}
    if not any(used.trains for used in chosen.values()):
        return add_margins(dataset, settings)
    from mixdpo.training.held_out import train_and_evaluate  # with PyTorch, so only where it is needed

    return add_margins(dataset, settings, train_and_evaluate)
