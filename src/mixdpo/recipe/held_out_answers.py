"""A model's answers to prompts that nothing was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mixdpo.common.errors import RunError
from mixdpo.generation.chat_model import ChatModel
from mixdpo.generation.generate import generate
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.generation.prompts import Prompt
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.compare_models import ShowProgress, answered

logger = logging.getLogger(__name__)


def answer_greedily(
    prompts: Sequence[Prompt],
    chat_model: ChatModel,
    settings: GenerationSettings,
    progress: ShowProgress | None = None,
) -> list[AnsweredPrompt]:
    """Return a model's likeliest answer to each prompt; one that failed is missing, and the log counts these.

    Args:
        prompts: of one turn each.
        chat_model: who answers.
        settings: of which the longest answer is read.
        progress: see `generate`.

    Raises:
        RunError: no prompt was answered.
    """
    generations = generate(prompts, chat_model, GenerationSettings(max_new_tokens=settings.max_new_tokens), progress)
    failures = [one.failure for one in generations if one.failure is not None]
    if failures:
        missing = (
            f"{len(failures):,} of {len(generations):,} held-out prompts have no answer; the first: {failures[0]}"
        )
        if len(failures) == len(generations):
            raise RunError(missing)
        logger.warning(missing)
    return [
        answered(one.prompt, [
            Answer(completion.text, chat_model.name, completion.finished, completion.tokens_out,
                   columns=one.prompt.columns)
            for completion in one.completions if completion.failure is None
        ])
        for one in generations
    ]  # fmt: skip
