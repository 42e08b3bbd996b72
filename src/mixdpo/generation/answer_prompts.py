"""A prompt set answered by one or several models: the file of their answers, and the report beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mixdpo.common.errors import RunError
from mixdpo.common.files import forget_unfinished, write_json
from mixdpo.generation.chat_model import ChatModel, Progress
from mixdpo.generation.generate import Generation, generate, settings_for
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.generation.output_files import answer_report, columns_left_out, report_file, write_answers
from mixdpo.generation.prompts import Prompt


def notes(prompts: Sequence[Prompt], settings: GenerationSettings, models: int = 1) -> list[str]:
    """Return lines about what was chosen for several answers to a prompt, to be shown before they are made."""
    if settings.samples == models == 1:
        return []
    lines = []
    if settings.samples > 1 and settings.temperature is None:
        chosen = settings_for(prompts, settings).temperature
        lines.append(f"{settings.samples} samples at temperature {chosen}; set --temperature to change it")
    if left_out := columns_left_out(prompts):
        lines.append(f"columns of the prompts that do not stand beside the answers: {', '.join(left_out)}")
    return lines


def answer_prompts(
    prompts: Sequence[Prompt],
    chat_models: Iterable[tuple[str, ChatModel]],
    settings: GenerationSettings,
    output: Path,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, Any]:
    """Let every model answer every prompt, and write the answers and a report beside them.

    Finished calls that are kept beside `output` until all are there are forgotten once none failed.

    Args:
        prompts: what to answer.
        chat_models: who answers, each with the name that stands in the file. A generator of them has only one in
            memory at a time.
        settings: how.
        output: of the answers, `.jsonl` or `.json`.
        progress: makes a function of (answers done, answers in all) for a pass of that name.

    Returns:
        What `answer_report` says of each model, by its name; of several models the file holds that under `models`.

    Raises:
        InputError: there are to be several answers to a prompt of several turns, or a model cannot be loaded.
        RunError: a model answered no prompt at all; nothing is written.
    """
    answers: dict[str, list[Generation]] = {}
    reports: dict[str, dict[str, Any]] = {}
    for name, chat_model in chat_models:
        answers[name] = generate(prompts, chat_model, settings, progress)
        reports[name] = answer_report(answers[name], chat_model, settings)
        if not reports[name]["answered"]:
            why = next(iter(reports[name]["failures"] | reports[name]["without_answer"]))
            raise RunError(f"{name}: no prompt was answered; the first failure: {why}")
    # The answers last: where they are there, they are taken for finished.
    write_json(report_file(output), {"models": reports} if len(reports) > 1 else reports[name])
    write_answers(output, answers)
    if not any(one["failures"] for one in reports.values()):
        forget_unfinished(output)
    return reports
