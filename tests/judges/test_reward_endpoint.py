"""A reward model behind `/classify` and `/pooling` as vLLM serves them, played by transformers' own forward pass."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from loopback import JsonHandler, serving
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.judges.find_judge import find_judge
from mixdpo.judges.judge import JudgeItem, verdict_record
from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.judges.reward_endpoint import RewardEndpointJudge
from tiny import tiny_reward_model

pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
ANSWERS = ("Paris.", "Paris is the capital of France.", "No.", "Rome", "1 2 3 4 5")
ITEMS = [JudgeItem((("user", "What is the capital of France?"),), (answer,)) for answer in ANSWERS]


class RewardServer(ThreadingHTTPServer):
    """Answers as vLLM does: a path that it does not have is 404, and `use_activation` is true unless it is said.

    Attributes:
        services: paths that it has.
        old: it does not know `use_activation`.
        faults: statuses of the next calls, the last first.
    """

    request_queue_size = 128

    def __init__(self, folder: str, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.tokenizer = tokenizer
        self.services = ["/classify", "/pooling"]
        self.old = False
        self.faults: list[int | str] = []
        self.calls: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def outputs(self, body: dict[str, Any], every_token: bool) -> tuple[list[Any], int]:
        ids = self.tokenizer.apply_chat_template(body["messages"], return_dict=False)
        with torch.inference_mode():
            rewards = self.model.score(self.model.model(torch.tensor([ids])).last_hidden_state)[0]
        if self.old or body.get("use_activation", True):
            rewards = torch.sigmoid(rewards)
        return (rewards.tolist() if every_token else rewards[-1].tolist()), len(ids)


class _Handler(JsonHandler):
    server: RewardServer

    def do_POST(self) -> None:
        body = self.body()
        self.server.calls[self.path] += 1
        self.server.bodies.append(body)
        if self.path not in self.server.services:
            return self.reply(404, json.dumps({"detail": "Not Found"}))
        if self.server.faults:
            fault = self.server.faults.pop()
            return self.refuse(fault) if isinstance(fault, int) else self.reply(200, fault)
        outputs, read = self.server.outputs(body, self.path == "/pooling")
        item = {"index": 0, "object": "pooling", "data": outputs}
        if self.path == "/classify":
            item = {"index": 0, "label": "LABEL_0", "probs": outputs, "num_classes": len(outputs)}
        usage = {"prompt_tokens": read, "total_tokens": read, "completion_tokens": 0}
        reply = {"id": "1", "object": "list", "created": 1, "model": body["model"], "data": [item], "usage": usage}
        return self.reply(200, json.dumps(reply))


@contextmanager
def reward_server(folder: Path, tokenizer: PreTrainedTokenizerFast, labels: int = 1) -> Iterator[RewardServer]:
    with serving(RewardServer(tiny_reward_model(tokenizer, folder, 0, labels), tokenizer)) as server:
        yield server


def judge_at(url: str, name: str = "rm", **settings: Any) -> RewardEndpointJudge:
    return RewardEndpointJudge(EndpointSettings(model=name, base_url=url, **settings))


def graded(judge: Any) -> list[float | None]:
    return [verdict.score for verdict in judge.judge(ITEMS, lambda reply: None)]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
def test_rewards_are_those_of_the_model_here_by_either_service(tmp_path: Path, tokenizer: Any) -> None:
    with reward_server(tmp_path / "rm", tokenizer) as server:
        here = graded(find_judge(JudgeSettings(judge=str(tmp_path / "rm"))))
        assert min(here) < 0 < max(here)  # type: ignore[type-var, operator]
        endpoint = EndpointSettings(model="rm", base_url=f"{server.url}/v1")
        judge = find_judge(JudgeSettings(judge="rm", kind="reward", endpoint=endpoint))
        assert judge.estimate(ITEMS).startswith("5 calls (0 more are cached)")
        assert graded(judge) == pytest.approx(here, abs=1e-5)
        assert server.calls == {"/classify": 5}
        assert all(body["use_activation"] is False for body in server.bodies)
        assert server.bodies[0]["messages"][-1]["role"] == "assistant"
        assert graded(judge) == pytest.approx(here, abs=1e-5)
        assert server.calls.total() == 5, "all are cached"
        assert graded(judge_at(f"{server.url}/pooling")) == pytest.approx(here, abs=1e-5)
        assert server.calls == {"/classify": 5, "/pooling": 5}
        # Two answers are compared by their rewards.
        pair = [JudgeItem(ITEMS[0].chat, (ANSWERS[0], ANSWERS[1]))]
        (verdict,) = judge.judge(pair, lambda reply: None)
        assert verdict.label == ("A>B" if here[0] > here[1] else "B>A")  # type: ignore[operator]
        record = verdict_record(judge.judge(ITEMS, lambda reply: None), judge.name)
        assert record["judge_versions"] == ["rm"]
        assert record["tokens_in"] > 50


@pytest.mark.usefixtures("own_cache")
def test_a_server_without_classify_is_asked_for_pooling(tmp_path: Path, tokenizer: Any) -> None:
    with reward_server(tmp_path / "rm", tokenizer) as server:
        server.services = ["/pooling"]
        assert None not in graded(judge_at(f"{server.url}/v1"))
        assert server.calls["/pooling"] == 5
        server.services = []
        with pytest.raises(InputError, match="does not know the model"):
            graded(judge_at(f"{server.url}/v1", name="unknown"))


@pytest.mark.usefixtures("own_cache")
def test_faults_are_survived_and_what_is_refused_is_counted(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARD_KEY", "secret-key")
    with reward_server(tmp_path / "rm", tokenizer) as server:
        judge = judge_at(f"{server.url}/classify", concurrency=1, api_key_env="REWARD_KEY")
        server.faults = [400, "no json", '{"data": []}', 500, 429]
        verdicts = judge.judge(ITEMS, lambda reply: None)
        (refused,) = [verdict for verdict in verdicts if verdict.score is None]
        assert "BadRequestError" in str(refused.reply.failure)
        assert "secret-key" not in str(refused.reply.failure)
        calls = server.calls.total()
        assert None not in graded(judge), "what was refused is asked again"
        assert server.calls.total() == calls + 1
        server.faults = [503] * 100
        with pytest.raises(RunError, match="none of 5 calls was answered"):
            graded(judge_at(f"{server.url}/pooling", max_retries=0))


@pytest.mark.usefixtures("own_cache")
def test_the_command_rates_by_such_a_server(tmp_path: Path, tokenizer: Any, capsys: Any) -> None:
    answers, rated = tmp_path / "answers.jsonl", tmp_path / "rated.jsonl"
    rows = [{"id": "q", "instruction": ITEMS[0].chat[0][1], "output": text} for text in ANSWERS]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with reward_server(tmp_path / "rm", tokenizer) as server:
        words = ["rate", str(answers), "--judge", "rm", "--judge-kind", "reward", "--endpoint", f"{server.url}/v1"]
        prices = ["--dollars-in", "1000", "--dollars-out", "0"]
        assert main([*words, *prices, "--dry-run", "-o", str(rated)]) == 0
        assert "5 calls (0 more are cached): about 50 tokens read and at most 0 written, about $0.05" in (
            capsys.readouterr().out
        )
        assert main([*words, "--token-limit", "max_completion_tokens", "-o", str(rated)]) == 2
        assert main([*words, "-o", str(rated)]) == 0
    scores = [json.loads(line)["score"] for line in rated.open()]
    assert scores == pytest.approx(graded(find_judge(JudgeSettings(judge=str(tmp_path / "rm")))), abs=1e-5)


@pytest.mark.usefixtures("own_cache")
def test_probabilities_and_several_outputs_are_no_rewards(tmp_path: Path, tokenizer: Any) -> None:
    with reward_server(tmp_path / "rm", tokenizer) as server:
        server.old = True
        with pytest.raises(InputError, match="returns probabilities"):
            graded(judge_at(f"{server.url}/v1"))
    with (
        reward_server(tmp_path / "two", tokenizer, labels=2) as server,
        pytest.raises(InputError, match="has 2 outputs"),
    ):
        graded(judge_at(f"{server.url}/v1"))
