"""PyTorch looks for weights that a step left without a gradient only for models that may leave some."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3Config
from transformers.models.opt import OPTConfig

from mixdpo.models.engine import completion_logprobs, pad_rows
from mixdpo.training.preparation import may_leave_weights_unused
from prompt_groups import SIZES, groups_of, tiny
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import trainer_for

EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2}
TEXT_MODELS = {
    "Llama": {},
    "Gemma3Text": {},
    "Mixtral": LOCAL_EXPERTS,
    "Qwen3Moe": EXPERTS,
    "Olmoe": EXPERTS,
    "GptOss": {**LOCAL_EXPERTS, "max_position_embeddings": 131072},
}


def unused(model) -> list[str]:
    """Names of trained weights that get no gradient from a row of two tokens, too few for all experts."""
    completion_logprobs(model, pad_rows(groups_of((1, [1])), 0)).sum().backward()
    return [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("family", TEXT_MODELS)
def test_text_models_use_all_weights(family, adapters) -> None:
    model = tiny(family, **TEXT_MODELS[family])
    if adapters:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj", "lm_head"]))
    assert not may_leave_weights_unused(model)
    assert not unused(model)


def test_models_that_leave_weights_unused() -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=SIZES, vision_config={**vision, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    model = AutoModelForCausalLM.from_config(config)
    assert may_leave_weights_unused(model)
    assert unused(model)
    sizes = {
        "hidden_size": 8,
        "ffn_dim": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 8,
    }
    dropping = OPTConfig(vocab_size=64, layerdrop=0.1, **sizes)
    assert may_leave_weights_unused(AutoModelForCausalLM.from_config(dropping))


@pytest.mark.parametrize(("given", "found"), [(None, False), (True, True), (False, False)])
def test_a_setting_of_the_users_stays(given, found, tokenizer, tmp_path) -> None:
    model = tiny_llama(vocab_size=len(tokenizer))
    changes = {} if given is None else {"ddp_find_unused_parameters": given}
    trainer = trainer_for(model, tokenizer, chat_pairs(tmp_path, n=4), tmp_path / "run", **changes)
    assert trainer.accelerator.ddp_handler.find_unused_parameters == found
