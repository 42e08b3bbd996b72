"""Models that think before they answer: on this machine and behind an endpoint, in files and in counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from loopback import Endpoint, running
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.generation import decoding
from mixdpo.generation.chat_model import ONLY_REASONING, USED_UP, Request
from mixdpo.generation.endpoint import EndpointModel, complete_all, estimate
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.local_generation import generate_answers, stop_token_ids
from mixdpo.generation.local_model import LocalModel
from mixdpo.generation.prompts import read_prompts
from mixdpo.models.model_settings import ModelSettings
from tiny import byte_level_tokenizer, saved, tiny_llama

QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
QWEN35 = QWEN3.replace("{% endif %}{% endif %}", "{% else %}{{ '<think>\n' }}{% endif %}{% endif %}")
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' }}"
    "{{ m.content }}<|return|>{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else m.content + '<|im_end|>' }}"
    "{% endfor %}"
)
QUESTION = [{"role": "user", "content": "How?"}]
Write = Callable[..., str]
Written = Callable[..., None]


def thinking_tokenizer(template: str, *special: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_level_tokenizer(chat_template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """Let every model write the texts given, in the order of the rendered prompts, the longest first."""

    def will_be(tokenizer: PreTrainedTokenizerFast, *texts: str) -> None:
        def write(model: Any, ids: Any, mask: Any, longest: int, config: Any, entropy: bool) -> decoding.Written:
            rows = [tokenizer.encode(texts[index % len(texts)], add_special_tokens=False) for index in range(len(ids))]
            logits = torch.zeros(len(ids), len(tokenizer)) if config.output_logits else None
            return decoding.Written(rows, [[] for _ in rows], logits)

        monkeypatch.setattr("mixdpo.generation.local_generation.write_batch", write)

    return will_be


# ---- a model on this machine ----


@pytest.mark.parametrize(
    ("template", "special", "text", "reasoning", "answer"),
    [
        (QWEN3, [], "<think>\nHm, tea.\n</think>\n\nBoil water<|im_end|>", "Hm, tea.", "Boil water"),
        (QWEN35, [], "Hm, tea.\n</think>\n\nBoil water<|im_end|>", "Hm, tea.", "Boil water"),
        (QWEN35, ["<think>", "</think>"], "Hm, tea.\n</think>\n\nBoil water<|im_end|>", "Hm, tea.", "Boil water"),
        (MISTRAL, ["[THINK]", "[/THINK]"], "[THINK]Hm[/THINK]Boil water<|im_end|>", "Hm", "Boil water"),
        (MISTRAL, ["[THINK]", "[/THINK]"], "[THINK][/THINK]Boil water<|im_end|>", None, "Boil water"),
        (
            HARMONY,
            ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"],
            "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Boil water<|return|>",
            "Hm",
            "Boil water",
        ),
    ],
)
def test_reasoning_of_every_family_is_apart_from_the_answer(
    written: Written, template: str, special: list[str], text: str, reasoning: str | None, answer: str
) -> None:
    tokenizer = thinking_tokenizer(template, *special)
    written(tokenizer, text)
    (found,) = generate_answers(tiny_llama(vocab_size=len(tokenizer), positions=600), tokenizer, [QUESTION])
    assert (found.reasoning, found.text, found.finished) == (reasoning, answer, True)
    in_answer = len(tokenizer.encode(answer))
    assert found.reasoning_tokens == found.tokens_out - in_answer > 0
    assert found.no_answer is None


def test_special_tokens_of_no_reasoning_are_not_in_an_answer(written: Written) -> None:
    tokenizer = thinking_tokenizer(MISTRAL, "[THINK]", "[/THINK]")
    text = "Boil [THINK] water<|pad|> now<|im_end|>"
    written(tokenizer, text)
    (found,) = generate_answers(tiny_llama(vocab_size=len(tokenizer), positions=600), tokenizer, [QUESTION])
    assert found.text == tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)
    assert (found.reasoning, found.reasoning_tokens) == (None, 0)


def test_reasoning_that_used_up_its_tokens_leaves_no_answer(written: Written) -> None:
    tokenizer = thinking_tokenizer(QWEN35)
    model = tiny_llama(vocab_size=len(tokenizer), positions=600)
    written(tokenizer, "Hm, tea and then", "Hm<|im_end|>")
    cut, ended = generate_answers(model, tokenizer, [QUESTION, QUESTION])
    assert (cut.text, cut.reasoning, cut.no_answer) == ("", "Hm, tea and then", USED_UP)
    assert (ended.text, ended.reasoning, ended.no_answer) == ("", "Hm", ONLY_REASONING)


def test_the_end_of_a_channel_is_not_the_end_of_the_turn() -> None:
    names = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"]
    tokenizer = thinking_tokenizer(HARMONY.replace("<|return|>", "<|end|>"), *names)
    model = tiny_llama(vocab_size=len(tokenizer), positions=600)
    assert tokenizer.convert_tokens_to_ids("<|end|>") not in stop_token_ids(model, tokenizer)
    tokenizer.chat_template = HARMONY
    assert tokenizer.convert_tokens_to_ids("<|return|>") in stop_token_ids(model, tokenizer)


@pytest.fixture
def qwen3(tmp_path: Path) -> str:
    tokenizer = thinking_tokenizer(QWEN3)
    return saved(tiny_llama(vocab_size=len(tokenizer), positions=512), tokenizer, tmp_path / "qwen3")


def request(**changes: Any) -> Request:
    return Request(messages=(("user", "How?"),), **({"max_tokens": 8, "temperature": 0.0} | changes))


def test_the_template_is_told_what_the_settings_and_the_request_say(qwen3: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen3)

    def own(**told: Any) -> int:
        return len(tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False, **told))

    def tokens_in(settings: dict[str, Any] | None, row: str | None) -> int:
        model = LocalModel(ModelSettings(name_or_path=qwen3, chat_template_kwargs=settings, dtype="float32"))
        return model.complete([request(chat_template_kwargs=row)])[0].tokens_in

    silent = {"enable_thinking": False}
    assert own() < own(**silent)
    assert tokens_in(None, None) == own()
    assert tokens_in(silent, None) == tokens_in(None, json.dumps(silent)) == own(**silent)
    assert tokens_in(silent, '{"enable_thinking": true}') == own()


def test_caches_keep_what_was_written_and_their_keys(
    qwen3: str, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    from mixdpo.generation import local_model

    def digest(parts: Any, **options: Any) -> str:
        parts = list(parts)
        keys.extend(part for part in parts if isinstance(part, str) and part.startswith("[["))
        return original(parts, **options)

    original = local_model.digest
    monkeypatch.setattr(local_model, "digest", digest)
    tokenizer = AutoTokenizer.from_pretrained(qwen3)
    written(tokenizer, "<think>Hm</think>Tea<|im_end|>")
    model = LocalModel(ModelSettings(name_or_path=qwen3, dtype="float32"))
    (first,) = model.complete([request()])
    written(tokenizer, "another")
    assert model.complete([request()]) == [first]
    assert (first.reasoning, first.text) == ("Hm", "Tea")
    asked = {"max_tokens": 8, "messages": [], "seed": None, "temperature": 0.0, "top_logprobs": None, "top_p": None}
    assert json.loads(keys[0])[1] == asked


def test_a_first_token_of_the_reasoning_is_no_verdict(written: Written) -> None:
    tokenizer = thinking_tokenizer(QWEN35)
    written(tokenizer, "m")
    (found,) = generate_answers(
        tiny_llama(vocab_size=len(tokenizer), positions=600), tokenizer, [QUESTION], top_logprobs=5
    )
    assert (found.reasoning, found.text, found.first_token) == ("m", "", ())


def test_generated_files_hold_reasoning_apart_and_reports_count_it(
    qwen3: str, written: Written, jsonl: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen3)
    written(tokenizer, "<think>Hm</think>Tea<|im_end|>", "Water<|im_end|>", "<think>Hm and")
    questions = jsonl([{"instruction": f"How do I make tea? {'Ok? ' * number}"} for number in (3, 2, 1)])
    output = tmp_path / "out.jsonl"
    silent = [
        "--chat-template-kwargs",
        "{enable_thinking: true}",
        "--template-date",
        "2026-01-31",
        "--max-new-tokens",
        "99",
    ]
    arguments = ["generate", questions, "--model", qwen3, *silent, "--output", str(output)]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["output"], row["reasoning"]) for row in rows] == [("Tea", "Hm"), ("Water", None), ("", "Hm and")]
    report = json.loads(output.with_name("out.report.json").read_text())
    assert (report["prompts"], report["answered"]) == (3, 2)
    assert report["without_answer"] == {USED_UP: 1}
    assert report["reasoning"]["answers"] == 2
    in_answers = [len(tokenizer.encode(row["output"])) for row in rows]
    in_reasoning = [row["tokens"] - count for row, count in zip(rows, in_answers, strict=True)]
    assert report["reasoning"]["tokens"]["mean"] == (in_reasoning[0] + in_reasoning[2]) / 2
    assert report["tokens"]["mean"] == pytest.approx(sum(in_answers) / 3)
    assert report["characters"]["largest"] == len("Water")
    assert report["settings"]["chat_template_kwargs"] == {"enable_thinking": True}
    assert report["settings"]["template_date"] == "2026-01-31"
    shown = capsys.readouterr()
    assert "with reasoning" in shown.out
    assert f"1 without an answer: {USED_UP}" in shown.err


def test_a_column_tells_the_template_about_each_prompt(jsonl: Write) -> None:
    rows = [{"prompt": "a", "chat_template_kwargs": {"enable_thinking": False}},
            {"prompt": "b", "chat_template_kwargs": '{"reasoning_effort": "low"}'}, {"prompt": "c"}]  # fmt: skip
    found = [prompt.chat_template_kwargs for prompt in read_prompts(jsonl(rows))]
    assert found == ['{"enable_thinking": false}', '{"reasoning_effort": "low"}', None]
    with pytest.raises(InputError, match="row 1, column 'chat_template_kwargs'"):
        read_prompts(jsonl([{"prompt": "a", "chat_template_kwargs": "no thinking"}]))


# ---- an endpoint ----


@pytest.fixture
def served() -> Iterator[Endpoint]:
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    with running(lambda body: "") as endpoint:
        yield endpoint


def at(server: Endpoint, **changes: Any) -> EndpointSettings:
    return EndpointSettings(model="far", base_url=server.url, concurrency=1, **changes)


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"content": "Tea", "reasoning_content": "Hm"}, "Hm"),
        ({"content": "Tea", "reasoning": "Hm"}, "Hm"),
        ({"content": "<think>\nHm\n</think>\n\nTea"}, "Hm"),
        ({"content": "Hm\n</think>\n\nTea"}, "Hm"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
                      {"type": "text", "text": "Tea"}]}, "Hm"),
        ({"content": "Tea", "reasoning_content": None}, None),
    ],
)  # fmt: skip
def test_reasoning_of_an_endpoint(served: Endpoint, message: dict[str, Any], reasoning: str | None) -> None:
    served.answer = lambda body: {"message": message}
    for _ in range(2):  # the second from the cache
        (found,) = complete_all([request()], at(served))
        assert (found.text, found.reasoning, found.failure) == ("Tea", reasoning, None)
    assert len(served.bodies) == 1


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ({"message": {"content": None, "refusal": "I cannot help"}}, "no content: the model refused"),
        ({"message": {"content": ""}, "finish_reason": "content_filter"},
         "no content: a filter of the provider withheld it"),
        ({"message": {"content": None}}, "no content: the reply is empty (finish_reason stop)"),
    ],
)  # fmt: skip
def test_replies_without_content_are_failures_by_cause(
    served: Endpoint, jsonl: Write, tmp_path: Path, choice: dict[str, Any], why: str
) -> None:
    served.answer = lambda body: "Tea" if body["messages"][0]["content"] == "a" else choice
    output = tmp_path / "out.jsonl"
    asked = jsonl([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}])
    assert main(["generate", asked, "--model", "far", "--endpoint", served.url, "--output", str(output)]) == 0
    report = json.loads(output.with_name("out.report.json").read_text())
    assert (report["answered"], report["failures"]) == (1, {why: 2})
    assert len(output.read_text().splitlines()) == 1


def test_a_model_that_is_silent_is_told_what_to_change(served: Endpoint) -> None:
    served.answer = lambda body: {"message": {"content": None}}
    with pytest.raises(
        RunError, match=r"none of 1 calls was answered; .*reply is empty.*; take another model or prompt"
    ):
        complete_all([request()], at(served))


def test_a_reply_that_is_all_reasoning_is_no_answer(served: Endpoint) -> None:
    served.answer = lambda body: {
        "message": {"content": None, "reasoning_content": "Hm and"}, "finish_reason": "length"
    }  # fmt: skip
    (found,) = complete_all([request()], at(served))
    assert (found.text, found.reasoning, found.failure, found.no_answer) == ("", "Hm and", None, USED_UP)


def test_a_reply_that_was_cut_within_reasoning_the_prompt_opened(served: Endpoint) -> None:
    """Nothing in it says so; the other replies of the run do."""
    cut = {"message": {"content": "Hm, [[A]] or"}, "finish_reason": "length"}
    served.answer = lambda body: cut if body["max_tokens"] == 9 else "Hm</think>Tea"
    found = complete_all([request(), request(max_tokens=7), request(max_tokens=9)], at(served))
    assert [one.text for one in found] == ["Tea", "Tea", ""]
    assert found[2].reasoning == "Hm, [[A]] or"
    (alone,) = complete_all([request(max_tokens=9)], at(served))
    assert alone.text == "Hm, [[A]] or"


def test_an_endpoint_is_told_what_its_template_is_told(served: Endpoint) -> None:
    served.answer = lambda body: "Tea"
    plain = at(served)
    complete_all([request()], plain)
    silent = at(served, chat_template_kwargs={"enable_thinking": False})
    complete_all([request(), request(chat_template_kwargs='{"enable_thinking": true}')], silent)
    told = [body.get("chat_template_kwargs") for body in served.bodies]
    assert told == [None, {"enable_thinking": False}, {"enable_thinking": True}]
    assert estimate([request()], plain).calls == estimate([request()], silent).calls == 0
    assert EndpointModel(silent).record()["chat_template_kwargs"] == {"enable_thinking": False}
