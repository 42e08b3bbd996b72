"""What a chat template is told beside the conversation: its own settings, and the date it may write."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PinnedDate:
    """Stands in for `strftime_now` of chat templates, so that all of a run's prompts are of one day.

    Attributes:
        date: the day, such as 2026-01-31.
    """

    date: str

    def __call__(self, form: str) -> str:
        """Return the date in a form of `strftime`, at midnight."""
        return datetime.datetime.fromisoformat(self.date).strftime(form)


def today() -> str:
    """Return today's date, such as 2026-01-31."""
    return datetime.date.today().isoformat()


def template_arguments(kwargs: Mapping[str, Any] | None = None, date: str | None = None) -> dict[str, Any]:
    """Return the keyword arguments of `apply_chat_template` for a template's settings and the date it may write.

    Args:
        kwargs: the template's own settings, such as ``{"enable_thinking": False}``.
        date: such as 2026-01-31; None: today.
    """
    # transformers offers templates a clock under this name, which what it is told stands in front of.
    return {**(kwargs or {}), "strftime_now": PinnedDate(date or today())}
