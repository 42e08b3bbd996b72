"""The trainer: order, routes, normalisation, reference, schedules, checkpoints, alarms. Tiny models throughout."""

from __future__ import annotations

import copy
import json
import logging
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import GenerationConfig

from mixdpo import MixDPOTrainer, Plan, make_plan
from mixdpo.common.errors import InputError, RunError
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training import trainer as trainer_module
from mixdpo.training.checkpoints import last_complete_checkpoint
from mixdpo.training.run_folder import check_same_run, logged_metrics
from synthetic import chat_pairs
from tiny import plain_logprob, tiny_llama
from trainers import config, step_logs, trainer_for


@pytest.fixture
def model(tokenizer):
    return tiny_llama(vocab_size=len(tokenizer))


def test_a_saved_model_names_every_stop_token(model, tokenizer, tmp_path) -> None:
    other = copy.deepcopy(tokenizer)
    other.eos_token = "<|pad|>"  # as a base model's, while the template closes turns with <|im_end|>
    model.generation_config.eos_token_id = 7
    trainer = trainer_for(model, other, chat_pairs(tmp_path, n=8), tmp_path / "run", max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    saved = GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id
    assert set(saved) == {7, other.pad_token_id, other.convert_tokens_to_ids("<|im_end|>")}


def test_no_file_of_a_run_holds_a_token(model, tokenizer, tmp_path) -> None:
    changes = {"hub_token": "hf_not_for_others", "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    pairs = chat_pairs(tmp_path, n=8)
    trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", **changes)
    trainer.train()
    trainer.save_model(str(tmp_path / "run" / "model"))
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert sum(file.name == "training_args.bin" for file in files) == 2, "beside the model and in the checkpoint"
    assert not [file for file in files if b"hf_not_for_others" in file.read_bytes()]
    assert trainer.args.hub_token == "hf_not_for_others", "the run itself keeps it"
    again = trainer_for(
        model, tokenizer, pairs, tmp_path / "run", **changes | {"max_steps": 2, "hub_token": "another"}
    )
    with pytest.raises(InputError, match="max_steps"):  # of all settings, this is the one that differs
        again.train(resume_from_checkpoint=True)


# ---- order ----


@pytest.mark.slow
def test_steps_see_the_plans_pairs_in_order_whatever_the_accumulation(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=22)
    plan = make_plan(pairs, threshold={"hardest": 0.25})
    order = plan.epoch_rows(0, 1).tolist()
    expected = [order[i : i + 4] for i in range(0, 22, 4)]
    for batch, accumulation, window in ((4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 2, None), (4, 1, 4)):
        trainer = trainer_for(
            copy.deepcopy(model), tokenizer, pairs, tmp_path / f"{batch}x{accumulation}x{window}", plan,
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs=2,
            length_window=window,
        )  # fmt: skip
        trainer.train()
        steps = trainer.seen.steps[:-1]
        if window == 1:
            assert steps == expected * 2
            continue
        assert [sorted(step) for step in steps] == [sorted(step) for step in expected * 2]
        tokens = trainer.train_dataset.tokens_per_row()
        assert all((np.diff(tokens[step]) <= 0).all() for step in steps), "longest first within a step"


def test_engine_setting(model, tokenizer, tmp_path, caplog) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    for engine in ("packed", "padded"):
        trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / engine, engine=engine)
        assert ("layout" in next(iter(trainer.get_train_dataloader()))["parts"][0]["rows"]) == (engine == "packed")
    chosen_attention = tiny_llama(vocab_size=len(tokenizer))
    chosen_attention.set_attn_implementation("eager")
    with pytest.raises(InputError, match="cannot be packed: its attention is set to eager"):
        trainer_for(chosen_attention, tokenizer, pairs, tmp_path / "refused", engine="packed")
    trainer_for(chosen_attention, tokenizer, pairs, tmp_path / "padded-instead")
    assert "runs on padded rows, slower than packed ones" in caplog.text
    assert "FLOPs): its attention is set to eager" in caplog.text


def test_token_budget_splits_batches(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    for budget in (None, 100, 1):
        trainer = trainer_for(
            copy.deepcopy(model), tokenizer, pairs, tmp_path / str(budget), max_tokens_per_batch=budget
        )
        batches = list(trainer.get_train_dataloader())
        parts = [len(batch["parts"]) for batch in batches]
        assert parts == {None: [1, 1, 1], 1: [4, 4, 4]}.get(budget, parts)
        if budget == 100:
            assert 3 < sum(parts) < 12
            for part in (part for batch in batches for part in batch["parts"]):
                assert part["rows"]["input_ids"].shape[1] <= 100 or len(part["row"]) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"order": "shuffled", "threshold": None},
        {"order": "shuffled", "threshold": {"hardest": 0.5}, "hard_route": "drop", "refill": True},
        {"threshold": {"outside": [0.1, 0.6]}, "hard_route": "drop", "refill": True},
        {"threshold": None, "pacing": "sqrt"},
    ],
)
def test_epochs_see_what_the_plan_says(model, tokenizer, tmp_path, changes: dict) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    plan = make_plan(pairs, **changes)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", plan, num_train_epochs=2, length_window=1)
    trainer.train()
    steps = trainer.seen.steps[:-1]
    assert [len(step) for step in steps] == trainer.step_plan().pairs.tolist() == [4] * 6
    assert [row for step in steps for row in step] == plan.epoch_rows(0, 2).tolist() + plan.epoch_rows(1, 2).tolist()


