"""The command line. It only parses and calls; heavy imports wait until a verb runs."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from mixdpo.errors import MixdpoError

app = typer.Typer(
    help="Difficulty-aware preference optimisation: plan and train with small-margin pairs kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_ANY_SETTING = {"allow_extra_args": True, "ignore_unknown_options": True}

Config = Annotated[
    Path | None, typer.Option("--config", help="Recipe: a YAML file; --SECTION.KEY VALUE overrides any key of it.")
]
Data = Annotated[
    str | None, typer.Argument(help="Preference pairs: a file, a folder or a hub id; default: the recipe's.")
]


class _CommandWithSettings(typer.core.TyperCommand):
    """A command whose help ends with the recipe keys it reads, their units and their defaults."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mixdpo.help import settings_help

        formatter.write("\n" + settings_help(ctx.info_name or "") + "\n")


@app.command(cls=_CommandWithSettings, context_settings=_ANY_SETTING)
def plan(
    ctx: typer.Context,
    data: Data = None,
    config: Config = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The plan's parquet file.")] = Path("plan.parquet"),
) -> None:
    """Decide order and route of every pair and save the plan."""
    from mixdpo.runs import load_and_score, plan_from_recipe

    recipe = _recipe(ctx, config, data)
    pairs, report = load_and_score(recipe.required("data"), recipe.plan)
    made = plan_from_recipe(recipe, pairs)
    made.save(output)
    for line in report.lines():
        typer.echo(line)
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
    typer.echo(f"plan: {output}")


@app.command(cls=_CommandWithSettings, context_settings=_ANY_SETTING)
def train(
    ctx: typer.Context,
    data: Data = None,
    config: Config = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the run; default: train.output_dir.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
) -> None:
    """Train a model by a plan. On several GPUs: accelerate launch -m mixdpo train ..."""
    from accelerate import PartialState

    from mixdpo.runs import train_from_recipe
    from mixdpo.summary import final_table

    run = train_from_recipe(_recipe(ctx, config, data), output, resume)
    if PartialState().is_main_process:
        steps = [record for record in run.metrics if "loss" in record]
        if steps:
            Console().print(final_table(steps[0], steps[-1]))
        typer.echo(f"run: {run.folder} (model in {run.folder / 'model'}, figure {run.folder / 'training.png'})")


@app.command()
def demo(
    model: Annotated[
        str | None, typer.Option("--model", help="Folder or hub id; default: SmolLM2-135M-Instruct from PyPI.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the demo's run.")] = Path("runs/demo"),
) -> None:
    """Plan, train and measure a real model on checkable demands, in about ten minutes on two CPU cores."""
    from mixdpo.demo.run import run_demo

    run_demo(model, output)


def _recipe(ctx: typer.Context, config: Path | None, data: str | None) -> Any:
    from mixdpo.recipe import load_recipe
    from mixdpo.settings import merge, parse_overrides

    overrides = parse_overrides(ctx.args)
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
        app(args=list(arguments) if arguments is not None else None, prog_name="mixdpo", standalone_mode=False)
    except click.ClickException as error:
        error.show()
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
