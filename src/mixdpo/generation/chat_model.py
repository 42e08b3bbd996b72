"""Who answers requests: an endpoint here, a model of this machine in `local`. Both keep finished replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from mixdpo.generation.endpoint import Completion, EndpointSettings, Request, complete_all, estimate

Progress = Callable[[int, int], None]
"""Called with (replies done, replies in all)."""


class ChatModel(Protocol):
    """Something that replies to requests; a reply that was given before is not computed or paid for again."""

    @property
    def name(self) -> str:
        """The model's name."""

    def estimate(self, requests: Sequence[Request]) -> str:
        """Say what the replies would take at most."""

    def complete(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        """Return a reply to every request, in order; one that cannot be given says why."""

    def record(self) -> dict[str, Any]:
        """Return the settings that a result names; no credentials."""


@dataclass(frozen=True)
class EndpointModel:
    """A model behind an OpenAI-compatible endpoint, which applies the chat template and the stop tokens itself.

    Attributes:
        settings: which model, and how it is called.
        replies: folder of finished replies; None for the one of all runs. A model that is trained further is served
            under one name again and again: its replies belong in a folder of their own.
    """

    settings: EndpointSettings
    replies: Path | None = None

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.settings.model

    def estimate(self, requests: Sequence[Request]) -> str:
        """Count the calls that are not cached, their tokens by a rule of thumb, and the cost if prices are known."""
        return str(estimate(requests, self.settings, self.replies))

    def complete(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        """Call the endpoint; see `complete_all`."""
        return complete_all(requests, self.settings, progress, self.replies)

    def record(self) -> dict[str, Any]:
        """Return the endpoint's settings; of the key only the variable's name."""
        return {"engine": "endpoint", **asdict(self.settings)}
