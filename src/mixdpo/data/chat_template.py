"""A tokenizer's chat template: conversations to text, and what the template itself writes around a turn.

Messages are handed to a template in the form it reads. Tool arguments go in as objects or as JSON text, whichever
it writes as JSON, and thoughts under the key that it knows. Both are found out by asking the template.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.json_text import parse_json
from mixdpo.data.messages import THOUGHTS, Message, without_nulls
from mixdpo.data.template_arguments import template_arguments
from mixdpo.data.token_ids import EndTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ArgumentsForm = Literal["object", "text"]

THINK_TAG: Final = re.compile(r"</?(?:\w+:)?think>|\[/?THINK\]")
OPENED_THINKING: Final = re.compile(r"(?:<(?:\w+:)?think>|\[THINK\])\s*\Z")
EMPTY_THINKING: Final = re.compile(r"<(\w+:)?think>\s*</(\w+:)?think>\s*|\[THINK\]\s*\[/THINK\]\s*")

_GENERATION: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE: Final = "probe"
_PROBE_ARGUMENTS: Final = {_PROBE: _PROBE}
_PROBE_TOOL: Final = {
    "type": "function",
    "function": {"name": "f", "description": "f", "parameters": {"type": "object", "properties": {}}},
}


@dataclass(frozen=True)
class Frame:
    """What a template writes around an assistant's turn.

    Attributes:
        header: what stands between the turn before and the answer, as the generation prompt has it; empty where the
            template writes nothing there.
        anchor: the beginning of the header, by which it is found where a conversation has another rest of it.
        closer: finds the tokens that end a turn; None where the template ends it with no special token.
        next_header: the header of a next answer where it follows the end of every conversation, else empty.
        controls: the special tokens that make a turn, such as those of its beginning and end.
    """

    header: str
    anchor: str
    closer: re.Pattern[str] | None
    next_header: str
    controls: frozenset[str]


@dataclass(frozen=True)
class Told:
    """What a template is told of a conversation beside its messages.

    Attributes:
        tools: the tools of the conversation, None without.
        kwargs: settings of the template for this conversation, on top of those for all.
    """

    tools: Any = None
    kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer with the settings it is told.

    Raises:
        InputError: the tokenizer has no template.
    """

    tokenizer: PreTrainedTokenizerBase
    kwargs: Mapping[str, Any] | None = None
    date: str | None = None
    frames: dict[str, Frame | None] = field(init=False, default_factory=dict)
    probed: dict[bool, tuple[str | None, str | None]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.tokenizer.get_chat_template()
        except ValueError as error:
            raise InputError(
                f"the data holds messages, and the tokenizer {self.tokenizer.name_or_path!r} has no chat template",
                hint="use an instruct model's tokenizer, or set model.chat_template to a template file",
            ) from error
        for name in self.kwargs or ():
            if not re.search(rf"\b{re.escape(name)}\b", self.source):
                logger.warning("the chat template does not read %s, which chat_template_kwargs sets", name)

    @cached_property
    def source(self) -> str:
        """The template's text; of several, the one without tools."""
        return str(self.tokenizer.get_chat_template())

    @cached_property
    def marks_generation(self) -> bool:
        """Whether the template says itself what the assistant generates."""
        return bool(_GENERATION.search(self.source))

    @cached_property
    def ends(self) -> EndTokens:
        """The tokens that may end a turn."""
        return EndTokens(self.tokenizer)

    def texts(
        self,
        conversations: Sequence[Sequence[Message]],
        told: Told,
        answer_next: bool = False,
    ) -> list[str]:
        """Render conversations.

        Args:
            conversations: lists of messages from `prepared`.
            told: what the template is told of them.
            answer_next: end with the generation prompt.

        Raises:
            Exception: whatever the template raises.
        """
        rendered: Any = self.tokenizer.apply_chat_template(
            [list(messages) for messages in conversations],
            tools=told.tools,
            add_generation_prompt=answer_next,
            tokenize=False,
            **self._arguments(told),
        )
        return list(rendered)

    def _arguments(self, told: Told) -> dict[str, Any]:
        kwargs = {**(self.kwargs or {}), **(told.kwargs or {})}
        return template_arguments(self.tokenizer, kwargs, self.date, told.tools)

    def generated(self, messages: Sequence[Message], told: Told) -> list[int]:
        """Return 1 for every token that the template marks as generated by the assistant, else 0."""
        rendered: Any = self.tokenizer.apply_chat_template(
            list(messages),
            tools=told.tools,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
            **self._arguments(told),
        )
        return list(rendered["assistant_masks"])

    def prepared(self, messages: Sequence[Mapping[str, Any]], with_tools: bool = False) -> list[Message]:
        """Return messages without nulls, in the form that the template reads.

        Args:
            messages: of a conversation, or a part of one.
            with_tools: whether the conversation comes with tools, for which there may be another template.
        """
        plain = [without_nulls(message) for message in messages]
        if any("tool_calls" in message for message in plain):
            form = self.arguments_form(with_tools)
            plain = [_with_arguments(message, form) for message in plain] if form is not None else plain
        if self.thought_key is not None:
            plain = [_with_thoughts(message, self.thought_key) for message in plain]
        return plain

    @cached_property
    def thought_key(self) -> str | None:
        """The key of a message that the template reads thoughts from, None if it reads none."""
        named = (key for key in THOUGHTS if re.search(rf"""\.{key}\b|['"]{key}['"]""", self.source))
        return next(named, None)

    def arguments_form(self, with_tools: bool) -> ArgumentsForm | None:
        """How the template wants tool arguments, None where it writes both forms alike, or neither."""
        as_object, as_text = self._probed_calls(with_tools)
        if as_object == as_text:
            return None
        if as_object is None or (as_text is not None and f"'{_PROBE}'" in as_object):
            return "text"  # it adds text to text, or writes an object as Python would
        return "object" if as_object.count(_PROBE) > 1 else "text"

    @cached_property
    def question(self) -> list[Message]:
        """What a plain conversation begins with: the user, behind a system message where the template wants one."""
        question: Message = {"role": "user", "content": "a"}
        try:
            self.texts([[question]], Told())
        except Exception:  # a template may raise whatever Python can
            return [{"role": "system", "content": "a"}, question]
        return [question]

    def writes_calls(self, with_tools: bool) -> bool:
        """Whether the template writes tool calls at all; true where it refuses them, which is told otherwise."""
        probed = self._probed_calls(with_tools)
        return any(text is not None and _PROBE in text for text in probed) or probed == (None, None)

    def _probed_calls(self, with_tools: bool) -> tuple[str | None, str | None]:
        """Render a call with its arguments as an object and as text."""
        if with_tools not in self.probed:
            told = Told([_PROBE_TOOL] if with_tools else None)
            texts = [self._probe_call(form, told) for form in (_PROBE_ARGUMENTS, json.dumps(_PROBE_ARGUMENTS))]
            self.probed[with_tools] = (texts[0], texts[1])
        return self.probed[with_tools]

    def _probe_call(self, arguments: Any, told: Told) -> str | None:
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}
        answer: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
        try:
            return self.texts([[*self.question, answer]], told)[0]
        except Exception:  # a template may raise whatever Python can
            return None

    def frame(self, told: Told) -> Frame | None:
        """Return what the template writes around an assistant's turn, None if it refuses a plain conversation."""
        key = json.dumps(told.kwargs, sort_keys=True)
        if key not in self.frames:
            self.frames[key] = self._frame(Told(kwargs=told.kwargs))
        return self.frames[key]

    def _frame(self, told: Told) -> Frame | None:
        try:
            (alone,) = self.texts([self.question], told)
            (asked,) = self.texts([self.question], told, answer_next=True)
            (answered,) = self.texts([[*self.question, {"role": "assistant", "content": _PROBE}]], told)
        except Exception:  # a template may raise whatever Python can
            return None
        header = asked.removeprefix(alone) if asked.startswith(alone) else ""
        tail = answered.rpartition(_PROBE)[2]
        end = self.ends.pattern.search(tail)
        rest = tail[end.end() :] if end else ""
        next_header = rest if rest.strip() and asked.rstrip().endswith(rest.strip()) else ""
        header = header or next_header
        controls = {token for token in self.ends.pattern.findall(answered) if not THINK_TAG.fullmatch(token)}
        if self.tokenizer.bos_token and self.tokenizer.bos_token in answered:
            controls.add(self.tokenizer.bos_token)
        return Frame(
            header=header,
            anchor=self._anchor(header),
            closer=self.ends.of_turns(end.group()) if end else None,
            next_header=next_header,
            controls=frozenset(controls),
        )

    def _anchor(self, header: str) -> str:
        """Return a header through its first added token; without any, its words. It does not open a think block."""
        start = OPENED_THINKING.sub("", header)
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        ends = [start.index(token) + len(token) for token in added if token in start]
        return start[: min(ends)] if ends else start.rstrip()


def _with_arguments(message: Message, form: ArgumentsForm) -> Message:
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_call_with_arguments(call, form) for call in message["tool_calls"]]}


def _call_with_arguments(call: Any, form: ArgumentsForm) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _call_with_arguments(call["function"], form)}
    arguments = call.get("arguments")
    if form == "text" and isinstance(arguments, (Mapping, list)):
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    if form == "object" and isinstance(arguments, str):
        try:
            return {**call, "arguments": parse_json(arguments)}
        except json.JSONDecodeError:
            return call
    return dict(call)


def _with_thoughts(message: Message, key: str) -> Message:
    other = next((name for name in THOUGHTS if name != key and message.get(name)), None)
    if other is None or message.get(key):
        return message
    return {key if name == other else name: value for name, value in message.items()}
