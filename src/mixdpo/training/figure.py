"""One figure of a training run: loss by route, accuracy and displacement by bucket, learning rate, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mixdpo.common.figure_files import save_figure
from mixdpo.training.answers_settings import ANSWERS
from mixdpo.training.run_result import evaluations, result_sentence

# Okabe-Ito colours: told apart by colour-blind readers and in grey print.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
_DARK = "#444444"
_ANSWERS = f"eval_{ANSWERS}"
_BUCKET_COLOURS = {"easy": _GREEN, "middle": _BLUE, "hard": _RED}
_MARKERS: Final = "os^Dv"
"""Of several evaluation sets, as many as can be told apart."""

_Lines = Sequence[Mapping[str, Any]]


def training_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the lines of `metrics.jsonl` under what they come to; series that a run does not have are left out.

    Of training, what was logged is faint, and a moving mean of it is drawn over it.
    """
    train = [record for record in metrics if "loss" in record]
    answers = [record for record in metrics if f"{_ANSWERS}tokens" in record]
    rows = 3 if answers else 2
    figure = Figure(figsize=(10, 3.5 * rows + 0.4), layout="constrained")
    figure.suptitle(result_sentence(metrics), x=0.01, ha="left", fontweight="bold")
    axes = figure.subplots(rows, 2, sharex=True)
    loss, accuracy, displacement, rate, *below = axes.flat
    if answers:
        _draw_answers(below[0], below[1], answers)
    _draw_losses(loss, train, metrics)
    _draw_accuracy(accuracy, train, metrics)
    _draw_displacement(displacement, train, metrics)

    rate.set_title("Learning rate and share of SFT-routed pairs")
    _draw(rate, train, "learning_rate", "learning rate", _GREY)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("learning rate")
    share = rate.twinx()
    share.fill_between(
        [m["step"] for m in train],
        [m.get("route/sft", 0.0) for m in train],
        color=_ORANGE,
        alpha=0.3,
        step="pre",
    )
    share.set_ylim(0, 1)
    share.spines["top"].set_visible(False)
    share.yaxis.set_major_formatter(PercentFormatter(1))
    share.set_ylabel("SFT share (shaded)")

    for axis in axes.flat:
        if labels := axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize="small", frameon=False, ncols=2 if len(labels) > 4 else 1)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("optimizer step")
    return figure


def _draw_losses(axis: Axes, train: _Lines, metrics: _Lines) -> None:
    """Draw the losses; SFT's has a scale of its own beside that of preferences, for it is in another unit."""
    axis.set_title("Loss by route")
    reach = _reach(train)
    preference = any("loss/preference" in m or "loss/tie" in m for m in train)
    axis.set_ylabel("mean over pairs")
    _draw(axis, train, "loss/preference", "preference", _BLUE, reach=reach)
    _draw(axis, train, "loss/tie", "tie", _GREEN, reach=reach)
    for prefix, marker in zip(evaluations(metrics), _MARKERS, strict=False):
        _draw(axis, metrics, f"{prefix}_loss", _name(prefix), _DARK, ":", marker)
    if not any("loss/sft" in m for m in train):
        return
    own = axis.twinx() if preference else axis
    _draw(own, train, "loss/sft", "SFT", _ORANGE, reach=reach)
    own.set_ylabel("SFT: nats per token", color=_ORANGE)
    own.spines["top"].set_visible(False)
    if own is not axis:  # one legend for both scales
        axis.plot([], [], color=_ORANGE, label="SFT (scale on the right)")


def _draw_accuracy(axis: Axes, train: _Lines, metrics: _Lines) -> None:
    axis.set_title("Implicit-reward accuracy by bucket")
    sets = evaluations(metrics)
    for bucket, colour in _BUCKET_COLOURS.items():
        name = f"rewards/accuracies/{bucket}"
        _draw(axis, train, name, bucket, colour, reach=_reach(train))
        if len(sets) == 1:
            _draw(axis, metrics, f"{sets[0]}_{name}", f"{bucket}, evaluation", colour, ":", "o")
    _name_the_missing(axis, train, metrics)
    if len(sets) > 1:
        for prefix, marker in zip(sets, _MARKERS, strict=False):
            _draw(axis, metrics, f"{prefix}_rewards/accuracies", _name(prefix), _DARK, ":", marker)
    axis.axhline(0.5, color=_GREY, linewidth=0.8)
    axis.set_ylim(-0.03, 1.03)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_ylabel("pairs, of the bucket")


def _draw_displacement(axis: Axes, train: _Lines, metrics: _Lines) -> None:
    """Draw how answers move away from the reference; of a bucket that runs none in training, at evaluation."""
    axis.set_title("Change of the log-probability against the reference")
    sets = evaluations(metrics)
    for bucket, colour in _BUCKET_COLOURS.items():
        for side, line in (("chosen", "-"), ("rejected", ":")):
            name = f"displacement/{side}/{bucket}"
            if any(name in m for m in train):
                _draw(axis, train, name, f"{bucket}, {side}", colour, line, reach=_reach(train))
            elif len(sets) == 1:
                _draw(axis, metrics, f"{sets[0]}_{name}", f"{bucket}, {side}, evaluation", colour, line, "o")
    _name_the_missing(axis, train, metrics)
    axis.axhline(0, color=_GREY, linewidth=0.8)
    axis.set_ylabel("nats per answer")


