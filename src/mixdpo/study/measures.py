"""What a model is measured by: grades, ends and lengths of its answers, and its likelihood of held-out pairs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from mixdpo.common.errors import RunError
from mixdpo.common.files import digest
from mixdpo.generation.chat_model import Completion
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.generation.local_generation import generate_answers
from mixdpo.models.forward import all_tokens, dataset_logprobs
from mixdpo.models.forward_settings import ForwardSettings
from mixdpo.models.loading import load_for_inference, load_tokenizer
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.make_plan import make_plan
from mixdpo.plan.plan_settings import BUCKETS
from mixdpo.recipe.scoring import score
from mixdpo.study.task import DISPLACEMENTS, HeldOutData, Split, StudyTask

VALUES_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("group", pa.string()),
        ("measure", pa.string()),
        ("bucket", pa.string()),
        ("value", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Measured:
    """Values of every item, in the form of `VALUES_SCHEMA`, and the answers behind them."""

    values: pa.Table
    answers: list[Completion]


def measure_model(
    model: ModelSettings,
    start: ModelSettings,
    task: StudyTask,
    split: Split,
    held_out: HeldOutData,
    generation: SamplingSettings,
    limits: dict[str, Any],
) -> Measured:
    """Measure a model on a split.

    Args:
        model: the model, from its folder.
        start: the model training started from, which log-probabilities are compared with.
        task: grades the answers.
        split: its name.
        held_out: the split's prompts and pairs.
        generation: how answers are drawn.
        limits: `max_length` and `max_prompt_length` of training, for the pairs.

    Raises:
        RunError: the model gives log-probabilities that are not finite.
    """
    rows: list[dict[str, Any]] = []
    answers: list[Completion] = []
    if held_out.prompts:
        answers = _answers(model, held_out, generation)
        columns = {
            **task.judge(split, answers),
            "finished": [float(answer.finished) for answer in answers],
            "tokens": [float(answer.tokens_out - answer.reasoning_tokens) for answer in answers],
        }
        items = [digest([repr(prompt)], size=6) for prompt in held_out.prompts]
        for name, values in columns.items():
            rows += _rows(name, items, held_out.prompt_groups, values, None)
    if held_out.pairs is not None:
        rows += _pair_rows(model, start, held_out, limits)
    return Measured(pa.Table.from_pylist(rows, schema=VALUES_SCHEMA), answers)


def _answers(model: ModelSettings, held_out: HeldOutData, generation: SamplingSettings) -> list[Completion]:
    policy: Any = load_for_inference(replace(model, dtype="auto"))  # the format to answer in is the machine's
    answers = generate_answers(
        policy,
        load_tokenizer(model),
        held_out.prompts,
        settings=generation,
        chat_template_kwargs=model.chat_template_kwargs,
        template_date=model.template_date,
    )
    del policy
    gc.collect()  # the next thing to load is a model of the same size
    return answers


def _pair_rows(
    model: ModelSettings, start: ModelSettings, held_out: HeldOutData, limits: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return accuracy and displacement of the pairs, in nats per answer.

    A pair counts as right when training raised the chosen answer's log-probability by more than the rejected one's
    (the implicit reward of DPO), as half right when by as much. Ties have no right answer and are left out of that.
    """
    assert held_out.pairs is not None
    pairs = score(held_out.pairs, "rating")
    settings = ForwardSettings(**limits)
    tokens = all_tokens(pairs, start, settings.token_settings(), "held-out pairs")
    before = dataset_logprobs(tokens, start, settings, "held-out pairs (start)")
    after = before if model == start else dataset_logprobs(tokens, model, settings, "held-out pairs")
    if not np.isfinite(after).all():
        raise RunError("the trained model gives log-probabilities that are not finite: training diverged")
    moved = after - before
    plan = make_plan(pairs, "dpo", order="as_is")
    tied = plan.margin == 0
    buckets = [
        "tie" if tie else BUCKETS[code] if code >= 0 else None
        for tie, code in zip(tied.tolist(), plan.bucket.tolist(), strict=True)
    ]
    ids, groups = pairs["pair_id"][:], held_out.pair_groups
    right = (np.sign(moved[:, 0] - moved[:, 1]) + 1) / 2
    rows: list[dict[str, Any]] = []
    for name, values in zip(DISPLACEMENTS, moved.T, strict=True):
        rows += _rows(name, ids, groups, values.tolist(), buckets)
    graded = np.flatnonzero(~tied).tolist()
    columns: Iterator[list[Any]] = ([each[i] for i in graded] for each in (ids, groups, right.tolist(), buckets))
    rows += _rows("preference_accuracy", *columns)
    return rows


def _rows(
    name: str,
    items: Sequence[str],
    groups: Sequence[str],
    values: Sequence[float],
    buckets: Sequence[str | None] | None,
) -> Iterator[dict[str, Any]]:
    for item, group, value, bucket in zip(items, groups, values, buckets or [None] * len(items), strict=True):
        yield {"item": item, "group": digest([group], size=6), "measure": name, "bucket": bucket, "value": value}
