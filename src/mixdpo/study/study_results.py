"""The results of a study on disk: values of every test item, all runs, and what they were run with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import atomic_path, write_json
from mixdpo.study.run_study import FAILURE_FILE, RUNS_FOLDER, Outcome, StudyOutcomes, name_in_keys
from mixdpo.study.single_run import RESULT_FILE, VALUES_FILE, device_name
from mixdpo.study.study_settings import StudySettings

RESULTS_FILE: Final = "results.parquet"
RUNS_FILE: Final = "runs.json"
START: Final = "start"
RESULTS_VERSION: Final = 1
_RECORDED: Final = (
    "pairs", "pairs_trained", "updates", "routes", "training_seconds", "measuring_seconds", "peak_bytes", "device",
    "versions", "scores",
)  # fmt: skip


@dataclass(frozen=True)
class Results:
    """What a study found.

    Attributes:
        values: one row per arm, seed, item and measure, with the item's group and bucket; the start has seed 0.
        runs: study, choices and every run, as `runs.json` holds them.
    """

    values: pa.Table
    runs: dict[str, Any]

    def measures(self) -> list[str]:
        """Return the measures there are, the primary one first."""
        primary: str = self.runs["study"]["primary"]
        return [primary, *sorted(set(self.values["measure"].to_pylist()) - {primary})]

    def left_to_repeat(self) -> int:
        """Return how many runs failed that the study tries again: not trials of arms that have read the test split."""
        runs = self.runs["runs"]
        read = {run["arm"] for run in runs if run["stage"] == "final" and run["failure"] is None}
        failed = [run for run in runs if run["failure"] is not None]
        return len({run["key"] for run in failed if run["stage"] != "tune" or run["arm"] not in read})

    def items(self, measure: str, bucket: str | None = None) -> tuple[dict[str, dict[int, np.ndarray]], np.ndarray]:
        """Return the values of a measure by arm and seed, shape (items,) each, and the items' groups.

        Items are in the order of the first run's; only those of `bucket` if it is given.

        Raises:
            InputError: a run lacks an item that the first one has.
        """
        chosen = pc.equal(self.values["measure"], measure)
        if bucket is not None:
            chosen = pc.and_(chosen, pc.fill_null(pc.equal(self.values["bucket"], bucket), False))
        rows = self.values.filter(chosen)
        columns = {
            name: rows[name].to_numpy(zero_copy_only=False) for name in ("arm", "seed", "item", "group", "value")
        }
        found: dict[str, dict[int, np.ndarray]] = {}
        order = groups = np.array([], dtype=object)
        for arm, seed in dict.fromkeys(zip(columns["arm"].tolist(), columns["seed"].tolist(), strict=True)):
            here = (columns["arm"] == arm) & (columns["seed"] == seed)
            if not found:
                order, groups = columns["item"][here], columns["group"][here]
            if not np.array_equal(columns["item"][here], order):
                raise InputError(
                    f"arm {arm}, seed {seed} was not measured on the same items as the others", column=measure
                )
            found.setdefault(arm, {})[seed] = columns["value"][here]
        return found, groups


def gather(study: StudySettings, runs: StudyOutcomes, output: Path) -> Results:
    """Put the values and records of a study's runs together.

    Raises:
        RunError: no run was finished.
    """
    tables = []
    for outcome in (runs.start, *runs.finals):
        if outcome.record is None:
            continue
        table = pq.read_table(output / RUNS_FOLDER / outcome.spec.key / VALUES_FILE)
        table = table.add_column(0, "arm", pa.array([outcome.spec.variant] * len(table), pa.string()))
        tables.append(table.add_column(1, "seed", pa.array([outcome.spec.seed] * len(table), pa.int64())))
    if not tables:
        raise RunError(f"no run of the study was finished; see failed.json and log.txt in {output / RUNS_FOLDER}")
    return Results(pa.concat_tables(tables), _records(study, runs))


def save_results(results: Results, folder: Path) -> None:
    """Write `results.parquet` and `runs.json`."""
    with atomic_path(folder / RESULTS_FILE) as temporary:
        encoded = [name for name in results.values.column_names if name != "value"]
        pq.write_table(results.values, temporary, compression="zstd", compression_level=19, use_dictionary=encoded)
    write_json(folder / RUNS_FILE, results.runs)


def load_results(folder: Path) -> Results:
    """Read what `save_results` wrote.

    Raises:
        InputError: a file is missing, broken or of another version.
    """
    try:
        values = pq.read_table(folder / RESULTS_FILE)
        runs = json.loads((folder / RUNS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no results of a study", file=error.filename, hint="make them with `mixdpo study`") from None
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(f"results cannot be read ({error})", file=folder) from error
    if runs.get("version") != RESULTS_VERSION:
        raise InputError(
            f"results of format {runs.get('version')}, this version reads {RESULTS_VERSION}", file=folder / RUNS_FILE,
            hint="gather them anew with `mixdpo study`",
        )  # fmt: skip
    return Results(values, runs)


def take_over(results: Results, output: Path) -> int:
    """Give a folder of runs the finished runs of earlier results, so that a study there does not run them again.

    Their keys say what they are: runs that the study does not ask for do no harm.

    Returns:
        How many runs the folder did not have.

    Raises:
        InputError: they ran on another device, whose number format and kernels are others.
    """
    here = device_name()
    if others := set(results.runs["devices"]) - {here}:
        raise InputError(
            f"these runs are of {' and '.join(sorted(others))}, and runs here would be of {here}",
            hint="leave out --reuse: all arms of a study have to run on one kind of device",
        )
    arms, seeds = (results.values[name].to_numpy(zero_copy_only=False) for name in ("arm", "seed"))
    new = 0
    for run in results.runs["runs"]:
        folder = output / RUNS_FOLDER / run["key"]
        if (folder / RESULT_FILE).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if (
            run["failure"] is not None
        ):  # so that it is known: an arm's settings may have been chosen after a trial of it failed
            write_json(folder / FAILURE_FILE, {"reason": run["failure"]})
            continue
        if run["stage"] != "tune":  # of trials the scores alone are read
            rows = results.values.filter(pa.array((arms == run["arm"]) & (seeds == run["seed"])))
            with atomic_path(folder / VALUES_FILE) as temporary:
                pq.write_table(rows.drop_columns(["arm", "seed"]), temporary, compression="zstd")
        write_json(folder / RESULT_FILE, {name: run[name] for name in ("key", *_RECORDED) if name in run})
        new += 1
    return new


def _records(study: StudySettings, runs: StudyOutcomes) -> dict[str, Any]:
    trials = [trial for choice in runs.choices for trial in choice.trials]
    records = [_run(outcome) for outcome in (runs.start, *trials, *runs.finals)]
    machines = [outcome.record for outcome in (runs.start, *trials, *runs.finals) if outcome.record]
    return {
        "version": RESULTS_VERSION,
        "study": {
            "name": study.name,
            "title": study.title,
            "question": study.question,
            "baseline": study.baseline,
            "primary": study.primary,
            "level": study.level,
            "seeds": list(study.seeds),
            "model": name_in_keys(study),
            "peft": study.peft,
            "bench": dict(study.task_settings),
            "train": dict(study.train),
            "generation": asdict(study.generation),
            "tuning": asdict(study.tuning),
            "arms": {name: asdict(arm) for name, arm in study.arms.items()},
            "contrasts": {name: asdict(contrast) for name, contrast in study.contrasts.items()},
        },
        "arms": [
            {
                "name": choice.variant.name,
                "arm": choice.variant.arm,
                "matched": choice.variant.matched,
                "note": study.arms[choice.variant.arm].note,
                "learning_rate": choice.learning_rate,
                "beta": choice.beta,
            }
            for choice in runs.choices
        ],
        "runs": records,
        "devices": sorted({record["device"] for record in machines}),
        "versions": _distinct([record["versions"] for record in machines]),
    }


def _run(outcome: Outcome) -> dict[str, Any]:
    spec, record = outcome.spec, outcome.record or {}
    return {
        "stage": spec.stage,
        "arm": spec.variant,
        "seed": spec.seed,
        "learning_rate": spec.learning_rate,
        "beta": spec.beta,
        "key": spec.key,
        "failure": outcome.failure,
        **{name: record[name] for name in _RECORDED if name in record},
    }


def _distinct(versions: list[dict[str, str]]) -> dict[str, list[str]]:
    names = sorted({name for one in versions for name in one})
    return {name: sorted({one[name] for one in versions if name in one}) for name in names}
