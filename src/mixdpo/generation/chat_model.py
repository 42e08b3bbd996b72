"""What a chat model is asked and what it writes: `EndpointModel`, or `LocalModel` on this machine; both cache it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from mixdpo.data.reasoning import split_reasoning

USED_UP: Final = "the reasoning used up the longest answer (max_new_tokens)"
ONLY_REASONING: Final = "the model ended its turn within its reasoning"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a chat model. Its fields are part of the keys of cached completions."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) of each message."""
    max_tokens: int
    temperature: float | None
    """None sends none: some models take only their own."""
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    sample: int = 0
    """Which of several answers to the messages this is; each has a seed of its own."""
    top_logprobs: int | None = None
    """Likeliest first tokens to return with their log-probabilities."""
    chat_template_kwargs: str | None = None
    """What the chat template is told about this prompt besides the model's own settings, JSON text of a mapping."""


def first_sample(request: Request) -> Request:
    """Return the request for the first of several answers, which is the same for all of them."""
    seed = None if request.seed is None else request.seed - request.sample
    return replace(request, sample=0, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a chat model wrote, or the failure that it is missing for."""

    text: str = ""
    """The answer. Caches hold it together with its reasoning, as the model wrote it; see `without_reasoning`."""
    reasoning: str | None = None
    """What the model thought before its answer; None if nothing."""
    finished: bool = False
    """Whether the model ended its turn; if not, the text is cut at the longest answer."""
    first_token: tuple[tuple[str, float], ...] = ()
    """Likeliest first tokens and their log-probabilities at temperature 1, where they were asked for. Empty where the
    first token is one of the reasoning."""
    model: str = ""
    """Name of the model as an endpoint gives it, often with a date."""
    tokens_in: int = 0
    """Tokens of the prompt."""
    tokens_out: int = 0
    """Tokens written, without the one that ended the turn where the model is on this machine. 0 where an endpoint does
    not say it, or only of several answers together."""
    reasoning_tokens: int = 0
    """Those of them that are not the answer's; 0 where an endpoint does not say it."""
    entropy: float | None = None
    """Of the distributions that its tokens were chosen from, with the one that ended the turn, the mean in nats; None
    where it was not measured."""
    failure: str | None = None
    """Why there is no completion after all tries."""

    @property
    def no_answer(self) -> str | None:
        """Why a model that was not prevented wrote no answer; None if it wrote one."""
        if self.failure is not None or self.text.strip() or (self.finished and self.reasoning is None):
            return None
        return ONLY_REASONING if self.finished else USED_UP

    def without_reasoning(self, opened: bool = False) -> Completion:
        """Return the completion with its reasoning apart from its text; `opened`: the prompt ends within reasoning."""
        reasoning, answer = split_reasoning(self.text, opened)
        if answer == self.text and not opened:
            return self
        thoughts = "\n\n".join(filter(None, (self.reasoning, reasoning))) or None
        return replace(self, text=answer, reasoning=thoughts, first_token=())

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
