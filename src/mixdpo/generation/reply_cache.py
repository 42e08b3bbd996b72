"""Finished replies by the content of the request, so that no call is paid for and nothing is computed twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixdpo.common.errors import InputError
from mixdpo.common.files import cache_folder, digest


def request_key(base_url: str, request: dict[str, Any]) -> str:
    """Return the key of a request: a hash of where it goes and of all that is sent, which holds no credentials."""
    return digest([base_url, json.dumps(request, sort_keys=True, ensure_ascii=False)])


@contextmanager
def reply_cache(folder: Path | None = None) -> Iterator[ReplyCache]:
    """Open the cache in `folder` (default: the user's), which several processes may use at once.

    Raises:
        InputError: it cannot be made or opened.
    """
    file = (folder or cache_folder() / "replies") / "replies.sqlite"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
    except (OSError, sqlite3.Error) as error:
        hint = "set MIXDPO_CACHE to a folder that can be written"
        if not file.is_relative_to(cache_folder()):  # but beside an output
            hint = "choose another --output"
        raise InputError(f"the cache cannot be opened ({error})", file=file, hint=hint) from error
    try:
        yield ReplyCache(connection)
    finally:
        connection.close()


class ReplyCache:
    """Replies by key. Every `put` is on disk when it returns, even if the process is then killed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def count(self) -> int:
        """Return how many replies there are."""
        return int(self._connection.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the reply to a request, if it was answered before."""
        row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keep a reply."""
        self.put_all({key: reply})

    def put_all(self, replies: Mapping[str, dict[str, Any]]) -> None:
        """Keep replies, all or none of them."""
        rows = ", ".join(["(?, ?)"] * len(replies))
        values = [text for key, reply in replies.items() for text in (key, json.dumps(reply))]
        self._connection.execute(f"INSERT OR REPLACE INTO replies VALUES {rows}", values)
