"""Conversations kept as text are cut where an answer is announced, never within what somebody says."""

from __future__ import annotations

from typing import Any

import pytest

from mixdpo import load_pairs
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs
from mixdpo.data.prompts import DropPair, split_repeated, split_text
from mixdpo.data.turns import announces_answer, extra_turn

OPENINGS: dict[str, str] = {
    "ChatML": "<|im_start|>user\nAdd<|im_end|>\n<|im_start|>assistant\n",
    "Phi-4": "<|im_start|>user<|im_sep|>Add<|im_end|><|im_start|>assistant<|im_sep|>",
    "Llama 3": "<|start_header_id|>user<|end_header_id|>\n\nAdd<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "Llama 4": "<|header_start|>user<|header_end|>\n\nAdd<|eot|><|header_start|>assistant<|header_end|>\n\n",
    "Gemma": "<start_of_turn>user\nAdd<end_of_turn>\n<start_of_turn>model\n",
    "Mistral": "<s>[INST] Add [/INST]",
    "Zephyr": "<|user|>\nAdd</s>\n<|assistant|>\n",
    "DeepSeek": "<｜User｜>Add<｜Assistant｜>",
    "gpt-oss": "<|start|>user<|message|>Add<|end|><|start|>assistant",
    "Command-R": "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Add<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "Granite": "<|start_of_role|>user<|end_of_role|>Add<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "OpenChat": "GPT4 Correct User: Add<|end_of_turn|>GPT4 Correct Assistant:",
    "Alpaca": "### Instruction:\nAdd\n\n### Response:\n",
    "Vicuna on one line": "A chat. USER: Add ASSISTANT:",
    "Vicuna": "A chat.\n\nUSER: Add\nASSISTANT:",
    "HH": "\n\nHuman: Add\n\nAssistant:",
    "User and AI": "User: Add\nAI:",
    "Human and Bot": "Human: Add\nBot:",
    "Question and answer": "Question: Add\nAnswer:",
    "Q and A": "Q: Add\nA:",
    "MCQ": "Human: Which?\nA: one\nB: two\n\nAssistant:",
}
BEGINNING = " Work:\nQ: What?\nA: 1+1\nBot: no\nAnswer: "


@pytest.mark.parametrize("family", OPENINGS)
def test_a_line_within_an_answer_is_no_turn(family: str) -> None:
    opening = OPENINGS[family]
    shared = BEGINNING if family != "Q and A" else " Work:\nA: 1+1\nAnswer: "
    prompt, chosen, rejected = split_text(None, f"{opening}{shared}2", f"{opening}{shared}3")
    assert (prompt, chosen, rejected) == (opening, f"{shared}2", f"{shared}3")
    assert announces_answer(prompt)


@pytest.mark.parametrize("family", sorted(OPENINGS))
def test_the_last_turn_that_both_share_ends_the_prompt(family: str) -> None:
    opening = OPENINGS[family]
    again = f"{opening} 2\n{opening}"
    assert split_text(None, f"{again} 4", f"{again} 5")[0] == again
    assert split_text(None, f"{opening} 2\n{opening} 4", f"{opening} 3\n{opening} 4")[0] == opening


@pytest.mark.parametrize(
    "opening", ["\n\nHuman: Name a ", "<|im_start|>user\nName a ", "[INST] Name a ", "User: Pick\nA: one\nB: "]
)
def test_the_users_words_are_never_cut(opening: str) -> None:
    with pytest.raises(DropPair, match="no_shared_prompt"):
        split_text(None, f"{opening}river", f"{opening}lake")


def test_prompts_that_only_are_shared_words_are_counted(jsonl: Any) -> None:
    rows = [{"chosen": f"{start} {a}", "rejected": f"{start} {b}"}
            for start, a, b in (("Quantum computing is", "fun", "dull"), ("Human: Q?\n\nAssistant:", "yes", "no"),
                                ("So it is.\nAnswer:", "2", "3"))]  # fmt: skip
    pairs, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert pairs["prompt"][0] == "Quantum computing is"
    assert report.sources[0].doubted == {"unmarked_prompt": 2}
    assert report.sources[0].doubted_rows == {"unmarked_prompt": ["1", "3"]}


