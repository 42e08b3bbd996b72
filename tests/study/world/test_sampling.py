"""Answers are drawn from the policy's own distribution, by the random numbers that are given."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from transformers import LlamaForCausalLM

from mixdpo.study.world.base import answer_logprobs, make_model
from mixdpo.study.world.language import END, PAD, finished
from mixdpo.study.world.sampling import sample
from mixdpo.study.world.words import Words

LANGUAGE = Words()
A = LANGUAGE.answer_length


def policy() -> LlamaForCausalLM:
    """One that writes at random, with clear preferences, and ends early at times."""
    model = make_model(LANGUAGE, seed=3).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    return model


def without_special(logits: Tensor) -> Tensor:
    """Probabilities of the tokens that an answer may have, in float64."""
    logits = logits.double().clone()
    logits[..., :END] = -torch.inf
    return torch.softmax(logits, dim=-1)


def drawn(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    prompts = torch.from_numpy(LANGUAGE.prompts(count, random))
    return prompts, torch.from_numpy(random.random((count, A), dtype=np.float32))


def test_greedy_answers_are_those_of_transformers() -> None:
    model, (prompts, _) = policy(), drawn(200)
    theirs = model.generate(prompts, max_new_tokens=A, do_sample=False, suppress_tokens=[*range(END)])[
        :, prompts.shape[1] :
    ]
    ours, _ = sample(model, prompts, None, A)
    assert torch.equal(ours[:, : theirs.shape[1]], theirs)
    assert (ours[:, theirs.shape[1] :] == PAD).all()


def test_first_tokens_have_the_frequencies_of_the_distribution() -> None:
    model, n = policy(), 20_000
    prompts, uniforms = drawn(n)
    prompts[:] = prompts[:1]
    first = sample(model, prompts, uniforms, 1)[0][:, 0]
    with torch.no_grad():
        expected = without_special(model(prompts[:1]).logits[0, -1]).numpy() * n
    counts = np.bincount(first.numpy(), minlength=len(expected)).astype(float)
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    assert common.sum() > 10
    assert stats.chisquare(observed, wanted * n / wanted.sum()).pvalue > 0.001


def test_later_tokens_are_drawn_given_the_earlier_ones() -> None:
    """Each token is where the distribution function, computed anew over the whole row, passes its uniform number."""
    model, (prompts, uniforms) = policy(), drawn(300)
    answers, entropy = sample(model, prompts, uniforms, A)
    with torch.no_grad():
        logits = model(torch.cat([prompts, answers[:, :-1]], dim=1)).logits[:, prompts.shape[1] - 1 :]
    probabilities = without_special(logits)
    above = probabilities.cumsum(dim=-1).gather(-1, answers[..., None])[..., 0]
    below = above - probabilities.gather(-1, answers[..., None])[..., 0]
    is_token = answers != PAD
    assert finished(answers.numpy()).mean() < 1
    assert (answers[is_token] >= END).all()
    assert (below - 1e-5 <= uniforms)[is_token].all()
    assert (uniforms <= above + 1e-5)[is_token].all()
    of_tokens = torch.special.entr(probabilities).sum(dim=-1) * is_token
    torch.testing.assert_close(entropy.double(), of_tokens.sum(dim=1) / is_token.sum(dim=1), rtol=1e-4, atol=1e-4)


def test_a_prompt_is_answered_the_same_in_any_company() -> None:
    model, (prompts, uniforms) = policy(), drawn(200)
    answers, entropy = sample(model, prompts, uniforms, A)
    assert len({int(count) for count in (answers != PAD).sum(dim=1)}) > 3
    some = torch.tensor([150, 3, 77])
    alone, entropy_alone = sample(model, prompts[some], uniforms[some], A)
    assert torch.equal(alone, answers[some])
    torch.testing.assert_close(entropy_alone, entropy[some])


def test_likely_answers_of_two_policies_share_their_luck() -> None:
    """With common random numbers a small change of the policy changes few answers."""
    model, (prompts, uniforms) = policy(), drawn(400)
    moved = policy()
    with torch.no_grad():
        moved.lm_head.weight.mul_(1.002)
    ours, theirs = (sample(m, prompts, uniforms, A)[0] for m in (model, moved))
    same = (ours == theirs).all(dim=1).float().mean()
    assert 0.6 < same < 1


def test_log_probabilities_of_answers_are_those_of_the_whole_row() -> None:
    model, (prompts, uniforms) = policy(), drawn(50)
    answers, _ = sample(model, prompts, uniforms, A)
    with torch.no_grad():
        found = answer_logprobs(model, prompts, answers)
        every = torch.log_softmax(model(torch.cat([prompts, answers], dim=1)).logits, dim=-1)
    expected = every[:, prompts.shape[1] - 1 : -1].gather(-1, answers[..., None])[..., 0]
    torch.testing.assert_close(found, torch.where(answers == PAD, 0.0, expected), rtol=1e-5, atol=1e-5)
