"""Make data as the demo's by mixdpo's commands: prompts with constraints, the model's answers, ratings, pairs.

    python scripts/make_demo_data.py              # needs pip install -e '.[demo]'
    python scripts/make_demo_data.py --published  # of the stored answers: the very pairs that the demo trains on

The first samples new answers, and changes nothing of the shipped data: sampled answers differ from one kind of
processor to another. The commands are printed as they run, and write to `build/demo-data`. How the data are meant
stands in `src/mixdpo/evaluation/data/README.md`.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixdpo.cli.main import main as mixdpo
from mixdpo.common.files import atomic_path
from mixdpo.common.table_files import read_table, write_json_lines
from mixdpo.evaluation.constraints import Constraint, constraints_to_text, prompt_text, sample_constraints
from mixdpo.evaluation.held_out_prompts import DATA

SEED = 20_261
ROOT = Path(__file__).resolve().parents[1]
TASKS = Path(__file__).with_name("demo_tasks.txt")
ANSWERS = Path(__file__).with_name("demo_answers.jsonl.gz")
JUDGE = shlex.join([sys.executable, str(Path(__file__).with_name("demo_judge.py"))])
TASKS_PER_SPLIT = {"train": 84, "validation": 16, "test": 26}
PROMPTS_PER_TASK = {"train": 4, "validation": 4, "test": 3}
PAIRS_PER_PROMPT = {"train": 3, "validation": 1}

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
PROMPT_FIELDS = pa.schema({"prompt": MESSAGES, "demands": pa.string()})


@dataclass(frozen=True)
class Prompt:
    """A task with constraints on its answer."""

    task: str
    constraints: tuple[Constraint, ...]

    @property
    def text(self) -> str:
        return prompt_text(self.task, self.constraints)

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {
            "prompt": [{"role": "user", "content": self.text}], "demands": constraints_to_text(self.constraints)
        }  # fmt: skip


def make_prompts(tasks: Sequence[str], seed: int) -> dict[str, list[Prompt]]:
    """Split the tasks, so that no split has a task of another, and give each task several sets of constraints."""
    rng = random.Random(seed)
    left = rng.sample(tasks, len(tasks))
    splits = {}
    for split, count in TASKS_PER_SPLIT.items():
        mine, left = left[:count], left[count:]
        splits[split] = [
            Prompt(task, tuple(sample_constraints(rng))) for _ in range(PROMPTS_PER_TASK[split]) for task in mine
        ]
    return splits


def run(*words: str | Path) -> None:
    """Run a command of mixdpo, and end with its status where it fails."""
    command = [str(word) for word in words]
    print("$", shlex.join(["mixdpo", *command]), flush=True)
    if status := mixdpo(command):
        sys.exit(status)


def sample_answers(split: str, prompts: Iterable[Prompt], folder: Path) -> Path:
    """Let the demo's model answer each prompt six times, and return the file of the answers."""
    from mixdpo.study.demo.smollm2 import smollm2_folder

    asked, answers = folder / f"{split}.prompts.jsonl", folder / f"{split}.answers.jsonl"
    write_json_lines(asked, ({"prompt_id": f"{split}-{number}", **one.row()} for number, one in enumerate(prompts)))
    run("generate", asked, "--model", f"SmolLM2-135M-Instruct={smollm2_folder(notify=print)}",
        "--samples", "6", "--temperature", "0.8", "--min-p", "0.05", "--max-new-tokens", "120",
        "--seed", str(SEED), "--batch-size", "64", "-o", answers)  # fmt: skip
    return answers


def make_pairs(name: str, answers: Path, folder: Path, pairs_per_prompt: int) -> Path:
    """Rate answers by the constraints they meet, pair the best with the others, and return the file of the pairs."""
    rated, pairs = folder / f"{name}.rated.jsonl", folder / f"{name}.parquet"
    run("rate", answers, "--judge", JUDGE, "--judge-kind", "program", "-o", rated)
    run("pairs", rated, "--select", "best-each", "--max-per-prompt", str(pairs_per_prompt), "-o", pairs)
    return pairs


def compare_with_shipped(pairs: Path, test_prompts: Path) -> None:
    """End with status 1 where pairs and prompts are not those that the demo trains on and is measured by."""
    made, shipped = pair_set(pairs), pair_set(*(DATA / f"{split}.parquet" for split in PAIRS_PER_PROMPT))
    if made != shipped:
        sys.exit(
            f"{pairs}: {len(made - shipped)} pairs are not among those of {DATA}, {len(shipped - made)} are missing"
        )
    if read_table(test_prompts).rows() != read_table(DATA / test_prompts.name).rows():
        sys.exit(f"{test_prompts}: not the prompts of {DATA / test_prompts.name}")
    print(f"the {len(made)} pairs and the test prompts are those of {DATA}")


def pair_set(*files: Path) -> set[tuple[Any, ...]]:
    """Return the pairs of files: prompt, answers and scores."""
    rows = [row for file in files for row in read_table(file).rows()]
    texts = ("prompt", "chosen", "rejected")
    pairs = [
        (*(row[name][-1]["content"] for name in texts), row["score_chosen"], row["score_rejected"]) for row in rows
    ]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def write_test_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write the prompts that the demo is measured by. They are never answered here: no answer can have chosen them."""
    with atomic_path(path) as temporary:
        table = pa.Table.from_pylist([prompt.row() for prompt in prompts], schema=PROMPT_FIELDS)
        pq.write_table(table, temporary, compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true", help="take the stored answers, and compare the pairs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "demo-data", help="folder of all files")
    arguments = parser.parse_args()

    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    prompts = make_prompts(TASKS.read_text(encoding="utf-8").splitlines(), SEED)
    write_test_prompts(folder / "test.parquet", prompts["test"])
    if arguments.published:
        pairs = make_pairs("published", ANSWERS, folder, max(PAIRS_PER_PROMPT.values()))
        compare_with_shipped(pairs, folder / "test.parquet")
        return
    for split, most in PAIRS_PER_PROMPT.items():
        make_pairs(split, sample_answers(split, prompts[split], folder), folder, most)


if __name__ == "__main__":
    main()
