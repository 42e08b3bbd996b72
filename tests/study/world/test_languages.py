"""Each world: rewards are bounded and rise with skill, draws repeat, and text stands for ids one word a token."""

from __future__ import annotations

import numpy as np
import pytest

from mixdpo.study.world.base import make_tokenizer
from mixdpo.study.world.language import ANSWER, BEGIN, END, PAD, Language, finished, lengths, text_of, written
from mixdpo.study.world.worlds import WORLDS

N = 2000
SKILLS = np.linspace(0, 1, 6)


@pytest.fixture(scope="module", params=sorted(WORLDS))
def language(request: pytest.FixtureRequest) -> Language:
    return WORLDS[request.param]()


def drawn(language: Language, skill: float, seed: int = 3, count: int = N) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    prompts = language.prompts(count, random)
    return prompts, language.write(prompts, np.full(count, skill), random)


def test_words_are_single_tokens_of_one_vocabulary(language: Language) -> None:
    assert len(set(language.vocabulary)) == len(language.vocabulary)
    assert not any(len(word.split()) != 1 for word in language.vocabulary)


def test_prompts_and_answers_have_their_shapes(language: Language) -> None:
    prompts, answers = drawn(language, 0.5)
    assert prompts.shape == (N, language.prompt_length)
    assert answers.shape == (N, language.answer_length)
    assert (prompts[:, 0] == BEGIN).all()
    assert (prompts[:, -1] == ANSWER).all()
    assert answers.max() < len(language.vocabulary)
    assert finished(answers).all()
    behind = ~written(answers) & (answers != END)
    assert (answers[behind] == PAD).all()
    assert (answers[written(answers)] > END).all()


def test_what_a_seed_draws_repeats(language: Language) -> None:
    for one, other in zip(drawn(language, 0.4), drawn(language, 0.4), strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(drawn(language, 0.4)[1], drawn(language, 0.4, seed=4)[1])


def test_reward_rises_with_skill(language: Language) -> None:
    means = [language.reward(*drawn(language, skill)).mean() for skill in SKILLS]
    assert (np.diff(means) > 0.01).all()
    assert means[0] < 0.45
    assert means[-1] > 0.8


def test_reward_is_bounded_and_falls_where_answers_are_spoilt(language: Language) -> None:
    prompts, answers = drawn(language, 1.0)
    rewards = language.reward(prompts, answers)
    assert rewards.dtype == np.float64
    assert rewards.max() <= 1
    assert rewards.max() > 0.9

    random = np.random.default_rng(0)
    of_others = language.reward(np.roll(prompts, 1, axis=0), answers)
    any_words = random.integers(END, len(language.vocabulary), answers.shape)
    endless = np.where(answers == PAD, answers[:, :1], np.where(answers == END, answers[:, :1], answers))
    nothing = np.where(np.arange(language.answer_length) == 0, END, np.full_like(answers, PAD))
    for spoilt in (any_words, endless, nothing):
        assert language.reward(prompts, spoilt).mean() < rewards.mean() - 0.2
        assert language.reward(prompts, spoilt).max() <= 1
    assert of_others.mean() < rewards.mean() - 0.2


def test_what_stands_behind_an_end_counts_for_nothing(language: Language) -> None:
    prompts, answers = drawn(language, 0.6)
    noise = np.random.default_rng(1).integers(END + 1, len(language.vocabulary), answers.shape)
    assert np.array_equal(
        language.reward(prompts, np.where(answers == PAD, noise, answers)), language.reward(prompts, answers)
    )


def test_text_and_ids_stand_for_each_other(language: Language) -> None:
    tokenizer = make_tokenizer(language)
    prompts, answers = drawn(language, 0.3, count=20)
    for prompt, answer, count in zip(prompts.tolist(), answers.tolist(), lengths(answers).tolist(), strict=True):
        asked = [{"role": "user", "content": text_of(language, prompt)}]
        answered = [*asked, {"role": "assistant", "content": text_of(language, answer)}]
        ids = tokenizer.apply_chat_template(asked, return_dict=False)
        assert ids == prompt
        assert tokenizer.apply_chat_template(answered, return_dict=False) == prompt + answer[:count]
        assert tokenizer.decode(answer[:count], skip_special_tokens=True) == text_of(language, answer)


def test_letters_have_thirty_to_sixty_tokens() -> None:
    counts = np.concatenate([lengths(drawn(WORLDS["letters"](), skill)[1]) for skill in SKILLS])
    assert counts.min() >= 30
    assert counts.max() <= 60


def test_lists_grow_with_skill_and_never_pass_their_room() -> None:
    means = [lengths(drawn(WORLDS["lists"](), skill)[1]).mean() for skill in SKILLS]
    assert (np.diff(means) > 1).all()
