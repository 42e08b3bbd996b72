"""Calls over a real socket that fails in every way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from loopback import FIRST_TOKENS, Endpoint
from mixdpo.common.errors import InputError, RunError
from mixdpo.common.urls import hidden_parts, shown_url
from mixdpo.generation.chat_model import Request
from mixdpo.generation.endpoint import EndpointModel, complete_all, estimate
from mixdpo.generation.endpoint_calls import scrubbed
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.reply_cache import reply_cache


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


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            '{"error": {"message": "too many users", "code": 502}}',
            "place of an answer (too many users)",
        ),
        ('{"error": "overloaded"}', "place of an answer (overloaded)"),
        ('{"choices": null}', "it has no choices"),
        ('{"choices": []}', "it has no choices"),
        ('{"choices": [{"index": 0, "finish_reason": "stop", "message": null}]}', "a choice without a message"),
        ('{"choices": [{"finish_reason": "stop", "message": {"content": {"text": "a"}}}]}', "neither text nor a list"),
    ],
)
def test_what_is_malformed_in_a_reply_is_said(reply: str, words: str, server: Endpoint) -> None:
    server.faults = [reply] * 3  # so often a malformed reply is asked for
    failure, *others = [
        one.failure for one in complete_all(requests(3), settings(server, concurrency=1, max_retries=0))
    ]
    assert others == [None, None]
    assert failure is not None
    assert failure.startswith("malformed reply: ")
    assert words in failure


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


def test_what_may_be_a_key_in_the_url_is_shown_nowhere(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "secret-key")
    host = server.url.removesuffix("/v1")
    secret = settings(server, base_url=f"{host}/api/hidden-1/v1", max_retries=0)
    assert EndpointModel(secret).record()["base_url"] == f"{host}/api/.../v1"
    for fault, error in ((401, InputError), (404, InputError), (400, RunError)):
        server.faults = [fault]
        with pytest.raises(error) as caught:
            complete_all(requests(1), secret)
        assert f"{host}/api/.../v1" in str(caught.value)
        assert "hidden-1" not in str(caught.value)
    failures = [scrubbed(ValueError(f"no route {host}/api/hidden-1/v1/chat"), hidden_parts(secret.base_url))]
    assert failures == [f"no route {host}/api/[key]/v1/chat"]
    for url in ("http://me:hidden@h/v1", "http://h/v1?key=hidden", "http://h/v1#hidden", "htp://h/hidden", "hidden"):
        with pytest.raises(InputError) as refused:
            settings(server, base_url=url)
        assert "hidden" not in str(refused.value)


def test_urls_are_shown_without_what_may_be_a_key() -> None:
    shown = {
        "https://api.openai.com/v1": "https://api.openai.com/v1",
        "https://openrouter.ai/api/v1/": "https://openrouter.ai/api/v1/",
        "http://[::1]:8000/v1beta": "http://[::1]:8000/v1beta",
        "https://me:hidden@host/v1/hidden?key=hidden#hidden": "https://host/v1/...",
        "https://[half/hidden": "the URL",
    }
    assert {url: shown_url(url) for url in shown} == shown


def test_a_notebook_whose_loop_is_running_can_ask(server: Endpoint) -> None:
    async def cell() -> list[Any]:
        return complete_all(requests(2), settings(server))

    assert [reply.text for reply in asyncio.run(cell())] == ["m", "m"]
