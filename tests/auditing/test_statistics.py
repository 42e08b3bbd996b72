"""Every statistic of an audit against scipy, scikit-learn, networkx, transformers' schedule, or brute force."""

from __future__ import annotations

import networkx
import numpy as np
import polars as pl
import pytest
from datasets import Dataset
from scipy import stats
from sklearn.metrics import accuracy_score

from mixdpo import MixDPOConfig, make_plan, score
from mixdpo.auditing.duplicates import BANDS, ROWS, clusters, duplicate_figures
from mixdpo.auditing.examples import marked
from mixdpo.auditing.leakage import leak_figures
from mixdpo.auditing.margins import rating_grid
from mixdpo.auditing.noise import label_error, noise_figures
from mixdpo.auditing.plan_preview import cosine_with_warmup, plan_preview, recommendation
from mixdpo.auditing.statistics import (
    binned,
    length_histograms,
    mean,
    rank_correlation,
    share,
    standardised_mean,
)
from mixdpo.auditing.style import length_figures, style_figures
from mixdpo.auditing.surface import surface_features
from mixdpo.common.shingles import minhash, shingles
from mixdpo.training.schedule import learning_rate_factors
from preferences import clean_rows, loaded, sentence


def test_share_is_wilsons_interval() -> None:
    z, k, n = stats.norm.ppf(0.975), 37, 120
    p = k / n
    centre, half = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    got = share(k, n)
    assert [got["low"], got["high"]] == pytest.approx(
        [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)]
    )
    assert share(0, 0) == {"value": None, "low": None, "high": None, "n": 0}


def test_means_agree_with_scipy() -> None:
    values = np.random.default_rng(0).normal(0.4, 2, 300)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    got = mean(values)
    assert [got["low"], got["high"]] == pytest.approx([expected.low, expected.high])
    d = standardised_mean(values)
    resampled = stats.bootstrap(
        (values,), lambda x, axis: x.mean(axis) / x.std(axis, ddof=1), rng=np.random.default_rng(1), n_resamples=4000
    ).confidence_interval
    assert [d["low"], d["high"]] == pytest.approx([resampled.low, resampled.high], abs=0.015)


def test_what_differs_by_rounding_alone_has_no_effect_size() -> None:
    values = np.log(np.full(100, 60.0)) - np.log(np.full(100, 30.0))
    values[::2] += 1e-15
    assert standardised_mean(values)["value"] is None


@pytest.mark.parametrize(("route", "at"), [("drop", 0), ("sft", 2), ("sft_last", 2)])
def test_the_preview_starts_where_the_advice_sends_pairs_to_sft(route, at) -> None:
    parts = [
        {"route": name, "part": {"margin_min": low, "margin_max": high, "share": 0.5}}
        for name, low, high in ((route, 0.0, 0.9), ("preference", 1.0, 2.0))
    ]
    found = recommendation({"threshold": [0.0, 0.5, 0.95, 1.5]}, {"problem": None, "parts": parts})
    assert found["at"] == at


def test_rank_correlation_agrees_with_scipy_and_a_bootstrap() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=400)
    second = first + rng.normal(size=400)
    got = rank_correlation(np.append(first, np.nan), np.append(second, 1.0))
    assert got["value"] == pytest.approx(stats.spearmanr(first, second).statistic)
    assert got["n"] == 400
    drawn = [stats.spearmanr(first[i], second[i]).statistic for i in rng.integers(0, 400, (800, 400))]
    assert [got["low"], got["high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.025)
    assert rank_correlation(np.ones(9), first[:9])["value"] is None


def test_histograms_count_every_value() -> None:
    rng = np.random.default_rng(0)
    few = rng.integers(0, 4, 100).astype(float)
    assert binned(few)["counts"] == np.bincount(few.astype(int)).tolist()
    assert sum(binned(rng.normal(size=1000))["counts"]) == 1000
    lengths = {"a": rng.geometric(0.01, 5000), "b": rng.geometric(0.02, 3000)}
    both = length_histograms(lengths)
    assert [sum(one["counts"]) for one in both.values()] == [5000, 3000]
    assert both["a"]["edges"] == both["b"]["edges"]


def test_heat_map_counts_pairs_by_both_ratings() -> None:
    cells = rating_grid(np.array([5.0, 5.0, 3.0]), np.array([1.0, 3.0, 5.0]))
    assert cells["labels"] == ["1", "3", "5"]
    assert cells["counts"] == [[0, 0, 0], [0, 0, 1], [1, 1, 0]], "chosen is the row"


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 137])
def test_schedule_is_transformers(steps, tmp_path) -> None:
    args = MixDPOConfig(
        output_dir=str(tmp_path), lr_scheduler_type="cosine", warmup_steps=0.1, use_cpu=True, bf16=False
    )
    np.testing.assert_allclose(cosine_with_warmup(steps), learning_rate_factors(args, [steps]), atol=1e-12)


