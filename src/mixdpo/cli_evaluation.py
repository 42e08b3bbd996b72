"""The verb `eval`. It only parses and calls."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mixdpo.cli_shared import finish, results_table

_output = click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="JSON file of the results."
)


@click.group("eval")
def evaluate() -> None:
    """Judge benchmarks: win rates and ratings with intervals, from stored verdicts or from a judge."""


@evaluate.command("alpaca-eval")
@click.option("--verdicts", type=click.Path(path_type=Path), required=True, help="Annotations of the judge.")
@click.option("--difficulty", type=click.Path(path_type=Path), help="instruction_difficulty.csv; default: the hub's.")
@click.option("--gamed", type=click.Path(path_type=Path), help="df_gamed.csv; default: the hub's.")
@click.option("--C", "C", type=click.FloatRange(min=0, min_open=True), help="L1 penalty; default: cross-validated.")
@click.option(
    "--align", type=click.Choice(["instruction", "row"]), default="instruction", show_default=True,
    help="Which difficulty a verdict gets; row: by position, as published numbers have it.",
)  # fmt: skip
@_output
def alpaca_eval(
    verdicts: Path, difficulty: Path | None, gamed: Path | None, C: float | None, align: Any, output: Path
) -> None:
    """AlpacaEval 2: win rate and length-controlled win rate of stored verdicts."""
    from mixdpo.evaluation.alpaca_eval import read_length_control, read_verdicts, score_verdicts
    from mixdpo.io import write_json

    judged = read_verdicts(verdicts)
    results = dict(score_verdicts(judged, read_length_control(gamed, difficulty), C=C, align=align))
    write_json(
        output,
        {
            "benchmark": "alpaca_eval_2",
            "verdicts": str(verdicts),
            "settings": {"C": C if C is not None else "cross-validated", "align": align},
            "models": results,
        },
    )
    table = results_table(
        f"AlpacaEval 2, {verdicts.name}", "model", "win rate", "95 % interval", "LC win rate", "length", "n"
    )
    for name, one in sorted(results.items(), key=lambda item: -item[1]["length_controlled_winrate"]):
        low, high = one["win_rate_interval"]
        table.add_row(
            name,
            f"{one['win_rate']:.2f}",
            f"{low:.1f} to {high:.1f}",
            f"{one['length_controlled_winrate']:.2f}",
            f"{one['avg_length']:,}",
            f"{one['n_total']}",
        )
    finish(table, output)


@evaluate.command("arena-hard")
@click.option("--verdicts", type=click.Path(path_type=Path), required=True, multiple=True,
              help="Games, judgements or battles; several files are several judges, pooled.")  # fmt: skip
@click.option(
    "--version", type=click.Choice(["v0.1", "v2"]), default="v0.1", show_default=True, help="Whose rules to follow."
)
@click.option("--category", help="Take the prompts of this category.")
@click.option(
    "--style", type=click.Path(path_type=Path), help="Tokens, headers, lists and bold spans of every answer."
)
@click.option(
    "--control", type=click.Choice(["style", "length", "markdown"]), default="style", show_default=True,
    help="What is held equal where --style is given.",
)  # fmt: skip
@click.option("--baseline", help="Name of the baseline in the style file; default: the published one.")
@click.option("--rounds", type=click.IntRange(min=1), default=100, show_default=True, help="Bootstrap resamples.")
@click.option("--level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, show_default=True,
              help="Level of the intervals; the current original prints 0.9.")  # fmt: skip
@click.option("--seed", type=int, help="Of the bootstrap; default: the published one.")
@_output
def arena_hard(
    verdicts: tuple[Path, ...], version: Any, category: str | None, style: Path | None, control: Any,
    baseline: str | None, rounds: int, level: float, seed: int | None, output: Path,
) -> None:  # fmt: skip
    """Arena-Hard: win rates against the baseline, Bradley-Terry, with bootstrap intervals and style control."""
    from mixdpo.evaluation.arena_hard import (
        BASELINES,
        SEEDS,
        Bootstrap,
        pool,
        read_battles,
        read_style,
        score_at_equal_style,
        score_battles,
    )
    from mixdpo.io import write_json

    battles = pool([read_battles(file, version, category) for file in verdicts])
    bootstrap = Bootstrap(rounds=rounds, seed=SEEDS[version] if seed is None else seed, level=level)
    results = score_battles(battles, version, bootstrap)
    record: dict[str, Any] = {
        "benchmark": f"arena_hard_{version}",
        "verdicts": [str(file) for file in verdicts],
        "settings": {"category": category, **asdict(bootstrap)},
        "models": results,
    }
    if style is not None:
        default = "arena-hard-v0.1" if version == "v0.1" else category or "hard_prompt"
        name = baseline or BASELINES.get(default, "")
        controlled, effects = score_at_equal_style(battles, read_style(style), name, version, control, bootstrap)
        for model, result in controlled.items():
            results[model]["style_control"] = result
        record["settings"] |= {"control": control, "baseline": name}
        record["style_effects"] = effects
    write_json(output, record)
    headings = ["model", "win rate", f"{level:.0%} interval", "over prompts", "n", "unread"]
    table = results_table(f"Arena-Hard {version}", *headings, *([f"equal {control}"] if style else []))
    for model, result in sorted(results.items(), key=lambda item: -item[1]["win_rate"]):
        equal = [f"{result['style_control']['win_rate']:.2f}"] if style else []
        ranges = ("{:.1f} to {:.1f}".format(*result[key]) for key in ("interval", "prompt_interval"))
        counts = (f"{result['n_prompts']}", f"{result['n_unread']}")
        table.add_row(model, f"{result['win_rate']:.2f}", *ranges, *counts, *equal)
    finish(table, output)


@evaluate.command("mt-bench")
@click.option("--verdicts", type=click.Path(path_type=Path), required=True, help="Judgements, with text or score.")
@click.option("--questions", type=click.Path(path_type=Path), help="question.jsonl, for means by category.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@_output
def mt_bench(verdicts: Path, questions: Path | None, seed: int, output: Path) -> None:
    """MT-Bench: mean ratings by turn and by category of stored judgements."""
    from mixdpo.evaluation.mt_bench import mean_ratings, read_categories, read_ratings
    from mixdpo.io import write_json

    categories = read_categories(questions) if questions else {}
    results = {
        model: mean_ratings(ratings, categories, seed=seed) for model, ratings in read_ratings(verdicts).items()
    }
    write_json(
        output,
        {"benchmark": "mt_bench", "verdicts": str(verdicts), "settings": {"seed": seed}, "models": results},
    )
    table = results_table(
        "MT-Bench, single grading", "model", "average", "95 % interval", "turn 1", "turn 2", "n", "unread"
    )
    for model, result in sorted(results.items(), key=lambda item: -item[1]["average"]):
        turns = (result["first_turn"], result["second_turn"])
        table.add_row(
            model,
            f"{result['average']:.2f}",
            "{:.2f} to {:.2f}".format(*result["interval"]),
            *("-" if turn is None else f"{turn:.2f}" for turn in turns),
            f"{result['n']}",
            f"{result['n_error']}",
        )
    finish(table, output)
