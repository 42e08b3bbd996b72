"""Recipes, study files and examples are found by name, from a clone and from a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mixdpo.cli.main import main
from mixdpo.common.errors import InputError
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.recipe.shipped_files import find_shipped, resolve, shipped_files
from mixdpo.study.study_file import load_study

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "src" / "mixdpo" / "judges" / "prompts"


def test_every_file_is_found_by_a_name_of_its_own() -> None:
    files = shipped_files()
    names = [one.name for one in files]
    assert len(set(names)) == len(names)
    assert {one.path for one in files} == {
        *ROOT.glob("recipes/*.yaml"), *ROOT.glob("recipes/accelerate/*.yaml"), *ROOT.glob("studies/*.yaml"),
        *ROOT.glob("studies/maps/*.yaml"),
        *(ROOT / "examples" / name for name in ("audit_and_plan.ipynb", "mixdpo_loop.py", "train_and_compare.ipynb")),
        *(PROMPTS / name for name in ("grade.txt", "pairwise.txt")),
    }  # fmt: skip
    assert all(one.summary for one in files)


def test_names_stand_for_files_where_a_recipe_or_a_study_is_asked_for() -> None:
    assert load_recipe(resolve(Path("mixdpo:qlora-7b"), "recipe"), {}) == load_recipe(
        ROOT / "recipes" / "qlora-7b.yaml", {}
    )
    assert load_study(resolve(Path("mixdpo:core"), "study file")).name == "core"
    assert resolve(Path("core"), "study file") == Path("core")


@pytest.mark.parametrize(
    ("name", "words"),
    [("qlora7b", "no file .* 'qlora7b'; did you mean qlora-7b?"), ("?", "named '\\?'; mixdpo examples lists them")],
)
def test_a_wrong_name_is_answered_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_shipped(name)


def test_a_study_is_no_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "mixdpo:core"]) == 2
    assert "no recipe of the package is named 'core'" in capsys.readouterr().err


def test_the_command_lists_and_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples"]) == 0
    listed = capsys.readouterr().out
    assert all(one.name in listed for one in shipped_files())
    words = ["examples", "smollm2-135m-graded", "mixdpo:fsdp2", "mixdpo_loop.py", "--output", str(tmp_path / "mine")]
    assert main(words) == 0
    assert (tmp_path / "mine" / "fsdp2.yaml").read_bytes() == (ROOT / "recipes/accelerate/fsdp2.yaml").read_bytes()
    assert len(list((tmp_path / "mine").iterdir())) == 3
    assert main(words) == 2
    assert "the file exists already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_wheel_holds_them(tmp_path: Path) -> None:
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    wheel = next(builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    inside = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    source = ROOT / "src" / "mixdpo"
    assert {f"mixdpo/{path.relative_to(source)}" for path in source.rglob("*.py")} <= inside
    at_top = [one.path.relative_to(ROOT) for one in shipped_files() if one.kind != "judge prompt"]
    assert {f"mixdpo/recipe/shipped/{path}" for path in at_top} <= inside
    assert {f"mixdpo/judges/prompts/{path.name}" for path in PROMPTS.iterdir()} <= inside
    assert not [name for name in inside if "results" in name and name.endswith(".parquet")]
    listed = subprocess.run(
        [sys.executable, "-m", "mixdpo", "examples", "qlora-7b", "core"],
        cwd=tmp_path, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert (tmp_path / "core.yaml").read_bytes() == (ROOT / "studies" / "core.yaml").read_bytes()
