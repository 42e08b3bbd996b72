"""What judges are shown of pairs: chats and answers, without reasoning."""

from __future__ import annotations

from mixdpo import load_pairs
from mixdpo.pairs.spoken import PairsByPrompt, spoken_pairs


def message(role: str, content: str, **more) -> dict:
    return {"role": role, "content": content, **more}


def test_texts_are_a_users_message(text_rows) -> None:
    first = next(spoken_pairs(load_pairs(text_rows)))
    assert first.chat == (("user", "Two and two?"),)
    assert first.answers == ("Four.", "Five.")
    assert not first.has_tools


def test_messages_keep_their_roles_and_lose_their_reasoning() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Ulm"}}}
    asked = [
        message("system", "Be brief."),
        message("user", "Hi"),
        message("assistant", "<think>Who is it?</think>Yes?"),
        message("user", "Rain in Ulm?"),
    ]
    chosen = [message("assistant", "", tool_calls=[call]), message("tool", "rain"),
              message("assistant", "<think>It does.</think>Yes.")]  # fmt: skip
    rejected = [message("assistant", "No.", reasoning_content="I guess.")]
    row = {
        "prompt": asked,
        "chosen": chosen,
        "rejected": rejected,
        "tools": [{"type": "function", "function": {"name": "weather"}}],
    }
    (pair,) = spoken_pairs(load_pairs([row]))
    assert pair.chat == (("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Rain in Ulm?"))
    assert pair.rejected == "No."
    assert pair.chosen.startswith("assistant: ")
    assert '"town":"Ulm"' in pair.chosen
    assert pair.chosen.endswith("tool: rain\n\nassistant: Yes.")
    assert pair.has_tools


def test_pairs_of_a_prompt_are_together(text_rows) -> None:
    rows = [text_rows[0], text_rows[1], {**text_rows[0], "chosen": "4."}]
    pairs = PairsByPrompt.of(load_pairs(rows))
    assert list(pairs.rows.values()) == [[0, 2], [1]]
    drawn = [PairsByPrompt.of(load_pairs(rows), 1, seed).rows for seed in range(6)]
    assert all(len(one) == 1 for one in drawn)
    assert {tuple(*one.values()) for one in drawn} == {(0, 2), (1,)}
