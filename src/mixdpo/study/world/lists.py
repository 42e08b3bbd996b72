"""The third world: more is better up to a point, so preference training lengthens answers until they end no more.

A prompt names one of sixteen kinds of things. An answer lists things. Reward: 0.06 for each different thing of the
kind, up to twelve of its sixteen, 0.28 for an end, less 0.03 for each thing that is repeated, of another kind, or
beyond the twelfth. A writer of skill u lists two to ten things, the more and the more carefully the larger u is, so
most pairs are won by the longer answer, and hardly any says where to end.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mixdpo.study.world.language import SPECIAL, ended, finished, framed, written

_KINDS: Final = {
    "animals": "dog cat horse cow sheep goat pig rabbit "
    "fox wolf bear deer otter mole hare badger",
    "birds": "robin sparrow crow eagle heron duck goose swan "
    "finch wren owl stork falcon pigeon magpie lark",
    "fruits": "apple pear plum cherry grape lemon peach melon "
    "fig mango banana orange apricot lime quince papaya",
    "vegetables": "carrot leek onion turnip cabbage spinach potato radish "
    "celery pumpkin parsnip lettuce beetroot kale pea bean",
    "trees": "oak ash elm beech birch maple pine spruce "
    "cedar willow poplar larch yew alder hazel hawthorn",
    "fish": "trout salmon cod herring pike carp eel tuna "
    "perch plaice halibut sardine mackerel anchovy haddock tench",
    "tools": "hammer saw chisel drill plane file wrench pliers "
    "axe spade rake level clamp awl vice mallet",
    "clothes": "shirt coat hat scarf glove sock shoe boot "
    "skirt dress jacket belt tie vest trousers jumper",
    "furniture": "table chair bed sofa desk shelf stool wardrobe "
    "bench cupboard drawer cradle bookcase armchair dresser cabinet",
    "instruments": "violin flute drum harp trumpet piano guitar cello "
    "oboe clarinet tuba lute banjo organ trombone bassoon",
    "vehicles": "car bus train tram bicycle lorry van boat "
    "ferry canoe sledge tractor scooter barge yacht taxi",
    "colours": "red green blue yellow black white brown grey "
    "purple pink scarlet violet crimson turquoise beige indigo",
    "countries": "france spain italy norway sweden poland greece egypt "
    "kenya india japan china brazil chile peru canada",
    "jobs": "baker tailor miner farmer nurse judge pilot cook "
    "clerk smith porter plumber printer weaver butcher gardener",
    "metals": "iron copper tin lead gold silver zinc nickel "
    "mercury platinum titanium aluminium cobalt tungsten steel brass",
    "sports": "tennis football rugby cricket hockey golf rowing boxing "
    "judo fencing polo archery squash cycling swimming skiing",
}  # fmt: skip
_THINGS: Final = 16
_WANTED: Final = 12


class Lists:
    """See the module."""

    name = "lists"
    prompt_length = 3
    answer_length = 32

    def __init__(self) -> None:
        self.vocabulary = [*SPECIAL, *_KINDS, *(thing for of_kind in _KINDS.values() for thing in of_kind.split())]
        self._first_kind = len(SPECIAL)
        self._first_thing = self._first_kind + len(_KINDS)

    def prompts(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Draw a kind each."""
        return framed(random.integers(0, len(_KINDS), (count, 1)) + self._first_kind)

    def write(self, prompts: np.ndarray, skill: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Let writers of a skill in [0, 1] answer."""
        n, width, u = len(prompts), self.answer_length - 1, skill[:, None]
        count = np.clip(np.round(2 + 8 * skill + 2 * random.standard_normal(n)), 1, width).astype(np.int64)
        # Things in an order of one's own; who is careless repeats some, or takes those of another kind.
        thing = np.argsort(random.random((n, _THINGS)), axis=1)[:, np.arange(width) % _THINGS]
        is_careless = random.random((n, width)) > 0.75 + 0.22 * u
        thing = np.where(is_careless, random.integers(0, _THINGS, (n, width)), thing)
        is_stray = random.random((n, width)) > 0.88 + 0.11 * u
        kind = np.where(is_stray, random.integers(0, len(_KINDS), (n, width)), self._kind(prompts))
        return ended(self._first_thing + _THINGS * kind + thing, count)

    def reward(self, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return the true reward."""
        is_written, is_thing = written(answers), answers >= self._first_thing
        kind, thing = np.divmod(np.where(is_thing, answers - self._first_thing, 0), _THINGS)
        fits = is_written & is_thing & (kind == self._kind(prompts))
        there = np.zeros((len(answers), _THINGS), bool)
        there[np.nonzero(fits)[0], thing[fits]] = True
        good = np.minimum(there.sum(axis=1), _WANTED)
        result: np.ndarray = 0.06 * good + 0.28 * finished(answers) - 0.03 * (is_written.sum(axis=1) - good)
        return result

    def _kind(self, prompts: np.ndarray) -> np.ndarray:
        """Return the kind that prompts ask for; int64, shape (N, 1)."""
        return prompts[:, 1:2] - self._first_kind
