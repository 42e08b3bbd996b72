"""The step against transformers' plain forward: log-probabilities, routes, normalisation, gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixdpo import make_plan
from mixdpo.losses import LossSettings, dpo
from mixdpo.models.engine import pack_rows, prepare_packing
from mixdpo.plan.plan_settings import PLANS
from mixdpo.training.batch import collate_pairs
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.step import StepSettings, pair_logprobs, pair_losses, reduce_losses
from tiny import margin_data, plain_logprob, tiny_llama, token_pairs

SETTINGS = StepSettings(
    loss_names=["sigmoid"],
    loss_weights=[1.0],
    loss_settings=LossSettings(beta=0.3, label_smoothing=0.1),
    sft_weight=0.7,
)


@pytest.fixture(scope="module")
def model():
    model = tiny_llama()
    assert prepare_packing(model, on_gpu=False) is None
    return model


def planned(n: int = 6, sft_target: str = "chosen", **changes) -> PlannedPairs:
    plan = make_plan(margin_data(list(range(n))), **({"threshold": {"hardest": 0.5}} | changes))
    pairs = PlannedPairs(token_pairs(n), plan, sft_target)
    generator = torch.Generator().manual_seed(1)
    pairs.reference[:] = -20 - 5 * torch.rand((n, 2), generator=generator).numpy()
    return pairs


def batch_of(pairs: PlannedPairs, rows) -> dict:
    return collate_pairs([pairs[row] for row in rows], lay_out=pack_rows)


def test_logprobs_equal_the_plain_forward_of_each_answer(model) -> None:
    pairs = planned(threshold=None)
    result = pair_logprobs(model, batch_of(pairs, range(6)))
    for b in range(6):
        item = pairs[b]
        for side in ("chosen", "rejected"):
            expected = plain_logprob(model, item.prompt_ids, getattr(item, f"{side}_ids"))
            torch.testing.assert_close(getattr(result, side)[b], expected, atol=1e-4, rtol=0)


def test_sft_pairs_bring_only_the_answer_they_imitate() -> None:
    pairs = planned()  # rows 0-2 hard: SFT; rows 3-5 easy: preference
    assert [pairs[row].rejected_ids is None for row in range(6)] == [True] * 3 + [False] * 3
    assert len(batch_of(pairs, range(3))["rows"]["layout"].scored) == 3
    assert len(batch_of(pairs, range(6))["rows"]["layout"].scored) == 9
    assert planned(sft_target="rejected")[0].chosen_ids is None


def test_each_pair_gets_the_loss_of_its_route(model) -> None:
    pairs = planned()
    result = pair_losses(model, batch_of(pairs, range(6)), SETTINGS)
    for row in range(6):
        item = pairs[row]
        chosen = plain_logprob(model, item.prompt_ids, item.chosen_ids)
        if row < 3:
            expected = SETTINGS.sft_weight * -chosen / len(item.chosen_ids)
        else:
            rejected = plain_logprob(model, item.prompt_ids, item.rejected_ids)
            h = chosen - item.ref_chosen - rejected + item.ref_rejected
            logsigmoid = torch.nn.functional.logsigmoid
            expected = -0.9 * logsigmoid(0.3 * h) - 0.1 * logsigmoid(-0.3 * h)
        torch.testing.assert_close(result.losses[row], expected, atol=1e-4, rtol=1e-4)
    assert result.sft.isnan().tolist() == [False] * 3 + [True] * 3
    assert result.preference.isnan().tolist() == [True] * 3 + [False] * 3


def test_sft_target_and_the_route_both(model) -> None:
    chosen_and_rejected = {}
    for target in ("chosen", "rejected", "both", "random"):
        pairs = planned(n=8, sft_target=target, easy_route="sft", threshold=None)
        chosen_and_rejected[target] = pair_losses(model, batch_of(pairs, range(8)), SETTINGS).losses
    mean = (chosen_and_rejected["chosen"] + chosen_and_rejected["rejected"]) / 2
    torch.testing.assert_close(chosen_and_rejected["both"], mean)
    coin = chosen_and_rejected["random"]
    from_chosen = torch.isclose(coin, chosen_and_rejected["chosen"])
    assert (from_chosen | torch.isclose(coin, chosen_and_rejected["rejected"])).all()
    assert 0 < from_chosen.sum() < 8

    pairs = planned(easy_route="both", threshold=None)
    batch = batch_of(pairs, range(6))
    both = pair_losses(model, batch, SETTINGS)
    logps = pair_logprobs(model, batch)
    expected = dpo(logps, beta=0.3, label_smoothing=0.1) - 0.7 * logps.chosen / logps.chosen_tokens
    torch.testing.assert_close(both.losses, expected)


@pytest.mark.parametrize("row", [1, 4], ids=["sft", "preference"])
def test_copies_that_fill_up_a_batch_are_computed_only_where_nothing_else_is(model, row) -> None:
    pairs = planned()
    alone, filled, only = (batch_of(pairs, rows) for rows in ([0, row, 5], [0, row, 5, ~row], [~row, ~row]))
    for name in ("input_ids", "source", "target"):
        assert torch.equal(alone["rows"][name], filled["rows"][name])
    assert only["rows"]["input_ids"].shape[1] > 0
    losses = pair_losses(model, filled, SETTINGS).losses
    assert losses[3] == 0
    assert torch.equal(losses[:3], pair_losses(model, alone, SETTINGS).losses)
    reduce_losses(losses, filled["weight"], pairs_in_step=3).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert (pair_losses(model, only, SETTINGS).losses == 0).all()


def test_micro_batches_add_up_to_the_mean_over_the_whole_batch(model) -> None:
    pairs = planned()

    def gradient(micro_batches) -> list[torch.Tensor]:
        model.zero_grad()
        for rows in micro_batches:
            batch = batch_of(pairs, rows)
            losses = pair_losses(model, batch, SETTINGS).losses
            reduce_losses(losses, batch["weight"], pairs_in_step=6).backward()
        return [p.grad.clone() for p in model.parameters()]

    whole = gradient([range(6)])
    assert any(g.abs().max() > 1e-3 for g in whole)
    for cut in ([[0], [1, 2, 3, 4], [5]], [[0, 5], [1, 4], [2, 3]], [[0, 1, 2], [~5, 3, 4], [5, ~5]]):
        for a, b in zip(whole, gradient(cut), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_live_reference_runs_for_compared_pairs_only() -> None:
    pairs = planned()  # rows 0-2: SFT
    items = [pairs[row] for row in range(6)]
    batch = collate_pairs(items, pack_rows, live_reference=True)
    assert len(batch["compared_rows"]["layout"].scored) == 2 * 3
    assert "compared_rows" not in collate_pairs(items[:3], pack_rows, live_reference=True)
    # Where other processes have such pairs and wait, one pair runs for nothing.
    waited_for = collate_pairs(items[:3], pack_rows, live_reference=True, in_step=True)
    assert len(waited_for["compared_rows"]["layout"].groups) == 1


def test_sft_pairs_send_no_gradient_through_missing_sides(model) -> None:
    model.zero_grad()
    pair_losses(model, batch_of(planned(), range(6)), SETTINGS).losses.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_plan_names_reach_the_step() -> None:
    for name in PLANS:
        pairs = planned(**{f: getattr(PLANS[name], f) for f in ("order", "easy_route", "hard_route", "first")})
        batch = batch_of(pairs, range(6))
        assert ((batch["sft_chosen"] > 0) | batch["preference"] | (torch.tensor(pairs.plan.route) == 3)).all(), name


@pytest.mark.parametrize("name", ["beta_dpo", "beta_dpo_paper"])
def test_calibration_measures_the_pairs_that_a_loss_has_drawn(model, name: str) -> None:
    settings = replace(SETTINGS, loss_names=[name], loss_settings=LossSettings(beta=0.01), reward_calibration=True)
    torch.manual_seed(0)
    batch = batch_of(planned(8, threshold=None), range(8))
    result = pair_losses(model, batch, settings, calibration_factor=torch.tensor(2.0))
    drawn = result.losses > 0
    assert drawn.sum() == 6
    assert torch.equal(result.calibration[:2] > 0, drawn.expand(2, -1))
