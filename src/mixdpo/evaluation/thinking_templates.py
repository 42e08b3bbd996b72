"""What a tokenizer's chat template does about reasoning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mixdpo.data.reasoning import ENDS, opens_reasoning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def opens_reasoning_by(tokenizer: PreTrainedTokenizerBase, told: Mapping[str, Any] | None) -> bool:
    """Whether prompts end within reasoning if the template is told this; without a template they do not."""
    if tokenizer.chat_template is None:
        return False
    question = [{"role": "user", "content": "question"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True, **(told or {}))
    return opens_reasoning(str(prompt))


def reasoning_end(tokenizer: PreTrainedTokenizerBase) -> str | int | None:
    """Return the mark that ends reasoning in the template, as an id where it is one token; None for none."""
    mark = next((one for one in ENDS if one in str(tokenizer.chat_template)), None)
    ids = tokenizer.encode(mark, add_special_tokens=False) if mark is not None else []
    return ids[0] if len(ids) == 1 else mark
