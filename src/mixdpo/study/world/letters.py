"""The second world: long answers, whose good words are the rare ones, and of which there are several good forms.

A prompt names three of twelve themes. An answer has ten to fifteen phrases of a noun, a verb and a mark: 31 to 46
tokens with its end. Reward: 0.6 for the share of nouns that are among a theme's three rare ones, 0.2 for form, 0.1 for
themes that appear three times or more, 0.1 for an end, less 0.03 for each noun off theme or word out of place, up to
ten of them. The form is the best of three: a list (every mark a semicolon), a dialogue (marks question and answer in
turn), or a story (verbs go from past over present to future).

A writer of skill u takes rare nouns with a probability of 0.02 + 0.9 u^4 and keeps to a form with one of 0.25 + 0.7 u;
others write plainly. Nearly all that a base has read is common and plain, so good answers are untypical.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mixdpo.study.world.language import SPECIAL, ended, finished, framed, written

_THEMES: Final = {
    "sea": "boat wave sand halyard sextant thole", "farm": "cow corn fence coulter haulm byre",
    "music": "song drum choir ocarina cadenza fermata", "weather": "rain wind cloud graupel haboob virga",
    "war": "sword army flag halberd ravelin petard", "sewing": "thread cloth pin bobbin selvage thimble",
    "food": "meat soup cake saffron aspic capers", "stars": "moon sun comet perigee umbra parsec",
    "law": "judge court oath tort escrow affidavit", "horses": "mare stable rein martingale withers surcingle",
    "painting": "brush frame colour gesso umber sfumato", "stone": "wall brick rock quoin corbel voussoir",
}  # fmt: skip
"""Three common nouns and three rare ones of each theme."""
_VERBS: Final = (("stood", "fell", "sang"), ("stands", "falls", "sings"), ("will-stand", "will-fall", "will-sing"))
"""Past, present, future."""
_MARKS: Final = (";", "?", "!", ".", ",")
_PLAIN_MARK: Final = 3
_NOUNS: Final = 6
_COMMON: Final = np.array([0.8, 0.15, 0.05])
"""Shares of a theme's common nouns; its rare ones are equally rare."""
_ASKED: Final = 3
_LEAST, _MOST = 10, 15
_PHRASE: Final = 3
_CARE: Final = 0.998
_LIST, _DIALOGUE, _STORY, _PLAIN = range(4)


class Letters:
    """See the module."""

    name = "letters"
    prompt_length = _ASKED + 2
    answer_length = _PHRASE * _MOST + 1

    def __init__(self) -> None:
        nouns = [noun for of_theme in _THEMES.values() for noun in of_theme.split()]
        verbs = [verb for tense in _VERBS for verb in tense]
        self.vocabulary = [*SPECIAL, *_THEMES, *nouns, *verbs, *_MARKS]
        self._first_theme = len(SPECIAL)
        self._first_noun = self._first_theme + len(_THEMES)
        self._first_verb = self._first_noun + len(nouns)
        self._first_mark = self._first_verb + len(verbs)

    def prompts(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Draw three different themes each."""
        themes = np.argsort(random.random((count, len(_THEMES))), axis=1)[:, :_ASKED]
        return framed(themes + self._first_theme)

    def write(self, prompts: np.ndarray, skill: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Let writers of a skill in [0, 1] answer."""
        n, u = len(prompts), skill[:, None]
        shape, place = (n, _MOST), np.arange(_MOST)
        phrases = random.integers(_LEAST, _MOST + 1, n)
        asked = np.take_along_axis(self._asked(prompts), random.integers(0, _ASKED, shape), axis=1)
        theme = np.where(random.random(shape) < _CARE, asked, random.integers(0, len(_THEMES), shape))
        is_rare = random.random(shape) < 0.02 + 0.9 * u**4
        common = (random.random((*shape, 1)) > _COMMON.cumsum()[:-1]).sum(axis=-1)
        noun = np.where(is_rare, _NOUNS // 2 + random.integers(0, _NOUNS // 2, shape), common)

        form = np.where(random.random((n, 1)) < 0.25 + 0.7 * u, random.integers(_LIST, _PLAIN, (n, 1)), _PLAIN)
        of_story = np.minimum(place * 3 // phrases[:, None], 2)
        tense = np.choose(form, [1, 2, of_story, 0])
        in_form = np.choose(form, [0, 1 + place % 2, _PLAIN_MARK, _PLAIN_MARK])
        mark = np.where(random.random(shape) < _CARE, in_form, random.integers(0, len(_MARKS), shape))

        words = np.empty((n, _MOST, _PHRASE), np.int64)
        words[..., 0] = self._first_noun + _NOUNS * theme + noun
        words[..., 1] = self._first_verb + 3 * tense + random.integers(0, 3, shape)
        words[..., 2] = self._first_mark + mark
        return ended(words.reshape(n, -1), _PHRASE * phrases)

    def reward(self, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return the true reward."""
        asked, place = self._asked(prompts), np.arange(_MOST)
        nouns, verbs, marks = (answers[:, k:-1:_PHRASE] for k in range(_PHRASE))
        has_noun, has_verb, has_mark = (written(answers)[:, k:-1:_PHRASE] for k in range(_PHRASE))
        is_noun = has_noun & (nouns >= self._first_noun) & (nouns < self._first_verb)
        is_verb = has_verb & (verbs >= self._first_verb) & (verbs < self._first_mark)
        is_mark = has_mark & (marks >= self._first_mark)
        theme, which = np.divmod(np.where(is_noun, nouns - self._first_noun, 0), _NOUNS)
        of_theme = is_noun[:, :, None] & (theme[:, :, None] == asked[:, None, :])
        on_theme = of_theme.any(axis=2)
        phrases = np.maximum(has_noun.sum(axis=1), _LEAST)  # too short an answer cannot have all
        rare = (on_theme & (which >= _NOUNS // 2)).sum(axis=1) / phrases
        covered = (of_theme.sum(axis=1) >= 3).mean(axis=1)

        tense, mark = (verbs - self._first_verb) // 3, marks - self._first_mark
        of_story = np.minimum(place * 3 // np.maximum(has_noun.sum(axis=1), 1)[:, None], 2)
        forms = [is_mark & (mark == 0), is_mark & (mark == 1 + place % 2), is_verb & (tense == of_story)]
        form = np.max([kept.sum(axis=1) / phrases for kept in forms], axis=0)
        wrong = (has_noun & ~on_theme).sum(axis=1) + (has_verb & ~is_verb).sum(axis=1)
        wrong += (has_mark & ~is_mark).sum(axis=1)
        good: np.ndarray = 0.6 * rare + 0.2 * form + 0.1 * covered + 0.1 * finished(answers)
        return good - 0.03 * np.minimum(wrong, 10)

    def _asked(self, prompts: np.ndarray) -> np.ndarray:
        """Return the themes that prompts ask for; int64, shape (N, 3)."""
        return prompts[:, 1:-1] - self._first_theme
