"""Prompt ids + completion ids equal the template's ids of the whole conversation; BOS, EOS and truncation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mixdpo import load_pairs, tokenize_pairs
from mixdpo.data.arrays import token_counts, trained_counts
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_ids import shared_length
from mixdpo.data.tokenize import tokens_of
from tiny import CHATML, byte_level_tokenizer, token_pairs

BOS_TEMPLATE = "{{ bos_token }}" + CHATML
NO_GENERATION_PROMPT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
)
NO_END_TOKEN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
NO_LIMIT = TokenSettings(max_length=None)


def bos_adding(template: str | None = BOS_TEMPLATE, eos_too: bool = False) -> PreTrainedTokenizerFast:
    """Llama's way: `<s>` in front of everything, here also printed by the template; T5's way with `eos_too`."""
    tokenizer = byte_level_tokenizer(chat_template=template)
    tokenizer.add_special_tokens({"bos_token": AddedToken("<s>", special=True)})
    end = " <|im_end|>" if eos_too else ""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A{end}",
        special_tokens=[("<s>", tokenizer.bos_token_id), ("<|im_end|>", tokenizer.eos_token_id)],
    )
    return tokenizer


def pairs_of(*rows: tuple[Any, Any, Any], **more: Any) -> Dataset:
    columns = dict(zip(("prompt", "chosen", "rejected"), map(list, zip(*rows, strict=True)), strict=True))
    return Dataset.from_dict({"pair_id": [f"{i:020x}" for i in range(len(rows))], **columns, **more})


def chat(*contents: str, start: str = "user") -> list[dict[str, str]]:
    roles = ["user", "assistant"] if start == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def answer(text: str) -> list[dict[str, str]]:
    return chat(text, start="assistant")


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(smollm2)


STYLES: dict[str, Any] = {
    "chatml": byte_level_tokenizer,
    "bos twice": bos_adding,
    "no generation prompt": lambda: byte_level_tokenizer(chat_template=NO_GENERATION_PROMPT),
    "no end token": lambda: byte_level_tokenizer(chat_template=NO_END_TOKEN),
}


def assert_equals_template(dataset: Dataset, tokenizer: Any, closes: bool = True) -> None:
    tokens, report = tokens_of(dataset, tokenizer, NO_LIMIT)
    assert len(tokens) == len(dataset) == report.pairs
    for row, ids in zip(dataset, tokens, strict=True):
        for side in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=True, return_dict=False)
            assert ids["prompt_ids"] + ids[f"{side}_ids"] == whole + ([] if closes else [tokenizer.eos_token_id])
            assert ids[f"{side}_ids"]
            if tokenizer.bos_token == "<s>":
                assert (ids["prompt_ids"] + ids[f"{side}_ids"]).count(tokenizer.bos_token_id) == 1


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=20).filter(str.strip)
CONVERSATION = st.lists(TEXT, min_size=1, max_size=5).filter(lambda contents: len(contents) % 2 == 1)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ids_equal_the_template_on_random_conversations(style: str, data: Any) -> None:
    contents, chosen, rejected = data.draw(CONVERSATION), data.draw(TEXT), data.draw(TEXT)
    dataset = pairs_of((chat(*contents), answer(chosen), answer(rejected)))
    assert_equals_template(dataset, STYLES[style](), closes=style != "no end token")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(contents=CONVERSATION, chosen=TEXT, rejected=TEXT)
def test_ids_equal_smollm2s_template(
    contents: list[str], chosen: str, rejected: str, smollm2_tokenizer: PreTrainedTokenizerFast
) -> None:
    # Its vocabulary lacks some control characters, and an answer of these alone is dropped.
    assume(all(smollm2_tokenizer(text.strip())["input_ids"] for text in (chosen, rejected)))
    assert_equals_template(pairs_of((chat(*contents), answer(chosen), answer(rejected))), smollm2_tokenizer)


@pytest.mark.slow
def test_real_pairs_with_smollm2(alpaca_graded: Path, smollm2_tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = load_pairs(str(alpaca_graded), split="test")
    assert_equals_template(dataset, smollm2_tokenizer)
    _, report = tokens_of(dataset, smollm2_tokenizer, NO_LIMIT)
    assert not any(report.counts.values())


def test_the_generation_prompt_belongs_to_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens, report = tokens_of(pairs_of((chat("Hi"), answer("yes"), answer("no"))), tokenizer)
    assert tokenizer.decode(tokens[0]["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(tokens[0]["chosen_ids"]) == "yes<|im_end|>\n"
    assert report.counts["boundary_moved"] == 0


def test_without_generation_prompt_the_answer_holds_its_header() -> None:
    tokenizer = STYLES["no generation prompt"]()
    tokens, _ = tokens_of(pairs_of((chat("Hi"), answer("yes"), answer("no"))), tokenizer)
    assert tokenizer.decode(tokens[0]["chosen_ids"]) == "<|im_start|>assistant\nyes<|im_end|>\n"


def test_a_prompt_that_is_rendered_otherwise_alone_moves_the_boundary() -> None:
    thinking = CHATML.replace("<|im_start|>assistant\n'", "<|im_start|>assistant\n(thinking)'")
    tokenizer = byte_level_tokenizer(chat_template=thinking)
    dataset = pairs_of((chat("Hi"), answer("yes"), answer("no")))
    tokens, report = tokens_of(dataset, tokenizer, NO_LIMIT)
    assert report.counts["boundary_moved"] == 1
    assert "(thinking)" not in tokenizer.decode(tokens[0]["prompt_ids"])
    assert_equals_template(dataset, tokenizer)


def test_a_template_without_end_token_gets_an_eos() -> None:
    tokenizer = STYLES["no end token"]()
    dataset = pairs_of((chat("Hi"), answer("a"), answer("b")), (chat("Ho"), answer("c"), answer("d")))
    tokens, report = tokens_of(dataset, tokenizer, NO_LIMIT)
    assert report.counts["eos_appended"] == 4
    assert tokens[0]["chosen_ids"][-1] == tokenizer.eos_token_id


def test_an_end_token_of_the_prompt_does_not_close_a_short_answer() -> None:
    template = NO_END_TOKEN.replace(
        "+ '\n' }}{% endfor", "+ ('<|im_end|>' if m['role'] == 'user' else '') }}{% endfor"
    )
    template = template.replace("'assistant:'", "''").replace("m['role'] + ': ' + ", "")
    tokens, report = tokens_of(
        pairs_of((chat("Hi"), answer("a"), answer("b"))), byte_level_tokenizer(chat_template=template)
    )
    assert report.counts["eos_appended"] == 2
    assert len(tokens[0]["chosen_ids"]) == 2


@pytest.mark.parametrize("header", ["<|im_start|>assistant\n", "ASSISTANT:", "assistant<|im_start|>\n"])
def test_a_header_behind_every_conversation_is_neither_trained_nor_closed_again(header: str) -> None:
    template = CHATML.replace("{% if add_generation_prompt %}", "").replace("{% endif %}", "")
    tokenizer = byte_level_tokenizer(chat_template=template.replace("<|im_start|>assistant\n", header))
    turns = [*answer("The Elbe"), *chat("More", "the Rhine")]
    dataset = pairs_of((chat("Hi"), answer("yes"), turns))
    (tokens,), report = tokens_of(dataset, tokenizer, NO_LIMIT)
    assert (report.counts["next_header"], report.counts["eos_appended"]) == (1, 0)
    assert_equals_template(dataset, tokenizer)
    trained = {
        side: tokenizer.decode(
            [i for i, kept in zip(tokens[f"{side}_ids"], tokens[f"{side}_mask"], strict=True) if kept]
        )
        for side in ("chosen", "rejected")
    }
    assert trained["chosen"].rstrip() == "yes<|im_end|>"
    assert trained["rejected"].rstrip() == "The Elbe<|im_end|>the Rhine<|im_end|>"


def test_tools_reach_the_template() -> None:
    template = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
    row = (chat("Hi"), answer("yes"), answer("no"))
    dataset = pairs_of(row, row, row, tools=['[{"name": "f"}]', None, '[{"name": "g"}]'])
    tokenizer = byte_level_tokenizer(chat_template=template)
    tokens, _ = tokens_of(dataset, tokenizer)
    starts = [tokenizer.decode(ids)[:15] for ids in tokens["prompt_ids"]]
    assert starts == ['[{"name": "f"}]', "<|im_start|>use", '[{"name": "g"}]']


def test_null_filled_messages_are_rendered_as_written(tokenizer: PreTrainedTokenizerFast) -> None:
    template = CHATML.replace("message['role']", "(message['name'] if 'name' in message else message['role'])")
    tokenizer = byte_level_tokenizer(chat_template=template)
    prompt = [{"role": "user", "content": "a", "name": "Ann"}, {"role": "user", "content": "b", "name": None}]
    tokens, _ = tokens_of(pairs_of((prompt, answer("yes"), answer("no"))), tokenizer)
    assert tokenizer.decode(tokens[0]["prompt_ids"]).startswith("<|im_start|>Ann\na<|im_end|>\n<|im_start|>user\nb")


def test_messages_that_the_template_refuses_are_counted(refused: Any) -> None:
    tokenizer = byte_level_tokenizer(chat_template=STRICT)
    good = (chat("Hi"), answer("yes"), answer("no"))
    bad = ([{"role": "system", "content": "x"}, *chat("Hi")], answer("yes"), answer("no"))
    tokens, report = tokens_of(pairs_of(good, bad, good), tokenizer)
    assert tokens["row"][:] == [0, 2]
    assert report.counts["template_refused"] == 1
    assert "no system role" in report.lines()[-1]
    refused(lambda: tokens_of(pairs_of(bad), tokenizer), "all 1 pairs", "template_refused", "no system role")


# ---- plain text ----

WORDS = ("The quick brown", " fox jumps", " dog.")


@pytest.mark.parametrize("make", [byte_level_tokenizer, bos_adding, lambda: bos_adding(eos_too=True)])
@pytest.mark.parametrize("prompt", [WORDS[0], "<s>" + WORDS[0], "The qu"])
def test_texts_have_one_bos_at_most_and_one_eos(make: Any, prompt: str) -> None:
    tokenizer = make()
    tokens, report = tokens_of(pairs_of((prompt, WORDS[1], WORDS[2] + tokenizer.eos_token)), tokenizer, NO_LIMIT)
    for side, text in (("chosen", WORDS[1]), ("rejected", WORDS[2])):
        ids = tokens[0]["prompt_ids"] + tokens[0][f"{side}_ids"]
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids[-1] == tokenizer.eos_token_id
        if tokenizer.bos_token == "<s>":
            assert ids.count(tokenizer.bos_token_id) == 1
            assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids).replace("<s>", "").removesuffix(tokenizer.eos_token) == (prompt + text).replace(
            "<s>", ""
        )
    assert report.counts["eos_appended"] == 0
    assert report.counts["boundary_moved"] == 0


def test_a_merge_over_the_boundary_goes_to_the_answers() -> None:
    tokenizer = byte_level_tokenizer()
    prompt, chosen = "The quick bro", "wn fox"
    assert len(tokenizer("The quick brown")["input_ids"]) <= len(tokenizer(prompt)["input_ids"])
    tokens, report = tokens_of(pairs_of((prompt, chosen, "th")), tokenizer, NO_LIMIT)
    assert report.counts["boundary_moved"] == 1
    ids = tokens[0]["prompt_ids"] + tokens[0]["chosen_ids"]
    assert ids == [*tokenizer(prompt + chosen)["input_ids"], tokenizer.eos_token_id]
    assert tokens[0]["prompt_ids"] == tokenizer("The quick")["input_ids"]


def test_a_pair_without_a_shared_first_token_is_dropped(refused: Any) -> None:
    refused(lambda: tokens_of(pairs_of(("b", "rown", "y")), byte_level_tokenizer(), NO_LIMIT), "no_shared_tokens")


def test_a_turn_of_which_the_template_generates_nothing_is_not_trained() -> None:
    said = "{{ '<|im_start|>' + m.role + '\n' }}{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\n' }}"
    whole = (
        "{% if loop.last %}"
        + said
        + "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    )
    prompt = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    tokenizer = byte_level_tokenizer(chat_template="{% for m in messages %}" + whole + "{% endfor %}" + prompt)
    turns = chat("yes", "again", "fox", start="assistant")
    (row,), _ = tokens_of(pairs_of((chat("Hi"), turns, answer("no"))), tokenizer)
    trained = [token for token, mask in zip(row["chosen_ids"], row["chosen_mask"], strict=True) if mask]
    assert tokenizer.decode(trained) == "fox<|im_end|>"


def test_a_template_that_wants_a_system_message_has_turns() -> None:
    wants = "{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}" + CHATML
    tokenizer = byte_level_tokenizer(chat_template=wants)
    prompt = [{"role": "system", "content": "Be brief."}, *chat("Hi")]
    dataset = pairs_of((prompt, chat("yes", "again", "fox", start="assistant"), answer("no")))
    (row,), report = tokens_of(dataset, tokenizer)
    assert report.counts["untrained_turns"] == 1
    trained = [token for token, mask in zip(row["chosen_ids"], row["chosen_mask"], strict=True) if mask]
    assert tokenizer.decode(trained) == "yes<|im_end|>fox<|im_end|>"


# ---- length ----


def test_truncation_is_counted_and_never_empties(tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = pairs_of(
        ("1 2 3", " 4", " 5"),
        ("1 2 3", " 4 5 6 7 8 9", " 5"),
        ("1 2 3 4 5 6 7 8 9", " 1", " 2"),
        ("1 2", " 3 4 5 6 7 8", " 3 4 5 6 7 9"),
    )
    whole, _ = tokens_of(dataset, tokenizer, NO_LIMIT)
    limit = len(whole[0]["prompt_ids"]) + len(whole[0]["chosen_ids"])
    tokens, report = tokens_of(dataset, tokenizer, TokenSettings(max_length=limit))
    assert tokens["row"][:] == [0, 1, 3]
    assert report.pairs == 3
    happened = {name: count for name, count in report.counts.items() if count}
    assert happened == {
        "prompt_too_long": 1,
        "chosen_truncated": 2,
        "rejected_truncated": 1,
        "same_after_truncation": 1,
    }
    for row in tokens:
        for side in ("chosen_ids", "rejected_ids"):
            assert 1 <= len(row[side]) <= limit - len(row["prompt_ids"])
    assert report.lengths["prompt"]["max"] == len(whole[0]["prompt_ids"])
    assert any("cut on the right" in line for line in report.lines())
    assert report.to_dict()["counts"]["prompt_too_long"] == 1


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_prompt_is_cut_on_the_left_and_keeps_its_bos(limit: int) -> None:
    tokenizer = bos_adding()
    dataset = pairs_of(("1 2 3 4 5 6", " 7", " 8"))
    whole = tokens_of(dataset, tokenizer, NO_LIMIT)[0][0]["prompt_ids"]
    tokens, report = tokens_of(dataset, tokenizer, TokenSettings(max_length=None, max_prompt_length=limit))
    assert report.counts["prompt_truncated"] == 1
    assert tokens[0]["prompt_ids"] == [whole[0], *whole[len(whole) - limit + 1 :]]
    plain = byte_level_tokenizer()
    cut = tokens_of(dataset, plain, TokenSettings(max_prompt_length=limit))[0][0]["prompt_ids"]
    assert cut == plain("1 2 3 4 5 6")["input_ids"][-limit:]


def test_bad_settings_and_tokenizers(refused: Any) -> None:
    dataset = pairs_of((chat("Hi"), answer("yes"), answer("no")))
    refused(lambda: tokens_of(dataset, byte_level_tokenizer(chat_template=None)), "no chat template", "instruct")
    refused(lambda: tokens_of(dataset, byte_level_tokenizer(), TokenSettings(max_length=2)), "raise max_length")
    turns = pairs_of((chat("Hi"), chat("yes", "again", "yes", start="assistant"), answer("no")))
    last = TokenSettings(max_length=30, loss_turns="last")
    refused(lambda: tokens_of(turns, byte_level_tokenizer(), last), "1 nothing_trained", "raise max_length (it is 30)")
    refused(lambda: tokenize_pairs([{"prompt": "a"}], byte_level_tokenizer()), "not read yet", "load_pairs(rows)")
    refused(lambda: TokenSettings(max_length=1), "max_length is 1; it must be at least 2")
    endless = byte_level_tokenizer()
    endless.eos_token = None
    refused(lambda: tokens_of(pairs_of(("a", " b", " c")), endless), "no EOS token")


def test_several_processes_give_the_same(tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = pairs_of(*[(chat(f"Say {i}"), answer("yes"), answer(f"no {i}")) for i in range(9)])
    alone, report = tokens_of(dataset, tokenizer, NO_LIMIT)
    together, same = tokens_of(dataset, tokenizer, TokenSettings(max_length=None, num_proc=2))
    assert alone[:] == together[:]
    assert report == same


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=2, max_size=3))
def test_shared_length(sequences: list[list[int]]) -> None:
    end = shared_length(*sequences)
    assert all(ids[:end] == sequences[0][:end] for ids in sequences)
    assert not all(len(ids) > end and ids[end] == sequences[0][end : end + 1][0] for ids in sequences)


def test_tokens_are_counted_in_the_order_of_the_data() -> None:
    tokens = Dataset.from_dict(
        {"prompt_ids": [[1], [1, 2], []], "chosen_ids": [[3], [], [3, 4, 5]], "rejected_ids": [[6], [6, 7], [6]]}
    )
    sides = ("prompt", "chosen", "rejected")
    assert token_counts(tokens, sides).tolist() == [[1, 1, 1], [2, 0, 2], [0, 3, 1]]
    assert token_counts(tokens.select([2, 0])).tolist() == [[3, 1], [1, 1]]


def test_trained_tokens_are_counted_in_the_order_of_the_data() -> None:
    tokens = concatenate_datasets([token_pairs(n, seed=n, masked=True) for n in (3, 2)])
    expected = [
        [sum(mask) for mask in pair] for pair in zip(tokens["chosen_mask"], tokens["rejected_mask"], strict=True)
    ]
    assert trained_counts(tokens).tolist() == expected
    assert trained_counts(tokens.select([4, 0])).tolist() == [expected[4], expected[0]]
    assert trained_counts(tokens.select(range(1, 3))).tolist() == expected[1:3]


def test_token_ids_are_kept_and_a_broken_file_is_made_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path))
    tokenizer = byte_level_tokenizer()
    rows = [(chat(f"Question {i}?"), answer(f"Yes {i}."), answer(f"No, {i} times.")) for i in range(20)]
    pairs = pairs_of(*rows)
    first, report = tokens_of(pairs, tokenizer)
    files = sorted((tmp_path / "data").glob("tokens-*.arrow"))
    assert len(files) == 1

    def refuse(*args, **kwargs):
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patched:
        patched.setattr("mixdpo.data.tokenize._tokenize_batch", refuse)
        again, same = tokens_of(pairs, tokenizer)
        assert (again[:], same) == (first[:], report)
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = "{% for m in messages %}{{ m.content }}<e>{% endfor %}"
        shorter = TokenSettings(max_length=11)
        for other, tokens, limits in (
            (pairs, changed, None),
            (pairs, tokenizer, shorter),
            (pairs_of(*rows[1:]), tokenizer, None),
        ):
            with pytest.raises(AssertionError, match="tokenised again"):
                tokens_of(other, tokens, limits)
    files[0].write_bytes(files[0].read_bytes()[:-200])
    mended, _ = tokens_of(pairs, tokenizer)
    assert mended[:] == first[:]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"assistant_only_loss": "no"}, ("assistant_only_loss", "true or false")),
        ({"mask_empty_thinking": 1}, ("mask_empty_thinking", "true or false")),
        ({"loss_turns": "first"}, ("loss_turns", "all, last")),
        ({"chat_template_kwargs": {"tools": []}}, ("chat_template_kwargs", "'tools'")),
        ({"chat_template_kwargs": "enable_thinking"}, ("chat_template_kwargs", "mapping")),
        ({"max_length": 0}, ("max_length",)),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], words: tuple[str, ...], tokenizer, refused) -> None:
    pairs = pairs_of((chat("Hi"), answer("yes"), answer("no")))
    refused(lambda: tokenize_pairs(pairs, tokenizer, **settings), *words)
