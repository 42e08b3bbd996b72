"""The page of an audit: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mixdpo.report import charts


def audit_page(report: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Return the page of a report.

    Args:
        report: `AuditReport.to_dict()`.
        examples: pairs to show; their texts reach the page as data and are only ever set as text.
        titles: by finding, what to call it.
    """
    environment = Environment(
        loader=PackageLoader("mixdpo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": charts.number, "percent": charts.percent}
    environment.globals |= {
        "histogram": charts.histogram,
        "bars": charts.bars,
        "heat_map": charts.heat_map,
        "scatter": charts.scatter,
    }
    return environment.get_template("audit.html").render(
        report=report,
        titles=titles,
        style=_asset("audit.css"),
        script=_asset("audit.js"),
        data=embedded({"examples": examples, "titles": titles, "plan": report["plan"]}),
    )


def embedded(value: Any) -> Markup:
    """Return JSON that is safe inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _asset(name: str) -> Markup:
    return Markup((files("mixdpo.report") / "templates" / name).read_text(encoding="utf-8"))
