"""What the benchmarks run: TRL's DPO and plans of this package, on the same model, pairs, loss and precision."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from mixdpo import MixDPOConfig, MixDPOTrainer, load_pairs, make_plan, score
from mixdpo.data.arrays import token_counts, trained_counts
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.tokenize import tokens_of
from mixdpo.study.demo.smollm2 import smollm2_folder

RESULTS = Path(__file__).parent / "results"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LIGER = DEVICE.type == "cuda" and find_spec("liger_kernel") is not None

# UltraFeedback's mean lengths in tokens and about its long tail: the standard deviation of a length's logarithm.
MEAN_TOKENS = {"prompt": 160, "chosen": 280, "rejected": 230}
LOG_DEVIATION = 0.8
# One token each, with the space before it.
WORDS = ("the", "of", "and", "to", "in", "that", "is", "was", "for", "with", "as", "on", "by", "at", "from", "this")
# Of a tokenizer whose other tokens are words.
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
# Dense bfloat16 operations per second, from the makers' data sheets; the first name that fits counts.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Setting:
    """Model, pairs and batch of a benchmark; with `peft` only its adapters are trained."""

    name: str
    tokenizer: Any
    pairs: Dataset
    config: PretrainedConfig
    make_model: Callable[[], Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    peft: LoraConfig | None = None

    def shared(self, output: str) -> dict[str, Any]:
        """Arguments that both trainers get."""
        return {
            "output_dir": output,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "num_train_epochs": 1,
            "learning_rate": 1e-6,
            "logging_steps": 1000,
            "save_strategy": "no",
            "bf16": True,
            "use_cpu": DEVICE.type == "cpu",
            "disable_tqdm": True,
            "report_to": "none",
            "beta": 0.1,
            "max_length": 1024,
            **self.arguments,
        }


def now() -> float:
    """Seconds on a clock, read when the device has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of these words, one token each, with a chat template. Nothing of it is downloaded."""
    tokens = (*SPECIAL_TOKENS, *words)
    tokenizer = Tokenizer(models.WordLevel(dict(zip(tokens, range(len(tokens)), strict=True)), unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    padding, end, *roles = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=padding, eos_token=end, additional_special_tokens=roles
    )
    fast.chat_template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] + ' <|end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    return fast


def made_up_pairs(pairs: int, words: Sequence[str], seed: int = 0) -> Dataset:
    """Pairs of texts made up of `words`, one token each, with UltraFeedback's lengths, and scores."""
    rng = np.random.default_rng(seed)

    def message(role: str, side: str) -> list[dict[str, str]]:
        # The mean of a log-normal distribution is exp(mu + sigma^2 / 2).
        mu = np.log(MEAN_TOKENS[side]) - LOG_DEVIATION**2 / 2
        tokens = max(1, int(rng.lognormal(mu, LOG_DEVIATION)))
        return [{"role": role, "content": " ".join(words[i] for i in rng.integers(len(words), size=tokens))}]

    rows = [
        {
            "prompt": message("user", "prompt"),
            "chosen": message("assistant", "chosen"),
            "rejected": message("assistant", "rejected"),
            "score_chosen": float(rng.exponential()),
            "score_rejected": 0.0,
        }
        for _ in range(pairs)
    ]
    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_list(rows).to_parquet(f"{folder}/pairs.parquet")
        return load_pairs(f"{folder}/pairs.parquet")


def read_pairs(data: str | None, pairs: int, words: Sequence[str] = WORDS) -> Dataset:
    """The first pairs of a file drawn by load_pairs, or made-up ones, with margins."""
    return score(load_pairs(data, max_pairs=pairs) if data else made_up_pairs(pairs, words))


def needed_flops(setting: Setting) -> float:
    """Floating-point operations that DPO on all pairs cannot do without, reference pass included.

    Two per weight and token in every projection over each pair's distinct tokens and in the head over the trained
    tokens: for the reference once, for training forward and two gradients, of which adapters need one. Attention's
    own are left out, and those of the adapters.
    """
    max_length = setting.arguments.get("max_length", 1024)
    tokens, _ = tokens_of(setting.pairs, setting.tokenizer, TokenSettings(max_length=max_length))
    distinct = int(token_counts(tokens, ("prompt", "chosen", "rejected")).sum())
    scored = int(trained_counts(tokens).sum())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(setting.config)
    head = model.get_output_embeddings()
    projections = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    passes = 4 if setting.peft is None else 3
    return passes * 2 * (projections * distinct + head.weight.numel() * scored)


def peak_flops() -> float | None:
    """Peak of the device in bfloat16 operations per second, None where it is not known."""
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else ""
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


def smollm2(data: str | None, pairs: int) -> Setting:
    """SmolLM2-135M-Instruct in float32 with bfloat16 autocast, on the first pairs of a file drawn by load_pairs."""
    folder = smollm2_folder()
    return Setting(
        name="SmolLM2-135M-Instruct",
        tokenizer=AutoTokenizer.from_pretrained(folder),
        pairs=read_pairs(data, pairs),
        config=AutoConfig.from_pretrained(folder),
        make_model=lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    )


