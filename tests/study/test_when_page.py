"""What pages say of the map is what its table gives, whatever that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from map_answers import clear_signs, pooled
from map_questions import label_costs, questions
from mixdpo.study.world.map_crossing import crossing_cells
from mixdpo.study.world.map_figure import crossing_description
from mixdpo.study.world.map_file import load_map
from mixdpo.study.world.map_report import cells_page, report
from mixdpo.study.world.map_runs import MapRun, final_runs
from mixdpo.study.world.map_settings import START
from mixdpo.study.world.map_table import MEASURES, load_table, map_table
from mixdpo.study.world.pairs import Cell
from when_blocks import blocks, questions_block
from when_method import method_block
from when_page import RESULTS, filled, pages
from when_schedule import sft_mass
from when_ties import contrast, ties_block

ROOT = Path(__file__).parents[2]
LEVEL, GAIN = 0.7, 0.2
Effects = Callable[[MapRun, float, float, float], float]
"""Of a run, by the quality of its hard answers and P of its hard and of its easy labels, its reward less DPO's."""


def likelihood(world: str) -> dict[str, Any]:
    """Six answers' worth of nats for what a planted world trains."""
    return {
        "world": world, "start": [0.5, 0.51], "level": [0.7, 0.71], "qualities": [[0.4, 0.4], [0.6, 0.6], [0.8, 0.8]],
        "changes": [[-4.0, -4.2], [-2.0, -2.1], [0.5, 0.6]], "margin": [0.03, 0.03], "easy_margin": [0.3, 0.3],
        "easy_quality": [0.65, 0.65], "easy_change": [-0.5, -0.7],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixdpo.study.world.map_effects.RESAMPLES", 20)


@cache
def small_map() -> Any:
    """The project's map with two of its worlds and four seeds."""
    whole = load_map(ROOT / "studies" / "maps" / "map.yaml")
    worlds = {name: whole.worlds[name] for name in ("words", "lists")}
    return replace(whole, worlds=worlds, seeds=(1, 2, 3, 4))


@cache
def planted(effects: Effects) -> dict[str, Any]:
    """The table of a map whose rewards are known."""
    settings, rng, results = small_map(), np.random.default_rng(3), []
    for run in final_runs(settings, dict.fromkeys(_settings(), (3e-4, 0.1))):
        pairs = settings.worlds[run.world].cells[run.cell].pairs
        quality, right, easy = 0.6, 0.7, 1.0
        if isinstance(pairs, Cell):
            quality, right, easy = pairs.hard_quality, pairs.hard_labels_right, pairs.easy_labels_right
        reward = LEVEL + effects(run, quality, right, easy) if run.arm != START else LEVEL - GAIN
        values = dict.fromkeys(MEASURES, reward + rng.normal(0, 0.002))
        results.append((run, {**values, "hard_quality": quality, "hard_right": right, "easy_right": easy}))
    return map_table(settings, results)


def _settings() -> list[tuple[str, str, str]]:
    settings = small_map()
    return [
        (world, cell, arm)
        for world, of_world in settings.worlds.items() for cell in of_world.cells for arm in settings.arms
    ]  # fmt: skip


def as_the_theory_says(run: MapRun, quality: float, right: float, easy: float) -> float:
    arms = {"SFT mixed in": 0.3 * (quality - LEVEL), "MixDPO as published": 0.03, "sorted": 0.02, "reversed": -0.1}
    return arms.get(run.arm, 0.0) - 0.02 * (1 - right) - 0.5 * (1 - easy)


def the_other_way_round(run: MapRun, quality: float, right: float, easy: float) -> float:
    return -as_the_theory_says(run, quality, right, easy)


def test_answers_are_the_planted_ones() -> None:
    table = planted(as_the_theory_says)
    poorest, best, dropped, published, order, labels = questions(table)
    assert {one.world for one in poorest.compared} == {"words", "lists"}
    assert pooled(poorest)[0].estimate == pytest.approx(0.3 * ((0.35 + 0.45) / 2 - LEVEL), abs=0.003)
    assert pooled(best)[0].estimate == pytest.approx(0.3 * ((0.88 + 0.82) / 2 - LEVEL), abs=0.003)
    assert pooled(published)[1] == pytest.approx(100 * 0.03 / GAIN, abs=1.5)
    assert pooled(order)[0].estimate == pytest.approx(0.01, abs=0.002)
    assert clear_signs([poorest, best, dropped]) == [
        {"words": -1, "lists": -1}, {"words": 1, "lists": 1}, {"words": 0, "lists": 0},
    ]  # fmt: skip
    # 30 % of the pairs are hard, so a coin's labels there are 15 % of all; a tenth of the others are 7 %.
    hard, easy, less = (row.compared[0].effect.estimate for row in label_costs(table))
    assert hard == pytest.approx(0.1 / 15, abs=0.003)
    assert easy == pytest.approx(0.5 / 7, abs=0.006)
    assert less == pytest.approx(easy - hard)
    assert labels.compared[0].effect.estimate == pytest.approx(less)


def test_the_contrast_of_good_and_poor_ties_is_predicted_in_the_gain() -> None:
    table = planted(as_the_theory_says)
    cells = crossing_cells(table)["words"]
    found = contrast(table, cells[0], cells[-1])
    span = cells[-1]["hard_quality"] - cells[0]["hard_quality"]
    # Half of the ties' labels are wrong, which costs DPO .01 of its gain.
    assert found.estimate == pytest.approx(100 * 0.3 * span / (GAIN - 0.01), abs=2)
    assert f"{found.estimate:.0f} % in words" in ties_block(table)
    assert "no cells" in ties_block({**table, "break_even": []})


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        (
            as_the_theory_says,
            {
                "figure": "turns from harm to help",
                "labels": "costs clearly more in words and lists. So check",
                "order": "what SFT on the hard pairs adds to a sorted run: clearly better in words and lists.",
                "breaks": "clearly better at quality 0.82, clearly worse at quality 0.45 and 0.6.",
                "claims": "| best answers: SFT mixed in − dropped | **+2",
                "treatments": "| reversed | {cells} | 0 | {cells} | −5",
            },
        ),
        (
            the_other_way_round,
            {
                "figure": "less dropping them, by how good",
                "labels": "costs clearly less in words and lists.\n\nWhat",
                "order": "what SFT on the hard pairs adds to a sorted run: clearly worse in words and lists.",
                "breaks": "clearly better at quality 0.45 and 0.6, clearly worse at quality 0.82.",
                "claims": "| best answers: SFT mixed in − dropped | **−2",
                "treatments": "| reversed | {cells} | {cells} | 0 | +",
            },
        ),
    ],
    ids=["as theory says", "the other way round"],
)
def test_verdicts_turn_with_the_data(effects: Effects, said: dict[str, str]) -> None:
    table = planted(effects)
    parts = blocks(table, {"worlds": [likelihood("words"), likelihood("lists")]})
    cells = sum("reversed" in cell["arms"] for cell in table["cells"])
    assert {name: words for name, words in said.items() if words.format(cells=cells) not in parts[name]} == {}
    assert "The change orders the answers exactly by their quality in words and lists." in parts["likelihood"]
    assert "in 6 of 6 cells" in parts["likelihood"]


