"""A model's answers to a prompt set, turn by turn, one or several to a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from mixdpo.common.errors import InputError
from mixdpo.generation.chat_model import ChatModel, Completion, Progress, Request
from mixdpo.generation.generation_settings import TEMPERATURE_OF_SAMPLES, GenerationSettings
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
    """An answer to a prompt, a completion for each turn; the last one failed if turns are missing.

    Attributes:
        prompt: what was answered.
        completions: of its turns.
        sample: which of the answers to the prompt this is, from 0.
        seed: that it was sampled with; None of a greedy answer.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    sample: int = 0
    seed: int | None = None

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

    Returns:
        All samples of the first prompt, then those of the second, and so on.

    Raises:
        InputError: there are to be several answers to a prompt of several turns.
    """
    settings = settings_for(prompts, settings)
    generations = [
        Generation(prompt, (), sample, _seed(prompt, sample, settings))
        for prompt, sample in product(prompts, range(settings.samples))
    ]
    for turn in range(max(len(prompt.turns) for prompt in prompts)):
        going = [
            index
            for index, one in enumerate(generations)
            if len(one.prompt.turns) > turn and not any(each.failure for each in one.completions)
        ]
        if not going:
            break
        requests = [_request(generations[index], settings) for index in going]
        show = progress(f"answers of {chat_model.name}" + (f", turn {turn + 1}" if turn else "")) if progress else None
        for index, completion in zip(going, chat_model.complete(requests, show), strict=True):
            before = generations[index]
            generations[index] = replace(before, completions=(*before.completions, completion))
    return generations


def planned_requests(prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Request]:
    """Return a request for every turn, for an estimate: in later ones a longest answer stands for the earlier ones."""
    settings = settings_for(prompts, settings)
    longest = Completion(text=_ONE_TOKEN * (settings.max_new_tokens or _MAX_NEW_TOKENS))
    return [
        _request(Generation(prompt, (longest,) * turn, sample, _seed(prompt, sample, settings)), settings)
        for prompt, sample in product(prompts, range(settings.samples))
        for turn in range(len(prompt.turns))
    ]


def settings_for(prompts: Sequence[Prompt], settings: GenerationSettings) -> GenerationSettings:
    """Return the settings that hold for these prompts: with a longest answer, and a temperature but for MT-Bench's.

    Raises:
        InputError: there are to be several answers to a prompt of several turns, or answers are greedy and yet bounds
            for sampling are set.
    """
    talk = next((prompt for prompt in prompts if len(prompt.turns) > 1), None)
    if talk is not None and settings.samples > 1:
        raise InputError(
            f"{settings.samples} samples are of prompts with one turn; {talk.id_column} {talk.id} has "
            f"{len(talk.turns)}",
            hint="set samples to 1, or give the earlier turns as messages with the assistant's answers",
        )
    mt_bench = all(len(prompt.turns) == 2 and prompt.category in MT_BENCH_TEMPERATURES for prompt in prompts)
    temperature = settings.temperature
    if temperature is None and not mt_bench:
        temperature = TEMPERATURE_OF_SAMPLES if settings.samples > 1 else 0.0
    bound = "top_p" if settings.top_p is not None else "min_p"
    if temperature == 0 and getattr(settings, bound) is not None:
        raise InputError(
            f"generation setting {bound} has no effect on greedy answers", hint="set a temperature above 0"
        )
    longest = settings.max_new_tokens or (MT_BENCH_MAX_NEW_TOKENS if mt_bench else _MAX_NEW_TOKENS)
    return replace(settings, max_new_tokens=longest, temperature=temperature)


def _temperature(prompt: Prompt, settings: GenerationSettings) -> float:
    """Return the temperature that settings of `settings_for` give a prompt."""
    own = settings.temperature
    return MT_BENCH_TEMPERATURES[prompt.category or ""] if own is None else own


def _seed(prompt: Prompt, sample: int, settings: GenerationSettings) -> int | None:
    # Engines count the seeds of one call's answers in the same way, so that a single call gives the same answer.
    return settings.seed + sample if _temperature(prompt, settings) > 0 else None


def _request(so_far: Generation, settings: GenerationSettings) -> Request:
    """Return the request for the turn that comes after those answered so far; settings of `settings_for`."""
    prompt = so_far.prompt
    messages = list(prompt.history)
    for turn, answer in zip(prompt.turns, so_far.completions, strict=False):
        messages += [("user", turn), ("assistant", answer.text)]
    messages.append(("user", prompt.turns[len(so_far.completions)]))
    return Request(
        messages=tuple(messages),
        max_tokens=settings.max_new_tokens or _MAX_NEW_TOKENS,
        temperature=_temperature(prompt, settings),
        top_p=settings.top_p,
        min_p=settings.min_p,
        seed=so_far.seed,
        sample=so_far.sample,
        chat_template_kwargs=prompt.chat_template_kwargs,
    )
