"""Losses as settings of a run: routes, what is computed for them, and what they carry from step to step."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mixdpo import MixDPOConfig, MixDPOTrainer, load_pairs, make_plan, score
from mixdpo.common.errors import InputError, RunError
from mixdpo.losses import LOSSES
from mixdpo.training import trainer as trainer_module
from mixdpo.training.loss_state import RunningStatistics
from mixdpo.training.step_settings import step_settings
from prompt_groups import tiny
from synthetic import chat_pairs
from tiny import plain_logprob, tiny_llama


@pytest.fixture
def model(tokenizer):
    return tiny_llama(vocab_size=len(tokenizer))


def run(model, tokenizer, pairs, folder: Path, plan="dpo", evaluate=None, **changes) -> MixDPOTrainer:
    args = MixDPOConfig(
        **{
            "output_dir": str(folder), "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1,
            "warmup_steps": 0, "lr_scheduler_type": "constant", "save_strategy": "no", "bf16": False, "use_cpu": True,
            "disable_tqdm": True, "beta": 0.2, "max_length": 256,
        }
        | changes
    )  # fmt: skip
    made = make_plan(pairs, plan) if isinstance(plan, str) else plan
    trainer = MixDPOTrainer(
        copy.deepcopy(model), args=args, train_dataset=pairs, eval_dataset=evaluate, plan=made,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    return trainer


def losses_of(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def computed_references(monkeypatch) -> list[int]:
    """Pairs of every reference pass."""
    counts: list[int] = []
    original = trainer_module.fill_reference

    def counting(*args, **kwargs):
        use = original(*args, **kwargs)
        counts.append(use.computed)
        return use

    monkeypatch.setattr(trainer_module, "fill_reference", counting)
    return counts


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"chosen_floor"}))  # which alone moves nothing
@pytest.mark.slow
def test_every_loss_trains(model, tokenizer, tmp_path, computed_references, name: str) -> None:
    pairs = chat_pairs(tmp_path, n=8).add_column("label_probability", [0.75] * 8)
    plan = make_plan(pairs, hard_route="preference", label_probability="column")
    trainer = run(
        model, tokenizer, pairs, tmp_path / "run", plan, loss_type=name, label_smoothing=0.05, max_steps=2
    )  # fmt: skip
    assert len(losses_of(tmp_path / "run")) == 2
    # Twice where answers to other prompts have a reference too.
    assert computed_references == ([8] * (1 + LOSSES[name].mismatched) if LOSSES[name].reference else [])
    before, after = model.state_dict(), trainer.model.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_reference_free_runs_hold_no_reference(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    trainer = run(
        model, tokenizer, pairs, tmp_path / "run", loss_type="simpo", precompute_ref_log_probs=False, max_steps=1
    )
    assert trainer._ref_model is None


@pytest.mark.parametrize(("easy", "hard", "computed"), [("ipo", "sft", 6), ("simpo", "cpo", 0), ("simpo", "ipo", 2)])
def test_any_loss_on_either_route(
    model, tokenizer, tmp_path, computed_references, easy: str, hard: str, computed: int
) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    plan = make_plan(pairs, threshold={"hardest": 0.25})
    trainer = run(model, tokenizer, pairs, tmp_path / "run", plan, loss_type=easy, hard_loss_type=hard)
    assert sum(computed_references) == computed
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert "loss/preference" in logs[0]
    assert "loss/sft" in logs[-1]


def test_hard_route_by_hand(model, tokenizer, tmp_path) -> None:
    """The first loss of a run that starts with hard pairs is the hard loss of the start model's log-probabilities."""
    pairs = chat_pairs(tmp_path, n=4)
    plan = make_plan(pairs, order="hard_to_easy", threshold={"hardest": 0.5})
    trainer = run(
        model, tokenizer, pairs, tmp_path / "run", plan, loss_type="sigmoid", hard_loss_type="simpo", simpo_gamma=0.3,
        per_device_train_batch_size=2, max_steps=1, sft_weight=0.5,
    )  # fmt: skip
    rows = plan.epoch_rows(0, 1)[:2].tolist()
    expected = []
    for row in rows:
        item = trainer.train_dataset[row]
        means = [
            plain_logprob(model, item.prompt_ids, ids).item() / len(ids)
            for ids in (item.chosen_ids, item.rejected_ids)
        ]
        logit = torch.tensor(0.2 * (means[0] - means[1]) - 0.3)
        expected.append(-torch.nn.functional.logsigmoid(logit).item())
    assert losses_of(tmp_path / "run")[0] == pytest.approx(0.5 * sum(expected) / 2, rel=1e-5)