def test_share_routed_per_step_equals_the_plan(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=22)
    plan = make_plan(pairs, threshold={"hardest": 0.25})
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", plan)
    trainer.train()
    logged = [log["route/sft"] for log in step_logs(tmp_path / "run")]
    sft = plan.is_hard[plan.epoch_rows(0, 1)]
    np.testing.assert_allclose(logged, [sft[i : i + 4].mean() for i in range(0, 22, 4)], atol=1e-6)
    np.testing.assert_allclose(trainer.step_plan().route_share[:, ROUTES.index("sft")], logged, atol=1e-6)


# ---- routes ----


def test_a_batch_of_ties_is_the_token_mean_of_its_chosen_answers(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    plan = make_plan(pairs, "sft_chosen", order="as_is")
    expected = []
    for pair in pairs.select(range(4)):
        whole = tokenizer.apply_chat_template(pair["prompt"] + pair["chosen"], return_dict=False)
        prompt = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, return_dict=False)
        answer = whole[len(prompt) :]
        expected.append(-plain_logprob(model, prompt, answer).item() / len(answer))
    trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", plan, max_steps=1).train()
    first = step_logs(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert first["route/sft"] == 1
    assert not any(name.startswith("rewards") for name in first), "SFT runs no reference"


def test_dropped_pairs_are_not_trained(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "selective_dpo"))
    trainer.train()
    assert len([row for step in trainer.seen.steps for row in step]) == 6


