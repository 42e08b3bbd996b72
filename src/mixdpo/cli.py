"""The command line. It only parses and calls; heavy imports wait until a verb runs."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from mixdpo.cli_evaluation import evaluate
from mixdpo.errors import MixdpoError
from mixdpo.settings import SECTIONS, merge, split_overrides

if TYPE_CHECKING:
    from mixdpo.recipe import Recipe


class _CommandWithSettings(click.Command):
    """A command whose help ends with the recipe keys it reads, their units and their defaults."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mixdpo.help import settings_help

        formatter.write("\n" + settings_help(ctx.info_name or "") + "\n")


_data = click.argument("data", required=False)
_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Recipe: a YAML file; --SECTION.KEY VALUE overrides any key of it.",
)


@click.group()
def app() -> None:
    """Difficulty-aware preference optimisation: plan and train with small-margin pairs kept."""


@app.command(cls=_CommandWithSettings)
@_data
@_config
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("plan.parquet"), show_default=True,
    help="The plan's parquet file.",
)  # fmt: skip
@click.pass_obj
def plan(overrides: dict[str, Any], data: str | None, config: Path | None, output: Path) -> None:
    """Decide order and route of every pair of DATA (file, folder or hub id; default: the recipe's)."""
    from mixdpo.runs import load_and_score, plan_from_recipe

    recipe = _recipe(overrides, config, data)
    pairs, report = load_and_score(recipe.required("data"), recipe.plan)
    made = plan_from_recipe(recipe, pairs)
    made.save(output)
    for line in report.lines():
        click.echo(line)
    table = Table(title=f"plan: {made.settings.order}, {len(made):,} pairs", title_justify="left")
    for heading in ("route", "pairs", "share", "margin from", "mean", "to"):
        table.add_column(heading, justify="left" if heading == "route" else "right")
    for record in made.summary():
        margins = [record["margin_min"], record["margin_mean"], record["margin_max"]]
        table.add_row(
            record["route"],
            f"{record['pairs']:,}",
            f"{record['share']:.1%}",
            *("-" if margin is None else f"{margin:.3g}" for margin in margins),
        )
    Console().print(table)
    click.echo(f"plan: {output}")


@app.command(cls=_CommandWithSettings)
@_data
@_config
@click.option("--output", "-o", help="Folder of the run; default: train.output_dir.")
@click.option("--resume", is_flag=True, help="Continue the run in that folder from its last complete checkpoint.")
@click.pass_obj
def train(overrides: dict[str, Any], data: str | None, config: Path | None, output: str | None, resume: bool) -> None:
    """Train a model on DATA (file, folder or hub id; default: the recipe's) by a plan.

    On several GPUs: accelerate launch -m mixdpo train ...
    """
    from accelerate import PartialState

    from mixdpo.runs import train_from_recipe
    from mixdpo.training.summary import final_table

    run = train_from_recipe(_recipe(overrides, config, data), output, resume)
    if PartialState().is_main_process:
        steps = [record for record in run.metrics if "loss" in record]
        if steps:
            Console().print(final_table(steps[0], steps[-1]))
        click.echo(f"run: {run.folder} (model in {run.folder / 'model'}, figure {run.folder / 'training.png'})")
    PartialState().destroy_process_group()


@app.command(cls=_CommandWithSettings)
@_data
@_config
@click.pass_obj
def reference(overrides: dict[str, Any], data: str | None, config: Path | None) -> None:
    """Compute the reference that training on DATA (file, folder or hub id; default: the recipe's) will read.

    It is kept in the cache, so that `mixdpo train` with any learning rate, beta or batch size finds it there.
    """
    from accelerate import PartialState

    from mixdpo.runs import reference_from_recipe

    uses = reference_from_recipe(_recipe(overrides, config, data))
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
    """Plan, train and measure a real model on checkable demands, in about five minutes on two CPU cores."""
    from mixdpo.demo.run import run_demo

    _quiet_libraries()
    run_demo(model, output, short)


app.add_command(evaluate)


def _quiet_libraries() -> None:
    """Leave standard error to our own progress and warnings."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _recipe(overrides: dict[str, Any], config: Path | None, data: str | None) -> Recipe:
    from mixdpo.recipe import load_recipe

    _quiet_libraries()
    if data is not None:
        overrides = merge({"data": {"path": data}}, overrides)
    return load_recipe(config, overrides)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 the run failed, 2 input or settings are wrong."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_time=False)],
    )
    logging.getLogger("mixdpo").setLevel(logging.INFO)
    try:
        words, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments, SECTIONS)
        app(args=words, obj=overrides, prog_name="mixdpo", standalone_mode=False)
    except click.ClickException as error:
        print(f"mixdpo: {error.format_message()} See mixdpo --help.", file=sys.stderr)
        return 2
    except MixdpoError as error:
        print(f"mixdpo: {error}", file=sys.stderr)
        return error.exit_status
    except (KeyboardInterrupt, click.Abort):
        print("mixdpo: interrupted; continue a training run from its last checkpoint with --resume", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            traceback.print_exc()
            return 1
        print(
            "mixdpo: the disk is full; free some space and continue from the last complete checkpoint with --resume",
            file=sys.stderr,
        )
        return 1
    return 0
