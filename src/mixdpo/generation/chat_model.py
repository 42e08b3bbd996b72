"""What answers requests: `EndpointModel`, or `LocalModel` on this machine. Both cache finished completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mixdpo.generation.completion import Completion, Request

Progress = Callable[[int, int], None]
"""Called with how many completions (or verdicts) are done, and how many there are in all."""


class ChatModel(Protocol):
    """A model that answers requests; what it answered before is not computed or paid for again."""

    @property
    def name(self) -> str:
        """The model's name."""

    def estimate(self, requests: Sequence[Request]) -> str:
        """Say what the completions would take at most."""

    def complete(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        """Return a completion for every request, in order; one that cannot be given says why."""

    def record(self) -> dict[str, Any]:
        """Return the settings that a result names; no credentials."""
