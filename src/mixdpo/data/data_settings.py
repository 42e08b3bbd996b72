"""What to load, and how many tokens of it: the settings of the data, of its sources and of tokenisation."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, get_args

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges, check_seed

InvalidScores = Literal["error", "drop"]
PairRule = Literal["best_vs_random", "best_vs_worst", "all"]
Contradictions = Literal["keep", "flip", "drop"]
Ties = Literal["drop", "keep"]
INVALID_SCORES: Final[tuple[str, ...]] = get_args(InvalidScores)
PAIR_RULES: Final[tuple[str, ...]] = get_args(PairRule)
CONTRADICTIONS: Final[tuple[str, ...]] = get_args(Contradictions)
TIES: Final[tuple[str, ...]] = get_args(Ties)

LossTurns = Literal["all", "last"]
ASSISTANT_ONLY_HELP: Final = (
    "train only what the assistant says in answers of several turns; false: user and tool turns too, as TRL's DPO does"
)
LOSS_TURNS_HELP: Final = "assistant turns of an answer that are trained: all, or the last"
EMPTY_THINKING_HELP: Final = "leave an empty think block at the start of an answer untrained"
TEMPLATE_KWARGS_HELP: Final = "settings of the chat template, such as {enable_thinking: false}"
TEMPLATE_DATE_HELP: Final = "date (YYYY-MM-DD) that chat templates write which print today's; null: today, recorded"

_TEMPLATES_OWN: Final = ("messages", "tools", "documents", "add_generation_prompt", "tokenize", "strftime_now")
"""What a template is told about the conversation, and `apply_chat_template` about the rendering."""


@dataclass(kw_only=True, frozen=True)
class SourceSettings:
    """One of several sources. What is None is taken from `DataSettings`.

    Raises:
        InputError: a value is out of its range.
    """

    path: str = field(metadata={"help": "file, folder, glob or hub id"})
    weight: float = field(
        default=1.0, metadata={"help": "times each pair is used; 0.5 is a random half, 2 is each pair twice"}
    )
    max_pairs: int | None = field(default=None, metadata={"help": "pairs at most, a random subset"})
    split: str | None = field(default=None, metadata={"help": "split to read, or a slice such as train[:1000]"})
    name: str | None = field(default=None, metadata={"help": "configuration of a hub data set"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a hub data set"})
    columns: dict[str, str] | None = field(
        default=None, metadata={"help": "names of its columns, such as {prompt: instruction}"}
    )

    def __post_init__(self) -> None:
        if isinstance(self.path, Path):
            object.__setattr__(self, "path", str(self.path))
        if not isinstance(self.path, str) or not self.path:
            raise InputError(f"the path of a source must be text, got {self.path!r}")
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)) or not self.weight > 0:
            raise InputError(f"weight must be a number above 0, got {self.weight!r}", file=self.path)
        check_cap(self.max_pairs, self.path)


@dataclass(kw_only=True, frozen=True)
class DataSettings:
    """What pairs to load and how to treat doubtful ones.

    Raises:
        InputError: a value is out of its range.
    """

    path: str | list[Any] = field(
        metadata={
            "help": "file, folder, glob or hub id; or a list of them, each also as "
            "{path, weight, max_pairs, split, name, revision, columns}"
        }
    )
    split: str = field(default="train", metadata={"help": "split to read, or a slice such as train[:1000]"})
    name: str | None = field(default=None, metadata={"help": "configuration of a hub data set"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a hub data set"})
    columns: dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "names of the columns for prompt, chosen, rejected, input, system, history, tools, "
            "chat_template_kwargs, score_chosen, score_rejected, margin, ratings_chosen, ratings_rejected, "
            "label_probability, tie where they differ, such as {prompt: instruction}"
        },
    )
    invalid_scores: InvalidScores = field(
        default="error", metadata={"help": "what a missing, NaN or infinite score does: error, or drop the pair"}
    )
    contradictions: Contradictions = field(
        default="keep", metadata={"help": "pairs whose chosen answer is scored lower: keep, flip or drop"}
    )
    pair_rule: PairRule = field(
        default="best_vs_random",
        metadata={"help": "which of several scored answers become pairs: best_vs_random, best_vs_worst or all"},
    )
    ties: Ties = field(
        default="drop",
        metadata={"help": "two answers of which neither won, as arenas have them: drop, or keep with the column tie"},
    )
    max_pairs: int | None = field(default=None, metadata={"help": "pairs at most of all sources, a random subset"})
    seed: int = field(default=42, metadata={"help": "seed of the random subsets and answers"})

    def __post_init__(self) -> None:
        choices = {
            "invalid_scores": INVALID_SCORES,
            "contradictions": CONTRADICTIONS,
            "pair_rule": PAIR_RULES,
            "ties": TIES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        check_cap(self.max_pairs)
        check_seed(self.seed)

    def sources(self) -> list[SourceSettings]:
        """Return the sources with nothing left to inherit.

        Raises:
            InputError: there are none, or one is neither a path nor a mapping of `SourceSettings`.
        """
        listed = self.path if isinstance(self.path, list) else [self.path]
        if not listed:
            raise InputError("`path` names no data", hint="give a file, folder, glob or hub id")
        shared = {name: getattr(self, name) for name in ("split", "name", "revision", "columns")}
        sources = []
        for item in listed:
            given = _as_source(item)
            own = {f.name: getattr(given, f.name) for f in fields(given)}
            sources.append(SourceSettings(**{**own, **{k: v for k, v in shared.items() if own[k] is None}}))
        return sources


class DataKeywords(TypedDict, total=False):
    """The fields of `DataSettings` but `path` as keywords, for type checkers; a test holds both equal."""

    split: str
    name: str | None
    revision: str | None
    columns: dict[str, str] | None
    invalid_scores: InvalidScores
    contradictions: Contradictions
    pair_rule: PairRule
    ties: Ties
    max_pairs: int | None
    seed: int


@dataclass(kw_only=True, frozen=True)
class TokenSettings:
    """How pairs become tokens: limits of length, which tokens are trained, and what the chat template is told.

    Raises:
        InputError: a limit is below what a pair needs, or the template would be told what is not its own.
    """

    max_length: int | None = field(
        default=1024,
        metadata={"help": "tokens of prompt and completion together, cut on the right; null: no limit", "at_least": 2},
    )
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "tokens of the prompt, cut on the left; null: no limit", "at_least": 1}
    )
    num_proc: int | None = field(
        default=None,
        metadata={"help": "processes that tokenise; null: one per 2,000 pairs, at most one per core", "at_least": 1},
    )
    assistant_only_loss: bool = field(default=True, metadata={"help": ASSISTANT_ONLY_HELP})
    loss_turns: LossTurns = field(default="all", metadata={"help": LOSS_TURNS_HELP})
    mask_empty_thinking: bool = field(default=True, metadata={"help": EMPTY_THINKING_HELP})
    chat_template_kwargs: dict[str, Any] | None = field(default=None, metadata={"help": TEMPLATE_KWARGS_HELP})
    template_date: str | None = field(default=None, metadata={"help": TEMPLATE_DATE_HELP})

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in ("assistant_only_loss", "mask_empty_thinking"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}")
        check_loss_turns(self.loss_turns)
        check_template_kwargs(self.chat_template_kwargs)
        check_template_date(self.template_date)


def check_cap(max_pairs: Any, file: str | None = None) -> None:
    """Raise `InputError` unless `max_pairs` is None or a positive whole number."""
    if max_pairs is not None and (isinstance(max_pairs, bool) or not isinstance(max_pairs, int) or max_pairs < 1):
        raise InputError(f"max_pairs must be a whole number above 0, got {max_pairs!r}", file=file)


def check_loss_turns(value: Any) -> None:
    """Raise `InputError` unless `value` is one of `LossTurns`."""
    if value not in get_args(LossTurns):
        raise InputError(f"loss_turns must be one of {', '.join(get_args(LossTurns))}, got {value!r}")


def check_template_kwargs(value: Any) -> None:
    """Raise `InputError` unless `value` is None or a mapping of settings that are a chat template's own."""
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InputError(f"chat_template_kwargs must be a mapping such as {{enable_thinking: false}}, got {value!r}")
    for name in value:
        if name in _TEMPLATES_OWN:
            raise InputError(f"chat_template_kwargs cannot set {name!r}, which comes from the data or the run")


def check_template_date(value: Any) -> None:
    """Raise `InputError` unless `value` is None or a date such as 2026-01-31."""
    try:
        if value is not None:
            datetime.date.fromisoformat(value)
    except (TypeError, ValueError):
        raise InputError(f"template_date must be a date such as 2026-01-31, got {value!r}") from None


def _as_source(item: Any) -> SourceSettings:
    if isinstance(item, SourceSettings):
        return item
    if not isinstance(item, Mapping):
        return SourceSettings(path=item)
    known = [f.name for f in fields(SourceSettings)]
    for key in item:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
            raise InputError(f"a source has the unknown key {key!r}", file=item.get("path"), hint=hint)
    if "path" not in item:
        raise InputError("a source has no path", hint="write it as {path: ..., weight: ...}")
    return SourceSettings(**item)
