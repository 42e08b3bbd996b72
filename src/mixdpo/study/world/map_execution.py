"""Executing the runs of a map: many in one process per core, each result a line of a file, so that a map can stop."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import LlamaForCausalLM

from mixdpo.common.errors import RunError
from mixdpo.study.world.language import Language
from mixdpo.study.world.map_runs import MapRun
from mixdpo.study.world.map_settings import START, MapSettings
from mixdpo.study.world.measure import measure, own_answers
from mixdpo.study.world.pairs import Candidates
from mixdpo.study.world.run_cell import CellRuns
from mixdpo.study.world.worlds import BASES, WORLDS, load_base

OWN_ANSWERS: Final = 8
"""Answers of a base to each of its prompts, of which there are twice as many as pairs in a run."""
_Task = tuple[MapSettings, list[MapRun]]
_results: Path | None = None
"""Where this process writes its results."""


def run_all(
    settings: MapSettings,
    runs: Sequence[MapRun],
    folder: Path,
    processes: int,
    notify: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Execute the runs that `folder` holds no result of, and return the results of all, in the order of `runs`.

    Args:
        settings: of the map.
        runs: what to run; of those with the same key one is executed.
        folder: holds `results-*.jsonl`, one line per run; every process appends to a file of its own.
        processes: at once, each on one core; with 1 the runs take place in this one.
        notify: called with (runs done, runs) as they end.

    Raises:
        RunError: the pairs of a cell cannot be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = [run.key(settings) for run in runs]
    total, done = len(set(keys)), read_results(folder)
    work = _tasks(settings, {key: run for key, run in zip(keys, runs, strict=True) if key not in done})
    count = total - sum(len(of_task) for _, of_task in work)
    notify(count, total)
    for number, problem in _executed(work, folder, processes):
        if problem is not None:
            raise RunError(problem)
        count += number
        notify(count, total)
    done = read_results(folder)
    return [done[key] for key in keys]


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the numbers of finished runs by key; a line that a killed process left unfinished is passed over."""
    found = {}
    for file in sorted(folder.glob("results-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            found[record.pop("key")] = record
    return found


def _tasks(settings: MapSettings, runs: Mapping[str, MapRun]) -> list[_Task]:
    """Put the runs of a cell and seed together, for they share their pairs, and all cells of a seed before the next.

    So a map that was stopped holds all cells of its first seeds, and is whole when its file names these.
    """
    groups: dict[tuple[int, str, str], list[MapRun]] = defaultdict(list)
    for run in runs.values():
        groups[run.seed, run.world, run.cell].append(run)
    return [(settings, groups[key]) for key in sorted(groups)]


def _executed(work: Sequence[_Task], folder: Path, processes: int) -> Iterator[tuple[int, str | None]]:
    """Yield of each task how many runs were done, and what was wrong, as tasks end."""
    if not work:
        return
    if processes == 1:
        with _one_thread():
            _begin(folder)
            yield from map(_execute, work)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(work)), _begin_worker, (folder,)) as pool:
        yield from pool.imap_unordered(_execute, work)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _begin_worker(folder: Path) -> None:
    # A terminal's Ctrl-C reaches all processes: the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _begin(folder)


def _begin(folder: Path) -> None:
    global _results  # a process of a pool is given nothing else that lasts
    _results = folder / f"results-{time.time_ns():x}-{os.getpid()}.jsonl"


@lru_cache(maxsize=len(WORLDS))
def _base(world: str, number: int, prompts: int) -> tuple[Language, LlamaForCausalLM, Candidates]:
    language, base = WORLDS[world](), load_base(world, number)
    return language, base, own_answers(language, base, prompts, OWN_ANSWERS, number)


def _execute(task: _Task) -> tuple[int, str | None]:
    settings, runs = task
    first = runs[0]
    language, base, own = _base(first.world, first.seed % BASES, 2 * settings.pairs)
    cell = settings.worlds[first.world].cells[first.cell]
    try:
        of_cell = CellRuns(language, base, own, cell.pairs, settings.pairs, first.seed)
    except ValueError as error:  # pairs that this world does not have
        return 0, f"{first.world}, {first.cell}: {error}"
    assert _results is not None
    with _results.open("a", encoding="utf-8") as file:
        for run in runs:
            if (parent := multiprocessing.parent_process()) is not None and not parent.is_alive():
                raise SystemExit  # killed, so nobody else will end this process
            file.write(json.dumps({"key": run.key(settings), **_run(of_cell, settings, run)}) + "\n")
            file.flush()
    return len(runs), None


def _run(of_cell: CellRuns, settings: MapSettings, run: MapRun) -> dict[str, float]:
    if run.arm == START:
        began = time.perf_counter()
        found = {**measure(of_cell.language, of_cell.base, of_cell.seed), **hard_pairs_of(of_cell)}
        return {**found, "measure_seconds": round(time.perf_counter() - began, 3)}
    assert run.learning_rate is not None
    assert run.beta is not None
    epochs = settings.worlds[run.world].cells[run.cell].epochs
    return of_cell.run(settings.arms[run.arm], run.learning_rate, run.beta, epochs, settings.batch_size)


def hard_pairs_of(of_cell: CellRuns) -> dict[str, float]:
    """Return what the hard pairs of a cell and seed are like.

    `hard_quality` is the mean true reward of their chosen answers, `hard_right` and `easy_right` the shares of labels
    that are right among hard pairs and others, equal answers counted half.
    """
    pairs, is_hard = of_cell.pairs, of_cell.is_hard
    right = 0.5 * (1 + np.sign(pairs.reward_chosen - pairs.reward_rejected))
    return {
        "hard_quality": float(pairs.reward_chosen[is_hard].mean()),
        "hard_right": float(right[is_hard].mean()),
        "easy_right": float(right[~is_hard].mean()),
    }
