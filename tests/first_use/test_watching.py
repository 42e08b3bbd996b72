"""Whoever watches a run: rows of 80 columns, a bar, one display of a notebook, and figures that say their result."""

from __future__ import annotations

import io
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from transformers import TrainerCallback

from mixdpo import MixDPOConfig, MixDPOTrainer, PlanSettings
from mixdpo.common.progress import rate_bar
from mixdpo.plan.curve_figure import curve_title
from mixdpo.training.figure import moving_mean, training_figure
from mixdpo.training.progress import TrainingProgress, change_of_loss
from mixdpo.training.progress_rows import (
    duration,
    evaluation_cells,
    headings,
    line_width,
    number,
    progress_columns,
    training_cells,
)
from mixdpo.training.progress_views import Lines, Notebook, Terminal, view_for
from mixdpo.training.run_folder import logged_metrics
from mixdpo.training.run_result import result_sentence
from snapshots import check_snapshot
from synthetic import chat_rows
from tiny import saved, tiny_llama
from trainers import config


class Clock:
    """Counts a quarter of a second with each look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.25
        return self.now


def same_as(name: str, text: str) -> None:
    """Compare a text with its snapshot, and its lines with 80 columns."""
    assert max(map(len, text.splitlines())) <= 80
    check_snapshot(name, text)


@pytest.fixture(scope="module")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return chat_rows(24)


class Replies(TrainerCallback):
    """Adds what a judge of answers would, where there is none."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            logs |= {
                "eval_answers/win_rate": 0.561,
                "eval_answers/win_rate_low": 0.43,
                "eval_answers/win_rate_high": 0.69,
            }


