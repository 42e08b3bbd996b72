"""Token ids of prompts and of whole conversations, exactly as the tokenizer itself makes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateError

from mixdpo.common.errors import InputError
from mixdpo.data.messages import without_nulls

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]


@dataclass
class Rendered:
    """Ids of one pair: the prompt alone, and the prompt with either completion; how many answers got an EOS."""

    prompt: Ids
    chosen: Ids
    rejected: Ids
    eos_appended: int = 0


def shared_length(first: Ids, *others: Ids) -> int:
    """Return the length of the longest common beginning."""
    if all(ids[: len(first)] == first for ids in others):
        return len(first)
    columns = zip(first, *others, strict=False)
    return next(i for i, column in enumerate([*columns, None]) if column is None or len(set(column)) > 1)


class Renderer(Protocol):
    """Turns pairs of one kind into ids. A pair that cannot be rendered gives the reason as text."""

    def __call__(
        self, prompts: Sequence[Any], chosen: Sequence[Any], rejected: Sequence[Any], tools: Sequence[str | None]
    ) -> list[Rendered | str]:
        """Render a batch; all sequences have one element per pair."""


@dataclass(frozen=True)
class TextRenderer:
    """Plain text: the tokenizer's own special tokens, one BOS at most, and one EOS at the end."""

    tokenizer: PreTrainedTokenizerBase
    adds_eos: bool = field(init=False)

    def __post_init__(self) -> None:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise InputError(
                f"the tokenizer {self.tokenizer.name_or_path!r} has no EOS token, so no answer would end",
                hint="set the tokenizer's eos_token",
            )
        object.__setattr__(self, "adds_eos", self.tokenizer("a")["input_ids"][-1] == eos)

    def __call__(
        self, prompts: Sequence[Any], chosen: Sequence[Any], rejected: Sequence[Any], tools: Sequence[str | None]
    ) -> list[Rendered | str]:
        """Render a batch of texts; `tools` are not used."""
        alone = self._encode(prompts)
        if self.adds_eos:
            alone = [ids[:-1] for ids in alone]
        whole = [
            [self._ended(ids) for ids in self._encode([p + c for p, c in zip(prompts, side, strict=True)])]
            for side in (chosen, rejected)
        ]
        return [Rendered(p, c, r) for p, c, r in zip(alone, *whole, strict=True)]

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        bos = self.tokenizer.bos_token_id
        encoded: list[Ids] = self.tokenizer(list(texts), verbose=False)["input_ids"]
        # A text that writes the BOS itself gets a second one from the tokenizer.
        return [ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids for ids in encoded]

    def _ended(self, ids: Ids) -> Ids:
        eos = self.tokenizer.eos_token_id
        while ids[-2:] == [eos, eos]:
            ids = ids[:-1]
        return ids if ids[-1:] == [eos] else [*ids, eos]


@dataclass(frozen=True)
class ChatRenderer:
    """Conversations: the ids of the chat template, and an EOS where it closes an answer with no special token."""

    tokenizer: PreTrainedTokenizerBase
    closers: frozenset[int] = field(init=False)
    blanks: dict[int, bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.tokenizer.get_chat_template()
        except ValueError as error:
            raise InputError(
                f"the data holds messages, and the tokenizer {self.tokenizer.name_or_path!r} has no chat template",
                hint="use an instruct model's tokenizer, or set model.chat_template to a template file",
            ) from error
        special = set(self.tokenizer.all_special_ids)
        special |= {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        special -= {self.tokenizer.unk_token_id, self.tokenizer.bos_token_id}
        if self.tokenizer.eos_token_id is not None:
            special.add(self.tokenizer.eos_token_id)
        object.__setattr__(self, "closers", frozenset(special))

    def __call__(
        self, prompts: Sequence[Any], chosen: Sequence[Any], rejected: Sequence[Any], tools: Sequence[str | None]
    ) -> list[Rendered | str]:
        """Render a batch of message lists; pairs with the same tools are rendered together."""
        result: list[Rendered | str] = [""] * len(prompts)
        triples = [[without_nulls(side[i]) for side in (prompts, chosen, rejected)] for i in range(len(prompts))]
        for kind in dict.fromkeys(tools):
            members = [i for i, of_pair in enumerate(tools) if of_pair == kind]
            parsed = json.loads(kind) if kind else None
            try:
                rendered = self._render([triples[i] for i in members], parsed)
            except TemplateError:
                rendered = [self._render_alone(triples[i], parsed) for i in members]
            for i, pair in zip(members, rendered, strict=True):
                result[i] = pair
        return result

    def _render(self, triples: Sequence[Any], tools: Any) -> list[Rendered | str]:
        alone = self._encode([prompt for prompt, _, _ in triples], tools, answer_next=True)
        chosen = self._encode([prompt + side for prompt, side, _ in triples], tools)
        rejected = self._encode([prompt + side for prompt, _, side in triples], tools)
        return [self._closed(*sides) for sides in zip(alone, chosen, rejected, strict=True)]

    def _render_alone(self, triple: Any, tools: Any) -> Rendered | str:
        try:
            return self._render([triple], tools)[0]
        except TemplateError as error:
            return str(error) or type(error).__name__

    def _encode(self, conversations: list[Any], tools: Any, answer_next: bool = False) -> list[Ids]:
        ids: Any = self.tokenizer.apply_chat_template(
            conversations,
            tools=tools,
            add_generation_prompt=answer_next,
            tokenize=True,
            return_dict=False,
            tokenizer_kwargs={"verbose": False},
        )
        return list(ids)

    def _closed(self, prompt: Ids, chosen: Ids, rejected: Ids) -> Rendered:
        eos = self.tokenizer.eos_token_id
        pair = Rendered(prompt, chosen, rejected)
        # Only the answer counts: the end of the turn before it must not stand in for its own.
        start = shared_length(prompt, chosen, rejected)
        for side in ("chosen", "rejected"):
            ids = getattr(pair, side)
            if len(ids) == start or self._is_closed(ids[start:]):
                continue
            if eos is None:
                raise InputError(
                    "the chat template closes an answer with no special token, and the tokenizer has no EOS token",
                    hint="set the tokenizer's eos_token",
                )
            setattr(pair, side, [*ids, eos])
            pair.eos_appended += 1
        return pair

    def _is_closed(self, answer: Ids) -> bool:
        # After the answer's end token many templates write a line break.
        return next((token in self.closers for token in reversed(answer) if not self._is_blank(token)), False)

    def _is_blank(self, token: int) -> bool:
        if token not in self.blanks:
            self.blanks[token] = token not in self.closers and not str(self.tokenizer.decode([token])).strip()
        return self.blanks[token]