def random_llama(name: str, data: str | None, pairs: int, **sizes: Any) -> Setting:
    """A random Llama with 128k tokens of vocabulary in bfloat16, for a GPU."""
    config = LlamaConfig(
        vocab_size=128_256, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, **sizes
    )
    words = [f"w{number}" for number in range(config.vocab_size - len(SPECIAL_TOKENS))]

    def make_model() -> Any:
        with DEVICE:  # a billion random numbers take a CPU half a minute
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)

    return Setting(
        name=f"random Llama {name}",
        tokenizer=word_tokenizer(words),
        pairs=read_pairs(data, pairs, words),
        config=config,
        make_model=make_model,
        # TRL's longest batch of 256 made-up pairs has 27,000 tokens with padding. By arithmetic the 1.2B model needs
        # about 57 GB for it without activation checkpointing; 16 pairs would need twice that.
        arguments={"per_device_train_batch_size": 8, "per_device_eval_batch_size": 16, "max_length": 2048},
    )


def llama_1b(data: str | None, pairs: int) -> Setting:
    """All 1.2 billion parameters of a random Llama."""
    return random_llama("1.2B", data, pairs, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                        tie_word_embeddings=True)  # fmt: skip


def llama_8b_lora(data: str | None, pairs: int) -> Setting:
    """Adapters of a random Llama of 8 billion parameters, two pairs a step as of a card with little memory."""
    setting = random_llama("8B, LoRA", data, pairs, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32)
    small = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 4, "learning_rate": 5e-6}
    adapters = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return replace(setting, arguments={**setting.arguments, **small}, peft=adapters)


def trl_arm(setting: Setting, **changes: Any) -> float:
    """Seconds of TRL's DPO; its trainer precomputes the reference when it is made, so its making is timed."""
    model = setting.make_model()
    # A data set of a new fingerprint: the cache of reference values must not answer. It is asked for by a digest of
    # all weights, which is a matter of TRL's cache and not of its speed: up to 20 s for a billion of them.
    pairs = longest_first(setting.pairs) if "train_sampling_strategy" in changes else setting.pairs
    kept = [name for name in ("prompt", "chosen", "rejected", "length") if name in pairs.column_names]
    fresh = Dataset.from_list(pairs.select_columns(kept).to_list())
    with (
        tempfile.TemporaryDirectory() as output,
        patch("trl.trainer.dpo_trainer.hash_module", lambda module: "not hashed"),
    ):
        # TRL's default is true. This is the older of the setting's two names.
        args = trl.DPOConfig(gradient_checkpointing=False, **setting.shared(output) | changes)
        begin = now()
        trl.DPOTrainer(
            model, args=args, train_dataset=fresh, processing_class=setting.tokenizer, peft_config=setting.peft
        ).train()
        return now() - begin


def longest_first(pairs: Dataset) -> Dataset:
    """The pairs in the order of their longer sequence, whose characters are in the column `length`."""

    def length(pair: dict[str, Any]) -> int:
        prompt, *completions = (
            sum(len(message["content"]) for message in pair[side]) for side in ("prompt", "chosen", "rejected")
        )
        return prompt + max(completions)

    return pairs.add_column("length", [length(pair) for pair in pairs]).sort("length", reverse=True)


def mixdpo_arm(setting: Setting, plan: str = "dpo", engine: str = "auto", **changes: Any) -> float:
    """Seconds of this package with a plan, reference pass included."""
    model = setting.make_model()
    # Token ids are kept too; here they are made anew every time, as in TRL.
    with tempfile.TemporaryDirectory() as output, patch.dict(os.environ, {"MIXDPO_CACHE": output}):
        args = MixDPOConfig(engine=engine, reference_cache=False, **setting.shared(output))
        begin = now()
        MixDPOTrainer(
            model,
            args=args,
            train_dataset=setting.pairs,
            plan=make_plan(setting.pairs, plan, **changes),
            processing_class=setting.tokenizer,
            peft_config=setting.peft,
        ).train()
        return now() - begin


# The sampler reads the column of lengths, which is unused by the model.
BY_LENGTH = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
TRL = f"TRL {trl.__version__} DPO"
TRL_AT_BEST = f"{TRL}, batched by length, Liger's layers" if LIGER else f"{TRL}, batched by length"
ARMS: dict[str, Callable[[Setting], float]] = {
    TRL: lambda s: trl_arm(s, precompute_ref_log_probs=True),
    TRL_AT_BEST: lambda s: trl_arm(s, precompute_ref_log_probs=True, use_liger_kernel=LIGER, **BY_LENGTH),
    f"{TRL}, live reference": lambda s: trl_arm(s, precompute_ref_log_probs=False),
    "mixdpo DPO, padded rows": lambda s: mixdpo_arm(s, engine="padded"),
    "mixdpo DPO": mixdpo_arm,
    "mixdpo, hardest 10 % to SFT": lambda s: mixdpo_arm(s, "mixdpo"),
    "mixdpo, hardest 50 % to SFT": lambda s: mixdpo_arm(s, "mixdpo", threshold={"hardest": 0.5}),
}


def conditions() -> dict[str, Any]:
    """Date, hardware and versions, for a result file."""
    cpu = next(iter(re.findall(r"model name\s*:\s*(.*)", _read("/proc/cpuinfo"))), platform.processor())
    return {
        "date": date.today().isoformat(),
        "hardware": torch.cuda.get_device_name() if DEVICE.type == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("transformers", "trl", *(["liger_kernel"] if LIGER else []))},
    }


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
