"""Studies end to end: on a tiny model, and with a simulated trainer whose arms are known."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset

from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.study import run_study as study_run
from mixdpo.study.analysis import analyse
from mixdpo.study.measures import VALUES_SCHEMA
from mixdpo.study.report_files import write_report
from mixdpo.study.run_specs import tuning_runs, variants
from mixdpo.study.run_study import Outcome, Slot, Stopped, StudyOutcomes, choose_setting, run_study
from mixdpo.study.single_run import device_name, execute_run
from mixdpo.study.study_file import load_study
from mixdpo.study.study_progress import plan_of_runs
from mixdpo.study.study_results import Results, gather, load_results, save_results, take_over
from mixdpo.study.study_settings import ContrastSettings, StudySettings
from study_summary import summary
from synthetic import chat_rows
from tiny import tiny_llama

JUDGE = "import json, sys\nfor line in sys.stdin: print(len(json.loads(line)['answer'].split()))"


def in_this_process(folder: Path, seconds: float, slot: Slot) -> None:
    execute_run(folder)


@pytest.fixture
def study_file(tokenizer, tmp_path: Path) -> Path:
    """A study of a tiny model on own files with a judge."""
    tiny_llama(vocab_size=len(tokenizer), positions=512).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = chat_rows(36)
    for number, row in enumerate(rows):
        row["prompt"][0]["content"] += f" {number}"  # no prompt twice
    for name, part in (("train", rows[:20]), ("validation", rows[20:26]), ("test", rows[26:])):
        Dataset.from_list(part).to_parquet(tmp_path / f"{name}.parquet")
    content = {
        "title": "Tiny",
        "question": "Does it run?",
        "bench": {
            "kind": "files",
            **{name: str(tmp_path / f"{name}.parquet") for name in ("train", "validation", "test")},
            "pairs": 16,
            "prompts": 4,
            "judge_command": [sys.executable, "-c", JUDGE],
        },
        "model": {"name_or_path": str(tmp_path / "model")},
        "train": {"per_device_train_batch_size": 4, "max_length": 128, "use_cpu": True, "disable_tqdm": True},
        "arms": {
            "dpo": {"plan": {"name": "dpo"}},
            "hard half": {"plan": {"name": "dpo"}, "subset": {"part": "hard", "share": 0.5}},
        },
        "baseline": "dpo",
        "tuning": {"learning_rate": [1.0e-3], "beta": [0.1]},
        "seeds": [1],
        "generation": {"max_new_tokens": 4},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def values_of(results: Results) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = results.values.to_pylist()
    return rows


@pytest.mark.slow
def test_a_killed_study_continues_to_the_same_table(study_file: Path, tmp_path: Path) -> None:
    study = load_study(study_file)
    whole = gather(study, run_study(study, tmp_path / "whole", runner=in_this_process), tmp_path / "whole")
    started: list[str] = []

    def killed_at_the_fourth(folder: Path, *arguments: Any) -> None:
        started.append(folder.name)
        if len(started) == 4:
            raise KeyboardInterrupt
        execute_run(folder)

    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "killed", runner=killed_at_the_fourth)
    done = len(list((tmp_path / "killed" / "runs").glob("*/result.json")))
    assert done >= 3
    started.clear()

    def counting(folder: Path, *arguments: Any) -> None:
        started.append(folder.name)
        execute_run(folder)

    runs = run_study(study, tmp_path / "killed", runner=counting)
    assert values_of(gather(study, runs, tmp_path / "killed")) == values_of(whole)
    # Trials of 3 arms as run, one final run of each, and the start.
    assert len(started) == len(set(started)) == 7 - done
    run_study(study, tmp_path / "killed", runner=counting)
    assert len(started) == 7 - done, "what is done is never run again"

    # A run that is executed anew gives the same numbers.
    one = runs.finals[0].spec.key
    shutil.rmtree(tmp_path / "killed" / "runs" / one)
    again = run_study(study, tmp_path / "killed", runner=in_this_process)
    assert values_of(gather(study, again, tmp_path / "killed")) == values_of(whole)

    records = {outcome.spec.variant: outcome.record for outcome in runs.finals}
    assert {name: record["updates"] for name, record in records.items() if record} == {
        "dpo": 4, "hard half (equal epochs)": 2, "hard half (equal updates)": 4,
    }  # fmt: skip
    measures = {"judge", "finished", "tokens", "preference_accuracy", "displacement_chosen", "displacement_rejected"}
    assert set(whole.measures()) == measures
    moved = [row["value"] for row in values_of(whole) if row["measure"] == "displacement_chosen"]
    start = [r["value"] for r in values_of(whole) if r["measure"] == "displacement_chosen" and r["arm"] == "start"]
    assert any(moved)
    assert not any(start)
    folders = list((tmp_path / "killed" / "runs").glob("*/run"))
    assert folders
    assert not any((folder / "model").exists() for folder in folders), "models are deleted once they are measured"
    assert all((folder / "run.json").exists() for folder in folders), "runs are ordinary run folders"


@pytest.mark.slow
def test_the_verb_runs_each_cell_in_a_process_and_reports(study_file: Path, tmp_path: Path, capsys) -> None:
    content = yaml.safe_load(study_file.read_text())
    content["arms"].pop("hard half")
    # The threshold is above every margin, which only the pairs tell: its trial fails, and the study goes on.
    content["arms"]["broken"] = {"plan": {"name": "mixdpo", "threshold": 1e6}}
    study_file.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["study", str(study_file), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "broken, trial, seed 1000, rate 0.001, beta 0.1: failed:" in printed
    assert "the threshold 1e+06 is above every margin" in printed
    assert "1 runs failed; start the study again" in printed
    runs = json.loads((tmp_path / "out" / "tiny" / "runs.json").read_text())
    assert [run["arm"] for run in runs["runs"] if run["failure"]] == ["broken"]
    results = load_results(tmp_path / "out" / "tiny")
    assert {"start", "dpo"} == set(results.values["arm"].to_pylist())
    for name in ("tables.md", "tables.tex", "study.png", "study.svg"):
        assert (tmp_path / "out" / "tiny" / name).stat().st_size > 0


def simulated(study: StudySettings, effects: dict[str, float], best_rate: float = 3e-5, ran: list[Any] | None = None):
    """A trainer whose models meet constraints at rates that are known: by arm, and lower away from the best rate."""

    def runner(folder: Path, *arguments: Any) -> None:
        spec = json.loads((folder / "spec.json").read_text())
        if ran is not None:
            ran.append(spec)
        if effects.get(spec["variant"], 0.0) is None:
            raise RunError("planted failure")
        rng = np.random.default_rng([int(spec["key"], 16)])
        share = 0.3 + (effects.get(spec["variant"], 0.0) if spec["stage"] != "start" else -0.05)
        share -= 0.1 * (spec["learning_rate"] not in (None, best_rate))
        met = rng.binomial(3, share, size=120).astype(float)
        names = [f"{number:03}" for number in range(120)]
        table = pa.table([names, names, ["demands_met"] * 120, [None] * 120, met], schema=VALUES_SCHEMA)
        pq.write_table(table, folder / "values.parquet")
        record = {
            "scores": {"demands_met": met.mean()},
            "measuring_seconds": 1.0,
            "device": device_name(),
            "versions": {},
        }
        (folder / "result.json").write_text(json.dumps(record))

    return runner


SIMULATED = {
    "title": "Simulated",
    "bench": {"kind": "demands", "pairs": 64},
    "arms": {name: {"plan": {"name": name}} for name in ("dpo", "mixdpo", "dpo_sorted")},
    "baseline": "dpo",
    "tuning": {"learning_rate": [1.0e-5, 3.0e-5], "beta": [0.1]},
    "seeds": [1, 2, 3, 4, 5],
    "model": {"name_or_path": "simulated/model"},
}


@pytest.fixture
def simulated_study(tmp_path: Path) -> StudySettings:
    path = tmp_path / "simulated.yaml"
    path.write_text(yaml.safe_dump(SIMULATED, sort_keys=False))
    return load_study(path)


def test_a_planted_effect_is_found_and_the_test_split_is_read_after_tuning(simulated_study, tmp_path: Path) -> None:
    ran: list[Any] = []
    runner = simulated(simulated_study, {"mixdpo": 0.15, "dpo_sorted": 0.0}, ran=ran)
    runs: StudyOutcomes = run_study(simulated_study, tmp_path / "out", runner=runner)
    stages = [spec["stage"] for spec in ran]
    assert stages == ["tune"] * 6 + ["start"] + ["final"] * 15
    assert [spec["work"]["split"] for spec in ran] == ["validation"] * 6 + ["test"] * 16
    assert {choice.learning_rate for choice in runs.choices} == {3e-5}
    results = gather(simulated_study, runs, tmp_path / "out")
    save_results(results, tmp_path / "results")
    analysis = write_report(load_results(tmp_path / "results"), tmp_path / "results")
    assert analysis == analyse(results)
    arms = {arm.name: arm for arm in analysis.arms}
    effect = arms["mixdpo"].against_baseline
    assert effect.low < 0.45 < effect.high, "0.15 of three constraints"
    assert effect.p_adjusted < 0.05
    assert arms["dpo_sorted"].against_baseline.p_adjusted > 0.05
    gain = arms["dpo"].means["demands_met"] - arms["start"].means["demands_met"]
    assert arms["dpo"].against_start.estimate == pytest.approx(gain)
    table = (tmp_path / "results" / "tables.md").read_text()
    assert table.count("| tune |") == 6
    assert table.count("| final |") == 15

    # Elsewhere the committed results are enough to add an arm without running the others again.
    assert take_over(load_results(tmp_path / "results"), tmp_path / "elsewhere") == len({spec["key"] for spec in ran})
    assert take_over(load_results(tmp_path / "results"), tmp_path / "elsewhere") == 0
    elsewhere = replace(results, runs={**results.runs, "devices": ["another accelerator"]})
    with pytest.raises(InputError, match="these runs are of another accelerator"):
        take_over(elsewhere, tmp_path / "third")
    again: list[Any] = []
    runner = simulated(simulated_study, {}, ran=again)
    runs = run_study(simulated_study, tmp_path / "elsewhere", runner=runner)
    assert not again
    assert values_of(gather(simulated_study, runs, tmp_path / "elsewhere")) == values_of(results)
    more = replace(simulated_study, seeds=(*simulated_study.seeds, 6))
    run_study(more, tmp_path / "elsewhere", runner=runner)
    assert [(spec["stage"], spec["seed"]) for spec in again] == [("final", 6)] * 3


def test_a_setting_is_judged_by_its_mean_over_the_tuning_seeds(simulated_study, tmp_path: Path) -> None:
    tuning = replace(simulated_study.tuning, seeds=[1000, 1001, 1002])
    study = replace(simulated_study, tuning=tuning, arms={"dpo": simulated_study.arms["dpo"]})
    scores = {(1e-5, 1000): 0.9, (1e-5, 1001): 0.1, (1e-5, 1002): 0.2, (3e-5, 1000): 0.5}
    outcomes = [
        Outcome(spec, record={"scores": {"demands_met": scores.get((spec.learning_rate, spec.seed), 0.5)}})
        for spec in tuning_runs(study, variants(study)[0], "simulated")
    ]
    assert len(outcomes) == 6
    assert choose_setting(study, variants(study)[0], outcomes).learning_rate == 3e-5
    broken = [*outcomes[:5], replace(outcomes[5], record=None)]
    assert choose_setting(study, variants(study)[0], broken).learning_rate == 1e-5, "a trial of 3e-5 failed"


def test_an_arm_whose_trials_fail_is_listed_and_the_others_go_on(simulated_study, tmp_path: Path) -> None:
    broken: Any = {"mixdpo": None}
    runs = run_study(simulated_study, tmp_path / "out", runner=simulated(simulated_study, broken))
    assert [choice.learning_rate for choice in runs.choices] == [3e-5, None, 3e-5]
    analysis = analyse(gather(simulated_study, runs, tmp_path / "out"))
    failed = [run for run in analysis.runs["runs"] if run["failure"]]
    assert [run["failure"] for run in failed] == ["planted failure"] * 2
    # The cause is gone: only what failed is run.
    ran: list[Any] = []
    run_study(simulated_study, tmp_path / "out", runner=simulated(simulated_study, {}, ran=ran))
    assert [spec["variant"] for spec in ran] == ["mixdpo"] * 7


@pytest.fixture
def sleeping(monkeypatch) -> list[Any]:
    """Processes that sleep a minute, in place of those of runs."""
    started: list[Any] = []
    real = study_run.subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        started.append(real(["sleep", "60"], **options))
        return started[-1]

    monkeypatch.setattr(study_run.subprocess, "Popen", start)
    return started


def test_a_run_that_takes_too_long_is_stopped(sleeping, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="minutes_per_run"):
        study_run.in_subprocess(tmp_path, 0.5, Slot(0, 1, Event()))
    assert sleeping[0].poll() is not None


def test_a_run_ends_with_the_study_and_did_not_fail(sleeping, tmp_path: Path) -> None:
    stop = Event()
    Timer(0.2, stop.set).start()
    with pytest.raises(Stopped):
        study_run.in_subprocess(tmp_path, 60, Slot(0, 1, stop))
    assert sleeping[0].poll() is not None


def test_what_a_run_started_ends_with_it(monkeypatch, tmp_path: Path) -> None:
    judge = "(trap 'echo ended; exit' TERM; echo ready; sleep 60 & wait) & wait"
    real = study_run.subprocess.Popen
    monkeypatch.setattr(study_run.subprocess, "Popen", lambda command, **options: real(["sh", "-c", judge], **options))
    stop = Event()

    def written(word: str) -> None:
        while word not in (tmp_path / "log.txt").read_text():
            time.sleep(0.05)
        stop.set()

    (tmp_path / "log.txt").touch()
    Thread(target=written, args=["ready"]).start()
    with pytest.raises(Stopped):
        study_run.in_subprocess(tmp_path, 60, Slot(0, 1, stop))
    waiting = Thread(target=written, args=["ended"], daemon=True)
    waiting.start()
    waiting.join(timeout=30)
    assert not waiting.is_alive()


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests themselves were started with
from pathlib import Path
from mixdpo.study import run_study as run
from mixdpo.study.study_file import load_study
real = run.subprocess.Popen
run.subprocess.Popen = lambda command, **options: real(["sleep", "60"], **options)
run.run_study(load_study(sys.argv[1]), Path(sys.argv[2]), started=lambda spec: print("started", flush=True))
"""


