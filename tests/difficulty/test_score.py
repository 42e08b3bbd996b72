"""`score`, the command, and the way of a margin from a metric to a trained plan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset
from safetensors.torch import load_file

from mixdpo import Plan, load_pairs, score
from mixdpo.cli.main import main
from mixdpo.data.arrays import float_column
from mixdpo.difficulty.metrics import METRICS
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.recipe.recipe_file import load_recipe
from synthetic import chat_pairs, chat_rows
from tiny import saved, tiny_llama


@pytest.fixture
def model(tmp_path, tokenizer) -> Path:
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(20)))
    return path


# ---- in Python ----


def test_several_metrics_at_once(tmp_path, model) -> None:
    pairs = chat_pairs(tmp_path, n=8).remove_columns("margin/rating")
    both = score(pairs, ["rating", "nll_gap"], nll_gap={"model": str(model), "bf16": False})
    assert both.column_names == [*pairs.column_names, "margin/rating", "margin/nll_gap"]
    alone = score(pairs, "nll_gap", model=str(model), bf16=False)
    assert alone["margin/nll_gap"][:] == both["margin/nll_gap"][:]
    rated = np.array(pairs["score_chosen"]) - np.array(pairs["score_rejected"])
    np.testing.assert_array_equal(both["margin/rating"], rated)


def test_margins_are_replaced(tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=4)
    wrong = pairs.remove_columns("margin/rating").add_column("margin/rating", [9.0] * 4)
    assert score(wrong)["margin/rating"][:] == pairs["margin/rating"][:]


@pytest.mark.parametrize(
    ("arguments", "parameters", "words"),
    [
        (["nll_gpa"], {}, ["no metric is named 'nll_gpa'", "did you mean nll_gap?", "validation_loss"]),
        (["rating"], {"modle": "x"}, ["unknown key score.rating.modle"]),
        (["nll_gap"], {"modle": "x"}, ["unknown key score.nll_gap.modle", "did you mean score.nll_gap.model?"]),
        (["nll_gap"], {}, ["nll_gap.model names no model"]),
        (["nll_gap"], {"model": "./nowhere"}, ["./nowhere: no such model folder"]),
        (["nll_gap"], {"model": {"name_or_path": "x", "dtpye": "auto"}}, ["did you mean nll_gap.model.dtype?"]),
        (["nll_gap"], {"model": "x", "batch_size": 0}, ["batch_size is 0"]),
        (["nll_gap"], {"model": "x", "max_length": "long"}, ["score.nll_gap.max_length", "it is: tokens of prompt"]),
        ([["rating"]], {"nll_gap": {"model": "x"}}, ["metric nll_gap (of its parameters)"]),
        (["implicit_reward"], {"model": "x"}, ["implicit_reward.ref_model names no model"]),
        (["implicit_reward"], {"model": "x", "beta": 0}, ["beta is 0"]),
        (["reward_model"], {}, ["reward_model.model names no model"]),
        (["validation_loss"], {"preset": "fast"}, ["score.validation_loss.preset"]),
        (["validation_loss"], {"repetitions": 0}, ["repetitions is 0"]),
    ],
)  # fmt: skip
def test_wrong_settings(tmp_path, refused, arguments, parameters, words) -> None:
    pairs = chat_pairs(tmp_path, n=4)
    refused(lambda: score(pairs, *arguments, **parameters), *words)


def test_rating_without_scores(refused, jsonl) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    refused(lambda: score(load_pairs(jsonl(rows))), "needs scores", "score_chosen")


def test_margin_that_is_no_number_names_the_row(refused, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=4)
    column = [1.0, 2.0, float("nan"), float("inf")]
    pairs = pairs.remove_columns("score_chosen").add_column("score_chosen", column)
    refused(lambda: score(pairs), "row 3", "rating gave nan for 2 of 4 pairs")


def test_pairs_that_do_not_fit_are_not_passed_over(refused, tmp_path, model) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    refused(
        lambda: score(pairs, "nll_gap", model=str(model), max_length=20),
        "nll_gap cannot read", "of 12 pairs", "prompt_too_long", "max_prompt_length",
    )  # fmt: skip
    assert "margin/nll_gap" in score(pairs, "nll_gap", model=str(model), max_length=20, max_prompt_length=8).features


def test_every_setting_has_help() -> None:
    for name, metric in METRICS.items():
        for field, described in metric.settings.__dataclass_fields__.items():
            assert described.metadata.get("help"), f"{name}.{field}"


# ---- the command, and what comes after it ----


def test_scored_file_is_planned_and_trained(tmp_path, capsys, data, model) -> None:
    scored = tmp_path / "scored.parquet"
    arguments = ["score", str(data), "--metric", "rating", "--metric", "nll_gap", "--score.nll_gap.model", str(model)]
    assert main([*arguments, "-o", str(scored), "--score.nll_gap.bf16", "false"]) == 0
    out = capsys.readouterr().out
    assert "margins of 20 pairs" in out
    assert f"scored: {scored}" in out.replace("\n", "")

    again = load_pairs(str(scored))
    expected = score(load_pairs(str(data)), ["rating", "nll_gap"], nll_gap={"model": str(model), "bf16": False})
    assert again["pair_id"][:] == expected["pair_id"][:]
    for name in ("rating", "nll_gap"):
        assert again[f"margin/{name}"][:] == expected[f"margin/{name}"][:]

    assert main(["plan", str(scored), "--plan.metric", "nll_gap", "-o", str(tmp_path / "plan.parquet")]) == 0
    plan = Plan.load(tmp_path / "plan.parquet")
    margin = float_column(expected, "margin/nll_gap")
    np.testing.assert_array_equal(plan.margin, margin)
    np.testing.assert_array_equal(np.argsort(plan.position), np.argsort(-margin, kind="stable"))
    np.testing.assert_array_equal(plan.is_hard, margin <= np.sort(margin)[1])

    arguments = ["train", str(scored), "--plan.path", str(tmp_path / "plan.parquet"), "--train.use_cpu", "true"]
    arguments += ["--model.name_or_path", str(model), "--output", str(tmp_path / "run"), "--train.bf16", "false"]
    assert main([*arguments, "--train.max_steps", "1"]) == 0
    assert load_file(tmp_path / "run" / "model" / "model.safetensors")


@pytest.mark.parametrize("columns", [{}, {"tools": None}, {"tools": [{"name": "look_up"}]}])
@pytest.mark.parametrize("kind", ["text", "chat"])
def test_pairs_survive_the_scored_file(tmp_path, text_rows, chat_rows, jsonl, kind, columns) -> None:
    rows = [{**row, **columns} for row in {"text": text_rows, "chat": chat_rows}[kind]]
    if kind == "chat" and columns.get("tools"):
        call = {"type": "function", "function": {"name": "look_up", "arguments": {"n": 1, "deep": [1, "a"]}}}
        rows[0]["prompt"].insert(1, {"role": "assistant", "content": "", "tool_calls": [call]})
    path = jsonl(rows)
    assert main(["score", path, "-o", str(tmp_path / "scored.parquet")]) == 0
    before, after = load_pairs(path), load_pairs(str(tmp_path / "scored.parquet"))
    assert after["pair_id"][:] == before["pair_id"][:]
    assert after["margin/rating"][:] == [4.0, 0.0, -1.0]


@pytest.fixture
def recipe(tmp_path, data, model) -> Path:
    content = {
        "model": {"name_or_path": str(model)},
        "data": {"path": str(data)},
        "score": {"nll_gap": None, "rating": {}},
        "plan": {"name": "mixdpo", "metric": "nll_gap", "threshold": {"hardest": 0.25}},
        "train": {
            "output_dir": str(tmp_path / "run"),
            "max_length": 40,
            "save_strategy": "no",
            "bf16": False,
            "use_cpu": True,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("adapters", [[], ["--peft.r", "4", "--peft.target_modules", "all-linear"]])
def test_training_reads_the_log_probabilities_of_the_metric(tmp_path, recipe, computed, caplog, adapters) -> None:
    scored = str(tmp_path / "scored.parquet")
    assert main(["score", "--config", str(recipe), "-o", scored, *adapters]) == 0
    assert computed == [20]
    assert main(["score", "--config", str(recipe), "-o", scored, "--metric", "reference_logp", *adapters]) == 0
    assert main(["score", "--config", str(recipe), "-o", scored, *adapters]) == 0
    assert main(["train", scored, "--config", str(recipe), *adapters]) == 0
    assert computed == [20]
    assert "reference (train): 15 pairs from the cache, 0 to compute" in caplog.text


def test_training_does_not_start_a_pass_for_margins(capsys, recipe) -> None:
    for command in ("plan", "train"):
        assert main([command, "--config", str(recipe)]) == 2
        error = capsys.readouterr().err
        assert "pairs.jsonl: the data has no column 'margin/nll_gap'" in error
        assert "mixdpo score --metric nll_gap" in error


def test_margins_of_ones_own_are_planned_by_and_trained(tmp_path, capsys, caplog, recipe, data) -> None:
    own = ["--config", str(recipe), "--plan.metric", "mine", "--train.max_steps", "1", "--eval_data.path", str(data)]
    assert main(["train", str(data), *own]) == 2
    assert "pairs.jsonl: the data has no column 'margin/mine'; add it to the data" in capsys.readouterr().err
    pairs = load_pairs(str(data))
    scored = str(tmp_path / "own.parquet")
    pairs.add_column("margin/mine", [float(i) for i in range(len(pairs))]).to_parquet(scored)
    assert main(["train", scored, *own, "--train.eval_strategy", "epoch"]) == 0
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("eval_data is measured without buckets by difficulty")
    assert "has no column 'margin/mine'" in warning
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "eval_rewards/accuracies" in logged
    assert "buckets/hard" not in logged.partition("eval_rewards/accuracies")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "nll"], "no metric is named 'nll'"),
        (["--score.nll.model", "x"], "no metric is named 'nll'"),
        (["--score.nll_gap.modle", "x"], "did you mean score.nll_gap.model?"),
        (["--score", "3"], "score must be a mapping"),
        (["--metric", "reward_model"], "on the command line --score.reward_model.model MODEL\n"),
        (["--metric", "nll_gap"], "--score.nll_gap.model MODEL or --model.name_or_path MODEL\n"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, capsys, data, arguments, message) -> None:
    assert main(["score", str(data), "-o", str(tmp_path / "scored.parquet"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "scored.parquet").exists()


def test_metric_takes_from_the_recipe_what_it_is_not_given(recipe) -> None:
    parameters = load_recipe(recipe, {}).metric_parameters("nll_gap")
    assert parameters.pop("model").name_or_path.endswith("model")
    assert parameters == {"max_length": 40, "bf16": False}
    given = load_recipe(recipe, {"score": {"nll_gap": {"model": "x", "max_length": None}}})
    assert given.metric_parameters("nll_gap") == {"model": "x", "max_length": None, "bf16": False}
    assert load_recipe(recipe, {}).metric_parameters("reward_model") == {}
    assert set(load_recipe(recipe, {}).metric_parameters("implicit_reward")) == {"ref_model", "max_length", "bf16"}


def test_help_of_the_command_has_the_settings(capsys) -> None:
    assert main(["score", "--help", "all"]) == 0
    out = capsys.readouterr().out
    for text in ("--data.path", "--score.nll_gap.batch_size", "--score.implicit_reward.beta", "per nat"):
        assert text in out


def test_margins_of_several_sources(tmp_path) -> None:
    names = []
    for seed in (0, 1):
        pairs = chat_pairs(tmp_path, n=3, seed=seed)
        names.append(str(tmp_path / f"scored-{seed}.parquet"))
        pairs.add_column("margin/nll_gap", [float(seed)] * 3).to_parquet(names[-1])
    joined = load_pairs(names)
    assert isinstance(joined, Dataset)
    assert joined["margin/nll_gap"][:] == [0.0] * 3 + [1.0] * 3


def test_selection_rules_are_scored_planned_and_trained(tmp_path, capsys, data, model, tokenizer) -> None:
    """Every rule of others from the data to a trained model, with the commands of the documentation."""
    for seed in (1, 2):
        saved(tiny_llama(seed=seed, vocab_size=len(tokenizer)), tokenizer, tmp_path / f"aligned-{seed}")
    rated, scored = tmp_path / "rated.jsonl", tmp_path / "scored.parquet"
    prompts = [json.loads(line)["prompt"] for line in data.read_text().splitlines()]
    answers = [
        {"prompt": prompt, "output": f"{n} {i}", "score": (n % 5) * i}
        for n, prompt in enumerate(prompts)
        for i in (0, 1)
    ]
    rated.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    metrics = ["rating", "implicit_reward", "loss_diff", "middle", "fused", "preference_variance"]
    models = {"model": tmp_path / "aligned-1", "ref_model": model}
    given = {
        "implicit_reward": models,
        "loss_diff": {**models, "validation_model": tmp_path / "aligned-2"},
        "preference_variance": {"answers": rated},
    }
    settings = [f"--score.{name}.{key}={value}" for name, own in given.items() for key, value in own.items()]
    words = [word for name in metrics for word in ("--metric", name)]
    assert main(["score", str(data), *words, *settings, "--train.bf16", "false", "-o", str(scored)]) == 0

    pairs = load_pairs(str(scored))
    train = ["--model", str(model), "--train.bf16=false", "--train.use_cpu=true", "--train.max_steps=1"]
    for name, metric, kept in (
        ("smallest_gap", "implicit_reward", np.argsort(float_column(pairs, "margin/implicit_reward"))[:2]),
        ("fused_margin", "fused", None),
        ("middle_influence", "middle", None),
        ("preference_variance", "preference_variance", None),
        ("rate_weighted", "rating", np.arange(20)),
        ("dpo_paced", "rating", np.arange(20)),
    ):
        run = tmp_path / name
        assert main(["train", str(scored), "--plan.name", name, *train, "--output", str(run)]) == 0
        plan = Plan.load(run / "plan.parquet")
        assert plan.settings.metric == metric
        rows = np.flatnonzero(plan.route != ROUTES.index("drop"))
        if kept is None:
            assert plan.margin[rows].min() >= np.delete(plan.margin, rows).max()
        else:
            np.testing.assert_array_equal(rows, np.sort(kept))
        assert (run / "model").is_dir()
    assert "pair weights (rate)" in capsys.readouterr().err
