"""Tasks of lm-evaluation-harness: how the Open LLM Leaderboard v1 ran them, and a model's score on each."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mixdpo.common.errors import InputError, RunError, install_extra
from mixdpo.common.files import digest
from mixdpo.common.hub import cache_only_if_unreached
from mixdpo.evaluation.thinking_templates import reasoning_end
from mixdpo.generation.reply_cache import ReplyCache

if TYPE_CHECKING:  # PyTorch takes seconds, and help and stored results need none of it
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FORMAT: Final = "1"
_PREFERRED_METRICS: Final = ("acc_norm", "acc", "exact_match")
_MEANS: Final = ("mean", "nanmean")
"""Of the harness's ways to put questions together, those that an interval over questions is right for."""
_NOT_LOADED: Final = "Couldn't find cache"
"""What `datasets` says, in a mere ValueError, offline with a part of a data set."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskSetup:
    """How the leaderboard ran a task.

    Attributes:
        shots: examples before each question; None is the task's own number.
        metric: the one that counts; None is the first of acc_norm, acc, exact_match and the task's first.
        filter: which reading of a generated answer counts.
    """

    shots: int | None = None
    metric: str | None = None
    filter: str = "none"


OPEN_LLM_V1: Final[Mapping[str, TaskSetup]] = {
    "arc_challenge": TaskSetup(25, "acc_norm"),
    "hellaswag": TaskSetup(10, "acc_norm"),
    "mmlu": TaskSetup(5, "acc"),
    "truthfulqa_mc2": TaskSetup(0, "acc"),
    "winogrande": TaskSetup(5, "acc"),
    "gsm8k": TaskSetup(5, "exact_match", "strict-match"),
}
"""By the harness's name of the task."""


@dataclass(frozen=True)
class TaskScore:
    """What a model scored on one task.

    Attributes:
        items: by subtask (57 for MMLU, else the task itself), the metric of every question in order, 0 to 1.
        shots: examples before each question.
        metric: its name.
        versions: the harness's version of each subtask.
    """

    items: Mapping[str, np.ndarray]
    shots: int
    metric: str
    versions: Mapping[str, Any]


@dataclass(frozen=True)
class Tasks:
    """Tasks of the harness with their data sets.

    Attributes:
        manager: the harness's own.
        loaded: what it loaded, by name; of a group with the tasks under it.
        contents: digest of the settings, the code and the data of each, before the harness changes them for a run.
    """

    manager: Any
    loaded: Mapping[str, Mapping[str, Any]]
    contents: Mapping[str, str]


@dataclass(frozen=True)
class Finished:
    """Scores of tasks that an unfinished run has finished.

    Attributes:
        scores: where they are.
        model: digest of all that decides what the model answers.
    """

    scores: ReplyCache
    model: str


def find_tasks(names: Sequence[str] = tuple(OPEN_LLM_V1), include: Path | None = None) -> Tasks:
    """Load tasks and their data sets, before hours are spent on any of them.

    Args:
        names: of the harness.
        include: folder of further task files; one with the name of a known task replaces it.

    Raises:
        InputError: the harness or what a task needs is not installed, there is no such task, its data set cannot be
            had, or what it measures is no mean over questions.
    """
    if not names:
        raise InputError("no task is named", hint=f"the leaderboard's are {', '.join(OPEN_LLM_V1)}")
    from datasets.exceptions import DatasetsError

    manager = _task_manager(include, names)
    loaded = {}
    for name in names:
        with cache_only_if_unreached() as unreached:
            try:
                loaded[name] = manager.load([name])
            except (ImportError, OSError, RuntimeError, ValueError, DatasetsError) as error:
                raise _cannot_be_had(name, error, unreached) from error
        for task in loaded[name]["tasks"].values():
            _check_is_mean(name, task.aggregation())
    return Tasks(manager, loaded, {name: _content(name, one["tasks"], manager) for name, one in loaded.items()})


