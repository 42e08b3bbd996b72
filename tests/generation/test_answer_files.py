from __future__ import annotations

import json

from mixdpo.generation.answer_files import read_answers


def test_answers_of_other_tools(tmp_path, refused) -> None:
    def written(name: str, rows: list[dict]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    alpaca = read_answers(written("alpaca.jsonl", [{"instruction": "Say x.", "output": "x", "generator": "m"}]))
    assert alpaca.by_prompt() == {"Say x.": "x"}
    assert alpaca.by_id() == {"0": "x"}
    mt_bench = read_answers(written("mt.jsonl", [{"question_id": 81, "choices": [{"index": 0, "turns": ["a", "b"]}]}]))
    assert mt_bench.by_id() == {"81": "a\n\nb"}
    arena = [{"role": "user", "content": "q"}, {"role": "assistant", "content": {"answer": "a"}}]
    assert read_answers(written("arena.jsonl", [{"uid": "f0", "messages": arena}])).by_id() == {"f0": "a"}
    twice = read_answers(written("twice.jsonl", [{"prompt": "p", "answer": "a"}, {"prompt": "p", "answer": "b"}]))
    refused(twice.by_prompt, "twice.jsonl", "row 2", "second, different")
    refused(lambda: read_answers(written("none.jsonl", [{"prompt": "p", "answer": 3}])), "row 1", "'answer'")