def test_reference_is_computed_only_for_pairs_whose_loss_reads_it(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run")
    trainer.train()
    known = ~np.isnan(trainer.train_dataset.reference).any(axis=1)
    assert (known == ~trainer.train_dataset.plan.is_hard).all()


def test_live_reference_is_rounded_as_the_policy_is(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    trainer_for(
        model, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "dpo"), precompute_ref_log_probs=False, bf16=True,
        max_steps=1,
    ).train()  # fmt: skip
    (first,) = step_logs(tmp_path / "run")
    assert first["rewards/margins"] == 0.0, "the same weights on the same rows"
    assert first["displacement/chosen"] == 0.0


# ---- learning rate ----


def test_shared_cosine_leaves_sft_what_the_paper_left_it(model, tokenizer, tmp_path) -> None:
    """382 steps of 160 pairs, 10 % warm-up, 7,387 of 61,135 pairs at the end: 4.4 % of the peak, 0.4 % of the mass."""
    from mixdpo.training.schedule import learning_rate_factors, make_step_plan, mass_by_route

    class Pairs:
        def __init__(self) -> None:
            margins = np.r_[np.ones(61135 - 7387), np.zeros(7387)]
            data = Dataset.from_dict({"pair_id": list(map(str, range(61135))), "margin/rating": margins})
            self.plan = make_plan(data, threshold=0.5)
            self.trained_pairs = len(self.plan)
            self.epoch_rows = self.plan.epoch_rows
            self.weight = np.ones(len(self.plan))

    # The published runs left out the last, unfilled step.
    steps = make_step_plan(Pairs(), batch_size=160, epochs=1, max_steps=382)  # type: ignore[arg-type]
    share = steps.route_share[:, ROUTES.index("sft")]
    assert (share[:335] == 0).all()
    assert 0 < share[335] < 1
    assert (share[336:] == 1).all()
    factors = learning_rate_factors(config(tmp_path), [len(steps)])
    assert factors[335] == pytest.approx(0.044, abs=2e-3)
    mass = mass_by_route(steps, factors)
    assert mass["sft"] == pytest.approx(0.0037, abs=3e-4)
    assert mass["preference"] == pytest.approx(1 - mass["sft"])


def test_run_warns_when_sft_gets_next_to_no_learning_rate(model, tokenizer, tmp_path, caplog) -> None:
    pairs = chat_pairs(tmp_path, n=60)
    plan = make_plan(pairs, threshold={"hardest": 0.1})
    arguments = {"per_device_train_batch_size": 2, "plan": plan}
    with caplog.at_level(logging.WARNING, "mixdpo"):
        trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "shared", **arguments).train()
    assert "of the learning-rate mass and will hardly train" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mixdpo"):
        trainer_for(model, tokenizer, pairs, tmp_path / "warm", phase_schedule="rewarmed", **arguments).train()
    assert "learning-rate mass" not in caplog.text


def test_rewarmed_schedule_starts_anew_at_the_change_of_route(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=40)
    plan = make_plan(pairs, threshold={"hardest": 0.5})
    trainer = trainer_for(
        model, tokenizer, pairs, tmp_path / "run", plan, phase_schedule="rewarmed", warmup_steps=0.2,
        per_device_train_batch_size=2,
    )  # fmt: skip
    trainer.train()
    rates = np.array([log["learning_rate"] for log in step_logs(tmp_path / "run")]) / 1e-3
    np.testing.assert_allclose(rates[:10], rates[10:], atol=1e-9)
    assert rates[0] == 0
    assert rates.argmax() == 2
    np.testing.assert_allclose(rates, trainer.learning_rate_factors(), atol=1e-9)


def test_rewarmed_schedule_needs_stretches(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=40)
    plan = make_plan(pairs, "mixdpo_unsorted", threshold={"hardest": 0.5})
    trainer = trainer_for(
        model, tokenizer, pairs, tmp_path / "run", plan, phase_schedule="rewarmed", per_device_train_batch_size=1
    )
    with pytest.raises(InputError, match="routes in stretches"):
        trainer.train()


# ---- checkpoints ----


