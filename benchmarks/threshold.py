"""Whether `threshold: auto` finds what was planted, and what it finds on real pairs: the figures of docs/threshold.md.

    python benchmarks/threshold.py [--seeds 200]                # generated margins and signals
    python benchmarks/threshold.py PAIRS.parquet [--embedding MODEL] [--scored SCORED.parquet]

PAIRS has prompt_id, chosen_model and rejected_model, score_chosen and score_rejected. SCORED holds some of these pairs
as `mixdpo score` wrote them: how often its margins agree with the label is printed too, but they are no signals, since
most pairs lack them. Prints tables and writes results/threshold.json or threshold-real.json and its figure.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from arms import RESULTS, conditions
from datasets import Dataset

from mixdpo import load_pairs, score
from mixdpo.common.errors import InputError
from mixdpo.common.files import write_json
from mixdpo.common.statistics import share_bounds
from mixdpo.data.arrays import float_column
from mixdpo.difficulty.texts import answer_texts
from mixdpo.plan.agreement_curve import AgreementCurve
from mixdpo.plan.curve_figure import save_agreement_figure
from mixdpo.plan.plan_settings import AutoSettings
from mixdpo.plan.threshold import auto_threshold, easiest_third, find_signals

FIGURE = RESULTS.parents[1] / "docs" / "images" / "threshold.png"
SIDES = ("chosen", "rejected")
LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "step": lambda margin: np.where(margin < 1, 0.5, 1.0),
    "slope": lambda margin: 1 - np.exp(-margin) / 2,
    "right": np.ones_like,
    "coin flips": lambda margin: np.full_like(margin, 0.5),
}
"""Probability that a label of a margin is right."""

PLANTED = (
    ("step", 1_000, 0.75), ("step", 4_000, 0.75), ("step", 4_000, 0.6), ("step", 40_000, 0.6), ("slope", 4_000, 0.75),
    ("slope", 40_000, 0.75), ("right", 600, 0.75), ("right", 4_000, 0.75), ("right", 40_000, 0.75),
    ("coin flips", 4_000, 0.75),
)  # fmt: skip
TRUST = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8)
FLIPPED_UNDER = (0.25, 0.5, 1.0, 2.0)
FLIP_SEEDS = 50


def found(margin: np.ndarray, signals: Mapping[str, np.ndarray], **settings: float) -> AgreementCurve | None:
    """Return the curve, None where `auto` refuses."""
    try:
        return auto_threshold(margin, signals, AutoSettings(**settings))  # type: ignore[arg-type]
    except InputError:
        return None


def planted(labels: str, pairs: int, accuracy: float, seeds: int) -> dict[str, Any]:
    """Find the threshold of margins from 0 to 4 by one signal that prefers the better answer with a probability."""
    curves = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        margin = rng.uniform(0, 4, pairs)
        right = rng.random(pairs) < LABELS[labels](margin)
        agrees = right == (rng.random(pairs) < accuracy)
        curves.append(found(margin, {"signal": np.where(agrees, 1.0, -1.0)}))
    thresholds = [curve.threshold for curve in curves if curve is not None and curve.threshold is not None]
    return {
        "labels": labels, "pairs": pairs, "accuracy": accuracy, "seeds": seeds, "found": len(thresholds) / seeds,
        "refused": sum(curve is None for curve in curves) / seeds,
        "threshold": np.quantile(thresholds, [0.05, 0.5, 0.95]).tolist() if thresholds else None,
    }  # fmt: skip


def writer_margin(table: pa.Table) -> np.ndarray:
    """Return the mean score of the model that wrote the chosen answer over all other prompts, minus the other's."""
    prompts = table["prompt_id"].to_pylist()
    answers = {side: list(zip(table[f"{side}_model"].to_pylist(), prompts, strict=True)) for side in SIDES}
    # A model has one answer to a prompt, which may be in several pairs.
    scores = {
        answer: value
        for side in SIDES
        for answer, value in zip(answers[side], table[f"score_{side}"].to_pylist(), strict=True)
    }
    total, count = defaultdict(float), Counter[str]()
    for (writer, _), value in scores.items():
        total[writer] += value
        count[writer] += 1

    def elsewhere(answer: tuple[str, str]) -> float:
        return (total[answer[0]] - scores[answer]) / (count[answer[0]] - 1)

    chosen, rejected = (np.array([elsewhere(answer) for answer in answers[side]]) for side in SIDES)
    return np.asarray(chosen - rejected)


