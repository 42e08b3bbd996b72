"""Downstream tasks through the real harness, on local data, against transformers' plain forward."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from hub_client import client
from hub_content import leaderboard_sets, models
from hub_server import hub
from mixdpo.cli.main import main
from mixdpo.evaluation.benchmarks import open_llm_tasks
from mixdpo.evaluation.benchmarks.open_llm import summarise
from mixdpo.evaluation.benchmarks.open_llm_tasks import (
    OPEN_LLM_V1,
    Finished,
    Tasks,
    TaskScore,
    find_tasks,
    run_tasks,
)
from mixdpo.evaluation.held_out_prompts import DATA
from mixdpo.generation.reply_cache import reply_cache
from tiny import plain_logprob, tiny_llama

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

pytestmark = pytest.mark.xdist_group("harness")  # one process reads its tasks

QUESTIONS = 24
CHOICE = """
task: {task}
dataset_path: json
dataset_kwargs:
  data_files: {{train: {train}, test: {test}}}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "Task: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
WRITTEN = """
task: gsm8k
dataset_path: json
dataset_kwargs:
  data_files: {{train: {train}, test: {test}}}
output_type: generate_until
training_split: train
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{written}}}}"
generation_kwargs: {{until: ["Question:"], do_sample: false, max_gen_toks: 4}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - name: strict-match
    filter: [{{function: regex, regex_pattern: "#### ([0-9]+)"}}, {{function: take_first}}]
  - name: flexible-extract
    filter: [{{function: regex, regex_pattern: "([0-9]+)"}}, {{function: take_first}}]
metadata: {{version: 1.0}}
"""

ROLLING = """
task: surprise
dataset_path: json
dataset_kwargs:
  data_files: {{test: {test}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - {{metric: word_perplexity}}
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module", autouse=True)
def _what_the_harness_repeats() -> Iterator[None]:
    """It reads the 14,000 files of its own tasks, 8 seconds, for every command, and for every task the machine.

    Own task files are read each time, as ever.
    """
    from lm_eval.tasks import _index

    build, shipped = _index.TaskIndex.build, Path(_index.__file__).parent
    entries = build([shipped])

    def added(paths: Sequence[Path]) -> dict[str, Any]:
        return {**(entries if shipped in paths else {}), **build([path for path in paths if path != shipped])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_index.TaskIndex, "build", staticmethod(added))
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield


@pytest.fixture
def questions() -> list[dict]:
    """Which of two real answers meets the demands of its prompt, from the demo's pairs."""
    rows = pq.read_table(str(DATA / "train.parquet")).to_pylist()[: QUESTIONS + 8]
    found = []
    for number, row in enumerate(rows):
        sides = [row["chosen"][0]["content"][:200], row["rejected"][0]["content"][:200]]
        right = number % 2
        found.append(
            {
                "question": row["prompt"][-1]["content"],
                "choices": sides[:: -1 if right else 1],
                "answer": right,
                "written": "[invalid]" if right else "7",  # what the harness reads where no number follows ####
            }
        )
    return found


@pytest.fixture
def tasks(tmp_path, questions) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    files = {"train": folder / "train.jsonl", "test": folder / "test.jsonl"}
    for name, part in (("train", questions[QUESTIONS:]), ("test", questions[:QUESTIONS])):
        files[name].write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "choice.yaml").write_text(CHOICE.format(task="which_meets_more", **files))
    (folder / "winogrande.yaml").write_text(CHOICE.format(task="winogrande", **files))
    (folder / "gsm8k.yaml").write_text(WRITTEN.format(**files))
    return folder


@pytest.fixture
def model(tmp_path, tokenizer) -> str:
    tiny_llama(vocab_size=len(tokenizer), positions=2048).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.mark.slow