def test_broken_checkpoint_is_passed_over(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    changes = {"save_strategy": "steps", "save_steps": 1}
    trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", **changes).train()
    state = tmp_path / "run" / "checkpoint-3" / "trainer_state.json"
    state.write_text(state.read_text()[:50])
    assert last_complete_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
    resumed = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", **changes)
    resumed.train(resume_from_checkpoint=True)
    assert len(resumed.seen.steps) == 2
    assert not any("train_loss" in line for line in logged_metrics(tmp_path / "run"))  # it saw two of three steps
    assert last_complete_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-3"
    with pytest.raises(InputError, match="no complete checkpoint"):
        trainer_for(model, tokenizer, pairs, tmp_path / "none").train(resume_from_checkpoint=True)


def test_a_run_is_not_written_over(model, tokenizer, tmp_path, refused) -> None:
    pairs = chat_pairs(tmp_path, n=8)

    def start(folder: str, **changes) -> MixDPOTrainer:
        trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / folder, **changes)
        trainer.train()
        return trainer

    start("checkpoint", save_strategy="steps", save_steps=1)
    start("model").save_model(str(tmp_path / "model" / "model"))
    for folder in ("checkpoint", "model"):
        before = (tmp_path / folder / "metrics.jsonl").read_text()
        refused(lambda name=folder: start(name), "holds another run", "--resume", "resume_from_checkpoint=True")
        assert (tmp_path / folder / "metrics.jsonl").read_text() == before
    # A run that ended before its first whole checkpoint can only be started anew.
    for state in (tmp_path / "checkpoint").glob("checkpoint-*/trainer_state.json"):
        state.write_text("{")
    start("checkpoint")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"beta": 0.5}, "beta = 0.1, not 0.5"), ({"seed": 1}, "seed"), ({"plan": "dpo"}, "another plan")],
)
def test_a_run_is_not_continued_as_another_one(model, tokenizer, tmp_path, change, message) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    saved = {"save_strategy": "steps", "save_steps": 1}
    trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", **saved).train()
    if "plan" in change:
        change = {"plan": make_plan(pairs, change["plan"])}
    with pytest.raises(InputError, match=message):
        trainer_for(model, tokenizer, pairs, tmp_path / "run", **saved, **change).train(resume_from_checkpoint=True)


def test_a_run_continues_with_steps_cut_in_another_way(model, tokenizer, tmp_path, refused) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    saved = {"save_strategy": "steps", "save_steps": 1, "plan": make_plan(pairs, "dpo")}
    trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", **saved).train()
    whole = [m["loss"] for m in step_logs(tmp_path / "run")]
    for step in (2, 3):
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}")

    def resume(**changes) -> None:
        again = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", **saved, **changes)
        again.train(resume_from_checkpoint=True)

    halves = {"per_device_train_batch_size": 2}
    refused(lambda: resume(**halves), "steps of 1 x 4 x 1 pairs, not 1 x 2 x 1")
    resume(**halves, gradient_accumulation_steps=2)
    np.testing.assert_allclose([m["loss"] for m in step_logs(tmp_path / "run")], whole, atol=1e-4)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**run, "processes": 2}))
    refused(lambda: resume(**halves, gradient_accumulation_steps=2), "steps of 2 x 2 x 2 pairs, not 1 x 2 x 2")
    # Two processes are one with twice the steps, unless a loss compares what is computed together.
    resume(**halves, gradient_accumulation_steps=4)
    with pytest.raises(InputError, match="steps of 1 x 2 x 4 pairs, not 2 x 2 x 2"):
        check_same_run(tmp_path / "run", {**run, "processes": 2}, compares_pairs=True)
    (tmp_path / "run" / "run.json").unlink()  # a checkpoint copied from elsewhere without its run
    refused(lambda: resume(**halves), "run.json", "copy the whole folder of the run")


# ---- reference and adapters ----


def test_lora_trains_adapters_against_the_base_weights(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path)
    base = {name: p.clone() for name, p in model.state_dict().items()}
    trainer = trainer_for(
        model, tokenizer, pairs, tmp_path / "lora", peft_config=LoraConfig(r=4, target_modules="all-linear")
    )
    trainer.train()
    assert step_logs(tmp_path / "lora")[0]["loss/preference"] == pytest.approx(np.log(2), abs=1e-5)
    trainer.save_model(str(tmp_path / "adapter"))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(value.abs().max() > 0 for name, value in saved.items() if "lora_B" in name)
    unwrapped = trainer.model.unload()
    for name, p in unwrapped.state_dict().items():
        torch.testing.assert_close(p, base[name], rtol=0, atol=0)


