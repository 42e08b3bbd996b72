"""Reasoning told apart from the answer, as each family of models writes it."""

from __future__ import annotations

import pytest

from mixdpo.data.reasoning import opens_reasoning, outside_reasoning, split_reasoning

FINAL = "<|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\n2+2 is 4\n</think>\n\n4", "2+2 is 4", "4"),
        ("\n<think>2+2</think> 4", "2+2", "4"),
        ("2+2 is 4\n</think>\n\n4", "2+2 is 4", "4"),  # the prompt opened it
        ("<think>\n\n</think>\n\n4", None, "4"),
        ("<think>one</think>\n<think>two</think>\n4", "one\n\ntwo", "4"),
        ("<think>It wants </thinking> tags</think>4", "It wants </thinking> tags", "4"),
        ("<thinking>a</thinking>4", "a", "4"),
        ("<reasoning>\na\n</reasoning>\n<answer>\n4\n</answer>", "a", "4"),
        ("<think>a</think><response>4</response>", "a", "4"),
        ("[THINK]a[/THINK]4", "a", "4"),
        ("<seed:think>a</seed:think>4", "a", "4"),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>4<|END_RESPONSE|>", "a", "4"),
        ("<|channel>thought\na<channel|>4", "a", "4"),
        (f"<|channel|>analysis<|message|>Hm<|end|>{FINAL}4<|return|>", "Hm", "4"),
        (f"<|start|>assistant<|channel|>analysis<|message|>Hm<|end|>{FINAL}4", "Hm", "4"),
        (f"<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=f <|constrain|>json"
         f"<|message|>{{}}<|call|>{FINAL}4", "a\n\n{}", "4"),
        ("<|channel|>final<|message|>4", None, "4"),
        ("analysisLet me thinkassistantfinalThe Elbe", "Let me think", "The Elbe"),
    ],
)  # fmt: skip
def test_reasoning_is_split_from_the_answer(text: str, reasoning: str | None, answer: str) -> None:
    assert split_reasoning(text) == (reasoning, answer)


@pytest.mark.parametrize(
    ("text", "opened", "reasoning"),
    [
        ("<think>\nand then and then", False, "and then and then"),
        ("and then and then", True, "and then and then"),
        ("<think>a</think><think>b", False, "a\n\nb"),
        ("[THINK]a", False, "a"),
        ("<|channel|>analysis<|message|>a", False, "a"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final", False, "a"),
    ],
)
def test_reasoning_that_does_not_end_leaves_no_answer(text: str, opened: bool, reasoning: str) -> None:
    assert split_reasoning(text, opened) == (reasoning, "")


@pytest.mark.parametrize(
    "text",
    [
        "4",
        "",
        "  two spaces and a line\n",
        "DeepSeek R1 writes <think> and </think> around its reasoning.",
        "```\n<think>x</think>\n```",
        "analysis of the final",
        "Harmony writes <|channel|>analysis<|message|>.",
    ],
)
def test_text_without_reasoning_is_its_own_answer(text: str) -> None:
    assert split_reasoning(text) == (None, text)


def test_the_prompt_opens_reasoning_for_the_model() -> None:
    harmony = "<|start|>assistant<|channel|>analysis<|message|>"
    assert all(map(opens_reasoning, ("<|im_start|>assistant\n<think>\n", "[/INST][THINK]", harmony)))
    closed = ("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|start|>assistant", "")
    assert not any(map(opens_reasoning, closed))
    assert split_reasoning("Hm</think>4", opened=True) == ("Hm", "4")
    assert split_reasoning("Use <think> here</think>4", opened=True) == ("Use <think> here", "4")
    assert split_reasoning(f"Hm<|end|>{FINAL}4", opened=True) == ("Hm", "4")


@pytest.mark.parametrize(
    ("text", "outside"),
    [
        ("[[9]]", "[[9]]"),
        ("Sure. <think>maybe [[3]]</think> [[9]]", "Sure.  [[9]]"),
        ("<think>a</think>b<think>c</think>d[THINK]e[/THINK]", "bd"),
        (
            "It has no </think>, and <think> does not close: [[4]]",
            "It has no </think>, and <think> does not close: [[4]]",
        ),
    ],
)
def test_what_is_said_outside_reasoning(text: str, outside: str) -> None:
    assert outside_reasoning(text) == outside