def test_local_tasks_through_the_harness(tmp_path, tokenizer, tasks, model, questions, capsys, monkeypatch) -> None:
    from mixdpo.models import loading as model_module

    monkeypatch.setattr(model_module, "hardware_has_bf16", lambda: False)  # compare in float32
    out = tmp_path / "out.json"
    names = "which_meets_more,winogrande,gsm8k"
    arguments = ["eval", "open-llm-v1", "--model", model, "--include-path", str(tasks), "--output", str(out)]
    assert main([*arguments, "--tasks", names]) == 0
    record = json.loads(out.read_text())
    result, described = record["models"]["tiny"], record["settings"]["tasks"]
    assert {name: one["shots"] for name, one in described.items()} == {
        "which_meets_more": 0,
        "winogrande": 5,
        "gsm8k": 5,
    }
    assert {one["metric"] for one in described.values()} == {"acc_norm", "acc", "exact_match"}
    assert record["settings"]["versions"]["lm_eval"]
    assert record["comparable"]["published"] is False

    network = tiny_llama(vocab_size=len(tokenizer), positions=2048)
    right = []
    with torch.no_grad():
        for row in questions[:QUESTIONS]:
            per_character = []
            for choice in row["choices"]:
                context = tokenizer.encode(f"Task: {row['question']}\nAnswer:", add_special_tokens=False)
                whole = tokenizer.encode(f"Task: {row['question']}\nAnswer: {choice}", add_special_tokens=False)
                logprob = plain_logprob(network, whole[: len(context)], whole[len(context) :])
                per_character.append(float(logprob) / len(choice))
            right.append(int(np.argmax(per_character) == row["answer"]))
    items = pq.read_table(tmp_path / record["items"]).to_pylist()
    assert [row["score"] for row in items if row["metric"] == "which_meets_more"] == [100 * one for one in right]
    assert result["which_meets_more"] == pytest.approx(100 * np.mean(right))
    share = stats.binomtest(sum(right), QUESTIONS).proportion_ci(method="wilson")
    assert result["which_meets_more_interval"] == pytest.approx([100 * share.low, 100 * share.high])
    assert result["which_meets_more_standard_error"] == pytest.approx(100 * stats.sem(right))
    assert result["gsm8k"] == 50
    assert result["mean"] == pytest.approx(np.mean([result[name] for name in names.split(",")]))
    assert result["n"] == dict.fromkeys(names.split(","), QUESTIONS)
    assert "exact_match" in capsys.readouterr().out

    told = ["--chat-template", "--chat-template-kwargs", "{enable_thinking: false}"]
    assert main([*arguments, "--tasks", "which_meets_more", "--limit", "3", *told]) == 0
    limited = json.loads(out.read_text())
    assert limited["models"]["tiny"]["n"] == {"which_meets_more": 3}
    assert limited["settings"]["chat_template"] is True
    assert limited["settings"]["chat_template_kwargs"] == {"enable_thinking": False}
    assert main([*arguments, *told[1:]]) == 2
    assert "no chat template is used" in capsys.readouterr().err


@pytest.mark.slow
def test_what_cannot_be_had_is_one_line(tmp_path, tasks, model, capsys) -> None:
    out = tmp_path / "out.json"
    arguments = ["eval", "open-llm-v1", "--model", model, "--output", str(out), "--limit", "2"]
    (tasks / "surprise.yaml").write_text(ROLLING.format(test=tasks / "test.jsonl"))
    (tasks / "helpers.py").write_text("import no_such_package\n\n\ndef docs(rows):\n    return rows\n")
    needy = CHOICE.format(task="needy", train=tasks / "train.jsonl", test=tasks / "test.jsonl")
    (tasks / "needy.yaml").write_text(f"{needy}process_docs: !function helpers.docs\n")
    for extra, words in (
        (["--tasks", "winogrande"], ("task winogrande", "hub", "--include-path")),
        (["--tasks", "winogrand"], ("no task 'winogrand'",)),
        (["--include-path", str(tmp_path / "none")], ("no such folder",)),
        (["--tasks", ","], ("no task is named",)),
        (["--include-path", str(tasks), "--tasks", "surprise"], ("measured by word_perplexity", "not a mean")),
        (["--include-path", str(tasks), "--tasks", "needy"], ("'no_such_package'", "install the package")),
        (["--output", str(tmp_path)], ("a folder, not a file",)),
    ):
        assert main([*arguments, *extra]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("mixdpo: ")
        assert all(word in last for word in words), last
    assert not out.exists()


def test_what_loading_a_task_raises_has_a_mend_of_its_kind(monkeypatch, refused) -> None:
    online, own = "load it once online", "fix its task file"
    for error, words in (
        (ConnectionError("Couldn't reach the hub"), ("HF_HUB_OFFLINE is set", online)),
        (ValueError("Couldn't find cache for winogrande\nAvailable: none"), ("HF_HUB_OFFLINE is set", online)),
        (ValueError("a wrong value"), ("a wrong value", own)),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), ("no longer supported", own)),
        (ImportError("No module named 'x'"), ("No module named 'x'", "install the package")),
    ):
        manager = SimpleNamespace(load=Mock(side_effect=error))
        monkeypatch.setattr(open_llm_tasks, "_task_manager", lambda *_, manager=manager: manager)
        refused(lambda: find_tasks(["winogrande"]), *words)


