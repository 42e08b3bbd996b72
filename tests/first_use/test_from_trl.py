"""What somebody meets who comes with a script for TRL: the same arguments, raw data, settings of other versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig
from transformers import EvalPrediction, TrainerCallback, TrainingArguments

from mixdpo import MixDPOConfig, MixDPOTrainer, PlanSettings, load_pairs, make_plan, score
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.plan.plan_settings import PLANS
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.training.settings_of_others import ARGUMENTS, OTHERS, RENAMED, Refused
from pages import ROOT
from tiny import saved, tiny_llama
from trainers import config

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What is {k}?"}],
        "chosen": [{"role": "assistant", "content": f"It is {k}."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "score_chosen": 5.0 + k,
        "score_rejected": 1.0,
    }
    for k in range(10)
]
"""As `load_dataset` gives them."""


@pytest.fixture(scope="module")
def raw() -> Dataset:
    return Dataset.from_list(ROWS)


@pytest.fixture(scope="module")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base") / "model"
    saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, folder)
    return str(folder)


@pytest.fixture
def made(base: str, raw: Dataset, tmp_path: Path) -> Callable[..., MixDPOTrainer]:
    """Make a trainer as a script for TRL does; `settings` are those of its arguments."""

    def make(settings: dict[str, Any] | None = None, **arguments: Any) -> MixDPOTrainer:
        args = arguments.pop("args", None) or config(
            **{"folder": tmp_path / "run", "max_steps": 1, **(settings or {})}
        )
        return MixDPOTrainer(arguments.pop("model", base), args=args, **{"train_dataset": raw, **arguments})

    return make


# ---- the script, with another import ----


def test_a_script_for_trl_needs_another_import_alone(base: str, raw: Dataset, tmp_path: Path, caplog) -> None:
    args = config(tmp_path / "run", num_train_epochs=1, eval_strategy="epoch", beta=0.2)
    trainer = MixDPOTrainer(base, None, args, None, raw, raw.select(range(4)), None, None, None, (None, None))
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model(str(tmp_path / "model"))
    assert trainer.plan.settings == PLANS["mixdpo"]
    assert trainer.plan.is_hard.sum() == 1
    assert "plan: mixdpo, for the data has scores: easy to hard, and SFT for the hardest 1 of 10 pairs" in caplog.text
    name = "eval_rewards/accuracies"
    assert [line[name] for line in trainer.state.log_history if name in line] == [metrics[name]] * 2
    assert (tmp_path / "model" / "tokenizer.json").is_file()


def test_without_scores_all_pairs_are_trained_alike(made, raw: Dataset, caplog) -> None:
    unscored = raw.remove_columns(["score_chosen", "score_rejected"])
    trainer = made(train_dataset=unscored)
    assert trainer.plan.settings == PLANS["dpo"]
    assert "plan: dpo, all pairs alike in random order, for the data has no scores" in caplog.text
    with pytest.raises(InputError, match=r"make_plan\(dataset, \"dpo\"\)"):
        made(train_dataset=unscored, plan="mixdpo")


def _path(raw: Dataset, folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in raw))
    return path


@pytest.mark.parametrize(
    "form",
    [
        lambda raw, folder: raw.to_list(),
        lambda raw, folder: raw.to_pandas(),
        lambda raw, folder: raw.with_format("arrow")[:],
        lambda raw, folder: raw.to_dict(),
        lambda raw, folder: (row for row in raw),
        lambda raw, folder: DatasetDict(train=raw, test=raw.select(range(2))),
        _path,
        lambda raw, folder: str(_path(raw, folder)),
        lambda raw, folder: load_pairs(raw),
        lambda raw, folder: score(load_pairs(raw)),
    ],
)
def test_data_of_any_form_is_the_same(made, raw: Dataset, tmp_path: Path, form) -> None:
    own = make_plan(score(load_pairs(raw)))
    trainer = made(train_dataset=form(raw, tmp_path))
    np.testing.assert_array_equal(trainer.plan.position, own.position)
    assert trainer.plan.fingerprint == own.fingerprint


def test_a_stream_is_refused_with_what_to_do(made, raw: Dataset, refused) -> None:
    refused(lambda: made(train_dataset=raw.to_iterable_dataset()), "streamed", "list(dataset.take(10000))")


@pytest.mark.parametrize("plan", ["dpo", PlanSettings(threshold={"hardest": 0.3}), "file"])
def test_a_plan_by_name_settings_or_file(made, raw: Dataset, tmp_path: Path, plan: Any) -> None:
    if plan == "file":
        plan = tmp_path / "plan.parquet"
        make_plan(score(load_pairs(raw)), "selective_dpo").save(plan)
    given = {"dpo": PLANS["dpo"]}.get(plan) if isinstance(plan, str) else plan
    settings = made(plan=plan).plan.settings
    assert settings == (PLANS["selective_dpo"] if isinstance(plan, Path) else given)


def test_images_are_refused_by_column(made, raw: Dataset, refused) -> None:
    images = raw.add_column("images", [["a.png"]] * len(raw))
    refused(lambda: made(train_dataset=images), "train_dataset", "'images'", "remove_columns('images')")
    refused(lambda: made(eval_dataset={"a": raw, "b": images.to_list()}), "eval_dataset['b']", "'images'")


# ---- evaluation ----


def test_several_evaluation_sets_by_name(made, raw: Dataset) -> None:
    sets = {"short": raw.select(range(3)), "long": raw}
    trainer = made({"eval_strategy": "steps", "eval_steps": 1}, eval_dataset=sets)
    trainer.train()
    logged = {name for line in trainer.state.log_history for name in line}
    assert {"eval_short_loss", "eval_long_loss", "eval_long_rewards/margins"} <= logged
    run = Path(trainer.args.output_dir)
    assert {file.name for file in (run / "records").iterdir()} == {
        "eval_short-step-1.parquet",
        "eval_long-step-1.parquet",
    }
    tokens = json.loads((run / "run.json").read_text())["tokens"]
    assert {name: tokens[name]["pairs"] for name in ("eval_short", "eval_long")} == {"eval_short": 3, "eval_long": 10}


def test_the_best_model_is_told_by_one_of_several_sets(made, raw: Dataset, refused) -> None:
    best = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    refused(
        lambda: made({**best, "metric_for_best_model": "loss"}, eval_dataset={"a": raw, "b": raw}), "a_loss or b_loss"
    )
    trainer = made({**best, "eval_steps": 1, "metric_for_best_model": "b_loss"}, eval_dataset={"a": raw, "b": raw})
    trainer.train()
    assert trainer.state.best_metric == trainer.state.log_history[-2]["eval_b_loss"]


def test_own_metrics_and_predictions_are_of_rewards(made, raw: Dataset) -> None:
    seen: list[EvalPrediction] = []

    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"own": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}

    trainer = made(
        {"max_steps": 3, "eval_strategy": "epoch", "learning_rate": 1e-2}, eval_dataset=raw, compute_metrics=accuracy
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_own"] == metrics["eval_rewards/accuracies"] > 0
    np.testing.assert_allclose(np.diff(seen[-1].predictions)[:, 0].mean(), -metrics["eval_rewards/margins"], rtol=1e-5)
    predicted = trainer.predict(raw)  # with the reference that its evaluation had
    np.testing.assert_array_equal(predicted.predictions, seen[-1].predictions)
    assert predicted.metrics["test_own"] == metrics["eval_own"]
    other = Dataset.from_list([{**ROWS[0], "chosen": [{"role": "assistant", "content": "Another."}]}])
    with pytest.raises(RunError, match="several by name, or a ref_model"):
        trainer.predict(other)


# ---- arguments ----


def test_arguments_of_the_trainer(made, base: str, tokenizer: Any, tmp_path: Path, refused) -> None:
    assert made(callbacks=None, tokenizer=tokenizer).processing_class is tokenizer
    assert isinstance(made(callbacks=[TrainerCallback()]).plan.settings, PlanSettings)
    trainer = made({"precompute_ref_log_probs": False}, ref_model=base)
    assert not any(p.requires_grad for p in trainer._ref_model.parameters())
    refused(lambda: made(ref_model=str(tmp_path / "none")), "no such model folder")
    refused(lambda: made(data_collator=lambda rows: rows), "data_collator is not supported", "by the plan")
    refused(lambda: made(preprocess_logits_for_metrics=len), "preprocess_logits", "compute_metrics gets the rewards")
    refused(lambda: made(trainset=1), "unknown key trainset", "did you mean train_dataset?")
    for name in ARGUMENTS:
        made(**{name: None})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": None}, ("model is None", "name or folder")),
        ({"model": 3}, ("model is a int", "name or folder")),
        ({"ref_model": {}}, ("ref_model is a dict", "name or folder")),
        ({"args": {"beta": 0.2}}, ("args is a dict", "MixDPOConfig(...)")),
        ({"processing_class": "gpt2"}, ("processing_class is a str", "AutoTokenizer.from_pretrained")),
        ({"callbacks": TrainerCallback()}, ("callbacks is a TrainerCallback", "a list")),
        ({"optimizers": torch.nn.Linear(1, 1)}, ("optimizers is a Linear", "a schedule")),
        ({"peft_config": {"r": 8}}, ("peft_config is a dict", "LoraConfig(...)")),
        ({"compute_metrics": 1}, ("compute_metrics is a int", "EvalPrediction")),
        ({"plan": {"name": "dpo"}}, ("plan is a dict", "its name")),
        ({"answers": {"prompts": "a"}}, ("answers is a dict", "AnswersSettings(...)")),
    ],
)
def test_an_argument_of_another_kind_is_refused_by_name(made, refused, given: dict[str, Any], told) -> None:
    refused(lambda: made(**given), *told)


def test_faults_of_data_name_the_argument(made, raw: Dataset, refused, caplog) -> None:
    answers = [{"prompt": "a", "completion": "b", "label": True}] * 4
    refused(lambda: made(eval_dataset=answers), "eval_dataset: ", "single answers")
    refused(lambda: made(eval_dataset={"a": raw, "b": answers}), "eval_dataset['b']: ", "single answers")
    refused(lambda: made(eval_dataset=raw.to_iterable_dataset()), "eval_dataset: ", "streamed")
    refused(lambda: made(train_dataset=raw.select([])), "train_dataset: it holds no rows")
    refused(lambda: made(train_dataset=[]), "train_dataset: ", "names no data")
    refused(lambda: made(train_dataset={"prompt": ["a"], "chosen": []}), "train_dataset: its lists differ in length")
    refused(lambda: made(train_dataset=7), "train_dataset: pairs cannot be read from a number")
    with caplog.at_level("INFO"):
        made(eval_dataset=[*raw, {**ROWS[0], "chosen": ROWS[0]["rejected"]}])
    assert "eval_dataset: read 11 rows, kept 10 pairs" in caplog.text


def test_own_metrics_that_have_no_names_are_refused(made, raw: Dataset, refused) -> None:
    trainer = made(eval_dataset=raw, compute_metrics=lambda prediction: 0.5)
    refused(trainer.evaluate, "compute_metrics returned 0.5", '{"accuracy": 0.5}')


def test_own_optimizer_and_schedule(made, base: str, tokenizer: Any, refused, caplog) -> None:
    policy = tiny_llama(vocab_size=len(tokenizer))
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
    trainer = made(model=policy, processing_class=tokenizer, optimizers=(optimizer, schedule))
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == 0.25
    assert "not of the given schedule" in caplog.text
    refused(lambda: made(optimizers=(optimizer, None)), "no parameter of the policy")
    refused(
        lambda: made(
            {"phase_schedule": "rewarmed"}, model=policy, processing_class=tokenizer, optimizers=(optimizer, schedule)
        ),
        "phase_schedule rewarmed reads the schedule",
    )


def test_how_a_model_is_loaded(made, base: str, tokenizer: Any, refused, monkeypatch) -> None:
    trainer = made({"model_init_kwargs": {"dtype": "bfloat16", "token": "hf_secret"}, "pad_token": "<|im_end|>"})
    assert trainer.model.dtype == torch.bfloat16
    assert trainer.processing_class.pad_token == "<|im_end|>"
    assert trainer.args.to_record()["model_init_kwargs"] == {"dtype": "bfloat16"}
    assert "hf_secret" not in repr(trainer.args.__getstate__())
    loaded = {"processing_class": tokenizer, "model": tiny_llama(vocab_size=len(tokenizer))}
    refused(lambda: made({"model_init_kwargs": {"dtype": "auto"}}, **loaded), "loaded already", "by its name")
    refused(lambda: made(quantization_config={"load_in_4bit": True}, **loaded), "quantization_config", "already")
    refused(lambda: made(quantization_config={"load_in_4bit": True}), "quantised weights", "peft_config")
    refused(lambda: made({"pad_token": "<none>"}), "pad_token is '<none>'")
    refused(lambda: made({"model_init_kwargs": {"dtyp": "bfloat16"}}), "model_init_kwargs: ", "'dtyp'")
    given: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def remember(name: str, **keywords: Any) -> None:
        given.update(keywords)
        raise Stop

    monkeypatch.setattr("mixdpo.models.loading.AutoModelForCausalLM.from_pretrained", remember)
    with pytest.raises(Stop):
        made({"trust_remote_code": True}, quantization_config="four bits", peft_config=LoraConfig())
    assert (given["quantization_config"], given["trust_remote_code"]) == ("four bits", True)


def test_a_model_that_reads_images_is_trained_on_text_with_a_word(made, tokenizer: Any, caplog) -> None:
    policy = tiny_llama(vocab_size=len(tokenizer))
    policy.config.get_text_config = lambda *args, **kwargs: policy.config.__class__()
    with pytest.raises(Exception):  # noqa: B017, PT011  # no such model is made; what is said comes first
        made(model=policy, processing_class=tokenizer)
    assert "LlamaForCausalLM reads more than text; it is trained on text alone" in caplog.text


# ---- settings ----


def test_a_script_with_a_parser_of_trl(base: str, raw: Dataset, tmp_path: Path) -> None:
    """As trl/scripts/dpo.py: TRL's settings from a command line, and mixdpo's trainer."""
    trl = pytest.importorskip("trl")
    words = [
        "--output_dir", str(tmp_path / "run"), "--model_name_or_path", base, "--dataset_name", "none",
        "--max_steps", "2", "--use_cpu", "--bf16", "false", "--report_to", "none", "--eval_strategy", "epoch",
        "--use_peft", "--lora_r", "2", "--lora_target_modules", "all-linear", "--loss_type", "sigmoid", "sft",
        "--loss_weights", "1", "0.5", "--padding_free",
    ]  # fmt: skip
    parser = trl.TrlParser((trl.ScriptArguments, trl.DPOConfig, trl.ModelConfig))
    _, args, model_args = parser.parse_args_and_config(words)
    trainer = MixDPOTrainer(
        model_args.model_name_or_path,
        args=args,
        train_dataset=raw,
        eval_dataset=raw,
        peft_config=trl.get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model(args.output_dir)
    assert trainer.args.loss_weights == [1, 0.5]
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", ["TrainingArguments", "DPOConfig"])
def test_settings_of_another_class(made, tmp_path: Path, name: str, caplog) -> None:
    kind = TrainingArguments if name == "TrainingArguments" else pytest.importorskip("trl").DPOConfig
    own = {"padding_free": True, "beta": 0.3} if name == "DPOConfig" else {}
    args = kind(output_dir=str(tmp_path / "run"), learning_rate=3e-5, max_steps=1, use_cpu=True, bf16=False,
                report_to="none", logging_steps=1, disable_tqdm=True, **own)  # fmt: skip
    trainer = made(args=args)
    trainer.train()
    assert (trainer.args.learning_rate, trainer.args.lr_scheduler_type) == (3e-5, "linear")
    assert trainer.args.beta == own.get("beta", 0.1)
    assert f"args is a {name}, and its settings are taken, defaults too: learning_rate 3e-05" in caplog.text


def test_settings_of_a_trainer_of_something_else_are_refused(made, tmp_path: Path, refused, caplog) -> None:
    """Read as settings of DPO they would train it, for they say what they train by their class."""
    trl = pytest.importorskip("trl")
    orpo = pytest.importorskip("trl.experimental.orpo")
    own = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "bf16": False, "report_to": "none"}
    refused(lambda: made(args=orpo.ORPOConfig(**own)), "args is a ORPOConfig", "MixDPOConfig(loss_type='orpo', ...)")
    refused(lambda: made(args=trl.RewardConfig(**own)), "args is a RewardConfig", "loss_type='sigmoid'")

    class Own(trl.DPOConfig):
        pass

    assert made(args=Own(**own)).args.loss_names == ["sigmoid"]
    assert "without effect" not in caplog.text  # of nothing that nobody set


def test_settings_that_were_changed_after_they_were_made_are_checked(made, tmp_path: Path, refused) -> None:
    args = config(tmp_path / "run")
    args.loss_type, args.beta = "ipo", 0.5
    assert made(args=args).args.loss_type == "ipo"
    args.loss_type = "ipoo"
    refused(lambda: made(args=args), "no loss is named 'ipoo'", "did you mean ipo?")


@pytest.mark.parametrize(
    ("given", "here"),
    [
        ({"warmup_ratio": 0.2}, {"warmup_steps": 0.2}),
        ({"warmup_ratio": 0.2, "warmup_steps": 7}, {"warmup_steps": 7}),
        ({"warmup_ratio": 0.0}, {"warmup_steps": 0}),
        ({"evaluation_strategy": "steps", "eval_steps": 5}, {"eval_strategy": "steps"}),
        ({"rpo_alpha": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ({"rpo_alpha": 1.0}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}),
        ({"rpo_alpha": None}, {"loss_type": "sigmoid", "rpo_alpha": 1.0}),
        ({"rpo_alpha": 0.5, "loss_type": "rpo"}, {"loss_type": "rpo", "rpo_alpha": 0.5}),
        (
            {"rpo_alpha": 0.5, "loss_type": ["ipo", "hinge"], "loss_weights": [1, 2]},
            {"loss_type": ["ipo", "hinge", "sft"], "loss_weights": [1, 2, 0.5]},
        ),
        ({"hub_strategy": "every_save", "push_to_hub": True}, {"hub_strategy": "end"}),
        *(
            ({name: other.holds[0]}, {})
            for name, other in OTHERS.items()
            if isinstance(other, Refused) and other.holds
        ),
        *(({name: None}, {}) for name in OTHERS),
    ],
)
def test_settings_of_other_versions(tmp_path: Path, given: dict[str, Any], here: dict[str, Any]) -> None:
    args = config(tmp_path, **given)
    assert {name: getattr(args, name) for name in here} == here
    values = load_recipe(None, {"train": given}).train
    if set(here) <= set(values) and "hub_strategy" not in here:
        assert {name: values[name] for name in here} == here


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"group_by_length": True}, "length_window"),
        ({"disable_dropout": False}, "dropout is always off"),
        ({"truncation_mode": "keep_end"}, "max_prompt_length"),
        ({"overwrite_output_dir": True}, "resume_from_checkpoint"),
        ({"reference_free": True}, "simpo"),
        ({"generate_during_eval": True}, "section answers"),
        ({"warmup_ratio": 1.5}, "a share of all steps"),
        ({"neftune_noise_alpha": 5}, "packed rows"),
        ({"lerning_rate": 1}, "learning_rate?"),
        ({"my_flag": 1}, "mixdpo train --help all lists the"),
        ({"lr": 1}, "learning_rate?"),
        ({"batch_size": 1}, "per_device_train_batch_size?"),
        *(({name: 12345}, other.reason) for name, other in OTHERS.items() if isinstance(other, Refused)),
    ],
)
def test_what_is_refused_says_what_to_do(tmp_path: Path, refused, given: dict[str, Any], told: str) -> None:
    refused(lambda: config(tmp_path, **given), next(iter(given)), told)
    if "neftune_noise_alpha" not in given:  # found when training begins
        refused(lambda: load_recipe(None, {"train": given}), next(iter(given)), told)


def test_the_command_line_names_the_section_of_a_setting(capsys) -> None:
    for option, told in (("warmup_ratio", "--train.warmup_ratio"), ("trust_remote_code", "--model.trust_remote_code")):
        assert main(["train", "pairs.jsonl", f"--{option}", "0.1"]) == 2
        assert told in capsys.readouterr().err


def test_a_copy_of_all_settings_says_nothing_new(tmp_path: Path) -> None:
    args = config(tmp_path)
    copied = MixDPOConfig(**{f.name: getattr(args, f.name) for f in fields(args) if f.init})
    assert copied.loss_type == "sigmoid"
    assert MixDPOConfig.of(args) is args


def test_rpo_alpha_trains_what_the_sum_of_both_losses_trains(made, tmp_path: Path) -> None:
    lost = []
    for name, settings in {
        "a": {"rpo_alpha": 0.7},
        "b": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
        "c": {"loss_type": "rpo", "rpo_alpha": 0.7},
        "d": {},
    }.items():
        trainer = made({**settings, "output_dir": str(tmp_path / name)}, plan="dpo")
        trainer.train()
        lost.append(trainer.state.log_history[0]["loss"])
    assert lost[0] == lost[1] == pytest.approx(lost[2], rel=1e-6)
    assert lost[0] > lost[3] == pytest.approx(np.log(2), rel=1e-4)


def test_logging_dir_is_where_tensorboard_writes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "before")
    config(tmp_path, logging_dir=str(tmp_path / "board"))
    from os import environ

    assert environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "board")


def test_the_page_names_every_argument_and_setting() -> None:
    page = (ROOT / "docs" / "from-trl.md").read_text()
    own = {"warmup_ratio", "logging_dir", "rpo_alpha"}
    assert not {name for name in (*OTHERS, *RENAMED, *ARGUMENTS, *own) if f"`{name}`" not in page}