def run_tasks(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Tasks,
    *,
    limit: int | None = None,
    chat_template: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    seed: int = 1234,
    finished: Finished | None = None,
) -> Iterator[tuple[str, TaskScore]]:
    """Run the harness, task by task.

    Args:
        model: a causal language model on its device.
        tokenizer: its own.
        tasks: from `find_tasks`.
        limit: questions of each subtask at most, for a trial.
        chat_template: ask in the tokenizer's chat template, each example a turn of its own. The leaderboard did not.
        chat_template_kwargs: what the template is told. Of written answers, what follows the reasoning is read.
        batch_size: requests at once.
        seed: of the choice of examples; the harness's default.
        finished: by a run before; what this one finishes is added. The number of requests at once makes no difference.

    Yields:
        Each task's name and score.

    Raises:
        InputError: there is no chat template, or a task's metric is not one number for each question.
        RunError: the requests do not fit in memory.
    """
    import torch
    from datasets.exceptions import DatasetsError
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    if chat_template and tokenizer.chat_template is None:
        raise InputError("the tokenizer has no chat template", hint="run without --chat-template")
    with _without_warnings("lm_eval.models.huggingface"):  # of a model that is loaded already, as it should be
        adapter = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            chat_template_args=dict(chat_template_kwargs or {}),
            think_end_token=reasoning_end(tokenizer) if chat_template else None,
        )
    asked = [_FORMAT, finished.model if finished else "", _tokenizer_digest(tokenizer), metadata.version("lm_eval")]
    for name, loaded in tasks.loaded.items():
        setup = OPEN_LLM_V1.get(name, TaskSetup())
        template = tokenizer.chat_template if chat_template else None
        # Kept scores of runs that told the template nothing are found again.
        told = (sorted(chat_template_kwargs.items()),) if chat_template_kwargs else ()
        how = repr((name, setup, limit, template, seed, *told))
        key = digest([*asked, tasks.contents[name], how])
        if finished is not None and (score := finished.scores.get(key)) is not None:
            _log.info("%s: taken from the run before, which was not finished", name)
            yield name, _read_score(score)
            continue
        groups, single = loaded["groups"], list(loaded["tasks"].values())
        try:
            # Of shots that are not the task's own.
            with _without_warnings("lm_eval.evaluator"), cache_only_if_unreached() as unreached:
                found = simple_evaluate(
                    model=adapter,
                    tasks=[groups[name]] if name in groups else single,
                    num_fewshot=setup.shots,
                    limit=limit,
                    task_manager=tasks.manager,
                    apply_chat_template=chat_template,
                    fewshot_as_multiturn=chat_template,
                    bootstrap_iters=0,  # standard errors are ours, from the questions themselves
                    fewshot_random_seed=seed,
                )
        except (OSError, DatasetsError) as error:
            raise _cannot_be_had(name, error, unreached) from error
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"task {name}: {batch_size} requests at once do not fit in the memory of {model.device}; continue "
                f"with a smaller --batch-size"
            ) from error
        result = _score(name, setup, found)
        if finished is not None:
            finished.scores.put(key, _written_score(result))
        yield name, result


def _task_manager(include: Path | None, tasks: Sequence[str]) -> Any:
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("downstream tasks need lm-evaluation-harness", hint=install_extra("lm-eval"))
    from lm_eval.tasks import TaskManager

    if include is not None and not include.is_dir():
        raise InputError("no such folder of task files", file=include)
    manager = TaskManager(include_path=str(include) if include is not None else None)
    for name in tasks:
        if name not in manager.all_tasks:
            raise InputError(
                f"lm-evaluation-harness has no task {name!r}",
                hint=f"the leaderboard's are {', '.join(OPEN_LLM_V1)}; others come from --include-path",
            )
    return manager


def _cannot_be_had(name: str, error: Exception, unreached: str | None) -> InputError:
    from datasets.exceptions import DatasetsError

    first_line = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    hint = "fix its task file, or replace the task by one of your own (--include-path)"
    if isinstance(error, ImportError):
        hint = "install the package, or put a module of your own beside the task file"
    elif isinstance(error, (OSError, DatasetsError)) or first_line.startswith(_NOT_LOADED):
        mend = "accept the terms of a gated one on the hub and log in with `hf auth login`"
        if unreached is not None:
            first_line = f"its data set is not whole in the cache, and the hub {unreached}"
            mend = "load it once online"
        hint = f"{mend}, or replace the task by one with a local file (--include-path)"
    return InputError(f"task {name} cannot be run: {first_line}", hint=hint)


