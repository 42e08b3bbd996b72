"""Turn `results/*.json` into the tables and the figure of docs/speed.md.

python benchmarks/report.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
LABELS = {
    "pairs": "pairs per step",
    "length": "length of texts (1: as in the caption)",
    "vocabulary": "vocabulary",
    "sft": "share of pairs routed to SFT",
}


def read(name: str) -> dict[str, Any]:
    """Read a result file."""
    content: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return content


def speed_table(record: dict[str, Any]) -> str:
    """Markdown: median seconds per pair, speed and memory against the first arm."""
    lines = [
        "| | seconds a pair | pairs a second against TRL | peak memory | against TRL |",
        "| --- | --- | --- | --- | --- |",
    ]
    first, *_ = record["median"]
    for name, median in record["median"].items():
        memory, digits = record["peak_bytes"], 2 if median >= 0.1 else 4
        lines.append(
            f"| {name} | {median:.{digits}f} ({min(record['seconds_per_pair'][name]):.{digits}f} to "
            f"{max(record['seconds_per_pair'][name]):.{digits}f}) | {record['median'][first] / median:.2f} x | "
            f"{memory[name] / 1e9:.2f} GB | {memory[name] / memory[first]:.2f} x |"
        )
    return "\n".join(lines)


def scaling_figure(record: dict[str, Any], path: Path) -> None:
    """Draw seconds per step against what changes, packed and padded."""
    figure, axes = plt.subplots(1, len(LABELS), figsize=(13, 3.2), layout="constrained")
    for axis, (changed, label) in zip(axes, LABELS.items(), strict=True):
        for engine, color in (("padded", "#b0632d"), ("packed", "#2d6fb0")):
            points = [r for r in record["results"] if r["changed"] == changed and r["engine"] == engine]
            axis.plot([r[changed] for r in points], [r["seconds"] for r in points], "o-", color=color, label=engine)
        if changed in ("pairs", "length", "vocabulary"):
            axis.set_xscale("log", base=2)
            axis.set_xticks([r[changed] for r in points], [f"{r[changed]:,g}" for r in points])
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds per step")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the tables, draw the figure."""
    for path in sorted(RESULTS.glob("speed-*.json")):
        record = read(path.name)
        print(f"{record['model']}, {record['hardware']}, {record['threads']} threads, {record['date']}\n")
        print(speed_table(record) + "\n")
    share = read("share.json")
    print(
        {key: value for key, value in share.items() if key.startswith("share") or key in ("seconds", "products_alone")}
    )
    scaling_figure(read("scaling.json"), DOCS / "images" / "scaling.png")


if __name__ == "__main__":
    main()
