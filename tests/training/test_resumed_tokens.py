"""A continued run trains the tokens it began with, or says why it cannot."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mixdpo import load_pairs, make_plan
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.data import template_arguments
from mixdpo.data.arrays import tokens_digest
from mixdpo.data.tokenize import tokens_of
from mixdpo.training import trainer as trainer_module
from mixdpo.training.records import load_reference, save_reference
from mixdpo.training.run_folder import recorded_template_date
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.token_record import check_same_tokens, describe_run_tokens
from synthetic import chat_pairs, chat_rows
from tiny import CHATML, byte_level_tokenizer, saved, tiny_llama, token_pairs
from trainers import step_logs, trainer_for

STORED = Path(__file__).parents[1] / "fixtures" / "stored"
DATED = "Today is {{ strftime_now('%d %B %Y') }}.\n" + CHATML
Day = Any


@pytest.fixture
def day(monkeypatch) -> Day:
    """Sets what day it is."""

    def set_day(date: str) -> None:
        for module in (trainer_module, template_arguments):
            monkeypatch.setattr(module, "today", lambda: date)

    return set_day


def started(folder: Path, tokenizer: PreTrainedTokenizerFast, resume: bool = False, **changes) -> None:
    """Train two steps, or, from what is left behind the first, the second."""
    if resume:
        shutil.rmtree(folder / "run" / "checkpoint-2", ignore_errors=True)
    pairs = chat_pairs(folder, n=8)
    values = {"save_strategy": "steps", "save_steps": 1, "plan": make_plan(pairs, "dpo"), **changes}
    trainer = trainer_for(tiny_llama(vocab_size=410), tokenizer, pairs, folder / "run", **values)
    trainer.train(resume_from_checkpoint=resume)


def test_an_edited_chat_template(tokenizer, tmp_path, refused) -> None:
    started(tmp_path, tokenizer)
    edited = copy.deepcopy(tokenizer)
    edited.chat_template = CHATML.replace("<|im_end|>\n", "<|im_end|>")
    refused(
        lambda: started(tmp_path, edited, resume=True),
        "run.json: the run was started with other tokens of the train pairs: the chat template was edited",
    )
    started(tmp_path, tokenizer, resume=True)


def test_another_tokenizer(tokenizer, tmp_path, refused) -> None:
    started(tmp_path, tokenizer)
    refused(lambda: started(tmp_path, byte_level_tokenizer(300), resume=True), "the tokenizer is another one")


def test_a_template_that_is_edited_without_an_effect_is_no_other(tokenizer, tmp_path) -> None:
    started(tmp_path, tokenizer)
    edited = copy.deepcopy(tokenizer)
    edited.chat_template = "{# a comment #}" + CHATML
    started(tmp_path, edited, resume=True)


def test_a_template_that_prints_the_date(tmp_path, day, refused) -> None:
    tokenizer = byte_level_tokenizer(chat_template=DATED)
    day("2026-01-31")
    started(tmp_path, tokenizer)
    losses = [line["loss"] for line in step_logs(tmp_path / "run")]
    assert recorded_template_date(tmp_path / "run") == "2026-01-31"
    day("2026-02-01")
    refused(
        lambda: started(tmp_path, tokenizer, resume=True),
        "the chat template prints the date, which was 2026-01-31 and is 2026-02-01", "set template_date to 2026-01-31",
    )  # fmt: skip
    started(tmp_path, tokenizer, resume=True, template_date="2026-01-31")
    assert [line["loss"] for line in step_logs(tmp_path / "run")] == losses


def test_another_day_is_nothing_to_a_template_without_a_date(tokenizer, tmp_path, day) -> None:
    day("2026-01-31")
    started(tmp_path, tokenizer)
    day("2026-02-01")
    started(tmp_path, tokenizer, resume=True)


def test_the_command_takes_the_recorded_date(tmp_path, jsonl, day, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl(chat_rows(8))
    tokenizer = byte_level_tokenizer(chat_template=DATED)
    saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")
    words = ["train", "pairs.jsonl", "--model", "model", "--plan", "dpo", "-o", "run", "--train.use_cpu", "true"]
    words += ["--train.per_device_train_batch_size", "4", "--train.logging_steps", "1", "--train.save_steps", "1"]
    day("2026-01-31")
    assert main(words) == 0
    losses = [line["loss"] for line in step_logs(Path("run"))]
    shutil.rmtree("run/checkpoint-2")
    day("2026-02-01")
    assert main([*words, "--resume"]) == 0
    assert [line["loss"] for line in step_logs(Path("run"))] == losses


def test_evaluation_pairs_are_compared_where_both_have_some(tokenizer, tmp_path, refused) -> None:
    changes = {"loss_type": "simpo", "beta": 2.0}
    started(tmp_path, tokenizer, eval_dataset=chat_pairs(tmp_path, n=4), **changes)
    other = chat_pairs(tmp_path, n=4, seed=1)
    refused(lambda: started(tmp_path, tokenizer, resume=True, eval_dataset=other, **changes), "of the eval pairs")
    started(tmp_path, tokenizer, resume=True, **changes)


@pytest.mark.parametrize("column", ["row", "prompt_ids", "chosen_ids", "rejected_mask"])
def test_ids_masks_and_rows_are_in_the_digest(column) -> None:
    tokens = token_pairs(6)
    rows = [dict(row) for row in tokens]
    assert tokens_digest(tokens.from_list(rows[:3] + rows[3:])) == tokens_digest(tokens)
    value = rows[4][column]
    rows[4][column] = 99 if column == "row" else [*value[:-1], not value[-1] if "mask" in column else value[-1] + 1]
    assert tokens_digest(tokens.from_list(rows)) != tokens_digest(tokens)


def test_a_digest_knows_where_lists_end() -> None:
    tokens = token_pairs(2)
    a, b = (dict(row) for row in tokens)
    moved = [{**a, "prompt_ids": a["prompt_ids"] + b["prompt_ids"][:1]}, {**b, "prompt_ids": b["prompt_ids"][1:]}]
    assert tokens_digest(tokens.from_list(moved)) != tokens_digest(tokens)


def planned(tokenizer, rows: list[dict]) -> PlannedPairs:
    pairs = load_pairs(rows)
    return PlannedPairs(tokens_of(pairs, tokenizer)[0], make_plan(pairs, "dpo"), loaded=pairs)


def test_a_reference_of_other_tokens_is_refused(tokenizer, tmp_path) -> None:
    edited = copy.deepcopy(tokenizer)
    edited.chat_template = CHATML.replace("assistant\n", "assistant: ")
    save_reference(tmp_path, "train", planned(tokenizer, chat_rows(4)))
    load_reference(tmp_path, "train", planned(tokenizer, chat_rows(4)))
    with pytest.raises(RunError, match="of other tokens"):
        load_reference(tmp_path, "train", planned(edited, chat_rows(4)))


# ---- runs of the version before, which kept no digest ----


def test_an_earlier_run_is_not_asked_for_its_tokens(tokenizer) -> None:
    before = json.loads((STORED / "run" / "run.json").read_text())
    now = {"token_digests": describe_run_tokens({"train": token_pairs(3)}, tokenizer), "settings": {}}
    check_same_tokens(before, now, STORED / "run" / "run.json")
    assert recorded_template_date(STORED / "run") is None
    with pytest.raises(InputError, match="of the train pairs"):
        check_same_tokens(
            {**now, "token_digests": describe_run_tokens({"train": token_pairs(4)}, tokenizer)}, now, STORED
        )


def test_an_earlier_reference_is_read_while_whole_answers_are_trained(tokenizer, tmp_path, monkeypatch) -> None:
    pairs = load_pairs(STORED / "pairs.jsonl")
    whole = PlannedPairs(tokens_of(pairs, tokenizer)[0], make_plan(pairs, "dpo"), loaded=pairs)
    load_reference(STORED / "run", "train", whole)
    whole.tokens = whole.tokens.map(lambda pair: {"chosen_mask": [False, *pair["chosen_mask"][1:]]})
    with pytest.raises(RunError, match="whole answers"):
        load_reference(STORED / "run", "train", whole)
