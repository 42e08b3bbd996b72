"""Answers and judges that think: the answer is judged and measured, and the verdict is read behind the reasoning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopback import running
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError
from mixdpo.evaluation.benchmarks.alpaca_eval import read_verdicts
from mixdpo.evaluation.benchmarks.mt_bench import parse_rating
from mixdpo.evaluation.thinking_templates import opens_reasoning_by, reasoning_end
from mixdpo.generation.answer_files import ReasoningCount, read_answers
from mixdpo.judges.find_judge import find_judge
from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.judges.language_model import LanguageJudge
from tiny import byte_level_tokenizer, saved, tiny_llama

Write = Callable[..., str]
THOUGHTS = "<think>\nI could also say B. [[B]] [[2]]\n</think>\n\n"
PROMPTS = ["What is a?", "What is b?", "What is c?"]


def rows(answers: list[Any], **more: Any) -> list[dict[str, Any]]:
    return [{"instruction": p, "output": answer, **more} for p, answer in zip(PROMPTS, answers, strict=True)]


@pytest.mark.parametrize(
    ("given", "turns", "thought", "alone"),
    [
        ([{"output": THOUGHTS + "a"}, {"output": "b"}], [("a",), ("b",)], 1, 0),
        ([{"output": "Hm</think>a"}, {"output": "<think>Hm"}], [("a",), ("",)], 2, 1),
        ([{"output": "a", "reasoning": "Hm"}, {"output": "", "reasoning": "Hm"}, {"output": "", "reasoning": None}],
         [("a",), ("",), ("",)], 2, 1),
        ([{"messages": [{"role": "assistant", "content": "a", "reasoning_content": "Hm"}]}], [("a",)], 1, 0),
        ([{"messages": [{"role": "assistant", "content": None, "reasoning": "Hm"}]}], [("",)], 1, 1),
        ([{"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm"},
                                                          {"type": "text", "text": "a"}]}]}], [("a",)], 0, 0),
        ([{"question_id": 1, "choices": [{"turns": [THOUGHTS + "a", "b"]}]}], [("a", "b")], 1, 0),
    ],
)  # fmt: skip
def test_answers_of_files_come_without_reasoning_and_it_is_counted(
    jsonl: Write, given: list[dict[str, Any]], turns: list[tuple[str, ...]], thought: int, alone: int
) -> None:
    file = read_answers(jsonl(given))
    assert [tuple(turn.strip() for turn in own) for own in file.turns] == turns
    assert file.reasoning == ReasoningCount(len(given), thought, alone)


def evaluated(bench: str, output: Path, *words: Any) -> dict[str, Any]:
    assert main(["eval", bench, *map(str, words), "--output", str(output)]) == 0
    return json.loads(output.read_text())


def test_programs_read_answers_without_reasoning(jsonl: Write, tmp_path: Path, capsys) -> None:
    judge = tmp_path / "longer.py"
    judge.write_text(
        "import sys, json\n"
        "for line in sys.stdin:\n"
        "    case = json.loads(line)\n"
        "    print('A>B' if len(case['answer_a']) > len(case['answer_b']) else 'B>A')\n"
    )
    own = jsonl(rows([THOUGHTS + "short", "<think>Hm", "short"], generator="own"), "own.jsonl")
    base = jsonl(rows(["some longer words"] * 3, generator="base"), "base.jsonl")
    how = ["--judge-kind", "program", "--judge", f"python {judge}", "--baseline", base, "--model", own]
    result = evaluated("pairwise", tmp_path / "out.json", *how)
    assert result["models"]["own"]["win_rate"] == 0
    assert result["models"]["own"]["avg_length"] == pytest.approx((5 + 0 + 5) / 3)
    assert result["reasoning"] == {"own": {"answers": 3, "with_reasoning": 2, "without_answer": 1}}
    assert "own: 2 of 3 answers come after reasoning, which is not judged; 1 of them hold no answer" in " ".join(
        capsys.readouterr().out.split()
    )


def test_lengths_of_stored_verdicts_are_of_answers(jsonl: Write, tmp_path: Path) -> None:
    stored = [
        {"model": "own", "preference": 1.5 + 0.1 * n, "instruction_index": n, "output_1": "12345",
         "output_2": THOUGHTS + "123"}
        for n in range(3)
    ]  # fmt: skip
    (verdicts,) = read_verdicts(jsonl(stored))
    assert verdicts.model_length.tolist() == [3, 3, 3]
    assert verdicts.answers == ["123"] * 3
    how = ["--verdicts", jsonl(stored), "--no-length-control"]
    result = evaluated("alpaca-eval", tmp_path / "out.json", *how)
    assert result["models"]["own"]["avg_length"] == 3
    assert result["reasoning"] == {"own": {"answers": 3, "with_reasoning": 3, "without_answer": 0}}


# ---- a judge that thinks ----


@pytest.mark.parametrize(
    ("judgement", "rating"),
    [
        ("<think>maybe [[3]] would be harsh</think> Rating: [[9]]", 9),
        ("maybe [[3]]</think> Rating: [[9]]", 9),
        ("<|channel|>analysis<|message|>[[3]]<|end|><|start|>assistant<|channel|>final<|message|>[[9]]", 9),
        ("<think>the rating is [[3]]", None),
        ("Rating: [[85]]", None),
        ("Rating: [[10]]", 10),
    ],
)
def test_ratings_are_read_behind_reasoning_and_on_the_scale(judgement: str, rating: float | None) -> None:
    assert parse_rating(judgement) == rating


def test_stored_judgements_of_a_thinking_judge(jsonl: Write, tmp_path: Path) -> None:
    texts = ["<think>maybe [[3]]</think> Rating: [[9]]"] * 4 + ["<think>[[3]] and", "[[85]]"]
    stored = [
        {"question_id": 81 + n // 2, "model": "own", "turn": 1 + n % 2, "judgment": text, "score": -1}
        for n, text in enumerate(texts)
    ]
    own = evaluated("mt-bench", tmp_path / "out.json", "--verdicts", jsonl(stored))["models"]["own"]
    assert (own["average"], own["n"], own["n_error"]) == (9, 6, 2)


VERDICTS: dict[str, Callable[[str], Any]] = {
    "tags": lambda verdict: THOUGHTS + verdict,
    "unopened": lambda verdict: f"[[B]] [[2]]</think>{verdict}",
    "beside": lambda verdict: {"message": {"content": verdict, "reasoning_content": "[[B]] [[2]]"}},
}


@pytest.mark.parametrize("form", VERDICTS)
def test_the_verdict_of_an_endpoint_is_read_behind_its_reasoning(jsonl: Write, tmp_path: Path, form: str) -> None:
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    pair, single = tmp_path / "pair.txt", tmp_path / "single.txt"
    pair.write_text("{question}\nA: {answer_a}\nB: {answer_b}")
    single.write_text("{question}: {answer}")
    own = jsonl(rows(["own"] * 3, generator="own"), "own.jsonl")
    base = jsonl(rows(["base"] * 3, generator="base"), "base.jsonl")

    def judge(body: dict[str, Any]) -> Any:
        content = body["messages"][-1]["content"]
        if "c?" in content:  # the verdict is in the reasoning alone
            return {"message": {"content": "<think>so [[A]] [[7]]"}, "finish_reason": "length"}
        return VERDICTS[form]("[[7]]" if "A: " not in content else "[[A]]" if "A: own" in content else "[[B]]")

    with running(judge) as endpoint:
        how = ["--judge", "judge", "--endpoint", endpoint.url, "--model", own]
        games = evaluated("pairwise", tmp_path / "p.json", *how, "--baseline", base, "--judge-prompt", pair)
        grades = evaluated("grade", tmp_path / "g.json", *how, "--judge-prompt", single)
    assert games["models"]["own"]["win_rate"] == 100
    assert games["models"]["own"]["n_unread"] == 2
    assert games["judge"]["unread_verdicts"] == 2
    assert games["judge"]["replies_with_reasoning"] == 6
    assert (grades["models"]["own"]["average"], grades["models"]["own"]["n_unread"]) == (7, 1)


def test_a_judge_that_thinks_first_has_no_weighted_verdict(jsonl: Write, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{instruction}\nm: {output_1}\nM: {output_2}")
    own, base = jsonl(rows(["own"] * 3), "own.jsonl"), jsonl(rows(["base"] * 3), "base.jsonl")
    with running(lambda body: {"message": {"content": None, "reasoning": "m"}, "finish_reason": "length"}) as server:
        how = ["--judge", "judge", "--endpoint", server.url, "--model", own, "--baseline", base, "--no-length-control"]
        output = tmp_path / "out.json"
        arguments = ["eval", "alpaca-eval", *how, "--judge-prompt", str(prompt), "--output", str(output)]
        assert main(arguments) == 2
        told = ["--judge-chat-template-kwargs", "{enable_thinking: false}"]
        server.answer = lambda body: "m"
        assert main([*arguments, *told]) == 0
    assert server.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": False}
    assert json.loads(output.read_text())["judge"]["chat_template_kwargs"] == {"enable_thinking": False}


def test_whose_template_is_told(tmp_path: Path, tokenizer: Any) -> None:
    folder = saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "judge")
    silent = {"enable_thinking": False}
    judge = find_judge(JudgeSettings(judge=folder, chat_template_kwargs=silent))
    assert isinstance(judge, LanguageJudge)
    assert judge.chat_model.model.chat_template_kwargs == silent  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="a program has no chat template"):
        find_judge(JudgeSettings(judge="true", kind="program", chat_template_kwargs=silent))


# ---- tasks of the harness ----

OPENING = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</think>{% endif %}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>\n{% endif %}"
)


def test_what_a_template_does_about_reasoning() -> None:
    plain, thinking = byte_level_tokenizer(), byte_level_tokenizer(chat_template=OPENING)
    assert not opens_reasoning_by(plain, None)
    assert opens_reasoning_by(thinking, None)
    assert not opens_reasoning_by(thinking, {"enable_thinking": False})
    assert reasoning_end(plain) is None
    assert reasoning_end(thinking) == "</think>"
    thinking.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    assert reasoning_end(thinking) == thinking.convert_tokens_to_ids("</think>")
    plain.chat_template = None
    assert not opens_reasoning_by(plain, None)