def test_kto_estimates_its_kl_from_answers_to_other_prompts(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    precomputed = run(model, tokenizer, pairs, tmp_path / "a", loss_type="kto", max_steps=2)
    live = run(model, tokenizer, pairs, tmp_path / "b", loss_type="kto", max_steps=2, precompute_ref_log_probs=False)
    assert losses_of(tmp_path / "a") == pytest.approx(losses_of(tmp_path / "b"), rel=1e-5)
    other = precomputed.train_dataset.mismatched
    item, source = other[3], precomputed.train_dataset[2]
    assert (item.prompt_ids, item.chosen_ids) == (precomputed.train_dataset[3].prompt_ids, source.chosen_ids)
    expected = plain_logprob(model, item.prompt_ids, item.chosen_ids).item()
    assert other.reference[3, 0] == pytest.approx(expected, abs=1e-4)
    assert live._ref_model is not None


@pytest.mark.parametrize(("easy", "hard"), [("kto", "simpo"), ("simpo", "kto")])
def test_the_kl_is_of_the_pairs_whose_loss_reads_it(model, tokenizer, tmp_path, easy: str, hard: str) -> None:
    """A batch with both routes: the pairs of the loss without a reference have none, and must not spoil the mean."""
    pairs = chat_pairs(tmp_path, n=4)
    plan = make_plan(pairs, order="shuffled", threshold={"hardest": 0.5})
    trainer = run(
        model, tokenizer, pairs, tmp_path / "run", plan, loss_type=easy, hard_loss_type=hard,
        per_device_train_batch_size=4, max_steps=2,
    )  # fmt: skip
    assert np.isfinite(losses_of(tmp_path / "run")).all()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_answers_to_other_prompts_are_of_another_prompt_and_within_the_length_limit(
    model, tokenizer, tmp_path
) -> None:
    pairs = chat_pairs(tmp_path, n=6)
    twice = pairs.select([0, 0, 1, 1, 2, 3])
    args = {"loss_type": "kto", "max_steps": 1, "max_length": 40}
    trainer = run(model, tokenizer, twice, tmp_path / "run", make_plan(twice, "dpo"), **args)
    data, other = trainer.train_dataset, trainer.train_dataset.mismatched
    for row, source in enumerate([5, 5, 1, 1, 3, 4]):
        item, given = other[row], data[source]
        assert data[row].prompt_ids != given.prompt_ids
        assert item.chosen_ids == given.chosen_ids[: 40 - len(item.prompt_ids)]


@pytest.mark.parametrize("name", ["bco", "alpha_dpo", "beta_dpo"])
@pytest.mark.slow
def test_moving_statistics_do_not_depend_on_micro_batches(model, tokenizer, tmp_path, name: str) -> None:
    """Steps of four pairs, cut in one or two micro-batches, move the statistics alike."""
    pairs = chat_pairs(tmp_path, n=16)
    found = []
    for batch, accumulation in ((4, 1), (2, 2)):
        trainer = run(
            model, tokenizer, pairs, tmp_path / f"{batch}", loss_type=name, beta_dpo_keep=1.0, beta_dpo_alpha=0.0,
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        )  # fmt: skip
        running = trainer.loss_state.carried["running"][name]
        found.append((float(running.mean), float(running.deviation)))
    assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-5)
    assert found[0][1] > 1e-3


def test_moving_statistics_start_with_the_first_pairs_of_a_loss(tmp_path) -> None:
    """On the easy-to-hard curriculum a hard route's loss first has pairs late in the run."""
    accelerator, device = Accelerator(cpu=True), torch.device("cpu")
    statistics = RunningStatistics()

    def step(*values: float) -> list[float]:
        nonlocal statistics
        if values:
            statistics.add("bco", torch.tensor(values))
        statistics.end_step(["bco"], accelerator)
        statistics.save(tmp_path)
        statistics = RunningStatistics()  # as a continued run
        statistics.load(tmp_path, device)
        return [float(statistics.current["bco"].mean), float(statistics.current["bco"].deviation)]

    assert step() == [0.0, 1.0]
    assert step(3.0, 5.0) == [4.0, 1.0]
    assert step() == [4.0, 1.0]
    assert step(2.0, 2.0) == pytest.approx([0.9 * 4.0 + 0.1 * 2.0, 0.9])


