"""The command `plan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, recipe_of
from mixdpo.common.files import check_output
from mixdpo.common.tables import plain_console, results_table

if TYPE_CHECKING:
    from mixdpo.plan.agreement_curve import AgreementCurve


@click.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("plan.parquet"), show_default=True,
    help="The plan's parquet file.",
)  # fmt: skip
@click.pass_obj
def plan(overrides: dict[str, Any], data: str | None, config: Path | None, output: Path) -> None:
    """Decide order and route of every pair of DATA (file, folder or hub id; default: the recipe's).

    With `--plan.threshold auto` the curve it was read from is printed and drawn beside the plan. Of pairs with columns
    quality/NAME the table says how much better the chosen answers are than those of the policy NAME.
    """
    recipe = recipe_of(overrides, config, data)
    check_output(output)

    from mixdpo.pairs.quality import quality_of
    from mixdpo.recipe.planned_pairs import load_and_score, plan_from_recipe

    pairs, report = load_and_score(recipe, recipe.required("data"), recipe.plan)
    made = plan_from_recipe(recipe, pairs)
    made.save(output)
    for line in report.lines():
        click.echo(line)
    qualities = {name: made.mean_by_route(one.chosen) for name, one in quality_of(pairs).items()}
    headings = ("route", "pairs", "share", "margin from", "mean", "to", *(f"chosen - {name}" for name in qualities))
    table = results_table(f"plan: {made.settings.order}, {len(made):,} pairs", *headings)
    for record in made.summary():
        margins = [record["margin_min"], record["margin_mean"], record["margin_max"]]
        table.add_row(
            record["route"],
            f"{record['pairs']:,}",
            f"{record['share']:.1%}",
            *("-" if margin is None else f"{margin:.3g}" for margin in margins),
            *(_mean_quality(*by_route[record["route"]]) for by_route in qualities.values()),
        )
    plain_console().print(table)
    if made.curve is not None:
        from mixdpo.plan.curve_figure import save_agreement_figure

        figure = output.with_name(f"{output.stem}-threshold.png")
        save_agreement_figure(asdict(made.curve), figure)
        _print_curve(made.curve)
        click.echo(f"curve: {figure}")
    click.echo(f"plan: {output}")


def _mean_quality(mean: float, pairs: int) -> str:
    return f"{mean:+.3g} (n = {pairs:,})" if pairs else "-"


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
    plain_console().print(table)
    for signal in curve.signals:
        use = f"weight {signal.weight:+.2f}" if signal.weight else "left out: not told from chance"
        interval = f"{signal.low:.1%} to {signal.high:.1%}"
        click.echo(f"signal {signal.metric}: {signal.agreement:.1%} ({interval}) of the easiest third; {use}")
    click.echo(f"threshold: {'none' if curve.threshold is None else format(curve.threshold, '.4g')}. {curve.reason}")
