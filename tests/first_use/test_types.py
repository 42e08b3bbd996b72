"""Whoever checks types: mypy knows what functions take and return, refuses what is not so, and passes the examples."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import datasets
import pytest

import mixdpo
from mixdpo.data import pair_dataset
from mixdpo.data.data_settings import DataKeywords, DataSettings
from mixdpo.plan.plan_settings import PlanKeywords, PlanSettings
from pages import ROOT

# The libraries that take mypy minutes to read for the first time, of which nothing is asked here.
CONFIG = """[mypy]
strict = True
disallow_subclassing_any = False
[mypy-torch.*,transformers.*,peft.*,accelerate.*,matplotlib.*,polars.*,pydantic.*,rich.*,jinja2.*]
follow_imports = skip
"""
SCRIPT = """
from pathlib import Path
from typing_extensions import assert_type

import mixdpo

pairs = mixdpo.load_pairs(Path("pairs.parquet"), max_pairs=100)
assert_type(pairs, mixdpo.PairDataset)
assert_type(mixdpo.load_pairs([{"prompt": "a", "chosen": "b", "rejected": "c"}]), mixdpo.PairDataset)
assert_type(mixdpo.load_pairs({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}), mixdpo.PairDataset)
assert_type(pairs.select(range(10)).shuffle(seed=1), mixdpo.PairDataset)
assert_type(pairs.column_names, list[str])
assert_type(len(pairs), int)
for pair in pairs:
    print(pair["prompt"])
scored = mixdpo.score(pairs, ["rating", "nll_gap"])
assert_type(scored, mixdpo.PairDataset)
plan = mixdpo.make_plan(scored, threshold={"hardest": 0.1})
assert_type(plan, mixdpo.Plan)
assert_type(len(plan), int)
assert_type(mixdpo.audit(scored), mixdpo.AuditReport)
assert_type(mixdpo.advise(scored), mixdpo.Advice)
assert_type(mixdpo.compare(["dpo.json", Path("runs/mixdpo")]), mixdpo.Comparison)
assert_type(mixdpo.PLANS["mixdpo"], mixdpo.PlanSettings)
trainer = mixdpo.MixDPOTrainer("model", args=mixdpo.MixDPOConfig(), train_dataset=pairs, plan=plan)
assert_type(trainer, mixdpo.MixDPOTrainer)
mixdpo.load_pairs("pairs.parquet", columns={"prompt": "question"}, ties="keep", max_pairs=None)
mixdpo.make_plan(scored, "dpo", order="hard_to_easy", threshold={"outside": [0.1, 0.9]}, signals=["nll_gap"])
mixdpo.make_plan(scored, threshold="auto", hard_route="drop", first="hard", label_probability="agreement")
mixdpo.make_plan("pairs.parquet")  # type: ignore[arg-type]
mixdpo.make_plan(scored, "mixdpo", thresold=0.2)  # type: ignore[call-arg]
mixdpo.make_plan(scored, threshold="x")  # type: ignore[arg-type]
mixdpo.make_plan(scored, order="easy")  # type: ignore[arg-type]
mixdpo.advise(scored, trained_polcy="dpo")  # type: ignore[call-arg]
mixdpo.advise(scored, metric=3)  # type: ignore[arg-type]
mixdpo.load_pairs("pairs.parquet", max_pair=100)  # type: ignore[call-arg]
mixdpo.load_pairs("pairs.parquet", ties="both")  # type: ignore[arg-type]
mixdpo.load_pair("pairs.parquet")  # type: ignore[attr-defined]
mixdpo.audit(scored, setting=mixdpo.AuditSettings())  # type: ignore[call-arg]
mixdpo.MixDPOConfig(beta="low")  # type: ignore[arg-type]
mixdpo.MixDPOTrainer("model", arg=mixdpo.MixDPOConfig(), train_dataset=pairs)  # type: ignore[call-arg]
mixdpo.score(pairs).select("all")  # type: ignore[arg-type]
mixdpo.compare(7)  # type: ignore[arg-type]
plan.positions  # type: ignore[attr-defined]
"""


@pytest.mark.slow
def test_mypy_of_a_user_passes(tmp_path: Path) -> None:
    """Where the package is installed, so that `py.typed` makes mypy read it, without the settings of the project."""
    venv.create(tmp_path / "env", symlinks=True)
    (packages,) = (tmp_path / "env").glob("lib/*/site-packages")
    (packages / "installed.pth").write_text(f"{Path(mixdpo.__file__).parents[1]}\n{sysconfig.get_path('purelib')}\n")
    (tmp_path / "mypy.ini").write_text(CONFIG)
    (tmp_path / "script.py").write_text(SCRIPT)
    examples = [str(path) for path in sorted(ROOT.glob("examples/*.py"))]
    command = [sys.executable, "-m", "mypy", "--python-executable", str(tmp_path / "env" / "bin" / "python")]
    command += ["script.py", *examples]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pairs_have_the_methods_that_type_checkers_are_told_of() -> None:
    assert mixdpo.PairDataset is datasets.Dataset
    told = [
        line.split("def ")[1].split("(")[0]
        for line in Path(pair_dataset.__file__).read_text(encoding="utf-8").splitlines()
        if line.startswith("        def ")
    ]
    assert len(told) > 10
    assert [name for name in told if not hasattr(datasets.Dataset, name)] == []


@pytest.mark.parametrize(
    ("keywords", "settings", "apart"), [(PlanKeywords, PlanSettings, set()), (DataKeywords, DataSettings, {"path"})]
)
def test_keywords_for_type_checkers_are_the_fields_of_settings(keywords: Any, settings: type, apart: set[str]) -> None:
    assert apart <= {f.name for f in fields(settings)}
    known = get_type_hints(settings)
    assert get_type_hints(keywords) == {f.name: known[f.name] for f in fields(settings) if f.name not in apart}
    assert not keywords.__required_keys__


def test_every_public_name_is_known_to_type_checkers() -> None:
    lines = Path(mixdpo.__file__).read_text(encoding="utf-8").splitlines()
    imported = {line.split(" as ")[1] for line in lines if line.startswith("    from mixdpo.")}
    assert imported | {"__version__"} == set(mixdpo.__all__)
    assert (Path(mixdpo.__file__).parent / "py.typed").is_file()
