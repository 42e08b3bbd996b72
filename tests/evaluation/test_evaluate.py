"""Judge runs as a person starts them: every benchmark and every kind of judge, what is stored, and bad input."""

from __future__ import annotations

import gzip
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import expit
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from loopback import Endpoint
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError
from mixdpo.evaluation.benchmarks import alpaca_eval, arena_hard, mt_bench
from mixdpo.evaluation.benchmarks.alpaca_eval import AlpacaOptions, Verdicts, control_length, is_swapped
from mixdpo.evaluation.benchmarks.arena_hard import ArenaOptions, read_battles
from mixdpo.evaluation.statistics.length_control import GamedRows, LengthControl
from mixdpo.evaluation.statistics.style import style_differences
from mixdpo.generation.answer_files import read_answers
from mixdpo.generation.endpoint_calls import request_body
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.reply_cache import reply_cache, request_key
from mixdpo.judges.answers import AnswerSources, pair_up
from mixdpo.judges.games import spelled_alike
from mixdpo.judges.prompt import JudgePrompt, prompts_fingerprint, read_judge_prompt
from published import published
from tiny import tiny_llama, tiny_reward_model

LONGER = """import json, sys
for line in sys.stdin:
    case = json.loads(line)
    assert case["prompt"][-1]["role"] == "user"
    if "answer" in case:
        print(len(case["answer"]) / 10)
    else:
        a, b = len(case["answer_a"]), len(case["answer_b"])
        print("A>B" if a > b else "B>>A" if a < b else "A=B")
"""


PAIR = "Which answer to {question} is better?\nA: {answer_a}\nB: {answer_b}"


WEIGHTED = "<|im_start|>user\n{instruction}\nm: {output_1}\nM: {output_2}\n<|im_end|>"


PROMPTS = [f"Question {number}?" for number in range(12)]


def answer(model: str, row: int) -> str:
    return f"{model} says {row} " + "x" * ({"base": 5, "short": 2, "long": 9}[model] + row % 3)


