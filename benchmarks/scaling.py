"""What a training step costs as pairs, length, vocabulary and the share of SFT grow; packed and padded rows.

    python benchmarks/scaling.py [--repeats 5]

Forward and backward of a random Llama on made-up token ids. On a CPU it has 6 layers of width 512 in float32 with
bfloat16 autocast. A GPU computes those faster than the host starts its kernels, so there it has 4 layers as wide as
an 8B model's, in bfloat16. One thing changes at a time from 4 pairs, prompt 160 and completions 280 and 230 tokens,
vocabulary 32,000, no SFT.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from arms import DEVICE, RESULTS, conditions, now
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from mixdpo.common.files import write_json
from mixdpo.losses import LossSettings
from mixdpo.models.engine import pack_rows, pad_rows, prepare_packing, to_device
from mixdpo.training.batch import PairItem, collate_pairs
from mixdpo.training.step import StepSettings, pair_losses

BASE = {"pairs": 4, "length": 1.0, "vocabulary": 32_000, "sft": 0.0}
CHANGES: dict[str, list[Any]] = {
    "pairs": [1, 2, 4, 8],
    "length": [0.25, 0.5, 1.0, 2.0],
    "vocabulary": [8_000, 32_000, 128_000],
    "sft": [0.0, 0.5, 1.0],
}
SETTINGS = StepSettings(
    loss_names=["sigmoid"],
    loss_weights=[1.0],
    loss_settings=LossSettings(beta=0.1, label_smoothing=0.0),
    sft_weight=1.0,
)


def made_up(pairs: int, length: float, vocabulary: int, sft: float) -> list[PairItem]:
    """Pairs of about UltraFeedback's mean lengths times `length`, a little different from each other."""
    generator = torch.Generator().manual_seed(0)

    def ids(mean: int) -> list[int]:
        tokens = int(mean * length * (0.6 + 0.8 * torch.rand((), generator=generator)))
        return torch.randint(3, vocabulary, (max(tokens, 1),), generator=generator).tolist()

    return [
        PairItem(
            row=b, prompt_ids=ids(160), chosen_ids=ids(280), rejected_ids=None if b < sft * pairs else ids(230),
            preference=b >= sft * pairs, hard=False, sft_chosen=float(b < sft * pairs), sft_rejected=0.0, bucket=0,
            margin=1.0, weight=1.0, ref_chosen=-300.0, ref_rejected=-300.0,
        )
        for b in range(pairs)
    ]  # fmt: skip


SIZES = {
    "cpu": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8,
            "num_key_value_heads": 4},
    "cuda": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 4, "num_attention_heads": 32,
             "num_key_value_heads": 8, "dtype": torch.bfloat16},
}  # fmt: skip


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """A random Llama on the device."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=8192, **SIZES[DEVICE.type])
    with DEVICE:
        return AutoModelForCausalLM.from_config(config).train()


def step_seconds(engine: str, items: list[PairItem], vocabulary: int, repeats: int) -> float:
    """Median seconds of a step after one to warm up."""
    model = make_model(vocabulary)
    lay_out: Callable[..., Any] = partial(pad_rows, pad_token_id=0)
    if engine == "packed":
        assert prepare_packing(model, on_gpu=DEVICE.type == "cuda") is None
        lay_out = pack_rows
    times = []
    for _ in range(repeats + 1):
        begin = now()
        batch = to_device(collate_pairs(items, lay_out), DEVICE)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            losses = pair_losses(model, batch, SETTINGS).losses
        losses.mean().backward()
        model.zero_grad()
        times.append(now() - begin)
    return statistics.median(times[1:])


def main() -> None:
    """Run and write `scaling.json`, on a GPU `scaling-gpu.json`, after every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args()
    name = "scaling.json" if DEVICE.type == "cpu" else "scaling-gpu.json"
    results = []
    for changed, values in CHANGES.items():
        for value, engine in product(values, ("padded", "packed")):
            case = BASE | {changed: value}
            seconds = step_seconds(engine, made_up(**case), int(case["vocabulary"]), options.repeats)
            results.append({"changed": changed, **case, "engine": engine, "seconds": seconds})
            print(results[-1], flush=True)
            write_json(options.output / name, {**conditions(), "results": results})


if __name__ == "__main__":
    main()