def test_a_dense_model_has_no_routers_to_balance(model, tokenizer, tmp_path, refused) -> None:
    pairs = chat_pairs(tmp_path, n=4)
    words = ("router_aux_loss_coef", "no mixture of experts")
    refused(lambda: run(model, tokenizer, pairs, tmp_path / "run", router_aux_loss_coef=0.1), *words)
    assert not (tmp_path / "run").exists()
    trainer = run(model, tokenizer, pairs, tmp_path / "run", router_aux_loss_coef=0.0, max_steps=1)
    assert "aux_loss" not in trainer.state.log_history[0]


def test_routers_without_a_loss_stop_the_run(model, tokenizer, tmp_path) -> None:
    model.config.output_router_logits, model.config.router_aux_loss_coef = False, 0.1  # a forward that ignores both
    with pytest.raises(RunError, match="set router_aux_loss_coef to 0"):
        run(model, tokenizer, chat_pairs(tmp_path, n=4), tmp_path / "run", max_steps=1)


def test_routers_are_balanced_on_either_route_and_at_evaluation(tokenizer, tmp_path) -> None:
    mixture = tiny("Mixtral", vocab_size=len(tokenizer), num_local_experts=4, router_aux_loss_coef=0.5)
    pairs = chat_pairs(tmp_path, n=8)
    plan = make_plan(pairs, threshold={"hardest": 0.5})
    trainer = run(mixture, tokenizer, pairs, tmp_path / "run", plan, pairs.select(range(4)), eval_strategy="epoch")
    easy, hard, evaluation, _ = trainer.state.log_history
    for log, loss in ((easy, "loss/preference"), (hard, "loss/sft")):
        assert log["loss"] == pytest.approx(log[loss] + 0.5 * log["aux_loss"], rel=1e-5)
    expected = evaluation["eval_loss/preference"] + 0.5 * evaluation["eval_aux_loss"]
    assert evaluation["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_synced_reference_follows_the_policy(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    trainer = run(
        model, tokenizer, pairs, tmp_path / "run", precompute_ref_log_probs=False, sync_ref_model=True,
        ref_model_sync_steps=2, ref_model_mixup_alpha=1.0,
    )  # fmt: skip
    assert trainer.state.global_step == 2
    for a, b in zip(trainer.model.parameters(), trainer._ref_model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss_type": "simp"}, ("no loss is named 'simp'", "did you mean simpo?")),
        ({"hard_loss_type": "nll"}, ("no loss is named 'nll'",)),
        ({"loss_type": "aot", "per_device_train_batch_size": 1}, ("aot compares the pairs", "2 or more")),
        ({"sync_ref_model": True}, ("live reference", "precompute_ref_log_probs to false")),
        ({"per_device_train_batch_size": 0}, ("per_device_train_batch_size is 0", "at least 1")),
        ({"gradient_accumulation_steps": 0}, ("gradient_accumulation_steps is 0",)),
        ({"max_length": 1}, ("max_length is 1", "at least 2")),
        ({"learning_rate": float("nan")}, ("learning_rate is nan", "at least 0")),
        ({"learning_rate": -1e-6}, ("learning_rate is -1e-06",)),
        ({"num_train_epochs": 0}, ("num_train_epochs is 0", "max_steps")),
        ({"ref_model_mixup_alpha": 0.0}, ("ref_model_mixup_alpha is 0.0", "above 0 and at most 1")),
        ({"ref_model_mixup_alpha": 1.1}, ("ref_model_mixup_alpha is 1.1",)),
        ({"ld_alpha": 1.5}, ("ld_alpha is 1.5",)),
        ({"beta": 0.0}, ("beta is 0.0",)),
        ({"beta": float("inf")}, ("beta is inf", "finite")),
        ({"loss_type": "simpo", "simpo_gamma": float("nan")}, ("simpo_gamma is nan", "finite")),
        ({"f_divergence_type": "js"}, ("f_divergence_type is 'js'", "js_divergence")),
        ({"odpo_offset": "linaer"}, ("odpo_offset is 'linaer'", "linear")),
        ({"loss_type": "rpo", "f_divergence_type": "js_divergence"}, ("rpo has no divergence but", "leave")),
        ({"loss_type": "kto", "ld_alpha": 0.5}, ("ld_alpha", "kto", "leave ld_alpha out")),
        ({"auto_find_batch_size": True}, ("auto_find_batch_size is True", "max_tokens_per_batch")),
    ],
)
def test_settings_that_cannot_be(refused, changes: dict, words: tuple[str, ...]) -> None:
    refused(lambda: MixDPOConfig(**changes), *words)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": "simpo", "hard_loss_type": "sigmoid", "f_divergence_type": "js_divergence"},
        {"max_grad_norm": float("inf")},  # norms are logged, nothing is clipped
    ],
)
def test_settings_that_can_be(changes: dict) -> None:
    config = MixDPOConfig(**changes)
    assert all(getattr(config, name) == value for name, value in changes.items())