@pytest.fixture(scope="module")
def run(base: str, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a run of 6 steps prints to a pipe, and its folder."""
    folder, out = tmp_path_factory.mktemp("watched") / "run", io.StringIO()
    args = config(folder, logging_steps=2, eval_strategy="steps", eval_steps=3)
    trainer = MixDPOTrainer(base, args=args, train_dataset=rows, eval_dataset=chat_rows(6, seed=1),
                            plan=PlanSettings(threshold={"hardest": 0.3}), callbacks=[Replies()])  # fmt: skip
    trainer.add_callback(
        TrainingProgress(trainer.routes(), trainer.first_hard_step, Lines(Console(file=out, width=80)))
    )
    with pytest.MonkeyPatch.context() as patched:
        for module in ("progress", "speed"):
            patched.setattr(f"mixdpo.training.{module}.time", Clock())
        patched.setattr("mixdpo.training.speed.peak_memory", lambda device: 3 * 2**29)
        trainer.train()
    return out.getvalue(), folder


# ---- the terminal ----


def test_a_run_in_a_pipe(run: tuple[str, Path]) -> None:
    same_as("training", run[0])


def test_speed_and_memory_are_logged(run: tuple[str, Path]) -> None:
    lines = [line for line in logged_metrics(run[1]) if "loss" in line]
    assert all(line["tokens_per_second"] > 0 and line["peak_memory_gib"] == 1.5 for line in lines)
    assert {"loss/preference", "loss/sft"} <= {name for line in lines for name in line}


def test_the_explanation_stands_where_the_route_changes() -> None:
    args = MixDPOConfig(use_cpu=True)
    assert change_of_loss(args, 1201).startswith("From step 1,201 on pairs are trained with SFT on the chosen answer")
    assert "nats per token" in change_of_loss(args, 1)
    assert "jump" not in change_of_loss(args, 1), "where both are trained from the start nothing jumps"
    assert "both answers" in change_of_loss(MixDPOConfig(use_cpu=True, sft_target="both"), 2)
    assert "trained with ipo" in change_of_loss(MixDPOConfig(use_cpu=True, hard_loss_type="ipo"), 2)


@pytest.mark.parametrize("routes", [{"preference"}, {"preference", "sft"}, {"preference", "sft", "tie"}])
@pytest.mark.parametrize("steps", [9, 12_000, 1_200_000])
def test_rows_keep_the_width(routes: set[str], steps: int) -> None:
    columns = progress_columns(routes, steps, 80)
    assert line_width(columns) <= 80
    assert [column.metric for column in columns if not column.leaves][-2:] == ["rewards/accuracies", "rewards/margins"]
    logs = {
        "loss": 123.456, "loss/preference": 0.6931, "loss/sft": 12.3456, "loss/tie": 1.0986, "rewards/accuracies": 1.0,
        "rewards/margins": -12.345, "learning_rate": 4.9e-6, "tokens_per_second": 123_456.7, "peak_memory_gib": 79.15,
    }  # fmt: skip
    named, step = "eval_a_set_with_a_very_long_name", f"{steps}/{steps}"
    out = io.StringIO()
    view = Lines(Console(file=out, width=80))
    view.begin(columns, 0, steps)
    view.row(training_cells(columns, logs, step, "12 min"))
    view.row(*evaluation_cells(columns, {f"eval_{name}": value for name, value in logs.items()}, "eval", step))
    view.row(*evaluation_cells(columns, {f"{named}_{name}": value for name, value in logs.items()}, named, step))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].index("100.0 %") == lines[3].index("100.0 %")
    assert lines[-1].strip().endswith("a_set_with_a_very_long_name")


def test_a_wide_terminal_leaves_nothing_out() -> None:
    columns = progress_columns({"preference", "sft", "tie"}, 120_000, 120)
    assert len(columns) == 10
    assert headings(columns)[0].split() == [
        "time", "preference", "tie", "SFT", "learning", "tokens", "peak",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.69314, "0.6931"), (12.3456, "12.346"), (-123.456, "-123.46"), (math.inf, "inf"), (1e7, "10000000")],
)
def test_numbers_have_as_many_digits_as_fit(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (120, "2 min"), (5940, "99 min"), (5999, "1.7 h"), (36000, "10 h"), (2e5, "2 d")],
)
def test_time_left(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("width", [60, 80])
def test_a_bar_cuts_no_time(width: int) -> None:
    out = io.StringIO()
    bar = rate_bar(Console(file=out, force_terminal=True, width=width, color_system=None))
    task = bar.add_task("games of a judge with a name", total=120_000, rate="123.45 verdicts/s")
    bar.update(task, completed=60_000)
    bar.refresh()
    with bar:
        pass
    assert "…" not in out.getvalue()
    assert "60000/120000 123.45 verdicts/s -:--:-- left" in out.getvalue()


def test_a_bar_knows_the_time_left_of_slow_steps() -> None:
    """Steps of 40 seconds: longer than what rich remembers by itself."""
    out = io.StringIO()
    bar = rate_bar(Console(file=out, force_terminal=True, width=80, color_system=None))
    clock = iter(range(0, 10_000, 40))
    bar.get_time = lambda: float(next(clock))
    task = bar.add_task("reference", total=10, rate="")
    for done in (1, 2, 3, 4):
        bar.update(task, completed=done)
    assert bar.tasks[0].time_remaining == 6 * 40


def test_a_terminal_has_rows_above_its_bar() -> None:
    out = io.StringIO()
    view = view_for(Console(file=out, force_terminal=True, width=80, color_system=None))
    assert isinstance(view, Terminal)
    columns = progress_columns({"preference"}, 20, 80)
    view.begin(columns, 0, 20)
    view.advance(10, "1.23 pairs/s", "8 s")
    view.note("evaluation 1/3")
    view.row(training_cells(columns, {"loss": 0.5}, "10/20", "8 s"))
    view.end()
    assert "10/20     8 s   0.5000" in out.getvalue()
    assert "10/20 1.23 pairs/s" in out.getvalue()


# ---- a notebook ----


class TableOfAllMetrics(TrainerCallback):
    """Stands for what transformers shows in a notebook."""


class Shown:
    """Stands for the handle of IPython's display."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.html = ""

    def display(self, thing: Any, display_id: bool) -> Shown:
        self.made.append(thing)
        return self

    def update(self, thing: Any) -> None:
        self.html = thing._repr_html_()


def test_a_notebook_has_one_display(base: str, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch) -> None:
    shown = Shown()
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=shown.display))
    for module in ("mixdpo.training.progress", "transformers.trainer"):
        monkeypatch.setattr(f"{module}.DEFAULT_PROGRESS_CALLBACK", TableOfAllMetrics)
    monkeypatch.setattr("mixdpo.training.progress.view_for", lambda console: Notebook())
    args = config(tmp_path / "run", max_steps=2, eval_strategy="steps", eval_steps=1, disable_tqdm=False)
    trainer = MixDPOTrainer(base, args=args, train_dataset=rows, eval_dataset=rows[:4], plan="dpo")
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert TableOfAllMetrics not in kinds
    assert kinds.count(TrainingProgress) == 1
    trainer.train()
    assert len(shown.made) == 1
    assert shown.html.count("<tr>") == 1 + 2 + 2
    assert "2 of 2 steps" in shown.html


def test_a_long_run_in_a_notebook_keeps_evaluations_and_the_last_rows(monkeypatch) -> None:
    shown = Shown()
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=shown.display))
    view, columns = Notebook(), progress_columns({"preference"}, 100, 80)
    view.begin(columns, 0, 100)
    for step in range(1, 101):
        view.row(training_cells(columns, {"loss": 0.5}, f"{step}/100", ""))
        if step % 20 == 0:
            view.row(*evaluation_cells(columns, {"eval_<b>_loss": 0.6}, "eval_<b>", f"{step}/100"))
    assert shown.html.count(">eval<") == 5
    assert "<td>88/100</td>" not in shown.html
    assert "<td>89/100</td>" in shown.html
    assert "&lt;b&gt;" in shown.html
    assert "89/100" in repr(view), "where there is no HTML"


# ---- what a run has come to ----


