"""MixDPO in one flat file: the whole method without this package, its trainer or any abstraction.

    python examples/mixdpo_loop.py MODEL PAIRS.parquet

PAIRS has the columns prompt, chosen, rejected (lists of messages) and score_chosen, score_rejected. Everything is one
pair at a time and in float32: slow, and short enough to check line by line. `mixdpo train` gives the same losses.
"""

import sys
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

Pair = dict[str, Any]
Tokens = tuple[list[int], list[int], list[int]]  # prompt, chosen, rejected

HARDEST = 0.1  # share of pairs, smallest margins, that are trained by SFT on the chosen answer
BETA = 0.1
LEARNING_RATE = 1e-6
BATCH = 8  # pairs per optimizer step


def make_plan(pairs: list[Pair]) -> list[tuple[Pair, str]]:
    """Order pairs from easy (large margin) to hard and route the hardest to SFT."""
    ordered = sorted(pairs, key=lambda pair: pair["score_chosen"] - pair["score_rejected"], reverse=True)
    easy = len(ordered) - int(HARDEST * len(ordered) + 0.5)
    return [(pair, "preference" if place < easy else "sft") for place, pair in enumerate(ordered)]


def tokenize(tokenizer: Any, pair: Pair) -> Tokens:
    """Return prompt, chosen and rejected ids; prompt + completion is what the chat template gives for the whole."""

    def render(messages: list[dict[str, str]], **kwargs: bool) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(messages, return_dict=False, **kwargs)
        return ids

    prompt = render(pair["prompt"], add_generation_prompt=True)
    chosen, rejected = (render(pair["prompt"] + pair[side]) for side in ("chosen", "rejected"))
    while not chosen[: len(prompt)] == rejected[: len(prompt)] == prompt:
        prompt = prompt[:-1]  # tokens merged across the boundary belong to the completions
    return prompt, chosen[len(prompt) :], rejected[len(prompt) :]


def logprob(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Return log pi(completion | prompt), summed over the completion's tokens."""
    ids = torch.tensor([prompt + completion], device=model.device)
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]  # the logits at t predict the token at t + 1
    taken: torch.Tensor = logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
    return taken.sum()


def pair_loss(model: Any, route: str, tokens: Tokens, reference: tuple[float, float] | None) -> torch.Tensor:
    """Return DPO's loss for an easy pair, and the token mean of the chosen answer's NLL for a hard one."""
    prompt, chosen, rejected = tokens
    if route == "sft":
        return -logprob(model, prompt, chosen) / len(chosen)
    assert reference is not None
    ref_chosen, ref_rejected = reference
    h = (logprob(model, prompt, chosen) - ref_chosen) - (logprob(model, prompt, rejected) - ref_rejected)
    return -logsigmoid(BETA * h)


def train(model: Any, tokenizer: Any, pairs: list[Pair]) -> list[float]:
    """Train one epoch and return the mean loss of every step."""
    plan = make_plan(pairs)
    tokens = [tokenize(tokenizer, pair) for pair, _ in plan]
    model.eval()  # no dropout, neither in the policy nor in the reference
    with torch.no_grad():  # the reference is the model before its first step, needed by the preference loss alone
        reference = [
            (logprob(model, p, c).item(), logprob(model, p, r).item()) if route == "preference" else None
            for (p, c, r), (_, route) in zip(tokens, plan, strict=True)
        ]
    steps = -(-len(plan) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, -(-steps // 10), steps)
    losses = []
    for start in range(0, len(plan), BATCH):
        step = range(start, min(start + BATCH, len(plan)))
        total = 0.0
        for i in step:
            # The loss of a step is the mean over its pairs.
            loss: Any = pair_loss(model, plan[i][1], tokens[i], reference[i]) / len(step)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
        routes = [plan[i][1] for i in step]
        print(f"step {len(losses)}/{steps}  loss {total:.4f}  SFT {routes.count('sft')}/{len(routes)}")
    return losses


if __name__ == "__main__":
    folder, data = sys.argv[1:]
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    policy_tokenizer = AutoTokenizer.from_pretrained(folder)
    train(policy, policy_tokenizer, pl.read_parquet(data).to_dicts())
    policy.save_pretrained(Path("mixdpo-loop"))
    policy_tokenizer.save_pretrained(Path("mixdpo-loop"))
