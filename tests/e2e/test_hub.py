"""Hub ids through the real clients, from an empty cache, on a hub of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import hub_content
from hub_client import Client, client
from hub_server import STRANGER, TOKEN, Hub, hub

pytestmark = pytest.mark.xdist_group("hub")  # one hub, and one client, which takes seconds to start

ULTRAFEEDBACK, MIX, CONFIGURATIONS = hub_content.PAIR_SETS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def server(folder: Path, tokenizer: Any) -> Iterator[Hub]:
    repositories = [
        *hub_content.models(folder / "models", tokenizer),
        *hub_content.pair_sets(folder / "pairs"),
        *hub_content.benchmark_files(folder / "benchmarks"),
    ]
    with hub(repositories) as running:
        yield running


@pytest.fixture(scope="module")
def mixdpo(server: Hub, folder: Path) -> Iterator[Client]:
    with client(server.url, folder / "home") as running:
        yield running


def test_pairs_of_published_layouts(mixdpo: Client) -> None:
    loaded = mixdpo.pairs(ULTRAFEEDBACK, split="train_prefs[:5]")
    assert [pair["score_rejected"] for pair in loaded] == [8.0, 7.0, 6.0, 5.0, 8.0]
    assert [pair["chosen"][-1]["content"] for pair in loaded] == [f"chosen answer {k}" for k in range(5)]
    assert [len(mixdpo.pairs({"path": MIX, "revision": revision})) for revision in (None, "v2")] == [6, 3]
    assert len(mixdpo.pairs({"path": CONFIGURATIONS, "name": "hard", "split": "test"})) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((ULTRAFEEDBACK,), "no split 'train'; set `split` to one of train_prefs, test_prefs"),
        ((CONFIGURATIONS,), "several configurations; set `name` to one of easy, hard"),
        ((CONFIGURATIONS, "--data.name", "odd"), "no configuration 'odd'; set `name` to one of easy, hard"),
        (
            (CONFIGURATIONS, "--data.name", "easy", "--data.split", "test"),
            "no split 'test'; set `split` to",
        ),
        ((MIX, "--data.revision", "v9"), "no revision 'v9'; there are main, v2"),
        (("tiny/none",), "shows no such data set"),
        (("tiny/gated-pairs",), "gated"),
        ((MIX, "--model", "tiny/none"), "cannot load the tokenizer 'tiny/none'"),
        ((MIX, "--model", "tiny/gated"), "cannot load the tokenizer 'tiny/gated': it is gated"),
        ((MIX, "--model", "tiny/adapter"), "'tiny/adapter' is an adapter, not a model"),
        ((MIX, "--model.revision", "v9"), "no revision 'v9'"),
    ],
)
def test_what_is_not_there_is_one_line(mixdpo: Client, words: tuple[str, ...], told: str) -> None:
    ended = mixdpo("tokens", "--model", "tiny/llama", *words)
    assert ended.status == 2
    assert told in ended.text.strip().splitlines()[-1]
    assert "Traceback" not in ended.text


def test_the_terms_are_accepted_by_a_token_that_is_never_shown(mixdpo: Client) -> None:
    for token, status in ((STRANGER, 2), ("hf_revoked", 2), (TOKEN, 0)):
        ended = mixdpo("tokens", "tiny/gated-pairs", "--model", "tiny/gated", token=token)
        assert ended.status == status, ended.text
        assert token not in ended.text


def test_training_takes_model_data_tokenizer_and_adapter_by_id(mixdpo: Client, server: Hub, folder: Path) -> None:
    common = ("train", MIX, "--train.max_steps", "1", "--train.learning_rate", "0", "--train.output_dir")
    whole = ("--model", "tiny/sharded", "--model.revision", "v2", "--model.tokenizer", "tiny/llama")
    assert mixdpo(*common, "whole", *whole).status == 0
    (saved,) = (mixdpo.folder / "whole" / "model").glob("*.safetensors")
    published = {}
    for shard in (folder / "models" / "v2").glob("*.safetensors"):
        published |= load_file(shard)
    trained = load_file(saved)
    assert all((trained[name] == published[name]).all() for name in trained)

    assert mixdpo(*common, "continued", "--model", "tiny/llama", "--model.adapter", "tiny/adapter").status == 0
    config = json.loads((mixdpo.folder / "continued" / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny/llama"
    for adapter, told in (
        ("tiny/none", "cannot load the adapter 'tiny/none'"),
        ("tiny/gated", "gated"),
    ):
        ended = mixdpo(*common, "refused", "--model", "tiny/llama", "--model.adapter", adapter)
        assert (ended.status, told in ended.text) == (2, True)


def test_a_new_adapter_names_the_revision_of_its_base(mixdpo: Client) -> None:
    words = ("--model", "tiny/sharded", "--model.revision", "v2", "--peft.r", "2", "--train.max_steps", "1")
    assert mixdpo("train", MIX, *words, "--train.output_dir", "adapted").status == 0
    config = json.loads((mixdpo.folder / "adapted" / "model" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("tiny/sharded", "v2")


def test_metrics_and_answers_by_id(mixdpo: Client) -> None:
    scored = (
        ("length_gap", "--score.length_gap.tokenizer", "tiny/llama"),
        ("reward_model", "--score.reward_model.model", "tiny/reward"),
        ("nll_gap", "--model", "tiny/sharded"),
    )
    for metric, *words in scored:
        ended = mixdpo("score", MIX, "--metric", metric, *words, "--output", f"{metric}.parquet")
        assert ended.status == 0, ended.text
    words = ("--model", "tiny/llama", "--adapter", "tiny/adapter", "--max-new-tokens", "3", "--output", "answers.json")
    assert mixdpo("generate", ULTRAFEEDBACK, "--split", "test_prefs[:2]", *words).status == 0
    assert len(json.loads((mixdpo.folder / "answers.json").read_text())) == 2
    ended = mixdpo("generate", "tatsu-lab/alpaca_eval", *words)
    assert ended.status == 2
    assert "`hf download tatsu-lab/alpaca_eval --repo-type dataset`" in ended.text


def test_benchmarks_fetch_their_files(mixdpo: Client, server: Hub) -> None:
    own = {
        "alpaca.json": [{"instruction": f"Instruction {k}", "output": "Mine", "generator": "me"} for k in range(3)],
        "arena.jsonl": [{"uid": f"{k:016x}", "answer": "print(2)", "model": "me"} for k in range(3)],
        "bench.jsonl": [
            {"question_id": n, "model_id": "me", "choices": [{"index": 0, "turns": ["A", "B"]}]} for n in (81, 82, 83)
        ],
    }
    for name, rows in own.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (mixdpo.folder / name).write_text(json.dumps(rows) if name.endswith(".json") else lines)
    judge = ("--judge", "tiny/reward", "--output")
    assert mixdpo("eval", "mt-bench", "--model", "bench.jsonl", *judge, "bench-result.json").status == 0
    hard = ("--version", "v2", "--category", "hard_prompt")
    mixdpo("eval", "arena-hard", *hard, "--model", "arena.jsonl", *judge, "arena-result.json")
    assert any("arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl" in asked for asked in server.asked)
    gamed = mixdpo("eval", "alpaca-eval", "--model", "alpaca.json", *judge, "alpaca-result.json")
    assert gamed.status == 2  # the published file of length control is known by its hash
    assert "not the published df_gamed.csv" in gamed.text
    missing = mixdpo("eval", "arena-hard", "--model", "arena.jsonl", *judge, "missing.json")
    assert "gpt-4-0314.jsonl is needed" in missing.text


def test_held_out_pairs_by_id(mixdpo: Client) -> None:
    words = ("--data.split", "test", "--model", "tiny/llama", "--adapter", "tiny/adapter", "--output", "held-out.json")
    assert mixdpo("eval", "preferences", MIX, *words).status == 0


def test_the_trained_model_is_pushed_with_its_card_and_nothing_else(mixdpo: Client, server: Hub) -> None:
    words = (
        "train", CONFIGURATIONS, "--data.name", "easy", "--plan", "dpo", "--model", "tiny/llama", "-o", "pushed",
        "--train.push_to_hub", "--train.hub_model_id", "tiny/pushed", "--train.max_steps", "1", "--train.save_steps",
        "1", "--train.use_cpu",
    )  # fmt: skip
    refused = mixdpo(*words)
    assert refused.status == 2
    assert "'tiny/pushed' cannot be made at" in refused.text.strip().splitlines()[-1]
    assert not (mixdpo.folder / "pushed" / "model").exists()

    ended = mixdpo(*words, token=TOKEN)
    assert ended.status == 0, ended.text
    files = server.pushed["tiny/pushed"]
    model = mixdpo.folder / "pushed" / "model"
    assert set(files) == {file.name for file in model.iterdir()} - {"training_args.bin"}
    assert files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert (card.data.base_model, card.data.license, card.data.datasets) == (
        "tiny/llama",
        "apache-2.0",
        [CONFIGURATIONS],
    )
    assert {"mixdpo", "dpo"} <= set(card.data.tags)
    for told in (
        "5 preference pairs",
        "by plan `dpo`",
        "learning_rate: 1.0e-06",
        "| loss | 0.6931 |",
        "transformers ",
    ):
        assert told in card.text, told
    assert str(mixdpo.folder) not in card.text