def logged(steps: int, **last: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    lines = [
        {"step": k, "loss": 0.7, "loss/preference": 0.7, "loss/easy": 0.7, "learning_rate": 1e-6, "route/sft": 0.0,
         "rewards/accuracies": float(k > 5), "rewards/accuracies/easy": float(rng.random())}
        for k in range(1, steps + 1)
    ]  # fmt: skip
    return [*lines, {"step": steps, **last}] if last else lines


def test_the_title_says_the_result() -> None:
    evaluated = {"eval_loss": 0.6, "eval_loss/preference": 0.6, "eval_rewards/accuracies": 0.625}
    lines = [{"step": 5, **evaluated, "eval_rewards/accuracies": 0.5}, *logged(1200, **evaluated)]
    assert result_sentence(lines) == "Evaluation accuracy 50.0 % at step 5, 62.5 % at step 1,200"
    judged = {"eval_answers/win_rate": 0.65, "eval_answers/win_rate_low": 0.49, "eval_answers/win_rate_high": 0.8}
    assert result_sentence([*lines, {"step": 1200, **judged}]).startswith(
        "Answers preferred to the start's on 65.0 % of prompts (95 % interval 49 to 80) at step 1,200\nEvaluation"
    )
    named = {name.replace("eval", "eval_helpful", 1): value for name, value in evaluated.items()}
    assert result_sentence(logged(3, **named)) == "Evaluation accuracy on helpful 62.5 % at step 3"
    assert result_sentence(logged(20)).startswith("Training accuracy 0.0 % at first, 100.0 % in the end")
    without = [{"step": k, "loss": 0.5} for k in (1, 2)]
    assert result_sentence(without) == "Training loss 0.5 at step 1, 0.5 at step 2", "a loss without a reference"


def test_the_figure_smooths_shows_evaluations_and_names_the_hard_bucket() -> None:
    evaluated = {"eval_loss": 0.6, "eval_loss/preference": 0.6, "eval_rewards/accuracies": 0.6}
    sft = {"step": 61, "loss": 6.0, "loss/sft": 6.0, "loss/hard": 6.0, "learning_rate": 1e-6, "route/sft": 1.0}
    figure = training_figure([*logged(60, **evaluated), sft])
    loss, accuracy, *_ = figure.axes
    faint, smoothed = [line for line in accuracy.lines if len(line.get_xdata()) == 60]
    assert faint.get_alpha() < 0.5
    assert np.std(smoothed.get_ydata()) < 0.5 * np.std(faint.get_ydata())
    legends = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in (loss, accuracy)]
    assert legends == [["preference", "evaluation", "SFT (scale on the right)"], ["easy", "hard (SFT: not compared)"]]
    assert max(loss.get_ylim()) < 1, "SFT's nats per token have a scale of their own"
    assert figure.get_suptitle().startswith("Evaluation accuracy 60.0 %")
    with_hard = {**evaluated, **{f"eval_rewards/accuracies/{bucket}": 0.5 for bucket in ("easy", "hard")}}
    accuracy = training_figure([*logged(60, **with_hard), sft]).axes[1]
    assert "hard, evaluation" in [text.get_text() for text in accuracy.get_legend().get_texts()]


def test_lines_of_the_figure_break_where_nothing_is_known() -> None:
    """Sorted pairs: each epoch begins with the easy ones, and ends without any."""
    lines = [
        {"step": step, "loss": 0.6, "loss/preference": 0.6, "learning_rate": 1e-6}
        | ({"rewards/accuracies/easy": float(step > 30)} if (step - 1) % 30 < 12 else {})
        for step in range(1, 61)
    ]
    smoothed = next(line for line in training_figure(lines).axes[1].lines if line.get_label() == "easy")
    steps, values = np.asarray(smoothed.get_xdata()), np.asarray(smoothed.get_ydata())
    assert np.isnan(steps).sum() == len(lines) // 15
    np.testing.assert_array_equal(np.unique(values[~np.isnan(steps)]), [0, 1], err_msg="no mean over both epochs")


def test_moving_mean() -> None:
    np.testing.assert_allclose(moving_mean([1.0, 2.0, 6.0, math.nan], 1), [1.5, 3.0, 4.0, 6.0])
    np.testing.assert_allclose(moving_mean([1.0, 5.0], 4), [3.0, 3.0], err_msg="fewer than it reaches")


@pytest.mark.parametrize(
    ("threshold", "routed", "required", "title"),
    [
        (2.5, 340, 0.606, "Threshold 2.5: 340 of 1,000 pairs (34.0 %) have a smaller margin,\n"
         "and the signals agree with fewer of their labels than the 60.6 % required"),
        (None, 0, 0.606, "No threshold found:\n"
         "no margin is shown to have labels under the required agreement of 60.6 %"),
        (0.5, 100, 0.606, "No threshold found; the ties alone are routed, 100 of 1,000 pairs (10.0 %):\n"
         "no margin is shown to have labels under the required agreement of 60.6 %"),
        (0.5, 100, None, "No threshold found; the ties alone are routed, 100 of 1,000 pairs (10.0 %):\n"
         "no other metric speaks for or against the labels"),
    ],
)  # fmt: skip
def test_the_threshold_figure_says_what_was_found(threshold, routed, required, title) -> None:
    bins = [{"pairs": 100, "verdict": "tie"}, {"pairs": 900, "verdict": "trusted"}]
    curve = {"bins": bins, "threshold": threshold, "routed": routed, "required": required}
    assert curve_title(curve) == title
