"""Label probabilities from the agreement of other metrics with the label, by margin."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from datasets import Dataset
from sklearn.isotonic import IsotonicRegression

from mixdpo import make_plan
from mixdpo.plan.agreement_curve import AgreementCurve
from mixdpo.plan.labels import label_probabilities, labels_by_bin


def planted(n: int, accuracy: tuple[float, ...] = (0.75,), seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Margins from 0 to 6, signals of these accuracies, and labels that are right with the probabilities returned."""
    rng = np.random.default_rng(seed)
    margin = rng.uniform(0, 6, n)
    probability = 1 - 0.5 * np.exp(-margin)
    right = rng.random(n) < probability
    signals = {f"margin/signal{i}": np.where(right == (rng.random(n) < q), 1.0, -1.0) for i, q in enumerate(accuracy)}
    ids = [f"{i:020x}" for i in range(n)]
    return Dataset.from_dict({"pair_id": ids, "margin/rating": margin, **signals}), probability


@pytest.mark.parametrize("accuracy", [(0.75,), (0.2,), (0.7, 0.6, 0.35)])
def test_planted_probabilities_are_found(accuracy: tuple[float, ...]) -> None:
    data, probability = planted(60_000, accuracy)
    plan = make_plan(data, "dpo", label_probability="agreement")
    found = plan.label_probability
    assert abs(found - probability).mean() < 0.02
    rising = found[np.argsort(plan.margin)]
    assert (np.diff(rising) >= 0).all()
    for item, labels in zip(plan.curve.bins, labels_by_bin(plan.curve), strict=True):
        inside = (plan.margin >= item.margin_min) & (plan.margin <= item.margin_max)
        assert (found[inside] == labels.probability).all()
        assert labels.low - 0.02 < probability[inside].mean() < labels.high + 0.02
        assert labels.low < labels.probability <= labels.high or labels.probability == 1


def test_it_is_the_isotonic_regression_of_the_agreement_on_the_scale_of_the_easiest_third() -> None:
    data, _ = planted(3000)
    curve = make_plan(data, "dpo", label_probability="agreement").curve
    agreement, pairs = ([getattr(item, name) for item in curve.bins] for name in ("agreement", "pairs"))
    rising = IsotonicRegression().fit_transform(np.arange(len(pairs)), agreement, sample_weight=pairs)
    expected = np.clip(0.5 + 0.5 * (rising - 0.5) / (curve.attained - 0.5), 0, 1)
    np.testing.assert_allclose([item.probability for item in labels_by_bin(curve)], expected)


def test_ties_have_a_probability_of_their_own() -> None:
    data, _ = planted(20_000)
    margin = np.array(data["margin/rating"])
    coin = np.random.default_rng(1).choice([-1.0, 1.0], 20_000)
    signal = np.where(margin < 1, coin, np.array(data["margin/signal0"]))
    tied = Dataset.from_dict(
        {"pair_id": data["pair_id"], "margin/rating": np.where(margin < 1, 0, margin), "margin/signal0": signal}
    )
    plan = make_plan(tied, label_probability="agreement", threshold="auto")
    of_ties = np.unique(plan.label_probability[plan.margin == 0])
    assert len(of_ties) == 1
    assert of_ties[0] == pytest.approx(0.5, abs=0.05)
    assert plan.settings.threshold == "auto", "one curve serves both"


def test_a_threshold_of_its_own_is_not_touched() -> None:
    data, _ = planted(2000)
    plan = make_plan(data, threshold=0.5, label_probability="agreement")
    assert (plan.is_hard == (plan.margin < 0.5)).all()
    assert AgreementCurve.from_dict(asdict(plan.curve)) == plan.curve


def test_signals_can_be_chosen(refused) -> None:
    data, _ = planted(2000, (0.75, 0.9))
    plan = make_plan(data, "dpo", label_probability="agreement", signals=["signal1"])
    assert [signal.metric for signal in plan.curve.signals] == ["signal1"]
    refused(
        lambda: make_plan(data, "dpo", label_probability="agreement", trust=0.4), "trust belongs to threshold auto"
    )


def test_a_metric_that_takes_sides_is_warned_of(caplog) -> None:
    data, _ = planted(2000)
    make_plan(data, "dpo", label_probability="agreement")
    assert not caplog.messages
    shifted = data.map(lambda pair: {"margin/rating": pair["margin/rating"] - 1})
    make_plan(shifted, "dpo", label_probability="agreement")
    assert "takes sides itself" in caplog.text


def test_without_a_signal_it_is_refused(refused) -> None:
    data, _ = planted(2000)
    alone = data.remove_columns("margin/signal0")
    refused(lambda: make_plan(alone, "dpo", label_probability="agreement"), "nothing to judge the labels by")
    tied = alone.map(lambda pair: {"margin/rating": max(pair["margin/rating"] - 1, 0)})
    refused(
        lambda: make_plan(tied, "dpo", label_probability="agreement"),
        "label_probability agreement has nothing to judge the labels by", "mixdpo score",
    )  # fmt: skip
    unscored = data.remove_columns("margin/rating")
    refused(lambda: make_plan(unscored, "dpo", label_probability="agreement"), "needs the column 'margin/rating'")


def test_a_vote_under_one_half_makes_a_label_more_wrong_than_right() -> None:
    data, _ = planted(2000)
    curve = make_plan(data, "dpo", label_probability="agreement").curve
    against = replace(curve.bins[0], agreement=0.5 - (curve.attained - 0.5) / 2, low=0.0, high=0.5)
    wrong = replace(curve, bins=[against, *curve.bins[1:]])
    assert labels_by_bin(wrong)[0].probability == pytest.approx(0.25)
    assert labels_by_bin(wrong)[0].low == 0
    assert label_probabilities(data, "agreement", np.array([against.margin_min]), wrong) == pytest.approx([0.25])
