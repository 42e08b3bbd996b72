"""Let SmolLM2-135M-Instruct answer further prompts on the demo's training tasks, eight times each, for `bench.ties`.

    python scripts/make_tie_answers.py -o runs/tie-answers.jsonl                  # needs pip install -e '.[demo]'
    python scripts/make_tie_answers.py -o more.jsonl --prompts-per-task 100       # for ten times the pairs, on a GPU

No prompt is one of the demo's own, of which the study takes the pairs that are no ties. The rows are those of
`mixdpo generate --samples`: put the file's path into `bench.ties.answers` of a study file. The package's own file,
`src/mixdpo/evaluation/data/tie_answers.jsonl.gz`, holds the first two prompts on each task, asked in two calls; five
on each are enough for 512 pairs. Sampled answers differ from one kind of processor to another.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from make_demo_data import SEED, TASKS, Prompt, make_prompts, run
from mixdpo.common.table_files import write_json_lines
from mixdpo.evaluation.constraints import sample_constraints
from mixdpo.study.demo.smollm2 import smollm2_folder


def further_prompts(per_task: int, seed: int = SEED + 1) -> list[Prompt]:
    """Return so many new prompts on every training task, in rounds over the tasks: fewer are the first of more."""
    known = make_prompts(TASKS.read_text(encoding="utf-8").splitlines(), SEED)["train"]
    tasks = list(dict.fromkeys(one.task for one in known))
    texts = {one.text for one in known}
    rng = random.Random(seed)
    found: list[Prompt] = []
    for _ in range(per_task):
        for task in tasks:
            prompt = Prompt(task, tuple(sample_constraints(rng)))
            while prompt.text in texts:
                prompt = Prompt(task, tuple(sample_constraints(rng)))
            texts.add(prompt.text)
            found.append(prompt)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of the answers, .jsonl")
    parser.add_argument("--prompts-per-task", type=int, default=5)
    parser.add_argument("--samples", type=int, default=8, help="answers to each prompt")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        asked = Path(name) / "prompts.jsonl"
        prompts = further_prompts(arguments.prompts_per_task)
        write_json_lines(asked, ({"prompt_id": f"tie-{i}", **one.row()} for i, one in enumerate(prompts)))
        run("generate", asked, "--model", f"SmolLM2-135M-Instruct={smollm2_folder(notify=print)}",
            "--samples", str(arguments.samples), "--temperature", "0.8", "--min-p", "0.05", "--max-new-tokens", "120",
            "--seed", str(SEED), "--batch-size", "64", "-o", arguments.output)  # fmt: skip


if __name__ == "__main__":
    main()