def test_preview_routes_as_the_plan_does(tmp_path) -> None:
    pairs = score(loaded(tmp_path, clean_rows(150)))
    margin = np.array(pairs["margin/rating"])
    words = {side: np.array([len(text.split()) for text in pairs[side]]) for side in ("prompt", "chosen", "rejected")}
    preview = plan_preview(margin, words, pairs_per_step=16)
    assert preview is not None
    for i in (1, 40, 149):
        plan = make_plan(pairs, threshold=preview["threshold"][i])
        hard = plan.is_hard
        assert preview["sft_pairs"][i] == hard.sum()
        assert preview["sft_read"][i] == (words["prompt"] + words["chosen"])[hard].sum()
        assert preview["preference_read"][i] == sum(words.values())[~hard].sum()
    assert preview["sft_pairs"][0] == 0
    assert preview["preference_mass"][0] == pytest.approx(1)
    assert preview["steps"] == 10
    assert plan_preview(np.full(150, np.nan), words, 16) is None


def test_length_bias_of_known_size_is_measured(tmp_path) -> None:
    rng = np.random.default_rng(3)
    rows = clean_rows(1500)
    for row in rows:
        longer, shorter = sentence(rng, 60), sentence(rng, 40)
        row["chosen"], row["rejected"] = (longer, shorter) if rng.random() < 0.7 else (shorter, longer)
    figures = length_figures(surface_features(loaded(tmp_path, rows)), np.linspace(0, 1, 1500))
    assert figures["longer"]["low"] < 0.7 < figures["longer"]["high"]
    assert figures["ratio"]["value"] == pytest.approx((60 / 40) ** (2 * figures["longer"]["value"] - 1), rel=1e-9)
    assert sum(bucket["pairs"] for bucket in figures["buckets"]) == 1500
    assert len(figures["buckets"]) == 10


def test_style_is_found_where_it_is_and_nowhere_else(tmp_path) -> None:
    rng = np.random.default_rng(4)
    rows = clean_rows(1000)
    nothing = style_figures(surface_features(loaded(tmp_path, rows, "plain")), 20_000, np.random.default_rng(0))
    assert nothing["classifier"]["accuracy"]["low"] < 0.5 < nothing["classifier"]["accuracy"]["high"]
    has_bold = rng.random(1000) < 0.8
    for row, bold in zip(rows, has_bold, strict=True):
        row["chosen" if bold else "rejected"] += " **so**"
    features = surface_features(loaded(tmp_path, rows, "bold"))
    found = style_figures(features, 20_000, np.random.default_rng(0))
    best_possible = accuracy_score(np.ones(1000), has_bold)
    assert found["classifier"]["accuracy"]["value"] == pytest.approx(best_possible, abs=0.02)
    assert found["classifier"]["weights"][0]["name"] == "bold"
    cue = next(cue for cue in found["cues"] if cue["name"] == "bold")
    assert cue["predicts"]["value"] == pytest.approx(has_bold.mean())
    assert cue["p"] == pytest.approx(stats.binomtest(int(has_bold.sum()), 1000).pvalue)
    assert found == style_figures(features, 20_000, np.random.default_rng(0)), "same seed, same result"


def test_label_error_of_known_size_is_estimated() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(100):
        wrong, a, b = (np.where(rng.random(2000) < e, -1, 1) for e in (0.12, 0.2, 0.15))
        got = label_error(wrong * a, wrong * b, rng)
        inside += got["low"] <= 0.12 <= got["high"]
    assert inside >= 88, "a 95 % interval holds the truth about 95 times of 100"
    assert label_error(np.zeros(5), np.ones(5), rng)["value"] is None


def test_a_spike_of_tens_is_noticed() -> None:
    rng = np.random.default_rng(0)
    usual = (rng.uniform(5, 9.9, 500), rng.uniform(1, 5, 500))
    assert noise_figures({"rating": usual[0] - usual[1]}, usual, rng)[0]["ratings_of_ten"] is None
    chosen = np.where(np.arange(500) < 60, 10.0, np.minimum(usual[0], 8.9))
    judge = np.where(np.arange(500) < 25, -1.0, 1.0)
    figures, _, suspect = noise_figures({"rating": chosen - usual[1], "judge": judge}, (chosen, usual[1]), rng)
    assert figures["ratings_of_ten"] == {"tens": 60, "nine_to_ten": 0, "spike": True, "contradicted": 25}
    assert np.flatnonzero(suspect).tolist() == list(range(25))


