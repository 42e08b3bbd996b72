"""Started by torchrun in test_distributed.py: trains a tiny model and writes down what each process saw."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from datasets import load_from_disk

from conftest import byte_level_tokenizer
from mixdpo import Plan
from test_trainer import trainer_for
from tiny import tiny_llama


def main(folder: Path, batch: int, accumulation: int) -> None:
    tokenizer = byte_level_tokenizer()
    pairs = load_from_disk(str(folder / "pairs"))
    trainer = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, folder / "two", Plan.load(folder / "plan.parquet"),
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs=2,
        eval_dataset=pairs.select(range(7)), eval_strategy="epoch", save_strategy="steps", save_steps=5,
        max_tokens_per_batch=1 if batch > 1 else None,
    )  # fmt: skip
    resume = len(sys.argv) > 4
    trainer.train(resume_from_checkpoint=str(folder / "two" / "checkpoint-5") if resume else None)
    rank = os.environ["RANK"]
    (folder / f"seen-{rank}{'-resumed' if resume else ''}.json").write_text(json.dumps(trainer.seen.steps[:-1]))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
