"""Training runs on several processes of every kind, on CPUs, and how alike two such runs are.

A kind is a way to spread a run over processes; a cell is the settings of one run. `run_cells` starts one process group
of a kind, which runs cell after cell through the command line; `differences` compares what two groups made of a cell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from mixdpo.training.run_folder import MODEL_FOLDER
from synthetic import chat_rows
from tiny import byte_level_tokenizer, saved, tiny_llama
from trainers import step_logs

_WORKER = Path(__file__).with_name("process_worker.py")
_FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


@dataclass(frozen=True)
class Kind:
    """Some processes, and what `accelerate launch` would tell them in the environment."""

    processes: int
    environment: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "one": Kind(1),
    "ddp": Kind(2),
    "fsdp2": Kind(2, _FSDP2),
    # accelerate's own default
    "fsdp2-sharded": Kind(2, {**_FSDP2, "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}),
}


@dataclass(frozen=True)
class Cell:
    """The settings of a run; `words` are further ones as the command line takes them."""

    lora: bool = False
    bf16: bool = False
    engine: str = "packed"
    live_reference: bool = False
    accumulation: int = 1
    words: Sequence[str] = ()

    def command(self, folder: Path, kind: str, pairs: int = 4) -> list[str]:
        """Return the words of the command line behind `mixdpo` without its output; a step has `pairs` pairs."""
        processes = KINDS[kind].processes
        settings: dict[str, Any] = {
            "model.name_or_path": folder / "model",
            "model.dtype": "auto" if self.bf16 else "float32",
            "plan.name": "mixdpo",
            "plan.threshold": "{hardest: 0.3}",
            "train.use_cpu": True,
            "train.disable_tqdm": True,
            "train.logging_steps": 1,
            "train.learning_rate": 1e-3,
            "train.save_strategy": "no",
            "train.bf16": self.bf16,
            "train.engine": self.engine,
            "train.precompute_ref_log_probs": not self.live_reference,
            "train.per_device_train_batch_size": pairs // processes // self.accumulation,
            "train.gradient_accumulation_steps": self.accumulation,
        }
        if self.lora:
            settings |= {"peft.r": 4, "peft.target_modules": "all-linear"}
        words = [word for name, value in settings.items() for word in (f"--{name}", _yaml(value))]
        return ["train", str(folder / "pairs.parquet"), *words, *self.words]


# Every pair of values of any two of the settings is in one of these at least.
COVERING: dict[str, Cell] = {
    "full-fp32-packed-cached": Cell(),
    "full-bf16-padded-live": Cell(bf16=True, engine="padded", live_reference=True, accumulation=2),
    "lora-fp32-padded-live": Cell(lora=True, engine="padded", live_reference=True),
    "lora-bf16-packed-live": Cell(lora=True, bf16=True, live_reference=True, accumulation=2),
    "lora-bf16-padded-cached": Cell(lora=True, bf16=True, engine="padded"),
    "full-fp32-packed-cached-accumulated": Cell(accumulation=2),
}


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: its exit status, and what the first process printed to standard error."""

    status: int
    printed: str
    run: Path

    @property
    def losses(self) -> Tensor:
        """The loss of every step; float64, shape (steps,)."""
        return torch.tensor([log["loss"] for log in step_logs(self.run)], dtype=torch.float64)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of `model/`, loaded by transformers and peft alone; an adapter's by themselves."""
        model = load_trained(self.run / MODEL_FOLDER)
        weights = {name: weight.detach().float() for name, weight in model.named_parameters()}
        return {name: weight for name, weight in weights.items() if not _is_of_base(name, model)}


def load_trained(folder: Path) -> torch.nn.Module:
    """Load a folder of a model or an adapter as somebody without mixdpo would; every weight must be in it."""
    if (folder / "adapter_config.json").exists():
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model


def prepare(folder: Path, pairs: int = 11, tied: bool = False) -> Path:
    """Write a tiny model and pairs that all cells train on; the last step of four is not full."""
    tokenizer = byte_level_tokenizer()
    model = tiny_llama(vocab_size=len(tokenizer))
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    saved(model, tokenizer, folder / "model")
    Dataset.from_list(chat_rows(pairs)).to_parquet(folder / "pairs.parquet")
    return folder


def run_cells(kind: str, cells: Mapping[str, Cell], folder: Path, seconds: float = 240) -> dict[str, Outcome]:
    """Run all cells in one process group, on the model and pairs of `prepare`, into `folder/<kind>`."""
    root = folder / kind
    root.mkdir(parents=True, exist_ok=True)
    commands = {name: [*cell.command(folder, kind), "--output", str(root / name)] for name, cell in cells.items()}
    (root / "commands.json").write_text(json.dumps(commands))
    command = [sys.executable, str(_WORKER), str(root)]
    if (processes := KINDS[kind].processes) > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command[1:1] = launcher
    paths = os.pathsep.join([str(_WORKER.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ, **KINDS[kind].environment, "PYTHONPATH": paths, "MIXDPO_CACHE": str(root / "cache"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ends = {name: json.loads((root / f"{name}.json").read_text()) for name in cells}
    return {name: Outcome(**end, run=root / name) for name, end in ends.items()}


def differences(outcome: Outcome, alone: Outcome, start: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return the largest relative difference of a step's loss, and how far weights are apart, over how far they moved.

    `start` are the weights of the model before training; of an adapter, B starts at 0.
    """
    losses, expected = outcome.losses, alone.losses
    assert losses.shape == expected.shape, (losses, expected)
    found, other = outcome.weights(), alone.weights()
    assert found.keys() == other.keys()
    apart = sum(float((found[name] - other[name]).square().sum()) for name in found)
    moved = sum(
        float((other[name] - start.get(name, 0)).square().sum()) for name in found if name in start or "lora_B" in name
    )
    return float(((losses - expected) / expected).abs().max()), (apart / moved) ** 0.5


def _is_of_base(name: str, model: torch.nn.Module) -> bool:
    return isinstance(model, PeftModel) and "lora_" not in name


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
