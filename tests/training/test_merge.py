"""Checkpoints and adapters become folders that transformers loads; checkpoints in shards: test_process_kinds.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixdpo.cli.main import main
from mixdpo.training.merge import merge
from synthetic import chat_pairs
from tiny import saved, tiny_llama
from trainers import trainer_for


@pytest.fixture
def base(tokenizer, tmp_path: Path) -> str:
    return saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "base")


@pytest.fixture
def adapter(base: str, tmp_path: Path) -> Path:
    """An adapter that changes something, and has no tokenizer beside it."""
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_becomes_part_of_its_model(base: str, adapter: Path, tokenizer, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    assert main(["merge", str(adapter), "--output", str(output)]) == 0
    merged = AutoModelForCausalLM.from_pretrained(output)
    ids = torch.tensor([tokenizer("Boil water, add the leaves").input_ids])
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    torch.testing.assert_close(merged(ids).logits, expected(ids).logits, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(output).chat_template == tokenizer.chat_template
    assert tokenizer.eos_token_id in merged.generation_config.eos_token_id
    assert not any(path.name.endswith(".unfinished") for path in tmp_path.iterdir())


def test_a_checkpoint_becomes_a_model(tokenizer, tmp_path: Path) -> None:
    model = tiny_llama(vocab_size=len(tokenizer))
    trainer = trainer_for(model, tokenizer, chat_pairs(tmp_path, n=8), tmp_path / "run", save_strategy="steps")
    trainer.train()
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    merge(checkpoint, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(dict(merged.named_parameters()), dict(model.named_parameters()), rtol=0, atol=0)
    assert not (tmp_path / "merged" / "training_args.bin").exists()


def test_nothing_is_written_over(adapter: Path, tmp_path: Path, refused) -> None:
    refused(lambda: merge(adapter, tmp_path / "base"), "is there already")


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_what_holds_no_weights_is_refused(name: str, tmp_path: Path, refused) -> None:
    (tmp_path / "empty").mkdir()
    refused(lambda: merge(tmp_path / name, tmp_path / "merged"), "neither a checkpoint", str(tmp_path / name))
    assert not (tmp_path / "merged").exists()


def test_parts_of_deepspeed_alone_are_refused(tmp_path: Path, refused) -> None:
    (tmp_path / "zero_to_fp32.py").touch()
    refused(lambda: merge(tmp_path, tmp_path.with_name("merged")), "zero_to_fp32.py")
