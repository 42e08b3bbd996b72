"""A study's tables: arms by the primary measure, side measures, displacement, all runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from mixdpo.common.tables import TextTable, percent_text
from mixdpo.study.analysis import Analysis, ArmResult
from mixdpo.study.effects import Effect
from mixdpo.study.task import HELD_OUT_BUCKETS

MEASURES: Final = {
    "demands_met": "constraints met per answer, of 3",
    "judge": "judge's grade",
    "preference_accuracy": "preference accuracy",
    "finished": "answers ended by the model",
    "tokens": "tokens per answer",
    "displacement_chosen": "change of log p(chosen), nats",
    "displacement_rejected": "change of log p(rejected), nats",
}
"""What measures are called in tables and figures."""

_SHARES: Final = ("finished", "preference_accuracy")


def effects_table(analysis: Analysis) -> TextTable:
    """Arms by their effect on the primary measure against the baseline, largest first."""
    headings = (
        "arm", "rate", "beta", MEASURES.get(analysis.primary, analysis.primary), f"against {analysis.baseline}",
        "p (Holm)", "against start", "p (Holm)", "seeds",
    )  # fmt: skip
    rows = []
    for arm in ranked(analysis):
        effect = arm.against_baseline
        rows.append(
            (
                arm.name,
                _setting(arm.learning_rate),
                _setting(arm.beta),
                _number(analysis.primary, arm.means.get(analysis.primary)),
                interval(effect),
                "" if effect is None else written_p(effect.p_adjusted),
                interval(arm.against_start),
                "" if arm.against_start is None else written_p(arm.against_start.p_adjusted),
                f"{arm.seeds}" + (f" ({arm.failed} failed)" if arm.failed else ""),
            )
        )
    return TextTable(_caption(analysis, "effects"), headings, rows)


def contrasts_table(analysis: Analysis) -> TextTable:
    """Pooled arms against pooled arms, as planned in the study file."""
    measure = MEASURES.get(analysis.primary, analysis.primary)
    headings = ("contrast", "arms", "against", f"difference, {measure}", "p (Holm)", "seeds")
    rows = [
        (
            one.name, ", ".join(one.arms), ", ".join(one.against), interval(one.effect),
            written_p(one.effect.p_adjusted), f"{one.effect.seeds}",
        )
        for one in analysis.contrasts
    ]  # fmt: skip
    return TextTable(_caption(analysis, "contrasts"), headings, rows, names=3)


def measures_table(analysis: Analysis) -> TextTable:
    """Arms by the means of all other measures, with the pairs of each route and their optimizer steps."""
    names = list(dict.fromkeys(name for arm in analysis.arms for name in arm.means if name != analysis.primary))
    headings = ("arm", "pairs by route", "updates", *(MEASURES.get(name, name) for name in names))
    rows = [
        (
            arm.name,
            ", ".join(f"{pairs:.0f} {route}" for route, pairs in arm.routes.items()),
            " / ".join(map(str, arm.updates)) or "0",
            *(_number(name, arm.means.get(name)) for name in names),
        )
        for arm in ranked(analysis)
    ]
    return TextTable(_caption(analysis, "measures"), headings, rows)


def displacement_table(analysis: Analysis) -> TextTable:
    """Arms by the change of the answers' log-probabilities, in nats, for each bucket of held-out pairs."""
    present = [name for name in HELD_OUT_BUCKETS if any(one.bucket == name for one in analysis.displacement)]
    headings = ("arm", *(f"{bucket}, {side}" for bucket in present for side in ("chosen", "rejected")))
    rows = []
    for arm in ranked(analysis):
        here = {one.bucket: one for one in analysis.displacement if one.arm == arm.name}
        if here:
            sides = [side for bucket in present for side in (here[bucket].chosen, here[bucket].rejected)]
            rows.append((arm.name, *(interval(side, digits=1) for side in sides)))
    return TextTable(_caption(analysis, "displacement"), headings, rows)


