"""A model's reasoning told apart from its answer, by the marks with which the families of models write it."""

from __future__ import annotations

import re
from typing import Final

_TAGS: Final = {
    "<think>": "</think>",  # Qwen3, DeepSeek R1, GLM, Phi-4-reasoning, SmolLM3, Granite 3.3, Nemotron, OLMo 3, Kimi K2
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",  # EXAONE Deep
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "[THINK]": "[/THINK]",  # Magistral
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A Reasoning
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|begin_of_thought|>": "<|end_of_thought|>",  # Sky-T1, OpenThinker
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "◁think▷": "◁/think▷",  # Kimi-VL
}
"""What opens a block of reasoning, and what closes it."""
_AROUND_ANSWERS: Final = {
    "<answer>": "</answer>",  # DeepSeek R1-Zero, Hunyuan
    "<response>": "</response>",  # Granite 3.3, ERNIE 4.5
    "<|START_RESPONSE|>": "<|END_RESPONSE|>",
    "<|begin_of_solution|>": "<|end_of_solution|>",
}
"""What some families write around the answer when reasoning came before it."""
ENDS: Final = tuple(_TAGS.values())
"""What closes a block of reasoning."""
_HARMONY: Final = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|constrain|>")
MARKS: Final = (*_TAGS, *_TAGS.values(), *_AROUND_ANSWERS, *_AROUND_ANSWERS.values(), *_HARMONY)
"""All marks. Where they are special tokens, text that is to be split must be decoded with them kept."""
ONLY_REASONING: Final = "|".join(
    (rf"^\s*(?:{'|'.join(map(re.escape, _TAGS))})", rf"(?:{'|'.join(map(re.escape, ENDS))})\s*$")
)
"""What a text holds that is nothing but reasoning, also for Rust's expressions."""
_CLOSED: Final = re.compile("|".join(map(re.escape, _TAGS.values())))
_HARMONY_START: Final = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")
_HARMONY_MESSAGE: Final = re.compile(
    r"<\|channel\|>\s*(\w+)\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_HARMONY_BARE: Final = re.compile(r"\s*analysis(.*?)assistant(?:commentary.*?assistant)?final(.*)", re.DOTALL)
"""What is left of harmony where its special tokens were skipped in decoding."""


def split_reasoning(text: str, opened: bool = False) -> tuple[str | None, str]:
    """Return what a model thought before its answer, None if nothing, and the answer.

    Reasoning stands at the beginning: a block in tags, one that only closes because the prompt opened it, or the
    channels of harmony (gpt-oss), whose answer is the channel `final`. Marks further inside are the answer's own. A
    text without reasoning is its own answer, unchanged. Reasoning that does not end leaves an empty answer: the model
    wrote none.

    Args:
        text: what the model wrote, with special tokens where these mark reasoning.
        opened: whether the prompt ends within reasoning, see `opens_reasoning`.
    """
    if _HARMONY_START.match(text) or (opened and "<|channel|>" in text):
        return _of_channels(text)
    if (bare := _HARMONY_BARE.fullmatch(text)) is not None:
        return bare[1].strip() or None, bare[2]
    thoughts: list[str] = []
    rest, inside = text, opened or closes_unopened(text)
    while True:
        start = rest.lstrip()
        tag = next((tag for tag in _TAGS if start.startswith(tag)), None)
        if tag is not None:
            thought, closed, rest = start[len(tag) :].partition(_TAGS[tag])
        elif inside:
            thought, closed, rest = _up_to_close(rest)
        else:
            break
        thoughts.append(thought.strip())
        inside = False
        if not closed:
            break
    if not thoughts:
        return None, text
    return "\n\n".join(filter(None, thoughts)) or None, _unwrapped(rest.lstrip())


def is_only_reasoning(text: str) -> bool:
    """Whether a text is blank, or reasoning behind which no answer stands."""
    return not split_reasoning(text)[1].strip()


def outside_reasoning(text: str) -> str:
    """Return a text without any block of reasoning that is opened and closed in it, wherever it stands."""
    for opening, close in _TAGS.items():
        kept: list[str] = []
        position = 0
        while (start := text.find(opening, position)) >= 0 and (end := text.find(close, start)) >= 0:
            kept.append(text[position:start])
            position = end + len(close)
        text = "".join([*kept, text[position:]])
    return text


def opens_reasoning(prompt: str) -> bool:
    """Whether a rendered prompt ends within reasoning, so that the model closes what it did not open."""
    end = prompt.rstrip()
    return end.endswith(tuple(_TAGS)) or re.search(r"<\|channel\|>\s*analysis\s*<\|message\|>$", end) is not None


def closes_unopened(text: str) -> bool:
    """Whether a text closes reasoning that it does not open: its prompt did."""
    close = _CLOSED.search(text)
    return close is not None and not any(tag in text[: close.start()] for tag in _TAGS)


def _up_to_close(text: str) -> tuple[str, str, str]:
    close = _CLOSED.search(text)
    return (text, "", "") if close is None else (text[: close.start()], close[0], text[close.end() :])


def _unwrapped(answer: str) -> str:
    for start, end in _AROUND_ANSWERS.items():
        if answer.startswith(start):
            return answer.removeprefix(start).strip().removesuffix(end).strip()
    return answer


def _of_channels(text: str) -> tuple[str | None, str]:
    messages = [(found[1], found[2]) for found in _HARMONY_MESSAGE.finditer(text)]
    before, _, _ = text.partition("<|channel|>")
    before = re.sub(r"<\|end\|>|<\|start\|>\s*assistant\s*$", "", before)
    thoughts = [before, *(body for channel, body in messages if channel != "final")]
    answer = "".join(body for channel, body in messages if channel == "final")
    return "\n\n".join(filter(None, map(str.strip, thoughts))) or None, answer