def test_continued_adapter_keeps_the_base_as_reference(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    policy = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter", is_trainable=True)
    trainer = trainer_for(policy, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "dpo", order="as_is"))
    trainer.train()
    tokens = trainer.train_dataset.tokens
    for row in range(8):
        expected = plain_logprob(model, tokens[row]["prompt_ids"], tokens[row]["chosen_ids"])
        assert trainer.train_dataset.reference[row, 0] == pytest.approx(expected.item(), abs=1e-4)
    assert abs(step_logs(tmp_path / "run")[0]["rewards/margins"]) > 1e-3, "the adapter is no longer the reference"


def test_given_reference_model_is_used_and_never_trained(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    reference = tiny_llama(seed=5, vocab_size=len(tokenizer))
    before = {name: p.clone() for name, p in reference.state_dict().items()}
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "dpo"), ref_model=reference)
    trainer.train()
    tokens = trainer.train_dataset.tokens[3]
    expected = plain_logprob(reference, tokens["prompt_ids"], tokens["rejected_ids"])
    assert trainer.train_dataset.reference[3, 1] == pytest.approx(expected.item(), abs=1e-4)
    assert all(torch.equal(before[name], p) for name, p in reference.state_dict().items())
    with pytest.raises(InputError, match="the policy itself"):
        trainer_for(model, tokenizer, pairs, tmp_path / "run", ref_model=model)


def test_reference_with_adapters_is_refused(model, tokenizer, tmp_path, refused) -> None:
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, init_lora_weights=False))
    pairs = chat_pairs(tmp_path, n=8)
    refused(
        lambda: trainer_for(model, tokenizer, pairs, tmp_path / "run", ref_model=adapted),
        "ref_model has adapters", "merge_and_unload",
    )  # fmt: skip
    trainer_for(model, tokenizer, pairs, tmp_path / "run", ref_model=adapted.merge_and_unload())


def test_dropout_is_off(tokenizer, tmp_path) -> None:
    model = tiny_llama(vocab_size=len(tokenizer))
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    pairs = chat_pairs(tmp_path, n=8)
    peft = LoraConfig(r=4, lora_dropout=0.5)
    trainer_for(model, tokenizer, pairs, tmp_path / "run", peft_config=peft).train()
    assert step_logs(tmp_path / "run")[0]["loss/preference"] == pytest.approx(np.log(2), abs=1e-6)


# ---- alarms ----


def test_first_loss_must_be_ln_2(model, tokenizer, tmp_path, monkeypatch) -> None:
    original = MixDPOTrainer.before_first_step

    def another_models_reference(trainer: MixDPOTrainer) -> None:
        original(trainer)
        trainer.train_dataset.reference += np.float32([3.0, -3.0])

    monkeypatch.setattr(MixDPOTrainer, "before_first_step", another_models_reference)
    pairs = chat_pairs(tmp_path, n=8)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "dpo"))
    with pytest.raises(RunError, match=r"first preference loss is 1\.\d+ instead of 0\.6931"):
        trainer.train()


@pytest.mark.parametrize("loss_type", ["rpo", ["sigmoid", "sft"]])
def test_first_loss_may_hold_the_likelihood_of_whole_answers(model, tokenizer, tmp_path, loss_type) -> None:
    """`ld_alpha` discounts answers in the log-ratios, and not in the NLL that is added to them."""
    pairs, changes = chat_pairs(tmp_path, n=8), {"loss_type": loss_type, "ld_alpha": 0.3, "max_steps": 1}
    trainer_for(model, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "dpo"), **changes).train()
    assert len(step_logs(tmp_path / "run")) == 1


