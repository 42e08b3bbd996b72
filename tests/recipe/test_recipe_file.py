"""Recipe files: what is given on top of them wins, and those of the project resolve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from mixdpo.cli.options import YamlMapping
from mixdpo.common.errors import InputError
from mixdpo.common.settings import SECTIONS, build, split_overrides
from mixdpo.plan.plan_settings import PLANS
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.recipe.settings_help import settings_named, settings_topics

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@dataclass(frozen=True)
class Judge:
    name: str = "a"
    batch_size: int = 8


@dataclass(frozen=True)
class Section:
    judge: Judge | list[Judge]
    limits: dict[str, int] | Judge | None = None


def test_given_settings_win(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "train: {learning_rate: '1e-3', use_cpu: true, bf16: false}\nplan: {threshold: {hardest: 0.25}}\n"
    )
    resolved = load_recipe(recipe, {"train": {"beta": 0.5}, "plan": {"name": "dpo", "threshold": None}})
    assert resolved.training_config(str(tmp_path / "x")).beta == 0.5
    assert resolved.training_config().learning_rate == 1e-3, "a number that YAML reads as text"
    _, given = split_overrides(["--train.save_strategy", "no"], SECTIONS)
    assert load_recipe(recipe, given).training_config().save_strategy == "no", "a word that YAML reads as false"
    assert resolved.plan.order == "shuffled"
    assert resolved.plan.threshold is None


@pytest.mark.parametrize(
    ("name", "value"), [("chat_template_kwargs", {"thinking": False}), ("template_date", "2026-01-31")]
)
def test_what_a_template_is_told_stands_in_the_section_model(name: str, value) -> None:
    with pytest.raises(InputError, match=f"set model.{name} instead"):
        load_recipe(None, {"train": {name: value}})
    assert settings_named(name) == [f"model.{name}"]
    keys = [key for topic in settings_topics("train") for key, _ in topic.entries]
    assert f"--model.{name}" in keys
    assert f"--train.{name}" not in keys
    model = {"name_or_path": "a", name: value}
    recipe = load_recipe(None, {"model": model})
    assert getattr(recipe.token_settings(), name) == getattr(recipe.training_config(), name) == value


def test_dates_are_text(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: {name_or_path: a, template_date: 2026-01-31}")
    assert load_recipe(tmp_path / "recipe.yaml", {}).model.template_date == "2026-01-31"
    words = ["--model.template_date", "2026-01-31", "--model.chat_template_kwargs", "{date_string: 2026-01-31}"]
    _, given = split_overrides(words, SECTIONS)
    assert given["model"] == {"template_date": "2026-01-31", "chat_template_kwargs": {"date_string": "2026-01-31"}}
    assert YamlMapping().convert("{date_string: 2026-01-31}", None, None) == {"date_string": "2026-01-31"}


def test_a_plan_by_name_keeps_its_name_under_further_keys(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("plan: selective_dpo\n")
    whole = load_recipe(path, {}).plan
    assert load_recipe(path, {"plan": {"seed": 1}}).plan == replace(whole, seed=1)
    assert load_recipe(path, {"plan": "dpo"}).plan == load_recipe(None, {"plan": "dpo"}).plan
    path.write_text("plan: {name: selective_dpo, threshold: {hardest: 0.3}}\n")
    for same in ("selective_dpo", {"name": "selective_dpo"}):
        assert load_recipe(path, {"plan": same}).plan == replace(whole, threshold={"hardest": 0.3})
    assert load_recipe(path, {"plan": {"path": "plan.parquet"}}).plan_path == "plan.parquet"


@pytest.mark.parametrize("given", ["dpo", {"name": "dpo"}])
def test_another_plan_does_not_inherit_the_recipes_threshold(tmp_path: Path, given) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("plan: {name: mixdpo, metric: nll_gap, seed: 7, threshold: 0.5, hard_route: drop}\n")
    assert load_recipe(path, {"plan": given}).plan == replace(PLANS["dpo"], metric="nll_gap", seed=7)
    path.write_text("plan: {path: plan.parquet}\n")
    assert load_recipe(path, {"plan": given}).plan == PLANS["dpo"]


def test_a_plan_that_is_defined_by_a_metric_keeps_its_own(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("plan: {metric: nll_gap, seed: 7}\n")
    assert load_recipe(recipe, {"plan": {"name": "dpo_sorted"}}).plan.metric == "nll_gap"
    assert load_recipe(recipe, {"plan": "smallest_gap"}).plan == replace(PLANS["smallest_gap"], seed=7)
    given = {"plan": {"name": "smallest_gap", "metric": "reference_logp"}}
    assert load_recipe(recipe, given).plan.metric == "reference_logp"


def test_keys_of_settings_within_settings_are_checked(refused) -> None:
    assert build(Section, {"judge": {"batch_size": 2}}, "pairs").judge == Judge(batch_size=2)
    assert build(Section, {"judge": [{}, {"name": "b"}]}, "pairs").judge == [Judge(), Judge("b")]
    assert build(Section, {"judge": {}, "limits": {"any": 3}}, "pairs").limits == {"any": 3}
    refused(lambda: build(Section, {"judge": {"batchsize": 2}}, "pairs"), "did you mean pairs.judge.batch_size")
    refused(lambda: build(Section, {"judge": [{}, {"nam": "b"}]}, "pairs"), "unknown key pairs.judge[2].nam")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_resolve(path: Path) -> None:
    recipe = load_recipe(path, {})
    assert recipe.required("model").name_or_path
    assert recipe.required("data" if recipe.pairs is None else "pairs")
    args = recipe.training_config()
    if "8 GPUs" in path.read_text():
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 8 == 160
        assert (args.max_prompt_length, args.max_length) == (512, 1024)
    assert f"recipes/{path.name}" in path.read_text(), "the command in its comment names the file"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_configs_load(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"
