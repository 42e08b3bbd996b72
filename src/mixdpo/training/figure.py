"""One figure of a training run: loss by route, accuracy and displacement by bucket, learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixdpo.common.figure_files import save_figure

# Okabe-Ito colours: told apart by colour-blind readers and in grey print.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
_BUCKET_COLOURS = {"easy": _GREEN, "middle": _BLUE, "hard": _RED}


def training_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the lines of `metrics.jsonl`; series that a run does not have are left out."""
    train = [record for record in metrics if "loss" in record]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    loss, accuracy, displacement, rate = axes.flat

    loss.set_title("Loss by route")
    _draw(loss, train, "loss/preference", "preference", _BLUE)
    _draw(loss, train, "loss/tie", "tie", _GREEN)
    _draw(loss, train, "loss/sft", "SFT (nats per token)", _ORANGE)
    _draw(loss, [m for m in metrics if "eval_loss" in m], "eval_loss", "evaluation", _GREY, marker="o")
    loss.set_ylabel("mean over pairs")

    accuracy.set_title("Implicit-reward accuracy by bucket")
    displacement.set_title("Change of the log-probability against the reference")
    for bucket, colour in _BUCKET_COLOURS.items():
        _draw(accuracy, train, f"rewards/accuracies/{bucket}", bucket, colour)
        _draw(displacement, train, f"displacement/chosen/{bucket}", f"{bucket}, chosen", colour)
        _draw(
            displacement,
            train,
            f"displacement/rejected/{bucket}",
            f"{bucket}, rejected",
            colour,
            linestyle=":",
        )
    accuracy.axhline(0.5, color=_GREY, linewidth=0.8)
    accuracy.set_ylim(-0.03, 1.03)
    accuracy.set_ylabel("share of pairs")
    displacement.axhline(0, color=_GREY, linewidth=0.8)
    displacement.set_ylabel("nats per answer")

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
    share.set_ylabel("SFT share (shaded)")

    for axis in axes.flat:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small", frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("optimizer step")
    return figure


def save_training_figure(metrics: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `training.png` and `training.svg` into `folder`; nothing if no step was logged."""
    if not any("loss" in record for record in metrics):
        return
    save_figure(training_figure(metrics), folder / "training")


def _draw(
    axis: Axes,
    metrics: Sequence[Mapping[str, Any]],
    name: str,
    label: str,
    colour: str,
    linestyle: str = "-",
    marker: str | None = None,
) -> None:
    points = [(m["step"], m[name]) for m in metrics if name in m]
    if points:
        steps, values = zip(*points, strict=True)
        # A single point draws no line.
        marker = marker or ("o" if len(points) == 1 else None)
        axis.plot(steps, values, label=label, color=colour, linestyle=linestyle, marker=marker, linewidth=1.4)
