"""Token ids of prompts and of whole conversations, exactly as the tokenizer itself makes them, and what is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mixdpo.common.errors import InputError
from mixdpo.data.chat_template import ChatTemplate, Frame, Told
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.left_out import left_out
from mixdpo.data.loss_masks import (
    PrefixTokens,
    RenderedText,
    Span,
    assistant_spans,
    empty_thinking,
    generated_spans,
    is_one_answer,
    shared_spans,
    without,
)
from mixdpo.data.messages import THOUGHTS, Message
from mixdpo.data.token_ids import ENDS_OF_TURN, EndTokens, Ids, alike, shared_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = Mapping[str, Sequence[Any]]


@dataclass
class Rendered:
    """Ids of one pair: the prompt alone, and the prompt with either completion.

    Attributes:
        prompt: ids of the prompt with its generation prompt.
        chosen: ids of the prompt with the chosen completion.
        rejected: ids of the prompt with the rejected completion.
        trained: by `chosen` and `rejected`, the spans of these ids that are trained; without, all of the completion.
        counts: what happened, by its name in `token_report.COUNTS`.
    """

    prompt: Ids
    chosen: Ids
    rejected: Ids
    trained: dict[str, list[Span]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Renderer(Protocol):
    """Turns pairs of one kind into ids. A pair that cannot be rendered gives the reason as text."""

    @property
    def ends(self) -> EndTokens:
        """The tokens that may end an answer."""

    def __call__(self, batch: Batch) -> list[Rendered | str]:
        """Render a batch of pairs with the columns `prompt`, `chosen` and `rejected`, and perhaps others."""


@dataclass(frozen=True)
class TextRenderer:
    """Plain text: the tokenizer's own special tokens, one BOS at most, and one end token at the end."""

    tokenizer: PreTrainedTokenizerBase
    ends: EndTokens = field(init=False)
    end_ids: frozenset[int] = field(init=False)
    adds_bos: bool = field(init=False)
    adds_eos: bool = field(init=False)

    def __post_init__(self) -> None:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise InputError(
                f"the tokenizer {self.tokenizer.name_or_path!r} has no EOS token, so no answer would end",
                hint="set the tokenizer's eos_token",
            )
        ids = self.tokenizer("a")["input_ids"]
        object.__setattr__(self, "ends", EndTokens(self.tokenizer))
        known = {token: self.tokenizer.get_vocab().get(token) for token in ENDS_OF_TURN}
        object.__setattr__(self, "end_ids", frozenset({eos, *known.values()} - {None}))
        object.__setattr__(self, "adds_bos", ids[0] == self.tokenizer.bos_token_id)
        object.__setattr__(self, "adds_eos", ids[-1] == eos)

    def __call__(self, batch: Batch) -> list[Rendered | str]:
        """Render a batch of texts."""
        prompts = batch["prompt"]
        alone = self._encode(prompts)
        chosen, rejected = (
            self._encode([p + c for p, c in zip(prompts, batch[side], strict=True)]) for side in ("chosen", "rejected")
        )
        return [self._pair(*sides) for sides in zip(alone, chosen, rejected, strict=True)]

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        bos = self.tokenizer.bos_token_id
        encoded: list[Ids] = self.tokenizer(list(texts), verbose=False)["input_ids"]
        # A text that writes the BOS itself gets a second one from the tokenizer.
        encoded = [ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids for ids in encoded]
        return [ids[:-1] for ids in encoded] if self.adds_eos else encoded

    def _pair(self, prompt: Ids, chosen: Ids, rejected: Ids) -> Rendered:
        start = shared_length(prompt, chosen, rejected)
        pair = Rendered(prompt, self._ended(chosen, start), self._ended(rejected, start))
        answers = [ids[start:] for ids in (chosen, rejected)]
        # Where a tokenizer puts no BOS in front of a text, templates may begin every turn with it.
        inside = self.adds_bos and any(self.tokenizer.bos_token_id in answer for answer in answers)
        ended = [answer for answer in answers if answer and answer[-1] in self.end_ids]
        twice = any(self.ends.close(answer[:-1], self.end_ids) for answer in ended)
        pair.counts = {"bos_in_answer": int(inside), "second_end": int(twice)}
        return pair

    def _ended(self, ids: Ids, start: int) -> Ids:
        eos = self.tokenizer.eos_token_id
        while ids[-2:] == [eos, eos]:
            ids = ids[:-1]
        return ids if self.ends.close(ids[start:], self.end_ids) else [*ids, eos]


