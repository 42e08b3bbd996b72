"""Plans: in which order each pair is trained, and with which objective.

A plan is a table with one row per pair of a data set. MixDPO is the default plan; DPO, curriculum DPO,
Selective DPO, SFT on the chosen answers and the reversed schedules are other settings of the same function.
Source of the method: "Small-Margin Preferences Still Matter - If You Train Them Right" (arXiv 2602.00954).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.common.notebook import notebook_html
from mixdpo.data.arrays import data_fingerprint
from mixdpo.data.training_columns import LABEL_PROBABILITY, says_how_to_train
from mixdpo.plan.advice import Advice
from mixdpo.plan.agreement_curve import AgreementCurve
from mixdpo.plan.epochs import rows_of_epoch
from mixdpo.plan.order import positions
from mixdpo.plan.plan_settings import BUCKETS, ROUTES, Order, PlanSettings, Route
from mixdpo.plan.plan_table import route_table

if TYPE_CHECKING:
    import pandas as pd

    from mixdpo.data.pair_dataset import PairDataset

FORMAT_VERSION: Final = 1
_OPTIONAL: Final = ("weight", "label_probability", "stages_before")
"""Columns of a stored plan that only some have."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One row per pair, in the order of the data set; all arrays have shape (N,).

    Attributes:
        margin: float64, larger = easier; NaN where the settings need no margin and the data has none.
        quantile: float64 in [0, 1], rank of the margin: 0 = easiest, 1 = hardest; ties share their mean rank.
        bucket: int8 index into `BUCKETS`, thirds by quantile; -1 without margins.
        route: int8 index into `ROUTES`.
        position: int64, 0 = trained first; dropped pairs come last and are never trained.
        settings: what the plan was made from.
        fingerprint: `data_fingerprint` of the data set it belongs to.
        threshold_margin: the margin at the threshold (the largest one routed as hard), None if none is, or where the
            hard pairs are not those of the smallest margins.
        curve: what `threshold: auto` or `label_probability: agreement` was read from, None without.
        weight: float64 at least 0, factor of each pair's loss; None: all 1.
        label_probability: float64 in [0, 1], probability that a pair's label is right; None: all 1.
        stages_before: int64, in how many stages before this one each pair was; None: the plan is not of a stage.
        advice: that its routes follow; None: the threshold alone decides.
        origins: which pairs these are: `pair_id`, `row` (of the file, from 1), `file` if there are several; None for a
            plan that an early version stored.
    """

    margin: np.ndarray
    quantile: np.ndarray
    bucket: np.ndarray
    route: np.ndarray
    position: np.ndarray
    settings: PlanSettings
    fingerprint: str
    threshold_margin: float | None
    curve: AgreementCurve | None = None
    weight: np.ndarray | None = None
    label_probability: np.ndarray | None = None
    stages_before: np.ndarray | None = None
    advice: Advice | None = None
    origins: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.position)

    def __repr__(self) -> str:
        routes = ", ".join(f"{record['pairs']:,} {record['route']}" for record in self.summary())
        return f"<Plan of {len(self):,} pairs, {self.settings.order}: {routes}>"

    def _repr_html_(self) -> str:
        """Show the pairs by route in a notebook."""
        return notebook_html(f"Plan: {self.settings.order}, {len(self):,} pairs", route_table("", self.summary()))

    @property
    def is_hard(self) -> np.ndarray:
        """Bool, shape (N,): the pairs that the threshold routed away; none when both routes are the same."""
        hard, easy = self.settings.hard_route, self.settings.easy_route
        return (self.route == ROUTES.index(hard)) & (hard != easy)

    @property
    def compared_pairs(self) -> int:
        """Number of pairs that have a preference loss."""
        return int(np.isin(self.route, [ROUTES.index(route) for route in ("preference", "both", "tie")]).sum())

    @property
    def tie_share(self) -> float:
        """Share of ties among the pairs that have a preference loss, 0 if there are none."""
        return float((self.route == ROUTES.index("tie")).sum() / max(self.compared_pairs, 1))

    def kept_rows(self, present: np.ndarray | None = None) -> np.ndarray:
        """Return the rows neither dropped nor absent (`present`: bool, shape (N,)), in the plan's order; int64."""
        rows = np.argsort(self.position, kind="stable")[: int((self.route != ROUTES.index("drop")).sum())]
        return rows if present is None else rows[present[rows]]

    def epoch_rows(self, epoch: int, epochs: int, present: np.ndarray | None = None) -> np.ndarray:
        """Return the rows trained in one epoch, in order; int64, shape (pairs of an epoch,).

        These are the pairs neither dropped nor absent; under `refill` they are repeated until they are as many as all
        that are present. `per_epoch` repeats the same order, except that a `shuffled` plan is shuffled anew from the
        second epoch on. `staged` takes the concatenation of `epochs` rounds of the part that comes first and `epochs`
        rounds of the rest, and cuts it into epochs of equal length; `pacing` cuts `epochs` rounds of all, drawn from
        a pool that grows. `present` (bool, shape (N,)) leaves out rows that cannot be trained, such as those too
        long for the model.
        """
        rows = self.kept_rows(present)
        return rows_of_epoch(rows, self.is_hard[rows], self.settings, epoch, epochs, self.epoch_length(present))

    def epoch_length(self, present: np.ndarray | None = None) -> int:
        """Return how many pairs an epoch trains, one that comes twice counted twice."""
        if not self.settings.refill:
            return len(self.kept_rows(present))
        return len(self) if present is None else int(present.sum())

    def in_order(self, order: Order) -> Plan:
        """Return the plan of the same pairs and routes in another order, the one that `make_plan` would give them."""
        settings = replace(self.settings, order=order)
        dropped = self.route == ROUTES.index("drop")
        return replace(self, settings=settings, position=positions(settings, self.margin, self.is_hard, dropped))

    def rerouted(self, pairs: np.ndarray, route: Route) -> Plan:
        """Return the plan with some pairs (bool, shape (N,)) on another route, dropped ones last in its order."""
        routes = np.where(pairs, ROUTES.index(route), self.route).astype(np.int8)
        rows = np.lexsort((self.position, routes == ROUTES.index("drop")))
        position = np.empty(len(self), dtype=np.int64)
        position[rows] = np.arange(len(self))
        return replace(self, route=routes, position=position)

    def check_belongs_to(self, dataset: PairDataset) -> None:
        """Raise `InputError` unless the plan was made from exactly these pairs in this order."""
        if len(dataset) != len(self):
            raise InputError(
                f"the plan has {len(self):,} pairs and the data {len(dataset):,}: it was made from other data",
                hint="make the plan anew with `mixdpo plan` from the same data and data settings",
            )
        if data_fingerprint(dataset) != self.fingerprint:
            raise InputError(
                "the plan was made from other data (same number of pairs, other content or order)",
                hint="make the plan anew with `mixdpo plan` from the same data and data settings",
            )

    def unread(self, dataset: PairDataset) -> str | None:
        """Return one line on what the data says of training and the plan does not read; None if that is nothing."""
        settings = self.settings
        by_column = dict(settings.threshold) if isinstance(settings.threshold, Mapping) else {}
        read = {f"weight/{settings.weight}", by_column.get("column")}
        read |= {LABEL_PROBABILITY} if settings.label_probability == "column" else set()
        unread = [name for name in dataset.column_names if says_how_to_train(name) and name not in read]
        if not unread:
            return None
        return f"in the data and not read: {', '.join(unread)} (see plan.weight, label_probability, threshold)"

    def optional(self) -> dict[str, np.ndarray]:
        """Return weight, label_probability and stages_before, those that the plan has; shape (N,)."""
        values = {name: getattr(self, name) for name in _OPTIONAL}
        return {name: one for name, one in values.items() if one is not None}

    def place_of(self, index: int) -> dict[str, Any]:
        """Return `row` and, where several files were read, `file` of a pair, as an `InputError` takes them."""
        origin = {} if self.origins is None else self.origins.slice(index, 1).to_pylist()[0]
        return {"row": origin.get("row", index + 1), "file": origin.get("file")}

    def to_table(self) -> pa.Table:
        """Return the columns of `origins`, margin, quantile, bucket, route, position, and those of `optional`.

        Its metadata are the settings.
        """
        pairs = pa.table({}) if self.origins is None else self.origins
        table = pa.table(
            {
                **dict(zip(pairs.column_names, pairs.columns, strict=True)),
                "margin": pa.array(self.margin, from_pandas=True),
                "quantile": pa.array(self.quantile, from_pandas=True),
                "bucket": pa.array(BUCKETS).take(pa.array(self.bucket, mask=self.bucket < 0)),
                "route": pa.array(ROUTES).take(pa.array(self.route)),
                "position": self.position,
                **self.optional(),
            }
        )
        description = {
            "version": FORMAT_VERSION,
            "settings": asdict(self.settings),
            "fingerprint": self.fingerprint,
            "threshold_margin": self.threshold_margin,
            "curve": None if self.curve is None else asdict(self.curve),
            **({} if self.advice is None else {"advice": self.advice.to_dict()}),
        }
        return table.replace_schema_metadata({"mixdpo.plan": json.dumps(description)})

    def to_pandas(self) -> pd.DataFrame:
        """Return the table as a pandas DataFrame."""
        return self.to_table().to_pandas()

    def save(self, path: str | Path) -> None:
        """Write the plan as parquet, atomically."""
        with atomic_path(path) as temporary:
            pq.write_table(self.to_table(), temporary)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan written by `save`; `InputError` if the file is missing, broken or not a plan."""
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise InputError("no such file", file=path, hint="make one with `mixdpo plan`") from None
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"not a readable parquet file ({error})", file=path) from error
        metadata = (table.schema.metadata or {}).get(b"mixdpo.plan")
        if metadata is None:
            raise InputError("a parquet file, but not a plan", file=path, hint="make one with `mixdpo plan`")
        description = json.loads(metadata)
        if description["version"] != FORMAT_VERSION:
            raise InputError(
                f"a plan of format {description['version']}, this version reads {FORMAT_VERSION}",
                file=path,
                hint="make the plan anew with `mixdpo plan`",
            )
        curve, advice = description.get("curve"), description.get("advice")
        return cls(
            margin=table["margin"].to_numpy(zero_copy_only=False).astype(np.float64),
            quantile=table["quantile"].to_numpy(zero_copy_only=False).astype(np.float64),
            bucket=pc.index_in(table["bucket"], pa.array(BUCKETS)).fill_null(-1).to_numpy().astype(np.int8),
            route=pc.index_in(table["route"], pa.array(ROUTES)).to_numpy().astype(np.int8),
            position=table["position"].to_numpy(),
            settings=PlanSettings(**description["settings"]),
            fingerprint=description["fingerprint"],
            threshold_margin=description["threshold_margin"],
            curve=None if curve is None else AgreementCurve.from_dict(curve),
            **{name: table[name].to_numpy() for name in _OPTIONAL if name in table.column_names},
            advice=None if advice is None else Advice.from_dict(advice),
            origins=_origins(table),
        )

    def summary(self) -> list[dict[str, Any]]:
        """Return one record per route: pairs, share of all pairs, and smallest, mean and largest margin.

        Of a plan with weights or label probabilities also `weight_mean` and `label_probability_mean`.
        """
        averaged = [name for name in ("weight", "label_probability") if name in self.optional()]
        records = []
        for code, route in enumerate(ROUTES):
            mask = self.route == code
            if not mask.any():
                continue
            margins = self.margin[mask]
            known = margins[~np.isnan(margins)]
            records.append(
                {
                    "route": route,
                    "pairs": int(mask.sum()),
                    "share": float(mask.mean()),
                    "margin_min": float(known.min()) if len(known) else None,
                    "margin_mean": float(known.mean()) if len(known) else None,
                    "margin_max": float(known.max()) if len(known) else None,
                    **{f"{name}_mean": float(self.optional()[name][mask].mean()) for name in averaged},
                }
            )
        return records

    def mean_by_route(self, values: np.ndarray) -> dict[str, tuple[float, int]]:
        """Return, by route, the mean of a number of each pair and of how many pairs that is.

        Args:
            values: float64 of shape (N,), NaN where not known; a route of which nothing is known has the mean NaN.
        """
        means: dict[str, tuple[float, int]] = {}
        for code, route in enumerate(ROUTES):
            known = values[(self.route == code) & ~np.isnan(values)]
            means[route] = (float(known.mean()) if len(known) else np.nan, len(known))
        return means


def _origins(table: pa.Table) -> pa.Table | None:
    """Return which pairs a stored plan is of; early ones have a column `row`, which is no row of a file."""
    if "pair_id" not in table.column_names:
        return None
    return table.select([name for name in ("pair_id", "row", "file") if name in table.column_names])
