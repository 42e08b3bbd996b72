"""One figure of a training run: loss by route, accuracy and displacement by bucket, learning rate, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixdpo.common.figure_files import save_figure
from mixdpo.training.answers_settings import ANSWERS

# Okabe-Ito colours: told apart by colour-blind readers and in grey print.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
_ANSWERS = f"eval_{ANSWERS}"
_BUCKET_COLOURS = {"easy": _GREEN, "middle": _BLUE, "hard": _RED}


def training_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the lines of `metrics.jsonl`; series that a run does not have are left out."""
    train = [record for record in metrics if "loss" in record]
    answers = [record for record in metrics if f"{_ANSWERS}tokens" in record]
    rows = 3 if answers else 2
    figure = Figure(figsize=(10, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True)
    loss, accuracy, displacement, rate, *below = axes.flat
    if answers:
        _draw_answers(below[0], below[1], answers)

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
    for axis in axes[-1]:
        axis.set_xlabel("optimizer step")
    return figure


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
