"""`threshold: auto`: planted label noise is found, clean labels are left alone, and silence is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import binom, binomtest
from sklearn.isotonic import IsotonicRegression

from mixdpo import Plan, load_pairs, make_plan, score
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError
from mixdpo.common.statistics import monotone_band, share_bounds
from mixdpo.difficulty.length_gap import LengthGapSettings, length_gap_margin
from mixdpo.plan.agreement_curve import AgreementCurve
from mixdpo.plan.plan_settings import AutoSettings
from mixdpo.plan.threshold import auto_threshold, bin_edges, find_signals
from synthetic import ULTRAFEEDBACK_MARGINS, chat_rows


def signal_of(right: np.ndarray, accuracy: float, rng: np.random.Generator) -> np.ndarray:
    """A second metric that prefers the better answer with a probability, whatever the label says."""
    agrees = right == (rng.random(len(right)) < accuracy)
    return np.where(agrees, 1.0, -1.0) * rng.exponential(size=len(right))


def planted(
    seed: int, right: Callable[[np.ndarray], np.ndarray], n: int = 4000, accuracy: tuple[float, ...] = (0.75,)
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Margins from 0 to 4 and signals; the label of a pair of margin m is right with probability right(m)."""
    rng = np.random.default_rng(seed)
    margin = rng.uniform(0, 4, n)
    is_right = rng.random(n) < right(margin)
    return margin, {f"signal{i}": signal_of(is_right, share, rng) for i, share in enumerate(accuracy)}


def step(margin: np.ndarray) -> np.ndarray:
    return np.where(margin < 1, 0.5, 1.0)


def slope(margin: np.ndarray) -> np.ndarray:
    return 1 - 0.5 * np.exp(-margin)


def clean(margin: np.ndarray) -> np.ndarray:
    return np.ones_like(margin)


def noise(margin: np.ndarray) -> np.ndarray:
    return np.full_like(margin, 0.5)


def auto(margin: np.ndarray, signals: dict[str, np.ndarray], **settings) -> AgreementCurve:
    return auto_threshold(margin, signals, AutoSettings(**settings))


def data_with(margin: np.ndarray, **others: np.ndarray) -> Dataset:
    columns = {f"margin/{name}": np.asarray(values).tolist() for name, values in others.items()}
    ids = [f"{i:020x}" for i in range(len(margin))]
    return Dataset.from_dict({"pair_id": ids, "margin/rating": np.asarray(margin, float).tolist(), **columns})


# ---- the bounds ----


@pytest.mark.parametrize("n", [1, 7, 40])
def test_share_bounds_are_scipys_exact_intervals(n: int) -> None:
    for k in range(n + 1):
        expected = binomtest(k, n).proportion_ci(confidence_level=0.9, method="exact")
        np.testing.assert_allclose(share_bounds(k, n, 0.05), [expected.low, expected.high], atol=1e-12)


@pytest.mark.parametrize("shares", [[0.6] * 6, [0.5, 0.5, 0.55, 0.7, 0.7, 0.9]], ids=["flat", "rising"])
def test_monotone_band_holds_all_shares_at_once(shares: list[float]) -> None:
    rng = np.random.default_rng(0)
    trials = np.array([100, 300, 150, 100, 200, 500])
    missed, width, plain_width = 0, [], []
    for _ in range(400):
        successes = rng.binomial(trials, shares)
        low, high = monotone_band(successes, trials, 0.95)
        missed += bool((low > shares).any() or (high < shares).any())
        width.append((high - low).mean())
        plain = share_bounds(successes, trials, 0.05 / 2 / len(trials))
        plain_width.append((plain[1] - plain[0]).mean())
    assert missed <= binom.ppf(0.999, 400, 0.05)
    assert np.mean(width) < np.mean(plain_width), "what is known of the neighbours makes it narrower"


def test_band_of_one_bin_is_the_exact_interval() -> None:
    expected = binomtest(30, 50).proportion_ci(confidence_level=0.95, method="exact")
    np.testing.assert_allclose(np.ravel(monotone_band(np.array([30]), np.array([50]), 0.95)), expected)


