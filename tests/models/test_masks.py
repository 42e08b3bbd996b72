"""Untrained tokens of a completion: context for what follows, without log-probability, count or gradient."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixdpo.models.engine import (
    CompletionScores,
    PromptGroup,
    completion_hidden_sums,
    completion_scores,
    pack_rows,
    pad_rows,
    prepare_packing,
)
from mixdpo.models.engine import packed as packed_module
from prompt_groups import gradients, groups_of
from tiny import VOCABULARY, tiny_llama

LAYOUTS = ("packed", "padded")
# An agent's answer: a turn, a tool's result, another turn; one whose end is not trained; one trained throughout.
MASKED = [
    replace(group, masks=masks)
    for group, masks in zip(
        groups_of((4, [9, 7]), (0, [6, 5]), (3, [1, 8])),
        [
            [[True] * 3 + [False] * 4 + [True] * 2, [False] * 2 + [True] * 3 + [False] * 2],
            [[True, False, True, True, False, True], [False, False, True, True, True]],
            [[True], [False, True] * 4],
        ],
        strict=True,
    )
]


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    plain = tiny_llama()
    packed = copy.deepcopy(plain)
    assert prepare_packing(packed, on_gpu=False) is None
    return {"packed": packed, "padded": copy.deepcopy(plain), "plain": plain}


def scores_of(models: dict[str, nn.Module], layout: str, groups: Sequence[PromptGroup]) -> CompletionScores:
    rows = pack_rows(groups) if layout == "packed" else pad_rows(groups, 0)
    return completion_scores(models[layout], rows, alignment=True, shared_length=True)


def trained_logprobs(model: nn.Module, groups: Sequence[PromptGroup]) -> list[list[tuple[Tensor, Tensor]]]:
    """By group and completion of n trained tokens: the logits' log-softmax before each (n, V), and its value (n,)."""
    found = []
    for group in groups:
        found.append([])
        for number, completion in enumerate(group.completions):
            ids = torch.tensor([*group.prompt, *completion])
            mask = [True] * len(completion) if group.masks is None else group.masks[number]
            places = [len(group.prompt) + place for place, trained in enumerate(mask) if trained]
            places = torch.tensor([place for place in places if place], dtype=torch.int64)
            logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)[places - 1]
            found[-1].append((logprobs, logprobs.gather(1, ids[places, None])[:, 0]))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_log_probability_is_that_of_the_trained_tokens(models, layout) -> None:
    scores, expected = scores_of(models, layout, MASKED), trained_logprobs(models["plain"], MASKED)
    flat = [answer for group in expected for answer in group]
    sums = torch.stack([values.sum() for _, values in flat])
    torch.testing.assert_close(scores.logprob, sums, atol=1e-4, rtol=0)
    shared = [values[: min(len(v) for _, v in group)].sum() for group in expected for _, values in group]
    torch.testing.assert_close(scores.shared_logprob, torch.stack(shared), atol=1e-4, rtol=0)
    alignment = [(values - logprobs.exp().square().sum(1).log()).mean() for logprobs, values in flat]
    torch.testing.assert_close(scores.alignment, torch.stack(alignment), atol=1e-4, rtol=0)
    ours, theirs = gradients(models[layout], scores.logprob), gradients(models["plain"], sums)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


SHAPES = st.tuples(st.integers(1, 9), st.lists(st.integers(1, 30), min_size=1, max_size=2))


@settings(max_examples=25, deadline=None)
@given(shapes=st.lists(SHAPES, min_size=1, max_size=4), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_random_masks(models, shapes, seed, share) -> None:
    draw = random.Random(seed)
    groups = [
        replace(group, masks=[[draw.random() < share for _ in completion] for completion in group.completions])
        for group in groups_of(*shapes, seed=seed)
    ]
    expected = torch.stack([v.sum() for group in trained_logprobs(models["plain"], groups) for _, v in group])
    for layout in LAYOUTS:
        torch.testing.assert_close(scores_of(models, layout, groups).logprob, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_of_true_change_no_bit(models, layout) -> None:
    bare = [replace(group, masks=None) for group in MASKED]
    whole = [replace(group, masks=[[True] * len(c) for c in group.completions]) for group in MASKED]
    ours, theirs = (scores_of(models, layout, groups) for groups in (whole, bare))
    for name in ("logprob", "shared_logprob", "alignment"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_untrained_tokens_are_context_of_later_trained_ones_and_nothing_else(models, layout) -> None:
    before = scores_of(models, layout, MASKED).logprob
    number = 0
    for g, group in enumerate(MASKED):
        for c, (completion, mask) in enumerate(zip(group.completions, group.masks, strict=True)):
            last = max(place for place, trained in enumerate(mask) if trained)
            for place in (place for place, trained in enumerate(mask) if not trained):
                changed = copy.deepcopy(MASKED)
                changed[g].completions[c][place] = 3 + (completion[place] + 1) % (VOCABULARY - 3)
                after = scores_of(models, layout, changed).logprob
                same = torch.isclose(after, before, atol=1e-5, rtol=0)
                assert same[torch.arange(len(before)) != number].all()
                assert bool(same[number]) == (place > last)
            number += 1


def test_only_trained_tokens_reach_the_head(models, monkeypatch) -> None:
    reached: list[int] = []
    original = packed_module.target_scores

    def counting(lm_head, forward, hidden, *rest):
        reached.append(len(hidden))
        return original(lm_head, forward, hidden, *rest)

    monkeypatch.setattr(packed_module, "target_scores", counting)
    scores_of(models, "packed", MASKED)
    assert reached == [sum(sum(mask[not group.prompt :]) for group in MASKED for mask in group.masks)]


def test_hidden_states_that_predict_trained_tokens_are_summed(models) -> None:
    expected = []
    for group in MASKED:
        for completion, mask in zip(group.completions, group.masks, strict=True):
            ids = torch.tensor([[*group.prompt, *completion]])
            states = models["plain"].model(input_ids=ids).last_hidden_state[0]
            places = [len(group.prompt) + place - 1 for place, trained in enumerate(mask) if trained]
            expected.append(states[[place for place in places if place >= 0]].sum(0))
    for layout, rows in (("packed", pack_rows(MASKED)), ("padded", pad_rows(MASKED, 0))):
        found = completion_hidden_sums(models[layout], rows)
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-5)