def _check_is_mean(name: str, aggregation: Mapping[str, Any]) -> None:
    """Refuse a task whose metric the harness computes from all questions together, such as a perplexity."""
    if not aggregation:  # a task in Python that says it with its first result
        return
    metric = _metric(OPEN_LLM_V1.get(name, TaskSetup()), list(aggregation))
    how = aggregation.get(metric)
    place, way = getattr(how, "__module__", None), getattr(how, "__name__", None)
    if place == "lm_eval.api.metrics" and way not in _MEANS:
        raise _no_number(name, metric)


def _no_number(name: str, metric: str) -> InputError:
    return InputError(
        f"task {name} is measured by {metric}, which is not a mean of one number for each question",
        hint="take tasks measured by acc, exact_match or the like",
    )


def _metric(setup: TaskSetup, known: Sequence[str]) -> str:
    return setup.metric or next((one for one in _PREFERRED_METRICS if one in known), known[0])


def _content(wanted: str, tasks: Mapping[str, Any], manager: Any) -> str:
    files = [entry.yaml_path for one in (wanted, *tasks) if (entry := manager.task_index.get(one)) and entry.yaml_path]
    # The settings hold a task's own functions, and not what those call.
    helpers = sorted({helper for file in files for helper in file.parent.glob("*.py")})
    parts: list[str | bytes] = [helper.read_bytes() for helper in helpers]
    for name, task in sorted(tasks.items()):
        # A fingerprint of `datasets` follows from the files and from what was done to their rows.
        data = {split: getattr(rows, "_fingerprint", None) for split, rows in (task.dataset or {}).items()}
        parts += [name, json.dumps([task.dump_config(), data], sort_keys=True, default=str)]
    return digest(parts)


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of what makes ids of a text; not of truncation and padding, which every call sets anew."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    parts = {key: value for key, value in own.items() if key not in ("truncation", "padding")}
    special = (tokenizer.special_tokens_map, getattr(tokenizer, "add_bos_token", None))
    return digest([json.dumps(parts, sort_keys=True), repr(special)])


def _written_score(score: TaskScore) -> dict[str, Any]:
    items = {name: values.tolist() for name, values in score.items.items()}
    return {"items": items, "shots": score.shots, "metric": score.metric, "versions": dict(score.versions)}


def _read_score(stored: Mapping[str, Any]) -> TaskScore:
    items = {name: np.array(values, dtype=np.float64) for name, values in stored["items"].items()}
    return TaskScore(items, stored["shots"], stored["metric"], stored["versions"])


@contextmanager
def _without_warnings(logger: str) -> Iterator[None]:
    chosen = logging.getLogger(logger)
    level = chosen.level
    chosen.setLevel(logging.ERROR)
    try:
        yield
    finally:
        chosen.setLevel(level)


def _score(name: str, setup: TaskSetup, found: Mapping[str, Any]) -> TaskScore:
    samples: Mapping[str, list[Mapping[str, Any]]] = found["samples"]
    known = next(iter(samples.values()))[0]["metrics"]
    metric = _metric(setup, known)
    items = {}
    for task, rows in samples.items():
        # A task file of one's own may lack the leaderboard's filter, and then has one that is called none.
        filters = {row["filter"] for row in rows}
        wanted = setup.filter if setup.filter in filters else min(filters)
        filtered = sorted((row for row in rows if row["filter"] == wanted), key=lambda row: row["doc_id"])
        if metric not in filtered[0]:
            raise InputError(f"task {task} has no metric {metric}", hint=f"it has {', '.join(known)}")
        try:
            items[task] = np.array([float(row[metric]) for row in filtered], dtype=np.float64)
        except (TypeError, ValueError):
            raise _no_number(name, metric) from None
    shots = {found["n-shot"][task] for task in samples}
    return TaskScore(items, max(shots), metric, {task: found["versions"].get(task) for task in samples})
