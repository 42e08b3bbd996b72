"""Where a run's time goes: what the needed matrix products alone would take, the rest of the model, and outside it.

    python benchmarks/share.py PAIRS.parquet [--pairs 16] [--repeats 5]

The needed products of a run of DPO: every projection of the model over each pair's distinct tokens, and the head over
the completions' tokens; once for the reference, and three times (forward, two gradients) for training. They are timed
by themselves in bfloat16 at the run's own shapes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from arms import DEVICE, RESULTS, conditions, mixdpo_arm, now, smollm2
from torch import nn

from mixdpo import MixDPOTrainer
from mixdpo.common.files import write_json


def seconds(run: Callable[[], Any], repeats: int = 7) -> float:
    """Median time of a call, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        begin = now()
        run()
        times.append(now() - begin)
    return statistics.median(times)


def products(tokens: int, inputs: int, outputs: int, backward: bool) -> float:
    """Seconds of a projection's products: forward, and both gradients if wanted."""
    x, g, w = (
        torch.randn(shape, device=DEVICE).bfloat16()
        for shape in ((tokens, inputs), (tokens, outputs), (outputs, inputs))
    )
    total = seconds(lambda: x @ w.t())
    return total + seconds(lambda: g @ w) + seconds(lambda: g.t() @ x) if backward else total


def needed(model: nn.Module, row_tokens: int, scored: int) -> dict[str, float]:
    """Seconds of the needed products of one micro-batch, without and with gradients."""
    shapes: dict[tuple[int, int, int], int] = {}
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            key = (scored if module is head else row_tokens, module.in_features, module.out_features)
            shapes[key] = shapes.get(key, 0) + 1
    return {
        name: sum(count * products(*shape, backward) for shape, count in shapes.items())
        for name, backward in (("reference", False), ("training", True))
    }


def timed(owner: type, method: str, spent: dict[str, float]) -> None:
    """Add up the time that calls of a method take."""
    plain = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        begin = now()
        try:
            return plain(*args, **kwargs)
        finally:
            spent[method] = spent.get(method, 0.0) + now() - begin

    setattr(owner, method, wrapped)


def main() -> None:
    """Run and write `results/share.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    setting = smollm2(options.data, options.pairs)
    spent: dict[str, float] = {}
    lengths: list[tuple[int, int]] = []
    collate = MixDPOTrainer.compute_loss

    def noting(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        rows = inputs["rows"]
        lengths.append((rows["input_ids"].shape[1], len(rows["target"])))
        return collate(self, model, inputs, *args, **kwargs)

    MixDPOTrainer.compute_loss = noting  # type: ignore[method-assign]
    for owner, method in (
        (MixDPOTrainer, "training_step"),
        (MixDPOTrainer, "_fill_reference"),
        (torch.optim.AdamW, "step"),
    ):
        timed(owner, method, spent)
    runs = []
    for _ in range(options.repeats):
        spent.clear()
        lengths.clear()
        total = mixdpo_arm(setting)
        runs.append({"total": total, **spent})
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    model = setting.make_model()
    alone: dict[str, float] = {"reference": 0.0, "training": 0.0}
    for row_tokens, scored in lengths:
        for name, value in needed(model, row_tokens, scored).items():
            alone[name] += value
    inside = median["training_step"] + median["_fill_reference"] + median["step"]
    record = {
        **conditions(),
        "pairs": len(setting.pairs),
        "micro_batches": lengths,
        "seconds": median,
        "products_alone": alone,
        "share_of_products_in_run": sum(alone.values()) / median["total"],
        "share_of_products_in_model": sum(alone.values()) / (median["training_step"] + median["_fill_reference"]),
        "share_outside_model_and_optimizer": 1 - inside / median["total"],
    }
    write_json(RESULTS / "share.json", record)
    print(
        {
            key: value
            for key, value in record.items()
            if key.startswith("share") or key in ("seconds", "products_alone")
        }
    )


if __name__ == "__main__":
    main()
