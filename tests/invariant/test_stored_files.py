"""Files that an earlier version stored (tests/fixtures/stored/README.md): each is read, and found under its key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from mixdpo import Plan, load_pairs, make_plan, score
from mixdpo.cli.main import main
from mixdpo.common.files import digest
from mixdpo.generation.chat_model import Request
from mixdpo.generation.endpoint_calls import request_body
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.local_model import LocalModel, content_digest
from mixdpo.generation.reply_cache import reply_cache, request_key
from mixdpo.judges.prompt import JudgePrompt
from mixdpo.models.fingerprint import weights_digest
from mixdpo.models.loading import load_for_inference
from mixdpo.models.model_settings import ModelSettings
from mixdpo.study.run_specs import final_runs, start_run, tuning_runs, variants
from mixdpo.study.study_file import load_study

STORED = Path(__file__).parents[1] / "fixtures" / "stored"
KEYS: dict[str, Any] = json.loads((STORED / "keys.json").read_text())
TINY = ["--model.name_or_path", "tiny-model", "--train.bf16", "false", "--train.use_cpu", "true"]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stored files, which is the working folder and holds the cache."""
    folder = tmp_path / "stored"
    shutil.copytree(STORED, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MIXDPO_CACHE", str(folder / "cache"))
    return folder


def request_of(stored: dict[str, Any]) -> Request:
    return Request(**{**stored, "messages": tuple(map(tuple, stored["messages"]))})


@pytest.mark.parametrize("name", ["pairs.jsonl", "held-out.jsonl"])
def test_pairs_keep_their_ids(name: str) -> None:
    assert load_pairs(str(STORED / name))["pair_id"][:] == KEYS["pairs"][name]["pair_ids"]


@pytest.mark.parametrize(
    ("name", "data", "threshold"),
    [("plan", "pairs.jsonl", {"hardest": 0.25}), ("plan-auto", "graded.parquet", "auto")],
)
def test_plans_fit_their_data_and_are_made_again(name: str, data: str, threshold: Any) -> None:
    plan, expected = Plan.load(STORED / f"{name}.parquet"), KEYS["plans"][f"{name}.parquet"]
    pairs = load_pairs(str(STORED / data))
    plan.check_belongs_to(pairs)
    assert plan.fingerprint == expected["fingerprint"]
    assert plan.is_hard.sum() == expected["hard"]
    assert plan.threshold_margin == pytest.approx(expected["threshold_margin"], rel=1e-12)
    assert (plan.curve.threshold if plan.curve else None) == expected["curve_threshold"]
    for epoch in (0, 1):
        assert plan.epoch_rows(epoch, 2)[:12].tolist() == expected[f"epoch_rows_{epoch}_first"]
    stored, made = plan.to_table(), make_plan(score(pairs), threshold=threshold).to_table()
    assert made.column_names == ["pair_id", "row", *stored.column_names]
    assert made["row"].to_pylist() == list(range(1, len(pairs) + 1))
    assert made.select(stored.column_names).equals(stored)


def test_scores_are_those_of_the_cache(stored: Path, computed: list[int]) -> None:
    words = ["score", "pairs.jsonl", *TINY, "--metric", "rating", "--metric", "nll_gap", "--metric", "ches"]
    assert main([*words, "--output", "again.parquet"]) == 0
    assert computed == []
    stored = pq.read_table("scored.parquet")
    assert pq.read_table("again.parquet").select(stored.column_names).equals(stored)


def test_reference_is_found_in_the_cache(stored: Path, computed: list[int]) -> None:
    assert main(["reference", "pairs.jsonl", "--eval_data.path", "held-out.jsonl", *TINY]) == 0
    assert computed == []


def test_clean_applies_a_stored_audit(stored: Path) -> None:
    words = ["clean", "pairs.jsonl", "--report", "audit", "--apply", "duplicates,opposite,contradicted,leaked"]
    assert main([*words, "--output", "again.parquet"]) == 0
    stored = pq.read_table("cleaned.parquet")
    assert pq.read_table("again.parquet").select(stored.column_names).equals(stored)
    before, log = pl.read_parquet("cleaned.log.parquet"), pl.read_parquet("again.log.parquet")
    assert log.equals(before.select("pair_id", pl.col("row") + 1, "action", "finding", pl.col("new_row") + 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_keep_their_digests(dtype: str) -> None:
    model = load_for_inference(ModelSettings(name_or_path=str(STORED / "tiny-model"), dtype=dtype))
    assert weights_digest(model) == KEYS["weights"][dtype]
    assert content_digest(model) == KEYS["model_content"][dtype]


@pytest.mark.parametrize("case", KEYS["endpoint"])
def test_requests_keep_their_keys(case: dict[str, Any]) -> None:
    settings = EndpointSettings(**case["settings"])
    body = request_body(request_of(case["request"]), settings)
    assert body == case["body"]
    assert request_key(settings.base_url, body) == case["key"]


@pytest.mark.parametrize("name", ["local_greedy", "local_sampled"])
def test_replies_of_a_local_model_are_found_again(name: str, stored: Path) -> None:
    """The stored replies are put under their keys with another text, which comes back only where a key is the same."""
    case = KEYS[name]
    with reply_cache(stored / "cache" / "answers") as cache:
        cache.put_all({one["key"]: {**one["reply"], "text": "kept"} for one in case["replies"]})
    model = LocalModel(ModelSettings(name_or_path="tiny-model", dtype=case["dtype"]), batch_size=case["batch_size"])
    replies = model.complete([request_of(one["request"]) for one in case["replies"]])
    assert [reply.text for reply in replies] == ["kept"] * len(replies)


@pytest.mark.parametrize("name", ["local_greedy", "local_sampled"])
def test_a_local_model_writes_what_it_wrote(name: str, stored: Path) -> None:
    case = KEYS[name]
    model = LocalModel(ModelSettings(name_or_path="tiny-model", dtype=case["dtype"]), batch_size=case["batch_size"])
    replies = model.complete([request_of(one["request"]) for one in case["replies"]])
    for reply, one in zip(replies, case["replies"], strict=True):
        expected = one["reply"]
        assert (reply.text, reply.finished, reply.tokens_out) == (
            expected["text"], expected["finished"], expected["tokens_out"],
        )  # fmt: skip
        for (token, logprob), (its_token, its_logprob) in zip(reply.first_token, expected["first_token"], strict=True):
            assert token == its_token
            assert logprob == pytest.approx(its_logprob, rel=1e-4)


def test_digests_and_fingerprints_of_texts() -> None:
    for case in KEYS["digests"]:
        assert digest(case["parts"], size=case["size"]) == case["digest"]
    prompt = KEYS["judge_prompt_fingerprint"]
    assert JudgePrompt(tuple(map(tuple, prompt["messages"]))).fingerprint() == prompt["fingerprint"]


def test_runs_of_a_study_keep_their_keys(stored: Path) -> None:
    study = load_study(stored / "study" / "tiny.yaml")
    model = KEYS["model_content"]["study_name"]
    specs = [start_run(study, model)]
    for variant in variants(study):
        specs += [*tuning_runs(study, variant, model), *final_runs(study, variant, model, 1e-3, 0.1)]
    assert {spec.key: spec.work for spec in specs} == KEYS["study_cells"]


def test_margins_of_scored_pairs_are_read(stored: Path) -> None:
    pairs = load_pairs("scored.parquet")
    written = pq.read_table("scored.parquet")
    for name in ("margin/rating", "margin/nll_gap", "margin/ches"):
        np.testing.assert_array_equal(np.array(pairs[name]), written[name].to_numpy())
