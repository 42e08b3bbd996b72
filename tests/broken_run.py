"""Started by torchrun in test_finite.py: trains what breaks on one pair, and writes down why."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mixdpo import MixDPOTrainer, load_pairs, make_plan
from mixdpo.common.errors import RunError
from trainers import config


def main(folder: Path) -> None:
    pairs = load_pairs(folder / "pairs.jsonl")
    trainer = MixDPOTrainer(
        str(folder / "model"),
        args=config(folder / "run", per_device_train_batch_size=2, save_strategy="steps", save_steps=1),
        train_dataset=pairs,
        plan=make_plan(pairs, "sft_chosen"),
    )
    try:
        trainer.train()
    except RunError as error:
        (folder / f"message-{os.environ['RANK']}").write_text(str(error))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