def test_losses_of_margins_need_margins(model, tokenizer, tmp_path, refused) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    bare = pairs.remove_columns([name for name in pairs.column_names if "margin" in name or "score" in name])
    for name, plan, evaluate, words in (
        ("odpo", make_plan(bare, "dpo"), None, "the plan has none"),
        ("odpo", make_plan(pairs, "dpo"), bare, "the evaluation data has none"),
        ("soft_routed", make_plan(pairs, "dpo", order="as_is", threshold=None), None, "soft_threshold"),
    ):
        refused(
            lambda n=name, p=plan, e=evaluate: run(
                model, tokenizer, pairs, tmp_path / "run", p, evaluate=e, loss_type=n
            ),
            words,
        )
    assert not (tmp_path / "run").exists()


def test_wpo_and_length_desensitised_sums_against_the_plain_forward(model, tokenizer, tmp_path) -> None:
    """The engine's alignment and head sums, packed and padded, against transformers' logits."""
    from mixdpo.models.engine import PromptGroup, completion_scores, pack_rows, pad_rows, prepare_packing

    groups = [PromptGroup([5, 6, 7], [[8, 9, 10, 11], [12, 13]]), PromptGroup([], [[7, 8, 9], [9]])]
    plain = copy.deepcopy(model)
    expected_alignment, expected_shared = [], []
    for group in groups:
        shortest = min(len(c) - (not group.prompt) for c in group.completions)
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt, *completion]])
            logprobs = plain(ids).logits[0, :-1].log_softmax(-1)
            first = max(len(group.prompt) - 1, 0)
            scored = logprobs[first:].gather(1, ids[0, first + 1 :, None])[:, 0]
            square = logprobs[first:].exp().square().sum(-1).log()
            expected_alignment.append((scored - square).mean())
            expected_shared.append(scored[:shortest].sum())
    assert prepare_packing(model, on_gpu=False) is None
    for scores in (
        completion_scores(model, pack_rows(groups), alignment=True, shared_length=True),
        completion_scores(plain, pad_rows(groups, 0), alignment=True, shared_length=True),
    ):
        known = [0, 1, 2]  # a one-token answer to no prompt scores nothing
        torch.testing.assert_close(scores.alignment[known], torch.stack(expected_alignment)[known], atol=1e-5, rtol=0)
        torch.testing.assert_close(scores.shared_logprob, torch.stack(expected_shared), atol=1e-5, rtol=0)
        assert not scores.alignment.requires_grad


