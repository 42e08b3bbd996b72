"""`mixdpo convert` on the keys of published configurations of TRL, Axolotl and LLaMA-Factory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixdpo.cli.main import main
from mixdpo.recipe.convert.convert import convert, recipe_of, recipe_text
from mixdpo.recipe.recipe_file import load_recipe

FILES = Path(__file__).parent / "configurations"
SOURCES = {"trl": "trl", "axo": "axolotl", "lla": "llama-factory"}


def source_of(file: Path) -> str:
    return SOURCES[file.name[:3]]


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def run(name: str, **changes: Any) -> Any:
        file = FILES / name
        if changes:
            content = {**yaml.safe_load(file.read_text()), **changes}
            file = tmp_path / name
            file.write_text(yaml.safe_dump(content))
        return convert(file, source_of(file))

    return run


@pytest.mark.parametrize("file", sorted(FILES.iterdir()), ids=lambda file: file.name)
def test_every_key_is_accounted_for_and_the_recipe_is_taken(file: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(file), "--from", source_of(file)]) == 0
    told = capsys.readouterr().out
    conversion = convert(file, source_of(file))
    keys = {key for key, value in yaml.safe_load(file.read_text()).items() if value is not None}
    notes = {**conversion.guessed, **conversion.left_out, **conversion.needless}
    assert keys <= {*conversion.taken, *(note.partition(".")[0] for note in notes)}
    assert not conversion.given
    for note, reason in notes.items():
        assert f"  {note}: {reason}" in told
    recipe = load_recipe("recipe.yaml", {})
    assert recipe.model.name_or_path == "tiny/base"
    assert recipe.data is not None
    assert (recipe.plan.order, recipe.plan.threshold) == ("shuffled", None)
    recipe.training_config(str(tmp_path / "run"))
    text = Path("recipe.yaml").read_text()
    assert yaml.safe_load(text) == recipe_of(conversion)
    assert all(f"# left out: {key}: " in text for key in conversion.left_out)
    assert main(["convert", str(file), "--from", source_of(file)]) == 2, "it is not written over"


def test_trl(converted) -> None:
    recipe = converted("trl_qlora.yaml").recipe
    assert recipe["data"] == {"path": [{"path": "tiny/pairs", "split": "train_prefs", "weight": 0.5}]}
    assert recipe["eval_data"] == {"path": "tiny/pairs", "split": "test_prefs"}
    assert recipe["peft"] == {
        "r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    assert recipe["model"] == {"name_or_path": "tiny/base", "load_in_4bit": True, "dtype": "float16"}
    assert (recipe["train"]["eval_strategy"], recipe["train"]["warmup_steps"]) == ("steps", 0.1)

    mixture = converted("trl_mixture.yaml")
    assert [source.get("weight") for source in mixture.recipe["data"]["path"]] == [0.5, None]
    assert "test_split_size" in mixture.left_out
    whole = converted("trl_mixture.yaml", dataset_mixture={"datasets": [{"id": "a/b"}], "test_split_size": 0.1})
    assert [whole.recipe[name]["split"] for name in ("data", "eval_data")] == ["train[:90%]", "train[90%:]"]

    command = converted("trl_command.yaml")
    assert command.defaults == {
        "train.lr_scheduler_type": "linear", "train.warmup_steps": 0, "train.num_train_epochs": 3.0,
    }  # fmt: skip
    assert command.left_out["not_a_key_of_anybody"] == "not known as a key of TRL"


def test_what_a_parser_of_trl_switches_off(converted) -> None:
    command = converted("trl_command.yaml", no_remove_unused_columns=True, no_bf16=True, no_cuda=True)
    assert command.needless["remove_unused_columns"] == "is so in any case"
    assert (command.recipe["train"]["bf16"], command.recipe["train"]["use_cpu"]) == (False, True)


def test_a_value_adds_no_lines_to_the_recipe(converted, tmp_path: Path) -> None:
    text = recipe_text(converted("axolotl_lora.yml", chat_template="a\nmodel: {}"), tmp_path / "a.yml")
    assert "which may differ from a model: {}" in text
    assert yaml.safe_load(text)["model"]["name_or_path"]


def test_axolotl(converted) -> None:
    lora = converted("axolotl_lora.yml")
    train = lora.recipe["train"]
    assert lora.recipe["peft"]["target_modules"] == "all-linear"
    assert lora.recipe["data"]["columns"] == {"prompt": "conversation"}
    assert [lora.recipe[name]["split"] for name in ("data", "eval_data")] == ["train[:95%]", "train[95%:]"]
    assert (train["eval_steps"], train["save_strategy"]) == (1 / (4 * 4), "epoch")
    assert {"val_set_size", "chat_template"} == set(lora.guessed)

    qlora = converted("axolotl_qlora.yml")
    assert qlora.recipe["data"]["path"] == [
        {"path": "pairs.jsonl", "split": "train"},
        {"path": "tiny/questions", "split": "train", "columns": {"prompt": "question"}},
    ]
    assert (qlora.recipe["train"]["learning_rate"], qlora.recipe["train"]["beta"]) == (2e-4, 0.2)
    assert {"deepspeed", "dataset_exact_deduplication", "evals_per_epoch"} <= set(qlora.left_out)

    orpo = converted("axolotl_qlora.yml", rl="orpo", orpo_alpha=0.3, dpo_beta=None).recipe["train"]
    assert (orpo["loss_type"], orpo["beta"]) == ("orpo", 0.3)
    tracked = converted("axolotl_lora.yml", wandb_project="a", use_wandb=True, loss_watchdog_threshold=5.0)
    assert (tracked.recipe["train"]["report_to"], "use_wandb" in tracked.left_out) == (["wandb"], False)
    assert "not finite" in tracked.left_out["loss_watchdog_threshold"]
    own = {"field_prompt": "q", "field_chosen": "good", "field_rejected": "bad", "prompt_format": "[{prompt}]"}
    user = converted("axolotl_qlora.yml", datasets=[{"path": "a/b", "type": own}])
    assert user.recipe["data"]["columns"] == {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert "datasets.type.prompt_format" in user.left_out


def test_llama_factory(converted, tmp_path: Path) -> None:
    lora = converted("llama_factory_lora.yaml")
    assert [lora.recipe[name]["split"] for name in ("data", "eval_data")] == ["train[:900]", "train[900:1000]"]
    assert lora.recipe["peft"] == {"target_modules": "all-linear", "r": 8, "lora_alpha": 16}
    assert "dataset dpo_demo" in lora.guessed

    more = converted("llama_factory_lora.yaml", enable_thinking=False, early_stopping_steps=3, use_muon=False)
    assert more.recipe["model"]["chat_template_kwargs"] == {"enable_thinking": False}
    assert (more.recipe["train"]["early_stopping_patience"], more.needless["use_muon"]) == (3, "is off")
    adapter = converted("llama_factory_lora.yaml", adapter_name_or_path="tiny/adapter")
    assert (adapter.recipe["peft"], [name for name in adapter.defaults if "peft" in name]) == ({}, [])

    (tmp_path / "information").mkdir()
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    known = {"ranking": True, "hf_hub_url": "tiny/pairs", "subset": "en", "columns": columns}
    pictured = {"ranking": True, "file_name": "p.json", "columns": {"images": "images"}}
    information = {"known": known, "other": {"ranking": True, "file_name": "o.json"}, "pictured": pictured, "sft": {}}
    (tmp_path / "information" / "dataset_info.json").write_text(json.dumps(information))
    full = converted("llama_factory_full.yaml")
    assert full.recipe["data"]["path"] == [
        {"path": "tiny/pairs", "name": "en", "columns": {"prompt": "conversations"}},
        {"path": "information/o.json"},
    ]
    train = full.recipe["train"]
    assert (train["loss_type"], train["loss_weights"]) == (["simpo", "sft"], [1.0, 0.1])
    assert train["learning_rate"] == full.defaults["train.learning_rate"] == 5e-5
    assert not full.recipe["peft"]


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("trl_command.yaml", {"reward_funcs": ["a"]}, ("reward_funcs", "online training")),
        ("trl_command.yaml", {"dataset_name": None}, ("names no data",)),
        ("trl_command.yaml", {"model_name_or_path": None}, ("no model is named", "Axolotl has base_model")),
        ("trl_command.yaml", {"beta": "much"}, ("train.beta",)),
        ("trl_command.yaml", {"base_model": "a/b"}, ("Axolotl", "--from axolotl")),
        ("axolotl_lora.yml", {"rl": None}, ("supervised", "rl can be dpo")),
        ("axolotl_lora.yml", {"rl": "kto"}, ("rl is kto", "rl can be dpo")),
        ("axolotl_lora.yml", {"adapter": "llama-adapter"}, ("adapter is llama-adapter",)),
        ("llama_factory_lora.yaml", {"stage": "kto"}, ("stage is kto",)),
        ("llama_factory_lora.yaml", {"finetuning_type": "freeze"}, ("finetuning_type is freeze",)),
        ("llama_factory_lora.yaml", {"image_max_pixels": 1}, ("image_max_pixels", "text")),
        ("llama_factory_lora.yaml", {"pref_loss": "kto_pair"}, ("pref_loss is kto_pair",)),
    ],
)
def test_what_is_no_training_on_pairs_is_refused(converted, refused, name: str, changes: Any, told: Any) -> None:
    error = refused(lambda: converted(name, **changes), *told)
    assert Path(str(error.file)).name == name


def test_scripts_and_other_formats_are_refused(tmp_path: Path, refused, capsys) -> None:
    refused(lambda: convert(tmp_path / "train.py", "trl"), "change its import", "docs/from-trl.md")
    assert main(["convert", "train.toml", "--from", "torchtune"]) == 2
    assert "torchtune" in capsys.readouterr().err
    refused(lambda: convert(tmp_path / "none.yaml", "trl"), "no such file")
