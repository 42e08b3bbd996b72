"""The folder of a run: settings, plan, metrics, figure, checkpoints, and how to find one's way back into it."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixdpo.common.errors import InputError
from mixdpo.common.files import check_output_folder, write_json
from mixdpo.common.settings import key_values
from mixdpo.data.token_report import TokenReport
from mixdpo.models.engine import weights_of
from mixdpo.plan.plan import Plan
from mixdpo.training.checkpoints import check_training_state, checkpoint_to_continue, last_complete_checkpoint
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.deepspeed_run import check_zero_stage
from mixdpo.training.figure import save_training_figure
from mixdpo.training.stage_figure import save_stage_figure
from mixdpo.training.token_record import check_same_tokens

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
PLAN_FILE = "plan.parquet"
MODEL_FOLDER = "model"

_LIBRARIES = ("mixdpo", "transformers", "accelerate", "peft", "datasets", "numpy")
# What the names of settings begin with that `is_free_to_change`.
_FREE_TO_CHANGE = (
    "logging",
    "save",
    "eval",
    "do_eval",  # follows from eval_strategy
    "report_to",
    "disable_tqdm",
    "dataloader",
    "hub",
    "push",
    "log_level",
    "reference_cache",
    "activation_checkpointing",
    "gradient_checkpointing",
    "max_tokens_per_batch",
    "template_date",  # what it makes of the tokens is compared
)
_CUT_OF_A_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")


class RunFolder(TrainerCallback):
    """Writes `run.json`, `plan.parquet` and `metrics.jsonl`, and the figure when training ends."""

    def __init__(self, plan: Plan, describe: Callable[[], dict[str, Any]]) -> None:
        self._plan, self._describe = plan, describe

    def on_train_begin(  # type: ignore[override]  # the settings are ours
        self, args: MixDPOConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Describe the run before its first step; when it continues, forget metrics after the checkpoint."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        record = self._describe()
        if state.global_step > 0:
            check_same_run(folder, record, args.compares_pairs)
            kept = [m for m in logged_metrics(folder) if m["step"] < state.global_step + ("stage" not in m)]
            (folder / METRICS_FILE).write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        else:
            (folder / METRICS_FILE).write_text("", encoding="utf-8")
        write_json(folder / RUN_FILE, record)
        self._plan.save(folder / PLAN_FILE)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line."""
        if state.is_world_process_zero and logs:
            with (Path(args.output_dir or ".") / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the figures."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir or ".")
            metrics = logged_metrics(folder)
            save_training_figure(metrics, folder)
            save_stage_figure(metrics, folder)


def logged_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`; a last line torn by a crash is left out."""
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a run's numbers."""
    own = {"python": platform.python_version(), "torch": torch.__version__}  # with its build: +cpu, +cu130
    return {**own, **{name: _installed(name) for name in _LIBRARIES}}


@cache
def _installed(library: str) -> str:
    return metadata.version(library)  # reads and parses a file each time


def check_same_run(folder: Path, record: dict[str, Any], compares_pairs: bool) -> None:
    """Raise `InputError` unless the run of `folder` had the same data, plan, model, settings and tokens.

    `record` is what `describe_run` says of the run that continues it. A step may be cut in another way, for example
    for another number of processes, as long as it keeps its pairs and no loss compares (`compares_pairs`) those that
    are computed together.
    """
    try:
        before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the run of the checkpoint cannot be read ({error})",
            file=folder / RUN_FILE,
            hint="copy the whole folder of the run, not its checkpoint alone",
        ) from error
    for part in ("model", "data", "plan"):
        if before.get(part) != record.get(part):
            raise InputError(
                f"the run was started with another {part}",
                file=folder / RUN_FILE,
                hint="continue it as it was started",
            )
    _check_same_answers(before.get("answers"), record.get("answers"), folder / RUN_FILE)
    was, cut = _cut_of_a_step(before), _cut_of_a_step(record)
    if was != cut if compares_pairs else math.prod(was) != math.prod(cut):
        described = [" x ".join(map(str, factors)) for factors in (was, cut)]
        raise InputError(
            f"the run was started with steps of {described[0]} pairs, not {described[1]} (processes x "
            f"{' x '.join(_CUT_OF_A_STEP)})",
            file=folder / RUN_FILE,
            hint="change the last two so that a step stays as it was",
        )
    for name, value in record["settings"].items():
        free = is_free_to_change(name) or name in _CUT_OF_A_STEP
        is_younger = name not in before["settings"]  # the run is of a version that did not have it
        if not (free or is_younger) and before["settings"][name] != value:
            raise InputError(
                f"the run was started with {name} = {before['settings'][name]!r}, not {value!r}",
                file=folder / RUN_FILE,
                hint="continue it with the settings it was started with",
            )
    check_same_tokens(before, record, folder / RUN_FILE)


def _check_same_answers(before: dict[str, Any] | None, now: dict[str, Any] | None, file: Path) -> None:
    """Raise `InputError` unless the policy is judged as at the start of the run; it may no longer be."""
    if now is None:
        return
    changed = "answers" if before is None else next((f"answers.{k}" for k in now if before.get(k) != now[k]), None)
    if changed is not None:
        raise InputError(
            f"the run was started with another {changed}, and evaluations are compared with each other",
            file=file,
            hint="continue it with the section answers it was started with, or without one",
        )


def is_free_to_change(name: str) -> bool:
    """Whether a setting may change between a run and its continuation without making it another run."""
    return name.startswith(_FREE_TO_CHANGE) or name == "output_dir"


def recorded_template_date(folder: Path) -> str | None:
    """Return the date that chat templates were told in the run of `folder`, None if it has none or cannot be read."""
    try:
        settings = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError):
        return None  # continuing it fails for the same reason, and says it
    return settings.get("template_date")


def _cut_of_a_step(record: dict[str, Any]) -> tuple[int, int, int]:
    """Return processes, pairs of a process's micro-batch, and accumulation steps of a run."""
    batch, steps = (record["settings"][name] for name in _CUT_OF_A_STEP)
    return record["processes"], batch, steps


def check_is_free(folder: Path) -> None:
    """Raise `InputError` if the folder holds a checkpoint or a model already, is not one, or cannot be written to.

    What is left of a run that ended before its first checkpoint cannot be continued, and may be written over.
    """
    check_output_folder(folder)
    if last_complete_checkpoint(folder) is not None or (folder / MODEL_FOLDER).exists():
        raise InputError(
            "the folder holds another run",
            file=folder,
            hint="choose another output folder, or continue that run with --resume (in Python "
            "train(resume_from_checkpoint=True))",
        )


def starting_point(folder: Path, resume: str | bool | None, accelerator: Accelerator) -> str | None:
    """Return the checkpoint that a run begins with, None for a new one.

    Args:
        folder: of the run.
        resume: a checkpoint, or True for the newest complete one of the folder.
        accelerator: of the run; its main process says which checkpoints are passed over.

    Raises:
        InputError: there is no such checkpoint, or it has no optimizer that this run could go on with, or a new run
            would write over another one.
    """
    if not resume:
        check_is_free(folder)
        return None
    newest = resume is True
    checkpoint = checkpoint_to_continue(folder, accelerator.is_main_process) if newest else Path(str(resume))
    check_training_state(checkpoint, accelerator.distributed_type, accelerator.num_processes)
    check_zero_stage(checkpoint, accelerator)
    return str(checkpoint)


def describe_run(
    args: MixDPOConfig,
    model: Any,
    plan: Plan,
    token_reports: Mapping[str, TokenReport],
    token_digests: dict[str, Any],
    processes: int,
) -> dict[str, Any]:
    """Return the content of `run.json`: what is needed to repeat the run, and what it consists of."""
    return {
        "model": {
            "name": model.config._name_or_path,
            "type": model.config.model_type,
            # Of weights that ZeRO-3 has spread, transformers counts those that happen to be gathered.
            "parameters": model.num_parameters() + sum(weights_of(p) - p.numel() for p in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "adapters": sorted(getattr(model, "peft_config", {})),
        },
        "data": {"pairs": len(plan), "fingerprint": plan.fingerprint},
        "tokens": {name: report.to_dict() for name, report in token_reports.items()},
        "token_digests": token_digests,
        "plan": {"settings": key_values(plan.settings), "routes": plan.summary()},
        "processes": processes,
        "settings": args.to_record(),
        "versions": versions(),
    }
