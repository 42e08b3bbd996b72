"""Which tokens of a conversation are trained: what the assistant says, and nothing that others or the template write.

The turns of an answer are found by rendering it once more with a mark in place of what the assistant says. What
stands between two marks is then what the template, the user and the tools write there. Its text is looked for in the
conversation itself, and what lies between is the assistant's. A turn reaches from behind the generation prompt's
header through its end token. Where the places are not certain, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from mixdpo.data.chat_template import EMPTY_THINKING, OPENED_THINKING, ChatTemplate, Frame, Told
from mixdpo.data.messages import Message
from mixdpo.data.token_ids import Ids, alike, shared_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Where a piece of text, or of a list of tokens, begins and ends."""

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
    told: Told,
) -> list[Span] | None:
    """Return where each assistant message of an answer stands in the rendered conversation, None if it is not certain.

    Args:
        template: the chat template.
        prompt: messages before the answer.
        side: the answer's messages.
        text: the whole conversation as the template renders it.
        told: what the template is told of the conversation.
    """
    frame = template.frame(told)
    if frame is None:
        return None
    mark = "qzmark"
    while mark in text:
        mark += "z"
    calls = any(message.get("tool_calls") for message in side)
    for keeps_calls in (False, True) if calls else (False,):
        marked = [*prompt, *_marked(template, side, mark, keeps_calls, told.tools is not None)]
        try:
            (variant,) = template.texts([marked], told)
        except Exception:  # a template may raise whatever Python can; some want a call before every result
            continue
        spans = _aligned(text, variant, mark, side, frame, keeps_calls)
        if spans is not None:
            return spans
    return _by_beginnings(template, prompt, side, text, told, frame)


def _marked(
    template: ChatTemplate, side: Sequence[Message], mark: str, keeps_calls: bool, with_tools: bool
) -> Iterator[Message]:
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
        content = {"content": message["content"] and words} if "content" in message else {}
        marked = {"role": "assistant", **content, "tool_calls": [_marked_call(call, words) for call in calls]}
        yield template.prepared([marked], with_tools)[0]


def _marked_call(call: Any, words: str) -> Any:
    if isinstance(call.get("function"), dict):
        return {**call, "function": _marked_call(call["function"], words)}
    return {**call, "arguments": {"a": words}}


def _aligned(
    text: str, variant: str, mark: str, side: Sequence[Message], frame: Frame, keeps_calls: bool
) -> list[Span] | None:
    """Find the pieces between the marks of `variant` in `text`; return what lies between them, with the end tokens."""
    pieces: list[str] = []
    headers: list[bool] = []
    before = 0
    for number, message in enumerate(side):
        if message["role"] != "assistant":
            continue
        words = f"{mark}{number}{mark}"
        first = variant.find(words)
        if first < 0:
            return None
        gap = variant[before:first]
        before = variant.rfind(words) + len(words)
        at = gap.rfind(frame.anchor) if frame.anchor else -1
        if at < 0 and keeps_calls and message.get("tool_calls"):
            return None  # nothing parts the beginning of a call from what stands before it
        headers.append(at >= 0)
        # It ends in the header, for an empty think block may follow, and begins at the end token of the turn before,
        # for the rest of a call may stand in front of that. Without a header, a space may belong to words alone.
        gap = gap[: at + len(frame.anchor)] if at >= 0 else gap.rstrip(" ")
        pieces.append(_from_closer(gap, frame) if pieces else gap)
    tail = _from_closer(variant[before:], frame)
    if not text.endswith(tail) or not all(pieces) or (keeps_calls and frame.closer is None):
        return None
    end = len(text) - len(tail)
    starts = _places(pieces, text, end)
    if starts is None:
        return None
    spans = []
    for at, piece, has_header, stop in zip(starts, pieces, headers, [*starts[1:], end], strict=True):
        start = at + len(piece)
        if has_header:
            start += alike(text[start - len(frame.anchor) :], frame.header) - len(frame.anchor)
        closer = frame.closer.match(text, stop) if frame.closer else None
        spans.append((start, closer.end() if closer else stop))
    return spans if all(start <= stop for start, stop in spans) else None


def _from_closer(gap: str, frame: Frame) -> str:
    if frame.closer is None:
        return gap
    found = frame.closer.search(gap)
    return gap[found.start() :] if found else ""


def _by_beginnings(
    template: ChatTemplate,
    prompt: Sequence[Message],
    side: Sequence[Message],
    text: str,
    told: Told,
    frame: Frame,
) -> list[Span] | None:
    """Return the turns where the conversation up to each, with a generation prompt, begins the whole conversation."""
    if frame.closer is None:
        return None
    spans: list[Span] = []
    for number, message in enumerate(side):
        if message["role"] != "assistant":
            continue
        try:
            (before,) = template.texts([[*prompt, *side[:number]]], told, answer_next=True)
        except Exception:  # a template may raise whatever Python can
            return None
        closer = frame.closer.search(text, len(before))
        if not text.startswith(before) or closer is None or (spans and spans[-1][1] > len(before)):
            return None
        spans.append((len(before), closer.end()))
    return spans


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


def empty_thinking(text: str, start: int, frame: Frame | None) -> Iterator[Span]:
    """Yield where empty think blocks stand at the beginning of turns, with the blanks around them; in characters.

    Args:
        text: a conversation.
        start: where the answer begins.
        frame: what the template writes around a turn. Its header may open the block.
    """
    header = OPENED_THINKING.sub("", frame.header).rstrip() if frame is not None else ""
    for block in EMPTY_THINKING.finditer(text, max(0, start - _LONGEST_OPENING)):
        before = text[: block.start()].rstrip()
        if before.endswith(header):
            yield len(before), block.end()


def generated_spans(marked: Sequence[int], start: int) -> list[Span]:
    """Return the runs of ones from `start` on."""
    runs: list[Span] = []
    for i in range(start, len(marked)):
        if marked[i]:
            first = runs.pop()[0] if runs and runs[-1][1] == i else i
            runs.append((first, i + 1))
    return runs


def shared_spans(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """Return what lies in a span of either list."""
    both = [(max(a, c), min(b, d)) for a, b in spans for c, d in others]
    return [(first, last) for first, last in both if first < last]


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

    def tokens_within(self, span: Span) -> Span:
        """Return the tokens of `tokens` that hold nothing of what follows the span."""
        first, last = self.tokens(span)
        return first, max(first, min(last, self._token_at(span[1])))

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
        if end >= len(self.text):
            return len(self.ids)
        claimed = map(self.encoding.char_to_token, range(end - 1, max(end - 1 - _UNCLAIMED, -1), -1))
        last = next((token for token in claimed if token is not None), -1)
        # A character may have several tokens, of which it names the first, and white space may claim none.
        behind = self.encoding.char_to_token(end)
        return last + 1 if behind is None else max(last + 1, behind)


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
