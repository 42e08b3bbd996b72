"""Tokens of a pair for the terminal. A margin names what stands beside it, so that nothing depends on colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from rich.console import Console
from rich.text import Text

from mixdpo.common.tables import one_line
from mixdpo.data.token_view import PairView, Piece, visible

_STYLES: Final = {"prompt": "", "trained": "green", "untrained": "dim", "cut": "red"}
_MARGIN: Final = max(map(len, _STYLES))
_BORDER: Final = " │ "
_LIMITS: Final = {"prompt": "max_prompt_length", "chosen": "max_length", "rejected": "max_length"}


def print_pair(console: Console, pair: PairView) -> None:
    """Print a pair: its row, what was counted of it, and its sides. Only a terminal's width breaks lines."""
    room = console.width - _MARGIN - len(_BORDER) if console.is_terminal else None
    for line in _of_pair(pair, console, room):
        console.print(line, soft_wrap=True)
    console.print()


def _of_pair(pair: PairView, console: Console, room: int | None) -> Iterator[Text]:
    file = "" if pair.file is None else f" of {one_line(pair.file)}"
    found = f": {', '.join(pair.found)}" if pair.found else ""
    yield Text(f"row {pair.row:,}{file}{found}", "bold")
    if pair.is_dropped:
        yield Text("dropped, not trained" + (f": {one_line(pair.refusal)}" if pair.refusal else ""), "red")
    for side, view in pair.sides.items():
        trained = "" if side == "prompt" else f", {view.trained:,} of them trained"
        yield Text(f"{side}, {_tokens(view.tokens)}{trained}", "bold")
        for kind, pieces in groupby(view.pieces, key=lambda piece: piece.kind):
            label: str = kind
            for line in _text(side, pieces).split("\n"):
                for part in [line] if room is None else line.wrap(console, room, overflow="fold"):
                    yield Text.assemble((f"{label:>{_MARGIN}}{_BORDER}", "dim"), part)
                    label = ""


def _text(side: str, pieces: Iterable[Piece]) -> Text:
    text = Text()
    for piece in pieces:
        style = _STYLES[piece.kind]
        if piece.kind == "cut":
            text.append(f"{_tokens(piece.tokens)}, by {_LIMITS[side]}", style)
        else:
            text.append(visible(piece.text), f"bold {style}" if piece.special else style)
    return text


def _tokens(number: int) -> str:
    return f"{number:,} token{'' if number == 1 else 's'}"