def relevance_margin(pairs: Dataset, model: str) -> np.ndarray:
    """Return the cosine of chosen answer and prompt minus that of the rejected answer."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model)
    prompts = [" ".join(turn["content"] for turn in prompt) for prompt in pairs["prompt"]]
    texts = [prompts, *zip(*answer_texts(pairs), strict=True)]
    prompt, chosen, rejected = (encoder.encode(list(side), normalize_embeddings=True) for side in texts)
    return np.asarray(((chosen - rejected) * prompt).sum(1), dtype=np.float64)


def share(agrees: np.ndarray) -> list[float]:
    """Return how many of these pairs a signal agrees with, and its exact 95 % interval."""
    low, high = share_bounds(float(agrees.sum()), len(agrees), 0.025)
    return [float(agrees.mean()), float(low), float(high), len(agrees)]


def on_real_pairs(path: str, embedding: str | None, scored: str | None) -> dict[str, Any]:
    """Compare `auto` with a margin of 0.5 and the hardest tenth, and plant coin flips in the same pairs."""
    table = pq.read_table(path)
    pairs = load_pairs(path)
    assert len(table) == len(pairs), "a pair was dropped, and rows no longer match"
    pairs = score(pairs, ["rating", "length_gap"], length_gap={"signed": True})
    margin = float_column(pairs, "margin/rating")
    signals = {"writer": writer_margin(table), **find_signals(pairs, "rating", None)}
    if embedding:
        signals["relevance"] = relevance_margin(pairs, embedding)
    agrees = {name: (np.sign(values) + 1) / 2 for name, values in signals.items()}
    curve = found(margin, signals)
    assert curve is not None
    save_agreement_figure(asdict(curve), FIGURE)
    rank = np.argsort(np.argsort(margin, kind="stable"))
    easiest = sum(item.pairs for item in _easiest(curve))
    parts = {
        "hardest 10 %": rank < len(margin) // 10,
        "margin under 0.5": margin < 0.5,
        "all": np.ones(len(margin), dtype=bool),
        "easiest third": rank >= len(margin) - easiest,
    }
    record: dict[str, Any] = {
        "pairs": len(pairs),
        "agreement": {name: {part: share(a[mask]) for part, mask in parts.items()} for name, a in agrees.items()},
        "weights": {signal.metric: signal.weight for signal in curve.signals},
        "auto": {
            "attained": curve.attained,
            "required": curve.required,
            "threshold": curve.threshold,
            "hardest_bin": asdict(curve.bins[0]),
        },
        "scored": {},
        "trust": {},
        "flipped": {},
    }
    others = find_signals(load_pairs(scored), "rating", None) if scored else {}
    for name, values in others.items():
        record["scored"][name] = share((np.sign(values) + 1) / 2)
    for trust in TRUST:
        other = found(margin, signals, trust=trust)
        assert other is not None
        under = margin < other.threshold if other.threshold is not None else np.zeros(len(margin), dtype=bool)
        record["trust"][trust] = {
            "required": other.required, "threshold": other.threshold, "routed": other.routed,
            "writer": float(agrees["writer"][under].mean()) if under.any() else None, "reason": other.reason,
        }  # fmt: skip
    for limit in FLIPPED_UNDER:
        curves = []
        for seed in range(FLIP_SEEDS):
            turned = (margin < limit) & (np.random.default_rng(seed).random(len(margin)) < 0.5)
            # Exchanging the answers of a pair negates its signals.
            noisy = {name: np.where(turned, -values, values) for name, values in signals.items()}
            curves.append(found(margin, noisy))
        thresholds = [c.threshold for c in curves if c is not None and c.threshold is not None]
        routed = [c.routed for c in curves if c is not None and c.threshold is not None]
        record["flipped"][limit] = {
            "pairs": int((margin < limit).sum()), "found": len(thresholds) / FLIP_SEEDS,
            "threshold": float(np.median(thresholds)), "routed": float(np.median(routed)),
        }  # fmt: skip
    return record


def _easiest(curve: AgreementCurve) -> list[Any]:
    """The bins that `auto` takes for the easiest third; these pairs have no ties."""
    edges = np.concatenate([[0], np.cumsum([item.pairs for item in curve.bins])])
    return [item for item, start in zip(curve.bins, edges, strict=False) if start >= easiest_third(edges)]


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--embedding")
    parser.add_argument("--scored")
    parser.add_argument("--seeds", type=int, default=200)
    options = parser.parse_args()
    if options.data:
        record = on_real_pairs(options.data, options.embedding, options.scored)
        write_json(RESULTS / "threshold-real.json", {**conditions(), **record})
        for name, parts in record["agreement"].items():
            cells = (f"{part}: {100 * s[0]:.1f} % ({100 * s[1]:.1f} to {100 * s[2]:.1f}) of {s[3]}"
                     for part, s in parts.items())  # fmt: skip
            print(f"{name}: {'; '.join(cells)}; weight {record['weights'][name]:.2f}")
        print(f"auto: {record['auto']}")
        for table in ("scored", "trust", "flipped"):
            for value, row in record[table].items():
                print(f"{table} {value}: {row}")
        return
    rows = [planted(*case, options.seeds) for case in PLANTED]
    write_json(RESULTS / "threshold.json", {**conditions(), "planted": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
