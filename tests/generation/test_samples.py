"""Several answers to a prompt: its prompt is computed or sent once, samples have seeds, and files hold all of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from answering import QUESTIONS, report_of, rows_of, run
from loopback import Endpoint, running
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.generation.chat_model import Request
from mixdpo.generation.endpoint import complete_all, estimate
from mixdpo.generation.generate import planned_requests, settings_for
from mixdpo.generation.generation_settings import EndpointSettings, GenerationSettings
from mixdpo.generation.local_generation import answer_rendered, render_prompts
from mixdpo.generation.local_model import LocalModel
from mixdpo.generation.prompts import read_prompts
from mixdpo.models.model_settings import ModelSettings
from mixdpo.pairs.answered import read_answered
from tiny import saved, tiny_llama

Write = Callable[..., str]


# ---- settings and requests ----


def test_samples_have_seeds_of_their_own_and_single_answers_are_asked_for_as_before(questions: str) -> None:
    prompts = read_prompts(questions)
    settings = GenerationSettings(samples=3, seed=5, min_p=0.1)
    requests = planned_requests(prompts, settings)
    assert settings_for(prompts, settings).temperature == 0.8
    assert [(one.sample, one.seed, one.min_p) for one in requests[:4]] == [
        (0, 5, 0.1), (1, 6, 0.1), (2, 7, 0.1), (0, 5, 0.1),
    ]  # fmt: skip
    assert [one.messages[0][1] for one in requests[::3]] == QUESTIONS
    single = planned_requests(prompts, GenerationSettings())
    assert [(one.sample, one.seed, one.min_p, one.temperature) for one in single] == [(0, None, None, 0.0)] * 5


def test_samples_that_would_be_the_same_are_refused() -> None:
    with pytest.raises(InputError, match="3 answers at temperature 0"):
        GenerationSettings(samples=3, temperature=0)


@pytest.mark.parametrize("bound", ["top_p", "min_p"])
@pytest.mark.parametrize("temperature", [None, 0.0])
def test_bounds_of_sampling_are_refused_for_greedy_answers(
    bound: str, temperature: float | None, questions: str
) -> None:
    settings = GenerationSettings(temperature=temperature, **{bound: 0.5})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{bound} has no effect on greedy answers"):
        settings_for(read_prompts(questions), settings)


def test_prompts_of_several_turns_have_one_answer(
    jsonl: Write, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = [{"uid": "a", "prompt": "Why?"}, {"uid": "b", "turns": ["Why?", "How?"]}]
    output = tmp_path / "out.jsonl"
    assert main(["generate", jsonl(talk), "--model", str(model), "--samples", "2", "-o", str(output)]) == 2
    error = capsys.readouterr().err
    assert "uid b has 2" in error
    assert "Traceback" not in error
    assert not output.exists()


# ---- a local model ----


def test_files_hold_all_samples_and_are_read_back(jsonl: Write, model: Path, tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Why?"},
    ]
    asked = [
        {
            "prompt_id": "a",
            "instruction": "Why?",
            "input": "Say it.",
            "reference": "So.",
            "score": 3,
            "tags": ["x", "y"],
        },
        {
            "prompt_id": "b",
            "prompt": chat,
            "input": "no part of it",
            "model": "of something else",
            "reference": None,
            "score": 4,
            "chosen": [{"role": "user", "content": "x"}],
        },
    ]
    output = tmp_path / "out.jsonl"
    run(jsonl(asked), "--model", model, "--samples", 3, "--max-new-tokens", 8, "--seed", 7, "--output", output)
    rows = rows_of(output)
    assert [(row["prompt_id"], row["sample"], row["seed"]) for row in rows] == [
        (name, sample, 7 + sample) for name in "ab" for sample in range(3)
    ]
    assert {row["instruction"] for row in rows[:3]} == {"Why?\n\nSay it."}
    assert "instruction" not in rows[3]
    assert rows[3]["prompt"] == chat
    assert (rows[0]["reference"], rows[0]["tags"], rows[3]["reference"]) == ("So.", ["x", "y"], None)
    assert not {"score", "input", "chosen"} & set(rows[0])
    assert not {"score", "instruction", "chosen", "input", "model"} & set(rows[3])

    first, second = read_answered(output)
    assert (first.id, first.id_column, first.chat) == ("a", "prompt_id", (("user", "Why?\n\nSay it."),))
    assert second.chat == tuple((one["role"], one["content"]) for one in chat)
    for row, answer in zip(rows, (*first.answers, *second.answers), strict=True):
        assert (answer.text, answer.model, answer.finished, answer.tokens) == (
            row["output"], "tiny", row["finished"], row["tokens"],
        )  # fmt: skip
        names = {"sample", "seed", "reference", "tags"}
        assert answer.columns == {name: row.get(name) for name in names}


def test_one_sample_of_one_model_keeps_its_file(jsonl: Write, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    asked = [{"id": 1, "prompt": "Why?", "category": "x", "reference": "So."}]
    run(jsonl(asked), "--model", model, "--max-new-tokens", 4, "--output", output)
    assert list(rows_of(output)[0]) == ["id", "category", "instruction", "output", "generator", "tokens", "finished"]


def test_the_report_counts_what_is_empty_cut_and_the_same(
    questions: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    common = ("--model", model, "--samples", 4, "--max-new-tokens", 3)
    run(questions, *common, "--temperature", 0.3, "--output", output)
    rows, report = rows_of(output), report_of(output)
    groups = [[row["output"] for row in rows[at : at + 4]] for at in range(0, 20, 4)]
    assert report["repeated"] == sum(4 - len(set(group)) for group in groups) > 0
    assert report["prompts_all_alike"] == sum(len(set(group)) == 1 for group in groups)
    assert report["empty"] == sum(not row["output"].strip() for row in rows)
    assert report["unfinished_share"] == sum(not row["finished"] for row in rows) / 20
    assert (report["prompts"], report["answers"], report["settings"]["samples"]) == (5, 20, 4)
    assert "20 of 20" in capsys.readouterr().out
    run(questions, *common, "--output", output)
    assert "4 samples at temperature 0.8" in capsys.readouterr().out


def test_a_run_that_was_stopped_writes_what_a_whole_one_does(
    questions: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    batches_left = [99]

    def counting(model: Any, tokenizer: Any, rendered: Any, settings: Any, **options: Any) -> Any:
        if not batches_left[0]:
            raise RunError("the power is gone")
        batches_left[0] -= 1
        sizes.append(len(rendered))
        return answer_rendered(model, tokenizer, rendered, settings, **options)

    monkeypatch.setattr("mixdpo.generation.local_model.answer_rendered", counting)

    def command(name: str, *more: str | int) -> list[str]:
        common = ("--samples", 3, "--temperature", 1, "--max-new-tokens", 6, "--batch-size", 4)
        return ["generate", questions, "--model", *map(str, (model, *common, "-o", tmp_path / name, *more))]

    assert main(command("whole.jsonl")) == 0
    assert sizes == [4, 4, 4, 3]
    assert main(command("again.jsonl")) == 0
    assert sizes == [4, 4, 4, 3], "all of it is known"
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "other"))
    batches_left[0] = 2
    assert main(command("stopped.jsonl")) == 1
    assert not (tmp_path / "stopped.jsonl").exists()
    batches_left[0] = 99
    assert main(command("stopped.jsonl")) == 0
    assert sizes == [4, 4, 4, 3] * 2
    assert (tmp_path / "stopped.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert main(command("seed.jsonl", "--seed", 1)) == 0
    outputs = [[row["output"] for row in rows_of(tmp_path / name)] for name in ("whole.jsonl", "seed.jsonl")]
    assert outputs[0] != outputs[1]


def test_samples_beyond_a_batch_are_drawn_anew(questions: str, model: Path) -> None:
    requests = planned_requests(read_prompts(questions, limit=1), GenerationSettings(samples=8, max_new_tokens=8))
    texts = [one.text for one in LocalModel(ModelSettings(name_or_path=str(model)), batch_size=4).complete(requests)]
    assert texts[:4] != texts[4:]


def test_an_estimate_counts_the_prompt_of_samples_once(
    questions: str, model: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []

    def counting(tokenizer: Any, prompts: Any, *more: Any) -> list[list[int]]:
        rendered.append(len(prompts))
        return render_prompts(tokenizer, prompts, *more)

    monkeypatch.setattr("mixdpo.generation.local_model.render_prompts", counting)
    requests = planned_requests(read_prompts(questions), GenerationSettings(samples=3, max_new_tokens=6))
    read = sum(map(len, render_prompts(tokenizer, [[{"role": "user", "content": one}] for one in QUESTIONS])))
    said = LocalModel(ModelSettings(name_or_path=str(model))).estimate(requests)
    assert said == f"15 answers: {read} tokens read and at most 90 written"
    assert rendered == [5]


def test_several_models_answer_into_one_file(
    questions: str, model: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    other = saved(tiny_llama(seed=1, vocab_size=len(tokenizer), positions=512), tokenizer, tmp_path / "other" / "tiny")
    output = tmp_path / "out.jsonl"
    common = (questions, "--model", model, "--max-new-tokens", 6, "--output", output)
    assert main(["generate", *map(str, common), "--model", other]) == 2
    assert "a second model called tiny" in capsys.readouterr().err
    run(*common, "--model", f"second={other}", "--dry-run")
    assert "by second: 5 answers" in capsys.readouterr().out
    run(*common, "--model", f"second={other}")
    rows = rows_of(output)
    assert [row["generator"] for row in rows] == ["tiny", "second"] * 5
    alone = tmp_path / "alone.jsonl"
    run(questions, "--model", other, "--max-new-tokens", 6, "--output", alone)
    assert [row["output"] for row in rows[1::2]] == [row["output"] for row in rows_of(alone)]
    assert report_of(output)["models"]["second"] == report_of(alone)
    assert [len(prompt.answers) for prompt in read_answered(output)] == [2] * 5


# ---- an endpoint ----

N = 4
needs_openai = pytest.mark.skipif(find_spec("openai") is None, reason="calls to an endpoint need the extra eval")


class Samples:
    """What an endpoint answers: to each seed another text, as engines do that count seeds up over the answers.

    Attributes:
        most: answers to a call; 0 refuses calls for several.
        answered: how often a text was sent.
        slow: calls that are answered too late.
    """

    def __init__(self, most: int = N) -> None:
        self.most = most
        self.slow = 0
        self.answered: Counter[tuple[str, int]] = Counter()
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> list[str] | int:
        wanted = body.get("n", 1)
        if wanted > 1 and self.most == 0:
            return 400
        if self.slow:
            self.slow -= 1
            time.sleep(1)
            return 500
        count = min(wanted, self.most or 1)
        question = body["messages"][-1]["content"]
        seeds = range(body["seed"], body["seed"] + count)
        with self.lock:
            self.answered.update((question, seed) for seed in seeds)
        return [f"{question} {seed}" for seed in seeds]


def sampled(count: int, seed: int = 10) -> list[Request]:
    return [
        Request(messages=(("user", f"question {i}"),), max_tokens=9, temperature=1.0, seed=seed + k, sample=k)
        for i in range(count)
        for k in range(N)
    ]


def settings(server: Endpoint, **changes: Any) -> EndpointSettings:
    return EndpointSettings(**{"model": "far", "base_url": server.url, "concurrency": 2, **changes})


@needs_openai
@pytest.mark.parametrize(("most", "calls"), [(N, 6), (1, 6 * N), (3, 1 + 1 + 5 * N), (0, 3 + 6 * N)])
def test_no_answered_sample_is_asked_for_twice(most: int, calls: int) -> None:
    """Of endpoints that know `n`, answer once whatever it is, answer three times at most, or refuse it."""
    samples = Samples(most)
    with running(samples) as server:
        replies = complete_all(sampled(6), settings(server, concurrency=1))
        assert [reply.text for reply in replies] == [f"question {i} {10 + k}" for i in range(6) for k in range(N)]
        assert samples.answered == {(f"question {i}", 10 + k): 1 for i in range(6) for k in range(N)}
        assert len(server.bodies) == calls
        assert replies[-1].tokens_out == (0 if most == N else 3), "of several answers the usage is of all"
        assert complete_all(sampled(6), settings(server)) == replies
        assert len(server.bodies) == calls
        cost = estimate(sampled(7), settings(server))
        assert (cost.calls, cost.calls_at_once, cost.cached) == (N, 1, 6 * N)


@needs_openai
@pytest.mark.parametrize("most", [N, 1, 0])
def test_faults_lose_no_sample_and_no_answer_comes_twice(most: int) -> None:
    samples = Samples(most)
    samples.slow = 1
    with running(samples) as server:
        server.faults = [429, 500, '{"choices": []}', "no JSON", '{"choices": [{"message": null}]}', 503, 429]
        replies = complete_all(sampled(8), settings(server, timeout=0.5, concurrency=4))
        assert [reply.text for reply in replies] == [f"question {i} {10 + k}" for i in range(8) for k in range(N)]
        assert set(samples.answered.values()) == {1}
        assert len(samples.answered) == 8 * N


@needs_openai
def test_a_prompt_that_is_refused_does_not_stand_for_the_others() -> None:
    samples = Samples()
    with running(lambda body: 400 if "question 0" in str(body) else samples(body)) as server:
        for _ in range(2):  # at first nothing is known of the endpoint, in the second run neither
            replies = complete_all(sampled(6), settings(server, concurrency=1))
            assert [reply.failure is None for reply in replies] == [False] * N + [True] * 5 * N
        assert set(samples.answered.values()) == {1}
        assert [body["n"] for body in server.bodies if "n" in body] == [N] * 6 + [N]


@needs_openai
def test_a_choice_that_is_missing_in_a_reply_is_asked_for_singly() -> None:
    samples = Samples()
    with running(samples) as server:
        good, bad = {"message": {"role": "assistant", "content": "kept"}, "finish_reason": "stop"}, {"message": None}
        server.faults = [json.dumps({"model": "far", "choices": [good, bad, good, good]})]
        replies = complete_all(sampled(2), settings(server, concurrency=1))
        assert [reply.text for reply in replies[:N]] == ["kept", "question 0 11", "kept", "kept"]
        assert [body.get("n") for body in server.bodies] == [N, N, None]


@needs_openai
def test_what_only_open_servers_take_and_the_seeds_are_sent(questions: str, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with running(Samples()) as server:
        far = (questions, "--model", "far", "--model", "b=near", "--endpoint", server.url)
        run(*far, "--samples", N, "--min-p", 0.05, "--top-p", 0.9, "--seed", 3, "--output", output)
        body = server.bodies[0]
    assert (body["n"], body["seed"], body["min_p"], body["top_p"], body["temperature"]) == (N, 3, 0.05, 0.9, 0.8)
    rows = rows_of(output)
    assert [row["generator"] for row in rows[:4]] == ["far", "b", "far", "b"]
    assert all(row["output"] == f"{row['instruction']} {row['seed']}" for row in rows)
    assert {row["tokens"] for row in rows} == {None}


@pytest.mark.slow
@needs_openai
def test_a_run_by_an_endpoint_that_was_killed_goes_on(questions: str, tmp_path: Path) -> None:
    samples, held, release = Samples(), threading.Event(), threading.Event()
    calls: list[Any] = []

    def answer(body: dict[str, Any]) -> list[str] | int:
        calls.append(body)
        if len(calls) == 3:
            held.set()
            release.wait()
            return 500
        return samples(body)

    output = tmp_path / "out.jsonl"
    with running(answer) as server:
        command = [questions, "--model", "far", "--endpoint", server.url, "--samples", str(N), "--batch-size", "1"]
        command += ["--output", str(output)]
        killed = subprocess.Popen([sys.executable, "-m", "mixdpo", "generate", *command])
        assert held.wait(300)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        release.set()
        assert not output.exists()
        run(*command)
    assert len(samples.answered) == len(rows_of(output)) == len(QUESTIONS) * N
    assert set(samples.answered.values()) == {1}
    assert len(calls) == len(QUESTIONS) + 1
