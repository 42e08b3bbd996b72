"""Filling judge prompts: each placeholder once, in one pass, whatever braces or placeholders the answers hold."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mixdpo.errors import InputError


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace `{name}` for every name of `values`; all other braces stay as they are.

    Raises:
        InputError: the template lacks one of the placeholders.
    """
    for name in values:
        if f"{{{name}}}" not in template:
            raise InputError(f"the judge prompt has no place {{{name}}}")
    places = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return places.sub(lambda match: values[match.group()[1:-1]], template)
