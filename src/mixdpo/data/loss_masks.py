"""Which tokens of a conversation are trained: what the assistant says, and nothing that others or the template write.

The turns of an answer are found by rendering it once more with a mark in place of what the assistant says. What
stands between two marks is then what the template, the user and the tools write there. Its text is looked for in the
conversation itself, and what lies between is the assistant's. A turn reaches from behind the generation prompt's
header through its end token. Where the places are not certain, nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from mixdpo.data.chat_template import ChatTemplate, Frame
from mixdpo.data.messages import Message
from mixdpo.data.token_ids import Ids, alike, shared_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Where a piece of text, or of a list of tokens, begins and ends."""

_EMPTY_THINKING: Final = re.compile(r"<think>\s*</think>\s*|\[THINK\]\s*\[/THINK\]\s*|<seed:think>\s*</seed:think>\s*")
_OPENED: Final = re.compile(r"(?:<think>|\[THINK\]|<seed:think>)\s*\Z")
_LONGEST_OPENING: Final = 32
"""Characters in which an opened think block at the end of a prompt is looked for."""

_UNCLAIMED: Final = 256
"""So many characters of white space may stand beside each other that belong to no token."""


class CharToToken(Protocol):
    """Tells which token of a text holds a character; an `Encoding` of the library tokenizers is one."""

    def char_to_token(self, char_pos: int) -> int | None:
        """Return the token's number, None for a character that none claims, such as white space cut off a token."""


def is_one_answer(side: Sequence[Message]) -> bool:
    """Whether an answer is one message of the assistant, so that all of it is trained."""
    return len(side) == 1 and side[0]["role"] == "assistant"


def assistant_spans(
    template: ChatTemplate,
    prompt: Sequence[Message],
    side: Sequence[Message],
    text: str,
    tools: Any,
    own: Any,
) -> list[Span] | None:
    """Return where each assistant message of an answer stands in the rendered conversation, None if it is not certain.

    Args:
        template: the chat template.
        prompt: messages before the answer.
        side: the answer's messages.
        text: the whole conversation as the template renders it.
        tools: as the conversation's.
        own: template settings of this conversation.
    """
    frame = template.frame(own)
    if frame is None:
        return None
    mark = "qzmark"
    while mark in text:
        mark += "z"
    calls = any(message.get("tool_calls") for message in side)
    for keeps_calls in (False, True) if calls else (False,):
        numbered = list(_marked(template, side, mark, keeps_calls))
        try:
            (variant,) = template.texts([[*prompt, *numbered]], tools, own)
        except Exception:  # a template may raise whatever Python can; some want a call before every result
            continue
        spans = _aligned(text, variant, mark, side, frame, template.ends.pattern, keeps_calls)
        if spans is not None:
            return spans
    return None


def _marked(template: ChatTemplate, side: Sequence[Message], mark: str, keeps_calls: bool) -> Iterator[Message]:
    """Yield the messages, those of the assistant with a mark for their words, thoughts and arguments."""
    for number, message in enumerate(side):
        if message["role"] != "assistant":
            yield message
            continue
        words = f"{mark}{number}{mark}"
        calls = message.get("tool_calls")
        if not (calls and keeps_calls):
            yield {"role": "assistant", "content": words}
            continue
        content = {"content": words if message["content"] else message["content"]} if "content" in message else {}
        marked = [_marked_call(call, words) for call in calls]
        yield template.prepared([{"role": "assistant", **content, "tool_calls": marked}])[0]


def _marked_call(call: Any, words: str) -> Any:
    if isinstance(call.get("function"), dict):
        return {**call, "function": _marked_call(call["function"], words)}
    return {**call, "arguments": {"a": words}}


def _aligned(
    text: str,
    variant: str,
    mark: str,
    side: Sequence[Message],
    frame: Frame,
    closing: re.Pattern[str],
    keeps_calls: bool,
) -> list[Span] | None:
    """Find the pieces between the marks of `variant` in `text`; return what lies between them, with the end tokens."""
    if keeps_calls and not frame.closes:
        return None  # nothing says where the arguments of a call end
    found: list[Span] = []
    for number, message in enumerate(side):
        if message["role"] == "assistant":
            words = f"{mark}{number}{mark}"
            first = variant.find(words)
            if first < 0:
                return None
            found.append((first, variant.rfind(words) + len(words)))
    pieces: list[str | None] = []
    before = 0
    for first, last in found:
        pieces.append(_between(variant[before:first], frame, closing, is_first=not pieces))
        before = last
    tail = variant[before:]
    if any(piece is None for piece in pieces):
        return None
    end = len(text) - len(_from_closer(tail, frame, closing))
    if not text.endswith(tail if not frame.closes else _from_closer(tail, frame, closing)):
        return None
    starts = _places([piece for piece in pieces if piece is not None], text, end)
    if starts is None:
        return None
    spans = []
    for i, (at, piece) in enumerate(zip(starts, pieces, strict=True)):
        assert piece is not None
        start = at + len(piece)
        if frame.header:
            header_at = start - len(_anchor(frame.header, closing))
            start = header_at + alike(text[header_at:], frame.header)
        stop = starts[i + 1] if i + 1 < len(starts) else end
        closer = closing.match(text, stop) if frame.closes else None
        spans.append((start, closer.end() if closer else stop))
    return spans if all(start <= stop for start, stop in spans) else None


