"""The command line as a person uses it: results, and one line with exit status 2 for every kind of bad input."""

from __future__ import annotations

import errno
import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixdpo import MixDPOTrainer, Plan, __version__
from mixdpo.cli.main import main
from mixdpo.cli.recipe_options import quiet_libraries, with_keys
from mixdpo.common.errors import InputError
from mixdpo.common.settings import SECTIONS, split_overrides
from mixdpo.training.run_folder import logged_metrics
from synthetic import chat_rows
from tiny import tiny_llama

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rows() -> list[dict]:
    return chat_rows(20)


@pytest.fixture
def data(tmp_path, rows) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def model(tmp_path, tokenizer) -> Path:
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def recipe(tmp_path, data, model) -> Path:
    content = {
        "model": {"name_or_path": str(model)},
        "data": {"path": str(data)},
        "plan": {"name": "mixdpo", "threshold": {"hardest": 0.25}},
        "train": {
            "output_dir": str(tmp_path / "run"),
            "learning_rate": "1e-3",
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 2,
            "bf16": False,
            "use_cpu": True,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def one_line(capsys) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("mixdpo: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


def refused(capsys, *arguments: str | Path) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    return one_line(capsys)


# ---- what works ----


def test_plan_then_train_by_it_then_continue(capsys, tmp_path, data, recipe) -> None:
    plan = tmp_path / "plan.parquet"
    assert main(["plan", str(data), "--output", str(plan), "--plan.threshold", "1", "--plan.seed=3"]) == 0
    assert f"plan: {plan}" in capsys.readouterr().out
    assert Plan.load(plan).settings.threshold == 1
    band = tmp_path / "band.parquet"
    assert main(["plan", str(data), "--output", str(band), "--plan.threshold", "{outside: [0.25, 0.75]}"]) == 0
    assert Plan.load(band).settings.threshold == {"outside": [0.25, 0.75]}
    capsys.readouterr()
    arguments = ["train", "--config", str(recipe), "--plan", json.dumps({"path": str(plan)})]
    assert main(["train", str(data), "--config", str(recipe)]) == 0
    out, err = capsys.readouterr()
    assert "reference (train): 15 pairs" in err
    assert " 5/5  " in err, "progress, although the libraries are silent"
    assert f"run: {tmp_path / 'run'}" in out
    assert "rewards/accuracies" in out
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert "holds another run" in refused(capsys, *arguments)
    assert main(["train", "--config", str(recipe), "--resume"]) == 0


def test_data_named_on_the_command_line_is_read_by_its_own_columns_and_split(capsys, tmp_path, rows, recipe) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    renamed = [{**{k: v for k, v in row.items() if k != "chosen"}, "good": row["chosen"]} for row in rows]
    write(folder / "test.jsonl", renamed)
    content = yaml.safe_load(recipe.read_text())
    content["data"] = {"path": str(folder), "split": "test", "columns": {"chosen": "good"}, "max_pairs": 12}
    recipe.write_text(yaml.safe_dump(content))
    scored = tmp_path / "scored.parquet"
    assert main(["score", "--config", str(recipe), "--metric", "rating", "--output", str(scored)]) == 0
    plan = ["plan", "--config", str(recipe), "--output", str(tmp_path / "plan.parquet")]
    assert main([*plan, str(scored)]) == 0
    assert "read 12 rows, kept 12 pairs" in capsys.readouterr().out
    other = write(tmp_path / "other.jsonl", renamed)
    assert main([*plan, str(other), "--data.columns", "{chosen: good}"]) == 0
    assert "read 20 rows" in (out := capsys.readouterr().out)
    assert "together: 12 pairs" in out, "what is no property of the source is the recipe's"


def test_version_and_short_help(capsys) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    for command in ("train", "eval"):
        assert main([command, "-h"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: mixdpo {command}")


def test_a_model_can_be_named_as_in_commands_without_a_recipe(tmp_path) -> None:
    def read(*words: str) -> dict:
        return split_overrides(with_keys(words), SECTIONS)[1]["model"]

    assert read("--model", "some/model", "--model.dtype", "float32") == {
        "name_or_path": "some/model",
        "dtype": "float32",
    }
    assert read("--model=some/model") == {"name_or_path": "some/model"}
    assert read("--model", "{name_or_path: x, dtype: auto}") == {"name_or_path": "x", "dtype": "auto"}


def test_a_plan_by_its_name_takes_further_keys() -> None:
    def read(*words: str) -> dict:
        return split_overrides(with_keys(words), SECTIONS)[1]

    for words in (("--plan", "dpo", "--plan.seed", "1"), ("--plan.seed=1", "--plan=dpo")):
        assert read(*words) == {"plan": {"name": "dpo", "seed": 1}}
    assert read("--plan", "{path: plan.parquet}") == {"plan": {"path": "plan.parquet"}}
    with pytest.raises(InputError, match=r"--data\.split is a key of .* gives whole, as 'pairs\.jsonl'"):
        read("--data", "pairs.jsonl", "--data.split", "test")


def test_help_names_settings_units_and_defaults(capsys) -> None:
    assert main(["train", "--help", "all"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "--train.beta strength of the pull to the reference, per nat; temperature without one (default 0.1)",
        "--plan.threshold", "--data.contradictions", "--model.load_in_4bit", "TrainingArguments",
    ):  # fmt: skip
        assert text in out


# ---- bad settings ----


def test_wrong_words_point_to_the_help_of_their_command(capsys) -> None:
    assert refused(capsys, "eval", "pairwise", "a.jsonl", "--output", "o.json").endswith(
        "See mixdpo eval pairwise --help."
    )
    assert refused(capsys, "no-such-command").endswith("See mixdpo --help.")


def test_unknown_key_names_the_nearest(capsys, recipe) -> None:
    line = refused(capsys, "train", "--config", recipe, "--train.learnin_rate", "1e-5")
    assert "unknown key train.learnin_rate; did you mean train.learning_rate?" in line
    assert str(recipe) in line
    assert "did you mean plan" in refused(capsys, "train", "--config", recipe, "--plann.seed", "1")
    assert "did you mean plan.threshold" in refused(capsys, "plan", "x.jsonl", "--plan.treshold", "1")


def test_wrong_type_says_what_is_expected(capsys, recipe) -> None:
    line = refused(capsys, "train", "--config", recipe, "--train.beta", "much")
    assert "train.beta" in line
    assert "'much'" in line
    assert "strength of the pull" in line
    assert "plan.order" in refused(capsys, "train", "--config", recipe, "--plan.order", "easiest")
    assert "peft.rank" in refused(capsys, "train", "--config", recipe, "--peft.rank", "4")
    # An option without a value is `true`, which as a number would be 1.
    for option in ("--train.beta", "--plan.threshold"):
        assert f"{option[2:]} needs a value" in refused(capsys, "train", "--config", recipe, option, "--train.bf16")


def test_a_group_without_a_command_shows_its_commands(capsys) -> None:
    for words, command in (([], "train"), (["eval"], "alpaca-eval")):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("Usage: mixdpo")
        assert command in error


def test_wrong_options_of_the_command_itself(capsys) -> None:
    assert "unexpected extra argument (b.jsonl)" in refused(capsys, "train", "a.jsonl", "b.jsonl")
    assert "Did you mean '--output'" in refused(capsys, "plan", "--outptu", "x")
    assert "Did you mean '--train.beta'" in refused(capsys, "train", "a.jsonl", "--beta", "0.05")
    assert "'--train.learning_rate'" in refused(capsys, "train", "a.jsonl", "--learning-rate", "1e-6")
    assert "'--data.seed', '--plan.seed', '--train.seed'" in refused(capsys, "train", "--seed", "1")


def test_recipe_files(capsys, tmp_path) -> None:
    assert "no such file" in refused(capsys, "train", "--config", tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("model:\n  name_or_path: x\n  : [")
    assert f"{broken}, row 3" in refused(capsys, "train", "--config", broken)
    broken.write_text("")
    assert "the file is empty" in refused(capsys, "train", "--config", broken)
    broken.write_text("train: {beta: 0.1}")
    assert "no model is given" in refused(capsys, "train", "--config", broken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan.threshold", "99"], "above every margin (they run from"),
        (["--plan.threshold", "-1"], "not above any margin"),
        (["--plan.threshold", "{outside: [0.75, 0.25]}"], "0 <= low < high <= 1"),
        (["--plan.threshold", "{column: tie}"], "column 'tie': there is no such column for plan.threshold"),
        (["--plan.name", "mixdp"], "did you mean mixdpo?"),
        (["--plan.path", "none.parquet"], "none.parquet: no such file"),
        (["--train.sft_target", "best"], "train.sft_target"),
        (["--train.loss_type", "dpo"], "no loss is named 'dpo'; did you mean sigmoid (which is DPO)?"),
        (["--model.name_or_path", "./no/such/model"], "no such model folder"),
        (["--model.dtype", "float8"], "model.dtype"),
        (["--data.columns", "{score_chosen: stars, score_rejected: stars}"], "column 'stars'"),
        (["--train.beta", "{"], "not valid YAML"),
    ],
)
def test_wrong_values(capsys, tmp_path, recipe, arguments, message) -> None:
    before = sorted(tmp_path.iterdir())
    assert message in refused(capsys, "train", "--config", recipe, *arguments)
    assert sorted(tmp_path.iterdir()) == before, "nothing half written"


# ---- bad data ----


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def changed(rows: list[dict], row: int, **values) -> list[dict]:
    return [{**r, **values} if i == row - 1 else r for i, r in enumerate(rows)]


@pytest.mark.parametrize(
    ("fault", "messages"),
    [
        (lambda rows: [*rows[:3], '{"prompt": "a", "chosen', *rows[3:]], ["row 4", "not valid JSON"]),
        (lambda rows: changed(rows, 6, chosen=3), ["row 6", "column 'chosen'"]),
        (lambda rows: changed(rows, 2, score_chosen=float("nan")), ["row 2", "score_chosen", "NaN", "invalid_scores"]),
        (lambda rows: changed(rows, 5, score_rejected=float("inf")), ["row 5", "score_rejected", "infinite"]),
        (lambda rows: changed(rows, 7, score_chosen=None), ["row 7", "missing"]),
        (lambda rows: changed(rows, 4, score_chosen="good"), ["row 4", "score_chosen"]),
        (
            lambda rows: [{k: v for k, v in r.items() if k != "rejected"} for r in rows],
            ["column 'rejected'", "map it"],
        ),
        (lambda rows: [{k: v for k, v in r.items() if "score" not in k} for r in rows], ["needs scores"]),
        (lambda rows: [{**r, "rejected": r["chosen"]} for r in rows], ["all 20 rows were dropped", "the same"]),
        (lambda rows: [], ["empty"]),
        (lambda rows: ["3"], ["row 1"]),
    ],
)
def test_bad_rows(capsys, tmp_path, rows, fault, messages) -> None:
    path = write(tmp_path / "bad.jsonl", fault(rows))
    line = refused(capsys, "plan", path, "--output", tmp_path / "plan.parquet")
    for message in messages:
        assert message in line
    assert "bad.jsonl" in line or "needs scores" in line
    assert not (tmp_path / "plan.parquet").exists()


def test_bad_files(capsys, tmp_path) -> None:
    assert "no such file" in refused(capsys, "plan", tmp_path / "none.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is none")
    assert "broken" in refused(capsys, "plan", tmp_path / "broken.parquet")
    (tmp_path / "notes.docx").write_text("x")
    assert "not read" in refused(capsys, "plan", tmp_path / "notes.docx")
    assert "none/such-data" in refused(capsys, "plan", "none/such-data")


def test_messages_need_a_chat_template(capsys, tmp_path, recipe, tokenizer, model) -> None:
    (model / "chat_template.jinja").unlink()
    line = refused(capsys, "train", "--config", recipe)
    assert "no chat template" in line
    assert "model.chat_template" in line
    (tmp_path / "template.jinja").write_text(tokenizer.chat_template)
    assert main(["train", "--config", str(recipe), "--model.chat_template", str(tmp_path / "template.jinja")]) == 0


def test_plan_of_other_data(capsys, tmp_path, recipe, data) -> None:
    other = write(tmp_path / "other.jsonl", chat_rows(20, seed=9))
    assert main(["plan", str(other), "--output", str(tmp_path / "plan.parquet")]) == 0
    line = refused(capsys, "train", "--config", recipe, "--plan", json.dumps({"path": str(tmp_path / "plan.parquet")}))
    assert "other data" in line


def test_a_plan_of_stages_is_trained_by_them(capsys, tmp_path, recipe, data) -> None:
    stages = ("--plan.stages", "2", "--plan.stage_metric", "nll_gap")
    assert main(["plan", str(data), *stages, "--output", str(tmp_path / "plan.parquet")]) == 0
    assert "stages: 2; these are order and routes of the start" in capsys.readouterr().out
    assert main(["reference", "--config", str(recipe), *stages]) == 0
    assert main(["train", "--config", str(recipe), *stages]) == 0
    assert {path.name for path in (tmp_path / "run" / "plans").iterdir()} == {"stage-1.parquet", "stage-2.parquet"}
    line = refused(capsys, "train", "--config", recipe, *stages, "--train.phase_schedule", "rewarmed", "--output", "x")
    assert "phase_schedule rewarmed" in line


def test_model_folder_without_a_model(capsys, tmp_path, recipe) -> None:
    (tmp_path / "empty").mkdir()
    line = refused(capsys, "train", "--config", recipe, "--model.name_or_path", tmp_path / "empty")
    assert "config.json is missing" in line


def test_a_run_of_fewer_steps_than_logging_steps_shows_how_it_ended(capsys, tmp_path, recipe) -> None:
    assert main(["train", "--config", str(recipe), "--train.logging_steps", "100"]) == 0
    assert "rewards/margins" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "run"), "--output", str(tmp_path / "comparison")]) == 0
    assert "training accuracy" in capsys.readouterr().out


# ---- interruptions ----


def test_run_that_failed_before_its_first_checkpoint_starts_anew(capsys, monkeypatch, tmp_path, recipe) -> None:
    def fail(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MixDPOTrainer, "_save_checkpoint", fail)
        assert main(["train", "--config", str(recipe)]) == 1
    capsys.readouterr()
    assert "start the run anew, without --resume" in refused(capsys, "train", "--config", str(recipe), "--resume")
    assert main(["train", "--config", str(recipe)]) == 0


@pytest.mark.parametrize(
    ("name", "word"), [("scored.txt", "end --output with one of .parquet"), ("a.parquet", "a folder")]
)
def test_where_scores_cannot_be_written(capsys, tmp_path, recipe, name, word) -> None:
    (tmp_path / "a.parquet").mkdir()
    line = refused(capsys, "score", "--config", recipe, "--metric", "rating", "-o", tmp_path / name)
    assert word in line


def test_a_batch_that_does_not_fit_names_what_to_lower(capsys, monkeypatch, recipe) -> None:
    def fail(*_, **__) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words.")

    monkeypatch.setattr(MixDPOTrainer, "training_step", fail)
    assert main(["train", "--config", str(recipe)]) == 1
    line = one_line(capsys)
    assert "Tried to allocate 2.00 GiB" in line
    assert "train.max_tokens_per_batch" in line


def test_a_place_that_may_not_be_written_to(capsys, monkeypatch, tmp_path, recipe) -> None:
    monkeypatch.setattr("mixdpo.common.files.os.access", lambda path, _: path != tmp_path)
    line = refused(capsys, "train", "--config", str(recipe))
    assert f"{tmp_path}: no permission to write there; choose another --output" in line


def test_evaluation_needs_pairs(capsys, recipe) -> None:
    line = refused(capsys, "train", "--config", recipe, "--train.eval_strategy", "epoch")
    assert "train.eval_strategy is epoch, without a section eval_data or answers" in line


def test_the_model_of_the_best_answers_is_kept(capsys, tmp_path, recipe, jsonl) -> None:
    """Without other pairs; the judge prefers long answers."""
    prompts = jsonl([{"prompt": f"{number} cats?"} for number in range(4)], "prompts.jsonl")
    words = {
        "answers.prompts": prompts, "answers.max_new_tokens": 6, "answers.judge.kind": "program",
        "answers.judge.judge": "awk '{print length($0)}'", "train.eval_strategy": "steps", "train.eval_steps": 1,
        "train.save_strategy": "best", "train.metric_for_best_model": "answers/win_rate",
        "train.load_best_model_at_end": "true", "train.early_stopping_patience": 1, "train.learning_rate": "0.01",
    }  # fmt: skip
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    assert main(["train", "--config", str(recipe), *options]) == 0
    lines = [m for m in logged_metrics(tmp_path / "run") if "eval_answers/win_rate" in m]
    best = max(lines, key=lambda line: line["eval_answers/win_rate"])
    kept = load_file(tmp_path / "run" / "model" / "model.safetensors")
    saved = load_file(tmp_path / "run" / f"checkpoint-{best['step']}" / "model.safetensors")
    assert all(torch.equal(kept[name], saved[name]) for name in saved)
    assert lines[-1]["step"] - best["step"] <= 1, "it stops at the first step without a gain"


def test_a_tracker_that_is_not_installed_is_named(capsys, monkeypatch, recipe) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    line = refused(capsys, "train", "--config", str(recipe), "--train.report_to", "wandb")
    assert "train.report_to: WandbCallback requires wandb" in line
    assert "pip install wandb" in line


def test_an_adapter_is_no_model_to_start_from(capsys, tmp_path, recipe, model) -> None:
    adapter = tmp_path / "adapter"
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(adapter)
    AutoTokenizer.from_pretrained(model).save_pretrained(adapter)
    line = refused(capsys, "train", "--config", recipe, "--model.name_or_path", adapter)
    assert f"--model.name_or_path BASE --model.adapter {adapter}" in line
    assert main(["train", "--config", str(recipe), "--model.adapter", str(adapter), "--train.max_steps", "1"]) == 0
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()


def test_interrupt_and_full_disk_leave_the_last_checkpoint_usable(capsys, monkeypatch, tmp_path, recipe) -> None:
    original = MixDPOTrainer._save_checkpoint

    def fail(error: BaseException):
        def save(trainer: MixDPOTrainer, *args) -> None:
            if trainer.state.global_step < 4:
                original(trainer, *args)
            else:
                (Path(trainer.args.output_dir) / "checkpoint-4").mkdir(exist_ok=True)
                raise error

        return save

    monkeypatch.setattr(MixDPOTrainer, "_save_checkpoint", fail(OSError(errno.ENOSPC, "No space left on device")))
    assert main(["train", "--config", str(recipe)]) == 1
    line = one_line(capsys)
    assert "the disk is full" in line
    assert "--resume" in line
    monkeypatch.setattr(MixDPOTrainer, "_save_checkpoint", fail(PermissionError(errno.EACCES, "no", "x/y")))
    assert main(["train", "--config", str(recipe), "--resume"]) == 2
    assert "mixdpo: x/y: no permission; choose another place" in one_line(capsys)
    monkeypatch.setattr(MixDPOTrainer, "_save_checkpoint", fail(KeyboardInterrupt()))
    assert main(["train", "--config", str(recipe), "--resume"]) == 130
    line = one_line(capsys)
    assert "interrupted" in line
    assert "--resume" in line
    monkeypatch.setattr(MixDPOTrainer, "_save_checkpoint", original)
    assert main(["train", "--config", str(recipe), "--resume"]) == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [s for s in steps if s <= 4] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_end_before_training_it_says_how_to_go_on(capsys, monkeypatch, recipe, number) -> None:
    monkeypatch.setattr("mixdpo.recipe.runs.load_tokenizer", lambda _: signal.raise_signal(number))
    assert main(["train", "--config", str(recipe)]) == 143
    assert one_line(capsys).startswith("mixdpo: told to end; give the command again, with --resume if")
    assert signal.getsignal(number) is signal.SIG_DFL
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--config", str(recipe)]) == 143
    assert "mixdpo" not in capsys.readouterr().err


def test_parquet_and_json_give_the_same_plan(tmp_path, rows, data) -> None:
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    for name in ("pairs.jsonl", "pairs.parquet"):
        assert main(["plan", str(tmp_path / name), "--output", str(tmp_path / f"{name}.plan")]) == 0
    plans = [Plan.load(tmp_path / f"{name}.plan") for name in ("pairs.jsonl", "pairs.parquet")]
    assert plans[0].fingerprint == plans[1].fingerprint
    assert (plans[0].position == plans[1].position).all()


def test_demo_takes_its_own_model_option(tmp_path, capsys) -> None:
    assert main(["demo", "--short", "--model", str(tmp_path / "none"), "--output", str(tmp_path / "demo")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "written"), [("0", True), ("1", False)])
def test_of_several_processes_one_does_what_one_can(monkeypatch, tmp_path, jsonl, text_rows, rank, written) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, value)
    plan = tmp_path / "plan.parquet"
    assert main(["plan", jsonl(text_rows), "--plan.name", "dpo", "--output", str(plan)]) == 0
    assert plan.exists() == written


def test_bars_of_libraries_are_off_where_the_hub_is_imported_already(monkeypatch) -> None:
    for name in ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "0")
    enable_progress_bars()
    quiet_libraries()
    assert are_progress_bars_disabled()
