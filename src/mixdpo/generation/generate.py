"""A model's answers to a prompt set, drawn turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mixdpo.common.errors import InputError
from mixdpo.generation.chat_model import ChatModel, Progress
from mixdpo.generation.endpoint import Completion, Request
from mixdpo.generation.prompts import Prompt

MT_BENCH_TEMPERATURES: Final = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""At which temperature a model answers the questions of each category of MT-Bench; 0.7 for others."""
MT_BENCH_MAX_NEW_TOKENS: Final = 1024
_LONGEST: Final = 2048
_ONE_TOKEN: Final = " the"


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How answers are drawn."""

    max_new_tokens: int | None = field(
        default=None, metadata={"help": "longest answer, in tokens; null: 2,048, for MT-Bench its own 1,024"}
    )
    temperature: float | None = field(
        default=None, metadata={"help": "0: the likeliest token each time; null: 0, for MT-Bench its own by category"}
    )
    top_p: float | None = field(default=None, metadata={"help": "share of probability that is sampled from"})
    seed: int = field(default=0, metadata={"help": "seed of the sampling"})

    def __post_init__(self) -> None:
        for name, value, wrong in (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens is not None and self.max_new_tokens < 1),
            ("temperature", self.temperature, self.temperature is not None and not 0 <= self.temperature < 100),
            ("top_p", self.top_p, self.top_p is not None and not 0 < self.top_p <= 1),
        ):
            if wrong:
                raise InputError(f"generation setting {name} is {value}")

    def settled(self, prompts: Sequence[Prompt]) -> GenerationSettings:
        """Return the settings for these prompts: with a longest answer, and a temperature or None for MT-Bench's."""
        mt_bench = all(len(prompt.turns) == 2 and prompt.category in MT_BENCH_TEMPERATURES for prompt in prompts)
        return replace(
            self,
            max_new_tokens=self.max_new_tokens or (MT_BENCH_MAX_NEW_TOKENS if mt_bench else _LONGEST),
            temperature=0.0 if self.temperature is None and not mt_bench else self.temperature,
        )

    def request(self, prompt: Prompt, answers: Sequence[str]) -> Request:
        """Return the call for the turn of a prompt that comes after these answers; of settled settings."""
        messages = list(prompt.history)
        for turn, answer in zip(prompt.turns, answers, strict=False):
            messages += [("user", turn), ("assistant", answer)]
        messages.append(("user", prompt.turns[len(answers)]))
        temperature = MT_BENCH_TEMPERATURES[prompt.category or ""] if self.temperature is None else self.temperature
        return Request(
            messages=tuple(messages),
            max_tokens=self.max_new_tokens or _LONGEST,
            temperature=temperature,
            top_p=self.top_p,
            seed=self.seed if temperature > 0 else None,
        )


@dataclass(frozen=True)
class Generation:
    """One prompt's answers, a reply for each turn; the last one failed if turns are missing."""

    prompt: Prompt
    replies: tuple[Completion, ...]

    @property
    def failure(self) -> str | None:
        """Why there is no whole answer."""
        return self.replies[-1].failure


def generate(
    prompts: Sequence[Prompt],
    chat_model: ChatModel,
    settings: GenerationSettings,
    progress: Callable[[str], Progress] | None = None,
) -> list[Generation]:
    """Answer every prompt, all first turns before all second ones, which see the model's own first answers.

    Args:
        prompts: what to answer.
        chat_model: who answers.
        settings: how.
        progress: makes a function of (answers done, answers in all) for a turn of that name.
    """
    settings = settings.settled(prompts)
    drawn: list[tuple[Completion, ...]] = [()] * len(prompts)
    for turn in range(max(len(prompt.turns) for prompt in prompts)):
        going = [
            index
            for index, prompt in enumerate(prompts)
            if len(prompt.turns) > turn and not any(reply.failure for reply in drawn[index])
        ]
        if not going:
            break
        requests = [settings.request(prompts[index], [one.text for one in drawn[index]]) for index in going]
        show = progress(f"answers of {chat_model.name}" + (f", turn {turn + 1}" if turn else "")) if progress else None
        for index, reply in zip(going, chat_model.complete(requests, show), strict=True):
            drawn[index] = (*drawn[index], reply)
    return [Generation(prompt, replies) for prompt, replies in zip(prompts, drawn, strict=True)]


def planned_requests(prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Request]:
    """Return a request for every turn, for an estimate: in later ones a longest answer stands for the earlier ones."""
    settings = settings.settled(prompts)
    longest = _ONE_TOKEN * (settings.max_new_tokens or _LONGEST)
    return [settings.request(prompt, [longest] * turn) for prompt in prompts for turn in range(len(prompt.turns))]
