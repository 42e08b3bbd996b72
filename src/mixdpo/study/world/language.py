"""What a world consists of: prompts, writers of any skill, and the true reward of an answer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Protocol

import numpy as np

PAD, BEGIN, ANSWER, END = range(4)
SPECIAL: Final = ("<pad>", "<begin>", "<answer>", "<end>")
"""The tokens that every vocabulary begins with: ids 0 to 3."""


class Language(Hashable, Protocol):
    """A language of single words with a graded true reward.

    Prompts are int64 arrays (N, prompt_length): `<begin>`, words, `<answer>`. Answers are int64 arrays
    (N, answer_length): words, `<end>`, and `<pad>` behind it; an answer without an end is unfinished.
    """

    @property
    def name(self) -> str:
        """The key of `WORLDS`."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """All words, those of `SPECIAL` first; a word's place is its token id."""

    @property
    def prompt_length(self) -> int:
        """Tokens of every prompt."""

    @property
    def answer_length(self) -> int:
        """Most tokens of an answer, its end included."""

    def prompts(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Draw prompts; int64, shape (count, prompt_length)."""

    def write(self, prompts: np.ndarray, skill: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Let writers of a skill in [0, 1] (float64, shape (N,)) answer; int64, shape (N, answer_length)."""

    def reward(self, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return the true reward, at most 1; float64, shape (N,)."""


def framed(words: np.ndarray) -> np.ndarray:
    """Return prompts of these words, int64, shape (N, W): with the tokens that begin and end them, (N, W + 2)."""
    edge = np.ones((len(words), 1), np.int64)
    return np.concatenate([BEGIN * edge, words, ANSWER * edge], axis=1)


def ended(words: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return answers of the first `count` (int64, shape (N,)) of these words and an end.

    Args:
        words: int64, shape (N, W).
        count: at most W.

    Returns:
        int64, shape (N, W + 1).
    """
    rows = np.arange(len(words))
    answers = np.concatenate([words, np.full((len(words), 1), PAD)], axis=1)
    answers[np.arange(answers.shape[1]) >= count[:, None]] = PAD
    answers[rows, count] = END
    return answers


def finished(answers: np.ndarray) -> np.ndarray:
    """Whether each answer ends; bool, shape (N,)."""
    return (answers == END).any(axis=1)


def written(answers: np.ndarray) -> np.ndarray:
    """Whether a token stands before the answer's end; bool, shape (N, A), all of an unfinished answer."""
    return ~np.logical_or.accumulate(answers == END, axis=1)


def lengths(answers: np.ndarray) -> np.ndarray:
    """Return the tokens of each answer, its end included; int64, shape (N,)."""
    return (answers != PAD).sum(axis=1)


def text_of(language: Language, ids: Sequence[int]) -> str:
    """Return the words of a prompt or an answer, without the tokens that the chat template adds."""
    return " ".join(language.vocabulary[token] for token in ids if token >= len(SPECIAL))
