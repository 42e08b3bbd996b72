"""Mappings with a value changed somewhere within."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def with_values(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with values at paths such as `worlds/words/cells`; None takes a key away."""
    result = copy.deepcopy(dict(content))
    for path, value in changes.items():
        *parents, key = path.split("/")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
        if value is None:
            del target[key]
        else:
            target[key] = value
    return result
