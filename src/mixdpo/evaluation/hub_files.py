"""Public files that a benchmark's definition needs, fetched from the hub and, where their hash is known, checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixdpo.common.errors import InputError
from mixdpo.common.hub import from_hub


@dataclass(frozen=True)
class HubFile:
    """One file of a data set or a space on the hub; `option` is how a person gives a copy instead."""

    repository: str
    revision: str
    name: str
    sha256: str | None
    option: str
    kind: Literal["dataset", "space"] = "dataset"
    instead: str | None = None


def fetch(wanted: HubFile) -> Path:
    """Return a local copy of a hub file, downloaded if need be.

    Raises:
        InputError: it is not in the cache and the hub does not give it, or its content is not the published one.
    """
    from huggingface_hub import hf_hub_download

    what = "data set" if wanted.kind == "dataset" else wanted.kind
    try:
        with from_hub(wanted.repository, what, kind=wanted.kind, revision=wanted.revision):
            found = Path(
                hf_hub_download(wanted.repository, wanted.name, repo_type=wanted.kind, revision=wanted.revision)
            )
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, InputError) else f"the {what} {wanted.repository} has no such file"
        raise InputError(
            f"{wanted.name} is needed: {reason}",
            hint=f"or give a copy with {wanted.option} FILE" + (f", {wanted.instead}" if wanted.instead else ""),
        ) from error
    if wanted.sha256 is not None and hashlib.sha256(found.read_bytes()).hexdigest() != wanted.sha256:
        raise InputError(
            f"not the published {wanted.name} (its sha256 differs)", file=found, hint="delete it and fetch it again"
        )
    return found