def written(folder: Path, model: str, rows: range = range(12), **more: Any) -> Path:
    path = folder / f"{model}.jsonl"
    lines = [{"instruction": PROMPTS[row], "output": answer(model, row), "generator": model, **more} for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Answers of a baseline and two models, and a program that prefers the longer one."""
    (tmp_path / "judge.py").write_text(LONGER)
    (tmp_path / "pair.txt").write_text(PAIR)
    (tmp_path / "weighted.txt").write_text(WEIGHTED)
    (tmp_path / "grade.txt").write_text("Grade this answer to {question}: {answer}")
    found = {model: str(written(tmp_path, model)) for model in ("base", "short", "long")}
    return {**found, "program": shlex.join([sys.executable, str(tmp_path / "judge.py")]), "folder": str(tmp_path)}


def run(bench: str, files: dict[str, str], *words: str, models: tuple[str, ...] = ("short", "long")) -> dict[str, Any]:
    output = Path(files["folder"]) / f"{bench}.json"
    given = [word for model in models for word in ("--model", files[model])]
    assert main(["eval", bench, *given, *words, "--output", str(output)]) == 0
    return json.loads(output.read_text())


def by_program(files: dict[str, str]) -> list[str]:
    return ["--judge", files["program"], "--judge-kind", "program"]


def rescored(bench: str, files: dict[str, str], *words: str) -> dict[str, Any]:
    """Score the stored verdicts of a run again."""
    folder = Path(files["folder"])
    words = ("--verdicts", str(folder / f"{bench}.verdicts.jsonl"), *words, "--output", str(folder / "again.json"))
    assert main(["eval", bench, *words]) == 0
    return json.loads((folder / "again.json").read_text())


def test_pairwise_with_a_program(files) -> None:
    result = run("pairwise", files, "--baseline", files["base"], *by_program(files))
    assert result["models"]["long"]["win_rate"] == 100
    assert result["models"]["short"]["win_rate"] == 0
    assert result["models"]["long"]["won_both_games"]["share"] == 1
    assert result["models"]["long"]["position_bias"]["consistent"]["estimate"] == 1
    assert result["models"]["long"]["position_bias"]["first_shown"]["estimate"] == 0.5
    (difference,) = result["differences"]
    assert (difference["gain"]["estimate"], difference["better"], difference["p_value"]) == (100, 12, 2 / 2**12)
    assert result["settings"]["baseline"] == "base"
    assert result["judge"]["engine"] == "program"
    assert rescored("pairwise", files)["models"] == result["models"]


def test_grades_with_a_program(files) -> None:
    result = run("grade", files, *by_program(files))
    expected = sum(len(answer("long", row)) / 10 for row in range(12)) / 12
    assert result["models"]["long"]["average"] == pytest.approx(expected)
    assert result["models"]["long"]["avg_length"] == pytest.approx(10 * expected)
    assert result["models"]["long"]["length_effect"]["correlation"] == pytest.approx(1)
    assert rescored("grade", files)["models"] == result["models"]


def test_alpaca_eval_with_a_program(files) -> None:
    result = run(
        "alpaca-eval", files, "--baseline", files["base"], *by_program(files), "--no-length-control", "--limit", "9"
    )
    assert {name: one["win_rate"] for name, one in result["models"].items()} == {"long": 100, "short": 0}
    assert result["models"]["long"]["n_total"] == 9
    swapped = sum(is_swapped(prompt) for prompt in PROMPTS[:9])
    assert result["models"]["long"]["first_shown"]["share"]["estimate"] == pytest.approx(swapped / 9)
    assert not result["comparable"]["published"]
    assert any("9 prompts of long were judged, not 805" in reason for reason in result["comparable"]["because"])
    assert rescored("alpaca-eval", files, "--no-length-control")["models"] == result["models"]


def test_arena_hard_with_a_program(files) -> None:
    for model in ("base", "short", "long"):
        written(Path(files["folder"]), model, category="hard_prompt")
    words = ("--version", "v2", "--category", "hard_prompt")
    result = run("arena-hard", files, "--baseline", files["base"], *by_program(files), *words)
    assert {name: one["win_rate"] for name, one in result["models"].items()} == {"long": 100, "short": 0}
    # The longer answer wins clearly as B and barely as A: four battles for each prompt.
    assert result["models"]["long"]["n_battles"] == 48
    battles = read_battles(Path(files["folder"]) / "arena-hard.verdicts.jsonl", "v2", "hard_prompt")
    assert battles.models == ("long", "short")
    style = [json.loads(line) for line in (Path(files["folder"]) / "arena-hard.style.jsonl").open()]
    assert {row["model"] for row in style} == {"base", "short", "long"}
    assert set(result["style_effects"]) == {"length", "headers", "lists", "bold"}


def mt_bench_files(folder: Path) -> dict[str, str]:
    categories = ["writing", "math"]
    questions = [
        {"question_id": 80 + n, "category": category, "turns": [f"First {n}?", f"Second {n}?"]}
        for n, category in enumerate(categories)
    ]
    answers = [
        {"question_id": 80 + n, "model_id": "own", "choices": [{"index": 0, "turns": ["a" * 20, "b" * 50]}]}
        for n in range(2)
    ]
    references = [{"question_id": 81, "choices": [{"index": 0, "turns": ["x", "y"]}]}]
    for name, rows in (("questions", questions), ("answers", answers), ("references", references)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: str(folder / f"{name}.jsonl") for name in ("questions", "answers", "references")}


def test_mt_bench_with_a_program(files) -> None:
    mt = mt_bench_files(Path(files["folder"]))
    words = ["--questions", mt["questions"], "--references", mt["references"], *by_program(files)]
    result = run("mt-bench", {**files, "own": mt["answers"]}, *words, models=("own",))["models"]["own"]
    assert (result["first_turn"], result["second_turn"], result["average"]) == (2, 5, 3.5)
    assert result["categories"] == {"math": 3.5, "writing": 3.5}


def test_mt_bench_takes_one_answer_to_a_question(files, capsys) -> None:
    mt = mt_bench_files(Path(files["folder"]))
    answers = Path(mt["answers"])
    answers.write_text(answers.read_text() + answers.read_text().splitlines()[0].replace("aaaa", "other") + "\n")
    words = ["--questions", mt["questions"], "--references", mt["references"], *by_program(files)]
    assert main(["eval", "mt-bench", "--model", str(answers), *words, "--output", str(answers) + ".out"]) == 2
    assert (
        "answers.jsonl, row 3: a second answer to the prompt '80'; leave one answer to each" in capsys.readouterr().err
    )


def test_a_reward_model_compares_and_grades(files, tokenizer) -> None:
    folder = Path(files["folder"])
    name = tiny_reward_model(tokenizer, folder / "reward", 0)
    model = AutoModelForSequenceClassification.from_pretrained(name).eval()

    def reward(prompt: str, text: str) -> float:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        ids = AutoTokenizer.from_pretrained(name).apply_chat_template(messages, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            return float(model(input_ids=ids).logits[0, 0])

    graded = run("grade", files, "--judge", name, models=("long",))
    assert graded["judge"]["engine"] == "reward model"
    rows = [json.loads(line) for line in (folder / "grade.verdicts.jsonl").open()]
    expected = [reward(prompt, answer("long", row)) for row, prompt in enumerate(PROMPTS)]
    assert [row["score"] for row in rows] == pytest.approx(expected, abs=1e-5)
    run("alpaca-eval", files, "--judge", name, "--baseline", files["base"], "--no-length-control", models=("long",))
    rows = [json.loads(line) for line in (folder / "alpaca-eval.verdicts.jsonl").open()]
    chances = [
        1 + expit(better - reward(prompt, answer("base", row)))
        for row, (prompt, better) in enumerate(zip(PROMPTS, expected, strict=True))
    ]
    assert [row["preference"] for row in rows] == pytest.approx(chances, abs=1e-5)


def test_a_chat_model_on_this_machine_judges_by_log_probabilities(files, tokenizer, capsys) -> None:
    folder = Path(files["folder"])
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder / "judge")
    tokenizer.save_pretrained(folder / "judge")
    words = ["--model", files["long"], "--baseline", files["base"], "--judge", str(folder / "judge")]
    words += ["--judge-prompt", str(folder / "weighted.txt"), "--no-length-control", "--limit", "5"]
    # An untrained model need not have m or M among its likeliest tokens; then there is no result.
    status = main(["eval", "alpaca-eval", *words, "--output", str(folder / "out.json")])
    rows = [json.loads(line) for line in (folder / "out.verdicts.jsonl").open()]
    assert [len(row["first_token"]) for row in rows] == [5] * 5
    readable = [bool({"m", "M"} & dict(row["first_token"]).keys()) for row in rows]
    assert [row["preference"] is not None for row in rows] == readable
    assert status == (0 if any(readable) else 2)


def endpoint(server: Endpoint) -> list[str]:
    return ["--judge", "judge", "--endpoint", server.url, "--key-variable", "TEST_KEY"]


def test_an_endpoint_that_fails_loses_nothing_and_keys_are_nowhere(
    files, server: Endpoint, monkeypatch, capsys, tmp_path_factory
) -> None:  # fmt: skip
    monkeypatch.setenv("TEST_KEY", "secret-key")
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MIXDPO_CACHE", str(cache))
    server.faults = [429, 500, '{"choices": []}', "no json", 503]
    words = ["--baseline", files["base"], *endpoint(server), "--judge-prompt", f"{files['folder']}/weighted.txt"]
    result = run("alpaca-eval", files, *words, "--no-length-control")
    assert len(server.bodies) == 24 + 5
    assert result["judge"]["failed_calls"] == {}
    assert result["judge"]["judge_versions"] == ["judge-2026"]
    chance = 1 / (1 + 2.718281828459045 ** (-2.3 + 0.1))
    shown_first = [not is_swapped(prompt) for prompt in PROMPTS]
    expected = 100 * sum(1 - chance if baseline_first else chance for baseline_first in shown_first) / 12
    assert result["models"]["long"]["win_rate"] == pytest.approx(expected)
    assert run("alpaca-eval", files, *words, "--no-length-control") == result
    assert len(server.bodies) == 24 + 5
    server.faults = [401]
    words[words.index("judge")] = "another"
    output = ["--output", f"{files['folder']}/other.json"]
    assert main(["eval", "alpaca-eval", "--model", files["long"], *words, "--no-length-control", *output]) == 2
    said = capsys.readouterr()
    assert "TEST_KEY" in said.err
    assert "secret-key" not in said.err + said.out
    assert server.keys == {"Bearer secret-key"}
    kept = [path for folder in (cache, Path(files["folder"])) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "replies.sqlite" for path in kept)
    assert not [path for path in kept if b"secret-key" in path.read_bytes()]


def test_replies_without_a_verdict_are_counted_and_never_guessed(files, server: Endpoint, capsys) -> None:
    words = ["--baseline", files["base"], *endpoint(server), "--judge-prompt", f"{files['folder']}/pair.txt"]
    output = Path(files["folder"]) / "pairwise.json"
    assert main(["eval", "pairwise", "--model", files["long"], *words, "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert "24 of 24 replies hold no verdict; the first ends in 'm'" in said
    assert "no verdict on long could be read" in said
    assert not output.exists()
    rows = [json.loads(line) for line in output.with_name("pairwise.verdicts.jsonl").open()]
    assert [row["judgment"] for row in rows] == [["m", "m"]] * 12
    assert {row["game1"] for row in rows} == {None}


def test_a_plan_costs_nothing(files, server: Endpoint, capsys) -> None:
    words = ["--baseline", files["base"], *endpoint(server), "--judge-prompt", f"{files['folder']}/weighted.txt"]
    prices = ["--dollars-in", "10", "--dollars-out", "30", "--dry-run", "--no-length-control"]
    output = Path(files["folder"]) / "none.json"
    assert main(["eval", "alpaca-eval", "--model", files["long"], *words, *prices, "--output", str(output)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "12 prompts of long; 12 calls (0 more are cached)" in said
    assert "about $0.00" in said
    assert len(server.bodies) == 0
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pairwise"], "--verdicts FILE, or --model FILE and --judge NAME"),
        (["pairwise", "--model", "{long}", "--judge", "x", "--verdicts", "{long}"], "without --model and --judge"),
        (["pairwise", "--model", "{folder}/no.jsonl", "--baseline", "{base}", "{by}"], "no.jsonl: no such file"),
        (["pairwise", "--model", "{long}", "--baseline", "{folder}/empty.jsonl", "{by}"], "the file has no rows"),
        (["pairwise", "--model", "{long}", "{by}"], "nothing to compare with; give the answers with --baseline"),
        (["pairwise", "--model", "{folder}/other.jsonl", "--baseline", "{base}", "{by}"], "is answered here"),
        (["pairwise", "--model", "{long}", "--model", "{long}", "--baseline", "{base}", "{by}"], "--model NAME=FILE"),
        (["grade", "--model", "{long}", "--judge", "{folder}/no-model"], "no such model folder"),
        (["grade", "--model", "{long}", "--judge", "x", "--judge-kind", "endpoint"], "give --endpoint URL"),
        (["grade", "--model", "{long}", "--judge", "x", "--endpoint", "http://x/v1"], "give --judge-prompt FILE"),
        (["grade", "--model", "{long}", "--judge", "x", "--endpoint", "ftp://x"], "base_url"),
        (["grade", "--model", "{long}", "{by}", "--judge-prompt", "{folder}/pair.txt"], "leave out --judge-prompt"),
        (["grade", "--model", "{long}", "--judge", "x", "--endpoint", "http://x/v1", "--judge-prompt",
          "{folder}/pair.txt"], "no placeholder {{answer}}"),
        (["alpaca-eval", "--model", "{long}", "--baseline", "{base}", "{by}", "--difficulty", "{folder}/d.csv",
          "--gamed", "{folder}/g.csv"], "give --no-length-control"),
        (["arena-hard", "--model", "{long}", "--baseline", "{base}", "{by}", "--version", "v2"], "--category"),
        (["alpaca-eval", "--model", "{long}", "{by}", "--no-length-control"], "give a copy with --baseline FILE"),
        (["mt-bench", "--model", "{long}", "{by}"], "give a copy with --questions FILE"),
        (["pairwise", "--verdicts", "{long}", "--limit", "3", "--endpoint", "http://x/v1", "--baseline", "{base}"],
         "without --limit and --endpoint and --baseline"),
        (["alpaca-eval", "--verdicts", "{long}", "--dry-run"], "without --dry-run"),
        (["grade", "--verdicts", "{long}", "--questions", "{long}"], "without --questions"),
        (["grade", "--model", "{long}", "{by}", "--key-variable", "K"], "--key-variable: no effect without"),
        (["grade", "--model", "{long}", "{by}", "--judge-temperature", "1"], "leave out --judge-temperature"),
        (["grade", "--model", "{long}", "--judge", "x", "--endpoint", "http://x/v1", "--batch-size", "2"],
         "no effect with --endpoint"),
        (["grade", "--model", "{long}", "{by}", "--judge-temperature", "hot"],
         "'hot' is not a valid float range, and not default"),
        (["alpaca-eval", "--model", "{long}", "{by}", "--no-length-control", "--C", "1"], "--C: no effect with"),
        (["alpaca-eval", "--model", "{long}", "{by}", "--judge-max-tokens", "9"], "reads one token"),
        (["arena-hard", "--verdicts", "{long}", "--baseline-name", "x"], "--baseline-name: no effect without --style"),
        (["arena-hard", "--verdicts", "{long}", "--category", "own", "--version", "v2", "--style", "{long}"],
         "the category 'own' has no published baseline; name the one in --style: --baseline-name"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(files, capsys, words: list[str], said: str) -> None:
    folder = Path(files["folder"])
    (folder / "empty.jsonl").write_text("")
    (folder / "other.jsonl").write_text('{"instruction": "another", "output": "a"}\n')
    (folder / "d.csv").write_text("index,instruction_difficulty\n0,0.5\n")
    (folder / "g.csv").write_text("preference,std_delta_len,instruction_difficulty\n0.5,0.1,0.2\n")
    given = [piece for word in words for piece in (by_program(files) if word == "{by}" else [word.format(**files)])]
    assert main(["eval", *given, "--output", str(folder / "out.json")]) == 2
    error = capsys.readouterr().err
    assert said.format() in error
    assert len(error.strip().splitlines()) == 1
    assert not list(folder.glob("out*"))


def test_a_place_that_cannot_be_written_is_found_before_the_judge_is_paid(files, server: Endpoint, capsys) -> None:
    folder = Path(files["folder"])
    words = ["--model", files["long"], *endpoint(server), "--judge-prompt", str(folder / "grade.txt"), "--output"]
    for output, said in ((folder, "a folder, not a file"), (folder / "grade.txt" / "o.json", "a file, not a folder")):
        assert main(["eval", "grade", *words, str(output)]) == 2
        assert said in capsys.readouterr().err
    assert server.bodies == []
    for command in (["demands", files["long"]], ["preferences", files["long"], "--model", "none"]):
        assert main(["eval", *command, "--output", str(folder)]) == 2
        assert "a folder, not a file" in capsys.readouterr().err


def test_values_of_which_there_are_a_few_are_checked(files, tmp_path: Path) -> None:
    prompt = read_judge_prompt(tmp_path / "weighted.txt")
    sources, base = AnswerSources(models=(files["long"],)), Path(files["base"])
    zeros = np.zeros(1)
    control = LengthControl(zeros, GamedRows(zeros, zeros, zeros))
    verdicts = Verdicts("own", zeros + 1.2, np.zeros(1, dtype=np.int64), zeros, zeros)
    wrong: Any = "v2.0"
    arena = ArenaOptions(version=wrong, baseline=base)
    alpaca = AlpacaOptions(annotator=wrong, baseline=base, length_control=False)
    for call, said in (
        (lambda: arena_hard.judge_task(sources, arena), "version is 'v2.0'; it is one of v0.1, v2"),
        (lambda: read_battles(files["long"], wrong), "version is"),
        (lambda: alpaca_eval.judge_task(sources, alpaca), "annotator is 'v2.0'; it is one of weighted, ranking"),
        (lambda: alpaca_eval.judge_items([], prompt, wrong), "annotator is"),
        (lambda: control_length(verdicts, control, align=wrong), "align is 'v2.0'; it is one of instruction, row"),
        (lambda: style_differences(np.ones((2, 4)), np.ones((2, 4)), wrong), "version is"),
    ):
        with pytest.raises(InputError, match=said):
            call()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('no model')", "ended with status 1: no model"),
        ("print(1)", "wrote 1 lines for 24 cases"),
    ],
)
def test_a_program_that_fails_says_why(files, capsys, program: str, said: str) -> None:
    (Path(files["folder"]) / "judge.py").write_text(program)
    words = ["--model", files["long"], "--baseline", files["base"], *by_program(files), "--output", "none.json"]
    assert main(["eval", "pairwise", *words]) == 1
    assert said in capsys.readouterr().err


def test_answers_and_verdicts_are_read_side_by_side(files) -> None:
    run("pairwise", files, "--baseline", files["base"], *by_program(files), models=("long",))
    run("grade", files, *by_program(files))
    folder = Path(files["folder"])
    given = [str(folder / "pairwise.json"), str(folder / "grade.json")]
    assert main(["compare", *given, "--output", str(folder / "compared")]) == 0
    page = (folder / "compared" / "comparison.html").read_text()
    for text in (
        answer("long", 3),
        answer("base", 3),
        "base (baseline)",
        PROMPTS[3],
        "shown first, as A: long is much better",
    ):
        assert text in page, text
    compared = json.loads((folder / "compared" / "comparison.json").read_text())
    assert [len(one["differences"].get("average", [])) for one in compared["benchmarks"]] == [0, 1]


def test_published_judge_prompts_are_recognised() -> None:
    prompt = read_judge_prompt(published("alpaca_eval") / "judge_prompt_clf.txt")
    assert prompt.fingerprint() == alpaca_eval.PUBLISHED.settings["judge_prompt"]
    arena = json.loads((published("arena_hard") / "judge_prompts_and_settings.json").read_text())
    for kind, known in arena_hard.PUBLISHED.items():
        for code in ("v01_original", "v2"):
            template = arena[code]["prompt_template"]
            text = template[0] if isinstance(template, list) else template
            prompt = JudgePrompt((("system", arena["judge_settings"][kind]["system_prompt"]), ("user", text)))
            assert spelled_alike(prompt).fingerprint() == known.settings["judge_prompt"]
    prompts = mt_bench.read_judge_prompts(published("mt_bench") / "judge_prompts.jsonl")
    fingerprint = prompts_fingerprint(prompts[name] for name in mt_bench.GRADING_PROMPTS)
    assert fingerprint == mt_bench.PUBLISHED.settings["judge_prompt"]


def test_805_cached_verdicts_aggregate_within_5_seconds(files, tmp_path: Path, monkeypatch, capsys) -> None:
    """Published verdicts of one model as an endpoint would have given them: nothing is asked, and the published
    numbers come out, length control with a cross-validated penalty."""
    data = published("alpaca_eval")
    rows = pq.read_table(data / "annotations.parquet").to_pylist()
    own = [row for row in rows if row["model"] == "gemma-7b-it"]
    with gzip.open(data / "instructions.jsonl.gz", "rt", encoding="utf-8", newline="\n") as file:
        instructions = [json.loads(line)["instruction"] for line in file.read().split("\n") if line]
    assert len(own) == len(instructions) == 805
    for model, column in (("gpt4_1106_preview", "len_1"), ("own", "len_2")):
        lines = [
            {"instruction": text, "output": model[0] * row[column], "generator": model}
            for text, row in zip(instructions, own, strict=True)
        ]
        (tmp_path / f"{model}.json").write_text(json.dumps(lines))
    settings = EndpointSettings(model="gpt-4-1106-preview", base_url="http://127.0.0.1:9/v1")
    prompt = read_judge_prompt(data / "judge_prompt_clf.txt")
    pairs = pair_up(read_answers(tmp_path / "own.json"), read_answers(tmp_path / "gpt4_1106_preview.json"))
    with reply_cache() as cache:
        for pair, item in zip(pairs, alpaca_eval.judge_items(pairs, prompt, "weighted"), strict=True):
            row = own[pair.index]
            top = [(token, row[f"logprob_{token}"]) for token in ("m", "M") if row[f"logprob_{token}"] is not None]
            top = [(token, value) for token, value in top if value == value]
            reply = {"text": "m", "finished": False, "first_token": top, "model": "gpt-4-1106-preview",
                     "tokens_in": 1, "tokens_out": 1, "failure": None}  # fmt: skip
            cache.put(request_key(settings.base_url, request_body(item.request, settings)), reply)
    words = ["--model", str(tmp_path / "own.json"), "--baseline", str(tmp_path / "gpt4_1106_preview.json"),
             "--judge", settings.model, "--endpoint", settings.base_url,
             "--judge-prompt", str(data / "judge_prompt_clf.txt"),
             "--difficulty", str(data / "instruction_difficulty_recovered.csv"),
             "--gamed", str(data / "df_gamed_surrogate.csv.gz")]  # fmt: skip
    begin = time.process_time()
    assert main(["eval", "alpaca-eval", *words, "--output", str(tmp_path / "out.json")]) == 0
    took = time.process_time() - begin
    assert took < 5
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["comparable"] == {"published": True, "because": []}
    judged = 100 * sum(row["preference"] - 1 for row in own) / 805
    assert result["models"]["own"]["win_rate"] == pytest.approx(judged, abs=1e-6)
    assert "length_controlled_winrate" in result["models"]["own"]
