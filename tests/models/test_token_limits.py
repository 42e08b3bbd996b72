"""What a model can read: token ids with an embedding, and as many tokens as it has positions for."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from mixdpo import load_pairs, make_plan, score
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError
from mixdpo.models.loading import load_policy
from mixdpo.models.model_settings import ModelSettings
from mixdpo.models.token_limits import check_tokens_fit, embedding_rows, fixed_positions, long_pairs_warning
from synthetic import chat_pairs, chat_rows
from tiny import byte_level_tokenizer, saved, tiny_llama, token_pairs
from trainers import trainer_for

IDS = {"vocab_size": 90, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 50, **IDS}
BERT = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 50, **IDS,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": GPT,
    "openai-gpt": GPT,
    "gpt_bigcode": GPT,
    "gptj": {**GPT, "rotary_dim": 4},
    "codegen": {**GPT, "n_embd": 64, "n_head": 4, "rotary_dim": 4},
    "ctrl": {**GPT, "dff": 32},
    "gpt_neo": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]],
                "max_position_embeddings": 50, **IDS},
    "opt": {**BERT, "ffn_dim": 32, "word_embed_proj_dim": 32},
    "biogpt": BERT,
    "roberta": {**BERT, "is_decoder": True, "pad_token_id": 1, "bos_token_id": 0},
    "mpt": {"d_model": 32, "n_layers": 1, "n_heads": 2, "max_seq_len": 50, **IDS},
}  # fmt: skip
WITHOUT_END: dict[str, dict[str, Any]] = {
    "llama": BERT,
    "gpt_neox": BERT,
    "bloom": {"hidden_size": 32, "n_layer": 1, "n_head": 2, **IDS},
}


def of_family(name: str, changes: dict[str, Any], kind: Any = AutoModelForCausalLM) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind.from_config(AutoConfig.for_model(name, **changes)).eval()


def reads(model: torch.nn.Module, tokens: int) -> bool:
    """Whether the model's own forward takes so many tokens."""
    try:
        with torch.no_grad():
            model(input_ids=torch.full((1, tokens), 5), attention_mask=torch.ones((1, tokens), dtype=torch.long))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_end_where_the_models_own_forward_fails(family) -> None:
    model = of_family(family, FAMILIES[family])
    positions = fixed_positions(model)
    assert positions is not None
    assert reads(model, positions)
    assert not reads(model, positions + 1)


@pytest.mark.parametrize("family", WITHOUT_END)
def test_positions_without_end(family) -> None:
    model = of_family(family, WITHOUT_END[family])
    assert fixed_positions(model) is None
    assert reads(model, 51)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_positions_of_a_reward_model(family) -> None:
    changes = {**(GPT if family == "gpt2" else BERT), "num_labels": 1}
    assert fixed_positions(of_family(family, changes, AutoModelForSequenceClassification)) == 50


def test_positions_of_image_patches_are_not_those_of_text() -> None:
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=4, patch_size=2,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=LlamaConfig(**BERT)))
    assert any("position_embedding" in name for name, _ in model.named_modules())
    assert fixed_positions(model) is None


@pytest.mark.parametrize("target", ["wte", "wpe"])
def test_adapters_hide_neither_embeddings_nor_positions(target) -> None:
    for config in (LoraConfig(r=2, target_modules=[target]), LoraConfig(r=2, modules_to_save=[target])):
        model = get_peft_model(of_family("gpt2", GPT), config)
        assert (fixed_positions(model), embedding_rows(model)) == (50, 90)


def test_an_output_smaller_than_the_embedding_counts() -> None:
    model = tiny_llama(vocab_size=90)
    model.lm_head = torch.nn.Linear(32, 80, bias=False)
    assert embedding_rows(model) == 80


def test_the_first_pair_that_does_not_fit_is_named_by_its_row_of_the_file() -> None:
    tokens, model = token_pairs(6), tiny_llama()
    loaded = Dataset.from_dict({"pair_id": tokens["pair_id"], "source_row": range(11, 17), "source_file": ["a"] * 6})
    check_tokens_fit(tokens, model, loaded)
    rows = [dict(row) for row in tokens]
    rows[3]["rejected_ids"] = [5, 64]
    rows[4]["prompt_ids"] = [70]
    with pytest.raises(InputError, match=r"token id 64, .* for ids 0 to 63 \(highest of all pairs: 70\)") as error:
        check_tokens_fit(Dataset.from_list(rows), model, loaded)
    assert (error.value.file, error.value.row) == ("a", 14)


def test_a_warning_where_rope_goes_on() -> None:
    model = tiny_llama(positions=20)
    assert long_pairs_warning(model, np.array([7, 20])) is None
    assert "1 of 2 pairs are longer than the 20 tokens" in str(long_pairs_warning(model, np.array([7, 21])))
    assert long_pairs_warning(of_family("gpt2", GPT), np.array([999])) is None  # refused elsewhere


# ---- in runs ----


def gpt2(tokenizer) -> torch.nn.Module:
    return of_family("gpt2", {**GPT, "vocab_size": len(tokenizer), "n_positions": 32})


