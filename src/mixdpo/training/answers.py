"""Greedy answers of a policy to fixed prompts while it is trained: how they are written, measured and kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from transformers import PreTrainedTokenizerBase

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import digest
from mixdpo.common.processes import started_processes
from mixdpo.common.table_files import row_in_file
from mixdpo.generation.chat_model import Completion
from mixdpo.generation.degenerate import repeated_share
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.generation.local_generation import answer_rendered, check_lengths, render_prompts, without_reasoning
from mixdpo.generation.prompts import Prompt, read_prompts
from mixdpo.pairs.answered import Answer, AnsweredPrompt, read_answered, write_answered
from mixdpo.pairs.compare_models import answered, in_order_of
from mixdpo.training.answers_settings import ANSWERS, AnswersSettings
from mixdpo.training.config import MixDPOConfig

logger = logging.getLogger(__name__)

FOLDER: Final = "answers"
_START: Final = "start.jsonl"


@dataclass(frozen=True)
class FixedPrompts:
    """The prompts that a run answers at every evaluation.

    Attributes:
        prompts: as they were read.
        ids: token ids of each, up to where the assistant speaks.
    """

    prompts: list[Prompt]
    ids: list[list[int]]

    @property
    def fingerprint(self) -> str:
        """A digest of their content."""
        return digest([repr((one.messages, one.chat_template_kwargs, one.columns)) for one in self.prompts])


def fixed_prompts(
    settings: AnswersSettings, model: Any, tokenizer: PreTrainedTokenizerBase, args: MixDPOConfig
) -> FixedPrompts:
    """Read the prompts of a run and make token ids of them.

    Raises:
        InputError: the file cannot be read, a prompt has several turns or is refused by the chat template, or it does
            not fit into the model's positions with its answer.
    """
    prompts = read_prompts(settings.prompts, limit=settings.limit)
    for place, prompt in enumerate(prompts):
        if len(prompt.turns) > 1:
            raise InputError(
                f"answers.prompts has a prompt of {len(prompt.turns)} turns, and one answer is judged",
                file=settings.prompts,
                row=row_in_file(settings.prompts, place),
                hint="give the earlier turns as messages with the assistant's answers",
            )
    chats = [[{"role": role, "content": content} for role, content in prompt.messages] for prompt in prompts]
    told = [{**(args.chat_template_kwargs or {}), **json.loads(one.chat_template_kwargs or "{}")} for one in prompts]
    ids = render_prompts(tokenizer, chats, told, args.template_date)
    check_lengths(model, ids, settings.max_new_tokens)
    return FixedPrompts(prompts, ids)


def count_trained(fixed: FixedPrompts, trained: Iterable[list[int]]) -> int:
    """Return how many of the prompts are among those, as token ids, that the policy is trained on."""
    return len({tuple(ids) for ids in fixed.ids} & set(map(tuple, trained)))


def check_can_answer(accelerator: Accelerator) -> None:
    """Raise `InputError` where no process has the whole policy, which has to write answers of different lengths."""
    plugin = accelerator.state.deepspeed_plugin
    spread = {
        "FSDP": accelerator.distributed_type == DistributedType.FSDP,
        "DeepSpeed's ZeRO-3": plugin is not None and plugin.zero_stage == 3,
    }
    if named := [name for name, is_spread in spread.items() if is_spread]:
        raise InputError(
            f"the section answers does not work under {named[0]}, where no process has the whole policy",
            hint="let checkpoints answer (mixdpo generate) instead, or train with recipes/accelerate/ddp.yaml",
        )


def policy_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    fixed: FixedPrompts,
    settings: AnswersSettings,
    accelerator: Accelerator,
) -> list[AnsweredPrompt]:
    """Return the policy's likeliest answer to every prompt, with `entropy` and `repetition` among its columns.

    Processes share the prompts out; all of them get all answers. Random generators and the model's mode are as
    before. On a GPU the memory is given back, for answers need blocks of other sizes than training.

    Args:
        model: the policy, wrapped for training.
        tokenizer: its tokenizer.
        fixed: the prompts.
        settings: of which the longest answer and the batch size are read.
        accelerator: of the run.
    """
    mine = range(accelerator.process_index, len(fixed.ids), accelerator.num_processes)
    with accelerator.autocast():
        written = _written(accelerator.unwrap_model(model), tokenizer, [fixed.ids[place] for place in mine], settings)
    _empty_cache()
    answers = [
        (place, _answer(without_reasoning(one, fixed.ids[place], tokenizer), one, tokenizer))
        for place, one in zip(mine, written, strict=True)
    ]
    by_place = dict(gather_object(answers))
    return [answered(prompt, [by_place[place]]) for place, prompt in enumerate(fixed.prompts)]


def _written(
    policy: Any, tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], settings: AnswersSettings
) -> list[Completion]:
    """Return what the policy writes, in batches that are halved until they fit beside what training holds."""
    size = settings.batch_size
    while True:
        sampling = SamplingSettings(max_new_tokens=settings.max_new_tokens, batch_size=size)
        try:
            return answer_rendered(policy, tokenizer, ids, sampling, entropy=True)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        _empty_cache()
        size = (size + 1) // 2
        number, processes = started_processes()  # each has its own prompts and memory
        of = f" of process {number}" if processes > 1 else ""
        logger.warning(f"answers do not fit in the memory of the device{of} beside training; now {size} at once")


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _answer(spoken: Completion, written: Completion, tokenizer: PreTrainedTokenizerBase) -> Answer:
    """Return an answer: its text without reasoning, its measures with it."""
    ids = tokenizer.encode(written.text, add_special_tokens=False)
    measures = {"entropy": written.entropy, "repetition": repeated_share(ids)}
    return Answer(spoken.text, "policy", written.finished, written.tokens_out, columns=measures)


def measures(prompts: Sequence[AnsweredPrompt]) -> dict[str, np.ndarray]:
    """Return what is measured of each answer: tokens, finished (0 or 1), repetition, entropy; float64, shape (N,)."""
    answers = [prompt.answers[0] for prompt in prompts]
    return {
        "tokens": np.array([answer.tokens for answer in answers], dtype=np.float64),
        "finished": np.array([answer.finished for answer in answers], dtype=np.float64),
        "repetition": np.array([answer.columns["repetition"] for answer in answers], dtype=np.float64),
        "entropy": np.array([answer.columns["entropy"] for answer in answers], dtype=np.float64),
    }


def mean_measures(prompts: Sequence[AnsweredPrompt]) -> dict[str, float]:
    """Return the means of `measures` under their names as metrics; of entropy the mean over all tokens."""
    found = measures(prompts)
    weights = {"entropy": found["tokens"] + found["finished"]}  # the token that ends an answer is chosen, too
    return {ANSWERS + name: float(np.average(values, weights=weights.get(name))) for name, values in found.items()}


def save_start(folder: Path, prompts: Sequence[AnsweredPrompt]) -> None:
    """Keep the answers that a run begins with in its folder."""
    write_answered(folder / FOLDER / _START, prompts)


def load_start(folder: Path, fixed: FixedPrompts) -> list[AnsweredPrompt]:
    """Read what `save_start` kept.

    Raises:
        RunError: the file is missing, or lacks an answer.
    """
    path = folder / FOLDER / _START
    try:
        found = in_order_of(fixed.prompts, read_answered(path))
    except InputError as error:
        raise RunError(f"the answers of the run's start cannot be read ({error}); start the run anew") from error
    if not all(prompt.answers for prompt in found):
        raise RunError(f"{path}: the answers of the run's start are of other prompts; start the run anew")
    return found


def save_step(folder: Path, step: int, prompts: Sequence[AnsweredPrompt]) -> None:
    """Keep the answers of an evaluation, with what the judge said of them, in a run's folder."""
    write_answered(folder / FOLDER / f"step-{step}.jsonl", prompts)
