"""Calls over a real socket that fails in every way, and annotators against stored judgements."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from loopback import FIRST_TOKENS, Endpoint
from mixdpo.common.errors import InputError, RunError
from mixdpo.common.table_files import read_table
from mixdpo.evaluation.benchmarks.alpaca_eval import first_token_score, is_swapped, preference, ranking_score
from mixdpo.generation.completion import Request
from mixdpo.generation.endpoint import complete_all, estimate
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.reply_cache import reply_cache
from mixdpo.judges.prompt import JudgePrompt, fill
from published import published


def lines(path: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


def test_stored_order_and_preferences_of_alpaca_eval() -> None:
    folder = published("alpaca_eval")
    for row in lines(folder / "instructions.jsonl.gz"):
        assert is_swapped(row["instruction"]) == row["switched"]
    vectors = lines(folder / "parser_vectors_vicuna-13b-v1.5.jsonl.gz")
    assert len(vectors) > 100
    for row in vectors:
        if row["top_logprobs"] is None:  # identical answers, which no judge saw
            assert row["preference"] == 1.5
            continue
        score = first_token_score([tuple(pair) for pair in row["top_logprobs"]])
        found = preference(score, row["switched"])
        assert found == pytest.approx(row["preference"], abs=1e-9)


def test_preferences_that_cannot_be_read() -> None:
    assert math.isnan(first_token_score([("The", -0.1)]))
    assert first_token_score([("m", -0.1)]) == 1
    assert preference(None, True) is None
    assert ranking_score('[{"model": "model_1", "rank": 2}, {"model": "model_2", "rank": 1}]') == 0
    assert ranking_score("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]") == 1
    for text in ("", "both are good", "[1, 2]", '[{"model": "model_1", "rank": 1}]', "[__import__('os')]"):
        assert math.isnan(ranking_score(text))


def test_templates_are_filled_in_one_pass() -> None:
    assert fill("{a} {b} {c}", {"a": "{b}", "b": "{a}"}) == "{b} {a} {c}"
    with pytest.raises(InputError, match=r"no placeholder \{d\}"):
        JudgePrompt((("user", "{a}"),)).filled({"d": ""})


def settings(server: Endpoint, **changes: Any) -> EndpointSettings:
    values = {"model": "judge", "base_url": server.url, "api_key_env": "TEST_KEY"}
    return EndpointSettings(**{**values, "concurrency": 2, **changes})


def requests(count: int) -> list[Request]:
    return [
        Request(messages=(("user", f"question {i}"),), max_tokens=1, temperature=0.0, top_logprobs=5)
        for i in range(count)
    ]


def test_nothing_is_lost_to_faults_and_nothing_is_asked_twice(
    server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "secret-key")
    server.faults = [429, 500, '{"choices": []}', 503, 429]
    replies = complete_all(requests(12), settings(server))
    assert [reply.failure for reply in replies] == [None] * 12
    assert replies[0].first_token == FIRST_TOKENS
    assert replies[0].model == "judge-2026"
    assert len(server.bodies) == 12 + 5
    assert server.keys == {"Bearer secret-key"}
    assert complete_all(requests(12), settings(server)) == replies
    assert len(server.bodies) == 12 + 5
    assert estimate(requests(14), settings(server)).calls == 2


def test_a_call_that_keeps_failing_is_counted_and_tried_again_next_time(server: Endpoint) -> None:
    server.faults = [400]
    first = complete_all(requests(3), settings(server, concurrency=1, max_retries=0))
    assert [reply.failure is None for reply in first] == [False, True, True]
    assert all(reply.failure is None for reply in complete_all(requests(3), settings(server)))
    assert len(server.bodies) == 4


def test_a_key_that_is_refused_later_ends_a_run_that_goes_on(server: Endpoint) -> None:
    kept = complete_all(requests(3), settings(server))
    server.answer = lambda body: 403
    said: list[tuple[int, int]] = []
    with pytest.raises(InputError, match="refuses the key"):
        complete_all(requests(60), settings(server), lambda *done: said.append(done))
    assert len(server.bodies) < 3 + 30, "it stops after 16 and what was on its way"
    assert said[0] == (3, 60)
    assert complete_all(requests(3), settings(server)) == kept
    # Prompts that a provider refuses, and not the key, are sent alone when such a run is repeated.
    server.answer = lambda body: 403 if "question 4" in body["messages"][0]["content"] else "m"
    for _ in range(2):
        replies = complete_all(requests(6), settings(server))
        assert [reply.failure is None for reply in replies] == [True] * 4 + [False, True]


def test_a_cache_that_cannot_be_opened_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("")
    (tmp_path / "out.json.unfinished").write_text("")
    for folder, hint in ((None, "MIXDPO_CACHE"), (tmp_path / "cache" / "answers", "MIXDPO_CACHE"),
                         (tmp_path / "out.json.unfinished", "choose another --output")):  # fmt: skip
        with pytest.raises(InputError, match=f"cannot be opened .*{hint}"), reply_cache(folder):
            pass


def test_the_key_is_in_no_message(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "secret-key")
    server.faults = [401]
    with pytest.raises(InputError, match="TEST_KEY") as caught:
        complete_all(requests(1), settings(server))
    assert "secret-key" not in str(caught.value)
    server.faults = [400]
    with pytest.raises(RunError) as failed:
        complete_all(requests(1), settings(server, max_retries=0))
    assert "secret-key" not in str(failed.value)


def test_a_notebook_whose_loop_is_running_can_ask(server: Endpoint) -> None:
    async def cell() -> list[Any]:
        return complete_all(requests(2), settings(server))

    assert [reply.text for reply in asyncio.run(cell())] == ["m", "m"]


def test_tables_with_line_breaks_and_cut_files(tmp_path: Path) -> None:
    rows = [("one\n" * 50, "x" * 500)] * 3000  # more than a block of Arrow's reader
    with (tmp_path / "long.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "answer"), *rows])
    assert read_table(tmp_path / "long.csv").columns["prompt"] == [row[0] for row in rows]
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    for name, content in (("cut.jsonl.gz", whole[:-20]), ("spoilt.jsonl.gz", whole[:12] + b"\xff" * 9 + whole[21:])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_table(tmp_path / name)
