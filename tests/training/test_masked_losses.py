"""Losses of answers with untrained tokens, and their gradients, against plain logits and formulas written anew."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mixdpo import make_plan
from mixdpo.losses import LossSettings
from mixdpo.models.engine import pack_rows, pad_rows, prepare_packing
from mixdpo.training.batch import RowLayout, collate_pairs
from mixdpo.training.reference import adapters_off, live_reference, reference_rows, reference_values
from mixdpo.training.sampling import PlannedPairs, mismatched_pairs
from mixdpo.training.step import StepSettings, pair_losses
from tiny import margin_data, tiny_llama, token_pairs

N = 6
BETA = 0.3
LAYOUTS: dict[str, RowLayout] = {"packed": pack_rows, "padded": partial(pad_rows, pad_token_id=0)}
DEFAULTS = StepSettings(
    loss_names=["sigmoid"], loss_weights=[1.0], sft_weight=0.7, loss_settings=LossSettings(beta=BETA, simpo_gamma=0.2)
)


def of_trained(model: nn.Module, prompt: list[int], ids: list[int], mask: list[bool]) -> tuple[Tensor, Tensor]:
    """By trained token its log-probability and log sum_v pi(v)^2 before it, from transformers' logits; both (n,)."""
    logits = model(input_ids=torch.tensor([prompt + ids])).logits[0].float()
    places = torch.tensor([len(prompt) + place for place, trained in enumerate(mask) if trained])
    logprobs = logits[places - 1].log_softmax(-1)
    targets = torch.tensor(prompt + ids)[places]
    return logprobs.gather(1, targets[:, None])[:, 0], logprobs.exp().square().sum(1).log()


def by_hand(model: nn.Module, reference: nn.Module, pair: dict, kind: str) -> Tensor:
    """The loss of one pair, 0-d, by its publication's equation over the trained tokens."""
    answers = [(pair["prompt_ids"], pair[f"{side}_ids"], pair[f"{side}_mask"]) for side in ("chosen", "rejected")]
    (w, w_squares), (r, r_squares) = (of_trained(model, *answer) for answer in answers)
    with torch.no_grad():
        ref_w, ref_r = (of_trained(reference, *answer)[0] for answer in answers)
    if kind == "ipo":
        return ((w - ref_w).mean() - (r - ref_r).mean() - 1 / (2 * BETA)) ** 2
    if kind == "simpo":
        return -logsigmoid(BETA * (w.mean() - r.mean()) - 0.2)
    if kind == "orpo":
        odds_w, odds_r = (mean - torch.log1p(-mean.exp()) for mean in (w.mean(), r.mean()))
        return -w.mean() - BETA * logsigmoid(odds_w - odds_r)
    if kind == "sft":
        return 0.7 * -w.mean()
    if kind == "ld_alpha":
        shared = min(len(w), len(r))
        w, ref_w, r, ref_r = (x[:shared].sum() + 0.4 * x[shared:].sum() for x in (w, ref_w, r, ref_r))
    loss = -logsigmoid(BETA * ((w - ref_w).sum() - (r - ref_r).sum()))
    if kind == "wpo":
        loss = loss * torch.exp((w - w_squares).mean() + (r - r_squares).mean()).detach()
    return loss


SETTINGS = {
    "sigmoid": DEFAULTS,
    "ipo": replace(DEFAULTS, loss_names=["ipo"]),
    "simpo": replace(DEFAULTS, loss_names=["simpo"]),
    "orpo": replace(DEFAULTS, loss_names=["orpo"]),
    "sft": DEFAULTS,
    "ld_alpha": replace(DEFAULTS, ld_alpha=0.4),
    "wpo": replace(DEFAULTS, use_weighting=True),
}


def policy(adapters: bool) -> nn.Module:
    """A policy that differs from its reference, `tiny_llama()`: other weights, or adapters that are not zero."""
    if not adapters:
        return tiny_llama(seed=1)
    torch.manual_seed(2)
    return get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("live", [False, True], ids=["cached", "live"])
@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", SETTINGS)
def test_losses_and_gradients_are_those_of_the_trained_tokens(kind, layout, adapters, live) -> None:
    tokens = token_pairs(N, masked=True)
    plan = make_plan(margin_data(list(range(N))), "dpo", easy_route="sft" if kind == "sft" else "preference")
    pairs, settings, lay_out = PlannedPairs(tokens, plan), SETTINGS[kind], LAYOUTS[layout]
    plain, reference = policy(adapters), tiny_llama()
    model = copy.deepcopy(plain)
    ours = model if adapters else copy.deepcopy(reference)  # what the reference's log-probabilities are computed by
    for one in {model, ours} if layout == "packed" else ():
        assert prepare_packing(one, on_gpu=False) is None
    rows = reference_rows(pairs)
    if not live and len(rows):
        with adapters_off(ours):
            pairs.reference[rows] = reference_values(
                ours, pairs, rows, lay_out=lay_out, device=torch.device("cpu"), ld_alpha=settings.ld_alpha
            )
    batch = collate_pairs([pairs[row] for row in range(N)], lay_out, live_reference=live)
    if live:
        batch = live_reference(ours, batch, settings.ld_alpha)
    losses = pair_losses(model, batch, settings).losses
    expected = torch.stack([by_hand(plain, reference, tokens[i], kind) for i in range(N)])
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)
    found, true = gradients(model, losses.mean()), gradients(plain, expected.mean())
    assert found.keys() == true.keys()
    for name, gradient in true.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


def test_lengths_of_a_batch_are_those_of_the_trained_tokens() -> None:
    tokens = token_pairs(N, masked=True)
    pairs = PlannedPairs(tokens, make_plan(margin_data(list(range(N))), "dpo"))
    batch = collate_pairs([pairs[row] for row in range(N)], pack_rows)
    for side in ("chosen", "rejected"):
        assert batch[f"{side}_tokens"].tolist() == [sum(mask) for mask in tokens[f"{side}_mask"]]
    bare = [replace(pairs[row], chosen_mask=None, rejected_mask=None) for row in range(N)]
    assert collate_pairs(bare, pack_rows)["chosen_tokens"].tolist() == [len(ids) for ids in tokens["chosen_ids"]]


def test_answers_to_other_prompts_bring_their_masks_and_keep_a_trained_token_when_cut() -> None:
    columns = {
        "row": [0, 1, 2], "pair_id": ["a", "b", "c"], "prompt_ids": [[3, 4, 5], [6], [7, 8]],
        "chosen_ids": [[11, 12, 13, 14], [21, 22, 23], [31]],
        "chosen_mask": [[True, False, False, True], [False, False, True], [True]],
        "rejected_ids": [[41], [51, 52], [61, 62, 63, 64, 65]],
        "rejected_mask": [[True], [False, True], [False, False, False, True, True]],
    }  # fmt: skip
    pairs = PlannedPairs(Dataset.from_dict(columns), make_plan(margin_data([1.0, 2.0, 3.0]), "dpo"))
    whole = mismatched_pairs(pairs, None)
    for name in ("chosen_ids", "chosen_mask", "rejected_ids", "rejected_mask"):
        assert whole.tokens[name][:] == [columns[name][i] for i in (2, 0, 1)]
    cut = mismatched_pairs(pairs, 4)
    assert cut[0].rejected_ids == [64], "one token fits, and the first three are not trained"
    assert cut[1].chosen_ids == [11, 12, 13]
    assert cut[1].chosen_mask == [True, False, False]
    assert cut[2].chosen_ids == [23]
    assert cut[2].chosen_mask == [True]
    assert all(any(mask) for side in ("chosen", "rejected") for mask in cut.tokens[f"{side}_mask"])