def test_the_curve_holds_the_true_agreement_of_every_bin() -> None:
    """With several signals of unlike strength, one of them reversed, whose votes vary less than a coin's."""
    accuracy = (0.75, 0.6, 0.35)
    missed, runs = 0, 200
    for seed in range(runs):
        curve = auto(*planted(seed, slope, n=1500, accuracy=accuracy))
        for item in curve.bins:
            margins = np.linspace(item.margin_min, item.margin_max, 50)
            informed = sum(s.weight * (2 * a - 1) for s, a in zip(curve.signals, accuracy, strict=True))
            true = 0.5 + 0.5 * informed * float((2 * slope(margins) - 1).mean())
            if not item.low <= true <= item.high:
                missed += 1
                break
    assert missed <= binom.ppf(0.999, runs, 0.05)


def test_bins_do_not_divide_equal_margins() -> None:
    margin = np.sort(np.random.default_rng(0).integers(0, 40, 5000) / 2)
    edges = bin_edges(margin, 0)
    assert edges[0] == 0
    assert edges[-1] == 5000
    assert (margin[edges[1:-1] - 1] < margin[edges[1:-1]]).all()
    assert 5 < len(edges) <= 21
    assert np.diff(edges).min() >= 250
    assert bin_edges(np.zeros(5000), 0).tolist() == [0, 5000]


# ---- the threshold ----


def test_the_cut_is_the_crossing_of_the_isotonic_regression() -> None:
    for seed in range(20):
        margin, signals = planted(seed, slope, n=20_000)
        margin = 0.1 + np.round(margin, 1 + seed % 2)  # equal margins too, and no ties
        curve = auto(margin, signals, max_share=0.99)
        assert curve.threshold is not None
        fit = IsotonicRegression().fit_transform(margin, (np.sign(signals["signal0"]) + 1) / 2)
        np.testing.assert_array_equal(margin < curve.threshold, fit < curve.required)


def test_planted_noise_is_found() -> None:
    """Labels are coin flips under a margin of 1 and right above it: the crossing is at 1."""
    found = np.array([auto(*planted(seed, step)).threshold for seed in range(100)], dtype=float)
    assert (np.abs(found - 1) < 0.1).mean() >= 0.95
    assert abs(np.median(found) - 1) < 0.02


def test_planted_slope_is_found_and_better_with_more_pairs() -> None:
    easiest = np.linspace(4 * 2 / 3, 4, 1000)
    crossing = -np.log(1 - 0.5 * (1 - np.exp(-easiest)).mean())
    error = {}
    for n in (10_000, 80_000):
        found = np.array([auto(*planted(seed, slope, n=n)).threshold for seed in range(40)], dtype=float)
        error[n] = np.abs(found - crossing)
        assert abs(np.median(found) - crossing) < 0.1
    assert np.quantile(error[10_000], 0.9) < 0.35
    assert np.quantile(error[80_000], 0.9) < 0.125


def test_signals_together_find_what_one_alone_cannot_show() -> None:
    weak = (0.6,) * 6
    alone = [auto(*planted(seed, step, n=3000, accuracy=weak[:1]), max_share=0.4).routed for seed in range(20)]
    together = [auto(*planted(seed, step, n=3000, accuracy=weak), max_share=0.4).routed for seed in range(20)]
    assert np.mean(np.array(alone) > 0) < 0.5
    assert np.mean(np.array(together) > 0) > 0.8


@pytest.mark.parametrize("n", [600, 4000])
def test_clean_labels_are_left_alone(n: int) -> None:
    routed = [auto(*planted(seed, clean, n=n)).routed for seed in range(200)]
    assert np.count_nonzero(routed) <= 10


def test_labels_without_information_are_refused() -> None:
    refusals = 0
    for seed in range(100):
        margin, signals = planted(seed, noise, accuracy=(0.75, 0.6))
        try:
            auto(margin, signals)
        except InputError as error:
            refusals += "can be told from chance" in str(error)
    assert refusals >= 90


