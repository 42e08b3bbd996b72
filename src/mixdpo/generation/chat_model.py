"""What a chat model is asked and what it writes: `EndpointModel`, or `LocalModel` on this machine; both cache it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a chat model. Its fields are part of the keys of cached completions."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) of each message."""
    max_tokens: int
    temperature: float | None
    """None sends none: some models take only their own."""
    top_p: float | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    """Likeliest first tokens to return with their log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a chat model wrote, or the failure that it is missing for."""

    text: str = ""
    finished: bool = False
    """Whether the model ended its turn; if not, the text is cut at the longest answer."""
    first_token: tuple[tuple[str, float], ...] = ()
    """Likeliest first tokens and their log-probabilities at temperature 1, where they were asked for."""
    model: str = ""
    """Name of the model as an endpoint gives it, often with a date."""
    tokens_in: int = 0
    """Tokens of the prompt."""
    tokens_out: int = 0
    """Tokens written, without the one that ended the turn where the model is on this machine."""
    failure: str | None = None
    """Why there is no completion after all tries."""

    @classmethod
    def of_stored(cls, stored: Mapping[str, Any]) -> Completion:
        """Return the completion that a cache holds as JSON, where a pair is a list."""
        likeliest = tuple((str(token), float(chance)) for token, chance in stored["first_token"])
        return cls(**{**stored, "first_token": likeliest})


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
