"""Map files: what is accepted, what is refused, and which runs come of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maps import map_file
from mixdpo.common.errors import InputError
from mixdpo.study.world.map_file import WORLD_NAMES, load_map
from mixdpo.study.world.map_runs import MapRun, final_count, final_runs, tuning_runs
from mixdpo.study.world.map_settings import START
from mixdpo.study.world.map_tuning import chosen_settings, own_settings
from mixdpo.study.world.worlds import WORLDS

MAPS = Path(__file__).parents[3] / "studies" / "maps"
WORDS = "worlds/words"
TUNED = [{"tuned": True}, {"hard_quality": 0.35}]
GRID = {"learning_rate": [1.0e-3, 2.0e-3], "beta": [0.2], "seeds": [1002, 1005]}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"wrlds": {}}, "worlds"),
        ({"crossing": None}, "crossing"),
        ({"worlds/wrds": {}}, "words"),
        ({"arms/DPO": {"plan": {"nam": "dpo"}}}, "name"),
        ({"arms/DPO": {"plan": {"threshold": {"hardest": 0.2}}}}, "threshold"),
        ({"arms/DPO": {"plan": {"metric": "rating"}}}, "metric"),
        ({"arms/DPO": {"train": {"learning_rate": 1.0}}}, "learning_rate"),
        ({"arms/DPO": {"train": {"label_smoothing": "median"}}}, "label_smoothing"),
        ({"arms/DPO": {"plan": {"name": "dpo"}, "gate": "quality"}}, "gate"),
        ({"arms/start": {}}, "start"),
        ({"arms/DPO": {"plan": {"name": "dpo"}, "beta": [0.1, 0.2]}}, "trials"),
        ({"baseline": "dpo"}, "baseline dpo"),
        ({"crossing": {"arm": "SFT mixed in", "against": "drop"}}, "dropped"),
        ({"seeds": [1]}, "seeds"),
        ({"seeds": [1, 1002]}, "seeds"),
        ({"pairs": 1.5}, "pairs"),
        ({f"{WORDS}/cells": []}, "cells"),
        ({f"{WORDS}/cells": [{}, {"hard_quality": 0.55}]}, "twice"),
        ({f"{WORDS}/cells": [{"hard_labels_right": 1.5}]}, "hard_labels_right"),
        ({f"{WORDS}/cells": [{"hard_source": "others"}]}, "hard_source"),
        ({f"{WORDS}/cells": [{"epochs": 0}]}, "epochs"),
        ({f"{WORDS}/cells": [{"arms": ["dropped"]}]}, "DPO"),
        ({f"{WORDS}/cells": [{"tuned": True}]}, "single setting"),
        ({f"{WORDS}/tuning": GRID}, "tuned"),
        ({f"{WORDS}/tuning": GRID, f"{WORDS}/cells": [*TUNED, {"natural": {}}]}, "natural"),
        ({f"{WORDS}/tuning": GRID, f"{WORDS}/cells": [{"tuned": True, "arms": ["DPO"]}, *TUNED[1:]]}, "not tuned"),
    ],
)
def test_what_would_be_unfair_or_unread_is_refused(changes: dict[str, Any], names: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tiny\.yaml") as error:
        load_map(map_file(tmp_path, changes))
    assert names in str(error.value)


def test_lists_are_crossed_and_names_say_all_of_a_cell(tmp_path: Path) -> None:
    cells = [
        {"hard_quality": [0.4, 0.6], "hard_labels_right": [0.5, 1.0]},
        {"hard_share": 0.5, "hard_source": "own", "epochs": 3, "learning_rate": 5.0e-4},
        {"natural": {"source": ["own", "good"], "rater_noise": 0.3}},
    ]
    settings = load_map(map_file(tmp_path, {f"{WORDS}/cells": cells}))
    assert list(settings.worlds["words"].cells) == [
        "P 0.5, quality 0.4, 30% hard",
        "P 1, quality 0.4, 30% hard",
        "P 0.5, quality 0.6, 30% hard",
        "P 1, quality 0.6, 30% hard",
        "P 0.5, quality 0.55, 50% hard, own answers, 3 epochs, rate 0.0005",
        "natural, own, noise 0.3, 30% hard",
        "natural, good, noise 0.3, 30% hard",
    ]


def test_arms_share_the_baselines_setting_of_the_largest_mean_minus_spread_in_the_cell_of_their_kind(
    tmp_path: Path,
) -> None:
    settings = load_map(map_file(tmp_path, {f"{WORDS}/tuning": GRID, f"{WORDS}/cells": TUNED}))
    trials = list(tuning_runs(settings))
    assert len(trials) == 3 * 2 * 2
    assert {run.cell for run in trials} == {"P 0.5, quality 0.55, 30% hard"}

    def reward(run: MapRun) -> float:
        if run.learning_rate == 1e-3:
            return 0.7
        # The larger rate is better on average, and collapses on one of the seeds; of one arm it does not.
        return 0.72 if run.arm == "SFT mixed in" else [0.95, 0.55][run.seed % 2]

    found = [(run, {"reward": reward(run)}) for run in trials]
    chosen = chosen_settings(settings, found)
    assert set(chosen.values()) == {(1e-3, 0.2)}
    own = {row["arm"]: row for row in own_settings(settings, found)}
    assert {arm: row["learning_rate"] for arm, row in own.items()} == {
        "DPO": 1e-3, "SFT mixed in": 2e-3, "dropped": 1e-3,
    }  # fmt: skip
    assert own["SFT mixed in"]["effect"] == pytest.approx([0.02, 0.02, 0.02])
    # Nor is a rate taken at which the baseline alone is steady.
    breaks = [(run, {"reward": 0.72 if run.arm == "DPO" else found["reward"]}) for run, found in found]
    assert set(chosen_settings(settings, breaks).values()) == {(1e-3, 0.2)}
    finals = list(final_runs(settings, chosen))
    assert len(finals) == final_count(settings, "words") == 2 * 3 * 4
    assert {run.learning_rate for run in finals if run.arm != START} == {1e-3}


def test_a_grid_of_one_setting_is_not_tuned_and_a_cell_may_set_the_rate(tmp_path: Path) -> None:
    settings = load_map(map_file(tmp_path, {f"{WORDS}/cells": [{}, {"learning_rate": 5.0e-4}]}))
    assert list(tuning_runs(settings)) == []
    rates = {(run.cell, run.learning_rate) for run in final_runs(settings, {}) if run.arm != START}
    assert {rate for _, rate in rates} == {1e-3, 5e-4}


def test_keys_are_of_all_that_decides_a_number_and_of_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(changes: dict[str, Any] | None = None) -> set[str]:
        settings = load_map(map_file(tmp_path, changes))
        return {run.key(settings) for run in final_runs(settings, {})}

    plain = keys()
    assert len(plain) == 3 * 3 * 4
    renamed = {"arms/DPO": None, "arms/plain": {"plan": {"name": "dpo"}, "note": "DPO"}, "baseline": "plain"}
    assert keys({**renamed, "name": "other", "title": "Other"}) == plain
    starts = 3 * 3
    for changes in (
        {"pairs": 65},
        {"batch_size": 16},
        {f"{WORDS}/cells": [{"hard_quality": [0.36, 0.56, 0.86]}]},
        {"seeds": [12, 15, 18]},
    ):
        assert not keys(changes) & plain
    for tuning in ({"learning_rate": [2.0e-3]}, {"beta": [0.3]}):
        other = {"learning_rate": [1.0e-3], "beta": [0.2], "seeds": [1000], **tuning}
        assert len(keys({f"{WORDS}/tuning": other}) & plain) == starts  # which nothing trains
    for arm in ({"order": 1}, {"train": {"loss_type": "ipo"}}, {"plan": {"name": "dpo_sorted"}}):
        assert len(keys({"arms/DPO": {"plan": {"name": "dpo"}, **arm}}) & plain) == len(plain) - 9

    run = MapRun(stage="final", world="words", cell="P 0.5, quality 0.55, 30% hard", arm=START, seed=3)
    settings = load_map(map_file(tmp_path))
    before = run.key(settings)
    monkeypatch.setattr("mixdpo.study.world.map_runs.fingerprint", lambda world, number: "another base")
    assert run.key(settings) != before
    monkeypatch.undo()
    monkeypatch.setattr("mixdpo.study.world.map_runs.libraries", lambda: {"torch": "another"})
    assert run.key(settings) != before


def test_sft_has_no_beta_to_be_tried_twice(tmp_path: Path) -> None:
    tuning = {**GRID, "beta": [0.1, 0.3]}
    changes = {f"{WORDS}/tuning": tuning, f"{WORDS}/cells": TUNED, "arms/SFT": {"plan": {"name": "sft_chosen"}}}
    settings = load_map(map_file(tmp_path, changes))
    trials = [run for run in tuning_runs(settings) if run.arm == "SFT"]
    assert len(trials) == 2 * len({run.key(settings) for run in trials})


@pytest.mark.parametrize("path", sorted(MAPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_maps_are_in_order(path: Path) -> None:
    settings = load_map(path)
    assert settings.baseline == "DPO"
    if path.stem == "map":
        assert list(settings.worlds) == list(WORLD_NAMES) == list(WORLDS)
        assert len(settings.seeds) == 20
        assert all(len(world.tuning.seeds) == 4 for world in settings.worlds.values())
    elif path.stem == "map-small":
        assert sum(final_count(settings, world) for world in settings.worlds) == 3 * 6 * 7
    else:
        assert not list(tuning_runs(settings))


def test_the_rule_has_not_seen_the_regimes_that_are_kept_from_it() -> None:
    made_from, kept = load_map(MAPS / "map.yaml"), load_map(MAPS / "held-out.yaml")
    known = {(world, cell.pairs) for world, _, cell in made_from.cells()}
    assert not any((world, cell.pairs) in known for world, _, cell in kept.cells())


def test_methods_are_compared_in_half_of_the_maps_regimes() -> None:
    made_from, half = load_map(MAPS / "map.yaml"), load_map(MAPS / "method.yaml")
    known = {(world, cell.pairs) for world, _, cell in made_from.cells()}
    assert all((world, cell.pairs) in known for world, _, cell in half.cells())