@pytest.mark.slow
def test_an_interrupted_study_ends_at_once_and_nothing_has_failed(tmp_path: Path) -> None:
    file, out = tmp_path / "simulated.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(SIMULATED, sort_keys=False))
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(file), str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as study:  # fmt: skip
        assert study.stdout is not None
        assert study.stdout.readline() == "started\n"
        study.send_signal(signal.SIGINT)
        _, error = study.communicate(timeout=30)
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert not list(out.glob("runs/*/failed.json"))


def test_the_test_split_is_not_read_again_with_other_settings(simulated_study, tmp_path: Path) -> None:
    study, out = replace(simulated_study, seeds=(1, 2)), tmp_path / "out"

    def failing_at_the_best_rate(folder: Path, *arguments: Any) -> None:
        spec = json.loads((folder / "spec.json").read_text())
        if (spec["stage"], spec["variant"], spec["learning_rate"]) == ("tune", "mixdpo", 3e-5):
            raise RunError("out of memory")
        simulated(study, {})(folder)

    first = run_study(study, out, runner=failing_at_the_best_rate)
    assert [choice.learning_rate for choice in first.choices] == [3e-5, 1e-5, 3e-5]
    # The cause is gone, but two models of 1e-5 were measured on the test split.
    results = gather(study, first, out)
    assert results.left_to_repeat() == 0
    assert [one.left for one in plan_of_runs(study, out)] == [0] * 4
    save_results(results, tmp_path / "results")
    take_over(load_results(tmp_path / "results"), tmp_path / "elsewhere")
    again: list[Any] = []
    noted: list[Outcome] = []
    for folder in (tmp_path / "elsewhere", out):
        again.clear()
        noted.clear()
        second = run_study(
            replace(study, seeds=(1, 2, 3)), folder, runner=simulated(study, {}, ran=again), notify=noted.append
        )
        assert [choice.learning_rate for choice in second.choices] == [3e-5, 1e-5, 3e-5]
        assert [(spec["stage"], spec["seed"]) for spec in again] == [("final", 3)] * 3
        assert sum(outcome.spec.stage == "tune" for outcome in noted) == 6, "those of settled arms too"
    sentences = " ".join(summary(analyse(gather(study, second, out))))
    assert "Tuned by fewer trials than the others: **mixdpo**." in sentences


