"""Whoever checks types: mypy knows what the package's functions take and return, and the examples pass."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import datasets
import pytest

import mixdpo
from mixdpo.data import pair_dataset
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
mixdpo.make_plan("pairs.parquet")  # type: ignore[arg-type]
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


def test_every_public_name_is_known_to_type_checkers() -> None:
    lines = Path(mixdpo.__file__).read_text(encoding="utf-8").splitlines()
    imported = {line.split(" as ")[1] for line in lines if line.startswith("    from mixdpo.")}
    assert imported | {"__version__"} == set(mixdpo.__all__)
    assert (Path(mixdpo.__file__).parent / "py.typed").is_file()
