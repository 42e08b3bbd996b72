"""Running a study: tune every arm on the validation split, then run every seed and read the test split once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import torch

from mixdpo.common.errors import InputError, MixdpoError, RunError
from mixdpo.common.files import content_name, write_json
from mixdpo.models.model_settings import ModelSettings
from mixdpo.study.demo.smollm2 import FOLDER_NAME, smollm2_folder
from mixdpo.study.run_specs import RunSpec, Variant, final_runs, start_run, tuning_runs, variants
from mixdpo.study.single_run import RESULT_FILE, SPEC_FILE, device_name
from mixdpo.study.study_settings import StudySettings

RUNS_FOLDER = "runs"
FAILURE_FILE = "failed.json"


@dataclass(frozen=True)
class Slot:
    """Where a run takes place: as number `number` of `count` at once, and ending when `stop` is set."""

    number: int
    count: int
    stop: Event


Runner = Callable[[Path, float, Slot], None]
"""Executes a folder's run within so many seconds; raises `MixdpoError` if it fails, `Stopped` if it was to end."""


class Stopped(Exception):
    """The study was stopped while a run went on; the run is not done, and did not fail."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its record, or why there is none yet."""

    spec: RunSpec
    record: dict[str, Any] | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Choice:
    """What an arm was tuned to by its trials on the validation split; None where no setting has all its trials."""

    variant: Variant
    trials: list[Outcome]
    learning_rate: float | None
    beta: float | None


@dataclass(frozen=True)
class StudyOutcomes:
    """All runs of a study."""

    choices: list[Choice]
    start: Outcome
    finals: list[Outcome]


def name_in_keys(study: StudySettings) -> str:
    """Return what the keys of runs call the model: a folder by its content, not by where it lies."""
    return FOLDER_NAME if study.model is None else content_name(study.model.name_or_path)


def processes_of(study: StudySettings) -> int:
    """Return how many runs take place at once."""
    return study.limits.processes or max(torch.cuda.device_count(), 1)


def run_study(
    study: StudySettings,
    output: Path,
    *,
    runner: Runner | None = None,
    notify: Callable[[Outcome], None] = lambda outcome: None,
    started: Callable[[RunSpec], None] = lambda spec: None,
) -> StudyOutcomes:
    """Run what is not done yet of a study.

    A run whose folder in `output/runs` holds its record is never run again, whichever study of that folder asked for
    it. A run that fails does not stop the others; it is tried again when the study is started again, but for trials of
    an arm whose final runs have read the test split already: its settings stay as they were chosen.

    Args:
        study: from `load_study`.
        output: folder of the runs of this study, and of others that may share them.
        runner: how a run is executed; default in a process of its own.
        notify: called with every run's outcome, also of those done before.
        started: called when a run starts.

    Raises:
        InputError: runs are left, and those that are done are of another device.
        RunError: trials were not measured by the primary measure.
    """
    output.mkdir(parents=True, exist_ok=True)
    name = name_in_keys(study)
    arms = variants(study)
    _check_device(study, arms, output, name)
    job = _Job(
        study=study,
        model=study.model or ModelSettings(name_or_path=str(smollm2_folder())),
        output=output,
        runner=runner or in_subprocess,
        notify=notify,
        started=started,
        processes=processes_of(study),
    )
    settled = {variant: choice for variant in arms if (choice := settled_choice(study, variant, output, name))}
    for trial in (trial for choice in settled.values() for trial in choice.trials):
        notify(trial)
    trials = {variant: tuning_runs(study, variant, name) for variant in arms if variant not in settled}
    tried = iter(_execute_all([spec for specs in trials.values() for spec in specs], job))
    chosen = {
        variant: choose_setting(study, variant, list(islice(tried, len(specs)))) for variant, specs in trials.items()
    }
    choices = [{**settled, **chosen}[variant] for variant in arms]
    start, *outcomes = _execute_all(
        [start_run(study, name), *(spec for choice in choices for spec in finals_of(study, choice, name))], job
    )
    return StudyOutcomes(choices, start, outcomes)


