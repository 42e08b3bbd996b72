"""Language judges behind an endpoint, by every command: what is sent, and what the verdicts come to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from loopback import Endpoint, running
from mixdpo import judges
from mixdpo.cli.main import main
from mixdpo.evaluation.benchmarks.alpaca_eval import is_swapped
from mixdpo.judges.task import Published, differences_from_published
from published import published

pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")

FINISH = "continue your judgment and finish by outputting a final verdict label"
QUESTIONS = [f"Question {{answer_a}} {number}" for number in range(4)]


def jsonl_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer_files(folder: Path, *models: str) -> list[Path]:
    return [
        jsonl_file(
            folder / f"{model}.jsonl",
            [
                {"id": str(row), "instruction": text, "output": f"{model} {row}", "generator": model,
                 "category": "hard_prompt"}
                for row, text in enumerate(QUESTIONS)
            ],
        )
        for model in models
    ]  # fmt: skip


def judged(bench: str, endpoint: Endpoint, folder: Path, model: Path, prompt: Path, *words: Any) -> dict[str, Any]:
    """Run the command, score its stored verdicts once more, and return the result."""
    output, again = folder / f"{bench}.json", folder / "again.json"
    common = ["--judge", "judge", "--endpoint", endpoint.url, "--concurrency", 2, "--max-retries", 0]
    given = ["--model", model, "--judge-prompt", prompt, *common, *words, "--output", output]
    assert main(["eval", bench, *map(str, given)]) == 0
    result = json.loads(output.read_text())
    kept = ("--no-length-control", "--version", "--category")
    options = [word for at, word in enumerate(words) if word in kept or (at and words[at - 1] in kept[1:])]
    stored = output.with_name(f"{bench}.verdicts.jsonl")
    assert main(["eval", bench, "--verdicts", str(stored), *options, "--output", str(again)]) == 0
    rescored = json.loads(again.read_text())["models"]
    own = {name: {key: one[key] for key in rescored[name]} for name, one in result["models"].items()}
    assert own == rescored
    return result


def asked(endpoint: Endpoint) -> list[list[tuple[str, str]]]:
    return [[(one["role"], one["content"]) for one in body["messages"]] for body in endpoint.bodies]


# ---- Arena-Hard ----

GAMES = {
    ("base 0", "own 0"): ["My answer...", "[[B>>A]]"],
    ("own 0", "base 0"): ["[[A=B]]"],
    ("base 1", "own 1"): ["[[A>B]] or rather [[B>A]]"],
    ("own 1", "base 1"): ["[[A>B]]"],
    ("base 2", "own 2"): ["My answer...", "None."],
    ("own 2", "base 2"): ["[[B>A]]"],
    ("base 3", "own 3"): ["My answer... [[A>B]]"],
    ("own 3", "base 3"): ["[[A>>B]]"],
}
"""What the judge says of the answers shown as A and B, first and when it is asked once more."""


def arena_judge(body: dict[str, Any]) -> str:
    messages = body["messages"]
    shown = messages[1]["content"]
    (said,) = [
        replies for (a, b), replies in GAMES.items() if a in shown and b in shown and shown.index(a) < shown.index(b)
    ]
    return said[1] if messages[-1]["content"] == FINISH else said[0]


def arena_prompt(folder: Path, code: str, kind: str) -> tuple[Path, str, str]:
    settings = json.loads((published("arena_hard") / "judge_prompts_and_settings.json").read_text())
    system, template = settings["judge_settings"][kind]["system_prompt"], settings[code]["prompt_template"]
    template = template[0] if isinstance(template, list) else template
    path = folder / "prompt.json"
    path.write_text(json.dumps({"system_prompt": system, "prompt_template": template}))
    return path, system, template


def filled(template: str, question: str, a: str, b: str) -> str:
    names = (("question_1", "QUESTION"), ("answer_1", "ANSWER_A"), ("answer_2", "ANSWER_B"))
    values = {name: value for spellings, value in zip(names, (question, a, b), strict=True) for name in spellings}
    return template.format(**values)


def games(template: str, system: str) -> list[list[tuple[str, str]]]:
    return [[("system", system), ("user", filled(template, QUESTIONS[int(a[-1])], a, b))] for a, b in GAMES]


def test_arena_hard_v01_asks_once_more_and_keeps_the_valid_game(tmp_path: Path) -> None:
    prompt, system, template = arena_prompt(tmp_path, "v01_original", "arena-hard-v0.1")
    base, own = answer_files(tmp_path, "base", "own")
    with running(arena_judge) as endpoint:
        result = judged("arena-hard", endpoint, tmp_path, own, prompt, "--baseline", base, "--version", "v0.1")
    first = games(template, system)
    further = [[*first[row], ("assistant", "My answer..."), ("user", FINISH)] for row in (0, 4)]
    assert sorted(asked(endpoint)) == sorted([*first, *further])
    assert {(body["temperature"], body["max_tokens"]) for body in endpoint.bodies} == {(0, 4096)}
    scored = result["models"]["own"]
    # Won: 3 + 1 + 3 battles, tied: 1, lost: 1 + 1.
    assert (scored["win_rate"], scored["n_battles"], scored["n_unread"]) == (75, 10, 2)
    assert {"interval", "prompt_interval", "position_bias", "length_effect", "flags"} <= scored.keys()
    assert result["judge"]["unread_verdicts"] == 2
    because = result["comparable"]["because"]
    assert not any("judge prompt" in reason or "longest" in reason for reason in because)
    for said in ("the judge is judge-2026", "4 prompts of own", "the baseline is base", "2 of 8 verdicts are missing"):
        assert any(said in reason for reason in because), said


def test_arena_hard_v2_takes_the_last_label_and_drops_prompts_without_both(tmp_path: Path) -> None:
    prompt, system, template = arena_prompt(tmp_path, "v2", "hard_prompt")
    base, own = answer_files(tmp_path, "base", "own")
    words = ("--baseline", base, "--version", "v2", "--category", "hard_prompt")
    with running(arena_judge) as endpoint:
        result = judged("arena-hard", endpoint, tmp_path, own, prompt, *words)
    assert sorted(asked(endpoint)) == sorted(games(template, system))
    assert {(body["temperature"], body["max_tokens"]) for body in endpoint.bodies} == {(0, 16000)}
    rows = [json.loads(line) for line in (tmp_path / "arena-hard.verdicts.jsonl").open()]
    assert [(row["game1"], row["game2"]) for row in rows] == [
        (None, "A=B"), ("B>A", "A>B"), (None, "B>A"), ("A>B", "A>>B")
    ]  # fmt: skip
    # Of prompts 1 and 3: won 1 + 1 + 3, lost 1.
    assert result["models"]["own"]["n_battles"] == 6
    # The published win rate of v2 is the mean of 100 resamples.
    assert result["models"]["own"]["win_rate"] == pytest.approx(100 * 5 / 6, abs=4)


def test_a_refused_second_question_is_counted_and_ends_no_run(tmp_path: Path) -> None:
    prompt, _, _ = arena_prompt(tmp_path, "v01_original", "arena-hard-v0.1")
    base, own = answer_files(tmp_path, "base", "own")
    words = ("--baseline", base, "--version", "v0.1")
    with running(lambda body: 400 if body["messages"][-1]["content"] == FINISH else arena_judge(body)) as endpoint:
        result = judged("arena-hard", endpoint, tmp_path, own, prompt, *words)
        assert sum(result["judge"]["failed_calls"].values()) == 2
        assert result["judge"]["unread_verdicts"] == 1
        endpoint.answer = arena_judge
        result = judged("arena-hard", endpoint, tmp_path, own, prompt, *words)
        assert len(endpoint.bodies) == 8 + 2 + 2
    assert result["models"]["own"]["win_rate"] == 75


# ---- MT-Bench ----


def test_mt_bench_sends_the_published_prompts(tmp_path: Path) -> None:
    folder = published("mt_bench")
    with gzip.open(folder / "prompt_vectors_llama3-8b.jsonl.gz", "rt", encoding="utf-8", newline="\n") as file:
        vectors = [json.loads(line) for line in file.read().split("\n") if line]
    turns = {row["question_id"]: row["answer_turns"] for row in vectors}
    answers = jsonl_file(
        tmp_path / "own.jsonl",
        [{"question_id": id, "model_id": "own", "choices": [{"index": 0, "turns": own}]} for id, own in turns.items()],
    )
    prompts = folder / "judge_prompts.jsonl"
    systems = {row["name"]: row["system_prompt"] for row in map(json.loads, prompts.open(encoding="utf-8"))}
    files = ("--questions", folder / "question.jsonl", "--references", folder / "reference_answer_gpt-4.jsonl")
    with running(lambda body: "[[7]]" if "[Question]" in body["messages"][1]["content"] else "[[5.5]]") as e:
        result = judged("mt-bench", e, tmp_path, answers, prompts, *files)
        sent = {tuple(map(tuple, messages)) for messages in asked(e)}
        published_ones = {(("system", systems[row["judge_prompt"]]), ("user", row["user_prompt"])) for row in vectors}
        assert published_ones <= sent
        assert len(e.bodies) == len(sent) == 160
        assert {(body["temperature"], body["max_tokens"]) for body in e.bodies} == {(0, 2048)}
        others = ("--questions", folder / "question.jsonl", "--references",
                  folder / "reference_answer_gpt-4-1106-preview_simpo.jsonl")  # fmt: skip
        other = judged("mt-bench", e, tmp_path, answers, prompts, *others)
    own = result["models"]["own"]
    assert (own["first_turn"], own["second_turn"], own["average"], own["n"]) == (7, 5.5, 6.25, 160)
    assert set(own["categories"].values()) == {6.25}
    assert result["comparable"]["because"] == ["the judge is judge-2026, not gpt-4"]
    assert "the set of reference answers is another, not the published one" in other["comparable"]["because"]


# ---- AlpacaEval by ranking, and one's own prompts ----


def test_the_ranking_annotator_reads_words(tmp_path: Path) -> None:
    base, own = answer_files(tmp_path, "base", "own")
    rows = [json.loads(line) for line in own.open()]
    rows[1]["output"], rows[2]["output"] = "base 1", ""
    jsonl_file(own, rows)
    prompt = tmp_path / "rank.txt"
    prompt.write_text("{instruction}\nmodel_1: {output_1}\nmodel_2: {output_2}")
    words = ("--baseline", base, "--annotator", "ranking", "--no-length-control")
    said = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"
    with running(lambda body: said) as endpoint:
        result = judged("alpaca-eval", endpoint, tmp_path, own, prompt, *words)
    # Identical answers are a draw that no judge sees; an empty one is judged.
    assert len(endpoint.bodies) == 3
    assert {(body["temperature"], body["max_tokens"]) for body in endpoint.bodies} == {(0, 100)}
    chances = [0.5 if row == 1 else float(is_swapped(text)) for row, text in enumerate(QUESTIONS)]
    assert result["models"]["own"]["win_rate"] == pytest.approx(100 * sum(chances) / 4)
    assert result["models"]["own"]["n_draws"] == 1
    assert "the annotator is ranking, not weighted" in result["comparable"]["because"]


def test_one_refused_call_does_not_end_a_weighted_run(tmp_path: Path) -> None:
    base, own = answer_files(tmp_path, "base", "own")
    prompt = tmp_path / "weighted.txt"
    prompt.write_text("{instruction}\nm: {output_1}\nM: {output_2}")
    words = ("--baseline", base, "--no-length-control")
    with running(lambda body: 400 if QUESTIONS[0] in body["messages"][0]["content"] else "m") as endpoint:
        result = judged("alpaca-eval", endpoint, tmp_path, own, prompt, *words)
    assert list(result["judge"]["failed_calls"].values()) == [1]
    assert (result["models"]["own"]["n_total"], result["models"]["own"]["n_unread"]) == (3, 1)


def test_a_prompt_that_is_refused_with_403_does_not_end_the_run(tmp_path: Path, capsys) -> None:
    (own,) = answer_files(tmp_path, "own")
    prompt = tmp_path / "single.txt"
    prompt.write_text("{question}: {answer}")
    with running(lambda body: 403 if QUESTIONS[0] in body["messages"][0]["content"] else "[[5]]") as endpoint:
        result = judged("grade", endpoint, tmp_path, own, prompt)
        assert [reason[:21] for reason in result["judge"]["failed_calls"]] == ["PermissionDeniedError"]
        assert result["models"]["own"]["n_prompts"] == 3
        endpoint.answer = lambda body: 403
        common = ["--model", str(own), "--judge-prompt", str(prompt), "--judge", "other", "--endpoint", endpoint.url]
        assert main(["eval", "grade", *common, "--output", str(tmp_path / "other.json")]) == 2
    assert "refuses the key" in capsys.readouterr().err


def test_the_judges_temperature_is_sent_or_left_out_and_told(tmp_path: Path) -> None:
    prompt, _, _ = arena_prompt(tmp_path, "v01_original", "arena-hard-v0.1")
    base, own = answer_files(tmp_path, "base", "own")
    words = ("--baseline", base, "--version", "v0.1")
    sent: dict[Any, set[Any]] = {}
    with running(arena_judge) as endpoint:
        for told in (0, 0.5, "default"):
            given = ("--judge-temperature", told) if told else ()
            endpoint.bodies.clear()
            result = judged("arena-hard", endpoint, tmp_path, own, prompt, *words, *given)
            sent[told] = {body.get("temperature", "none") for body in endpoint.bodies}
            assert result["settings"]["temperature"] == told
            reasons = [one for one in result["comparable"]["because"] if "temperature" in one]
            assert reasons == ([f"the judge's temperature is {told}, not 0.0"] if given else [])
    assert sent == {0: {0}, 0.5: {0.5}, "default": {"none"}}


def test_half_a_character_of_a_reply_is_written(tmp_path: Path) -> None:
    (own,) = answer_files(tmp_path, "own")
    prompt = tmp_path / "single.txt"
    prompt.write_text("{question}: {answer}")
    with running(lambda body: "Good \ud83d [[5]]") as endpoint:
        judged("grade", endpoint, tmp_path, own, prompt)
    rows = [json.loads(line) for line in (tmp_path / "grade.verdicts.jsonl").open(encoding="utf-8")]
    assert {row["judgment"] for row in rows} == {"Good \ufffd [[5]]"}


def test_own_prompts_are_compared_and_graded(tmp_path: Path) -> None:
    base, own = answer_files(tmp_path, "base", "own")
    pair, single = tmp_path / "pair.txt", tmp_path / "single.txt"
    pair.write_text("{question}\nA: {answer_a}\nB: {answer_b}")
    single.write_text("{question}: {answer}")

    def judge(body: dict[str, Any]) -> str:
        content = body["messages"][-1]["content"]
        if "A: " not in content:
            return f"Good. [[{content[-1]}]]"
        return "[[C]]" if content.endswith(" 3") else "[[A]]" if "A: own" in content else "[[B]]"

    with running(judge) as endpoint:
        compared = judged("pairwise", endpoint, tmp_path, own, pair, "--baseline", base)
        graded = judged("grade", endpoint, tmp_path, own, single)
    assert [("user", "Question {answer_a} 0\nA: base 0\nB: own 0")] in asked(endpoint)
    assert len(endpoint.bodies) == 8 + 4
    assert compared["models"]["own"]["win_rate"] == 87.5
    assert compared["models"]["own"]["won_both_games"]["share"] == 0.75
    assert graded["models"]["own"]["average"] == (0 + 1 + 2 + 3) / 4


def test_the_shipped_prompts_give_verdicts_that_are_read(tmp_path: Path) -> None:
    base, own = answer_files(tmp_path, "base", "own")
    prompts = Path(judges.__file__).with_name("prompts")

    def judge(body: dict[str, Any]) -> str:
        ((role, content),) = [(one["role"], one["content"]) for one in body["messages"]]
        assert role == "user"
        assert content.count("{answer_a}") == 1, "the question's own"
        if "<answer A>" not in content:
            number = int(content.split("</answer>")[0].strip()[-1])
            return f"It is short.\n[[{number or 85}]]"
        return "The first is longer.\n" + ("[[A]]" if "<answer A>\nown" in content else "[[B]]")

    with running(judge) as endpoint:
        pairs = judged("pairwise", endpoint, tmp_path, own, prompts / "pairwise.txt", "--baseline", base)
        graded = judged("grade", endpoint, tmp_path, own, prompts / "grade.txt")
    assert pairs["models"]["own"]["win_rate"] == 100
    assert pairs["models"]["own"]["n_unread"] == 0
    assert graded["models"]["own"]["average"] == (1 + 2 + 3) / 3
    assert graded["models"]["own"]["n_unread"] == 1, "85 is no grade from 1 to 10"
    assert graded["settings"]["scale"] == [1, 10]


def test_snapshots_of_the_published_judge_are_told_from_others() -> None:
    record = {"judge": "judge", "failed_calls": {}, "unread_verdicts": 0, "calls": 1}
    known = Published(("gpt-4.1", "gpt-4.1-2025-04-14"), 1)
    for version, count in (("gpt-4.1-2025-04-14", 0), ("gpt-4.1", 0), ("gpt-4.1-mini", 1), (None, 1)):
        seen = {**record, "judge_versions": [version] if version else []}
        assert len(differences_from_published(seen, known, {"own": 1}, {})) == count


def test_an_interrupted_run_says_how_it_goes_on(tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupted(settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mixdpo.judges.find_judge.find_judge", interrupted)
    words = ["--model", "own.jsonl", "--judge", "judge", "--output", str(tmp_path / "out.json")]
    assert main(["eval", "grade", *words]) == 130
    said = capsys.readouterr().err.strip()
    kept = "finished log-probabilities, answers and verdicts are kept"
    assert said == f"mixdpo: interrupted; give the same command again: {kept}"