@pytest.mark.slow
def test_smollm2_trains_by_other_losses(smollm2, alpaca_graded, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pairs = score(load_pairs(str(alpaca_graded / "test.parquet"), max_pairs=4))
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    run(
        model, tokenizer, pairs, tmp_path / "run", plan=make_plan(pairs, threshold={"hardest": 0.5}), max_steps=2,
        per_device_train_batch_size=2, learning_rate=1e-6, loss_type="simpo", hard_loss_type="ipo", beta=2.0,
    )  # fmt: skip
    assert len(losses_of(tmp_path / "run")) == 2


@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_smoothing_per_pair_reads_the_plans_labels(model, tokenizer, tmp_path, name: str) -> None:
    """A loss of a smoothing parameter, and one of both sides: certain labels change no bit, uncertain ones do."""
    pairs = chat_pairs(tmp_path, n=8)
    plan = make_plan(pairs, "dpo")

    def weights(folder: str, label: np.ndarray | None, smoothing: float | str = "per_pair") -> dict:
        labelled = replace(plan, label_probability=label)
        changes = {"loss_type": name, "label_smoothing": smoothing, "max_steps": 2}
        return run(model, tokenizer, pairs, tmp_path / folder, labelled, **changes).model.state_dict()

    plain, certain = weights("plain", None, 0.0), weights("certain", np.ones(8))
    uncertain = weights("uncertain", np.full(8, 0.7))
    assert all(torch.equal(plain[key], certain[key]) for key in plain)
    assert any(not torch.equal(plain[key], uncertain[key]) for key in plain)


def test_labels_that_cannot_be_smoothed_are_refused(tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    plan = make_plan(pairs, threshold={"hardest": 0.25})
    with pytest.raises(InputError, match="per_pair, and dpop has no loss for a label that may be wrong"):
        MixDPOConfig(loss_type="dpop", label_smoothing="per_pair", output_dir=str(tmp_path))
    with pytest.raises(InputError, match="a number or per_pair"):
        MixDPOConfig(label_smoothing="per_row", output_dir=str(tmp_path))
    args = MixDPOConfig(loss_type="robust", label_smoothing="per_pair", output_dir=str(tmp_path))
    with pytest.raises(InputError, match="the plan has no label_probability"):
        step_settings(args, plan)
    label = np.where(plan.is_hard, 0.2, 0.8)
    step_settings(args, replace(plan, label_probability=label))  # no hard pair has the robust loss
    easy = int(np.flatnonzero(~plan.is_hard)[1])
    label[easy] = 0.5
    with pytest.raises(InputError, match=r"label_probability is 0.5, and robust .*\(1 such pair\)") as error:
        step_settings(args, replace(plan, label_probability=label))
    assert error.value.row == plan.origins["row"][easy].as_py()


@pytest.mark.parametrize("setting", [{"label_smoothing": "per_pair"}, {"reward_calibration": True}])
def test_settings_of_preference_losses_are_refused_where_no_pair_has_one(setting, tmp_path, refused) -> None:
    plan = make_plan(chat_pairs(tmp_path, n=8), "sft_chosen")
    args = MixDPOConfig(**setting, output_dir=str(tmp_path))
    labelled = replace(plan, label_probability=np.full(8, 0.9))
    refused(lambda: step_settings(args, labelled), f"{next(iter(setting))}", "gives no pair a preference loss")


def test_parameters_that_no_loss_reads_are_named(caplog) -> None:
    MixDPOConfig(loss_type="ipo", label_smoothing=0.1, simpo_gamma=1.0)
    assert "label_smoothing, simpo_gamma has no effect: ipo does not read it" in caplog.text
    caplog.clear()
    MixDPOConfig(loss_type="ipo", label_smoothing="per_pair", hard_loss_type="simpo", simpo_gamma=1.0)
    assert "has no effect" not in caplog.text


def test_a_loss_that_changes_over_the_run_goes_on_where_it_was(model, tokenizer, tmp_path, monkeypatch) -> None:
    """A run that was continued sees the same shares of the run, and ends at the same weights, as one in one piece."""
    original, seen = trainer_module.pair_losses, []

    def recording(*args, progress, **kwargs):
        seen.append(progress)
        return original(*args, progress=progress, **kwargs)

    monkeypatch.setattr(trainer_module, "pair_losses", recording)
    pairs = chat_pairs(tmp_path, n=16)
    settings = {"loss_type": "dpo_shift", "dpo_shift_lambda": 1.0, "dpo_shift_lambda_end": 0.5}
    whole = run(model, tokenizer, pairs, tmp_path / "whole", **settings, save_strategy="steps", save_steps=2)
    assert seen == [0.0, 0.25, 0.5, 0.75]
    seen.clear()
    again = MixDPOTrainer(
        copy.deepcopy(model), args=whole.args, train_dataset=pairs, plan=make_plan(pairs, "dpo"),
        processing_class=tokenizer,
    )  # fmt: skip
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert seen == [0.5, 0.75]
    ends = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_a_floor_under_the_chosen_answers_is_added_to_any_loss(model, tokenizer, tmp_path) -> None:
    """Under a loss that lowers both answers, a floor keeps the chosen ones nearer to the reference."""
    pairs = chat_pairs(tmp_path, n=8)

    def fallen(folder: str, **changes) -> float:
        trainer = run(model, tokenizer, pairs, tmp_path / folder, learning_rate=1e-2, num_train_epochs=4, **changes)
        last = [log for log in trainer.state.log_history if "displacement/chosen" in log][-1]
        return last["displacement/chosen"]

    with pytest.raises(InputError, match="chosen_floor alone trains nothing"):
        fallen("alone", loss_type="chosen_floor")
    bare = fallen("bare", loss_type="apo_down")
    assert bare < 0
    assert fallen("floor", loss_type=["apo_down", "chosen_floor"], loss_weights=[1.0, 10.0]) > bare