def settled_choice(study: StudySettings, variant: Variant, output: Path, name: str) -> Choice | None:
    """Return an arm's choice by the trials on disk if a final run has read the test split with it, else None.

    Trials that failed are then not tried again: they could change the choice, and the test split would be read twice.
    """
    choice = _tried_choice(study, variant, output, name)
    if choice is None:
        return None
    read = any(outcome_of(spec, output).record is not None for spec in finals_of(study, choice, name))
    return choice if read else None


def _tried_choice(study: StudySettings, variant: Variant, output: Path, name: str) -> Choice | None:
    """Return an arm's choice by the trials on disk, None where one has not been run."""
    trials = [outcome_of(spec, output) for spec in tuning_runs(study, variant, name)]
    if any(trial.record is None and trial.failure is None for trial in trials):
        return None
    return choose_setting(study, variant, trials)


def finals_of(study: StudySettings, choice: Choice, name: str) -> list[RunSpec]:
    """Return the final runs of an arm as it was tuned; none where no setting has all its trials."""
    if choice.learning_rate is None or choice.beta is None:
        return []
    return list(final_runs(study, choice.variant, name, choice.learning_rate, choice.beta))


def choose_setting(study: StudySettings, variant: Variant, trials: Sequence[Outcome]) -> Choice:
    """Take the setting of the highest primary measure, in the mean over its seeds; of equal ones the first.

    Trials are in the order of learning rates, then betas. A setting of which a trial failed is not taken. Without
    trials it is the grid's only one.

    Raises:
        RunError: the trials were not measured by the primary measure.
    """
    if not study.tuning.seeds:
        grid = study.arms[variant.arm].tuning or study.tuning
        return Choice(variant, [], grid.learning_rate[0], grid.beta[0])
    found: dict[tuple[float | None, float | None], list[Outcome]] = {}
    for trial in trials:
        found.setdefault((trial.spec.learning_rate, trial.spec.beta), []).append(trial)
    means = {
        setting: sum(_primary(study, trial) for trial in tried) / len(tried)
        for setting, tried in found.items()
        if all(trial.record is not None for trial in tried)
    }
    rate, beta = max(means, key=means.__getitem__) if means else (None, None)
    return Choice(variant, list(trials), rate, beta)


def _primary(study: StudySettings, outcome: Outcome) -> float:
    assert outcome.record is not None
    scores = outcome.record["scores"]
    if study.primary not in scores:
        raise RunError(f"nothing is measured as {study.primary}; there are {', '.join(sorted(scores))}")
    return float(scores[study.primary])


