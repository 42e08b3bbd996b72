"""The report of studies is what its results give, and says no more than its intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mixdpo.common.errors import InputError
from mixdpo.common.tables import as_latex, as_markdown
from mixdpo.evaluation.statistics.paired import holm
from mixdpo.study.analysis import Analysis, ArmResult, Contrast, analyse
from mixdpo.study.effects import Effect, Variances
from mixdpo.study.measures import VALUES_SCHEMA
from mixdpo.study.study_results import RESULTS_VERSION, Results, load_results, save_results
from mixdpo.study.study_tables import contrasts_table, effects_table, interval, power_table
from study_report import analyses, main, plans_of, report, with_power
from study_summary import summary

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_committed_report_is_generated_from_the_committed_results() -> None:
    results = ROOT / "studies" / "results"
    studies = analyses(results)
    made, page = (
        report(studies, plans_of(results, ROOT / "studies")),
        (ROOT / "docs" / "studies.md").read_text(encoding="utf-8"),
    )
    again = "run: python scripts/study_report.py studies/results studies/REPORT.md docs/studies.md"
    assert (ROOT / "studies" / "REPORT.md").read_text(encoding="utf-8") == made, again
    assert with_power(page, studies) == page, again
    for line in made.splitlines():
        if line.startswith("!["):
            assert (ROOT / "studies" / line.rpartition("(")[2].rstrip(")")).is_file()


def effect(estimate: float, reach: float, p: float) -> Effect:
    variances = Variances(over_seeds=0.5, over_groups=0.5, interaction=0.0, seeds=5, groups=26)
    return Effect(
        estimate=estimate, low=estimate - reach, high=estimate + reach, level=0.95, variances=variances, p_value=p,
        p_adjusted=p, items=78,
    )  # fmt: skip


def arm(name: str, against_baseline: Effect | None, against_start: Effect | None, **values: Any) -> ArmResult:
    usual: dict[str, Any] = {
        "learning_rate": 1e-5, "beta": 0.1, "note": "", "seeds": 5, "failed": 0, "trials_failed": 0,
            "trials": 4, "updates": (30,),
        "routes": {"preference": 64.0}, "means": {"demands_met": 1.0}, "by_seed": (1.0, 1.1),
    }  # fmt: skip
    return ArmResult(name=name, against_baseline=against_baseline, against_start=against_start, **(usual | values))


def analysis(*arms: ArmResult) -> Analysis:
    study = {"primary": "demands_met", "level": 0.95}
    return Analysis({"study": study, "runs": []}, "DPO", list(arms), [], [], 0.28)


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        ([effect(0.2, 0.1, 0.01)], ["**A** is better than DPO by +0.20 (+0.10 to +0.30)", "p = 0.010"]),
        ([effect(-0.2, 0.1, 0.0002)], ["**A** is worse than DPO by −0.20", "p < 0.001"]),
        (
            [effect(0.1, 0.2, 0.4)],
            [
                "Not clearly different from DPO after Holm",
                ": **A**.",
                "an effect of 0.28 with 80 % power if one arm had it (DPO itself differs from the start by +0.50, so "
                "that is 56 % of its gain)",
                "up to 0.30",
            ],
        ),
        ([effect(0.1, 0.2, 0.4), effect(0.0, 0.2, 1.0)], ["No arm differs clearly from DPO", "over 2 comparisons"]),
        (
            [effect(0.2, 0.1, 0.01), effect(0.0, 0.2, 1.0)],
            ["**A** is better", "2 comparisons: **B**."],
        ),
    ],
)
def test_sentences_follow_from_intervals(effects: list[Effect], expected: list[str]) -> None:
    arms = [arm(name, found, effect(0.5, 0.1, 0.001)) for name, found in zip("AB", effects, strict=False)]
    sentences = " ".join(summary(analysis(*arms, arm("DPO", None, effect(0.5, 0.1, 0.001)))))
    for words in (*expected, f"Better than the start: all {len(arms) + 1} arms."):
        assert words in sentences


def test_power_is_told_in_the_baselines_gain_where_that_is_clear() -> None:
    own = effect(0.5, 0.1, 0.001)
    known = analysis(arm("A", effect(0.1, 0.2, 0.4), own), arm("DPO", None, own))
    contrast = Contrast(name="A or DPO", arms=("A",), against=("DPO",), effect=effect(0.1, 0.2, 0.4), detectable=0.7)
    known = dataclasses.replace(known, contrasts=[contrast])
    known.runs["study"]["name"] = "one"
    assert "not clear; it would find 0.70 with 80 % power, 140 % of DPO's gain." in summary(known)[0]
    assert power_table([known]).rows == [
        ("one", "A or DPO", "5", "+0.50 (+0.40 to +0.60)", "0.28", "56 %", "0.70", "140 %")
    ]
    unclear = analysis(arm("A", effect(0.1, 0.2, 0.4), own), arm("DPO", None, effect(0.1, 0.2, 0.4)))
    assert "(DPO itself differs from the start by +0.10, which is not clear)" in " ".join(summary(unclear))
    with pytest.raises(InputError, match="needs the lines"):
        with_power("no marks", [known])


def test_what_may_favour_an_arm_is_said() -> None:
    effects = effect(0.1, 0.2, 0.4), effect(0.5, 0.1, 0.001)
    lucky = arm("A", *effects, learning_rate=1e-4, failed=1, trials_failed=2)
    made = analysis(lucky, arm("DPO", None, effects[1]))
    made.runs["runs"].append({"key": "k", "failure": "diverged", "stage": "tune"})
    made.runs["arms"] = [{"name": name, "arm": name} for name in ("A", "DPO")]
    inside = {"learning_rate": [1e-6, 1e-5, 1e-4]}  # the baseline's own grid, in the middle of which its rate lies
    arms = {"A": {"tuning": None}, "DPO": {"tuning": inside}}
    made.runs["study"] |= {"tuning": {"learning_rate": [1e-5, 1e-4]}, "arms": arms}
    sentences = " ".join(summary(made))
    for words in (
        "Tuned to another learning rate than DPO (1e-05)",
        "**A** (0.0001)",
        "beyond which a better one may lie: **A**.",
        "Tuned by fewer trials",
        "favour them",
    ):
        assert words in sentences


def results(name: str = "own") -> Results:
    """Two arms of three seeds on eight prompts: the second meets one constraint more."""
    rows: list[dict[str, Any]] = []
    for name_of_arm, seeds, gain in (("start", [0], 0), ("DPO", [1, 2, 3], 0), ("A | B_50 %", [1, 2, 3], 1)):
        for seed in seeds:
            for item in range(8):
                value = (item * 7 + seed) % 3 + gain
                rows += [
                    {"arm": name_of_arm, "seed": seed, "item": f"{item}", "group": f"{item // 2}", "measure": measure,
                     "bucket": bucket, "value": float(value)}
                    for measure, bucket in (("demands_met", None), ("displacement_chosen", "hard"),
                                            ("displacement_rejected", "hard"))
                ]  # fmt: skip
    schema = pa.schema([("arm", pa.string()), ("seed", pa.int64()), *VALUES_SCHEMA])
    run = {"failure": None, "scores": {"demands_met": 1.0}, "updates": 4, "training_seconds": 3.0}
    finals = [("start", 0), *(("DPO", s) for s in (1, 2, 3)), *(("A | B_50 %", s) for s in (1, 2, 3))]
    runs = {
        "version": RESULTS_VERSION,
        "study": {
            "name": name, "title": "Own", "question": "Which?", "baseline": "DPO", "primary": "demands_met",
            "level": 0.95, "seeds": [1, 2, 3], "bench": {"kind": "demands", "pairs": 8},
            "arms": {"DPO": {"tuning": None}, "A | B_50 %": {"tuning": {"learning_rate": [1e-5], "beta": [0.1]}}},
            "tuning": {"learning_rate": [1e-5], "beta": [0.1], "seeds": [9]},
        },
        "arms": [
            {"name": one, "arm": one, "matched": None, "note": "", "learning_rate": 1e-5, "beta": 0.1}
            for one in ("DPO", "A | B_50 %")
        ],
        "runs": [
            {"stage": "start" if one == "start" else "final", "arm": one, "seed": seed, "learning_rate": 1e-5,
             "beta": 0.1, "key": f"{one}{seed}", **run}
            for one, seed in finals
        ],
        "devices": ["cpu"],
        "versions": {"torch": ["2.13.0"], "transformers": ["5.23.0"]},
    }  # fmt: skip
    return Results(pa.Table.from_pylist(rows, schema=schema), runs)


def test_results_are_read_back_and_the_report_shows_them(tmp_path: Path, capsys) -> None:
    save_results(results(), tmp_path / "results" / "own")
    loaded = load_results(tmp_path / "results" / "own")
    assert loaded.values.equals(results().values)
    found = analyse(loaded)
    difference = {one.name: one for one in found.arms}["A | B_50 %"].against_baseline
    assert difference.estimate == pytest.approx(1.0)
    assert main([str(tmp_path / "results"), str(tmp_path / "REPORT.md")]) == 0
    text = (tmp_path / "REPORT.md").read_text()
    assert "## Own\n\nWhich?" in text
    assert "Test: 8 items in 4 groups." in text
    assert "beyond which" not in text, "one learning rate is no grid with edges"
    assert "Log-probability of chosen answers, hard held-out pairs (8): it clearly " in text
    assert "In six rows" not in text, "none of the studies that it asks is there"
    assert "**A | B_50 %** is better than DPO by +1.00 (+1.00 to +1.00)" in text
    assert "| A \\| B\\_50 % | 1e-05 | 0.1 |" in text
    images = tmp_path / "images"
    assert (images / "own.png").stat().st_size > 0
    drawn = (images / "own.svg").read_bytes()
    assert main([str(tmp_path / "results"), str(tmp_path / "REPORT.md")]) == 0
    assert (images / "own.svg").read_bytes() == drawn, "equal results make equal files"
    assert main([str(tmp_path / "nothing"), str(tmp_path / "page.md")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_contrasts_pool_arms_and_are_corrected_together() -> None:
    """Against plain means of the values; as one arm against one it is the comparison of those arms."""
    whole = results()
    other = [row | {"arm": "B", "value": row["value"] + int(row["item"]) % 3} for row in whole.values.to_pylist()
             if row["arm"] == "DPO"]  # fmt: skip
    values = pa.concat_tables([whole.values, pa.Table.from_pylist(other, schema=whole.values.schema)])
    # As an arm that drops pairs: two runs, of which the one at equal updates counts.
    whole.runs["arms"] += [
        {"name": name, "arm": "B", "matched": matched, "note": "", "learning_rate": 1e-5, "beta": 0.1}
        for name, matched in (("B (equal epochs)", "epochs"), ("B", "updates"))
    ]
    whole.runs["study"]["arms"]["B"] = {"tuning": None}
    whole.runs["study"]["contrasts"] = {
        "pooled": {"arms": ["A | B_50 %", "B"], "against": ["DPO"]},
        "single": {"arms": ["A | B_50 %"], "against": ["B"]},
    }
    found = analyse(dataclasses.replace(whole, values=values))
    by_name = {one.name: one for one in found.contrasts}
    gain_of_b = sum(item % 3 for item in range(8)) / 8
    assert by_name["pooled"].effect.estimate == pytest.approx((1 + gain_of_b) / 2)
    assert by_name["single"].effect.estimate == pytest.approx(1 - gain_of_b)
    assert by_name["pooled"].against == ("DPO",)
    assert [one.effect.p_adjusted for one in found.contrasts] == pytest.approx(
        holm([one.effect.p_value for one in found.contrasts])
    )
    (row, _) = contrasts_table(found).rows
    assert row[:4] == ("pooled", "A | B_50 %, B", "DPO", interval(by_name["pooled"].effect))
    assert any(sentence.startswith("**pooled**: +0.9") for sentence in summary(found))
    del whole.runs["study"]["contrasts"]  # as in results from before there were any
    assert analyse(whole).contrasts == []


def test_results_on_other_items_or_of_another_version_are_refused(tmp_path: Path, refused) -> None:
    whole = results()
    lacking = dataclasses.replace(whole, values=whole.values.slice(0, len(whole.values) - 3))
    refused(lambda: analyse(lacking), "not measured on the same items as the others")
    whole.runs["version"] = 0
    save_results(whole, tmp_path)
    refused(lambda: load_results(tmp_path), "results of format 0")
    refused(lambda: load_results(tmp_path / "none"), "no results of a study")


def test_a_start_that_failed_leaves_the_arms_comparable() -> None:
    whole = results()
    without = whole.values.filter(pc.not_equal(whole.values["arm"], "start"))
    found = {one.name: one for one in analyse(dataclasses.replace(whole, values=without)).arms}
    assert found["A | B_50 %"].against_baseline.estimate == pytest.approx(1.0)
    assert found["DPO"].against_start is None


def test_tables_keep_signs_and_escape_what_they_must() -> None:
    table = effects_table(analyse(results()))
    assert table.rows[0][0] == "A | B_50 %"
    assert "| A \\| B\\_50 % |" in as_markdown(table)
    assert r"A \textbar{} B\_50 \% &" in as_latex(table)
