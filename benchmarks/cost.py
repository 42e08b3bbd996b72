"""What DPO of an 8B and a 1.2B Llama should take on an H200, by arithmetic: no GPU has run any of it.

    python benchmarks/cost.py

A run's time is taken to be the sum of two things that do not overlap. Matrix products run at `PRODUCTS` operations
a second: two for every weight and token, once for the reference, for training forward and twice for gradients, once
more with activation checkpointing. Everything else in a layer (norms, rotary embeddings, activations, copies) moves
bytes at `BANDWIDTH`. Those bytes a token and layer were counted on a stand-in for the CUDA runtime, which runs no
kernels; those of Liger's layers are an estimate. FlexAttention is taken to run at less than half the speed of
products, because it computes whole blocks; TRL's attention is taken to cost nothing. Left out: what the host adds
where it is slower than the GPU, and communication between GPUs, which is taken to be hidden behind the computation.

Lengths are log-normal with UltraFeedback's means in tokens and a standard deviation of 0.8 of their logarithm. TRL
pads every pair's two sequences to the longest of 8 pairs, drawn at random or, batched by length, sorted within 50
batches as transformers' sampler does; its reference pass has batches of 16, or the data sorted. mixdpo computes each
token once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

PRODUCTS = 700e12  # operations a second, of 989e12 on the data sheet
BANDWIDTH = 4.0e12  # bytes a second, of 4.8e12
ATTENTION_SLOWDOWN = 2.2
MEAN_TOKENS = (156, 273, 228)  # prompt, chosen, rejected
LOG_DEVIATION = 0.8
MAX_LENGTH = 2048
PAIRS = 60_000
SFT_SHARE = 0.1
STEP_PAIRS = 20  # of 160 over 8 GPUs


@dataclass(frozen=True)
class Model:
    """Sizes of a Llama, and bytes in KiB that a token moves through a layer beside the products, there and back."""

    name: str
    projections: float
    layers: int
    head: float
    attention: float  # operations a token, forward
    plain: float
    packed: float
    liger: float  # of either


@dataclass(frozen=True)
class Work:
    """What a pair asks for: tokens through the layers and through the head, and the layers' bytes as above."""

    training: float
    reference: float
    scored: float
    layer_bytes: float
    packed: bool = True


MODELS = (
    Model("8B", 6.98e9, 32, 128_256 * 4096, 0.25e9, plain=1790, packed=910, liger=560),
    Model("1.2B", 0.973e9, 16, 128_256 * 2048, 0.06e9, plain=960, packed=490, liger=300),
)


def lengths(correlation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of prompts, chosen and rejected answers; `correlation` is that of the two answers' logarithms."""
    z = np.random.default_rng(0).normal(size=(3, PAIRS))
    z[2] = correlation * z[1] + np.sqrt(1 - correlation**2) * z[2]
    mu = np.log(MEAN_TOKENS)[:, None] - LOG_DEVIATION**2 / 2
    prompt, *answers = np.maximum(1, np.exp(mu + LOG_DEVIATION * z).astype(int))
    prompt = np.minimum(prompt, MAX_LENGTH - 1)
    chosen, rejected = (np.minimum(answer, MAX_LENGTH - prompt) for answer in answers)
    return prompt, chosen, rejected


def padded(longest: np.ndarray, batch: int) -> float:
    """Tokens a pair of two padded rows, in batches of the order given; `longest` has each pair's longer row."""
    return 2 * longest[: len(longest) // batch * batch].reshape(-1, batch).max(1).mean()


def by_length(longest: np.ndarray, batch: int = 8) -> np.ndarray:
    """Order of transformers' `LengthGroupedSampler`: sorted within 50 batches."""
    groups = np.array_split(longest, len(longest) // (50 * batch))
    return np.concatenate([np.sort(group)[::-1] for group in groups])


def seconds(model: Model, work: Work, checkpointing: bool) -> float:
    """Seconds a pair."""
    again = 1 if checkpointing else 0
    has_reference = work.reference > 0
    layers = 2 * model.projections * ((3 + again) * work.training + work.reference)
    head = 2 * model.head * work.scored * (3 + has_reference)  # the logits that training made are kept
    attention = model.attention * ATTENTION_SLOWDOWN * ((3.5 + again) * work.training + work.reference)
    moved = model.layers * work.layer_bytes * 1024 * ((1 + 0.3 * again) * work.training + work.reference / 3)
    adam = 28 * (model.projections + model.head) / 8 / STEP_PAIRS  # bytes of weights, gradients and two states
    return (layers + head + attention * work.packed) / PRODUCTS + (moved + adam) / BANDWIDTH


def table(model: Model, correlation: float, checkpointing: bool) -> list[str]:
    """Rows of Markdown: seconds a pair, and how many times as fast as TRL at its best."""
    lengths_of = lengths(correlation)
    prompt, chosen, rejected = (float(tokens.mean()) for tokens in lengths_of)
    once, scored = prompt + chosen + rejected, chosen + rejected
    longest = lengths_of[0] + np.maximum(*lengths_of[1:])
    random = Work(padded(longest, 8), padded(longest, 16), scored, model.plain, packed=False)
    grouped = replace(random, training=padded(by_length(longest), 8), reference=padded(np.sort(longest), 16))
    ours = Work(once, once, scored, model.packed)
    kernels = replace(ours, layer_bytes=model.liger)
    times = {
        "TRL": seconds(model, random, checkpointing),
        "TRL, batched by length": seconds(model, grouped, checkpointing),
        "TRL, batched by length, Liger": seconds(model, replace(grouped, layer_bytes=model.liger), checkpointing),
        "mixdpo": seconds(model, ours, checkpointing),
        "mixdpo, layer kernels": seconds(model, kernels, checkpointing),
    }
    sft = seconds(model, replace(kernels, training=prompt + chosen, reference=0.0, scored=chosen), checkpointing)
    mixed = (1 - SFT_SHARE) * times["mixdpo, layer kernels"] + SFT_SHARE * sft
    times[f"mixdpo, layer kernels, {SFT_SHARE:.0%} to SFT"] = mixed
    best = times["TRL, batched by length, Liger"]
    return [f"| {name} | {1e3 * time:.1f} ms | {best / time:.2f} x |" for name, time in times.items()]


def main() -> None:
    """Print a table for every case."""
    for model, checkpointing, correlation in product(MODELS, (False, True), (0.0, 0.6)):
        memory = "with" if checkpointing else "without"
        print(f"\n{model.name}, {memory} activation checkpointing, answers' lengths correlated by {correlation}\n")
        print("| | a pair | against TRL by length with Liger |\n| --- | ---: | ---: |")
        print("\n".join(table(model, correlation, checkpointing)))


if __name__ == "__main__":
    main()
