"""A forecast of a study rests on what earlier ones showed, and says in seeds and hours what it would see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mixdpo.cli.main import main
from mixdpo.study.planned_power import TARGET, Earlier, design_of, earlier, earlier_for, forecasts, preferences
from mixdpo.study.power import VarianceParts, smallest_effect
from mixdpo.study.study_file import load_study
from mixdpo.study.study_results import Results, load_results

STUDIES = Path(__file__).parents[2] / "studies"
PARTS = VarianceParts(seeds=0.006, groups=0.004, items=0.01, seeds_by_groups=0.0, answers=0.4)
KNOWN = Earlier(
    parts=PARTS, comparisons=1, rates=(3e-5,), gain=0.2, gain_is_clear=True, preferences=64, seconds_per_pair=1.0,
    seconds_per_item=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def core() -> Results:
    return load_results(STUDIES / "results" / "core")


def test_earlier_results_say_variance_gain_and_pace(core: Results) -> None:
    known = earlier([core], "demands_met", [3e-5])
    assert known.rates == (3e-5,)
    assert known.comparisons == 3, "DPO, MixDPO and DPO from easy to hard were tuned to 3e-5"
    assert known.gain == pytest.approx(0.144, abs=0.001)
    assert known.gain_is_clear
    assert known.preferences == pytest.approx(64 * 0.88)
    assert 0 < known.parts.seeds < 0.02
    assert 0.2 < known.parts.answers < 0.6
    assert earlier([core, core], "demands_met", [3e-5]) == known, "runs that two results share count once"
    other = earlier([core], "demands_met", [1e-4])
    assert other.rates == (1e-4,)
    assert earlier([core], "demands_met", [0.5]).comparisons == 3 + other.comparisons, "no arm has it: all are taken"


def test_what_does_not_fit_is_refused(core: Results, refused) -> None:
    refused(lambda: earlier([core], "judge"), "core are measured by demands_met", "by judge")
    alone = [one for one in core.runs["arms"] if one["name"] == "DPO"]
    refused(lambda: earlier([replace(core, runs=core.runs | {"arms": alone})], "demands_met"), "no two arms")


def test_ties_of_either_kind_are_no_preferences() -> None:
    assert preferences({"pairs": 100}) == preferences({"pairs": 100, "rater": None}) == 100
    assert preferences({"pairs": 100, "rater": {"noise": 0.7, "tie_share": 0.12}}) == pytest.approx(88)
    assert preferences({"pairs": 100, "ties": {"quality": "best", "share": 0.5}}) == 50


def test_a_forecast_grows_with_pairs_and_seeds() -> None:
    study = load_study(STUDIES / "hardest.yaml")
    design = design_of(study, KNOWN)
    assert (design.pairs, design.groups, design.items_per_group) == (64, 26, 6)
    assert design.alpha == pytest.approx(0.05 / 4)
    # 15 arms, of which 4 run twice: 64 pairs or fewer and 156 items of half a second, two at once.
    assert design.hours_per_seed == pytest.approx(19 * (64 + 78) / 7200, rel=0.1)
    assert design.seeds_in(design.hours_once + 2.5 * design.hours_per_seed) == 2
    assert design.seeds_in(0) == 0

    larger = design_of(study, KNOWN, pairs=256, items=12)
    assert larger.preferences == pytest.approx(4 * design.preferences)
    found = {(one.contrast, one.growth): one for one in forecasts(study, KNOWN, larger)}
    one_arm = found["drop, any share, against DPO", "grows as sqrt(pairs)"]
    assert one_arm.gain == pytest.approx(0.2 * (256 * 0.88 / 64) ** 0.5)
    # Four arms against one: (1/4 + 1) / 2 of the variance of one against one.
    assert one_arm.smallest == pytest.approx(smallest_effect(PARTS.scaled(0.625), 5, 26, 12, design.alpha))
    assert one_arm.seeds is not None
    assert smallest_effect(PARTS.scaled(0.625), one_arm.seeds, 26, 12, design.alpha) <= TARGET * one_arm.gain
    assert one_arm.hours == pytest.approx(larger.hours_once + one_arm.seeds * larger.hours_per_seed)
    grown = found["drop, any share, against DPO", "grows as pairs"]
    assert (grown.seeds or 0) < one_arm.seeds
    assert found["drop, any share, against DPO", "does not grow"].seeds is None or one_arm.seeds < 1000


def test_sampled_answers_take_the_luck_of_two_of_them(core: Results) -> None:
    study = load_study(STUDIES / "ties.yaml")
    assert study.generation.temperature == 1
    sampled = earlier_for(study, [core])
    greedy = earlier_for(replace(study, generation=replace(study.generation, temperature=0.0)), [core])
    assert sampled.parts.answers == pytest.approx(2 * study.task.ties.answer_variance)
    assert sampled.parts.answers > greedy.parts.answers
    assert replace(sampled, parts=greedy.parts) == greedy


def test_the_command_says_what_a_study_would_see(capsys) -> None:
    results = str(STUDIES / "results" / "core")
    assert main(["study", str(STUDIES / "ties.yaml"), "--power", results]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "good ties less poor ties" in shown
    assert "grows as sqrt(pairs)" in shown
    assert "INFO" not in shown
    assert "seconds for each pair trained" in shown