def test_the_format_of_the_weights_is_allowed_for_and_warned_of(tokenizer, tmp_path, monkeypatch, caplog) -> None:
    allowed = []
    monkeypatch.setattr(trainer_module, "check_first_loss", lambda *arguments: allowed.append(arguments[-1]))
    pairs = chat_pairs(tmp_path, n=4)
    for dtype in (torch.float32, torch.bfloat16):
        weights = tiny_llama(vocab_size=len(tokenizer)).to(dtype)
        trainer_for(weights, tokenizer, pairs, tmp_path / str(dtype), make_plan(pairs, "dpo")).train()
        assert ("weights are bfloat16" in caplog.text) == (dtype == torch.bfloat16)
    assert allowed == ["fp32", "bf16"]
    caplog.clear()
    peft = LoraConfig(r=2)  # whose own weights are float32
    trainer_for(weights, tokenizer, pairs, tmp_path / "lora", make_plan(pairs, "dpo"), peft_config=peft)
    assert "weights are" not in caplog.text


def test_metrics_of_an_interrupted_evaluation_are_forgotten(model, tokenizer, tmp_path) -> None:
    pairs, longer = chat_pairs(tmp_path, n=7), chat_pairs(tmp_path, n=9, seed=3)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", per_device_eval_batch_size=2)
    whole = trainer.evaluate(pairs)
    original = trainer.prediction_step
    trainer.prediction_step = lambda *arguments, **more: (original(*arguments, **more), 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate(longer)
    trainer.prediction_step = original
    again = trainer.evaluate(pairs)
    assert again["eval_logps/chosen"] == pytest.approx(whole["eval_logps/chosen"], abs=1e-4)


def test_displacement_is_measured_by_bucket_and_warned_of_once(model, tokenizer, tmp_path, caplog) -> None:
    pairs = chat_pairs(tmp_path, n=40)
    trainer = trainer_for(
        model, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "dpo"), num_train_epochs=6, learning_rate=3e-3,
        displacement_bound=0.5, eval_dataset=chat_pairs(tmp_path, n=40), eval_strategy="epoch",
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "mixdpo"):
        trainer.train()
    warned = [record.getMessage() for record in caplog.records if "nats under the reference" in record.getMessage()]
    assert warned
    assert len(warned) == len({message.split(" of the ")[1].split()[0] for message in warned})

    # The evaluation's own numbers against the per-pair records, and those against the plain forward.
    last = [m for m in logged_metrics(tmp_path / "run") if "eval_loss" in m][-1]
    table = pq.read_table(tmp_path / "run" / "records" / "eval-step-60.parquet").to_pandas()
    assert table["pair_id"].tolist() == chat_pairs(tmp_path, n=40)["pair_id"][:]
    change = table["chosen"] - table["ref_chosen"]
    for bucket, expected in change.groupby(table["bucket"]).mean().items():
        assert last[f"eval_displacement/chosen/{bucket}"] == pytest.approx(expected, abs=1e-3)
    h = change - (table["rejected"] - table["ref_rejected"])
    assert last["eval_loss"] == pytest.approx(np.log1p(np.exp(-0.1 * h)).mean(), abs=1e-4)
    assert last["eval_rewards/accuracies"] == pytest.approx((h > 0).mean())
    tokens = trainer.eval_dataset.tokens[7]
    expected = plain_logprob(trainer.model.eval(), tokens["prompt_ids"], tokens["rejected_ids"])
    assert table["rejected"][7] == pytest.approx(expected.item(), abs=1e-3)


def test_evaluate_takes_other_pairs_while_the_reference_is_at_hand(model, tokenizer, tmp_path) -> None:
    pairs, other = chat_pairs(tmp_path, n=8), chat_pairs(tmp_path, n=7, seed=3)
    trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run")
    assert trainer.evaluate(other)["eval_loss"] == pytest.approx(np.log(2), abs=1e-5)
    trainer.train()
    with pytest.raises(RunError, match="give it as eval_dataset"):
        trainer.evaluate(chat_pairs(tmp_path, n=7, seed=4))


