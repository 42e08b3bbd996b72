"""A tokenised pair as pieces of text, to be read by a person: what is prompt, trained, untrained, cut.

A piece is the decoded text of neighbouring tokens, so that a character made of several tokens is whole. A special
token is a piece by itself and stands there as the tokenizer writes it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Literal

from datasets import Dataset

from mixdpo.common.errors import InputError
from mixdpo.data.arrays import origins
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_ids import Ids, alike
from mixdpo.data.token_report import COUNTS, DROPS
from mixdpo.data.tokenize import counted_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["prompt", "trained", "untrained", "cut"]

SIDES: Final = ("prompt", "chosen", "rejected")
_CONTEXT: Final = 8
"""Tokens in front of a piece that it is decoded with: a tokenizer may write its first word in another way at the start
of a text, and its first character may have begun there."""
_HIDDEN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that a terminal obeys, or that do not show."""
_JOINERS: Final = "\u200c\u200d"
"""Characters of such a category that scripts and emoji are spelled with."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens of one kind.

    Attributes:
        text: what they say; nothing where they were cut.
        kind: which part of the pair they are.
        special: whether it is one special token.
        tokens: how many they are.
    """

    text: str
    kind: Kind
    special: bool
    tokens: int


@dataclass(frozen=True)
class SideView:
    """The prompt of a pair, or one of its answers.

    Attributes:
        pieces: in their order.
        tokens: its tokens, without those that were cut.
        trained: how many of them are trained.
    """

    pieces: list[Piece]
    tokens: int
    trained: int


@dataclass(frozen=True, kw_only=True)
class PairView:
    """A pair to be read.

    Attributes:
        row: of its file, from 1.
        file: where several were read, else None.
        found: what tokenisation counted of it: names of `token_report.COUNTS`.
        refusal: why the chat template refuses it, None if it does not.
        sides: `prompt`, `chosen` and `rejected`; nothing where the pair has no tokens.
    """

    row: int
    file: str | None
    found: list[str]
    refusal: str | None
    sides: dict[str, SideView]

    @property
    def is_dropped(self) -> bool:
        """Whether training leaves it out."""
        return any(name in DROPS for name in self.found)


def pair_views(
    pairs: Dataset, places: Sequence[int], tokenizer: PreTrainedTokenizerBase, settings: TokenSettings
) -> list[PairView]:
    """Tokenise some pairs as training does, and return them to be read.

    Args:
        pairs: from `load_pairs`.
        places: which of them, from 0.
        tokenizer: of the model.
        settings: as training has them. A pair that is dropped for its length alone is shown uncut.

    Raises:
        InputError: as `counted_tokens`.
    """
    some = pairs.select(places)
    without_limits = replace(settings, max_length=None, max_prompt_length=None)
    cut, uncut = (counted_tokens(some, tokenizer, told) for told in (settings, without_limits))
    views = []
    for origin, pair, whole in zip(origins(some).to_pylist(), cut, uncut, strict=True):
        shown = pair if pair["chosen_ids"] else whole
        views.append(
            PairView(
                row=origin["row"],
                file=origin.get("file"),
                found=[name for name in COUNTS if pair[name]],
                refusal=pair["refusal"],
                sides=_sides(shown, whole, tokenizer) if shown["chosen_ids"] else {},
            )
        )
    return views


def places_of(pairs: Dataset, rows: Collection[int]) -> list[int]:
    """Return where in the pairs, from 0, these rows of their files are.

    Raises:
        InputError: one of them holds no pair.
    """
    there = origins(pairs)["row"].to_pylist()
    for row in rows:
        if row not in there:
            raise InputError(
                "no pair was read from it", row=row, hint="rows count from 1, and some hold no pair that can be used"
            )
    return [place for place, row in enumerate(there) if row in rows]


def _sides(
    pair: Mapping[str, Any], uncut: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> dict[str, SideView]:
    """Return the sides of a pair; `uncut` is the same one without limits of length."""
    prompt: Ids = pair["prompt_ids"]
    missing = {side: len(uncut[f"{side}_ids"]) - len(pair[f"{side}_ids"]) for side in SIDES}
    # A prompt is cut behind its first token if that is the BOS.
    stays = int(missing["prompt"] > 0 and prompt[0] == uncut["prompt_ids"][0] == tokenizer.bos_token_id)
    kinds: list[Kind] = ["prompt"] * len(prompt)
    start = _pieces(prompt[:stays], kinds[:stays], tokenizer)
    rest = _pieces(prompt[stays:], kinds[stays:], tokenizer)
    views = {"prompt": SideView([*start, *_cut(missing["prompt"]), *rest], len(prompt), 0)}
    for side in SIDES[1:]:
        ids, mask = pair[f"{side}_ids"], pair[f"{side}_mask"]
        kinds = ["trained" if trained else "untrained" for trained in mask]
        pieces = _pieces(ids, kinds, tokenizer, before=prompt)
        views[side] = SideView([*pieces, *_cut(missing[side])], len(ids), sum(mask))
    return views


def _cut(tokens: int) -> list[Piece]:
    return [Piece("", "cut", special=False, tokens=tokens)] if tokens else []


def _pieces(
    ids: Ids, kinds: Sequence[Kind], tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()
) -> list[Piece]:
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    # A special token is a group by its place, others are one with their neighbours of the same kind.
    places = [place if token in special else None for place, token in enumerate(ids)]
    pieces, at = [], 0
    for (kind, place), group in groupby(zip(kinds, places, strict=True)):
        length = len(list(group))
        if place is None:
            text = _decoded(ids[at : at + length], [*before, *ids[:at]][-_CONTEXT:], tokenizer)
        else:
            text = str(tokenizer.convert_ids_to_tokens(ids[at]))
        pieces.append(Piece(text, kind, special=place is not None, tokens=length))
        at += length
    return pieces


def _decoded(ids: Ids, context: Ids, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what tokens say behind others."""
    before, through = (
        str(tokenizer.decode(part, clean_up_tokenization_spaces=False)) for part in (context, context + ids)
    )
    return through[alike(before, through) :]


def visible(text: str) -> str:
    """Return a text in which every character shows: line breaks as ⏎ (and a break), tabs as ⇥, control characters and
    those that turn the direction of writing as their codes."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character == "\n":
        return "⏎\n"
    if character == "\t":
        return "⇥"
    if character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