@dataclass(frozen=True)
class ChatRenderer:
    """Conversations: the ids of the chat template, and an EOS where it closes an answer with no special token."""

    tokenizer: PreTrainedTokenizerBase
    settings: TokenSettings = field(default_factory=TokenSettings)
    template: ChatTemplate = field(init=False)

    def __post_init__(self) -> None:
        kwargs, date = self.settings.chat_template_kwargs, self.settings.template_date
        object.__setattr__(self, "template", ChatTemplate(self.tokenizer, kwargs, date))

    @property
    def ends(self) -> EndTokens:
        """The tokens that may end an answer."""
        return self.template.ends

    def __call__(self, batch: Batch) -> list[Rendered | str]:
        """Render a batch of message lists; pairs with the same tools and settings are rendered together."""
        count = len(batch["prompt"])
        none = [None] * count
        kinds = list(zip(batch.get("tools") or none, batch.get("chat_template_kwargs") or none, strict=True))
        sides = [
            [
                self.template.prepared(side, tools is not None)
                for side, (tools, _) in zip(batch[name], kinds, strict=True)
            ]
            for name in ("prompt", "chosen", "rejected")
        ]
        triples = list(zip(*sides, strict=True))
        result: list[Rendered | str] = [""] * count
        for kind in dict.fromkeys(kinds):
            members = [i for i, of_pair in enumerate(kinds) if of_pair == kind]
            told = Told(*(json.loads(text) if text else None for text in kind))
            for i, pair in zip(members, self._render([triples[i] for i in members], told), strict=True):
                result[i] = pair
        return result

    def _render(self, triples: Sequence[Sequence[list[Message]]], told: Told) -> list[Rendered | str]:
        try:
            texts = [
                *self.template.texts([prompt for prompt, _, _ in triples], told, answer_next=True),
                *self.template.texts([prompt + side for prompt, side, _ in triples], told),
                *self.template.texts([prompt + side for prompt, _, side in triples], told),
            ]
        except Exception as error:  # a template may raise whatever Python can
            if len(triples) > 1:
                return [self._render([triple], told)[0] for triple in triples]
            return [" ".join(str(error).split()) or type(error).__name__]
        encoded: Any = self.tokenizer(texts, add_special_tokens=False, verbose=False)
        encodings = encoded.encodings or [None] * len(texts)
        rendered = [
            RenderedText(text, ids, encoding or PrefixTokens(self.tokenizer, text, ids))
            for text, ids, encoding in zip(texts, encoded["input_ids"], encodings, strict=True)
        ]
        n = len(triples)
        thirds = zip(triples, rendered[:n], rendered[n : 2 * n], rendered[2 * n :], strict=True)
        return [self._pair(triple, alone, sides, told) for triple, alone, *sides in thirds]

    def _pair(
        self,
        triple: Sequence[list[Message]],
        alone: RenderedText,
        sides: Sequence[RenderedText],
        told: Told,
    ) -> Rendered:
        prompt, *answers = triple
        frame = self.template.frame(told)
        pair = Rendered(alone.ids, sides[0].ids, sides[1].ids)
        # Only the answer counts: the end of the turn before it must not stand in for its own.
        start = shared_length(alone.ids, *(side.ids for side in sides))
        lacking = set(left_out(prompt + answers[0], len(prompt), sides[0].text))
        lacking |= set(left_out(answers[1], 0, sides[1].text))
        lacking |= set(self._never_written(triple, told.tools is not None))
        pair.counts = dict.fromkeys(lacking, 1)
        if frame is not None:
            words = (message.get("content") or "" for side in triple for message in side)
            pair.counts["special_in_text"] = int(any(control in text for text in words for control in frame.controls))
        pair.counts["second_end"] = int(any(self._ends_twice(answer) for answer in answers))
        pair.counts["next_header"] = int(frame is not None and bool(frame.next_header))
        if self.settings.assistant_only_loss:
            several = not all(map(is_one_answer, answers))
            for name, answer, side in zip(("chosen", "rejected"), answers, sides, strict=True):
                spans = [(0, len(side.ids))]
                if several or start < len(alone.ids):
                    turns = self._turns(prompt, answer, side, start, told)
                    if several and turns is None:
                        pair.counts["turns_unclear"] = 1
                        return pair
                    # Of a single answer all is trained, but for what of the prompt the template writes otherwise.
                    spans = turns or spans if several else [((turns or spans)[0][0], len(side.ids))]
                self._mask(pair, name, side, alone, spans, frame)
            pair.counts["untrained_turns"] = int(several)
        for name, side in zip(("chosen", "rejected"), sides, strict=True):
            self._close(pair, name, start, _answer_end(side, frame))
        return pair

    def _never_written(self, triple: Sequence[list[Message]], with_tools: bool) -> Iterator[str]:
        """Yield the counts of what the template never writes, for the same words may stand elsewhere."""
        calls = any(message.get("tool_calls") for side in triple for message in side)
        if calls and not self.template.writes_calls(with_tools):
            yield "lost_tool_calls"
        if self.template.thought_key is None and any(side[-1].get(key) for side in triple[1:] for key in THOUGHTS):
            yield "lost_thinking"

    def _turns(
        self, prompt: list[Message], answer: list[Message], side: RenderedText, start: int, told: Told
    ) -> list[Span] | None:
        """Return the spans of tokens of the assistant's turns of an answer, None if they are not certain."""
        in_text = assistant_spans(self.template, prompt, answer, side.text, told)
        turns = [[side.tokens(span)] for span in in_text or ()]
        if self.template.marks_generation:
            generated = generated_spans(self.template.generated(prompt + answer, told), start)
            # Of a turn, the template's own word goes, but for its last token, which is the end.
            said = [(shared_spans([(first, last - 1)], generated), (last - 1, last)) for ((first, last),) in turns]
            turns = [[*spans, end] for spans, end in said if spans] or [[run] for run in generated]
        if not turns:
            return None
        return [span for turn in (turns if self.settings.loss_turns == "all" else turns[-1:]) for span in turn]

    def _mask(
        self,
        pair: Rendered,
        name: str,
        side: RenderedText,
        alone: RenderedText,
        trained: list[Span],
        frame: Frame | None,
    ) -> None:
        """Set the trained spans of a side, less what the template adds to it, where they are not the whole answer."""
        trained = without(trained, (_answer_end(side, frame), len(side.ids)))
        if self.settings.mask_empty_thinking:
            start = alike(alone.text, side.text)
            for block in empty_thinking(side.text, start, frame):
                # The blanks of the block and the first word of the answer may be one token, which is the answer's.
                trained = without(trained, side.tokens_within(block))
                pair.counts["empty_thinking"] = pair.counts.get("empty_thinking", 0) + 1
        if trained != [(0, len(side.ids))]:
            pair.trained[name] = trained

    def _close(self, pair: Rendered, name: str, start: int, end: int) -> None:
        """Add an EOS to an answer, from token `start` to `end`, that the template closes with no special token."""
        ids, eos = getattr(pair, name), self.tokenizer.eos_token_id
        if len(ids) == start or self.ends.close(ids[start:end]):
            return
        if eos is None:
            raise InputError(
                "the chat template closes an answer with no special token, and the tokenizer has no EOS token",
                hint="set the tokenizer's eos_token",
            )
        setattr(pair, name, [*ids, eos])
        if name in pair.trained:
            *before, (first, _) = pair.trained[name]
            pair.trained[name] = [*before, (first, len(ids) + 1)]
        pair.counts["eos_appended"] = pair.counts.get("eos_appended", 0) + 1

    def _ends_twice(self, answer: list[Message]) -> bool:
        return (answer[-1].get("content") or "").rstrip().endswith(self.ends.texts)


def _answer_end(side: RenderedText, frame: Frame | None) -> int:
    """Return how many tokens come before the header of a next answer, which some templates always write."""
    if frame is None or not frame.next_header:
        return len(side.ids)
    return side.tokens((len(side.text) - len(frame.next_header), len(side.text)))[0]