def test_a_run_stops_before_it_writes_anything(tokenizer, tmp_path) -> None:
    pairs, plan = chat_pairs(tmp_path, n=8), make_plan(chat_pairs(tmp_path, n=8), "dpo")
    with pytest.raises(InputError, match=r"row \d: .*the model has embeddings for ids 0 to 299"):
        trainer_for(tiny_llama(vocab_size=300), tokenizer, pairs, tmp_path / "run", plan)
    with pytest.raises(InputError, match=r"row \d: prompt and answer are \d+ tokens, and the model has 32 positions"):
        trainer_for(gpt2(tokenizer), tokenizer, pairs, tmp_path / "run", plan)
    assert not (tmp_path / "run").exists()
    trainer_for(gpt2(tokenizer), tokenizer, pairs, tmp_path / "run", plan, max_length=32).train()


def test_the_reference_and_the_evaluation_data_are_looked_at_too(tokenizer, tmp_path) -> None:
    pairs, model = chat_pairs(tmp_path, n=8), tiny_llama(vocab_size=len(tokenizer))
    with pytest.raises(InputError, match="for ids 0 to 299"):
        trainer_for(model, tokenizer, pairs, tmp_path / "run", ref_model=tiny_llama(vocab_size=300))
    long = load_pairs([{**row, "prompt": row["prompt"] * 9} for row in chat_rows(8)])
    short = load_pairs([{**row, "prompt": [{"role": "user", "content": "a"}]} for row in chat_rows(8)])
    fits = gpt2(tokenizer)
    fits.transformer.wpe = torch.nn.Embedding(90, 32)
    trainer_for(fits, tokenizer, short, tmp_path / "run", make_plan(short, "dpo"))
    with pytest.raises(InputError, match="90 positions"):
        trainer_for(fits, tokenizer, short, tmp_path / "run", make_plan(short, "dpo"), eval_dataset=long)


def test_more_tokens_than_embeddings_are_a_warning_while_the_data_uses_none(tokenizer, tmp_path, caplog) -> None:
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<left>", "<right>"])
    pairs = chat_pairs(tmp_path, n=8)
    trainer_for(tiny_llama(vocab_size=len(tokenizer)), larger, pairs, tmp_path / "run", max_steps=1).train()
    n = len(tokenizer)
    assert f"the tokenizer has {n + 2} tokens and the model embeddings for {n}; the data uses none" in caplog.text
    caplog.clear()
    trainer_for(tiny_llama(vocab_size=512), larger, pairs, tmp_path / "padded", max_steps=1).train()
    assert "embeddings" not in caplog.text


def test_rope_is_warned_of_once(tokenizer, tmp_path, caplog) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    model = tiny_llama(vocab_size=len(tokenizer), positions=32)
    trainer_for(model, tokenizer, pairs, tmp_path / "run", eval_dataset=pairs, ref_model=copy.deepcopy(model))
    assert caplog.text.count("tokens that the model is made for") == 1


@pytest.fixture
def small(tokenizer, tmp_path, jsonl, monkeypatch) -> Path:
    """A folder with pairs and a model that lacks embeddings for them."""
    monkeypatch.chdir(tmp_path)
    jsonl(chat_rows(4))
    saved(tiny_llama(vocab_size=300), tokenizer, tmp_path / "small")
    saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "whole")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["train", "pairs.jsonl", "--model", "small", "--plan", "dpo", "--train.use_cpu", "true", "-o", "out"],
        ["reference", "pairs.jsonl", "--model", "small", "--plan", "dpo", "--train.use_cpu", "true"],
        ["score", "pairs.jsonl", "--metric", "nll_gap", "--model", "small", "-o", "out.parquet"],
        ["score", "pairs.jsonl", "--metric", "ches", "--model", "small", "-o", "out.parquet"],
        ["eval", "preferences", "pairs.jsonl", "--model", "small", "--reference", "whole", "-o", "out"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_command_says_so_in_one_line(words, small, capsys) -> None:
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mixdpo: ")]
    assert "row 1: the pair has token id " in line
    assert not [path for path in small.iterdir() if path.name.startswith("out")]


def test_a_metric_stops_at_positions_too(tokenizer, tmp_path) -> None:
    saved(gpt2(tokenizer), tokenizer, tmp_path / "gpt2")
    with pytest.raises(InputError, match="32 positions"):
        score(chat_pairs(tmp_path, n=8), "nll_gap", model=str(tmp_path / "gpt2"))


@pytest.mark.parametrize(
    "kept", [{"modules_to_save": ["embed_tokens", "lm_head"]}, {"trainable_token_indices": [401]}]
)
def test_an_adapter_of_a_resized_model(kept, tmp_path) -> None:
    tokenizer = byte_level_tokenizer()
    saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "base")
    resized = tiny_llama(vocab_size=len(tokenizer))
    resized.resize_token_embeddings(len(tokenizer) + 2)
    get_peft_model(resized, LoraConfig(r=2, **kept)).save_pretrained(tmp_path / "adapter")
    settings = ModelSettings(name_or_path=str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    with pytest.raises(InputError, match=r"does not fit .*if its embeddings were resized") as error:
        load_policy(settings)
    assert "\n" not in str(error.value)


def test_the_log_stays_quiet_of_what_fits(tokenizer, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        trainer_for(tiny_llama(vocab_size=len(tokenizer)), tokenizer, chat_pairs(tmp_path, n=8), tmp_path / "run")
    assert caplog.text == ""
