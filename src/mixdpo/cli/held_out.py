"""Verbs of `eval` that need no judge: downstream tasks, preference metrics, checkable demands."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from mixdpo.cli.recipe_options import CommandWithSettings, config_option, recipe_of
from mixdpo.cli.shared import finish, interval_text, quiet_libraries, value_text
from mixdpo.common.settings import merge
from mixdpo.common.terminal import results_table

_output = click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True,
    help="JSON file of the results; values by item are written beside it.",
)  # fmt: skip
_batch_size = click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True,
                           help="Requests or pairs at once.")  # fmt: skip


@click.command("open-llm-v1")
@click.option("--model", required=True, help="Folder or hub id.")
@click.option("--adapter", help="Folder or hub id of a trained adapter on the model.")
@click.option("--tasks", help="Tasks of the harness, separated by commas; default: the leaderboard's six.")
@click.option("--limit", type=click.IntRange(min=1), help="Questions of each (sub)task at most: a trial, no result.")
@click.option("--chat-template", is_flag=True, help="Ask in the model's chat template; the leaderboard did not.")
@click.option("--include-path", type=click.Path(path_type=Path), help="Folder of task files of your own.")
@_batch_size
@_output
def open_llm_v1(
    model: str, adapter: str | None, tasks: str | None, limit: int | None, chat_template: bool,
    include_path: Path | None, batch_size: int, output: Path,
) -> None:  # fmt: skip
    """Downstream tasks by lm-evaluation-harness: MMLU, TruthfulQA, HellaSwag, ARC-C, WinoGrande, GSM8K.

    A run that was stopped goes on with the first task that was not finished when it is started again.
    """
    from mixdpo.common.files import check_output, write_json
    from mixdpo.evaluation.benchmarks.open_llm import (
        OPEN_LLM_V1,
        Kept,
        describe,
        find_tasks,
        items_of,
        run_tasks,
        summarise,
    )
    from mixdpo.generation.local_model import content_digest
    from mixdpo.generation.reply_cache import reply_cache
    from mixdpo.generation.unfinished import forget_unfinished, unfinished
    from mixdpo.models.loading import load_for_inference, load_tokenizer
    from mixdpo.models.model_settings import ModelSettings, model_name

    quiet_libraries()
    check_output(output)
    names = [name.strip() for name in tasks.split(",") if name.strip()] if tasks else list(OPEN_LLM_V1)
    settings = ModelSettings(name_or_path=model, adapter=adapter)
    found = find_tasks(names, include_path)
    loaded = load_for_inference(settings)
    how: dict[str, Any] = {"limit": limit, "chat_template": chat_template, "batch_size": batch_size}
    with reply_cache(unfinished(output)) as cache:
        kept = Kept(cache, content_digest(loaded))
        scores = dict(run_tasks(loaded, load_tokenizer(settings), found, **how, kept=kept))
    name, result = model_name(adapter or model), summarise(scores)
    dtype = str(loaded.dtype).removeprefix("torch.")
    published = set(names) <= set(OPEN_LLM_V1) and limit is None and not chat_template and include_path is None
    items = _write_items(output, items_of(name, scores))
    write_json(
        output,
        {
            "benchmark": "open_llm_v1",
            "settings": {"model": model, "adapter": adapter, "dtype": dtype, "limit": limit,
                         "chat_template": chat_template, **describe(scores)},
            "comparable": {"published": published, "note": "the leaderboard ran an older version of the harness"},
            "models": {name: result},
            "items": items,
        },
    )  # fmt: skip
    forget_unfinished(output)
    table = results_table(f"Open LLM Leaderboard v1, {name}", "task", "score", "std. error", "95 % interval",
                          "metric", "shots", "n")  # fmt: skip
    for task, score in scores.items():
        table.add_row(task, *_cells(result, task), score.metric, f"{score.shots}", f"{result['n'][task]:,}")
    table.add_row("mean", *_cells(result, "mean"), "", "", f"{sum(result['n'].values()):,}", style="bold")
    finish(table, output)


def _cells(result: dict[str, Any], task: str) -> tuple[str, str, str]:
    error, interval = result[f"{task}_standard_error"], result[f"{task}_interval"]
    return value_text(result[task]), value_text(error), interval_text(interval)


@click.command("preferences", cls=CommandWithSettings)
@click.argument("data", required=False)
@config_option
@click.option("--adapter", help="Folder or hub id of a trained adapter on the model.")
@click.option("--reference", help="What it was trained from; without it only the ranking by likelihood is measured.")
@click.option("--beta", type=click.FloatRange(min=0, min_open=True),
              help="Of the implicit reward, per nat; default: train.beta, else 0.1.")  # fmt: skip
@click.option("--metric", help="Buckets are thirds of margin/METRIC; default: rating where DATA has scores.")
@_batch_size
@_output
@click.pass_obj
def preferences(
    overrides: dict[str, Any], data: str | None, config: Path | None, adapter: str | None, reference: str | None,
    beta: float | None, metric: str | None, batch_size: int, output: Path,
) -> None:  # fmt: skip
    """Preference metrics on held-out pairs: accuracy, margins and displacement of log-probabilities, by bucket.

    DATA is a file, folder or hub id of pairs that the model was not trained on; default: the recipe's eval_data. The
    model is named by --model, a folder or hub id, and the settings below are read as in training.
    """
    from mixdpo.common.files import check_output, write_json
    from mixdpo.data.arrays import data_fingerprint
    from mixdpo.difficulty.scored_pairs import load_pairs_with_report
    from mixdpo.evaluation.benchmarks.preferences import measure_preferences
    from mixdpo.models.forward_settings import ForwardSettings
    from mixdpo.models.model_settings import model_name

    check_output(output)
    given = {"adapter": adapter} if adapter else {}
    recipe = recipe_of(merge(overrides, {"model": given} if given else {}), config, data)
    policy = recipe.required("model")
    source = recipe.required("eval_data" if data is None else "data")
    pairs, report = load_pairs_with_report(source)
    for line in report.lines():
        click.echo(line)
    limits = {key: recipe.train[key] for key in ("max_length", "max_prompt_length", "bf16") if key in recipe.train}
    passes = ForwardSettings(batch_size=batch_size, **limits)
    beta = beta or recipe.train.get("beta", 0.1)
    measured = measure_preferences(
        pairs,
        policy,
        replace(policy, name_or_path=reference, revision=None, adapter=None) if reference else None,
        beta=beta,
        metric=metric,
        settings=passes,
    )
    name = model_name(policy.adapter or policy.name_or_path)
    items = {"model": [name] * len(pairs), **{key: measured.pairs[key] for key in measured.pairs.column_names}}
    write_json(
        output,
        {
            "benchmark": "preferences",
            "settings": {"data": source.path, "fingerprint": data_fingerprint(pairs), "model": policy.name_or_path,
                         "adapter": policy.adapter, "reference": reference, "beta": beta, "metric": metric,
                         **asdict(passes)},
            "models": {name: measured.summary},
            "items": _write_items(output, items),
        },
    )  # fmt: skip
    summary, parts = measured.summary, measured.summary.get("buckets", {})
    table = results_table(f"preferences, {name}: {len(pairs):,} pairs", "metric", "all", "95 % interval", *parts)
    for key in (key for key in summary if f"{key}_interval" in summary):
        by_bucket = (value_text(part[key]) for part in parts.values())
        table.add_row(key, value_text(summary[key]), interval_text(summary[f"{key}_interval"], 2), *by_bucket)
    table.add_row("pairs", f"{summary['n']:,}", "", *(f"{part['n']:,}" for part in parts.values()))
    finish(table, output)


@click.command("demands")
@click.argument("sources", nargs=-1, required=True)
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True,
              help="Which of the demo's held-out prompts.")  # fmt: skip
@click.option("--column", help="Column of the answers in files; default: answer, output or response.")
@click.option("--limit", type=click.IntRange(min=2), help="Take only the first prompts.")
@_output
def demands(sources: tuple[str, ...], split: str, column: str | None, limit: int | None, output: Path) -> None:
    """Checkable demands as a judge: how many of three an answer meets, counted by programs.

    SOURCES are files of answers (with a column prompt) or models (folder or hub id); NAME=SOURCE names one.
    """
    from mixdpo.common.files import check_output, write_json
    from mixdpo.common.statistics import cluster_means
    from mixdpo.evaluation.benchmarks.demands import (
        answers_of,
        count_demands,
        items_of,
        read_held_out,
        summarise_demands,
    )
    from mixdpo.evaluation.statistics.paired import compare_all

    quiet_libraries()
    check_output(output)
    held_out = read_held_out(split, limit)
    named = _named(sources)
    answers = {name: answers_of(source, held_out, column) for name, source in named.items()}
    met = {name: count_demands(texts, held_out) for name, texts in answers.items()}
    results = {name: summarise_demands(answers[name], met[name], held_out) for name in named}
    by_task = {name: cluster_means(values, held_out.tasks) for name, values in met.items()}
    differences = [asdict(one) for one in compare_all(by_task)]
    write_json(
        output,
        {
            "benchmark": "demands",
            "settings": {"split": split, "prompts": len(held_out.prompts), "sources": named},
            "models": results,
            "differences": differences,
            "items": _write_items(output, items_of(met, answers, held_out)),
        },
    )
    table = results_table(f"demands, {len(held_out.prompts)} held-out prompts", "model", "met of 3", "95 % interval",
                          "all met", "95 % interval", "length")  # fmt: skip
    for name, result in sorted(results.items(), key=lambda item: -item[1]["demands_met"]):
        table.add_row(
            name,
            value_text(result["demands_met"]),
            interval_text(result["demands_met_interval"], 2),
            f"{result['all_met']:.0f} %",
            interval_text(result["all_met_interval"], 0),
            f"{result['avg_length']:,}",
        )
    finish(table, output)
    for one in differences:
        gain = "{estimate:+.2f} ({low:+.2f} to {high:+.2f})".format(**one["gain"])
        click.echo(f"{one['second']} - {one['first']}: {gain}, adjusted p = {one['p_adjusted']:.3g}")


COMMANDS = (open_llm_v1, preferences, demands)


def _named(sources: tuple[str, ...]) -> dict[str, str]:
    from mixdpo.common.errors import InputError

    named: dict[str, str] = {}
    for source in sources:
        given, equals, rest = source.partition("=")
        name, value = (given, rest) if equals and not Path(source).exists() else (_short_name(source), source)
        if name in named:
            raise InputError(f"two sources are called {name}", hint="name them: NAME=SOURCE")
        named[name] = value
    return named


def _short_name(source: str) -> str:
    from mixdpo.common.table_files import ENDINGS
    from mixdpo.models.model_settings import model_name

    if not Path(source).is_file():
        return model_name(source)
    name = Path(source).name
    ending = max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default="")
    return name.removesuffix(ending)


def _write_items(output: Path, columns: dict[str, Any]) -> str:
    """Write one row per model and item beside the results and return the file's name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mixdpo.common.files import atomic_path

    path = output.with_name(f"{output.stem}.items.parquet")
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
    return path.name
