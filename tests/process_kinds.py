"""Training runs on several processes of every kind, on CPUs, and how alike two such runs are.

A kind is a way to spread a run over processes; a cell is the settings of one run. `run_kinds` starts one process
group, which runs cell after cell through the command line; `differences` compares what two kinds made of a cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from forks import run_group
from mixdpo.common.table_files import write_json_lines
from mixdpo.training.run_folder import MODEL_FOLDER
from process_worker import run_commands
from synthetic import chat_rows
from tiny import byte_level_tokenizer, saved, tiny_llama
from trainers import step_logs

_FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def _zero(stage: int) -> dict[str, str]:
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}


def _mesh(**sizes: int) -> dict[str, str]:
    named = {f"PARALLELISM_CONFIG_{name.upper()}_SIZE": str(size) for name, size in sizes.items()}
    return {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", **named}


@dataclass(frozen=True)
class Kind:
    """Some processes, on so many nodes, and what `accelerate launch` would tell them in the environment."""

    processes: int
    environment: Mapping[str, str] = field(default_factory=dict)
    nodes: int = 1


KINDS: dict[str, Kind] = {
    "one": Kind(1),
    "ddp": Kind(2),
    "fsdp2": Kind(2, _FSDP2),
    # accelerate's own default
    "fsdp2-sharded": Kind(2, {**_FSDP2, "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}),
    # Shards within a node, copies on every node.
    "hsdp": Kind(4, {**_FSDP2, **_mesh(dp_replicate=2, dp_shard=2)}, nodes=2),
    # accelerate's own defaults
    "zero2": Kind(2, _zero(2)),
    "zero3": Kind(2, _zero(3)),
    # What is refused before the first step; FSDP1, which is too, accelerate cannot start on CPUs.
    "fsdp2-offload": Kind(2, {**_FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}),
    "context-parallel": Kind(2, {**_FSDP2, **_mesh(cp=2)}),
    "tensor-parallel": Kind(2, _mesh(tp=2)),
}
REFUSED = ("fsdp2-offload", "context-parallel", "tensor-parallel")


@dataclass(frozen=True)
class Cell:
    """The settings of a run.

    Attributes:
        model: the folder of the policy, of those that `prepare` makes.
        lora: train adapters.
        bf16: bfloat16 autocast, and a base of that format under adapters.
        engine: as in the settings.
        live_reference: no pass before training.
        accumulation: micro-batches of a process in a step.
        words: further ones of the command line.
        continues: KIND/CELL of a run before, of which this run takes the first checkpoint and goes on.
    """

    model: str = "model"
    lora: bool = False
    bf16: bool = False
    engine: str = "packed"
    live_reference: bool = False
    accumulation: int = 1
    words: Sequence[str] = ()
    continues: str | None = None

    def command(self, folder: Path, kind: str, output: Path, pairs: int = 8) -> list[str]:
        """Return the words of the command line behind `mixdpo`; a step has `pairs` pairs."""
        processes = KINDS[kind].processes
        settings: dict[str, Any] = {
            "model.name_or_path": folder / self.model,
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
        resume = ["--resume"] if self.continues else []
        further = [word.replace("{folder}", str(folder)) for word in self.words]
        return ["train", str(folder / "pairs.parquet"), *words, *further, "--output", str(output), *resume]


@dataclass(frozen=True)
class Command:
    """Another command: its words before `--output`, `{folder}` in them the folder of `prepare`."""

    words: Sequence[str]
    suffix: str = ""
    continues: None = None

    def command(self, folder: Path, kind: str, output: Path) -> list[str]:
        """Return the words of the command line behind `mixdpo`."""
        return [*(word.replace("{folder}", str(folder)) for word in self.words), "--output", f"{output}{self.suffix}"]


SAVED = ("--train.save_strategy", "steps", "--train.save_steps", "1")
# Some batches of a run in two micro-batches, others in one: processes must agree on how many.
_CUT = ("--train.max_tokens_per_batch", "150")

# Every pair of values of any two of the settings is in one of these at least.
COVERING: dict[str, Cell] = {
    "full-fp32-packed-cached": Cell(words=_CUT),
    "full-bf16-padded-live": Cell(bf16=True, engine="padded", live_reference=True, accumulation=2),
    "lora-fp32-padded-live": Cell(lora=True, engine="padded", live_reference=True, words=_CUT),
    "lora-bf16-packed-live": Cell(lora=True, bf16=True, live_reference=True, accumulation=2),
    "lora-bf16-padded-cached": Cell(lora=True, bf16=True, engine="padded"),
    "tied-fp32-packed-cached": Cell(model="tied", accumulation=2),
}
_STAGES = (
    *("--plan.stages", "3", "--plan.stage_metric", "implicit_reward", "--plan.gate", "likelihood"),
    *("--train.stage_reference", "mixed", "--train.num_train_epochs", "2", "--train.warmup_steps", "0"),
    *("--train.save_strategy", "steps", "--train.save_steps", "3"),  # in the middle of the second
)
# What is not a matter of pairs of settings.
OTHERS: dict[str, Cell] = {
    "lora-fp32-base-bf16": Cell(lora=True, bf16=True, words=("--model.dtype", "float32")),
    "dora": Cell(lora=True, bf16=True, words=("--peft.use_dora", "true")),
    "modules-to-save": Cell(lora=True, bf16=True, words=("--peft.modules_to_save", "[lm_head]")),
    "token-indices": Cell(lora=True, bf16=True, words=("--peft.trainable_token_indices", "[81, 86, 91]")),
    "continued-adapter": Cell(bf16=True, words=("--model.adapter", "{folder}/adapter")),
    "continued-adapter-live": Cell(bf16=True, live_reference=True, words=("--model.adapter", "{folder}/adapter")),
    "tied-lora": Cell(model="tied", lora=True, bf16=True),
    "max-tokens": Cell(words=("--train.max_tokens_per_batch", "60")),
    "weighted": Cell(words=("--train.use_weighting", "true", "--train.loss_type", "[sigmoid, sft]")),
    "calibrated": Cell(words=("--train.reward_calibration", "true", "--train.warmup_steps", "0")),
    "kto-hard": Cell(words=("--train.hard_loss_type", "simpo")),
    # Without warm-up the policy has left its reference in the second step, which compares it with that.
    "live-moved": Cell(live_reference=True, words=("--train.warmup_steps", "0")),
    "saved": Cell(words=SAVED),
    "resumed": Cell(words=SAVED, continues="saved"),
    "stages-saved": Cell(words=_STAGES),
    "stages-resumed": Cell(words=_STAGES, continues="stages-saved"),
    "lora-saved": Cell(lora=True, words=SAVED),
    "lora-resumed": Cell(lora=True, words=SAVED, continues="lora-saved"),
}
ANSWERS = Cell(
    words=(
        *("--answers.prompts", "{folder}/prompts.jsonl", "--answers.max_new_tokens", "6"),
        *("--answers.judge.judge", "awk '{{print length($0)}}'", "--answers.judge.kind", "program"),
        *("--train.eval_strategy", "steps", "--train.eval_steps", "1", "--train.learning_rate", "0.01"),
    )
)
"""A policy that answers prompts while it is trained, where that is possible."""


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

    @property
    def last_line(self) -> str:
        """What the command said last, which is why it failed if it did."""
        return next(iter(self.printed.strip().splitlines()[-1:]), "")

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


def prepare(folder: Path, pairs: int = 19) -> Path:
    """Write what cells train on: `model`, `tied` (embeddings), `adapter` and pairs, whose last step is not full."""
    tokenizer = byte_level_tokenizer()
    model = tiny_llama(vocab_size=len(tokenizer))
    saved(model, tokenizer, folder / "model")
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "model"), adapters).save_pretrained(
        folder / "adapter"
    )
    model.config.tie_word_embeddings = True
    model.tie_weights()
    saved(model, tokenizer, folder / "tied")
    Dataset.from_list(chat_rows(pairs)).to_parquet(folder / "pairs.parquet")
    write_json_lines(folder / "prompts.jsonl", [{"prompt": f"{number} cats?"} for number in range(5)])
    return folder


def run_cells(
    kind: str, cells: Mapping[str, Cell | Command], folder: Path, seconds: float = 600
) -> dict[str, Outcome]:
    """Run all cells of a kind; see `run_kinds`."""
    return run_kinds({kind: cells}, folder, seconds)[kind]


def run_kinds(
    wanted: Mapping[str, Mapping[str, Cell | Command]], folder: Path, seconds: float = 600
) -> dict[str, dict[str, Outcome]]:
    """Run all cells of kinds that have equally many processes in one process group, into `folder/KIND/CELL`.

    They train on the model and the pairs of `prepare`. `seconds` is the limit for all of it.
    """
    first = KINDS[next(iter(wanted))]
    assert all((KINDS[kind].processes, KINDS[kind].nodes) == (first.processes, first.nodes) for kind in wanted)
    commands = [
        {
            "words": cell.command(folder, kind, folder / kind / name),
            "begins_with": _run_before(folder, kind, cell.continues),
            "output": str(folder / kind / name),
            "environment": {**KINDS[kind].environment, "MIXDPO_CACHE": str(folder / kind / "cache")},
            "end": str(folder / kind / f"{name}.json"),
        }
        for kind, cells in wanted.items()
        for name, cell in cells.items()
    ]
    for command in commands:
        Path(str(command["end"])).parent.mkdir(parents=True, exist_ok=True)
    run_group(lambda: run_commands(commands), first.processes, first.nodes, seconds)
    return {
        kind: {
            name: Outcome(**json.loads((folder / kind / f"{name}.json").read_text()), run=folder / kind / name)
            for name in cells
        }
        for kind, cells in wanted.items()
    }


def _run_before(folder: Path, kind: str, name: str | None) -> str | None:
    if name is None:
        return None
    return str(folder / name if "/" in name else folder / kind / name)


def starting_weights(folder: Path, cell: Cell) -> dict[str, Tensor]:
    """Return the weights of a cell's model before training, by name; of new adapters there are none."""
    model = load_trained(folder / ("adapter" if "--model.adapter" in cell.words else cell.model))
    return {name: weight.detach().float() for name, weight in model.named_parameters()}


