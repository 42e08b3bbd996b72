"""The reference on disk: what is found again, what is computed anew, and what becomes of a damaged file."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
import time
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model

from mixdpo import make_plan
from mixdpo.cli.main import main
from mixdpo.common.files import digest
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.tokenize import tokens_of
from mixdpo.models import fingerprint as keys
from mixdpo.models.cached_logprobs import _DIGEST, _table_digest, add_to_cache, look_up
from mixdpo.models.fingerprint import describe_tokens, weights_digest
from synthetic import chat_pairs, chat_rows
from tiny import plain_logprob, tiny_llama, token_pairs
from trainers import trainer_for


@pytest.fixture
def model(tokenizer):
    return tiny_llama(vocab_size=len(tokenizer))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


def reference_of(model, tokenizer, pairs: Dataset, folder: Path, **changes) -> np.ndarray:
    """The reference of all pairs, as training would have it."""
    plan = changes.pop("plan", None) or make_plan(pairs, "dpo")
    trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, folder, plan, **changes)
    trainer.precompute_reference(trainer.train_dataset, "train")
    return trainer.train_dataset.reference


# ---- what is found again ----


def test_values_from_the_cache_are_those_computed(model, tokenizer, tmp_path, computed, caplog) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    with caplog.at_level(logging.INFO, "mixdpo"):
        first = reference_of(model, tokenizer, pairs, tmp_path / "a")
        again = reference_of(model, tokenizer, pairs, tmp_path / "b")
    assert computed == [12]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, reference_of(model, tokenizer, pairs, tmp_path / "c", reference_cache=False))
    messages = [record.getMessage() for record in caplog.records if record.getMessage().startswith("reference")]
    assert messages == [
        "reference (train): 0 pairs from the cache, 12 to compute",
        "reference (train): 12 pairs from the cache, 0 to compute",
    ]


def test_file_holds_the_sums_and_the_token_counts(model, tokenizer, tmp_path, cache) -> None:
    pairs = chat_pairs(tmp_path, n=6)
    trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", make_plan(pairs, "dpo"))
    trainer.train()
    (file,) = cache.glob("*.parquet")
    table = pq.read_table(file).to_pylist()
    for pair, row in zip(trainer.train_dataset.tokens, table, strict=True):
        for side in ("chosen", "rejected"):
            expected = plain_logprob(model, pair["prompt_ids"], pair[f"{side}_ids"])
            assert row[side] == pytest.approx(expected.item(), abs=1e-4)
            assert row[f"{side}_tokens"] == len(pair[f"{side}_ids"])


@pytest.mark.slow
def test_no_forward_for_another_recipe_of_the_same_pairs(model, tokenizer, tmp_path, computed) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "first", make_plan(pairs, "dpo")).train()
    assert computed == [12]
    for number, change in enumerate(
        (
            {"learning_rate": 3e-4},
            {"beta": 0.5, "label_smoothing": 0.1},
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 3},
            {"loss_type": ["sigmoid", "sft"]},
            {"seed": 7, "num_train_epochs": 2},
            {"plan": make_plan(pairs, threshold={"hardest": 0.25})},
            {"eval_dataset": pairs.select(range(5)), "eval_strategy": "epoch"},
            {"peft_config": LoraConfig(r=4, target_modules="all-linear")},
            {"ref_model": copy.deepcopy(model)},
        )
    ):
        trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / str(number), **{
            "plan": make_plan(pairs, "dpo"), **change
        }).train()  # fmt: skip
        assert computed == [12], change


def test_live_reference_uses_no_cache(model, tokenizer, tmp_path, computed, cache) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    trainer_for(model, tokenizer, pairs, tmp_path / "run", precompute_ref_log_probs=False).train()
    assert computed == []
    assert not cache.exists()


# ---- what is computed anew ----


def test_other_weights_are_another_reference(model, tokenizer, tmp_path, computed) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    first = reference_of(model, tokenizer, pairs, tmp_path / "a")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 0.5
    second = reference_of(model, tokenizer, pairs, tmp_path / "b")
    assert computed == [8, 8]
    assert (first != second).any()
    np.testing.assert_array_equal(second, reference_of(model, tokenizer, pairs, tmp_path / "c", reference_cache=False))


def test_a_trainer_that_trains_again_starts_from_the_moved_weights(model, tokenizer, tmp_path, computed) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "dpo"))
    trainer.train()
    before = trainer.train_dataset.reference
    trainer.train()
    assert computed == [8, 8]
    assert (trainer.train_dataset.reference != before).any()


@pytest.mark.parametrize("what", ["template", "max_length", "precision"])
def test_settings_that_change_the_values(model, tokenizer, tmp_path, computed, what: str) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    reference_of(model, tokenizer, pairs, tmp_path / "a")
    other = copy.deepcopy(tokenizer)
    changes = {}
    if what == "template":
        other.chat_template = other.chat_template.replace("'<|im_start|>' +", "'<|im_start|>the ' +")
    elif what == "precision":
        changes = {"bf16": True}
    else:
        changes = {"max_length": 30}
    changed = reference_of(model, other, pairs, tmp_path / "b", **changes)
    fresh = reference_of(model, other, pairs, tmp_path / "c", reference_cache=False, **changes)
    if what == "max_length":
        assert 0 < computed[1] < computed[2] == 8, "pairs that fit as they are need nothing"
    else:
        assert computed == [8, 8, 8]
    np.testing.assert_allclose(changed, fresh, rtol=1e-5)


def test_only_new_pairs_are_computed(model, tokenizer, tmp_path, computed) -> None:
    pairs, others = chat_pairs(tmp_path, n=10), chat_pairs(tmp_path, n=4, seed=5)
    reference_of(model, tokenizer, pairs, tmp_path / "a")
    mixed = concatenate_datasets([others, pairs.select([7, 2, 2, 5])])
    reference = reference_of(model, tokenizer, mixed, tmp_path / "b")
    assert computed == [10, 4]
    fresh = reference_of(model, tokenizer, mixed, tmp_path / "c", reference_cache=False)
    np.testing.assert_allclose(reference, fresh, rtol=1e-5)


def test_only_pairs_whose_loss_reads_it_are_computed(model, tokenizer, tmp_path, computed) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    reference = reference_of(
        model, tokenizer, pairs, tmp_path / "a", plan=make_plan(pairs, threshold={"hardest": 0.25})
    )
    reference_of(model, tokenizer, pairs, tmp_path / "b")
    assert computed == [9, 3]
    assert np.isnan(reference).all(axis=1).sum() == 3


# ---- the digest of the weights ----


def test_digest_names_the_reference_and_nothing_else(model, tmp_path) -> None:
    digest = weights_digest(model)
    model.save_pretrained(tmp_path / "model")
    loaded = type(model).from_pretrained(tmp_path / "model", attn_implementation="eager")
    loaded.config.use_cache = False
    assert weights_digest(loaded) == digest

    different = {digest, weights_digest(tiny_llama(seed=1)), weights_digest(copy.deepcopy(model).bfloat16())}
    loaded.config.rms_norm_eps = 1e-3
    different.add(weights_digest(loaded))
    first, second = (model.model.layers[0].self_attn, model.model.layers[1].self_attn)
    first.q_proj, second.q_proj = second.q_proj, first.q_proj
    different.add(weights_digest(model))
    assert len(different) == 5


def test_masks_are_part_of_a_key_only_where_a_token_is_untrained() -> None:
    whole, masked = token_pairs(30), token_pairs(30, masked=True)  # the same ids
    index = np.arange(30)
    described, of_masked = describe_tokens(whole, index), describe_tokens(masked, index)
    by_ids = [
        digest([np.array(pair[f"{side}_ids"], "<i4").tobytes() for side in ("prompt", "chosen", "rejected")])
        for pair in whole
    ]
    assert described["pair"].to_pylist() == by_ids
    for i, pair in enumerate(masked):
        masks = [pair["chosen_mask"], pair["rejected_mask"]]
        assert (of_masked["pair"][i].as_py() == by_ids[i]) == all(map(all, masks))
        assert [of_masked[f"{side}_tokens"][i].as_py() for side in ("chosen", "rejected")] == list(map(sum, masks))
    twins = Dataset.from_list(
        [
            {"prompt_ids": [3], "chosen_ids": [4] * 9, "rejected_ids": [5] * 9, "chosen_mask": a, "rejected_mask": b}
            for a, b in product([[True] * 9, [False] + [True] * 8, [True] * 8 + [False]], repeat=2)
        ]
    )
    assert len(set(describe_tokens(twins, np.arange(9))["pair"].to_pylist())) == 9


def test_pairs_are_described_alike_in_blocks(tokenizer, tmp_path, monkeypatch) -> None:
    tokens, _ = tokens_of(chat_pairs(tmp_path, n=8), tokenizer, TokenSettings())
    index = np.array([5, 0, 7, 2, 3])
    whole = describe_tokens(tokens, index)
    assert len(set(whole["pair"].to_pylist())) == 5
    monkeypatch.setattr(keys, "_PAIRS_AT_ONCE", 2)
    assert describe_tokens(tokens, index).equals(whole)
    assert len(describe_tokens(tokens, index[:0])) == 0


@pytest.mark.parametrize(
    "adapters",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3]},
    ],
)
def test_adapters_do_not_count(model, adapters) -> None:
    digest = weights_digest(model)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, init_lora_weights=False, **adapters))
    assert weights_digest(adapted) == digest
    with torch.no_grad():
        adapted.get_base_model().model.norm.weight.add_(1.0)
    assert weights_digest(adapted) != digest


def test_sharded_weights_have_no_digest(model, tokenizer, tmp_path, computed, cache, caplog) -> None:
    model.lm_head.weight.ds_id = 3
    assert weights_digest(model) is None
    pairs = chat_pairs(tmp_path, n=8)
    with caplog.at_level(logging.INFO, "mixdpo"):
        plan = make_plan(pairs, "dpo")
        trainer_for(model, tokenizer, pairs, tmp_path / "run", plan, eval_dataset=pairs, engine="padded").train()
    assert computed == [8, 8]
    assert not cache.exists()
    assert sum("not kept in the cache" in record.getMessage() for record in caplog.records) == 1
    with torch.device("meta"):
        assert weights_digest(tiny_llama()) is None


# ---- damage ----


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    table = pq.read_table(file)
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    elif how == "bit flipped":
        content[content.find(table["chosen"].to_numpy()[3].tobytes())] ^= 1
    elif how == "of another reference":
        add_to_cache(file.with_name("x.parquet"), table)
        file.with_name("x.parquet").replace(file)
        return
    else:
        values = table["chosen"].to_numpy().copy()
        values[3] = np.nan if how == "NaN" else -np.inf
        table = table.set_column(1, "chosen", pa.array(values))
        pq.write_table(table.replace_schema_metadata({_DIGEST: _table_digest(table, file)}), file)
        return
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "bit flipped", "of another reference", "NaN", "infinite"])
def test_damaged_file_is_found_out_and_made_anew(model, tokenizer, tmp_path, computed, cache, caplog, how) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    first = reference_of(model, tokenizer, pairs, tmp_path / "a")
    (file,) = cache.glob("*.parquet")
    damage(file, how)
    with caplog.at_level(logging.WARNING, "mixdpo"):
        second = reference_of(model, tokenizer, pairs, tmp_path / "b")
        third = reference_of(model, tokenizer, pairs, tmp_path / "c")
    assert computed == [8, 8]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert str(file) in warnings[0]
    assert "damaged" in warnings[0]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def rows(keys: list[str], value: float = -1.0) -> pa.Table:
    n = len(keys)
    return pa.table(
        {
            "pair": keys,
            "chosen": np.full(n, value),
            "rejected": np.full(n, 2 * value),
            "chosen_tokens": np.full(n, 3, np.int32),
            "rejected_tokens": np.full(n, 4, np.int32),
        }
    )


def test_no_flipped_bit_or_torn_end_gives_a_wrong_value(cache) -> None:
    file = cache / "k.parquet"
    keys = [f"{i:032x}" for i in range(4)]
    add_to_cache(file, rows(keys, -1.25))
    expected = look_up(file, pa.chunked_array([keys]))
    assert np.isfinite(expected).all()
    content = file.read_bytes()
    places = np.random.default_rng(0).choice(len(content), size=300, replace=False)
    for place in places.tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        for broken in (content[:place], flipped):
            file.write_bytes(broken)
            values = look_up(file, pa.chunked_array([keys]))
            assert np.isnan(values).all() or np.array_equal(values, expected), place


def test_values_that_are_not_finite_are_not_kept(cache) -> None:
    file = cache / "k.parquet"
    add_to_cache(file, pa.concat_tables([rows(["a"]), rows(["b"], np.nan), rows(["c"], -np.inf)]))
    assert np.isfinite(look_up(file, pa.chunked_array([["a", "b", "c"]]))).all(axis=1).tolist() == [True, False, False]


# ---- several at once ----


def write_in_turn(file: Path, writer: int, rounds: int) -> None:
    for i in range(rounds):
        add_to_cache(file, rows([f"{writer}-{i}", f"common-{i}"], -float(writer + 1)))
        time.sleep(0.001)


def test_processes_that_write_at_once_keep_each_others_rows(cache, caplog) -> None:
    file, rounds = cache / "k.parquet", 20
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_in_turn, args=(file, number, rounds)) for number in range(3)]
    for writer in writers:
        writer.start()
    keys = pa.chunked_array([[f"{w}-{i}" for w in range(3) for i in range(rounds)]])
    with caplog.at_level(logging.WARNING, "mixdpo"):
        while any(writer.is_alive() for writer in writers):
            look_up(file, keys)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert not caplog.records, "a reader never sees half a file"
    values = look_up(file, keys)
    np.testing.assert_array_equal(values[:, 0], np.repeat([-1.0, -2.0, -3.0], rounds))
    assert pq.read_metadata(file).num_rows == 4 * rounds
    assert sorted(path.name for path in cache.iterdir()) == ["k.lock", "k.parquet"]


# ---- the command ----


@pytest.fixture
def recipe(tmp_path, tokenizer, model) -> Path:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, n, seed in (("pairs", 20, 0), ("held-out", 6, 1)):
        lines = [json.dumps(row) + "\n" for row in chat_rows(n, seed)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    content = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"path": str(tmp_path / "pairs.jsonl")},
        "eval_data": {"path": str(tmp_path / "held-out.jsonl")},
        "plan": {"name": "mixdpo", "threshold": {"hardest": 0.25}},
        "train": {
            "output_dir": str(tmp_path / "run"),
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 4,
            "save_strategy": "no",
            "bf16": False,
            "use_cpu": True,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_reference_then_train_runs_no_forward(capsys, caplog, tmp_path, recipe, computed, cache) -> None:
    assert main(["reference", "--config", str(recipe)]) == 0
    out = capsys.readouterr().out
    (file,) = cache.glob("*.parquet")
    assert "reference (train): 0 pairs from the cache, 15 computed" in out
    assert "reference (eval): 0 pairs from the cache, 6 computed" in out
    assert f"cache: {file}" in out.replace("\n", "")
    assert computed == [15, 6]
    assert not (tmp_path / "run").exists()

    assert main(["train", "--config", str(recipe), "--train.beta", "0.3", "--train.eval_strategy", "epoch"]) == 0
    assert "reference (train): 15 pairs from the cache, 0 to compute" in caplog.text
    assert "reference (eval): 6 pairs from the cache, 0 to compute" in caplog.text
    capsys.readouterr()
    assert computed == [15, 6]
    kept = pq.read_table(tmp_path / "run" / "reference" / "train.parquet")
    assert kept["ref_chosen"].null_count == 5

    assert main(["reference", str(tmp_path / "pairs.jsonl"), "--config", str(recipe), "--plan", "dpo"]) == 0
    assert "reference (train): 15 pairs from the cache, 5 computed" in capsys.readouterr().out
    assert pq.read_metadata(file).num_rows == 20 + 6


def test_cache_that_cannot_be_written(capsys, caplog, tmp_path, recipe, cache) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert main(["train", "--config", str(recipe)]) == 0
    assert "values cannot be kept" in caplog.text
    assert main(["reference", "--config", str(recipe)]) == 1
    assert "could not be kept" in capsys.readouterr().err


def test_no_cache_folder_at_all(capsys, tmp_path, recipe, cache) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert main(["train", "--config", str(recipe)]) == 2
    assert (
        "cache/data: the cache folder cannot be written: Not a directory; set MIXDPO_CACHE to"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["--train.loss_type", "sft"], "reads a reference"),
        (["--train.precompute_ref_log_probs", "false"], "live reference"),
        (["--train.reference_cache", "false"], "reference_cache is false"),
        (["--model.name_or_path", "./none"], "no such model folder"),
    ],
)
def test_reference_that_training_would_not_read(capsys, recipe, setting, message) -> None:
    assert main(["reference", "--config", str(recipe), *setting]) == 2
    assert message in capsys.readouterr().err


def test_help_of_the_verb_has_the_settings(capsys) -> None:
    assert main(["reference", "--help", "all"]) == 0
    out = capsys.readouterr().out
    for text in ("--model.name_or_path", "--data.path", "--plan.threshold", "--train.reference_cache", "--eval_data"):
        assert text in out
