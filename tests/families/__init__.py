"""Chat templates of the families in use, re-written from their documented behaviour, with tokenizers for them.

`NAME.jinja` is the template; `NAME.txt` is what `expected` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Family:
    """What a tokenizer of the family has besides the vocabulary that all share.

    Attributes:
        special: its special tokens, apart from BOS and EOS.
        words: its added tokens that are not special.
        adds_bos: whether it writes a BOS before every text.
        thoughts: the key of a message that the template reads thinking from.
    """

    eos: str
    bos: str | None = None
    special: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    adds_bos: bool = False
    thoughts: str = "reasoning_content"


_CHATML = ("<|endoftext|>", "<|im_start|>")
_THINK = ("<think>", "</think>")
_CALL = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_MISTRAL_TOOLS = ("[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_LLAMA3 = ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>")
_GEMMA = ("<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>")
_DEEPSEEK = (
    *("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁sep｜>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    *("<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<｜tool▁outputs▁end｜>"),
)

FAMILIES = {
    "chatml": Family("<|im_end|>", special=_CHATML),
    "chatml_bare": Family("<|im_end|>", special=_CHATML),
    "command_r": Family(
        "<|END_OF_TURN_TOKEN|>",
        "<BOS_TOKEN>",
        ("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        adds_bos=True,
    ),
    "deepseek_r1_distill": Family("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", words=_DEEPSEEK, adds_bos=True),
    "deepseek_v3": Family("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", words=_DEEPSEEK, adds_bos=True),
    "deepseek_v3_1": Family("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", words=_DEEPSEEK, adds_bos=True),
    "gemma2": Family("<eos>", "<bos>", _GEMMA, adds_bos=True),
    "gemma3": Family("<eos>", "<bos>", _GEMMA, adds_bos=True),
    "glm4_5": Family(
        "<|endoftext|>",
        special=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        words=(*_THINK, *_CALL, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    "gpt_oss": Family(
        "<|return|>",
        "<|startoftext|>",
        ("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"),
        thoughts="thinking",
    ),
    "granite": Family("<|end_of_text|>", special=("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>")),
    "kimi_k2": Family(
        "<|im_end|>",
        "[BOS]",
        ("[EOS]", "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"),
        (
            *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_argument_begin|>"),
            *("<|tool_call_begin|>", "<|tool_call_end|>"),
        ),
    ),
    "llama2": Family("</s>", "<s>", ("<unk>",), adds_bos=True),
    "llama3": Family("<|eot_id|>", "<|begin_of_text|>", _LLAMA3, adds_bos=True),
    "llama3_1": Family("<|eot_id|>", "<|begin_of_text|>", _LLAMA3, adds_bos=True),
    "llama4": Family(
        "<|eot|>",
        "<|begin_of_text|>",
        ("<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eom|>", "<|python_start|>", "<|python_end|>"),
        adds_bos=True,
    ),
    "minimal": Family("</s>", "<s>", ("<unk>",), adds_bos=True),
    "mistral_nemo": Family("</s>", "<s>", ("[INST]", "[/INST]", *_MISTRAL_TOOLS), adds_bos=True),
    "mistral_v1": Family("</s>", "<s>", ("<unk>",), adds_bos=True),
    "mistral_v3": Family("</s>", "<s>", ("[INST]", "[/INST]", *_MISTRAL_TOOLS), adds_bos=True),
    "mistral_v7": Family(
        "</s>",
        "<s>",
        (
            *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[CALL_ID]", "[ARGS]", "[TOOL_CONTENT]"),
            *_MISTRAL_TOOLS,
        ),
        adds_bos=True,
    ),
    "phi3": Family("<|endoftext|>", "<s>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "phi4": Family("<|im_end|>", special=(*_CHATML, "<|im_sep|>")),
    "qwen2_5": Family("<|im_end|>", special=_CHATML, words=_CALL[:2]),
    "qwen3": Family("<|im_end|>", special=_CHATML, words=_THINK + _CALL),
    "qwen3_5": Family("<|im_end|>", special=_CHATML, words=_THINK + _CALL),
    "qwen3_coder": Family("<|im_end|>", special=_CHATML, words=_CALL),
    "seed_oss": Family(
        "<seed:eos>",
        "<seed:bos>",
        ("<seed:pad>",),
        ("<seed:think>", "</seed:think>", "<seed:tool_call>", "</seed:tool_call>"),
    ),
    "smollm3": Family("<|im_end|>", special=_CHATML, words=_THINK + _CALL),
    "tulu": Family("<|endoftext|>", special=("<|padding|>",)),
    "vicuna": Family("</s>", "<s>", ("<unk>",)),
    "zephyr": Family("</s>", "<s>", ("<unk>",)),
}

_CORPUS = (
    "Name a river. The Elbe. Another one? The Rhine. Hello Hi. No. Yes. Rain in Bonn? In Köln? 3 mm. 5 mm. Be brief. "
    "What is 2+2? 2+2 equals 4 And 3+3? 3+3 equals 6\n\n.\n.\n user\n assistant\n system\n tool\n model\n think\n\n"
    '{"type": "function", "function": {"name": "rain", "description": "Rain in mm", "parameters": {"type": "object", '
    '"properties": {"city": {"type": "string"}}}}}\n USER: ASSISTANT: assistant: user: [INST] [/INST] <think>\n\n'
)
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def _vocabulary() -> str:
    """Train the bytes and merges that all families share; texts are split into words as Qwen and Llama 3 do it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([_CORPUS] * 3, trainer)
    return tokenizer.to_str()


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a family, with its chat template."""
    family = FAMILIES[name]
    tokenizer = Tokenizer.from_str(_vocabulary())
    special = [token for token in (family.bos, family.eos, *family.special) if token]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.words])
    if family.bos and family.adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, tokenizer.token_to_id(family.bos))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos)
    fast.chat_template = _template(name)
    if (FOLDER / f"{name}.tool_use.jinja").exists():
        fast.chat_template = {"default": _template(name), "tool_use": _template(f"{name}.tool_use")}
    return fast


def _template(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
