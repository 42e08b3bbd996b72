"""A few pairs as tokens for the page, long ones without their middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from datasets import Dataset

from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_view import Piece, SideView, pair_views, visible

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIDE_CHARACTERS: Final = 3000
PIECES: Final = 40
"""Of a side, at most; a page stays small whatever the texts are."""


def token_examples(
    pairs: Dataset, places: Sequence[int], tokenizer: PreTrainedTokenizerBase, settings: TokenSettings
) -> list[dict[str, Any]]:
    """Return pairs as plain values, for the page.

    Args:
        pairs: from `load_pairs`.
        places: which of them, from 0.
        tokenizer: of the model.
        settings: as training has them.
    """
    return [
        {
            "row": pair.row if pair.file is None else f"{pair.row} of {pair.file}",
            "found": pair.found,
            "is_dropped": pair.is_dropped,
            "refusal": pair.refusal,
            "sides": {name: _side(view) for name, view in pair.sides.items()},
        }
        for pair in pair_views(pairs, places, tokenizer, settings)
    ]


def _side(view: SideView) -> dict[str, Any]:
    pieces = view.pieces
    if len(pieces) > PIECES:
        left_out = Piece(" … ", "prompt", special=False, tokens=0)
        pieces = [*pieces[: PIECES // 2], left_out, *pieces[-PIECES // 2 :]]
    most = SIDE_CHARACTERS // max(1, len(pieces))
    shown = [{**asdict(piece), "text": visible(_clipped(piece.text, most))} for piece in pieces]
    return {"tokens": view.tokens, "trained": view.trained, "pieces": shown}


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