def runs_table(analysis: Analysis) -> TextTable:
    """Every run of the study, trials and failures included, in the order they were asked for."""
    headings = ("run", "arm", "seed", "rate", "beta", "updates", "seconds", "result")
    rows = []
    for run in analysis.runs["runs"]:
        value = run.get("scores", {}).get(analysis.primary)
        seconds = [run[key] for key in ("training_seconds", "measuring_seconds") if key in run]
        result = f"failed: {run['failure']}" if run["failure"] else _number(analysis.primary, value)
        rows.append(
            (
                run["stage"],
                run["arm"],
                f"{run['seed']}",
                _setting(run["learning_rate"]),
                _setting(run["beta"]),
                f"{run.get('updates', 0)}",
                f"{sum(seconds):.0f}",
                result,
            )
        )
    return TextTable(_caption(analysis, "runs"), headings, rows)


def power_table(analyses: Sequence[Analysis]) -> TextTable:
    """The smallest effects that studies would find: of one arm against the baseline, and of their finest contrast."""
    headings = (
        "study", "finest contrast", "seeds", "baseline's gain", "one arm", "of the gain", "that contrast",
        "of the gain",
    )  # fmt: skip
    rows = []
    for one in analyses:
        own = next((arm.against_start for arm in one.arms if arm.name == one.baseline), None)
        finest = min(one.contrasts, key=lambda contrast: contrast.detectable, default=None)
        sizes = [one.detectable, finest.detectable if finest else None]
        written = [(_size(size), of_gain(one, size)) for size in sizes]
        rows.append(
            (
                one.runs["study"]["name"],
                finest.name if finest else "",
                "" if own is None else f"{own.seeds}",
                interval(own),
                *(text for pair in written for text in pair),
            )
        )
    return TextTable("The smallest true effects that each study would find.", headings, rows, names=2)


def of_gain(analysis: Analysis, size: float | None) -> str:
    """Write an effect in per cent of the baseline's gain; empty where that gain is not clear."""
    return "" if size is None or analysis.gain is None else f"{100 * size / analysis.gain:.0f} %"


def ranked(analysis: Analysis) -> list[ArmResult]:
    """Return the arms by the primary measure, best first; those without a finished run last."""
    return sorted(analysis.arms, key=lambda arm: -arm.means.get(analysis.primary, float("-inf")))


def interval(effect: Effect | None, digits: int = 2) -> str:
    """Write an effect with its interval."""
    if effect is None:
        return ""
    return _minus(f"{effect.estimate:+.{digits}f} ({effect.low:+.{digits}f} to {effect.high:+.{digits}f})")


def signed(value: float) -> str:
    """Write an effect without its interval."""
    return _minus(f"{value:+.2f}")


def written_p(p: float) -> str:
    """Write a p-value with three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _number(measure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if measure in _SHARES:
        return percent_text(value, 0)
    return _minus(f"{value:.1f}" if measure == "tokens" or measure.startswith("displacement") else f"{value:.2f}")


def _size(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _setting(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


_RESULTS: Final[Sequence[Callable[[Analysis], TextTable]]] = (
    effects_table,
    contrasts_table,
    measures_table,
    displacement_table,
)


def result_tables(analysis: Analysis) -> list[TextTable]:
    """Return the tables that have something to show, in the order in which they are read; not that of all runs."""
    return [table for table in (make(analysis) for make in _RESULTS) if table.rows]


def _caption(analysis: Analysis, name: str) -> str:
    """Return what a table shows, in one sentence."""
    study: dict[str, Any] = analysis.runs["study"]
    level = f"{100 * study['level']:.0f} % intervals"
    return {
        "effects": f"Arms by the primary measure, with {level}, each by itself; p-values are corrected.",
        "contrasts": "Contrasts that the study file planned: the mean of the arms less that of those against, with "
        f"{level}; p-values are corrected over the contrasts.",
        "measures": "Means over seeds and test items.",
        "displacement": "Change of the log-probability of held-out answers against the start, nats, by true margin, "
        f"with {level}.",
        "runs": "All runs: start, trials on the validation split, final runs on the test split.",
    }[name]
