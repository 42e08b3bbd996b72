"""Tokens written a second: mixdpo, llama.cpp's server, transformers; samples of a prompt against single answers.

    python benchmarks/generation.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf [--model FOLDER] [--repeats 5]

64 held-out prompts of the demo, 96 new tokens at most, greedy: mixdpo in bfloat16, transformers' own `generate` in
float32, both in batches of 32, and llama.cpp's server with the 4-bit weights, which mixdpo asks by 8 calls at a time.
Then 8 of the prompts with 8 samples each at temperature 0.8: with the prompt computed once, and as 64 answers that
know nothing of each other; once more with 500 tokens before each prompt. Tokens behind the end of an answer do not
count. Every arm once, then every arm again, after some tokens of each that do not count; medians. The result is
written after every run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import xllamacpp
from arms import DEVICE, RESULTS, conditions, now
from transformers import AutoModelForCausalLM

from mixdpo.common.files import write_json
from mixdpo.evaluation.held_out_prompts import read_held_out
from mixdpo.generation.chat_model import Completion, Request
from mixdpo.generation.endpoint import complete_all
from mixdpo.generation.generation_settings import EndpointSettings, SamplingSettings
from mixdpo.generation.local_generation import answer_rendered, pad_left, render_prompts, stop_token_ids
from mixdpo.models.loading import load_for_inference, load_tokenizer
from mixdpo.models.model_settings import ModelSettings

NEW_TOKENS = 96
ANSWERS = 64
SAMPLES = 8
SLOTS = 8
BATCH = 32
TEMPERATURE = 0.8
LONG = 500
WARM_UP = 4
Chat = list[dict[str, str]]
Arm = Callable[[int], int]
"""Writes answers of so many tokens at most, and returns how many they have."""


def mixdpo_arm(
    model: Any, tokenizer: Any, chats: list[Chat], temperature: float, new_tokens: int, *, once: bool = True
) -> int:
    """Answer by mixdpo; `once`: equal prompts that follow each other are computed once."""
    settings = SamplingSettings(max_new_tokens=new_tokens, temperature=temperature, batch_size=BATCH)
    rendered = render_prompts(tokenizer, chats)
    if once:
        return tokens(answer_rendered(model, tokenizer, rendered, settings))
    with patch("mixdpo.generation.decoding._prompts_once", lambda *arguments: None):
        return tokens(answer_rendered(model, tokenizer, rendered, settings))


def transformers_arm(model: Any, tokenizer: Any, chats: list[Chat], new_tokens: int) -> int:
    """Answer greedily by transformers' own `generate`, in batches of prompts of like length."""
    rendered = sorted(render_prompts(tokenizer, chats), key=len, reverse=True)
    stops = stop_token_ids(model, tokenizer)
    written = 0
    for begin in range(0, len(rendered), BATCH):
        ids, mask = (part.to(DEVICE) for part in pad_left(rendered[begin : begin + BATCH], tokenizer.pad_token_id))
        answers = model.generate(
            ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
        )[:, ids.shape[1] :]  # fmt: skip
        ended = torch.isin(answers, torch.tensor(stops, device=DEVICE)).cumsum(dim=1) > 0
        written += int((~ended).sum())
    return written


def server_arm(url: str, tokenizer: Any, chats: list[Chat], new_tokens: int) -> int:
    """Answer greedily by a server, as mixdpo calls one; nothing is known from the time before."""
    requests = [
        Request(messages=tuple((one["role"], one["content"]) for one in chat), max_tokens=new_tokens, temperature=0.0)
        for chat in chats
    ]
    settings = EndpointSettings(model="smollm2", base_url=f"{url}/v1", concurrency=SLOTS)
    with TemporaryDirectory() as folder:
        answers = complete_all(requests, settings, folder=Path(folder))
    assert not any(one.failure for one in answers)
    return sum(len(tokenizer.encode(one.text, add_special_tokens=False)) for one in answers)


def tokens(answers: list[Completion]) -> int:
    """Tokens of answers."""
    return sum(one.tokens_out for one in answers)


def start_server(gguf: Path) -> Any:
    """Start llama.cpp's server on a free port; it ends with its object."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_parallel, parameters.n_ctx, parameters.port = SLOTS, SLOTS * 1024, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
    parameters.verbosity = 0
    parameters.cache_ram_mib = 0  # or every time but the first would find its prompts there
    return xllamacpp.Server(parameters)


def with_text_before(chats: list[Chat], tokenizer: Any) -> list[Chat]:
    """Put other prompts before each, so that it has about `LONG` tokens more."""
    texts = [chat[-1]["content"] for chat in read_held_out("test").prompts]
    longer = []
    for place, chat in enumerate(chats):
        before = " ".join(texts[place:] + texts[:place])
        cut = tokenizer.decode(tokenizer.encode(before, add_special_tokens=False)[:LONG])
        longer.append([{"role": "user", "content": f"{cut}\n\n{chat[-1]['content']}"}])
    return longer


def main() -> None:
    """Run and write `results/generation.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    settings = ModelSettings(name_or_path=arguments.model, dtype="bfloat16")
    tokenizer, model = load_tokenizer(settings), load_for_inference(settings)
    plain = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).to(DEVICE).eval()
    server = start_server(arguments.gguf)

    chats = read_held_out("test", limit=ANSWERS).prompts
    short = [chat for chat in chats[: ANSWERS // SAMPLES] for _ in range(SAMPLES)]
    long = [chat for chat in with_text_before(chats[: ANSWERS // SAMPLES], tokenizer) for _ in range(SAMPLES)]
    mixdpo = partial(mixdpo_arm, model, tokenizer)
    arms: dict[str, Arm] = {
        "mixdpo, bfloat16": partial(mixdpo, chats, 0.0),
        "llama.cpp's server, 8 slots, 4-bit weights": partial(server_arm, server.listening_address, tokenizer, chats),
        "transformers, float32": partial(transformers_arm, plain, tokenizer, chats),
    }
    for longer, asked in (("", short), (f", {LONG} tokens before each", long)):
        arms[f"mixdpo, 8 prompts x 8 samples{longer}"] = partial(mixdpo, asked, TEMPERATURE)
        arms[f"mixdpo, the same as 64 prompts{longer}"] = partial(mixdpo, asked, TEMPERATURE, once=False)
    for arm in arms.values():
        arm(WARM_UP)
    runs: dict[str, list[tuple[int, float]]] = {name: [] for name in arms}
    given = {**conditions(), "xllamacpp": version("xllamacpp")}
    for _, (name, arm) in product(range(arguments.repeats), arms.items()):
        begin = now()
        written = arm(NEW_TOKENS)
        runs[name].append((written, now() - begin))
        print(f"{name}: {written} tokens in {runs[name][-1][1]:.1f} s", flush=True)
        write_json(
            RESULTS / "generation.json", {"conditions": given, "arms": {n: figures(own) for n, own in runs.items()}}
        )


def figures(runs: list[tuple[int, float]]) -> dict[str, Any]:
    """Tokens and seconds of every run, and the median of tokens a second."""
    return {
        "tokens": [written for written, _ in runs],
        "seconds": [round(seconds, 2) for _, seconds in runs],
        "tokens_a_second": round(statistics.median(n / seconds for n, seconds in runs), 1) if runs else None,
    }


if __name__ == "__main__":
    main()
