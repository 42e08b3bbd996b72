"""The layouts of preference data that other projects write, and how each becomes pairs: the table `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from datasets import Features, Value

from mixdpo.data.columns import CONVERSATION_NAMES, is_text
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.duels import TURNS, duel_columns, duel_pairs, duel_reads, is_duel, turns_columns, turns_pairs
from mixdpo.data.messages import kind_of
from mixdpo.data.scored_answers import (
    ANSWERS,
    RANK_LISTS,
    SCORE_LISTS,
    is_ranked,
    ranked_columns,
    ranked_pairs,
    ranked_reads,
)
from mixdpo.data.views import Row, View, ViewFault


class PairsOfRow(Protocol):
    """What makes rows of pairs of a row; raises `ViewFault` or `DropPair`."""

    def __call__(self, row: Row, data: DataSettings) -> list[dict[str, Any]]:
        """Return them in the order of the row's answers."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way of keeping preferences.

    Attributes:
        name: of the layout, for reports.
        fits: whether columns are of this layout.
        columns: what the keys of `columns` are in it, as far as the data has these columns.
        reads: the columns that `pairs` reads.
        pairs: from a row and how data is read to rows with the columns `made`; None if `columns` says it all.
        made: types of the columns that `pairs` adds.
        by_rule: whether a row has several answers, of which the rule says which become pairs.
        has_ties: whether neither answer of a row may have won.
        refusal: what to do with data that cannot become pairs.
    """

    name: str
    fits: Callable[[Features], bool]
    columns: Mapping[str, str] = field(default_factory=dict)
    reads: Callable[[Features], tuple[str, ...]] = lambda features: ()
    pairs: PairsOfRow | None = None
    made: Callable[[Features], dict[str, Any]] = lambda features: {}
    by_rule: bool = False
    has_ties: bool = False
    refusal: str | None = None


def find_layout(features: Features) -> Layout | None:
    """Return the layout of data with these columns, None if it is the plain one (prompt, chosen, rejected)."""
    return next((layout for layout in LAYOUTS if layout.fits(features)), None)


def view_layout(layout: Layout, features: Features, data: DataSettings) -> View | None:
    """Return a view of data of a layout in which the pairs are, None if renamed columns are enough."""
    if layout.pairs is None:
        return None
    of_row = layout.pairs
    ties = {"tie": Value("bool")} if layout.has_ties and data.ties == "keep" else {}
    return View(
        name=f"{layout.name} by {data.pair_rule} with seed {data.seed}{' and ties' if ties else ''}",
        features=Features({**features, **layout.made(features), **ties}),
        rows=lambda row: [{**row, **made} for made in of_row(row, data)],
        reads=layout.reads(features),
    )


LISTS: Final = (*ANSWERS, *SCORE_LISTS, *RANK_LISTS, "messages", "rejected_messages", "input")
"""Columns of lists and objects that a table of texts, such as CSV, keeps as JSON or as Python prints them."""


# A conversation and another answer to it


def _replaced_pairs(row: Row, data: DataSettings) -> list[dict[str, Any]]:
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise ViewFault("messages", f"is {kind_of(messages)}, not a list of messages")
    return [{"prompt": messages[:-1], "chosen": messages[-1:], "rejected": row["rejected_response"]}]


def _replaced_columns(features: Features) -> dict[str, Any]:
    return {**dict.fromkeys(("prompt", "chosen"), features["messages"]), "rejected": features["rejected_response"]}


# What fits


def _has(*names: str, not_: Sequence[str] = ()) -> Callable[[Features], bool]:
    return lambda features: set(names) <= set(features) and not set(not_) & set(features)


def _is_alpaca_chat(features: Features) -> bool:
    more = _has("instruction", "chosen", "rejected", not_=("prompt",))(features)
    return more and not features.keys().isdisjoint(("history", "system")) and is_text(features["chosen"])


def _is_sharegpt(features: Features) -> bool:
    there = _has("conversations", "system", "chosen", "rejected", not_=("prompt",))(features)
    return there and isinstance(features["chosen"], dict) and is_text(features["system"])


_PLAIN: Final = ("chosen", "rejected")
_ALPACA: Final = {"prompt": "instruction", "input": "input", "system": "system", "history": "history"}
_SWIFT: Final = {"prompt": "query", "chosen": "response", "rejected": "rejected_response"}
_OPENAI: Final = {"prompt": "input.messages", "tools": "input.tools"}

LAYOUTS: Final = (
    Layout(name="LLaMA-Factory's alpaca", fits=_is_alpaca_chat, columns=_ALPACA),
    Layout(name="LLaMA-Factory's sharegpt", fits=_is_sharegpt, columns={"system": "system"}),
    Layout(
        name="OpenAI's preferences",
        fits=_has("input", "preferred_output", "non_preferred_output"),
        columns={**_OPENAI, "chosen": "preferred_output", "rejected": "non_preferred_output"},
    ),
    Layout(
        name="ms-swift's messages",
        fits=_has("messages", "rejected_messages", not_=_PLAIN),
        columns={"chosen": "messages", "rejected": "rejected_messages"},
    ),
    Layout(
        name="ms-swift's rejected response",
        fits=_has("messages", "rejected_response", not_=_PLAIN),
        reads=lambda features: ("messages", "rejected_response"),
        pairs=_replaced_pairs,
        made=_replaced_columns,
    ),
    Layout(
        name="ms-swift's query and response",
        fits=_has("query", "response", "rejected_response", not_=_PLAIN),
        columns={**_SWIFT, "system": "system", "history": "history"},
    ),
    Layout(
        name="turns as lists and a winner",
        fits=_has(*TURNS, not_=_PLAIN),
        reads=lambda features: (*TURNS, "winner_tie"),
        pairs=turns_pairs,
        made=turns_columns,
        has_ties=True,
    ),
    Layout(
        name="two answers and a winner",
        fits=lambda features: not set(_PLAIN) <= set(features) and is_duel(features),
        reads=duel_reads,
        pairs=duel_pairs,
        made=duel_columns,
        has_ties=True,
    ),
    Layout(
        name="scored answers",
        fits=lambda features: not set(_PLAIN) <= set(features) and is_ranked(features),
        reads=ranked_reads,
        pairs=ranked_pairs,
        made=ranked_columns,
        by_rule=True,
    ),
    Layout(
        name="KTO's single answers",
        fits=lambda features: any(
            _has(answer, label, not_=_PLAIN)(features)
            for answer in ("completion", "response", "answer", "output", *CONVERSATION_NAMES)
            for label in ("label", "kto_tag")
        ),
        refusal="the rows are single answers with a label (KTO), not pairs; join a good and a bad answer to the same "
        "prompt into one row with prompt, chosen and rejected",
    ),
)
"""Layouts that need more than other names of columns; the first that fits is taken."""
