"""Metrics that run a model, against transformers' own forward of one sequence at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from scipy.stats import binomtest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from forks import forked, status_of
from mixdpo import load_pairs, score
from mixdpo.cli.main import main
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.tokenize import tokens_of
from mixdpo.evaluation.constraints import Constraint, constraints_met
from mixdpo.evaluation.held_out_prompts import DATA
from mixdpo.judges.reward_model import padded
from mixdpo.models import cached_logprobs as run
from mixdpo.models import loading as model_module
from synthetic import chat_pairs
from tiny import byte_level_tokenizer, plain_logprob, saved, tiny_llama, tiny_reward_model

SIDES = ("chosen", "rejected")


@pytest.fixture
def pairs(tmp_path) -> Dataset:
    return chat_pairs(tmp_path, n=10)


@pytest.fixture
def model(tmp_path, tokenizer) -> str:
    return saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")


def plain_pairs(model, tokenizer, pairs: Dataset) -> np.ndarray:
    """log pi of (chosen, rejected) of every pair, from logits of one sequence at a time."""
    tokens, _ = tokens_of(pairs, tokenizer, TokenSettings())
    with torch.no_grad():
        return np.array(
            [
                [float(plain_logprob(model, t["prompt_ids"], t[f"{side}_ids"])) for side in ("chosen", "rejected")]
                for t in tokens
            ]
        )


def counts(tokenizer, pairs: Dataset) -> np.ndarray:
    tokens, _ = tokens_of(pairs, tokenizer, TokenSettings())
    return np.array([[len(t["chosen_ids"]), len(t["rejected_ids"])] for t in tokens])


# ---- likelihood ----


@pytest.mark.parametrize("attention", ["auto", "eager"])  # packed and padded
def test_likelihood_metrics(model, tokenizer, pairs, attention) -> None:
    logps = plain_pairs(AutoModelForCausalLM.from_pretrained(model).eval(), tokenizer, pairs)
    settings = {"model": {"name_or_path": model, "attn_implementation": attention}, "bf16": False, "batch_size": 3}
    scored = score(pairs, ["nll_gap", "reference_logp"], nll_gap=settings, reference_logp=settings)
    nll = -logps / counts(tokenizer, pairs)
    np.testing.assert_allclose(scored["margin/nll_gap"], nll[:, 1] - nll[:, 0], atol=1e-5)
    np.testing.assert_allclose(scored["margin/reference_logp"], logps[:, 0] - logps[:, 1], atol=1e-4)


def test_implicit_reward(model, tokenizer, pairs, tmp_path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(model).eval()
    aligned = tiny_llama(seed=1, vocab_size=len(tokenizer))
    name = saved(aligned, tokenizer, tmp_path / "aligned")
    log_ratio = plain_pairs(aligned, tokenizer, pairs) - plain_pairs(reference, tokenizer, pairs)
    scored = score(pairs, "implicit_reward", model=name, ref_model=model, beta=0.3, bf16=False)
    expected = 0.3 * (log_ratio[:, 0] - log_ratio[:, 1])
    np.testing.assert_allclose(scored["margin/implicit_reward"], expected, atol=1e-4)


def test_loss_diff(model, tokenizer, pairs, tmp_path, refused) -> None:
    models = {seed: tiny_llama(seed=seed, vocab_size=len(tokenizer)) for seed in (1, 2)}
    names = {seed: saved(one, tokenizer, tmp_path / f"aligned-{seed}") for seed, one in models.items()}
    reference = plain_pairs(AutoModelForCausalLM.from_pretrained(model).eval(), tokenizer, pairs)
    losses = {}
    for seed, one in models.items():
        gap = plain_pairs(one, tokenizer, pairs) - reference
        losses[seed] = -np.log(1 / (1 + np.exp(-0.3 * (gap[:, 0] - gap[:, 1]))))  # the DPO loss
    settings = {"validation_model": names[2], "ref_model": model, "beta": 0.3, "bf16": False}
    scored = score(pairs, "loss_diff", model=names[1], **settings)
    np.testing.assert_allclose(scored["margin/loss_diff"], losses[1] - losses[2], atol=1e-4)
    scored = score(pairs, "loss_diff", **settings)
    np.testing.assert_allclose(scored["margin/loss_diff"], np.log(2) - losses[2], atol=1e-4)
    refused(lambda: score(pairs, "loss_diff", ref_model=model), "loss_diff.validation_model")


@pytest.mark.parametrize("in_4bit", [False, True])
def test_implicit_reward_of_an_adapter(model, tokenizer, pairs, tmp_path, monkeypatch, in_4bit) -> None:
    monkeypatch.setattr(model_module, "_four_bit", lambda: None)  # all as in 4 bits, but for the weights themselves
    base = AutoModelForCausalLM.from_pretrained(model).eval()
    reference = plain_pairs(base, tokenizer, pairs)
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    log_ratio = plain_pairs(adapted, tokenizer, pairs) - reference
    assert np.abs(log_ratio).min() > 0.01
    aligned = {"name_or_path": model, "adapter": str(tmp_path / "adapter"), "load_in_4bit": in_4bit}
    if in_4bit:
        aligned["dtype"] = "float32"
    scored = score(pairs, "implicit_reward", model=aligned, ref_model=model, bf16=False)
    np.testing.assert_allclose(scored["margin/implicit_reward"], 0.1 * (log_ratio[:, 0] - log_ratio[:, 1]), atol=1e-4)

    # Training's reference is the model without the adapter; where training starts is the model with it.
    scored = score(pairs, "reference_logp", model={**aligned, "dtype": "float32"}, bf16=False)
    np.testing.assert_allclose(scored["margin/reference_logp"], reference[:, 0] - reference[:, 1], atol=1e-4)
    nll = -(reference + log_ratio) / counts(tokenizer, pairs)
    scored = score(pairs, "nll_gap", model=aligned, bf16=False)
    np.testing.assert_allclose(scored["margin/nll_gap"], nll[:, 1] - nll[:, 0], atol=1e-5)


def test_implicit_reward_needs_one_tokenizer(model, pairs, tmp_path, refused) -> None:
    other = byte_level_tokenizer(vocab_size=300)
    name = saved(tiny_llama(vocab_size=len(other)), other, tmp_path / "other")
    refused(lambda: score(pairs, "implicit_reward", model=name, ref_model=model), "different tokenizers", "ref_model")


# ---- CHES ----


def plain_ches(model, tokenizer, pairs: Dataset) -> np.ndarray:
    """CHES and length-normalised CHES by their definition, from the hidden states transformers returns."""
    tokens, _ = tokens_of(pairs, tokenizer, TokenSettings())
    result = []
    for t in tokens:
        sums, lengths = [], []
        for side in ("chosen", "rejected"):
            ids = torch.tensor([t["prompt_ids"] + t[f"{side}_ids"]])
            with torch.no_grad():
                states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
            # h_{x, y_<k} for k = 1 ... |y|: the states after x, after x and y_1, ...
            sums.append(states[len(t["prompt_ids"]) - 1 : -1].sum(0))
            lengths.append(len(t[f"{side}_ids"]))
        (chosen, rejected), (w, l) = sums, lengths  # noqa: E741
        result.append(
            [
                float(chosen @ rejected - chosen @ chosen),
                float(chosen @ rejected / (w * l) - chosen @ chosen / w**2),
            ]
        )
    return np.array(result)


@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_ches(model, tokenizer, pairs, attention) -> None:
    expected = plain_ches(AutoModelForCausalLM.from_pretrained(model).eval(), tokenizer, pairs)
    settings = {"model": {"name_or_path": model, "attn_implementation": attention}, "bf16": False, "batch_size": 3}
    scored = score(pairs, ["ches", "ches_length_normalised"], ches=settings, ches_length_normalised=settings)
    np.testing.assert_allclose(scored["margin/ches"], -expected[:, 0], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(scored["margin/ches_length_normalised"], -expected[:, 1], rtol=1e-4, atol=1e-4)


def test_margins_are_of_the_trained_tokens(model, tokenizer, pairs, half_trained) -> None:
    settings = {"model": model, "bf16": False}
    names = ["nll_gap", "reference_logp", "ches", "ches_length_normalised"]
    scored = score(pairs, names, **dict.fromkeys(names, settings))
    tokens = half_trained(tokens_of(pairs, tokenizer, TokenSettings())[0])
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    for i, pair in enumerate(tokens):
        sums, states, counts = [], [], []
        for side in SIDES:
            ids, prompt = pair["prompt_ids"] + pair[f"{side}_ids"], len(pair["prompt_ids"])
            places = torch.tensor([prompt + k for k, trained in enumerate(pair[f"{side}_mask"]) if trained])
            with torch.no_grad():
                output = plain(input_ids=torch.tensor([ids]), output_hidden_states=True)
            logprobs = output.logits[0].double().log_softmax(-1)
            sums.append(float(logprobs[places - 1, torch.tensor(ids)[places]].sum()))
            states.append(output.hidden_states[-1][0, places - 1].double().sum(0))
            counts.append(len(places))
        (w, r), (n_w, n_r) = states, counts
        expected = {
            "nll_gap": sums[0] / n_w - sums[1] / n_r,
            "reference_logp": sums[0] - sums[1],
            "ches": float(w @ w - w @ r),
            "ches_length_normalised": float(w @ w / n_w**2 - w @ r / (n_w * n_r)),
        }
        for name, value in expected.items():
            assert scored[f"margin/{name}"][i] == pytest.approx(value, rel=1e-4, abs=1e-3), name


# ---- the real model ----


@pytest.mark.slow
def test_metrics_of_smollm2(smollm2, tmp_path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2), AutoModelForCausalLM.from_pretrained(smollm2).eval()
    pairs = chat_pairs(tmp_path, n=5)
    logps, expected = plain_pairs(model, tokenizer, pairs), plain_ches(model, tokenizer, pairs)
    settings = {"model": str(smollm2), "bf16": False}
    names = ["nll_gap", "reference_logp", "ches", "ches_length_normalised"]
    scored = score(pairs, names, **dict.fromkeys(names, settings))
    nll = -logps / counts(tokenizer, pairs)
    np.testing.assert_allclose(scored["margin/nll_gap"], nll[:, 1] - nll[:, 0], atol=1e-4)
    np.testing.assert_allclose(scored["margin/reference_logp"], logps[:, 0] - logps[:, 1], atol=1e-3)
    np.testing.assert_allclose(scored["margin/ches"], -expected[:, 0], rtol=1e-4)
    np.testing.assert_allclose(scored["margin/ches_length_normalised"], -expected[:, 1], rtol=1e-4, atol=1e-2)


# ---- reward models ----


@pytest.mark.parametrize("pad", [None, 0])
@pytest.mark.parametrize("kind", ["chat", "text"])
def test_reward_model(tokenizer, tmp_path, text_rows, jsonl, pad, kind) -> None:
    name = tiny_reward_model(tokenizer, tmp_path / "reward", pad)
    pairs = chat_pairs(tmp_path, n=9) if kind == "chat" else load_pairs(jsonl(text_rows))
    model = AutoModelForSequenceClassification.from_pretrained(name).eval()
    expected = []
    for pair in pairs:
        prompt = pair["prompt"] if kind == "chat" else [{"role": "user", "content": pair["prompt"]}]
        rewards = []
        for side in ("chosen", "rejected"):
            answer = pair[side] if kind == "chat" else [{"role": "assistant", "content": pair[side]}]
            ids = tokenizer.apply_chat_template(prompt + answer, return_tensors="pt", return_dict=False)
            with torch.no_grad():
                rewards.append(float(model(input_ids=ids).logits[0, 0]))
        expected.append(rewards[0] - rewards[1])
    assert np.std(expected) > 0.1
    scored = score(pairs, "reward_model", model=name, batch_size=4)
    np.testing.assert_allclose(scored["margin/reward_model"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["field", "content", "text"])
def test_a_reward_model_does_not_read_the_reasoning(tokenizer, tmp_path, kind) -> None:
    name = tiny_reward_model(tokenizer, tmp_path / "reward", 0)

    def pairs(thought: str | None) -> Dataset:
        begins = f"<think>\n{thought}\n</think>\n\n" if thought and kind != "field" else ""
        words = {"prompt": "What is 2+2?", "chosen": f"{begins}It is 4.", "rejected": f"{begins}It is five."}
        if kind == "text":
            return load_pairs([words])
        field = {"reasoning_content": thought} if thought and kind == "field" else {}
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        extra = {"user": {}, "assistant": field}
        return load_pairs([{s: [{"role": r, "content": words[s], **extra[r]}] for s, r in roles.items()}])

    plain, thoughtful = (score(pairs(thought), "reward_model", model=name) for thought in (None, "Two and two are 4."))
    assert plain["margin/reward_model"][:] == thoughtful["margin/reward_model"][:]
    assert thoughtful["chosen"][0] == pairs("Two and two are 4.")["chosen"][0]


@pytest.mark.slow
def test_trained_reward_model_ranks_held_out_pairs(tokenizer, tmp_path) -> None:
    """A classifier learns from the demo's real answers which of two does without commas, as was demanded."""
    demand = Constraint("no_commas")
    answers = load_pairs(str(DATA / "train.parquet"))
    texts = sorted({row[side][-1]["content"] for row in answers for side in ("chosen", "rejected")})
    texts = [text for text in texts if 20 < len(text) < 300]
    rng = np.random.default_rng(0)
    meeting, failing = (
        rng.permutation([text for text in texts if constraints_met(text, [demand]) == met]).tolist()[:240]
        for met in (1, 0)
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": demand.instruction}],
            "chosen": [{"role": "assistant", "content": good}],
            "rejected": [{"role": "assistant", "content": bad}],
        }
        for good, bad in zip(meeting, failing, strict=True)
    ]
    for name, part in (("train", rows[:160]), ("held-out", rows[160:])):
        Dataset.from_list(part).to_parquet(tmp_path / f"{name}.parquet")
    name = tiny_reward_model(tokenizer, tmp_path / "reward", 0)
    held_out = load_pairs(str(tmp_path / "held-out.parquet"))
    before = np.array(score(held_out, "reward_model", model=name)["margin/reward_model"])

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens, _ = tokens_of(load_pairs(str(tmp_path / "train.parquet")), tokenizer, TokenSettings())
    for _ in range(8):
        for batch in np.array_split(rng.permutation(len(tokens)), 10):
            sides = [tokens[int(i)]["prompt_ids"] + tokens[int(i)][f"{s}_ids"] for i in batch for s in SIDES]
            row = padded(sides, 0)
            logits = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"]).logits[:, 0].view(-1, 2)
            loss = -torch.nn.functional.logsigmoid(logits[:, 0] - logits[:, 1]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    name = saved(model, tokenizer, tmp_path / "trained")
    after = np.array(score(held_out, "reward_model", model=name)["margin/reward_model"])
    assert binomtest(int((before > 0).sum()), len(before)).pvalue > 1e-3, "untrained, it cannot tell"
    assert binomtest(int((after > 0).sum()), len(after), alternative="greater").pvalue < 1e-4


def test_what_is_no_reward_model(tokenizer, model, pairs, tmp_path, refused) -> None:
    two = tiny_reward_model(tokenizer, tmp_path / "two", 0, labels=2)
    refused(lambda: score(pairs, "reward_model", model=two), "has 2 outputs", "num_labels 1")
    refused(lambda: score(pairs, "reward_model", model=model), "is no reward model", "score.weight")
    bare = tiny_reward_model(tokenizer, tmp_path / "bare", 0)
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    refused(lambda: score(pairs, "reward_model", model=bare), "has no chat template", "chat_template: FILE")
    broken = AutoModelForSequenceClassification.from_pretrained(tiny_reward_model(tokenizer, tmp_path / "nan", 0))
    torch.nn.init.constant_(broken.score.weight, float("nan"))
    name = saved(broken, tokenizer, tmp_path / "nan")
    refused(lambda: score(pairs, "reward_model", model=name), "row 1", "reward_model gave nan for 10 of 10 pairs")


# ---- killed, and on several processes ----


@pytest.fixture
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(run, "_LEAST_PAIRS_PER_PART", 4)
    monkeypatch.setattr(run, "_SECONDS_PER_PART", 0.0)


@pytest.mark.parametrize("metric", ["nll_gap", "ches", "reward_model"])
def test_killed_pass_goes_on(model, tokenizer, pairs, tmp_path, monkeypatch, small_parts, metric) -> None:
    if metric == "reward_model":
        model = tiny_reward_model(tokenizer, tmp_path / "reward", 0)
    original, seen = run.forward_pass, []

    def killed_in_the_third_part(index, *arguments):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(index.tolist())
        return original(index, *arguments)

    monkeypatch.setattr(run, "forward_pass", killed_in_the_third_part)
    with pytest.raises(KeyboardInterrupt):
        score(pairs, metric, model=model, bf16=False, batch_size=2)
    first = list(seen)
    assert list(map(len, first)) == [4, 4]
    monkeypatch.setattr(
        run, "forward_pass", lambda index, *rest: seen.append(index.tolist()) or original(index, *rest)
    )
    margins = score(pairs, metric, model=model, bf16=False, batch_size=2)[f"margin/{metric}"][:]
    again = [pair for part in seen[2:] for pair in part]
    assert sorted(again) == sorted(set(range(10)) - {pair for part in first for pair in part})
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "another"))
    assert score(pairs, metric, model=model, bf16=False, batch_size=2)[f"margin/{metric}"][:] == margins


