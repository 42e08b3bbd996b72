"""From prompts to pairs in one go: every stage is done once, whatever comes between, and by the same settings."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from judge_server import proxy
from loopback import Endpoint, running
from mixdpo import load_pairs
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.generation import answer_prompts
from mixdpo.generation.generation_settings import EndpointSettings, GenerationSettings
from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.pairs import from_prompts
from mixdpo.pairs.from_prompts import PairFiles, Prompts, pairs_from_prompts, planned
from mixdpo.pairs.pair_making_settings import PairMakingSettings
from mixdpo.pairs.selection_settings import SelectionSettings
from tiny import byte_level_tokenizer, saved, tiny_llama

LENGTH = """import json, sys
for line in sys.stdin:
    print(len(json.loads(line)["answer"]))
"""


@pytest.fixture
def judge(tmp_path: Path) -> str:
    (tmp_path / "judge").mkdir()
    script = tmp_path / "judge" / "length.py"
    script.write_text(LENGTH)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{n}", "prompt": f"River {n}?"}) + "\n" for n in range(6)))
    return path


def says(body: dict[str, Any]) -> str:
    """Answers of other words and another length for each seed."""
    question, seed = body["messages"][-1]["content"], body["seed"]
    return " ".join(f"{question}-{seed}-{word}" for word in range(3 + seed % 5))


def command(prompts: Path, endpoint: Endpoint, judge: str, output: Path, *more: str) -> list[str]:
    return [
        "pairs", str(prompts), "--model", "m", "--endpoint", endpoint.url, "--samples", "4", "--max-new-tokens", "20",
        "--judge", judge, "--judge-kind", "program", "--select", "best-worst", "-o", str(output), *more,
    ]  # fmt: skip


def test_prompts_become_pairs_whose_margins_are_the_judges(
    prompts: Path, judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "pairs.parquet"
    with running(says) as endpoint:
        assert main(command(prompts, endpoint, judge, output, "--dry-run")) == 0
        planned_lines = capsys.readouterr().out
        assert (endpoint.bodies, output.parent.exists()) == ([], False)
        assert main(command(prompts, endpoint, judge, output)) == 0
        calls = len(endpoint.bodies)
    assert calls == 24
    assert "24 calls" in planned_lines
    assert "4 samples at temperature 0.8" in planned_lines
    assert "24" in planned_lines.split("ratings of")[1]
    pairs = load_pairs(output)
    assert len(pairs) == 6
    for pair in pairs:
        for side in ("chosen", "rejected"):
            assert pair[f"score_{side}"] == len(pair[side][0]["content"])
    names = {path.name for path in output.parent.iterdir()}
    assert names == {
        "pairs.parquet", "pairs.report.json", "pairs.stages.json", "pairs.answers.jsonl", "pairs.answers.report.json",
        "pairs.rated.jsonl", "pairs.rated.report.json",
    }  # fmt: skip
    assert "best-worst *" in capsys.readouterr().out


def test_what_the_chat_template_is_told_of_a_prompt_comes_to_its_pairs(judge: str, tmp_path: Path) -> None:
    """Training renders the prompt as it was rendered when it was answered."""
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "pairs.parquet"
    told = {"prompt": "A river?", "chat_template_kwargs": {"enable_thinking": False}}
    prompts.write_text(json.dumps(told) + "\n" + json.dumps({"prompt": "A lake?"}) + "\n")
    with running(says) as endpoint:
        assert main(command(prompts, endpoint, judge, output)) == 0
        sent = {body["messages"][-1]["content"]: body.get("chat_template_kwargs") for body in endpoint.bodies}
    assert sent == {"A river?": {"enable_thinking": False}, "A lake?": None}
    found = {pair["prompt"][-1]["content"]: pair["chat_template_kwargs"] for pair in load_pairs(output)}
    assert found == {"A river?": '{"enable_thinking":false}', "A lake?": None}


def test_what_is_planned_has_the_columns_that_the_judge_prompt_has_places_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, judge_prompt = tmp_path / "prompts.jsonl", tmp_path / "judge.txt"
    asks = "{question}\n{reference}\n{answer}\nSay a number from 1 to 10 in a last line, as in [[5]]."
    judge_prompt.write_text(asks)
    url = "http://localhost:9/v1"
    words = ["pairs", str(prompts), "--model", "m", "--endpoint", url, "--judge", "j", "--judge-endpoint", url]
    words += ["--judge-prompt", str(judge_prompt), "--dry-run", "-o", str(tmp_path / "pairs.parquet")]
    prompts.write_text(json.dumps({"prompt": "A river?", "reference": "The Elbe."}) + "\n")
    assert main(words) == 0
    assert "ratings of j: 8 calls" in capsys.readouterr().out
    prompts.write_text(json.dumps({"prompt": "A river?"}) + "\n")
    assert main(words) == 2
    assert "{reference}" in capsys.readouterr().err


@pytest.mark.parametrize("dies_in", ["rate", "make_pairs"])
def test_a_run_that_was_stopped_asks_nothing_twice(
    dies_in: str, prompts: Path, judge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "pairs.jsonl"
    with running(says) as endpoint:
        with monkeypatch.context() as patch:
            original = getattr(from_prompts, dies_in)

            def dies(*arguments: Any, **more: Any) -> Any:
                original(*arguments, **more)
                raise KeyboardInterrupt

            patch.setattr(from_prompts, dies_in, dies)
            assert main(command(prompts, endpoint, judge, output)) == 130
        assert not output.exists()
        assert main(command(prompts, endpoint, judge, output)) == 0
        assert len(endpoint.bodies) == 24
        before = output.read_text()
        assert main(command(prompts, endpoint, judge, output)) == 0
        assert (output.read_text(), len(endpoint.bodies)) == (before, 24)


def test_a_run_that_was_stopped_at_the_report_of_its_answers_goes_on(
    prompts: Path, judge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "pairs.jsonl"
    with running(says) as endpoint:
        with monkeypatch.context() as patch:
            patch.setattr(answer_prompts, "write_json", dies)
            assert main(command(prompts, endpoint, judge, output)) == 130
        assert main(command(prompts, endpoint, judge, output)) == 0
        assert len(endpoint.bodies) == 24


def test_answers_of_other_settings_are_refused_and_another_rule_is_not(
    prompts: Path, judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pairs.jsonl"
    with running(says) as endpoint:
        assert main(command(prompts, endpoint, judge, output)) == 0
        assert main(command(prompts, endpoint, judge, output, "--temperature", "0.5")) == 2
        assert "generation.temperature" in capsys.readouterr().err
        assert main(command(prompts, endpoint, judge, output, "--select", "all", "--batch-size", "2")) == 0
        assert len(load_pairs(output)) == 36
        assert len(endpoint.bodies) == 24
        assert main(command(prompts, endpoint, judge, output, "--dry-run")) == 0
        assert "answers and ratings are there" in capsys.readouterr().out
        (tmp_path / "pairs.rated.jsonl").unlink()
        assert main(command(prompts, endpoint, judge, output, "--dry-run")) == 0
        assert "answers are there" in capsys.readouterr().out


def making(judge: str, **more: Any) -> PairMakingSettings:
    return PairMakingSettings(
        generation=GenerationSettings(samples=4, max_new_tokens=12),
        judge=JudgeSettings(judge=judge, kind="program"),
        selection=SelectionSettings(select=("best-worst",), keep_cut=True),
        **more,
    )


def test_too_many_failed_or_empty_answers_end_the_run(prompts: Path, judge: str, tmp_path: Path) -> None:
    files, asked = PairFiles(folder=tmp_path / "made"), Prompts(source=str(prompts))

    def partly(body: dict[str, Any]) -> str | int:
        return 400 if body["seed"] == 3 else says(body)

    with running(partly) as endpoint:
        models = {"m": EndpointSettings(model="m", base_url=endpoint.url, max_retries=0)}
        with pytest.raises(RunError, match="6 failed and 0 are empty"):
            pairs_from_prompts(making(judge), models, asked, files)
        endpoint.answer = says
        done = len(endpoint.bodies)
        made = pairs_from_prompts(making(judge), models, asked, files)
        assert len(made.pairs) == 6
        assert len(endpoint.bodies) == done + 6, "only what failed is asked again"
        endpoint.answer = lambda body: {"finish_reason": "length", "message": {"content": "<think>no end"}}
        with pytest.raises(RunError, match="no prompt was answered"):
            pairs_from_prompts(making(judge), models, asked, PairFiles(folder=tmp_path / "empty"))


def test_a_few_answers_that_failed_are_counted(
    prompts: Path, judge: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def mostly(body: dict[str, Any]) -> str | int:
        return 400 if (body["seed"], body["messages"][-1]["content"]) == (3, "River 0?") else says(body)

    with running(mostly) as endpoint:
        models = {"m": EndpointSettings(model="m", base_url=endpoint.url, max_retries=0)}
        pairs_from_prompts(making(judge), models, Prompts(source=str(prompts)), PairFiles(folder=tmp_path / "made"))
    assert "m: of 24 answers 1 failed and 0 are empty" in caplog.text


def test_one_answer_to_a_prompt_is_refused(prompts: Path, judge: str, tmp_path: Path) -> None:
    settings = PairMakingSettings(generation=GenerationSettings(), judge=JudgeSettings(judge=judge, kind="program"))
    models = {"m": EndpointSettings(model="m", base_url="http://127.0.0.1:9/v1")}
    with pytest.raises(InputError, match="set samples to 2"):
        pairs_from_prompts(settings, models, Prompts(source=str(prompts)), PairFiles(folder=tmp_path))
    with pytest.raises(InputError, match="no judge"):
        PairMakingSettings(judge=[])


def test_a_local_model_answers(prompts: Path, judge: str, tmp_path: Path) -> None:
    from mixdpo.models.model_settings import ModelSettings

    tokenizer = byte_level_tokenizer()
    model = saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")
    models = {name: ModelSettings(name_or_path=model) for name in ("first", "second")}
    asked, files = Prompts(source=str(prompts), limit=3), PairFiles(folder=tmp_path / "made")
    lines = list(planned(making(judge), models, asked, files))
    assert [line.split(":")[0] for line in lines[:2]] == ["answers of first", "answers of second"]
    made = pairs_from_prompts(making(judge, batch_size=4), models, asked, files)
    assert made.report["prompts"]["read"] == 3
    assert made.report["answers"]["read"] == 24
    assert made.report["answers"]["left_out"]["identical"]["answers"] >= 12, "two names of one model"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--samples", "4"], "--model answers"),
        (["--judge", "x"], "--model answers"),
        (["--model", "m"], "--judge and --output"),
        (["--model", "m", "--judge", "j", "-o", "p.jsonl", "--judge-concurrency", "3"], "--judge-endpoint"),
        (["--model", "m", "--judge", "j", "-o", "p.jsonl", "--timeout", "3"], "without --endpoint"),
    ],
)
def test_options_without_effect_are_refused(
    more: list[str], words: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["pairs", str(prompts), *more]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_shot_dead_in_either_stage_asks_nothing_twice(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 answers and 24 grades by one server, behind a proxy that fails now and then; shot in both stages."""
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "pairs.jsonl"

    def both(body: dict[str, Any]) -> str:
        return f"[[{len(body['messages'][0]['content']) % 10 + 1}]]" if body["model"] == "judge" else says(body)

    with running(both) as endpoint, proxy(endpoint.url.removesuffix("/v1")) as server:
        words = [
            "pairs", str(prompts), "--model", "m", "--endpoint", server.url, "--samples", "4",
            "--max-new-tokens", "20",
            "--judge", "judge", "--judge-endpoint", server.url, "--judge-concurrency", "1", "--batch-size", "1",
            "-o", str(output),
        ]  # fmt: skip
        server.faults = [429, "no json", 500]
        for held in (3 + 7, 3 + 1 + 24 + 9):
            server.hold_call = held
            killed = subprocess.Popen([sys.executable, "-m", "mixdpo", *words], start_new_session=True)
            assert server.held.wait(120)
            os.killpg(killed.pid, signal.SIGKILL)
            killed.wait()
            server.release.set()
            server.held.clear()
            server.hold_call = None
            assert not output.exists()
        assert main(words) == 0
        assert sum(count > 1 for count in server.answered.values()) <= 2, "only the calls that were held"
        assert max(server.answered.values()) <= 2
    assert len(load_pairs(output)) == json.loads((tmp_path / "pairs.report.json").read_text())["pairs"] > 0