@pytest.mark.parametrize("better_is_longer", [True, False])
def test_a_taste_for_length_needs_no_centring(better_is_longer: bool) -> None:
    """A second metric that mostly follows length: where labels are coin flips it agrees half the time all the same."""
    rng = np.random.default_rng(3)
    n = 20_000
    margin = rng.uniform(0, 4, n)
    right = np.where(rng.random(n) < step(margin), 1, -1)
    longer = rng.normal(0.5 if better_is_longer else -0.5, 1, n)  # of the better answer than of the worse
    signal = right * (3 * longer + rng.normal(0.3, 1, n))
    curve = auto(margin, {"likes_long": signal})
    assert curve.threshold == pytest.approx(1, abs=0.1)
    assert np.sign(curve.signals[0].weight) == (1 if better_is_longer else -1)
    agreement = np.mean(signal[margin < 1] > 0)
    assert abs(agreement - 0.5) < 4 * 0.5 / np.sqrt(n / 4)


def test_shares_limit_what_is_routed() -> None:
    margin, signals = planted(0, lambda m: np.where(m < 2.5, 0.5, 1.0), n=8000)
    free, capped = auto(margin, signals, max_share=0.9), auto(margin, signals)
    assert free.threshold == pytest.approx(2.5, abs=0.1)
    assert "shares that may be routed" not in free.reason
    assert 3900 < capped.routed <= 4000
    assert "shares that may be routed" in capped.reason
    forced = auto(*planted(0, clean), min_share=0.05)
    assert forced.routed == 200
    assert "No margin is shown" in forced.reason


# ---- ties and signals ----


def test_ties_alone_are_enough_and_alone_are_routed() -> None:
    margins = np.repeat(list(ULTRAFEEDBACK_MARGINS), list(ULTRAFEEDBACK_MARGINS.values()))
    plan = make_plan(data_with(margins), threshold="auto")
    assert plan.is_hard.sum() == 7387
    assert plan.curve is not None
    assert plan.curve.threshold == 0.5
    assert plan.curve.bins[0].verdict == "tie"
    assert "7,387 ties" in plan.curve.reason


def test_ties_are_routed_whatever_the_signals_say() -> None:
    margin, signals = planted(0, clean)
    margin[:400] = 0
    curve = auto(margin, signals)
    assert curve.routed == 400
    assert curve.bins[0].pairs == 400
    assert auto(margin, signals, max_share=0.02).routed == 400


def test_zero_is_no_tie_of_a_metric_that_takes_sides(refused) -> None:
    margin, _ = planted(0, clean)
    margin = np.round(margin) - 2
    refused(lambda: auto(margin, {}), "are no ties where more than 1 % are negative")
    refused(lambda: auto(margin + 0.5, {}), "no pair is tied")
    rng = np.random.default_rng(1)
    curve = auto(margin, {"second": np.where(rng.random(len(margin)) < 0.7, 1.0, -1.0)})
    assert curve.routed == 0
    assert "takes sides itself" in curve.reason


def test_only_metrics_that_take_sides_are_signals(refused) -> None:
    margin, signals = planted(0, step)
    data = data_with(margin, second=signals["signal0"], embedding=np.abs(signals["signal0"]), ches=signals["signal0"])
    assert list(find_signals(data, "rating", None)) == ["second"]
    refused(lambda: find_signals(data, "rating", ["embedding"]), "only one sign", "margin/embedding")
    refused(lambda: find_signals(data, "rating", ["secnd"]), "did you mean second?")
    refused(lambda: find_signals(data, "rating", ["rating"]), "the plan's own metric")
    without = data_with(margin, embedding=np.abs(signals["signal0"]))
    refused(lambda: make_plan(without, threshold="auto"), "nothing to judge the labels by", "mixdpo score")


def test_few_pairs_or_one_margin_are_refused(refused) -> None:
    margin, signals = planted(0, step, n=150)
    refused(lambda: auto(margin, signals), "fewer than 200 pairs")
    margin, signals = planted(0, step, n=1000)
    refused(lambda: auto(np.ones(1000), signals), "too few different margins")
    refused(lambda: auto(np.zeros(1000), signals), "every pair is tied")


