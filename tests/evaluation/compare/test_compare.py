"""Results side by side: tables, paired differences, figures, and the page in a real browser."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from markdown_it import MarkdownIt
from scipy import stats

from accessibility import serious_faults
from mixdpo.cli.main import main
from mixdpo.common.charts import place_labels
from mixdpo.common.files import write_json
from mixdpo.common.tables import TextTable, as_latex, as_markdown, as_text, latex_text
from mixdpo.evaluation.compare.collect import collect
from mixdpo.evaluation.compare.compare_settings import CompareSettings
from mixdpo.evaluation.compare.figures import forest_figure, length_figure
from mixdpo.evaluation.compare.result_metrics import headline, names_of, read_metrics, shown_metrics
from mixdpo.evaluation.statistics.paired import holm
from preferences import HOSTILE
from published import published
from synthetic import chat_rows
from tiny import tiny_llama

MODELS = ("first", "second", f"third {HOSTILE} $x$")
PROMPTS = 40


@pytest.fixture
def scores() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {model: np.round(rng.normal(level, 2, PROMPTS), 1) for level, model in enumerate(MODELS)}


@pytest.fixture
def result(tmp_path, scores) -> Path:
    """A result as `mixdpo eval` writes it, with the table of its items."""
    items = {
        "model": [model for model in MODELS for _ in range(PROMPTS)],
        "metric": ["quality"] * (3 * PROMPTS),
        "id": [str(row) for _ in MODELS for row in range(PROMPTS)],
        "score": np.concatenate(list(scores.values())),
        "prompt": [f"Question {row}? {HOSTILE}" for _ in MODELS for row in range(PROMPTS)],
        "answer": [f"{model} says {row} {HOSTILE}" for model in MODELS for row in range(PROMPTS)],
    }
    pq.write_table(pa.table(items), tmp_path / "out.items.parquet")
    models = {
        model: {
            "quality": float(values.mean()),
            "quality_interval": [float(values.mean() - 1), float(values.mean() + 1)],
            "avg_length": 100 + 10 * number,
            "flags": ["empty: 100 % of answers"] if number == 0 else [],
            "n": PROMPTS,
        }
        for number, (model, values) in enumerate(scores.items())
    }
    record = {"benchmark": "own", "settings": {"judge": "a"}, "comparable": {"published": False}}
    write_json(tmp_path / "out.json", {**record, "models": models, "items": "out.items.parquet"})
    return tmp_path / "out.json"


def compared(folder: Path) -> dict[str, dict[str, Any]]:
    record = json.loads((folder / "comparison.json").read_text())
    return {one["benchmark"]: one for one in record["benchmarks"]}


def test_tables_figures_and_paired_differences(tmp_path, result, scores, capsys) -> None:
    folder = tmp_path / "comparison"
    assert main(["compare", str(result), "--output", str(folder)]) == 0
    found = compared(folder)["own"]
    assert found["headline"] == "quality"
    ranked = sorted(MODELS, key=lambda model: -scores[model].mean())
    assert list(found["models"]) == ranked
    assert found["models"]["first"]["intervals"]["quality"] == pytest.approx(
        [scores["first"].mean() - 1, scores["first"].mean() + 1]
    )
    rows = found["differences"]["quality"]
    assert len(rows) == 3
    p_values = []
    for row in rows:
        difference = scores[row["second"]] - scores[row["first"]]
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        p_values.append(row["p_value"])
        # Of a mean of many, flipping signs gives nearly what Student's t does.
        assert row["p_value"] == pytest.approx(max(stats.ttest_1samp(difference, 0).pvalue, 1e-4), rel=0.3, abs=0.01)
        assert (row["better"], row["worse"]) == (better, worse)
        expected = stats.bootstrap((difference,), np.mean, random_state=np.random.default_rng(1)).confidence_interval
        assert row["gain"]["estimate"] == pytest.approx(difference.mean())
        assert (row["gain"]["low"], row["gain"]["high"]) == pytest.approx((expected.low, expected.high), abs=0.1)
    assert [row["p_adjusted"] for row in rows] == pytest.approx(holm(p_values))
    for name in ("forest-own", "length-own"):
        for ending in ("png", "svg", "pdf"):
            assert (folder / f"{name}.{ending}").stat().st_size > 1000
    text = (folder / "comparison.txt").read_text()
    assert "first: empty: 100 % of answers" in text
    assert "published: no" in text
    assert "comparison.html" in capsys.readouterr().out

    assert main(["compare", str(result), "--output", str(folder), "--against", "second"]) == 0
    rows = compared(folder)["own"]["differences"]["quality"]
    assert {row["first"] for row in rows} == {"second"}
    assert len(rows) == 2


def test_figures_mark_the_baseline_and_flagged_models() -> None:
    point = {"low": 40.0, "high": 60.0}
    points = [
        {"name": "constant", "value": 77.0, "length": 900, "flagged": True, **point},
        {"name": "honest", "value": 52.0, "length": 700, "flagged": False, **point},
    ]
    for figure in (forest_figure(points, "win rate, %", 50.0), length_figure(points, "win rate, %", 50.0)):
        lines = figure.axes[0].lines
        hollow = [line.get_markerfacecolor() == "white" for line in lines if line.get_marker() == "o"]
        assert sorted(hollow) == [False, True]
        assert any(50.0 in (*line.get_xdata(), *line.get_ydata()) for line in lines)
    shown = [label.get_text() for label in forest_figure(points, "win rate, %").axes[0].get_yticklabels()]
    assert shown == ["honest", "constant (flagged)"]
    assert names_of("pairwise").even["win_rate"] == 50.0
    assert "average" not in names_of("unknown").even


def test_no_cell_is_taken_for_markup() -> None:
    names = [HOSTILE, "a|b_c*d`e`", "[x](http://y)", r"C:\dir $1 & 50% #1 {~^}", "two\nlines\x1b[31m"]
    table = TextTable("title", ["model", "score, %"], [[name, f"{i}.0 [−1.0, 2.0]"] for i, name in enumerate(names)])
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(as_markdown(table))
    assert html.count("<tr>") == 6
    assert html.count("<td>") == 5
    assert not re.search("<(script|img|em|code|a)", html)
    assert "&lt;/script&gt;&lt;script&gt;" in html

    latex = as_latex(table)
    assert latex.count(r"\\") == 6
    body = [line for line in latex.splitlines() if line.endswith(r" \\")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 1 for line in body)
    assert not re.search(r"(?<!\\)[%#_{}~^](?!})", latex_text("a_b%c#d~e^f").replace("{}", ""))
    assert latex_text(r"\x & y_1 < 5% {z} ~^ $") == (
        r"\textbackslash{}x \& y\_1 \textless{} 5\% \{z\} \textasciitilde{}\textasciicircum{} \$"
    )
    text = as_text(table)
    assert len(text.splitlines()) >= 9


def test_metrics_of_the_benchmarks_result_files() -> None:
    arena = read_metrics(
        {
            "win_rate": 60.0,
            "interval": [58.0, 62.0],
            "prompt_interval": [55.0, 65.0],
            "n_unread": 0,
            "style_control": {"win_rate": 52.0, "interval": [50.0, 54.0]},
        }
    )
    names = names_of("arena_hard_v0.1")
    assert arena.intervals == {"win_rate": (55.0, 65.0), "style_control.win_rate": (50.0, 54.0)}
    assert shown_metrics([arena], headline([arena], names), names) == ["win_rate", "style_control.win_rate"]
    alpaca = read_metrics(
        {"win_rate": 1.0, "win_rate_interval": [0.5, 2], "length_controlled_winrate": 3, "lc_extreme": True, "x": None}
    )
    names = names_of("alpaca_eval_2")
    assert shown_metrics([alpaca], headline([alpaca], names), names) == ["win_rate", "length_controlled_winrate"]
    assert "lc_extreme" not in alpaca.values
    mt_bench = read_metrics({"average": 7.5, "interval": [7, 8], "first_turn": 8.0, "second_turn": None, "n": 160})
    assert mt_bench.intervals == {"average": (7.0, 8.0)}


def test_stored_verdicts_of_the_benchmarks(tmp_path) -> None:
    """Scores by prompt come from the verdicts that a result names."""
    rng = np.random.default_rng(0)
    alpaca = [
        {"model": model, "instruction_index": row, "instruction": f"Do {row}.", "preference": float(rng.uniform(1, 2)),
         "output_1": "base", "output_2": f"{model} did {row}."}
        for model in ("a", "b")
        for row in range(12)
    ]  # fmt: skip
    labels = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
    arena = [
        {"model": model, "question_id": f"q{row}", "game1": labels[rng.integers(5)], "game2": labels[rng.integers(5)]}
        for model in ("a", "b")
        for row in range(12)
    ]
    bench = [
        {"model": model, "question_id": row, "turn": turn, "judgment": f"Fine. [[{rng.integers(1, 11)}]]"}
        for model in ("a", "b")
        for row in range(12)
        for turn in (1, 2)
    ]
    names = {"alpaca_eval_2": alpaca, "arena_hard_v0.1": arena, "mt_bench": bench}
    for name, rows in names.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        metric = "average" if name == "mt_bench" else "win_rate"
        record = {"benchmark": name, "verdicts": f"{name}.jsonl", "models": {m: {metric: 1.0} for m in ("a", "b")}}
        write_json(tmp_path / f"{name}.json", record)
    found = {one.name: one for one in collect([tmp_path / f"{name}.json" for name in names])}
    by_model = {m: [row["preference"] for row in alpaca if row["model"] == m] for m in ("a", "b")}
    gain = next(iter(found["alpaca_eval_2"].differences["win_rate"]))
    expected = 100 * (np.mean(by_model[gain.second]) - np.mean(by_model[gain.first]))
    assert gain.gain.estimate == pytest.approx(expected)
    transcript = found["alpaca_eval_2"].models["a"].items.transcripts["3"]
    assert (transcript.prompt, transcript.answer) == ("Do 3.", "a did 3.")
    games = found["arena_hard_v0.1"].models["a"].items.transcripts["q3"].verdict
    assert games.startswith("baseline shown first, as A: ")
    verdict = found["mt_bench"].models["b"].items.transcripts["3"].verdict
    assert verdict.startswith("turn 1: Fine.")
    assert "turn 2: Fine." in verdict
    ratings = [int(re.findall(r"\d+", row["judgment"])[0]) for row in bench if row["model"] == "b"]
    assert np.mean(list(found["mt_bench"].models["b"].items.scores["average"].values())) == pytest.approx(
        np.mean(ratings)
    )


def test_answers_and_prompts_belong_to_one_benchmark(tmp_path, result) -> None:
    """Two benchmarks may number their prompts alike."""
    write_json(tmp_path / "b.json", {**json.loads(result.read_text()), "benchmark": "b", "items": None})
    record = json.loads(result.read_text())
    del record["items"]
    write_json(tmp_path / "a.json", {**record, "benchmark": "a"})
    answers, prompts = tmp_path / "answers.jsonl", tmp_path / "prompts.jsonl"
    answers.write_text("".join(json.dumps({"id": row, "output": f"answer {row}"}) + "\n" for row in (3, 4)))
    prompts.write_text("".join(json.dumps({"id": row, "instruction": f"task {row}"}) + "\n" for row in (3, 4)))
    settings = CompareSettings(answers={"a/first": answers}, prompts={"a": prompts})
    a, b, own = collect([tmp_path / "a.json", tmp_path / "b.json", result], settings)
    transcript = a.models["first"].items.transcripts["4"]
    assert (transcript.prompt, transcript.answer) == ("task 4", "answer 4")
    assert b.models["first"].items.transcripts == {}
    assert own.models["first"].items.transcripts["4"].prompt.startswith("Question 4?")


def test_models_of_one_name_and_other_settings(tmp_path, result) -> None:
    other = tmp_path / "later"
    other.mkdir()
    record = json.loads(result.read_text())
    write_json(other / "out.json", {**record, "settings": {"judge": "b"}, "items": str(tmp_path / record["items"])})
    (own,) = collect([result, other / "out.json"])
    assert len(own.models) == 6
    assert "first (later/out)" in own.models
    assert any("setting judge differs" in note and '"a"' in note for note in own.notes)
    # Older results do not say at which temperature the judge wrote.
    items = str(tmp_path / record["items"])
    later = {**record, "settings": {**record["settings"], "temperature": 0.0}, "items": items}
    write_json(other / "out.json", later)
    (own,) = collect([result, other / "out.json"])
    assert not [note for note in own.notes if "temperature" in note]
    write_json(tmp_path / "warm.json", {**later, "settings": {**later["settings"], "temperature": 1.0}})
    (own,) = collect([result, other / "out.json", tmp_path / "warm.json"])
    assert [note for note in own.notes if "setting temperature differs" in note and "null" not in note]


def test_a_run_folder(tmp_path, tokenizer) -> None:
    """The accuracy counted from the records of a run's last evaluation is the one that training logged."""
    evaluated = chat_rows(16, 1)
    for row in range(8):  # two pairs to each of eight prompts
        evaluated[row]["prompt"] = evaluated[row + 8]["prompt"]
    for name, rows in (("train", chat_rows(16)), ("eval", evaluated)):
        Dataset.from_list(rows).to_parquet(tmp_path / f"{name}.parquet")
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    run = tmp_path / "run"
    settings = {
        "model.name_or_path": tmp_path / "tiny", "eval_data.path": tmp_path / "eval.parquet", "train.output_dir": run,
        "train.learning_rate": "1e-3", "train.per_device_train_batch_size": 4, "train.eval_strategy": "epoch",
        "train.bf16": "false", "train.use_cpu": "true", "train.logging_steps": 1, "train.save_strategy": "'no'",
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert main(["train", str(tmp_path / "train.parquet"), *options]) == 0
    assert main(["compare", str(run), "--output", str(tmp_path / "comparison")]) == 0
    found = compared(tmp_path / "comparison")
    metrics = found["preferences"]["models"]["run"]["metrics"]
    logged = found["training, last logged"]["models"]["run"]["metrics"]
    assert metrics["accuracy"] == pytest.approx(100 * logged["eval_rewards/accuracies"])
    assert metrics["reward_margin"] == pytest.approx(logged["eval_rewards/margins"], rel=1e-4)
    assert metrics["displacement_chosen"] == pytest.approx(logged["eval_displacement/chosen"], rel=1e-4)
    assert metrics["buckets.hard.n"] > 0
    of_prompt = (
        next(one for one in collect([run]) if one.name == "preferences").models["run"].items.independent("accuracy")
    )
    assert len(of_prompt) == 8
    assert np.mean(list(of_prompt.values())) == pytest.approx(metrics["accuracy"])
    record = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", {**record, "settings": {**record["settings"], "beta": 2}})  # as Python may give it
    assert "preferences" in {one.name for one in collect([run])}


def test_runs_without_rewards_are_ranked_by_the_lowest_loss(tmp_path: Path) -> None:
    for name, loss in (("worse", 1.5), ("better", 0.5)):
        (tmp_path / name).mkdir()
        line = {"step": 8, "learning_rate": 0.1, "loss": loss, "logps/chosen": -70.0, "epoch": 1.0}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (logged,) = collect([tmp_path / "worse", tmp_path / "better"])
    assert logged.headline == "loss"
    assert list(logged.models) == ["better", "worse"]


def test_runs_that_logged_no_steps(tmp_path: Path) -> None:
    for name, loss in (("worse", 1.5), ("better", 0.5)):
        (tmp_path / name).mkdir()
        line = {"step": 3, "train_runtime": 2.5, "total_flos": 0.0, "train_loss": loss, "epoch": 1.0}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (logged,) = collect([tmp_path / "worse", tmp_path / "better"])
    assert (logged.headline, list(logged.models)) == ("train_loss", ["better", "worse"])
    assert dict(logged.models["better"].metrics.values) == {"train_loss": 0.5}


def test_bad_sources_are_one_line(tmp_path, result, capsys) -> None:
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "torn.json").write_text('{"benchmark": "x",\n "models": {')
    (tmp_path / "empty").mkdir()
    folder = tmp_path / "comparison"
    for arguments, words in (
        ([str(tmp_path / "none.json")], "no such file"),
        ([str(tmp_path / "list.json")], "not a result"),
        ([str(tmp_path / "torn.json")], "row 2: not valid JSON"),
        ([str(tmp_path / "empty")], "holds no result"),
        ([str(result), str(result)], "give each file once"),
        ([str(result), "--against", "nobody"], "against 'nobody'"),
        ([str(result), "--answers", "first"], "write it as BENCHMARK/MODEL=FILE"),
        ([str(result), "--answers", "own/frist=x.jsonl"], "did you mean own/first?"),
        ([str(result), "--answers", f"own/first={tmp_path / 'none.jsonl'}"], "no such file"),
        ([str(result), "--prompts", "other=x.jsonl"], "no benchmark for prompts 'other'; there is own"),
    ):
        assert main(["compare", *arguments, "--output", str(folder)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1
    assert not folder.exists()


def test_many_models_are_compared_with_the_best_that_is_not_flagged(tmp_path) -> None:
    rng = np.random.default_rng(0)
    names = [f"m{number}" for number in range(9)]
    values = {name: rng.normal(number, 1, 20) for number, name in enumerate(names)}
    items = {
        "model": [name for name in names for _ in range(20)],
        "metric": ["quality"] * 180,
        "id": [str(row) for _ in names for row in range(20)],
        "score": np.concatenate(list(values.values())),
    }
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    models = {name: {"quality": float(value.mean())} for name, value in values.items()}
    models["m8"]["flags"] = ["same answer: 90 % of answers"]
    write_json(tmp_path / "out.json", {"benchmark": "own", "models": models, "items": "items.parquet"})
    (own,) = collect([tmp_path / "out.json"], CompareSettings())
    rows = own.differences["quality"]
    assert {row.first for row in rows} == {"m7"}
    assert len(rows) == 8


def test_labels_cover_neither_each_other_nor_points() -> None:
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.uniform(0, [400, 200], (60, 2))]
    names = [f"model {number}" for number in range(60)]
    places = place_labels(points, names, width=400, character=5, height=10)
    boxes = []
    for (x, y, left), name in ((place, name) for place, name in zip(places, names, strict=True) if place):
        width = 5 * len(name)
        boxes.append((x - width if left else x, y - 5, x if left else x + width, y + 5))
    assert 5 < len(boxes) < 60
    assert places[0] is not None
    for number, one in enumerate(boxes):
        assert one[0] >= 0
        assert one[2] <= 400
        for x, y in points:
            assert not (one[0] < x < one[2] and one[1] < y < one[3])
        for other in boxes[:number]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@pytest.mark.parametrize("width", [390, 1180])
@pytest.mark.slow
def test_page_in_chromium(tmp_path, browser, result, scores, width) -> None:
    folder = tmp_path / "comparison"
    assert main(["compare", str(result), "--output", str(folder)]) == 0
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark", reduced_motion="reduce")
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((folder / "comparison.html").as_uri())
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert serious_faults(page) == []
    assert page.locator("svg circle").count() == 3
    assert page.locator(".whisker").count() == 6
    assert "first: empty: 100 % of answers" in page.locator(".calm").inner_text()

    shown = page.locator(".example")
    assert shown.count() == 5
    assert page.locator("#hits").inner_text() == "40 prompts, page 1 of 8"
    page.locator("#after").click()
    assert "prompt 5" in shown.first.inner_text()
    page.locator("#left").select_option(label="first")
    page.locator("#right").select_option(label="second")
    page.locator("#order").select_option("1")
    gap = scores["first"] - scores["second"]
    best = int(np.argmax(gap))
    first = shown.first.inner_text()
    assert f"prompt {best}" in first
    assert f"Question {best}? {HOSTILE}" in first
    assert f"first says {best} {HOSTILE}" in first
    assert f"second says {best} {HOSTILE}" in first
    assert page.locator(".better").first.inner_text().startswith("first")
    page.locator("#search").fill("SECOND says 17")
    assert page.locator("#hits").inner_text() == "1 prompts, page 1 of 1"
    assert "prompt 17" in shown.first.inner_text()
    page.locator("#search").fill("no such words")
    assert shown.count() == 0
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert serious_faults(page) == []
    assert problems == []
    assert {url.split(":")[0] for url in requests} == {"file"}

    html = (folder / "comparison.html").read_text(encoding="utf-8")
    assert html.count("<script") == 2
    assert "<img" not in html


@pytest.mark.slow
def test_gains_of_real_models_are_differences_of_published_win_rates(tmp_path) -> None:
    folder = published("alpaca_eval")
    with (folder / "published_leaderboard.csv").open(newline="") as file:
        win_rates = {row["model"]: float(row["win_rate"]) for row in csv.DictReader(file)}
    names = ["FuseChat-Llama-3.2-1B-Instruct", "FuseChat-Llama-3.2-3B-Instruct", "claude-2", "vicuna-13b-v1.5"]
    record = {"benchmark": "alpaca_eval_2", "models": {name: {"win_rate": win_rates[name]} for name in names}}
    write_json(tmp_path / "out.json", {**record, "verdicts": str(folder / "annotations.parquet")})
    (found,) = collect([tmp_path / "out.json"])
    rows = found.differences["win_rate"]
    assert len(rows) == 6
    for row in rows:
        assert row.gain.estimate == pytest.approx(win_rates[row.second] - win_rates[row.first], abs=1e-6)
        assert row.gain.low > 0
        assert row.better + row.worse > 780
