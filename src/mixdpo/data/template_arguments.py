"""What a chat template is told beside the conversation: its own settings, and the date it may write."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLOCK: Final = "strftime_now"
"""What transformers lets templates call for the date."""

_CLOCK_CALL: Final = re.compile(CLOCK + r"""\(\s*(?:format\s*=\s*)?(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")


def today() -> str:
    """Return today's date, such as 2026-01-31."""
    return datetime.date.today().isoformat()


def pinned(template: str, date: str | None = None) -> str:
    """Return a chat template that writes one date wherever it would write today's.

    transformers hands templates nothing that can be called, so the dates are written into the text.

    Args:
        template: the template's text.
        date: such as 2026-01-31; None: today.
    """
    day = datetime.datetime.fromisoformat(date or today())
    return _CLOCK_CALL.sub(lambda call: json.dumps(day.strftime(call["form"])), template)


def template_arguments(
    tokenizer: PreTrainedTokenizerBase,
    kwargs: Mapping[str, Any] | None = None,
    date: str | None = None,
    tools: Any = None,
) -> dict[str, Any]:
    """Return the keyword arguments of `apply_chat_template` for a template's settings and the date it may write.

    Args:
        tokenizer: with a chat template.
        kwargs: the template's own settings, such as ``{"enable_thinking": False}``.
        date: such as 2026-01-31; None: today.
        tools: of the conversation; some tokenizers have another template for conversations with tools.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    source = tokenizer.get_chat_template(tools=tools)
    return {**(kwargs or {}), **({"chat_template": pinned(source, date)} if CLOCK in source else {})}
