"""What it costs to know which tokens are trained: tokenising with masks against the template's own ids alone.

    python benchmarks/tokenise.py [--model FOLDER] [--repeats 7]

The peer renders every pair's prompt and both conversations by `apply_chat_template(tokenize=True)`, in one batch each,
and finds the common beginning: what ids without masks need. Both run in turn in one process, of made-up pairs of
about UltraFeedback's lengths with answers of one turn and of three. Times are medians.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
from typing import Any

from arms import RESULTS, conditions, now
from transformers import AutoTokenizer

from mixdpo.common.files import write_json
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.render import ChatRenderer
from mixdpo.data.token_ids import shared_length
from mixdpo.data.tokenize import _tokenize_batch

WORDS = re.findall("[a-z]+", "the river flows through a town and its water is cold in spring and people drink")
PAIRS = 200


def made_up(turns: int) -> dict[str, list[Any]]:
    """Columns of pairs whose answers have `turns` assistant turns."""
    draw = random.Random(0)

    def said(role: str, words: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(draw.choice(WORDS) for _ in range(words))}

    def answer() -> list[dict[str, str]]:
        messages = [said("assistant", 200 // turns)]
        for _ in range(turns - 1):
            messages += [said("user", 30), said("assistant", 200 // turns)]
        return messages

    return {
        "prompt": [[said("user", 110)] for _ in range(PAIRS)],
        "chosen": [answer() for _ in range(PAIRS)],
        "rejected": [answer() for _ in range(PAIRS)],
        "pair_id": [str(i) for i in range(PAIRS)],
    }


def plain(tokenizer: Any, batch: dict[str, list[Any]]) -> None:
    """Token ids alone."""

    def ids(conversations: list[Any], answer_next: bool = False) -> Any:
        return tokenizer.apply_chat_template(
            conversations, add_generation_prompt=answer_next, tokenize=True, return_dict=False
        )

    alone = ids(batch["prompt"], answer_next=True)
    chosen = ids([p + c for p, c in zip(batch["prompt"], batch["chosen"], strict=True)])
    rejected = ids([p + r for p, r in zip(batch["prompt"], batch["rejected"], strict=True)])
    for sides in zip(alone, chosen, rejected, strict=True):
        shared_length(*sides)


def main() -> None:
    """Run and write `results/tokenise.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    settings = TokenSettings(max_length=None)
    renderer = ChatRenderer(tokenizer, settings)
    result: dict[str, Any] = {"conditions": conditions(), "pairs": PAIRS, "repeats": arguments.repeats}
    for turns in (1, 3):
        batch = made_up(turns)
        times: dict[str, list[float]] = {"plain": [], "masks": []}
        for repeat in range(arguments.repeats + 1):
            start = now()
            plain(tokenizer, batch)
            middle = now()
            _tokenize_batch(batch, range(PAIRS), renderer=renderer, settings=settings, bos=tokenizer.bos_token_id)
            end = now()
            if repeat:  # the first warms up
                times["plain"].append((middle - start) / PAIRS)
                times["masks"].append((end - middle) / PAIRS)
        ratios = [m / p for m, p in zip(times["masks"], times["plain"], strict=True)]
        result[f"{turns} turns"] = {
            **{f"{arm}_ms_per_pair": round(statistics.median(t) * 1e3, 3) for arm, t in times.items()},
            "ratio": round(statistics.median(ratios), 3),
        }
        print(turns, result[f"{turns} turns"])
    write_json(RESULTS / "tokenise.json", result)


if __name__ == "__main__":
    main()
