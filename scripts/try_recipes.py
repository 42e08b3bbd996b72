"""Train a tiny random model of each recipe's family through the very recipe, on two CPU processes under FSDP2.

    python scripts/try_recipes.py [recipes/NAME.yaml ...]

Everything of the recipe and of recipes/accelerate/fsdp2.yaml stays but the model, the pairs (80 made-up ones in the
published columns), the output and the device. The trained model is loaded by transformers alone and asked for logits.
Prints one line a recipe; exit status 1 where one fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {"llama3": "llama", "mistral": "mistral", "qwen2.5": "qwen2"}
PAIRS, TEST_PAIRS = 80, 8


def recipes() -> list[Path]:
    """The recipes for eight GPUs."""
    return sorted(path for path in ROOT.glob("recipes/*.yaml") if path.name.split("-")[0] in FAMILIES)


def save_model(family: str, folder: Path) -> None:
    """Save a random model of two layers with a tokenizer of bytes."""
    from tiny import byte_level_tokenizer, saved

    tokenizer = byte_level_tokenizer()
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    saved(AutoModelForCausalLM.from_config(config), tokenizer, folder)


def save_pairs(pairs: int, path: Path) -> None:
    """Save chat pairs under all the names that the recipes' data have."""
    from synthetic import chat_rows

    rows = []
    for row in chat_rows(pairs):
        ratings = {"chosen_rating": row["score_chosen"], "rejected_rating": row["score_rejected"]}
        scores = [row["score_rejected"], row["score_chosen"], row["score_rejected"]]
        rows.append({**row, **ratings, "all_rm_scores": scores})
    Dataset.from_list(rows).to_parquet(path)


def launch_environment() -> dict[str, str]:
    """What `accelerate launch --config_file recipes/accelerate/fsdp2.yaml` tells its processes."""
    launch = yaml.safe_load((ROOT / "recipes/accelerate/fsdp2.yaml").read_text())
    sharding = {name.upper(): str(value).lower() for name, value in launch["fsdp_config"].items()}
    keep_case = ("FSDP_AUTO_WRAP_POLICY", "FSDP_STATE_DICT_TYPE")
    sharding |= {name: launch["fsdp_config"][name.lower()] for name in keep_case}
    return {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": launch["mixed_precision"], **sharding}


def train(words: list[str]) -> int:
    """Run `mixdpo train` as one of the processes."""
    from mixdpo.cli.main import main as mixdpo
    from process_worker import shard_on_cpus

    shard_on_cpus()
    return mixdpo(["train", *words])


def try_recipe(recipe: Path, folder: Path) -> str | None:
    """Run a recipe; return the end of what was printed if it fails."""
    save_model(FAMILIES[recipe.name.split("-")[0]], folder / "base")
    for split, pairs in (("train", PAIRS), ("test", TEST_PAIRS)):
        save_pairs(pairs, folder / f"{split}.parquet")
    output = folder / "run"
    words = {
        "--config": recipe, "--model.name_or_path": folder / "base", "--data.path": folder / "train.parquet",
        "--data.split": "train", "--eval_data.path": folder / "test.parquet", "--eval_data.split": "train",
        "--train.output_dir": output, "--train.use_cpu": "true",
    }  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, **launch_environment(), "MIXDPO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    given = [str(word) for pair in words.items() for word in pair]
    done = subprocess.run([*launch, __file__, "--train", *given], env=environment, capture_output=True, text=True)
    if done.returncode:
        return f"{done.stdout}\n{done.stderr}"[-4000:]
    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    logits = AutoModelForCausalLM.from_pretrained(output / "model")(**tokenizer("Tea?", return_tensors="pt")).logits
    return None if logits.isfinite().all() else "the trained model's logits are not finite"


def main() -> None:
    """Try the recipes given, or all."""
    failed = False
    for recipe in [Path(name) for name in sys.argv[1:]] or recipes():
        with tempfile.TemporaryDirectory() as folder:
            fault = try_recipe(recipe, Path(folder))
        failed |= fault is not None
        print(f"{recipe.stem}: {'trained and loaded' if fault is None else fault}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    if sys.argv[1:2] == ["--train"]:
        sys.exit(train(sys.argv[2:]))
    main()
