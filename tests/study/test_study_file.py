"""Study files: what is accepted, what is refused, and which runs come of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from mixdpo.cli.main import main
from mixdpo.common.files import content_name
from mixdpo.study.run_specs import final_runs, tuning_runs, variants
from mixdpo.study.study_file import load_study
from nested import with_values
from synthetic import chat_rows

STUDIES = Path(__file__).parents[2] / "studies"
OWN_FILES = STUDIES / "graded.yaml"

CONTENT: dict[str, Any] = {
    "title": "A study",
    "bench": {"kind": "demands", "pairs": 64, "rater": {"noise": 0.7, "tie_share": 0.12}},
    "train": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_length": 512},
    "arms": {
        "dpo": {"plan": {"name": "dpo"}},
        "sft on hard": {"plan": {"name": "mixdpo", "threshold": {"hardest": 0.25}}},
        "drop": {"plan": {"name": "selective_dpo", "threshold": {"hardest": 0.25}}},
        "sft": {"plan": {"name": "sft_chosen"}},
    },
    "baseline": "dpo",
    "tuning": {"learning_rate": [1.0e-5, 3.0e-5], "beta": [0.05, 0.2]},
    "seeds": [1, 2],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    return with_values(CONTENT, {path: value})


@pytest.fixture
def write(tmp_path: Path):
    def to_file(content: dict[str, Any]) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return to_file


def test_arms_that_drop_pairs_run_at_equal_epochs_and_at_equal_updates(write) -> None:
    study = load_study(write(CONTENT))
    names = [variant.name for variant in variants(study)]
    assert names == ["dpo", "sft on hard", "drop (equal epochs)", "drop (equal updates)", "sft"]
    (updates,) = (variant.updates for variant in variants(study) if variant.updates is not None)
    assert updates == 64 // 8
    training = {variant.name: tuning_runs(study, variant, "model")[0].work["training"] for variant in variants(study)}
    assert training["drop (equal updates)"]["train"]["max_steps"] == updates
    assert "max_steps" not in training["drop (equal epochs)"]["train"]


def test_an_arm_that_is_refilled_has_equal_updates_already(write) -> None:
    study = load_study(write(changed("arms/drop/plan/refill", True)))
    assert [variant.name for variant in variants(study)] == list(CONTENT["arms"])


def test_arms_that_all_drop_as_many_run_once(write) -> None:
    parts = ("easy", "middle", "hard", "random")
    arms = {part: {"plan": {"name": "dpo"}, "subset": {"part": part}} for part in parts}
    study = load_study(write({**CONTENT, "arms": arms, "baseline": "random"}))
    assert [variant.name for variant in variants(study)] == list(parts)


def test_every_arm_has_as_many_trials_with_the_same_everything_else(write) -> None:
    study = load_study(write(CONTENT))
    for variant in variants(study):
        trials = tuning_runs(study, variant, "model")
        assert [(trial.learning_rate, trial.beta) for trial in trials] == [
            (1e-5, 0.05), (1e-5, 0.2), (3e-5, 0.05), (3e-5, 0.2),
        ]  # fmt: skip
        assert {(trial.seed, trial.split) for trial in trials} == {(1000, "validation")}
        # SFT reads no beta, so two of its trials are one run.
        assert len({trial.key for trial in trials}) == (2 if variant.name == "sft" else 4)
        finals = list(final_runs(study, variant, "model", 1e-5, 0.2))
        assert [(spec.seed, spec.split) for spec in finals] == [(1, "test"), (2, "test")]


def test_an_arm_may_be_calibrated(write) -> None:
    study = load_study(write(changed("arms/dpo/train", {"reward_calibration": True})))
    assert study.arms["dpo"].train["reward_calibration"] is True


def test_beta_is_read_where_a_shared_loss_of_the_hard_route_reads_it(write) -> None:
    study = load_study(write(changed("train/hard_loss_type", "simpo")))
    (sft,) = (variant for variant in variants(study) if variant.name == "sft")
    assert len({trial.key for trial in tuning_runs(study, sft, "model")}) == 4


def test_keys_know_settings_and_not_names(write) -> None:
    def keys(content: dict[str, Any]) -> list[str]:
        study = load_study(write(content))
        return [spec.key for variant in variants(study) for spec in tuning_runs(study, variant, "model")]

    before = keys(CONTENT)
    renamed = {**CONTENT, "title": "Other", "arms": {f"{name} 2": arm for name, arm in CONTENT["arms"].items()}}
    assert keys({**renamed, "baseline": "dpo 2"}) == before
    assert not set(keys(changed("bench/rater/noise", 0.5))) & set(before)
    assert not set(keys(changed("train/max_length", 256))) & set(before)
    assert not set(keys(changed("generation", {"max_new_tokens": 60}))) & set(before)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("arm", {}, ["unknown key arm", "did you mean arms?"]),
        ("arms/dpo/plans", {}, ["unknown key arms.dpo.plans", "arms.dpo.plan?"]),
        ("arms/dpo/plan", {"order": "sorted"}, ["arms.dpo.plan.order"]),
        ("arms/dpo/plan", {"seed": 3}, ["arms.dpo.plan.seed", "the study's own"]),
        ("arms/dpo/train", {"learning_rate": 1e-4}, ["arms.dpo.train.learning_rate", "unlike the others"]),
        ("arms/dpo/train", {"gradient_accumulation_steps": 8}, ["unlike the others", "section train"]),
        ("train/hub_token", "hf_hidden", ["train.hub_token", "recorded", "hf auth login"]),
        ("arms/dpo/train", {"loss_typ": "ipo"}, ["arms.dpo.train.loss_typ", "loss_type?"]),
        ("arms/dpo/tuning", {"learning_rate": [1e-5], "beta": [1.0]}, ["1 trials, the other arms 4"]),
        ("arms/dpo/subset", {"part": "hard", "share": 1.5}, ["arms.dpo.subset.share"]),
        ("arms/dpo/score", ["nonsense"], ["no metric is named 'nonsense'"]),
        ("train/beta", 0.1, ["train.beta is the study's own", "tuning"]),
        ("train/seed", 1, ["train.seed is the study's own"]),
        ("tuning/learning_rate", [], ["a grid needs"]),
        ("tuning", None, ["no tuning is given"]),
        ("seeds", [1, 1], ["seeds must differ"]),
        ("seeds", [1000], ["seeds must differ", "tuning.seeds"]),
        ("tuning/seeds", [], ["tuning.seeds"]),
        ("seeds", "5", ["seeds must be a list"]),
        ("baseline", "dpq", ["baseline dpq", "did you mean baseline dpo?"]),
        ("bench/kind", "nothing", ["bench.kind", "demands, files"]),
        ("bench/pairs", 100_000, ["bench.pairs is 100000"]),
        ("bench/rater", {"noise": -1.0}, ["noise is -1"]),
        ("limits", {"keep_model": True}, ["limits.keep_model", "keep_models?"]),
        ("limits", {"processes": -1}, ["limits.processes is -1"]),
        ("limits", {"minutes_per_run": 0}, ["limits.minutes_per_run is 0"]),
        ("primary", "demands_mett", ["primary is 'demands_mett'", "demands_met, finished, tokens"]),
        ("primary", "preference_accuracy", ["primary is 'preference_accuracy'", "validation split"]),
        ("arms/drop/plan/threshold", {"middle": 0.25}, ["threshold is {'middle': 0.25}"]),
        ("arms/drop/plan/threshold", {"hardest": 1.5}, ["threshold is {'hardest': 1.5}"]),
        ("arms/dpo/plan", {"name": "dpo", "first": "hard"}, ["first: hard needs two routes"]),
        ("arms/drop/plan/easy_route", "drop", ["arms.drop drops every pair"]),
        ("arms/dpo/train", {"loss_type": "simpoo"}, ["arms.dpo: no loss is named 'simpoo'", "simpo?"]),
        ("train/per_device_train_batch_size", 0, ["per_device_train_batch_size is 0"]),
        ("train/num_train_epochs", -1, ["num_train_epochs is -1"]),
        ("model", {"name_or_path": "some/model", "adapter": "some/adapter"}, ["model.adapter", "merge"]),
        ("level", 95, ["level is 95"]),
        ("name", "a/b", ["name is 'a/b'"]),
        ("arms/start", {}, ["cannot be named start"]),
        ("contrasts", ["dpo"], ["contrasts must be a mapping"]),
        ("contrasts/c", {"arms": ["drop"], "againts": ["dpo"]}, ["contrasts.c.againts", "against?"]),
        ("contrasts/c", {"arms": ["drip"], "against": ["dpo"]}, ["drip", "did you mean drop?"]),
        ("contrasts/c", {"arms": ["drop"], "against": []}, ["contrasts.c needs different arms"]),
        ("contrasts/c", {"arms": ["drop", "dpo"], "against": ["dpo"]}, ["contrasts.c needs different arms"]),
    ],
)
def test_what_would_be_wrong_or_unfair_is_refused_in_one_line(path, value, words, write, refused) -> None:
    file = write(changed(path, value))
    refused(lambda: load_study(file), str(file), *words)


def test_a_model_that_is_not_there_is_refused(write, refused) -> None:
    file = write(changed("model", {"name_or_path": "/nonexistent/model"}))
    refused(lambda: load_study(file), "/nonexistent/model", "no such model folder")


def test_dry_run_lists_runs_and_runs_nothing(write, tmp_path, capsys) -> None:
    content = {**CONTENT, "limits": {"seconds_per_pair": 10.0}}
    assert main(["study", str(write(content)), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "sft on hard" in out
    # 4 arms of 4 trials and SFT of 2 different ones, each with 2 seeds, and the start. 10 seconds a pair, 64 pairs a
    # run, but for the arm that drops a quarter of them at equal epochs.
    assert "29 runs left; expected time: " in out
    assert "4.7 hours, one after another, without measuring" in " ".join(out.split())
    assert not (tmp_path / "out").exists()
    assert main(["study", str(tmp_path / "none.yaml"), "--dry-run"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_numbers_that_yaml_reads_as_text_are_numbers(write) -> None:
    content = changed("train/weight_decay", "1e-2")
    content["arms"]["dpo"]["train"] = {"label_smoothing": "1e-1"}
    study = load_study(write(content))
    assert study.train["weight_decay"] == 0.01
    assert study.arms["dpo"].train == {"label_smoothing": 0.1}
    assert type(study.train["gradient_accumulation_steps"]) is int, "the rest is as it is written"


@pytest.mark.parametrize("file", sorted(set(STUDIES.glob("*.yaml")) - {OWN_FILES}), ids=lambda path: path.stem)
def test_study_files_of_the_project_load(file: Path) -> None:
    study = load_study(file)
    assert study.title
    assert study.question
    assert len(variants(study)) >= 3


def test_study_file_of_graded_answers_loads_beside_its_data(alpaca_graded: Path, monkeypatch) -> None:
    monkeypatch.chdir(alpaca_graded.parent)
    study = load_study(OWN_FILES)
    assert study.primary == "preference_accuracy"
    assert [variant.matched for variant in variants(study)] == [None, "epochs", "updates", None, None]


def test_studies_share_the_runs_they_have_in_common() -> None:
    """The core studies have one task, one grid and one budget, so DPO is tuned and run once for all of them."""
    keys = []
    for name in ("order", "hardest", "phase", "weights", "target", "losses", "metrics"):
        study = load_study(STUDIES / f"{name}.yaml")
        arm = next(variant for variant in variants(study) if variant.name == "DPO")
        keys.append({spec.key for spec in tuning_runs(study, arm, "model")})
    assert all(one == keys[0] for one in keys)


def test_a_study_of_files_takes_their_own_margins(write, tmp_path: Path, refused) -> None:
    rows = [{**row, "margin/mine": 1.0} for row in chat_rows(12)]
    for name, part in (("train", rows[:10]), ("test", rows[10:])):
        Dataset.from_list(part).to_parquet(tmp_path / f"{name}.parquet")
    files = {name: str(tmp_path / f"{name}.parquet") for name in ("train", "test")}
    content = changed("arms/sft on hard/plan/metric", "mine")
    content["bench"] = {"kind": "files", **files, "pairs": 4, "held_out_pairs": 2}
    content["model"] = {"name_or_path": "some/model"}
    assert load_study(write(content)).plan_of("sft on hard").metric == "mine"
    content["arms"]["dpo"]["score"] = ["other"]
    refused(lambda: load_study(write(content)), "no metric is named 'other'")


def test_a_model_folder_is_known_by_its_files(tmp_path: Path) -> None:
    for name, text in (("one", "weights"), ("two", "weights"), ("three", "others")):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "model.safetensors").write_text(text)
    one, two, three = (content_name(str(tmp_path / name / "model")) for name in ("one", "two", "three"))
    assert one == two != three
    assert one.startswith("model-")
    template = tmp_path / "template.jinja"
    names = []
    for text in ("one", "another"):
        template.write_text(text)
        names.append(content_name(str(template)))
    assert names[0] != names[1]
    assert content_name("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_example_of_the_docs_loads_on_ones_own_files(write, tmp_path: Path, monkeypatch) -> None:
    page = (STUDIES.parent / "docs" / "studies.md").read_text(encoding="utf-8")
    content = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert content["bench"]["pairs"] == 2000
    content["bench"]["pairs"] = content["bench"]["held_out_pairs"] = 8
    rows = chat_rows(40)
    for number, row in enumerate(rows):
        row["prompt"][0]["content"] += f" {number}"
    for name, part in (("train", rows[:30]), ("test", rows[30:])):
        Dataset.from_list(part).to_parquet(tmp_path / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    study = load_study(write(content))
    assert [variant.name for variant in variants(study)] == ["DPO", "MixDPO", "hardest 20 % to IPO", "SimPO"]
    assert len(tuning_runs(study, variants(study)[0], "model")) == 8


def test_help_lists_the_keys_of_a_study_file(capsys) -> None:
    assert main(["study", "--help", "all"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "kind: files",
        "judge_command",
        "keep_models",
        "seeds of the trials",
        "(default 240.0)",
        "tie_share",
    ):
        assert words in shown