def _name_the_missing(axis: Axes, train: _Lines, metrics: _Lines) -> None:
    """Say in the legend of hard pairs that were trained and are not drawn, for SFT runs no reference."""
    drawn = any("rewards/accuracies/hard" in name for m in metrics for name in m)
    if not drawn and any("loss/hard" in m for m in train):
        axis.plot([], [], color=_BUCKET_COLOURS["hard"], label="hard (SFT: not compared)")


def _name(prefix: str) -> str:
    name = prefix.removeprefix("eval").lstrip("_")
    return f"evaluation on {name}" if name else "evaluation"


def _draw_answers(shares: Axes, sizes: Axes, answers: Sequence[Mapping[str, Any]]) -> None:
    """Draw how the policy's answers to fixed prompts compare with the start's, and what they are like."""
    win_rate = f"{_ANSWERS}win_rate"
    shares.set_title("Answers to fixed prompts, with a 95 % interval" if any(win_rate in m for m in answers)
                     else "Answers to fixed prompts")  # fmt: skip
    judged = [m for m in answers if win_rate in m]
    low, high = ([m[f"{win_rate}_{end}"] for m in judged] for end in ("low", "high"))
    shares.fill_between([m["step"] for m in judged], low, high, color=_BLUE, alpha=0.15, linewidth=0)
    _draw(shares, answers, win_rate, "preferred to the start's", _BLUE, marker="o")
    _draw(shares, answers, f"{_ANSWERS}finished", "finished", _GREEN, marker="o")
    _draw(shares, answers, f"{_ANSWERS}repetition", "repeated", _RED, marker="o")
    shares.axhline(0.5, color=_GREY, linewidth=0.8)
    shares.set_ylim(-0.03, 1.03)
    shares.yaxis.set_major_formatter(PercentFormatter(1))
    shares.set_ylabel("share")

    sizes.set_title("Length and entropy of these answers")
    entropy = sizes.twinx()
    for axis, name, colour, line, unit in (
        (sizes, "tokens", _BLUE, "-", "tokens on average"),
        (entropy, "entropy", _ORANGE, "--", "entropy (dashed), nats per token"),
    ):
        _draw(axis, answers, _ANSWERS + name, name, colour, line, marker="o")
        axis.set_ylim(0, 1.3 * max(m[_ANSWERS + name] for m in answers) or 1.0)
        axis.set_ylabel(unit)


def save_training_figure(metrics: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `training.png` and `training.svg` into `folder`; nothing if no step was logged."""
    if not any("loss" in record for record in metrics):
        return
    save_figure(training_figure(metrics), folder / "training")


def _draw(
    axis: Axes,
    metrics: _Lines,
    name: str,
    label: str,
    colour: str,
    linestyle: str = "-",
    marker: str | None = None,
    reach: int = 0,
) -> None:
    """Draw a series; with a `reach` its moving mean over that many neighbours on either side, and itself faint.

    The line then breaks where so many lines of the log lack the series that nothing is known in between, as between
    the epochs of a sorted plan.
    """
    points = [(place, m["step"], m[name]) for place, m in enumerate(metrics) if name in m]
    if not points:
        return
    places, steps, values = np.array(points, dtype=np.float64).T
    # A single point draws no line.
    marker = marker or ("o" if len(points) == 1 else None)
    if reach:
        breaks = np.repeat(np.flatnonzero(np.diff(places) > 2 * reach + 1) + 1, reach)  # no mean reaches across one
        steps, values = np.insert(steps, breaks, np.nan), np.insert(values, breaks, np.nan)
        axis.plot(steps, values, color=colour, linestyle=linestyle, linewidth=0.7, alpha=0.3)
        values = moving_mean(values, reach)
    axis.plot(
        steps, values, label=label, color=colour, linestyle=linestyle, marker=marker, markersize=4, linewidth=1.4
    )


def _reach(train: _Lines) -> int:
    """Return how many neighbours on either side the moving means of a run take: a fifteenth of its lines."""
    return len(train) // 15


def moving_mean(values: Sequence[float] | np.ndarray, reach: int) -> np.ndarray:
    """Return the mean of every value with `reach` neighbours on either side, as many as there are.

    float64, as long as `values`. A NaN counts as no value.
    """
    given = np.asarray(values, dtype=np.float64)
    known, window = ~np.isnan(given), np.ones(2 * reach + 1)
    sums, counts = (
        np.convolve(part, window)[reach : reach + len(given)] for part in (np.where(known, given, 0), known)
    )
    return np.divide(sums, counts, out=np.full(len(given), np.nan), where=counts > 0.5)
