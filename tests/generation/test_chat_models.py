"""`mixdpo generate`: prompt sets, answers of a local model and of an endpoint, runs that are killed and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from answering import QUESTIONS, report_of, rows_of, run
from loopback import Endpoint, running
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError
from mixdpo.common.pages import embedded
from mixdpo.evaluation.held_out_prompts import read_held_out
from mixdpo.generation.answer_files import read_answers
from mixdpo.generation.chat_model import Request
from mixdpo.generation.generate import planned_requests, settings_for
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.generation.local_generation import answer_rendered
from mixdpo.generation.local_model import LocalModel
from mixdpo.generation.prompts import Prompt, read_prompts
from mixdpo.models.model_settings import ModelSettings
from published import published
from tiny import tiny_llama

MT_BENCH = [
    {"question_id": 81 + i, "category": category, "turns": [f"Tell me about {category}.", "How?"]}
    for i, category in enumerate(("writing", "math", "stem", "roleplay"))
]
Write = Callable[..., str]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path | int) -> str:
    capsys.readouterr()
    assert main(["generate", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("mixdpo: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


# ---- prompt sets ----


@pytest.mark.parametrize(
    ("file", "count", "first"),
    [
        ("alpaca_eval/instructions.jsonl.gz", 805, ("index", 0, 1, None)),
        ("arena_hard/questions_v0.1.jsonl.gz", 500, ("uid", "328c149ed45a41c0b9d6f14659e63599", 1, "arena-hard-v0.1")),
        ("arena_hard/questions_v2.0.jsonl.gz", 750, ("uid", "2edbb5f36f5b42be", 1, "hard_prompt")),
        ("mt_bench/question.jsonl", 80, ("question_id", 81, 2, "writing")),
    ],
)
def test_published_prompt_sets(file: str, count: int, first: tuple[Any, ...]) -> None:
    folder, name = file.split("/")
    prompts = read_prompts(published(folder) / name)
    assert len(prompts) == count
    one = prompts[0]
    assert (one.id_column, one.id, len(one.turns), one.category) == first
    settings = settings_for(prompts, GenerationSettings())
    assert (settings.max_new_tokens, settings.temperature) == ((1024, None) if count == 80 else (2048, 0.0))


def chat(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Why?"}, Prompt(0, "index", (), ("Why?",), None)),
        ({"instruction": "Sum up.", "input": "So."}, Prompt(0, "index", (), ("Sum up.\n\nSo.",), None)),
        ({"prompt": "Why?", "prompt_id": "a"}, Prompt("a", "prompt_id", (), ("Why?",), None)),
        ({"question": "Why?", "id": 7, "category": "x"}, Prompt(7, "id", (), ("Why?",), "x")),
        ({"turns": [{"content": "Why?"}], "uid": "u"}, Prompt("u", "uid", (), ("Why?",), None)),
        ({"prompt": ["Why?", "How?"]}, Prompt(0, "index", (), ("Why?", "How?"), None)),
        (
            {"messages": chat(("system", "Be brief."), ("user", "Why?"), ("assistant", "So."))},
            Prompt(0, "index", (("system", "Be brief."),), ("Why?",), None),
        ),
        (
            {"prompt": chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"))},
            Prompt(0, "index", (("user", "Hi"), ("assistant", "Hello")), ("Why?",), None),
        ),
        (
            {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
            Prompt(0, "index", (), ("Why?",), None),
        ),
    ],
)
def test_layouts_of_a_row(jsonl: Write, row: dict[str, Any], expected: Prompt) -> None:
    assert read_prompts(jsonl([row])) == [expected]


def test_a_folder_and_a_slice(tmp_path: Path, questions: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "test.jsonl").write_text(Path(questions).read_text())
    assert [prompt.text for prompt in read_prompts(folder, "test[1:3]")] == QUESTIONS[1:3]
    assert [prompt.text for prompt in read_prompts(questions, limit=2)] == QUESTIONS[:2]


# ---- a local model ----


def transformers_own(folder: Path, messages: list[dict[str, str]], tokens: int) -> str:
    """The answer of transformers' own chat template and `generate`, one prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    stops = {tokenizer.eos_token_id, model.generation_config.eos_token_id}
    written = model.generate(**ids, max_new_tokens=tokens, do_sample=False, eos_token_id=list(stops))
    return tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons with plain forwards would differ by bfloat16's rounding where the hardware has it."""
    monkeypatch.setattr("mixdpo.models.loading.hardware_has_bf16", lambda: False)


