"""The result of an audit: figures, findings, flagged rows; and the files it is written to, the page among them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from mixdpo.auditing.checks import FINDING_TYPES
from mixdpo.auditing.findings import Finding
from mixdpo.auditing.findings_table import findings_table
from mixdpo.auditing.next_steps import Step
from mixdpo.auditing.page_rows import packed
from mixdpo.auditing.plan_preview import recommendation
from mixdpo.auditing.repairs import Repairs, repair_lines
from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path, check_output_folder, indented_json
from mixdpo.common.notebook import notebook_html

REPORT_VERSION: Final = 2
_WITHOUT_ORIGINS: Final = 1
"""The version whose flagged rows say the pair's place in the data alone, as `row`."""
PAGE, FIGURES, FLAGGED = "report.html", "report.json", "flagged.parquet"


@dataclass(frozen=True, eq=False)
class AuditReport:
    """What an audit found.

    Attributes:
        name: the data, as the user named it.
        fingerprint: `data_fingerprint` of the pairs.
        figures: every figure, by section: `overview`, `margins`, `quality`, `advice`, `plan`, `length`, `style`,
            `duplicates`, `near`, `leakage`, `noise`, `tokens`; None where there is nothing for it.
        findings: what needs a decision, most harmful first.
        repairs: the one command that applies what is advised, None where nothing is.
        flags: by finding, the group of each pair, -1 for none; int64 of shape (N,).
        origins: of each pair `pair_id`, `row` (of its file, from 1), `file` where there are several.
        next_steps: commands that lead from here to a trained model.
        examples: pairs to show.
        rows: all pairs, as `page_rows` has them.
        token_examples: pairs to show as tokens, none without a tokenizer.
        settings: what the audit was made with.
    """

    name: str
    fingerprint: str
    figures: dict[str, Any]
    findings: list[Finding]
    repairs: Repairs | None
    flags: dict[str, np.ndarray]
    origins: pl.DataFrame
    next_steps: list[Step]
    examples: list[dict[str, Any]]
    rows: dict[str, Any]
    token_examples: list[dict[str, Any]]
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return f"<AuditReport of {self._size()}: {', '.join(one.name for one in self.findings) or 'no finding'}>"

    def _repr_html_(self) -> str:
        """Show the findings in a notebook."""
        return notebook_html(
            f"Audit of {self._size()}",
            findings_table("", self.findings) if self.findings else "no finding",
            *([] if self.repairs is None else repair_lines(self.repairs.to_dict())),
            'Save the page with report.save("report"): figures, examples, and what to do about each finding.',
        )

    def _size(self) -> str:
        return f"{self.name}, {len(self.origins):,} pairs"

    def flagged(self) -> pl.DataFrame:
        """Return one row per pair and finding: the columns of `origins`, `finding`, `group`, `pair` (from 0)."""
        parts = []
        for name, group in self.flags.items():
            pairs = np.flatnonzero(group >= 0)
            part = self.origins[pairs].with_columns(pl.lit(name).alias("finding"))
            parts.append(part.with_columns(group=pl.Series(group[pairs], dtype=pl.Int64), pair=pl.Series(pairs)))
        return pl.concat(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return every figure and finding as plain values, for JSON."""
        return {
            "version": REPORT_VERSION,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "findings": [finding.to_dict() for finding in self.findings],
            "repairs": None if self.repairs is None else self.repairs.to_dict(),
            "flagged": {name: int((group >= 0).sum()) for name, group in self.flags.items()},
            "next_steps": [asdict(step) for step in self.next_steps],
            **self.figures,
        }

    def save(self, folder: str | Path) -> Path:
        """Write `report.html`, `report.json` and `flagged.parquet` into `folder`, and return the page's path."""
        folder = Path(folder)
        check_output_folder(folder)
        titles = {name: kind.title for name, kind in FINDING_TYPES.items()}
        page = audit_page(self.to_dict(), self.examples, titles, self.token_examples, self.rows)
        with ExitStack() as files:  # all are written before the first is moved to its place
            flagged, figures, shown = (
                files.enter_context(atomic_path(folder / name)) for name in (FLAGGED, FIGURES, PAGE)
            )
            self.flagged().write_parquet(flagged)
            figures.write_text(indented_json(self.to_dict()), encoding="utf-8")
            shown.write_text(page, encoding="utf-8")
        return folder / PAGE


def read_report(folder: str | Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Return the figures and the flagged pairs of a report.

    Raises:
        InputError: the folder holds no report of this version.
    """
    folder = Path(folder)
    try:
        figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        flagged = pl.read_parquet(folder / FLAGGED)
    except FileNotFoundError:
        raise InputError("the folder holds no report", file=folder, hint="make one with `mixdpo audit`") from None
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(f"the report cannot be read ({error})", file=folder, hint="make it anew") from error
    if figures.get("version") == _WITHOUT_ORIGINS:
        flagged = flagged.rename({"row": "pair"})
    elif figures.get("version") != REPORT_VERSION:
        raise InputError("the report is of another version", file=folder, hint="make it anew with `mixdpo audit`")
    return figures, flagged


def audit_page(
    report: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    token_examples: Sequence[Mapping[str, Any]] = (),
    rows: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of a report.

    Args:
        report: `AuditReport.to_dict()`.
        examples: pairs to show; their texts reach the page as data and are only ever set as text.
        titles: by finding, what to call it.
        token_examples: pairs to show as tokens.
        rows: all pairs; without them the page is searched by its examples alone.
    """
    from mixdpo.common import charts
    from mixdpo.common.pages import render_page

    return render_page(
        "mixdpo.auditing",
        "audit",
        {
            "examples": examples,
            "titles": titles,
            "plan": report["plan"],
            "rows": None if rows is None else packed(rows),
        },
        {
            "report": report,
            "titles": titles,
            "token_examples": token_examples,
            "recommended": None if report["plan"] is None else recommendation(report["plan"], report["advice"]),
        },
        {
            "histogram": charts.histogram,
            "bars": charts.bars,
            "heat_map": charts.heat_map,
            "scatter": charts.scatter,
        },
    )