def outcome_of(spec: RunSpec, output: Path) -> Outcome:
    """Return what is on disk of a run."""
    folder = output / RUNS_FOLDER / spec.key
    for name in (RESULT_FILE, FAILURE_FILE):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except OSError:
            continue
        return Outcome(spec, record=content) if name == RESULT_FILE else Outcome(spec, failure=content["reason"])
    return Outcome(spec)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every run of a study is executed with."""

    study: StudySettings
    model: ModelSettings
    output: Path
    runner: Runner
    notify: Callable[[Outcome], None]
    started: Callable[[RunSpec], None]
    processes: int


def _execute_all(specs: Sequence[RunSpec], job: _Job) -> list[Outcome]:
    """Return the outcome of every run, in their order; those of the same key are executed once."""
    stop = Event()
    slots: SimpleQueue[Slot] = SimpleQueue()
    for number in range(job.processes):
        slots.put(Slot(number, job.processes, stop))

    def work(spec: RunSpec) -> Outcome:
        slot = slots.get()
        try:
            return _execute(spec, job, slot)
        finally:
            slots.put(slot)

    outcomes = []
    with ThreadPoolExecutor(job.processes) as pool:
        try:
            futures: dict[str, Future[Outcome]] = {}
            for spec in specs:
                if spec.key not in futures:
                    futures[spec.key] = pool.submit(work, spec)
            for spec in specs:
                outcome = replace(_result(futures[spec.key]), spec=spec)
                outcomes.append(outcome)
                job.notify(outcome)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return outcomes


def _result(future: Future[Outcome]) -> Outcome:
    """Wait for an outcome, a moment at a time: polars handles interrupts so that an endless wait would not end."""
    while not future.done():
        wait([future], timeout=0.5)
    return future.result()


def _check_device(study: StudySettings, arms: Sequence[Variant], output: Path, name: str) -> None:
    """Raise `InputError` if some runs are left and others took place elsewhere, in another number format perhaps."""
    specs = [start_run(study, name)]
    for variant in arms:
        choice = _tried_choice(study, variant, output, name)
        specs += tuning_runs(study, variant, name) + (finals_of(study, choice, name) if choice else [])
    records = [outcome_of(spec, output).record for spec in specs]
    others = {record["device"] for record in records if record is not None} - {device_name()}
    if others and None in records:
        raise InputError(
            f"it holds runs of {' and '.join(sorted(others))}, and those left would be of {device_name()}",
            file=output, hint="give another folder with --output: all arms have to run on one kind of device",
        )  # fmt: skip


def _execute(spec: RunSpec, job: _Job, slot: Slot) -> Outcome:
    known = outcome_of(spec, job.output)
    if known.record is not None:
        return known
    folder = job.output / RUNS_FOLDER / spec.key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    write_json(
        folder / SPEC_FILE,
        {
            "key": spec.key,
            "stage": spec.stage,
            "variant": spec.variant,
            "seed": spec.seed,
            "learning_rate": spec.learning_rate,
            "beta": spec.beta,
            "bench": spec.bench,
            "model": asdict(job.model),
            "keep_models": job.study.limits.keep_models,
            "work": spec.work,
        },
    )
    job.started(spec)
    began = time.perf_counter()
    try:
        job.runner(folder, 60 * job.study.limits.minutes_per_run, slot)
    except MixdpoError as error:
        seconds = round(time.perf_counter() - began, 1)
        write_json(folder / FAILURE_FILE, {"reason": str(error), "seconds": seconds})
    return outcome_of(spec, job.output)


def in_subprocess(folder: Path, seconds: float, slot: Slot) -> None:
    """Execute a run in its own process, its output in `log.txt`; raise `RunError` if it fails or takes too long."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    gpus = torch.cuda.device_count()
    if gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot.number % len(visible)]
    elif gpus == 0 and slot.count > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // slot.count))
    log, shown = folder / "log.txt", f"see {RUNS_FOLDER}/{folder.name}/log.txt"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "mixdpo.study.single_run", str(folder)]
        # The child ends when its standard input closes, so it does not outlive a study that is killed; in a session
        # of its own it does not get the terminal's Ctrl-C, which would look like a failure.
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = _wait(child, seconds, slot.stop)
        except subprocess.TimeoutExpired:
            raise RunError(f"stopped after {seconds / 60:.0f} minutes (limits.minutes_per_run); {shown}") from None
        finally:
            if child.poll() is None:  # too slow, or the study itself is being stopped
                os.killpg(child.pid, signal.SIGTERM)  # and what it started, such as a judge
                child.wait()
    if status != 0:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        reason = lines[-1].removeprefix("mixdpo: ") if lines else f"no word, status {status}"
        killed = f"ended by signal {-status}, which for 9 mostly means too little memory; " if status < 0 else ""
        raise RunError(f"{killed}{reason} ({shown})")


def _wait(child: subprocess.Popen[bytes], seconds: float, stop: Event) -> int:
    """Return a process's status; raise `Stopped` if the study is stopped before, `TimeoutExpired` if too slow."""
    end = time.monotonic() + seconds
    while not stop.is_set():
        try:
            return child.wait(timeout=min(0.5, max(end - time.monotonic(), 0)))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise
    raise Stopped
