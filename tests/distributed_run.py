"""Started by torchrun in test_distributed.py: trains a tiny model and writes down what each process saw."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from datasets import load_from_disk

from mixdpo import Plan
from tiny import byte_level_tokenizer, tiny_llama
from trainers import trainer_for


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--loss", default="sigmoid")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    folder = options.folder
    tokenizer = byte_level_tokenizer()
    pairs = load_from_disk(str(folder / "pairs"))
    trainer = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, folder / "two", Plan.load(folder / "plan.parquet"),
        per_device_train_batch_size=options.batch, gradient_accumulation_steps=options.accumulation,
        max_tokens_per_batch=options.max_tokens, loss_type=options.loss, desirable_weight=2.0, num_train_epochs=2,
        eval_dataset=pairs.select(range(7)), eval_strategy="epoch", save_strategy="steps", save_steps=5,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(folder / "two" / "checkpoint-5") if options.resume else None)
    rank = os.environ["RANK"]
    (folder / f"seen-{rank}{'-resumed' if options.resume else ''}.json").write_text(
        json.dumps(trainer.seen.steps[:-1])
    )
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
