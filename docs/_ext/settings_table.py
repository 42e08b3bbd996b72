"""The directive `settings`: a table of the fields of a settings dataclass, with defaults and help.

.. settings:: mixdpo.plan.plan_settings.PlanSettings
"""

from __future__ import annotations

import importlib
from dataclasses import MISSING, Field, fields
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive


class SettingsTable(Directive):
    """Shows the fields that a person can set; of a subclass of others' settings only those with a help."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        module, _, name = self.arguments[0].rpartition(".")
        found = [field for field in fields(getattr(importlib.import_module(module), name)) if "help" in field.metadata]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (24, 22, 54)), cols=3)
        group += nodes.thead("", _row(*(nodes.Text(text) for text in ("setting", "default", "meaning"))))
        group += nodes.tbody("", *(_setting(field) for field in found if field.init))
        return [nodes.table("", group)]


def _setting(field: Field[Any]) -> nodes.row:
    if field.default is not MISSING:
        default = repr(field.default)
    else:
        default = "required" if field.default_factory is MISSING else repr(field.default_factory())
    return _row(nodes.literal("", field.name), nodes.literal("", default), nodes.Text(field.metadata["help"]))


def _row(*cells: nodes.Node) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("settings", SettingsTable)
    return {"parallel_read_safe": True}
