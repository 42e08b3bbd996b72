"""What all pages share: one HTML file that needs nothing else, and into which no text gets as markup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mixdpo.common import charts


def render_page(room: str, name: str, data: Any, values: Mapping[str, Any], drawing: Mapping[str, Any]) -> str:
    """Return the page of the template `<name>.html` with `page.css` and `<name>.css`, `page.js` and `<name>.js`.

    Args:
        room: package whose folder `templates` holds the template, such as `mixdpo.auditing`.
        name: of the template.
        data: JSON for the script; texts in it must only ever be set as text.
        values: for the template, which escapes them.
        drawing: functions that return safe markup.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room), PackageLoader("mixdpo.common")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": charts.number, "fixed": charts.fixed, "percent": charts.percent}
    environment.globals |= drawing
    return environment.get_template(f"{name}.html").render(
        **values,
        style=_asset("mixdpo.common", "page.css") + _asset(room, f"{name}.css"),
        script=_asset("mixdpo.common", "page.js") + _asset(room, f"{name}.js"),
        data=embedded(data),
    )


def embedded(value: Any) -> Markup:
    """Return JSON that is safe inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _asset(room: str, name: str) -> Markup:
    return Markup((files(room) / "templates" / name).read_text(encoding="utf-8"))
