"""A model's answers to a prompt set, turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mixdpo.generation.chat_model import ChatModel, Completion, Progress, Request
from mixdpo.generation.generation_settings import GenerationSettings
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
_MAX_NEW_TOKENS: Final = 2048
_ONE_TOKEN: Final = " the"


@dataclass(frozen=True)
class Generation:
    """One prompt's answers, a completion for each turn; the last one failed if turns are missing."""

    prompt: Prompt
    completions: tuple[Completion, ...]

    @property
    def failure(self) -> str | None:
        """Why there is no whole answer."""
        return self.completions[-1].failure

    @property
    def no_answer(self) -> str | None:
        """Why a turn has no answer though the model wrote something; None if all have one."""
        return next((why for one in self.completions if (why := one.no_answer) is not None), None)


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
    settings = settings_for(prompts, settings)
    written: list[tuple[Completion, ...]] = [()] * len(prompts)
    for turn in range(max(len(prompt.turns) for prompt in prompts)):
        going = [
            index
            for index, prompt in enumerate(prompts)
            if len(prompt.turns) > turn and not any(one.failure for one in written[index])
        ]
        if not going:
            break
        requests = [_request(prompts[index], [one.text for one in written[index]], settings) for index in going]
        show = progress(f"answers of {chat_model.name}" + (f", turn {turn + 1}" if turn else "")) if progress else None
        for index, completion in zip(going, chat_model.complete(requests, show), strict=True):
            written[index] = (*written[index], completion)
    return [Generation(prompt, completions) for prompt, completions in zip(prompts, written, strict=True)]


def planned_requests(prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Request]:
    """Return a request for every turn, for an estimate: in later ones a longest answer stands for the earlier ones."""
    settings = settings_for(prompts, settings)
    longest = _ONE_TOKEN * (settings.max_new_tokens or _MAX_NEW_TOKENS)
    return [_request(prompt, [longest] * turn, settings) for prompt in prompts for turn in range(len(prompt.turns))]


def settings_for(prompts: Sequence[Prompt], settings: GenerationSettings) -> GenerationSettings:
    """Return the settings that hold for these prompts: with a longest answer, and a temperature but for MT-Bench's."""
    mt_bench = all(len(prompt.turns) == 2 and prompt.category in MT_BENCH_TEMPERATURES for prompt in prompts)
    return replace(
        settings,
        max_new_tokens=settings.max_new_tokens or (MT_BENCH_MAX_NEW_TOKENS if mt_bench else _MAX_NEW_TOKENS),
        temperature=0.0 if settings.temperature is None and not mt_bench else settings.temperature,
    )


def _request(prompt: Prompt, answers: Sequence[str], settings: GenerationSettings) -> Request:
    """Return the request for the turn of a prompt that comes after these answers; settings of `settings_for`."""
    messages = list(prompt.history)
    for turn, answer in zip(prompt.turns, answers, strict=False):
        messages += [("user", turn), ("assistant", answer)]
    messages.append(("user", prompt.turns[len(answers)]))
    own = settings.temperature
    temperature = MT_BENCH_TEMPERATURES[prompt.category or ""] if own is None else own
    return Request(
        messages=tuple(messages),
        max_tokens=settings.max_new_tokens or _MAX_NEW_TOKENS,
        temperature=temperature,
        top_p=settings.top_p,
        seed=settings.seed if temperature > 0 else None,
        chat_template_kwargs=prompt.chat_template_kwargs,
    )