def test_greedy_answers_are_transformers_own(model: Path, questions: str, tmp_path: Path, float32: None) -> None:
    output = tmp_path / "new" / "out.jsonl"
    run(questions, "--model", model, "--max-new-tokens", 12, "--batch-size", 2, "--output", output)
    rows = rows_of(output)
    assert [row["instruction"] for row in rows] == QUESTIONS
    assert [row["index"] for row in rows] == list(range(len(QUESTIONS)))
    assert {row["generator"] for row in rows} == {"tiny"}
    for row in rows:
        assert row["output"] == transformers_own(model, chat(("user", row["instruction"])), 12)
    report = report_of(output)
    assert report["answered"] == report["prompts"] == len(QUESTIONS)
    assert report["tokens"]["mean"] == pytest.approx(sum(row["tokens"] for row in rows) / len(rows))
    assert report["unfinished_share"] == sum(not row["finished"] for row in rows) / len(rows)
    assert report["settings"]["temperature"] == 0
    assert report["settings"]["stop_tokens"] == ["<|im_end|>"]


@pytest.mark.slow
def test_smollm2_answers_are_transformers_own(smollm2: Path, jsonl: Write, tmp_path: Path, float32: None) -> None:
    asked = ["What is the capital of France?", "Name three colours.", "Write one sentence about bees."]
    output = tmp_path / "out.jsonl"
    run(jsonl([{"prompt": one} for one in asked]), "--model", smollm2, "--max-new-tokens", 40, "--output", output)
    rows = rows_of(output)
    assert [row["output"] for row in rows] == [transformers_own(smollm2, chat(("user", one)), 40) for one in asked]
    assert any(row["finished"] for row in rows)


def test_second_turns_see_the_models_own_first_answers(
    model: Path, jsonl: Write, tmp_path: Path, float32: None
) -> None:
    output = tmp_path / "out.jsonl"
    run(jsonl(MT_BENCH), "--model", model, "--max-new-tokens", 12, "--output", output)
    rows = rows_of(output)
    assert [row["question_id"] for row in rows] == [81, 82, 83, 84]
    math = next(row for row in rows if row["category"] == "math")  # greedy
    first, second = math["choices"][0]["turns"]
    assert first == transformers_own(model, chat(("user", math["turns"][0])), 12)
    talk = chat(("user", math["turns"][0]), ("assistant", first), ("user", "How?"))
    assert second == transformers_own(model, talk, 12)
    assert report_of(output)["settings"]["temperature"]["writing"] == 0.7


def test_temperatures_of_mt_bench(jsonl: Write) -> None:
    prompts = read_prompts(jsonl(MT_BENCH))
    first = planned_requests(prompts, GenerationSettings())[::2]
    assert [request.temperature for request in first] == [0.7, 0.0, 0.1, 0.7]
    assert [request.seed for request in first] == [0, None, 0, 0]
    assert {request.temperature for request in planned_requests(prompts, GenerationSettings(temperature=0.3))} == {0.3}


