"""The first world: lists of words on given topics, whose taste does not follow how usual a word is.

A prompt names four of 24 topics. An answer is up to six pairs of a word and a connector. Reward: 0.6 for the taste of
the words (by topic and context, the parity of the prompt's first topic), 0.2 for topics covered, 0.1 for right
connectors, 0.1 for an end, less 0.1 for every word or connector that is off topic, repeated or out of place. A writer
of skill u covers topics, tastes and connects the better the larger u is, so that good answers are typical of good
writers. A base that imitates writers of skill 0 to 0.9 is a mixture of them, as language models are.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mixdpo.study.world.language import SPECIAL, ended, finished, framed, written

_TOPICS: Final = {
    "kitchen": "bread salt kettle spoon", "garden": "rose hedge spade bench", "river": "reed ferry trout weir",
    "forest": "fern owl moss trail", "desert": "dune camel cactus mirage", "harbour": "crane anchor gull pier",
    "library": "shelf novel atlas lamp", "school": "chalk desk bell essay", "hospital": "nurse ward splint syringe",
    "theatre": "stage curtain actor script", "stadium": "pitch whistle banner score",
    "factory": "belt gear steam shift", "airport": "runway gate pilot luggage",
    "castle": "moat knight turret banquet", "market": "stall coin melon haggle",
    "temple": "incense monk gong shrine", "island": "palm lagoon coral canoe", "mountain": "peak glacier goat cabin",
    "village": "well barn rooster lane", "bridge": "arch cable toll river-bank", "tower": "clock stair spire raven",
    "museum": "statue vase guide fossil", "prison": "cell guard key wall", "palace": "throne mirror butler ballroom",
}  # fmt: skip
_CONNECTORS: Final = ("and", "with", "near", "above", "behind", "under")
_WORDS_OF_TOPIC: Final = 4
_TOPICS_OF_PROMPT: Final = 4
_MOST_SLOTS: Final = 6
_TASTE_OF_SKILL: Final = 3.0
"""By how much the log-odds of the best word over the worst grow from skill 0 to 1."""


class Words:
    """See the module."""

    name = "words"
    prompt_length = _TOPICS_OF_PROMPT + 2
    answer_length = 2 * _MOST_SLOTS + 1

    def __init__(self) -> None:
        words = [word for of_topic in _TOPICS.values() for word in of_topic.split()]
        self.vocabulary = [*SPECIAL, *_TOPICS, *words, *_CONNECTORS]
        self._first_topic = len(SPECIAL)
        self._first_word = self._first_topic + len(_TOPICS)
        self._first_connector = self._first_word + len(words)
        tables = np.random.default_rng(12345)
        usual = [0.45, 0.27, 0.17, 0.11]
        self._usual_TW = np.stack([tables.permutation(usual) for _ in _TOPICS])
        tastes = [[tables.permutation(_WORDS_OF_TOPIC) / 3 for _ in range(2)] for _ in _TOPICS]
        self._taste_TCW = np.array(tastes)

    def prompts(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Draw four different topics each."""
        topics = np.argsort(random.random((count, len(_TOPICS))), axis=1)[:, :_TOPICS_OF_PROMPT]
        return framed(topics + self._first_topic)

    def write(self, prompts: np.ndarray, skill: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Let writers of a skill in [0, 1] answer."""
        n, care = len(prompts), 0.6 + 0.38 * skill[:, None]
        asked, context = self._read(prompts)
        slots = np.where(random.random(n) < care[:, 0], _TOPICS_OF_PROMPT, random.integers(2, _MOST_SLOTS + 1, n))
        beyond = random.integers(0, len(_TOPICS), (n, _MOST_SLOTS - _TOPICS_OF_PROMPT))
        stray = random.integers(0, len(_TOPICS), (n, _MOST_SLOTS))
        topic = np.where(random.random(stray.shape) < care, np.concatenate([asked, beyond], axis=1), stray)
        taste = self._taste_TCW[topic, context[:, None]]
        weight = self._usual_TW[topic] * np.exp(_TASTE_OF_SKILL * skill[:, None, None] * taste)
        below = (weight / weight.sum(axis=-1, keepdims=True)).cumsum(axis=-1)[..., :-1]
        word = (random.random((*stray.shape, 1)) > below).sum(axis=-1)
        is_right = random.random(stray.shape) < care
        connector = np.where(is_right, topic % len(_CONNECTORS), random.integers(0, len(_CONNECTORS), stray.shape))
        pairs = np.stack(
            [self._first_word + _WORDS_OF_TOPIC * topic + word, self._first_connector + connector], axis=2
        )
        return ended(pairs.reshape(n, -1), 2 * slots)

    def reward(self, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return the true reward."""
        n, rows = len(answers), np.arange(len(answers))
        asked, context = self._read(prompts)
        is_written, has_end = written(answers), finished(answers)
        words, connectors = answers[:, 0:-1:2], answers[:, 1:-1:2]
        has_word, has_connector = is_written[:, 0:-1:2], is_written[:, 1:-1:2]
        is_word = has_word & (words >= self._first_word) & (words < self._first_connector)
        topic, which = np.divmod(np.where(is_word, words - self._first_word, 0), _WORDS_OF_TOPIC)
        taste = self._taste_TCW[topic, context[:, None], which]

        covered, tasted, used = np.zeros(n), np.zeros(n), np.zeros(is_word.shape, bool)
        for k in range(_TOPICS_OF_PROMPT):
            on_topic = is_word & (topic == asked[:, k : k + 1])
            there, first = on_topic.any(axis=1), on_topic.argmax(axis=1)
            covered += there
            tasted += np.where(there, taste[rows, first], 0.0)
            used[rows[there], first[there]] = True
        fits = has_connector & is_word & (connectors - self._first_connector == topic % len(_CONNECTORS))
        connected = fits.sum(axis=1) / np.maximum(has_word.sum(axis=1), _TOPICS_OF_PROMPT)
        off_topic = (is_word & ~used).sum(axis=1)
        misplaced = (has_word & ~is_word).sum(axis=1) + is_written[:, -1]
        misplaced += (has_connector & (connectors < self._first_connector)).sum(axis=1)
        good = (0.6 * tasted + 0.2 * covered) / _TOPICS_OF_PROMPT + 0.1 * connected + 0.1 * has_end
        result: np.ndarray = good - 0.1 * (off_topic + misplaced)
        return result

    def _read(self, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the topics that prompts ask for, shape (N, 4), and their contexts, shape (N,)."""
        asked = prompts[:, 1:-1] - self._first_topic
        return asked, asked[:, 0] % 2