@pytest.mark.slow
def test_a_scoring_process_shot_dead_goes_on(model, tmp_path, monkeypatch, caplog) -> None:
    chat_pairs(tmp_path, n=1500).to_parquet(tmp_path / "pairs.parquet")
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))
    command = ["score", str(tmp_path / "pairs.parquet"), "--metric", "nll_gap"]
    command += ["--score.nll_gap.model", model, "--score.nll_gap.bf16", "false"]
    process = forked(lambda: main([*command, "-o", str(tmp_path / "never.parquet")]))
    # Not the file that begins with a dot: it is being written.
    while not list((tmp_path / "cache").glob("reference/[!.]*.parquet")) and not os.waitpid(process, os.WNOHANG)[0]:
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    assert status_of(process) == -signal.SIGKILL
    assert not (tmp_path / "never.parquet").exists()
    (file,) = (tmp_path / "cache").glob("reference/[!.]*.parquet")
    kept = pq.read_metadata(file).num_rows
    assert main([*command, "-o", str(tmp_path / "scored.parquet")]) == 0
    assert f"nll_gap: {kept} pairs from the cache, {1500 - kept} to compute" in caplog.text
    assert 0 < kept < 1500
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "another"))
    whole = score(load_pairs(str(tmp_path / "pairs.parquet")), "nll_gap", model=model, bf16=False)
    found = load_pairs(str(tmp_path / "scored.parquet"))
    np.testing.assert_allclose(found["margin/nll_gap"], whole["margin/nll_gap"], atol=1e-6)