def differences(outcome: Outcome, alone: Outcome, start: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return the largest relative difference of a step's loss, and how far weights are apart, over how far they moved.

    `start` are the weights of the model before training; of a new adapter, B starts at 0.
    """
    losses, expected = outcome.losses, alone.losses
    assert losses.shape == expected.shape, (losses, expected)
    found, other = outcome.weights(), alone.weights()
    assert found.keys() == other.keys()
    apart = sum(float((found[name] - other[name]).square().sum()) for name in found)
    moved = 0.0
    for name in found:
        before = start.get(name, start.get(_name_in_base(name)))
        if before is not None or "lora_B" in name:
            moved += float((other[name] - (0 if before is None else before)).square().sum())
    return float(((losses - expected) / expected).abs().max()), (apart / moved) ** 0.5


def limits(kind: str, cell: Cell) -> tuple[float, float]:
    """Return the most that `differences` may be where nothing is wrong.

    FSDP2 and DeepSpeed cast to bfloat16 what one process runs under autocast; weights of one process are up to 0.19
    from those it has without. DeepSpeed saves weights as they are cast, and bfloat16's steps are of the size of so
    short a way.
    """
    if not cell.bf16:
        return 1e-4, 5e-3
    return 2e-2, 1.0 if kind.startswith("zero") else 0.15


def _is_of_base(name: str, model: torch.nn.Module) -> bool:
    return isinstance(model, PeftModel) and not any(
        own in name for own in ("lora_", "modules_to_save", "trainable_tokens")
    )


def _name_in_base(name: str) -> str:
    """Return what a base model calls the module of which `modules_to_save` trains a copy."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
