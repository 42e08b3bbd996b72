"""Who answers requests: an endpoint here, a model of this machine in `local`. Both keep finished replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mixdpo.evaluation.endpoint import EndpointSettings, Reply, Request, ask_all

Progress = Callable[[int, int], None]
"""Called with (replies done, replies in all)."""


class Asker(Protocol):
    """Something that replies to requests; a reply that was given before is not computed or paid for again."""

    @property
    def name(self) -> str:
        """The model's name."""

    def ask(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Reply]:
        """Return a reply to every request, in order; one that failed after all tries says why."""

    def record(self) -> dict[str, Any]:
        """Return the settings that a result names; no credentials."""


@dataclass(frozen=True)
class EndpointAsker:
    """A model behind an OpenAI-compatible endpoint."""

    settings: EndpointSettings

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.settings.model

    def ask(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Reply]:
        """Call the endpoint; see `ask_all`."""
        return ask_all(requests, self.settings, progress)

    def record(self) -> dict[str, Any]:
        """Return the endpoint's settings; of the key only the variable's name."""
        return {"engine": "endpoint", **asdict(self.settings)}