def sorted_is_best(run: MapRun, quality: float, right: float, easy: float) -> float:
    return 0.05 if run.arm == "sorted" else 0.0


def sorted_is_best_in_words(run: MapRun, quality: float, right: float, easy: float) -> float:
    return (0.05 if run.world == "words" else -0.05) if run.arm == "sorted" else 0.0


@pytest.mark.parametrize(
    ("effects", "said"),
    [(sorted_is_best, "So it is best or level everywhere."), (sorted_is_best_in_words, "So no plan is best or level")],
)
def test_a_plan_that_was_chosen_is_held_to_the_other_cells(effects: Effects, said: str) -> None:
    table = planted(effects)
    words = [cell for cell in table["cells"] if cell["world"] == "words"]
    text = method_block(table, {**table, "cells": words[:4]})
    assert "*sorted* is best or level in 4," in text
    assert f"{len(words) - 4} of {len(words) - 4} in words" in text
    assert said in text


def test_a_mean_over_worlds_is_not_called_clear_where_worlds_disagree() -> None:
    def differing(run: MapRun, quality: float, right: float, easy: float) -> float:
        return {"words": 0.03, "lists": -0.01}[run.world] if run.arm == "MixDPO as published" else 0.0

    rows = questions_block(planted(differing)).splitlines()
    (found,) = (row for row in rows if "MixDPO as published" in row)
    assert found.endswith("| depends: + in words, − in lists |")


def test_the_published_schedule_leaves_sft_next_to_nothing() -> None:
    """Of UltraFeedback's 382 steps the last 46 have ties, under a cosine that ends."""
    first, factors, mass = sft_mass(61_120, 7_387 - 15, 160)
    assert (first, len(factors)) == (335, 382)
    warm_up, steps = 39, np.arange(382)
    decayed = 0.5 * (1 + np.cos(np.pi * (steps - warm_up) / (382 - warm_up)))
    cosine = np.where(steps < warm_up, steps / warm_up, decayed)
    assert factors == pytest.approx(cosine, abs=1e-9)
    ties = np.clip((steps + 1) * 160 - (61_120 - 7_372), 0, 160) / 160
    assert mass == pytest.approx((ties * cosine).sum() / cosine.sum())
    assert 0.003 < mass < 0.005


def test_only_the_marked_parts_of_a_page_are_written(refused: Any) -> None:
    page = "before\n<!-- map: one -->\nold\n<!-- end -->\nafter\n<!-- studies: power -->\nkept\n<!-- end -->\n"
    written = filled(page, {"one": "[new](../docs/x.md)"}, "docs")
    assert written == page.replace("old", "\n[new](../docs/x.md)\n")
    assert filled(written, {"one": "[new](../docs/x.md)"}, "docs") == written
    assert "[new](docs/x.md)" in filled(page, {"one": "[new](../docs/x.md)"}, "")
    refused(lambda: filled(page, {"other": ""}, ""), "there is no part 'one'")


@pytest.mark.skipif(not (RESULTS / "map.json").exists(), reason="the map has not been run to its end yet")
@pytest.mark.slow
def test_the_committed_pages_and_figures_are_made_from_the_committed_map() -> None:
    table = load_table(RESULTS / "map.json")
    again = "run: python scripts/when_page.py"
    for path, text in pages(ROOT, table).items():
        assert path.read_text(encoding="utf-8") == text, again
    for name, text in (("map.md", report(table)), ("cells.md", cells_page(table))):
        assert (RESULTS / name).read_text(encoding="utf-8") == text, again
    for name in ("crossing", "crossing-dark"):
        assert crossing_description(table) in (RESULTS / f"{name}.svg").read_text(encoding="utf-8"), again
    assert (RESULTS / "map.json").stat().st_size < 1_500_000
