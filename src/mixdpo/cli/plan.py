"""The command `plan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, recipe_of
from mixdpo.common.files import check_output
from mixdpo.common.tables import percent_text, plain_console, results_table

if TYPE_CHECKING:
    from mixdpo.plan.agreement_curve import AgreementCurve
    from mixdpo.plan.plan import Plan


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

    With `--plan.threshold auto` or `--plan.label_probability agreement` the curve they are read from is printed and
    drawn beside the plan. Of pairs with columns quality/NAME the table says how much better the chosen answers are
    than those of the policy NAME.
    """
    recipe = recipe_of(overrides, config, data)
    check_output(output)

    from mixdpo.pairs.quality import quality_of
    from mixdpo.plan.plan_table import route_table
    from mixdpo.recipe.planned_pairs import load_and_score, plan_from_recipe

    pairs, report = load_and_score(recipe, recipe.required("data"), recipe.plan)
    made = plan_from_recipe(recipe, pairs)
    made.save(output)
    for line in report.lines():
        click.echo(line)
    qualities = {name: made.mean_by_route(one.chosen) for name, one in quality_of(pairs).items()}
    routes = route_table(f"plan: {made.settings.order}, {len(made):,} pairs", made.summary())
    headings = [*routes.headings, *(f"chosen - {name}" for name in qualities)]
    if qualities:  # these are wide
        headings = [headings[0], *("\n".join(heading.rsplit(" ", 1)) for heading in headings[1:])]
    table = results_table(routes.title, *headings)
    for row in routes.rows:
        table.add_row(*row, *(_mean_quality(*by_route[row[0]]) for by_route in qualities.values()))
    plain_console().print(table)
    if made.advice is not None:
        from mixdpo.cli.advise import print_advice

        print_advice(made.advice, made.settings.metric)
    if made.settings.weight == "rate":
        click.echo("weight rate: computed when training starts, from its schedule")
    if made.settings.stages > 1:
        click.echo(
            f"stages: {made.settings.stages}; these are order and routes of the start, each stage tells its own"
        )
    if (unread := made.unread(pairs)) is not None:
        click.echo(unread)
    if made.curve is not None:
        from mixdpo.plan.curve_figure import save_agreement_figure

        figure = output.with_name(f"{output.stem}-threshold.png")
        save_agreement_figure(asdict(made.curve), figure, made.advice)
        _print_curve(made)
        click.echo(f"curve: {figure}")
    click.echo(f"plan: {output}")


def _mean_quality(mean: float, pairs: int) -> str:
    return f"{mean:+.3g}\nn = {pairs:,}" if pairs else "-"


def _print_curve(made: Plan) -> None:
    """Print what was read from the agreement of the signals with the label by margin."""
    curve = made.curve
    assert curve is not None
    table = Table(title="agreement of the signals with the label, hardest pairs first", title_justify="left")
    for heading in ("margin from", "to", "pairs", "agreement", "95 % band", *(s.metric for s in curve.signals)):
        table.add_column(heading, justify="right")
    table.add_column("label")
    for item in curve.bins:
        table.add_row(
            f"{item.margin_min:.3g}",
            f"{item.margin_max:.3g}",
            f"{item.pairs:,}",
            "-" if item.agreement is None else percent_text(item.agreement),
            "-" if item.low is None or item.high is None else f"{percent_text(item.low)} to {percent_text(item.high)}",
            *(percent_text(share) for share in item.by_signal),
            item.verdict,
        )
    plain_console().print(table)
    for signal in curve.signals:
        use = f"weight {signal.weight:+.2f}" if signal.weight else "left out: not told from chance"
        interval = f"{percent_text(signal.low)} to {percent_text(signal.high)}"
        click.echo(
            f"signal {signal.metric}: {percent_text(signal.agreement)} ({interval}) of the easiest third; {use}"
        )
    if made.settings.threshold == "auto":
        threshold = "none" if curve.threshold is None else format(curve.threshold, ".4g")
        click.echo(f"threshold: {threshold}. {curve.reason}")
    if made.settings.label_probability == "agreement":
        _print_labels(curve)


def _print_labels(curve: AgreementCurve) -> None:
    """Print the probability that a label is right by margin."""
    from mixdpo.plan.labels import labels_by_bin

    headings = ("margin from", "to", "pairs", "P label", "bounds")
    table = results_table("probability that the label is right, hardest pairs first", *headings)
    for item, labels in zip(curve.bins, labels_by_bin(curve), strict=True):
        table.add_row(
            f"{item.margin_min:.3g}",
            f"{item.margin_max:.3g}",
            f"{item.pairs:,}",
            f"{labels.probability:.3f}",
            f"{labels.low:.3f} to {labels.high:.3f}",
        )
    plain_console().print(table)