@pytest.mark.slow
def test_the_six_tasks_on_data_of_the_published_layouts(tmp_path, tokenizer) -> None:
    """From an empty cache and through the real clients: every question of every task is asked, with its shots."""
    import lm_eval

    files = Path(lm_eval.__file__).parent.glob("tasks/mmlu/default/mmlu_*.yaml")
    subjects = [file.stem.removeprefix("mmlu_") for file in files]
    repositories = [*models(tmp_path / "models", tokenizer), *leaderboard_sets(tmp_path / "sets", subjects)]
    with hub(repositories) as server, client(server.url, tmp_path / "home") as mixdpo:
        words = ("eval", "open-llm-v1", "--model", "tiny/llama", "--adapter", "tiny/adapter", "--output", "out.json")
        ended = mixdpo(*words)
        assert ended.status == 0, ended.text
        gated = mixdpo(*words, "--tasks", "gpqa_main_zeroshot")
    record = json.loads((tmp_path / "home" / "out.json").read_text())
    assert record["comparable"]["published"] is True
    assert record["models"]["tiny/adapter"]["n"] == {**dict.fromkeys(OPEN_LLM_V1, 2), "mmlu": 2 * len(subjects)}
    shots = {name: one["shots"] for name, one in record["settings"]["tasks"].items()}
    assert shots == {name: setup.shots for name, setup in OPEN_LLM_V1.items()}
    assert gated.status == 2
    assert "accept the terms" in gated.text.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_next_task(tmp_path, tasks, model, monkeypatch) -> None:
    import lm_eval

    asked, evaluate = [], lm_eval.simple_evaluate
    out, names = tmp_path / "out.json", ["which_meets_more", "winogrande"]

    def counted(**given: Any) -> Any:
        asked.append(given["tasks"][0].task_name)
        if asked == names:
            raise torch.OutOfMemoryError("full")
        return evaluate(**given)

    monkeypatch.setattr(lm_eval, "simple_evaluate", counted)
    arguments = ["eval", "open-llm-v1", "--model", model, "--include-path", str(tasks), "--limit", "6"]
    arguments += ["--tasks", ",".join(names), "--output", str(out)]
    assert main(arguments) == 1
    assert not out.exists()
    assert main([*arguments, "--batch-size", "4"]) == 0
    assert asked == [*names, "winogrande"]
    assert not out.with_name("out.json.unfinished").exists()

    # What is kept is of the model, the settings and the questions.
    network, words = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    found = find_tasks(names[:1], tasks)

    def ran(found: Tasks, digest: str = "a", limit: int = 6) -> tuple[TaskScore, bool]:
        asked.clear()
        with reply_cache(tmp_path / "kept") as cache:
            ((_, score),) = run_tasks(network, words, found, limit=limit, finished=Finished(cache, digest))
        return score, bool(asked)

    first, computed = ran(found)
    again, computed_again = ran(found)
    assert (computed, computed_again) == (True, False)
    assert again.items["which_meets_more"].tolist() == first.items["which_meets_more"].tolist()
    assert (again.shots, again.metric, again.versions) == (first.shots, first.metric, first.versions)
    assert np.mean(first.items["which_meets_more"]) * 100 == pytest.approx(
        json.loads(out.read_text())["models"]["tiny"]["which_meets_more"]
    )
    assert ran(found, digest="b")[1]
    assert ran(found, limit=5)[1]
    words.add_tokens(["\u00b6"])
    assert ran(found)[1]
    assert not ran(found)[1]
    (tasks / "utils.py").write_text("LONGEST = 9\n")
    assert ran(find_tasks(names[:1], tasks))[1]
    assert not ran(find_tasks(names[:1], tasks))[1]
    rows = (tasks / "test.jsonl").read_text().splitlines(keepends=True)
    (tasks / "test.jsonl").write_text("".join(rows[1:]))
    assert ran(find_tasks(names[:1], tasks))[1]


@pytest.mark.slow
def test_every_task_of_the_leaderboard_is_one_of_the_harness() -> None:
    from lm_eval.tasks import TaskManager

    assert set(OPEN_LLM_V1) <= set(TaskManager().all_tasks)


def test_subtasks_count_alike() -> None:
    """MMLU is the plain mean of its subjects, whatever their sizes; the mean is that of the tasks."""
    subjects = {"a": np.array([1.0, 1, 1, 0]), "b": np.zeros(100), "c": np.array([1.0, 0, 0, 0, 1])}
    result = summarise(
        {
            "mmlu": TaskScore(subjects, 5, "acc", {}),
            "truthfulqa_mc2": TaskScore({"truthfulqa_mc2": np.array([0.2, 0.4, 0.9])}, 0, "acc", {}),
        }
    )
    assert result["mmlu"] == pytest.approx(100 * (0.75 + 0 + 0.4) / 3)
    errors = [stats.sem(values) for values in subjects.values()]
    assert result["mmlu_standard_error"] == pytest.approx(100 * np.sqrt(np.square(errors).sum()) / 3)
    assert result["mean"] == pytest.approx((result["mmlu"] + 50) / 2)
    assert result["mean_standard_error"] == pytest.approx(
        np.hypot(result["mmlu_standard_error"], 100 * stats.sem([0.2, 0.4, 0.9])) / 2
    )
    single = summarise({"gsm8k": TaskScore({"gsm8k": np.array([1.0])}, 5, "exact_match", {})})
    assert single["gsm8k"] == 100
    assert single["gsm8k_interval"] is None


@pytest.mark.slow
def test_an_adapter_is_part_of_the_model(tmp_path, tasks, model) -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "merged")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    out = tmp_path / "out.json"
    arguments = [
        "eval",
        "open-llm-v1",
        "--include-path",
        str(tasks),
        "--tasks",
        "which_meets_more",
        "--output",
        str(out),
    ]
    found = {}
    for name, options in (
        ("adapter", [model, "--adapter", str(tmp_path / "adapter")]),
        ("merged", [str(tmp_path / "merged")]),
        ("tiny", [model]),
    ):
        assert main([*arguments, "--model", *options]) == 0
        record = json.loads(out.read_text())
        assert list(record["models"]) == [name]
        found[name] = pq.read_table(tmp_path / record["items"])["score"].to_pylist()
    assert found["adapter"] == found["merged"] != found["tiny"]