def _between(gap: str, frame: Frame, closing: re.Pattern[str], is_first: bool) -> str | None:
    """Return what of the text between two marks must stand in the conversation too, None if the turns touch.

    It begins at the end token of the turn before, for what is left of a call stands in front of it, and ends in the
    header of the turn, for an empty think block may follow.
    """
    if frame.header:
        anchor = _anchor(frame.header, closing)
        at = gap.rfind(anchor)
        if at < 0:
            return None
        gap = gap[: at + len(anchor)]
    if is_first:
        return gap
    return _from_closer(gap, frame, closing) or None


def _from_closer(gap: str, frame: Frame, closing: re.Pattern[str]) -> str:
    if not frame.closes:
        return gap
    found = closing.search(gap)
    return gap[found.start() :] if found else ""


def _anchor(header: str, closing: re.Pattern[str]) -> str:
    """Return the beginning of a header through its first special token; without any, the words."""
    found = closing.search(header)
    return header[: found.end()] if found else header.rstrip()


def _places(pieces: Sequence[str], text: str, end: int) -> list[int] | None:
    """Return where the pieces stand, in their order and the first at the start, None if there is another way."""
    if not text.startswith(pieces[0]):
        return None
    forward, position = [0], len(pieces[0])
    for piece in pieces[1:]:
        at = text.find(piece, position, end)
        if at < 0:
            return None
        forward.append(at)
        position = at + len(piece)
    backward: list[int] = []
    for piece in reversed(pieces[1:]):
        at = text.rfind(piece, 0, end)
        backward.append(at)
        end = at
    return forward if [0, *reversed(backward)] == forward else None


def empty_thinking(text: str, start: int, header: str) -> Iterator[Span]:
    """Yield where empty think blocks stand at the beginning of turns, the first at `start`; in characters.

    Args:
        text: a conversation.
        start: where the answer begins.
        header: what the template writes in front of an answer; it may open the block.
    """
    header = _OPENED.sub("", header)
    for block in _EMPTY_THINKING.finditer(text, max(0, start - _LONGEST_OPENING)):
        if text.endswith(header, 0, block.start()):
            yield block.span()


def generated_spans(marked: Sequence[int], start: int) -> list[Span]:
    """Return the runs of ones from `start` on."""
    runs: list[Span] = []
    for i in range(start, len(marked)):
        if marked[i]:
            first = runs.pop()[0] if runs and runs[-1][1] == i else i
            runs.append((first, i + 1))
    return runs


def without(spans: Sequence[Span], cut: Span) -> list[Span]:
    """Return what is left of spans when one is cut out."""
    pieces = [piece for first, last in spans for piece in ((first, min(last, cut[0])), (max(first, cut[1]), last))]
    return [(first, last) for first, last in pieces if first < last]


@dataclass(frozen=True)
class RenderedText:
    """A conversation as the template writes it, with its tokens.

    Attributes:
        text: the text.
        ids: its token ids.
        encoding: tells which token holds a character.
    """

    text: str
    ids: Ids
    encoding: CharToToken

    def tokens(self, span: Span) -> Span:
        """Return the tokens that hold characters of a span; those that straddle its borders are among them."""
        start, end = span
        return (self._token_at(start), self._token_before(end)) if start < end else (0, 0)

    def _token_at(self, start: int) -> int:
        """Return the first token that ends behind `start`."""
        if start > 0 and self.encoding.char_to_token(start) is None:
            before = self.encoding.char_to_token(start - 1)
            if before is not None:
                return before + 1  # a token of white space, which claims no character
        claimed = map(self.encoding.char_to_token, range(start, min(start + _UNCLAIMED, len(self.text))))
        return next((token for token in claimed if token is not None), len(self.ids))

    def _token_before(self, end: int) -> int:
        """Return the number of tokens that begin in front of `end`."""
        if self.encoding.char_to_token(end - 1) is None and end < len(self.text):
            behind = self.encoding.char_to_token(end)
            if behind is not None:
                return behind
        claimed = map(self.encoding.char_to_token, range(end - 1, max(end - 1 - _UNCLAIMED, -1), -1))
        return next((token + 1 for token in claimed if token is not None), 0)


@dataclass(frozen=True)
class PrefixTokens:
    """Stands in for an `Encoding` where a tokenizer does not say which token holds a character.

    Attributes:
        tokenizer: a slow tokenizer.
        text: the text.
        ids: its tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    text: str
    ids: Sequence[int]

    def char_to_token(self, char_pos: int) -> int | None:
        """Return the first token that the text in front of the character does not have too."""
        before = self.tokenizer(self.text[:char_pos], add_special_tokens=False, verbose=False)["input_ids"]
        return shared_length(before, self.ids)
