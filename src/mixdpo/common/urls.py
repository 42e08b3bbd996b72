"""URLs as messages and results show them: some carry a key in their path, query or user name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_PLAIN_PART: Final = re.compile(r"|api|openai|models|inference|classify|pooling|v\d{1,2}((alpha|beta)\d?)?")
"""Parts of a path that are known to be no secret."""
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # two letters at least: C:/ is a disk


def shown_url(url: str) -> str:
    """Return scheme and host of a URL, and of its path the parts that cannot be a key; others become `...`."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half an IPv6 address
        return "the URL"
    host = parts.netloc.rpartition("@")[2]
    path = ["..." if part in hidden_parts(url) else part for part in parts.path.split("/")]
    return f"{parts.scheme}://{host}{'/'.join(path)}"


def shown_place(place: str | Path) -> str:
    """Return the name of a file as it is, and of what is a URL what `shown_url` shows; a path has one slash of two."""
    found = _SCHEME.match(str(place))
    return str(place) if found is None else shown_url(f"{found[1]}://{str(place)[found.end() :]}")


def hidden_parts(url: str) -> list[str]:
    """Return the parts of a URL's path that may be a key, the longest first."""
    found = {part for part in urlsplit(url).path.split("/") if not _PLAIN_PART.fullmatch(part)}
    return sorted(found, key=len, reverse=True)
