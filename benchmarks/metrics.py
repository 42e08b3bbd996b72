"""How difficulty metrics rank real pairs: rank correlations, and how often their sign finds the better answer.

    python benchmarks/metrics.py PAIRS.parquet [--pairs 300] [--embedding MODEL]

PAIRS has prompt, chosen, rejected as messages, and scores of a judge, which are the labels. The model is
SmolLM2-135M-Instruct. Writes results/metrics.json and prints the tables of docs/metrics.md.
"""

from __future__ import annotations

import argparse

import numpy as np
from arms import RESULTS, conditions
from scipy.stats import binomtest, spearmanr

from mixdpo import load_pairs, score
from mixdpo.data import float_column
from mixdpo.demo.model import smollm2_folder
from mixdpo.difficulty.threshold import NOT_NEGATED, takes_sides
from mixdpo.io import write_json


def main() -> None:
    """Score, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--embedding")
    options = parser.parse_args()
    model = str(smollm2_folder())
    likelihood = ["nll_gap", "reference_logp", "ches", "ches_length_normalised"]
    parameters = {name: {"model": model} for name in likelihood} | {"length_gap": {"signed": True}}
    metrics = ["rating", "length_gap", *likelihood]
    if options.embedding:
        metrics.append("embedding")
        parameters["embedding"] = {"model": options.embedding}
    pairs = score(load_pairs(options.data, max_pairs=options.pairs), [*metrics, "combine"], **parameters)
    metrics.append("combine")
    margins = {name: float_column(pairs, f"margin/{name}") for name in metrics}

    rating = margins["rating"]
    edges = np.quantile(rating, [0, 1 / 3, 2 / 3, 1])
    bins = {"all": np.ones(len(rating), dtype=bool)}
    for name, low, high in zip(("hard third", "middle third", "easy third"), edges, edges[1:], strict=False):
        bins[name] = (rating >= low) & ((rating < high) | (high == edges[-1]))
    record = {
        **conditions(),
        "pairs": len(pairs),
        "rank_correlation": {a: {b: float(spearmanr(margins[a], margins[b])[0]) for b in metrics} for a in metrics},
        "accuracy": {},
    }
    for name in metrics:
        # The sign of others says nothing about which answer is the better one.
        if name == "rating" or name in NOT_NEGATED or not takes_sides(margins[name]):
            continue
        record["accuracy"][name] = {}
        for where, mask in bins.items():
            right, count = int((margins[name][mask] > 0).sum()), int(mask.sum())
            interval = binomtest(right, count).proportion_ci(method="wilson")
            record["accuracy"][name][where] = [right / count, interval.low, interval.high, count]
    write_json(RESULTS / "metrics.json", record)

    print("| | " + " | ".join(metrics) + " |\n|" + " --- |" * (len(metrics) + 1))
    for a in metrics:
        print(f"| {a} | " + " | ".join(f"{record['rank_correlation'][a][b]:.2f}" for b in metrics) + " |")
    print("\n| | " + " | ".join(bins) + " |\n|" + " --- |" * (len(bins) + 1))
    for name, values in record["accuracy"].items():
        cells = [f"{100 * v[0]:.1f} % ({100 * v[1]:.1f} to {100 * v[2]:.1f})" for v in values.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