def test_missing_opinions_count_for_neither_answer() -> None:
    margin, signals = planted(0, step, n=8000)
    signals["signal0"][::4] = np.nan
    curve = auto(margin, signals)
    assert curve.threshold == pytest.approx(1, abs=0.2)
    assert curve.signals[0].agreement == pytest.approx(0.5 + 0.75 * 0.25, abs=0.03)


# ---- in a plan ----


def test_the_plan_keeps_the_curve(tmp_path: Path) -> None:
    margin, signals = planted(0, step)
    data = data_with(margin, second=signals["signal0"])
    plan = make_plan(data, threshold="auto", signals=["second"], trust=0.4, seed=3)
    assert plan.curve is not None
    np.testing.assert_array_equal(plan.is_hard, margin < plan.curve.threshold)
    assert plan.is_hard.sum() == plan.curve.routed == sum(r["pairs"] for r in plan.summary() if r["route"] == "sft")
    plan.save(tmp_path / "plan.parquet")
    loaded = Plan.load(tmp_path / "plan.parquet")
    assert loaded.curve == plan.curve
    assert loaded.settings == plan.settings
    assert make_plan(data, threshold="auto", signals=["second"], trust=0.4, seed=4).curve == plan.curve
    assert make_plan(data, threshold=1.0).curve is None


def test_real_answers_with_planted_coin_flips(alpaca_graded: Path) -> None:
    """Judged answers of 58 models: small margins keep half of the attained agreement, until labels are flipped."""
    pairs = score(load_pairs(str(alpaca_graded / "train.parquet")))
    longer = length_gap_margin(pairs, LengthGapSettings(signed=True))
    margin = np.array(pairs["margin/rating"])
    assert auto(margin, {"longer": longer}).routed == 0
    for seed in range(5):
        flip = np.where((margin < 1) & (np.random.default_rng(seed).random(len(margin)) < 0.5), -1, 1)
        assert 0.9 < auto(margin, {"longer": longer * flip}).threshold < 1.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"threshold": "automatic"},
            "a margin, {hardest: f}, {easiest: f}, {outside: [low, high]}, {column: NAME}, auto or null",
        ),
        ({"trust": 0.4}, "trust belongs to threshold auto"),
        ({"threshold": "auto", "trust": 1.0}, "above 0 and below 1"),
        ({"threshold": "auto", "min_share": 0.6}, "min_share <= max_share"),
        ({"threshold": "auto", "max_share": 1.0}, "min_share <= max_share"),
    ],
)
def test_wrong_settings(change: dict, message: str) -> None:
    margin, signals = planted(0, step)
    with pytest.raises(InputError) as caught:
        make_plan(data_with(margin, second=signals["signal0"]), **change)
    assert message in str(caught.value)


def test_the_command_shows_the_curve(capsys, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = chat_rows(900)
    for row in rows:
        margin = row["score_chosen"] - row["score_rejected"]
        row["margin/second"] = float(rng.choice([1, -1], p=[0.9, 0.1] if margin > 1 else [0.5, 0.5]))
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = tmp_path / "plan.parquet"
    command = ["plan", str(data), "--output", str(plan), "--plan.threshold", "auto"]
    assert main(command) == 0
    out = capsys.readouterr().out
    for text in ("agreement", "not trusted", "tie", "signal second", "threshold: 2.", "is required"):
        assert text in out
    curve = Plan.load(plan).curve
    assert curve is not None
    assert curve.threshold == 2
    assert (tmp_path / "plan-threshold.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plan-threshold.svg").read_text()
    assert main([*command, "--plan.signals", "[]"]) == 0
    assert "ties" in capsys.readouterr().out
    labels = ["--plan.label_probability", "agreement", "--plan.weight", "label_confidence"]
    assert main([*command[:4], *labels]) == 0
    out = capsys.readouterr().out
    assert "threshold: " not in out
    for text in ("probability that the label is right", "P label", "weight"):
        assert text in out
    assert main([*command, "--plan.signals", "[scond]"]) == 2
    assert "did you mean second?" in capsys.readouterr().err
