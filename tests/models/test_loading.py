"""Models as they are loaded."""

from __future__ import annotations

from transformers import AutoModelForCausalLM

from mixdpo.models import loading
from mixdpo.models.loading import load_policy
from mixdpo.models.model_settings import ModelSettings
from tiny import saved, tiny_llama


def test_four_bit_weights_leave_checkpointing_to_the_run(tokenizer, tmp_path, monkeypatch) -> None:
    name = saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(name)
    plain.is_loaded_in_4bit = True  # all but the weights themselves, which need a GPU
    monkeypatch.setattr(loading, "_four_bit", lambda: None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *arguments, **named: plain)
    model = load_policy(ModelSettings(name_or_path=name, load_in_4bit=True))
    assert not model.is_gradient_checkpointing
    assert not any(weight.requires_grad for weight in model.parameters())