@pytest.mark.slow
def test_two_processes_equal_one(model, tokenizer, tmp_path, monkeypatch) -> None:
    pairs = chat_pairs(tmp_path, n=11)
    pairs.to_parquet(tmp_path / "pairs.parquet")
    reward = tiny_reward_model(tokenizer, tmp_path / "reward", 0)
    names = ["nll_gap", "ches", "reward_model"]
    models = {"nll_gap": model, "ches": model, "reward_model": reward}
    one = score(pairs, names, **{name: {"model": models[name], "bf16": False} for name in names})

    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))
    score(pairs.select(range(3)), "nll_gap", model=model, bf16=False)  # so that a part is found and a part computed
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "mixdpo"]
    command += ["score", str(tmp_path / "pairs.parquet"), "-o", str(tmp_path / "two.parquet")]
    for name in names:
        command += ["--metric", name, f"--score.{name}.model", models[name], f"--score.{name}.batch_size", "2"]
        command += [f"--score.{name}.bf16", "false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("scored: ") == 1
    two = load_pairs(str(tmp_path / "two.parquet"))
    for name in names:
        np.testing.assert_allclose(two[f"margin/{name}"], one[f"margin/{name}"], rtol=1e-4, atol=1e-4, err_msg=name)
        (file,) = (tmp_path / "cache" / {"nll_gap": "reference", "reward_model": "reward"}.get(name, name)).glob(
            "*.parquet"
        )
        assert pq.read_metadata(file).num_rows == 11
