"""Make the demo's data: prompts with verifiable constraints, and pairs of the demo model's own answers to them.

    python scripts/make_demo_data.py                 # about 15 minutes on 2 cores, needs pip install -e '.[demo]'

Answers are cached in `build/demo-answers`, so an interrupted run goes on where it stopped. How the result is meant
stands in `src/mixdpo/evaluation/data/README.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.common.files import atomic_path, digest, write_json
from mixdpo.evaluation.constraints import (
    Constraint,
    constraints_met,
    constraints_to_text,
    prompt_text,
    sample_constraints,
)
from mixdpo.generation.chat_model import Completion
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.generation.local_generation import generate_answers
from mixdpo.study.demo.smollm2 import smollm2_folder

SEED = 20_261
ROOT = Path(__file__).resolve().parents[1]
TASKS = Path(__file__).with_name("demo_tasks.txt")
TASKS_PER_SPLIT = {"train": 84, "validation": 16, "test": 26}
PROMPTS_PER_TASK = {"train": 4, "validation": 4, "test": 3}
SAMPLES_PER_PROMPT = 6
MOST_PAIRS_PER_PROMPT = 2
TIE_SHARE = 0.125
"""Share of training pairs whose two answers meet equally many constraints."""

# Top-k instead of top-p: on a processor, sorting 49,152 logits costs more than the model's own forward pass.
SETTINGS = SamplingSettings(max_new_tokens=120, temperature=0.8, top_k=50, batch_size=64)

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
PROMPT_FIELDS: dict[str, pa.DataType] = {"prompt": MESSAGES, "demands": pa.string()}
PAIR_FIELDS: dict[str, pa.DataType] = {
    "prompt": MESSAGES,
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "score_chosen": pa.float64(),
    "score_rejected": pa.float64(),
    "demands": pa.string(),
}


@dataclass(frozen=True)
class Prompt:
    """A task with constraints on its answer."""

    task: str
    constraints: tuple[Constraint, ...]

    @property
    def text(self) -> str:
        return prompt_text(self.task, self.constraints)


@dataclass(frozen=True)
class Rated:
    """An answer and the number of its prompt's constraints that it meets."""

    text: str
    score: int


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; the chosen one is rated no lower."""

    prompt: Prompt
    chosen: Rated
    rejected: Rated

    @property
    def margin(self) -> int:
        return self.chosen.score - self.rejected.score


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


def pairs_of_prompt(prompt: Prompt, answers: Iterable[Completion], rng: random.Random) -> list[Pair]:
    """Pair the best answer with worse ones and with an equal one, as far as there are any.

    Rejected answers come one of each lower rating first, so that margins are graded. Cut answers are left out, and
    a prompt whose best answer meets no constraint gives nothing.
    """
    texts = sorted({answer.text.strip() for answer in answers if answer.finished and answer.text.strip()})
    rated = [Rated(text, constraints_met(text, prompt.constraints)) for text in rng.sample(texts, len(texts))]
    best = max(rated, key=lambda answer: answer.score, default=Rated("", 0))
    if best.score == 0:
        return []
    seen: Counter[int] = Counter()
    lower: list[tuple[int, int, Rated]] = []
    for position, answer in enumerate(rated):
        if answer.score < best.score:
            lower.append((seen[answer.score], position, answer))
            seen[answer.score] += 1
    clear = [answer for _, _, answer in sorted(lower, key=lambda entry: entry[:2])[:MOST_PAIRS_PER_PROMPT]]
    equal = [answer for answer in rated if answer.score == best.score and answer is not best][:1]
    return [Pair(prompt, best, answer) for answer in [*clear, *equal]]


def thin_ties(pairs: Sequence[Pair], share: float, rng: random.Random) -> list[Pair]:
    """Drop ties at random until they are `share` of all pairs, and shuffle what stays."""
    clear = [pair for pair in pairs if pair.margin > 0]
    ties = [pair for pair in pairs if pair.margin == 0]
    count = min(len(ties), round(len(clear) * share / (1 - share)))
    result = [*clear, *rng.sample(ties, count)]
    rng.shuffle(result)
    return result


def one_per_prompt(pairs: Sequence[Pair]) -> list[Pair]:
    """Keep each prompt's first pair: the best answer against one of a lower rating where there is one."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.prompt.text, pair)
    return list(first.values())


def sample_answers(prompts: Sequence[Prompt], folder: Path, seed: int, workers: int) -> list[list[Completion]]:
    """Return `SAMPLES_PER_PROMPT` answers to each prompt, reading from `folder` what an earlier run wrote there.

    The work is cut into chunks with a seed of their own, so the result depends neither on the number of workers
    nor on interruptions.
    """
    jobs = [prompt.text for _ in range(SAMPLES_PER_PROMPT) for prompt in prompts]
    chunks = [jobs[begin : begin + SETTINGS.batch_size] for begin in range(0, len(jobs), SETTINGS.batch_size)]
    seeds = range(seed, seed + len(chunks))
    answers: list[Completion] = []
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_load_model) as pool:
        for chunk in pool.map(_answer_chunk, chunks, seeds, [folder] * len(chunks)):
            answers += chunk
            print(f"{len(answers)}/{len(jobs)} answers, {time.perf_counter() - began:.0f} s", flush=True)
    return [answers[number :: len(prompts)] for number in range(len(prompts))]


_loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
"""A worker process's own model and tokenizer."""


def _load_model() -> None:
    global _loaded
    torch.set_num_threads(1)  # one process per core is faster than two threads in one process
    folder = smollm2_folder()
    _loaded = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16),
        AutoTokenizer.from_pretrained(folder),
    )


def _answer_chunk(texts: list[str], seed: int, folder: Path) -> list[Completion]:
    settings = dataclasses.replace(SETTINGS, seed=seed)
    cached = folder / f"{digest([json.dumps(asdict(settings)), *texts])}.json"
    if cached.is_file():
        return [Completion.of_stored(answer) for answer in json.loads(cached.read_text(encoding="utf-8"))]
    assert _loaded is not None
    conversations = [[{"role": "user", "content": text}] for text in texts]
    answers = generate_answers(*_loaded, conversations, settings=settings)
    write_json(cached, [asdict(answer) for answer in answers])
    return answers


def prompt_rows(prompts: Iterable[Prompt]) -> list[dict[str, object]]:
    """Return the prompts as rows of a table."""
    return [
        {"prompt": [{"role": "user", "content": prompt.text}], "demands": constraints_to_text(prompt.constraints)}
        for prompt in prompts
    ]


def pair_rows(pairs: Sequence[Pair]) -> list[dict[str, object]]:
    """Return the pairs as rows of a table."""
    return [
        {
            **row,
            "chosen": [{"role": "assistant", "content": pair.chosen.text}],
            "rejected": [{"role": "assistant", "content": pair.rejected.text}],
            "score_chosen": float(pair.chosen.score),
            "score_rejected": float(pair.rejected.score),
        }
        for pair, row in zip(pairs, prompt_rows(pair.prompt for pair in pairs), strict=True)
    ]


def write_table(path: Path, rows: list[dict[str, object]], fields: dict[str, pa.DataType]) -> None:
    """Write a parquet file and print its size and hash."""
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), temporary, compression="zstd")
    content = path.read_bytes()
    print(f"{path.name}: {len(rows)} rows, {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


def describe(
    name: str, answers: Sequence[Sequence[Completion]], prompts: Sequence[Prompt], pairs: Sequence[Pair]
) -> None:
    """Print what the answers and pairs are like."""
    flat = [(answer, prompt) for row, prompt in zip(answers, prompts, strict=True) for answer in row]
    scores = Counter(constraints_met(answer.text, prompt.constraints) for answer, prompt in flat)
    tries: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for answer, prompt in flat:
        for constraint in prompt.constraints:
            tries[constraint.kind] += 1
            hits[constraint.kind] += constraint.is_met(answer.text)
    print(f"{name}: {len(flat)} answers to {len(prompts)} prompts, {sum(a.finished for a, _ in flat)} finished")
    print(f"  mean tokens {sum(a.tokens_out for a, _ in flat) / len(flat):.1f}")
    print(f"  constraints met {sum(s * n for s, n in scores.items()) / len(flat):.3f} {dict(sorted(scores.items()))}")
    print(f"  met by kind { ({kind: f'{hits[kind]}/{tries[kind]}' for kind in sorted(tries)}) }")
    print(f"  {len(pairs)} pairs, margins {dict(sorted(Counter(pair.margin for pair in pairs).items()))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "src" / "mixdpo" / "evaluation" / "data")
    parser.add_argument(
        "--answers", type=Path, default=ROOT / "build" / "demo-answers", help="where answers are cached"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that generate")
    arguments = parser.parse_args()

    prompts = make_prompts(TASKS.read_text(encoding="utf-8").splitlines(), SEED)
    smollm2_folder(notify=print)
    rng = random.Random(SEED)
    for number, split in enumerate(("validation", "train")):
        answers = sample_answers(prompts[split], arguments.answers, SEED + 1000 * number, arguments.workers)
        pairs = [
            pair
            for prompt, row in zip(prompts[split], answers, strict=True)
            for pair in pairs_of_prompt(prompt, row, rng)
        ]
        pairs = thin_ties(pairs, TIE_SHARE, rng) if split == "train" else one_per_prompt(pairs)
        describe(split, answers, prompts[split], pairs)
        write_table(arguments.output / f"{split}.parquet", pair_rows(pairs), PAIR_FIELDS)
    # The test prompts are never answered here, so nothing about the model can have chosen them.
    write_table(arguments.output / "test.parquet", prompt_rows(prompts["test"]), PROMPT_FIELDS)


if __name__ == "__main__":
    main()