def test_runs_of_another_device_are_not_mixed_with_those_of_this(simulated_study, tmp_path: Path, refused) -> None:
    out = tmp_path / "out"
    runs = run_study(simulated_study, out, runner=simulated(simulated_study, {}))
    for path in (out / "runs").glob("*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "another accelerator"}))
    run_study(simulated_study, out, runner=simulated(simulated_study, {}))  # nothing is left to run
    shutil.rmtree(out / "runs" / runs.finals[0].spec.key)
    refused(
        lambda: run_study(simulated_study, out, runner=simulated(simulated_study, {})),
        str(out), "it holds runs of another accelerator", "--output",
    )  # fmt: skip


def test_settings_tuned_on_another_device_are_not_run_on_this(simulated_study, tmp_path: Path, refused) -> None:
    def stopped_before_the_finals(folder: Path, *arguments: Any) -> None:
        if json.loads((folder / "spec.json").read_text())["stage"] != "tune":
            raise KeyboardInterrupt
        simulated(simulated_study, {})(folder)
        record = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(record | {"device": "another accelerator"}))

    with pytest.raises(KeyboardInterrupt):
        run_study(simulated_study, tmp_path, runner=stopped_before_the_finals)
    ran: list[Any] = []
    more = replace(simulated_study, arms={**simulated_study.arms, "again": simulated_study.arms["dpo_sorted"]})
    for study in (simulated_study, more):
        refused(lambda: run_study(study, tmp_path, runner=simulated(study, {}, ran=ran)), "another accelerator")  # noqa: B023
    assert not ran


def test_a_baseline_or_an_arm_that_could_not_be_tuned_is_said(simulated_study, tmp_path: Path) -> None:
    contrast = ContrastSettings(arms=["mixdpo"], against=["dpo"])
    study = replace(simulated_study, contrasts={"mixed or not": contrast}, seeds=(1,))
    runs = run_study(study, tmp_path, runner=simulated(study, {"dpo": None}))
    sentences = " ".join(summary(analyse(gather(study, runs, tmp_path))))
    for words in (
        "2 runs failed, 2 of them trials",
        "Not run, since a trial of every setting failed: **dpo**.",
        "Without a finished run nothing is compared with the baseline: **dpo**.",
        "Contrasts that lack an arm: **mixed or not**.",
        "Of one seed, all 2 arms",
    ):
        assert words in sentences
    nothing = run_study(study, tmp_path / "none", runner=simulated(study, dict.fromkeys(["start", *study.arms])))
    with pytest.raises(RunError, match="no run of the study was finished"):
        gather(study, nothing, tmp_path / "none")
