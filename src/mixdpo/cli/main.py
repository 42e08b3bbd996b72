"""The command line. It only parses and calls; heavy imports wait until a verb runs."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from mixdpo import __version__
from mixdpo.cli.audit import audit, clean
from mixdpo.cli.compare import compare
from mixdpo.cli.eval import evaluate
from mixdpo.cli.generate import generate
from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, recipe_of, with_keys
from mixdpo.cli.shared import quiet_libraries
from mixdpo.cli.study import study
from mixdpo.common.errors import MixdpoError
from mixdpo.common.settings import SECTIONS, split_overrides
from mixdpo.common.terminal import results_table

if TYPE_CHECKING:
    from mixdpo.plan.agreement_curve import AgreementCurve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def app() -> None:
    """Difficulty-aware preference optimisation: plan and train with small-margin pairs kept."""


@app.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option("--metric", multiple=True, help="Difficulty metric; may be given several times. Default: the recipe's.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("scored.parquet"), show_default=True,
    help="The parquet file of the pairs with their margins.",
)  # fmt: skip
@click.pass_obj
def score(
    overrides: dict[str, Any], data: str | None, config: Path | None, metric: tuple[str, ...], output: Path
) -> None:
    """Say how hard every pair of DATA (file, folder or hub id; default: the recipe's) is: larger margin, easier.

    On several GPUs: accelerate launch -m mixdpo score ...
    """
    import numpy as np
    from accelerate import PartialState

    from mixdpo.data.arrays import float_column
    from mixdpo.recipe.runs import score_from_recipe

    pairs, report = score_from_recipe(recipe_of(overrides, config, data), metric, output)
    if PartialState().is_main_process:
        for line in report.lines():
            click.echo(line)
        headings = ("metric", "smallest", "10 %", "median", "90 %", "largest", "under 0")
        table = results_table(f"margins of {len(pairs):,} pairs", *headings)
        for column in (name for name in pairs.column_names if name.startswith("margin/")):
            margin = float_column(pairs, column)
            points = (f"{value:.3g}" for value in np.quantile(margin, [0, 0.1, 0.5, 0.9, 1]))
            table.add_row(column.removeprefix("margin/"), *points, f"{(margin < 0).mean():.1%}")
        Console().print(table)
        click.echo(f"scored: {output}")
    PartialState().destroy_process_group()


@app.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("plan.parquet"), show_default=True,
    help="The plan's parquet file.",
)  # fmt: skip
@click.pass_obj
def plan(overrides: dict[str, Any], data: str | None, config: Path | None, output: Path) -> None:
    """Decide order and route of every pair of DATA (file, folder or hub id; default: the recipe's).

    With `--plan.threshold auto` the curve it was read from is printed and drawn beside the plan.
    """
    from mixdpo.recipe.runs import load_and_score, plan_from_recipe

    recipe = recipe_of(overrides, config, data)
    pairs, report = load_and_score(recipe, recipe.required("data"), recipe.plan)
    made = plan_from_recipe(recipe, pairs)
    made.save(output)
    for line in report.lines():
        click.echo(line)
    headings = ("route", "pairs", "share", "margin from", "mean", "to")
    table = results_table(f"plan: {made.settings.order}, {len(made):,} pairs", *headings)
    for record in made.summary():
        margins = [record["margin_min"], record["margin_mean"], record["margin_max"]]
        table.add_row(
            record["route"],
            f"{record['pairs']:,}",
            f"{record['share']:.1%}",
            *("-" if margin is None else f"{margin:.3g}" for margin in margins),
        )
    Console().print(table)
    if made.curve is not None:
        from mixdpo.plan.curve_figure import save_agreement_figure

        figure = output.with_name(f"{output.stem}-threshold.png")
        save_agreement_figure(asdict(made.curve), figure)
        _print_curve(made.curve)
        click.echo(f"curve: {figure}")
    click.echo(f"plan: {output}")


@app.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option("--output", "-o", help="Folder of the run; default: train.output_dir.")
@click.option("--resume", is_flag=True, help="Continue the run in that folder from its last complete checkpoint.")
@click.pass_obj
def train(overrides: dict[str, Any], data: str | None, config: Path | None, output: str | None, resume: bool) -> None:
    """Train a model on DATA (file, folder or hub id; default: the recipe's) by a plan.

    On several GPUs: accelerate launch -m mixdpo train ...
    """
    from accelerate import PartialState

    from mixdpo.recipe.runs import train_from_recipe
    from mixdpo.training.metrics import final_table

    run = train_from_recipe(recipe_of(overrides, config, data), output, resume)
    if PartialState().is_main_process:
        steps = [record for record in run.metrics if "loss" in record]
        if steps:
            Console().print(final_table(steps[0], steps[-1]))
        click.echo(f"run: {run.folder} (model in {run.folder / 'model'}, figure {run.folder / 'training.png'})")
    PartialState().destroy_process_group()


@app.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.pass_obj
def reference(overrides: dict[str, Any], data: str | None, config: Path | None) -> None:
    """Compute the reference that training on DATA (file, folder or hub id; default: the recipe's) will read.

    It is kept in the cache, so that `mixdpo train` with any learning rate, beta or batch size finds it there.
    """
    from accelerate import PartialState

    from mixdpo.recipe.runs import reference_from_recipe

    uses = reference_from_recipe(recipe_of(overrides, config, data))
    if PartialState().is_main_process:
        for name, use in uses.items():
            click.echo(f"reference ({name}): {use.found:,} pairs from the cache, {use.computed:,} computed")
        click.echo(f"cache: {uses['train'].file}")
    PartialState().destroy_process_group()


@app.command()
@click.option("--model", help="Folder or hub id; default: SmolLM2-135M-Instruct from the Python package index.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True,
    help="Folder of the demo's run.",
)  # fmt: skip
@click.option("--short", is_flag=True, help="A few steps and prompts: shows that everything works, measures nothing.")
def demo(model: str | None, output: Path, short: bool) -> None:
    """Plan, train and measure a real model on checkable demands, in 5 to 7 minutes on two CPU cores."""
    from mixdpo.study.demo.demo import run_demo

    quiet_libraries()
    run_demo(model, output, short)


app.add_command(audit)
app.add_command(clean)
app.add_command(compare)
app.add_command(evaluate)
app.add_command(generate)
app.add_command(study)


def _print_curve(curve: AgreementCurve) -> None:
    """Print what `threshold: auto` was read from: agreement of the signals with the label by margin."""
    table = Table(title="agreement of the signals with the label, hardest pairs first", title_justify="left")
    for heading in ("margin from", "to", "pairs", "agreement", "95 % band", *(s.metric for s in curve.signals)):
        table.add_column(heading, justify="right")
    table.add_column("label")
    for item in curve.bins:
        table.add_row(
            f"{item.margin_min:.3g}",
            f"{item.margin_max:.3g}",
            f"{item.pairs:,}",
            "-" if item.agreement is None else f"{item.agreement:.1%}",
            "-" if item.low is None or item.high is None else f"{item.low:.1%} to {item.high:.1%}",
            *(f"{share:.1%}" for share in item.by_signal),
            item.verdict,
        )
    Console().print(table)
    for signal in curve.signals:
        use = f"weight {signal.weight:+.2f}" if signal.weight else "left out: not told from chance"
        interval = f"{signal.low:.1%} to {signal.high:.1%}"
        click.echo(f"signal {signal.metric}: {signal.agreement:.1%} ({interval}) of the easiest third; {use}")
    click.echo(f"threshold: {'none' if curve.threshold is None else format(curve.threshold, '.4g')}. {curve.reason}")


def _reads_recipe(words: Sequence[str]) -> bool:
    command: click.Command | None = app
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word)
    return isinstance(command, CommandWithSettings)


def _continued(words: Sequence[str]) -> str:
    """Say how a command that was broken off goes on."""
    if words and words[0] == "train":
        return "give the command again with --resume: it continues from the last complete checkpoint"
    return "give the same command again: finished passes, answers and verdicts are kept"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 the run failed, 2 input or settings are wrong."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_time=False)],
    )
    logging.getLogger("mixdpo").setLevel(logging.INFO)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        overrides: dict[str, Any] = {}
        if _reads_recipe(words):
            words, overrides = split_overrides(with_keys(words), SECTIONS)
        app(args=words, obj=overrides, prog_name="mixdpo", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a verb
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.ClickException as error:
        print(f"mixdpo: {error.format_message()} See mixdpo --help.", file=sys.stderr)
        return 2
    except MixdpoError as error:
        print(f"mixdpo: {error}", file=sys.stderr)
        return error.exit_status
    except (KeyboardInterrupt, click.Abort):
        print(f"mixdpo: interrupted; {_continued(words)}", file=sys.stderr)
        return 130
    except PermissionError as error:
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"mixdpo: {where}; fix the permissions or choose another place", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            traceback.print_exc()
            return 1
        print(f"mixdpo: the disk is full; free some space, and {_continued(words)}", file=sys.stderr)
        return 1
    return 0