def test_text_answers_that_begin_with_the_prompt(jsonl: Any) -> None:
    rows = [{"prompt": f"River {i}?", "chosen": f"River {i}?\nElbe", "rejected": f"River {i}? No"} for i in range(9)]
    alone = {"prompt": "A lake?", "chosen": "Bodensee", "rejected": "none"}
    pairs, report = read_pairs(DataSettings(path=jsonl([*rows, alone])))
    assert (pairs[0]["prompt"], pairs[0]["chosen"], pairs[0]["rejected"]) == ("River 0?", "\nElbe", " No")
    assert (pairs[9]["prompt"], pairs[9]["chosen"]) == ("A lake?", "Bodensee")
    assert report.sources[0].notes == ("pairs whose answers began with the prompt, which was taken off: 9",)
    few = load_pairs(jsonl([rows[0], alone, alone], "few.jsonl"))
    assert few["chosen"][0] == "River 0?\nElbe", "one of three may begin like its prompt by chance"


@pytest.mark.parametrize("family", OPENINGS)
def test_a_further_turn_of_the_users_is_no_part_of_an_answer(family: str) -> None:
    opening = OPENINGS[family]
    script = " 2\nPrompter: so?"  # a line of another word is one of the answer's
    assert extra_turn(opening, script) is None
    end = extra_turn(opening, f"{script}\n{opening} 4")
    assert end is not None
    assert f"{script}\n{opening} 4"[:end].strip().removesuffix("A chat.").strip() == script.strip()


@pytest.mark.parametrize("with_prompt", [True, False])
def test_answers_end_before_a_further_turn(with_prompt: bool, jsonl: Any) -> None:
    opening, more = "\n\nHuman: Name a river\n\nAssistant:", "\n\nHuman: thanks"
    answers = [(" The Elbe." + more, " Water."), (" The Elbe.", " The Elbe." + more), (" a", " b"),
               (" The Elbe.", f" Water.{more}\n\nAssistant: Bye."), (" x", more)]  # fmt: skip
    rows: list[dict[str, Any]] = [{"prompt": opening, "chosen": one, "rejected": two} for one, two in answers]
    if not with_prompt:
        rows = [{side: opening + row[side] for side in ("chosen", "rejected")} for row in rows]
    pairs, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert list(zip(pairs["chosen"], pairs["rejected"], strict=True)) == [
        (" The Elbe.", " Water."), (" a", " b"), (" The Elbe.", " Water.")]  # fmt: skip
    source = report.sources[0]
    assert source.doubted == {"extra_turn": 2}
    assert source.doubted_rows == {"extra_turn": ["1", "4"]}
    assert source.dropped == {"identical_completions": 1, "empty_completion": 1}
    assert list(source.dropped_details["identical_completions"]) == ["up to a further turn of the user's"]


def test_a_word_of_another_kind_within_an_answer_ends_no_prompt() -> None:
    opening = "Question: Add 1 and 1\n\nAssistant:"
    shared = " Work: 1+1\nAnswer:"
    assert split_text(None, f"{opening}{shared} 2", f"{opening}{shared} 3")[0] == opening
    assert announces_answer(opening)
    again = f"{opening} 2\n\n{opening}"
    assert split_text(None, f"{again} 2", f"{again} 3")[0] == again
    choice = "Question: Which?\nA: one\nB: two\nAnswer:"
    assert split_text(None, f"{choice} one", f"{choice} two")[0] == choice
    quoted = "Q: Write a dialogue.\nA:"
    assert split_text(None, f"{quoted} So:\nAssistant: 2", f"{quoted} So:\nAssistant: 3")[0] == quoted


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "expected"),
    [
        ("Add", "Human: Add\n\nAssistant: 2", "Human: Add\n\nAssistant: 3", ("Human: Add\n\nAssistant:", " 2", " 3")),
        ("Q: Add\nA:", "Q: Add\nA: 2", "Q: Add\nA: 3", ("Q: Add\nA:", " 2", " 3")),
        ("def", "define it", "defer", None),
        ("Hi", "Hi", "Hi you", None),
        ("Hi", "Hello", "Hi you", None),
        (" ", " a", " b", None),
    ],
)
def test_whole_texts_beside_a_prompt(prompt: str, chosen: str, rejected: str, expected: Any) -> None:
    assert split_repeated(prompt, chosen, rejected) == expected