def test_texts_of_few_words_or_none() -> None:
    parts = shingles(pl.Series(["", "one two", "Two one", "ONE, two!", "a b c d", "好的好的"]), 3)
    assert np.diff(parts.starts).tolist() == [0, 1, 1, 1, 2, 2]
    assert parts.grams[0] == parts.grams[2] != parts.grams[1]
    groups = clusters(minhash(parts, BANDS * ROWS, np.random.default_rng(0)), 0.8)
    assert groups[1] == groups[3]
    assert len(set(groups.tolist())) == 5


def test_cycles_are_networkx_components() -> None:
    rng = np.random.default_rng(7)
    prompt, chosen, rejected = rng.integers(0, 40, 600), rng.integers(0, 8, 600), rng.integers(0, 8, 600)
    columns = {"question/hash": prompt, "chosen/hash": chosen, "rejected/hash": rejected}
    features = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.UInt64))
    _, groups = duplicate_figures(features)
    graph = networkx.DiGraph([((p, c), (p, r)) for p, c, r in zip(prompt, chosen, rejected, strict=True) if c != r])
    large = [part for part in networkx.strongly_connected_components(graph) if len(part) > 2]
    expected = [
        any((p, c) in part and (p, r) in part for part in large) and c != r
        for p, c, r in zip(prompt, chosen, rejected, strict=True)
    ]
    assert ((groups["cycles"] >= 0) == np.array(expected)).all()
    triples = list(zip(prompt, chosen, rejected, strict=True))
    assert ((groups["duplicates"] >= 0) == np.array([triples.count(t) > 1 for t in triples])).all()
    both = set(triples)
    assert ((groups["opposite"] >= 0) == np.array([(p, r, c) in both and c != r for p, c, r in triples])).all()
    assert ((groups["same_answers"] >= 0) == (chosen == rejected)).all()


def test_leaks_are_those_of_brute_force(tmp_path) -> None:
    rng = np.random.default_rng(8)
    evaluation = [sentence(rng, int(rng.integers(4, 30))) for _ in range(40)]
    rows = clean_rows(120)
    for i, row in enumerate(rows[:60]):
        words = evaluation[i % 40].split()
        row["prompt"] = " ".join([*sentence(rng, 5).split(), *words[: int(rng.integers(2, len(words) + 1))]])
    rows[0]["prompt"] = evaluation[0]
    pairs = loaded(tmp_path, rows)
    figures, leaked, _ = leak_figures(pairs, {"first": evaluation[:25], "second": evaluation[25:]}, 6, 0.5)

    def grams(text: str) -> set:
        words = text.split()
        return {tuple(words[i : i + 6]) for i in range(max(1, len(words) - 5))}

    for row, prompt in enumerate(pairs["prompt"]):
        overlap = [len(grams(prompt) & grams(text)) / len(grams(text)) for text in evaluation]
        assert leaked[row] == (int(np.argmax(overlap)) if max(overlap) >= 0.5 else -1)
    assert sum(one["pairs"] for one in figures["sets"]) == (leaked >= 0).sum() > 10


def test_marked_pieces_join_to_the_texts() -> None:
    first, second = marked("the  same\nwords here", "the  other words")
    assert ("".join(first), "".join(second)) == ("the  same\nwords here", "the  other words")
    assert first[0] == second[0] == "the  ", "white space before a difference is not marked"
    assert marked("", "x") == ([""], ["", "x"])


def test_length_and_style_are_of_answers_without_reasoning() -> None:
    thought = "<think>\n- one\n- two **bold** words\n</think>\n\n"
    plain = Dataset.from_dict({"prompt": ["q"] * 3, "chosen": ["two words", "- a", "x"], "rejected": ["y"] * 3})
    text = Dataset.from_dict({**plain.to_dict(), "chosen": [thought + "two words", "- a", "Hm</think>x"]})
    chats = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": "q"}]] * 3,
            **{
                side: [[{"role": "assistant", "content": answer}] for answer in text[side]]
                for side in ("chosen", "rejected")
            },
        }
    )
    expected = surface_features(plain)
    for thinking in (text, chats):
        found = surface_features(thinking)
        for name in ("chars", "words", "bold", "list items", "paragraphs"):
            assert found[f"chosen/{name}"].to_list() == expected[f"chosen/{name}"].to_list()
        assert found["chosen/reasoning"].to_list() == [1, 0, 1]
        assert found["chosen/hash"][0] != expected["chosen/hash"][0], "duplicates are compared whole"
        assert length_figures(found, None)["reasoning"] == [2, 0]
    assert expected["chosen/reasoning"].sum() == 0
