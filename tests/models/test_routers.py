"""Load balancing of mixtures of experts, against transformers' own forward of the padded concatenated rows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mixdpo.models.engine import (
    PromptGroup,
    completion_hidden_sums,
    completion_scores,
    disable_dropout,
    has_routers,
    pack_rows,
    pad_rows,
    prepare_packing,
    router_coefficient,
)
from prompt_groups import expected_logprobs, groups_of, tiny

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GPT_OSS = {**LOCAL_EXPERTS, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8,
           "max_position_embeddings": 131072}  # fmt: skip
# By name the family, its settings, and whether its attention can be packed.
FAMILIES = {
    "mixtral": ("Mixtral", LOCAL_EXPERTS, True),
    "qwen3-moe": ("Qwen3Moe", EXPERTS, True),
    "qwen2-moe": ("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 16}, True),
    "olmoe": ("Olmoe", EXPERTS, True),
    "granite-moe": ("GraniteMoe", LOCAL_EXPERTS, True),
    "gpt-oss": ("GptOss", GPT_OSS, False),
}
GROUPS = groups_of((5, [7, 3]), (9, [2, 12]), (3, [6]), (1, [1, 4]))


def concatenated(model: nn.Module, groups: list[PromptGroup]) -> Tensor:
    """transformers' loss of its routers for one row per answer, padded, as TRL gives them to the model."""
    rows = [[*group.prompt, *completion] for group in groups for completion in group.completions]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return model(input_ids=ids, attention_mask=mask, output_router_logits=True).aux_loss


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def layouts_of(name: str) -> tuple[nn.Module, dict[str, tuple[nn.Module, dict]]]:
    family, changes, packs = FAMILIES[name]
    plain = tiny(family, **changes)
    layouts = {"padded": (copy.deepcopy(plain), pad_rows(GROUPS, 0))}
    model = copy.deepcopy(plain)
    assert (prepare_packing(model, on_gpu=False) is None) == packs
    if packs:
        layouts["packed"] = model, pack_rows(GROUPS)
    return plain, layouts


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_transformers_own_of_a_row_per_answer(name, checkpointing) -> None:
    plain, layouts = layouts_of(name)
    expected = concatenated(plain, GROUPS)
    values = expected_logprobs(plain, GROUPS)
    true = gradients(plain, 0.3 * expected + values.mean())
    for layout, (model, rows) in layouts.items():
        if checkpointing:
            model.train()
            model.activation_checkpointing_enable()
        scores = completion_scores(model, rows, router_loss=True)
        torch.testing.assert_close(scores.router_loss, expected, atol=1e-5, rtol=1e-5, msg=layout)
        torch.testing.assert_close(scores.logprob, values, atol=1e-4, rtol=1e-5)
        found = gradients(model, 0.3 * scores.router_loss + scores.logprob.mean())
        for parameter, gradient in true.items():
            torch.testing.assert_close(found[parameter], gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_routers_are_left_alone_where_nobody_asks(name) -> None:
    """Also where the config says that every forward computes their loss."""
    _, layouts = layouts_of(name)
    asked = []

    def note(module, args, kwargs) -> None:
        asked.append(kwargs["output_router_logits"])

    for model, rows in layouts.values():
        model.config.output_router_logits = True
        model.register_forward_pre_hook(note, with_kwargs=True)
        assert completion_scores(model, rows).router_loss is None
        completion_hidden_sums(model, rows)
    assert asked == [False] * 2 * len(layouts)


def test_noise_on_what_routers_read_is_off_like_dropout() -> None:
    model = tiny("Mixtral", **LOCAL_EXPERTS, router_jitter_noise=0.5).train()
    rows = pad_rows(GROUPS, 0)
    assert not torch.equal(completion_scores(model, rows).logprob, completion_scores(model, rows).logprob)
    disable_dropout(model)
    assert torch.equal(completion_scores(model, rows).logprob, completion_scores(model, rows).logprob)


def test_which_models_have_routers() -> None:
    mixtral = tiny("Mixtral", **LOCAL_EXPERTS, router_aux_loss_coef=0.02)
    assert has_routers(mixtral)
    assert router_coefficient(mixtral) == 0.02
    dense = tiny("Llama")
    assert not has_routers(dense)
    assert router_coefficient(dense) == 0
    assert completion_scores(dense, pad_rows(GROUPS, 0), router_loss=True).router_loss is None