def test_sampling_follows_the_seed(
    model: Path, questions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled(name: str, seed: int) -> list[str]:
        monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / name))  # nothing is read from the run before
        output = tmp_path / f"{name}.jsonl"
        run(questions, "--model", model, "--temperature", 1, "--max-new-tokens", 12, "--seed", seed, "-o", output)
        return [row["output"] for row in rows_of(output)]

    assert sampled("a", 1) == sampled("b", 1) != sampled("c", 2)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that were computed."""
    sizes: list[int] = []

    def counting(model: Any, tokenizer: Any, rendered: Any, settings: Any, **options: Any) -> Any:
        sizes.append(len(rendered))
        return answer_rendered(model, tokenizer, rendered, settings, **options)

    monkeypatch.setattr("mixdpo.generation.local_model.answer_rendered", counting)
    return sizes


def test_what_is_known_is_not_computed_again(model: Path, questions: str, tmp_path: Path, computed: list[int]) -> None:
    common = (questions, "--model", model, "--max-new-tokens", 6, "--output", tmp_path / "out.jsonl")
    run(*common, "--limit", 3)
    run(*common)
    assert computed == [3, 2]
    before = (tmp_path / "out.jsonl").read_bytes()
    run(*common, "--batch-size", 1)
    assert computed == [3, 2]
    assert (tmp_path / "out.jsonl").read_bytes() == before
    other = tiny_llama(seed=1, vocab_size=len(AutoTokenizer.from_pretrained(model)), positions=512)
    other.save_pretrained(model)  # other weights under the same name
    run(*common)
    assert computed == [3, 2, 5]


def test_an_adapter_is_part_of_the_model(model: Path, questions: str, tmp_path: Path) -> None:
    plain, adapted, again = (tmp_path / f"{name}.jsonl" for name in ("plain", "adapted", "again"))
    common = (questions, "--model", model, "--max-new-tokens", 6)
    run(*common, "--output", plain)
    for seed, output in ((0, adapted), (1, again)):
        torch.manual_seed(seed)
        config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(tmp_path / "adapter")
        run(*common, "--adapter", tmp_path / "adapter", "--output", output)
    texts = [[row["output"] for row in rows_of(path)] for path in (plain, adapted, again)]
    assert texts[0] != texts[1] != texts[2]
    assert rows_of(adapted)[0]["generator"] == "adapter"


def test_a_local_model_has_no_temperature_of_its_own(model: Path) -> None:
    chat_model = LocalModel(ModelSettings(name_or_path=str(model)))
    with pytest.raises(InputError, match="give a number"):
        chat_model.complete([Request(messages=(("user", "How?"),), max_tokens=1, temperature=None)])


@pytest.mark.slow
def test_an_adapter_has_one_digest_in_every_process(model: Path, tmp_path: Path) -> None:
    """Sets of texts, as the adapter's modules are, have another order in every process."""
    config = LoraConfig(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(tmp_path / "adapter")
    chat_model = f"LocalModel(ModelSettings(name_or_path={str(model)!r}, adapter={str(tmp_path / 'adapter')!r}))"
    program = (
        "from mixdpo.generation.local_model import LocalModel\n"
        "from mixdpo.models.model_settings import ModelSettings\n"
        f"print({chat_model}.record()['weights'])"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, text=True,
            stdout=subprocess.PIPE,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


def test_a_prompt_that_does_not_fit_is_counted(
    model: Path, jsonl: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    prompts = jsonl([{"prompt": "cats " * 600}, {"prompt": "How?"}])
    run(prompts, "--model", model, "--max-new-tokens", 12, "--output", output)
    assert [row["index"] for row in rows_of(output)] == [1]
    assert "1 without a reply: the prompt and 12 tokens" in capsys.readouterr().err
    assert sum(report_of(output)["failures"].values()) == 1
    assert main(["generate", prompts, "--model", str(model), "--limit", "1", "-o", str(output)]) == 1
    assert "no prompt was answered" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on(
    model: Path, jsonl: Write, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two turns, greedy and sampled.
    asked = [{**MT_BENCH[i % 2], "question_id": i, "turns": [f"Tell me {i} things.", "How?"]} for i in range(32)]
    prompts = jsonl(asked)

    def command(output: Path) -> list[str]:
        settings = ["--max-new-tokens", "64", "--batch-size", "4"]
        return [prompts, "--model", str(model), *settings, "--output", str(output)]

    whole, continued = tmp_path / "whole.jsonl", tmp_path / "continued.jsonl"
    run(*command(whole))
    assert sum(computed) == 64
    computed.clear()

    cache = tmp_path / "cache"
    monkeypatch.setenv("MIXDPO_CACHE", str(cache))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.Popen([sys.executable, "-m", "mixdpo", "generate", *command(continued)], env=environment)
    log, deadline = cache / "answers" / "replies.sqlite-wal", time.monotonic() + 300
    while not (log.is_file() and log.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not continued.exists()
    run(*command(continued))
    assert 0 < sum(computed) < 64
    assert continued.read_bytes() == whole.read_bytes()


# ---- an endpoint ----


@pytest.fixture
def served() -> Iterator[Endpoint]:
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    with running(lambda body: f"{len(body['messages'])}: {body['messages'][-1]['content'].upper()}") as endpoint:
        yield endpoint


def test_answers_of_an_endpoint(
    served: Endpoint, questions: str, jsonl: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.faults = [429, 500, '{"choices": []}']
    output = tmp_path / "out.json"
    common = ("--model", "far", "--endpoint", served.url, "--batch-size", 2)
    run(questions, *common, "--dollars-in", 1, "--dollars-out", 1000, "--output", output)
    assert [row["output"] for row in json.loads(output.read_text())] == [f"1: {one.upper()}" for one in QUESTIONS]
    assert len(served.bodies) == len(QUESTIONS) + 3
    assert served.bodies[0]["max_tokens"] == 2048
    shown = capsys.readouterr().out
    assert "5 calls (0 more are cached)" in shown
    assert "about $10.24" in shown  # 5 x 2,048 tokens at 1,000 dollars a million
    report = report_of(output)
    assert report["model_versions"] == ["far-2026"]
    assert report["settings"]["api_key_env"] == "OPENAI_API_KEY"
    run(questions, *common, "--token-limit", "max_completion_tokens", "--output", tmp_path / "newer.json")
    assert served.bodies[-1]["max_completion_tokens"] == 2048
    assert "max_tokens" not in served.bodies[-1]
    served.bodies.clear()

    run(jsonl(MT_BENCH, "mt.jsonl"), *common, "--output", tmp_path / "mt.jsonl.out.jsonl")
    rows = rows_of(tmp_path / "mt.jsonl.out.jsonl")
    assert rows[0]["choices"][0]["turns"] == ["1: TELL ME ABOUT WRITING.", "3: HOW?"]
    assert served.bodies[-1]["messages"][1]["content"].startswith("1: TELL ME ABOUT")


def test_dry_runs_write_and_ask_nothing(
    served: Endpoint, model: Path, jsonl: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, output = jsonl(MT_BENCH), tmp_path / "none" / "out.jsonl"
    run(prompts, "--model", "far", "--endpoint", served.url, "--dry-run", "--output", output)
    assert "8 calls" in capsys.readouterr().out
    run(prompts, "--model", model, "--max-new-tokens", 10, "--dry-run", "--output", output)
    assert "8 answers" in (shown := capsys.readouterr().out)
    assert "at most 80 written" in shown
    assert served.bodies == []
    assert not output.parent.exists()


def test_a_call_that_fails_is_counted_and_tried_again(
    served: Endpoint, questions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.faults = [400]
    output = tmp_path / "out.jsonl"
    arguments = (questions, "--model", "far", "--endpoint", served.url, "--output", output)
    run(*arguments)
    assert report_of(output)["answered"] == len(QUESTIONS) - 1
    assert list(report_of(output)["failures"].values()) == [1]
    run(*arguments)
    assert report_of(output)["answered"] == len(QUESTIONS)
    assert len(served.bodies) == len(QUESTIONS) + 1


def test_a_model_that_was_trained_further_is_asked_again(
    served: Endpoint, questions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is served under the same name, and the requests are the same."""
    output, other = tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    common = (questions, "--model", "far", "--endpoint", served.url, "--output")
    run(*common, output)
    served.answer = lambda body: "trained"
    run(*common, output)
    assert {row["output"] for row in rows_of(output)} == {"trained"}
    assert not output.with_name("out.jsonl.unfinished").exists()
    served.faults = [400]
    run(*common, output)
    assert len(list(output.with_name("out.jsonl.unfinished").iterdir())) >= 1
    served.answer = lambda body: "trained more"
    run(*common, other)
    assert {row["output"] for row in rows_of(other)} == {"trained more"}
    capsys.readouterr()
    run(*common, output, "--dry-run")
    said = capsys.readouterr().out
    assert "1 calls (4 more are cached)" in said
    assert "remove it if far has become another model" in " ".join(said.split())


def test_the_key_is_in_no_file(
    served: Endpoint, questions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))
    served.faults = [400]  # so that finished answers are kept
    run(questions, "--model", "far", "--endpoint", served.url, "--output", tmp_path / "out.jsonl")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if b"secret-key" in path.read_bytes()]


# ---- what reads the answers ----


def test_answers_are_read_by_demands_and_compare(model: Path, tmp_path: Path) -> None:
    held_out = read_held_out("test", limit=6)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in held_out.prompts))
    answers, result = tmp_path / "small-0.1b.jsonl", tmp_path / "demands.json"
    run(prompts, "--model", model, "--max-new-tokens", 20, "--output", answers)
    assert main(["eval", "demands", str(answers), "--limit", "6", "--output", str(result)]) == 0
    assert list(json.loads(result.read_text())["models"]) == ["small-0.1b"]
    page = tmp_path / "comparison"
    given = f"demands/small-0.1b={answers}"
    assert main(["compare", str(result), "--answers", given, "--output", str(page)]) == 0
    first = rows_of(answers)[0]["output"]
    assert str(embedded(first)) in (page / "comparison.html").read_text(encoding="utf-8")


def test_answers_are_read_by_judges(model: Path, questions: str, jsonl: Write, tmp_path: Path) -> None:
    single, turns = tmp_path / "single.jsonl", tmp_path / "turns.jsonl"
    common = ("--model", model, "--max-new-tokens", 6)
    run(questions, *common, "--output", single)
    run(jsonl(MT_BENCH, "mt.jsonl"), *common, "--output", turns)
    read = read_answers(single)
    assert read.by_prompt() == {row["instruction"]: row["output"] for row in rows_of(single)}
    assert read.by_id() == {str(row["index"]): row["output"] for row in rows_of(single)}
    assert list(read_answers(turns).by_id()) == ["81", "82", "83", "84"]


# ---- what is refused ----


def test_bad_prompts(jsonl: Write, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = ("--model", model, "--output", tmp_path / "out.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "no rows" in refused(capsys, empty, *end)
    assert "no such file" in refused(capsys, tmp_path / "none.jsonl", *end)
    assert "row 1: no prompt (instruction" in refused(capsys, jsonl([{"text": "Why?"}]), *end)
    again = [{"prompt": "Why?"}, {"prompt": "How?"}, {"prompt": "Why?"}]
    assert "row 3: the same prompt as in row 1" in refused(capsys, jsonl(again), *end)
    same_id = [{"uid": "a", "prompt": "Why?"}, {"uid": "a", "prompt": "How?"}]
    assert "row 2: the same uid as in row 1" in refused(capsys, jsonl(same_id), *end)
    assert "row 2, column 'prompt': the prompt is empty" in refused(
        capsys, jsonl([{"prompt": "Why?"}, {"prompt": "  "}]), *end
    )
    assert "not a prompt: 7" in refused(capsys, jsonl([{"prompt": 7}]), *end)
    talk = [{"messages": chat(("system", "Be brief."))}]
    assert "no text of a user" in refused(capsys, jsonl(talk), *end)
    assert "a file has no splits" in refused(capsys, jsonl([{"prompt": "Why?"}]), *end, "--split", "test")
    assert not (tmp_path / "out.jsonl").exists()


def test_bad_models_and_settings(
    questions: str, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ("--output", tmp_path / "out.jsonl")
    assert "no such model folder" in refused(capsys, questions, "--model", tmp_path / "none", *end)
    (tmp_path / "bare").mkdir()
    assert "config.json is missing" in refused(capsys, questions, "--model", tmp_path / "bare", *end)
    local = (questions, "--model", model, *end)
    assert "'--temperature': -1.0 is not in the range" in refused(capsys, *local, "--temperature", -1)
    assert "--dollars-out: no effect without --endpoint" in refused(capsys, *local, "--dollars-out", 2)
    far = ("--model", "far", "--endpoint", "http://127.0.0.1:9/v1")
    assert "--adapter" in refused(capsys, questions, *far, "--adapter", model, *end)
    assert "base_url" in refused(capsys, questions, "--model", "far", "--endpoint", "localhost:8000", *end)
    message = refused(capsys, questions, "--model", "far", "--endpoint", "http://me:hidden@127.0.0.1:9/v1", *end)
    assert "user name, password or query" in message
    for secret, named in (("sk-proj-1", "OTHER"), ("gsk_1", "GROQ_KEY")):
        monkeypatch.setenv(named, secret)
        message = refused(capsys, questions, *far, "--key-variable", secret, *end)
        assert "give the name without $" in message
        assert secret not in message
    assert "base_url" in refused(capsys, questions, "--model", "far", "--endpoint", "http://localhost:80a0/v1", *end)
    assert "hidden" not in message
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    (model / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(model)
    assert "no chat template" in refused(capsys, questions, "--model", model, *end)


def test_places_that_cannot_be_written(
    questions: str, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = (questions, "--model", model, "--output")
    assert "the ending is not known" in refused(capsys, *common, tmp_path / "out.txt")
    assert "a folder, not a file" in refused(capsys, *common, model.rename(tmp_path / "tiny.jsonl"))
    (tmp_path / "tiny.jsonl").rename(model)
    assert "a file, not a folder" in refused(capsys, *common, Path(questions) / "out.jsonl")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert "no permission to write there" in refused(capsys, *common, tmp_path / "out.jsonl")


def test_an_unknown_model_at_an_endpoint(
    served: Endpoint, questions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.faults = [404]
    end = ("--endpoint", served.url, "--batch-size", 1, "--output", tmp_path / "out.jsonl")
    assert "does not know the model 'far'" in refused(capsys, questions, "--model", "far", *end)
    run(questions, "--model", "far", *end, "--dry-run")
    assert "earlier run" not in capsys.readouterr().out, "it got no answer"