# ---- files and settings ----


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"logging_steps": 10}, [6]),
        ({"logging_steps": 4}, [4, 6]),
        ({"logging_steps": 3}, [3, 6]),
        ({"logging_steps": 4, "max_steps": 5}, [4, 5]),
        ({"logging_strategy": "epoch"}, [3, 6]),
        ({"logging_strategy": "no"}, []),
    ],
)
def test_the_last_step_is_logged_once(model, tokenizer, tmp_path, changes, lines) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "each", num_train_epochs=2).train()
    trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", num_train_epochs=2, **changes).train()
    logged = step_logs(tmp_path / "run")
    assert [line["step"] for line in logged] == lines
    if lines and "max_steps" not in changes:
        since = lines[-2] if len(lines) > 1 else 0
        steps = [line["loss"] for line in step_logs(tmp_path / "each")][since:]
        assert logged[-1]["loss"] == pytest.approx(np.mean(steps), abs=1e-4)
        assert "rewards/accuracies" in logged[-1]


@pytest.mark.figure
def test_run_folder(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path)
    plan = make_plan(pairs, threshold={"hardest": 0.25})
    trainer_for(model, tokenizer, pairs, tmp_path / "run", plan).train()
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["data"]["fingerprint"] == plan.fingerprint
    assert run["settings"]["beta"] == 0.1
    assert run["versions"]["torch"] == torch.__version__
    assert run["plan"]["settings"]["threshold"] == {"hardest": 0.25}
    assert not any("token" in name and "hub" in name for name in run["settings"])
    assert Plan.load(tmp_path / "run" / "plan.parquet").fingerprint == plan.fingerprint
    assert (tmp_path / "run" / "training.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "run" / "training.svg").read_text()
    logs = step_logs(tmp_path / "run")
    assert [m["step"] for m in logs] == list(range(1, 7))
    for m in logs:
        share = m["route/sft"]
        combined = (1 - share) * m.get("loss/preference", 0) + share * m.get("loss/sft", 0)
        assert m["loss"] == pytest.approx(combined, abs=1e-4)


def test_same_seed_same_result(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path)
    for name in ("a", "b"):
        trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / name, sft_target="random").train()
    assert [m["loss"] for m in step_logs(tmp_path / "a")] == [m["loss"] for m in step_logs(tmp_path / "b")]


def test_plan_of_other_data_is_refused(model, tokenizer, tmp_path) -> None:
    plan = make_plan(chat_pairs(tmp_path, n=8, seed=1))
    with pytest.raises(InputError, match="other data"):
        trainer_for(model, tokenizer, chat_pairs(tmp_path, n=8, seed=2), tmp_path / "run", plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_type": "sigmoid2"}, "no loss is named 'sigmoid2'"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "1 values for 2 losses"),
        *(
            ({"loss_type": ["sigmoid", "hinge"], "loss_weights": weights}, "finite numbers of 0 or more, and not all")
            for weights in ([1.0, -1.0], [1.0, np.nan], [np.inf, 1.0], [0.0, 0.0])
        ),
        ({"beta": 0}, "above 0"),
        ({"label_smoothing": 0.5}, "at least 0 and below 0.5"),
        ({"sft_target": "best"}, "chosen, rejected, both, random"),
        ({"phase_schedule": "warm"}, "shared, rewarmed"),
        ({"remove_unused_columns": True}, "only False works"),
        ({"neftune_noise_alpha": 5.0}, "packed rows hold several answers"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches is true"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches is true"),
        ({"dataloader_drop_last": True}, "every pair of the plan"),
        ({"logging_steps": 0}, "logging_steps"),
        ({"push_to_hub": True, "hub_strategy": "checkpoint"}, "only the trained model is pushed"),
    ],
)
def test_wrong_settings(tmp_path, change, message) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, **change)
