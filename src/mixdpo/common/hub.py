"""The Hugging Face hub: one short try whether it can be reached, and one line that says why it gives nothing.

The clients try again and again, each in its own words, before they look into their cache. What they raise at last
tells little, so the hub itself is asked what is wrong.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.urls import shown_url

Kind = Literal["model", "dataset", "space"]

_ASKED_AGAIN_AFTER: Final = 60
"""Seconds for which the hub counts as reached or not; an outage may end while a notebook is open."""
_PLACES: Final = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_IN_WORDS: Final = {"model": "model", "dataset": "data set", "space": "space"}
_UNKNOWN_TOKEN, _BUSY, _BROKEN = 401, 429, 500
_LATER: Final = "try again later, or name what is on this machine"
_log = logging.getLogger(__name__)


@contextmanager
def from_hub(name: str, what: str = "model", *, kind: Kind = "model", revision: str | None = None) -> Iterator[None]:
    """Let a client load, in the block, what may be a hub id.

    Where the hub cannot be reached, the clients read their cache and make no request.

    Args:
        name: a path, of which nothing is said here, or a hub id.
        what: is loaded, in the words of an error.
        kind: of the repository.
        revision: branch, tag or commit; None is the main branch.

    Raises:
        InputError: the block failed and the hub is the reason: it was not reached, shows no such repository or
            revision, wants its terms accepted first, or is out of order. Any other exception of the block is left.
    """
    if Path(name).expanduser().exists():
        yield
        return
    unreached = why_unreached()
    try:
        with _cache_only(unreached is not None):
            yield
    except InputError:
        raise
    except Exception as error:  # each client has its own
        refusal = _refusal(name, what, kind, revision, unreached)
        if refusal is None:
            raise
        raise refusal from error
    if unreached is not None and not _is_offline():
        _log.info("the %s %s is read from the cache: the hub %s", what, name, unreached)


def why_unreached() -> str | None:
    """Say where the hub is and why it cannot be reached, None if it can."""
    return _unreached(int(time.monotonic() // _ASKED_AGAIN_AFTER), _is_offline())


def hub_address() -> str:
    """Return the URL of the hub that the clients ask, without what may be a password."""
    from huggingface_hub import constants

    return shown_url(constants.ENDPOINT)


@contextmanager
def cache_only_if_unreached() -> Iterator[str | None]:
    """Keep the clients from asking, in the block, a hub that cannot be reached; yield why it cannot."""
    unreached = why_unreached()
    with _cache_only(unreached is not None):
        yield unreached


@lru_cache(maxsize=1)
def _unreached(_minute: int, offline: bool) -> str | None:
    if offline:
        return "is not asked, as HF_HUB_OFFLINE is set"
    from huggingface_hub import constants, get_session

    try:
        # Any answer will do: mirrors have no page of their own.
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # each of the HTTP libraries has its own
        return f"{hub_address()} was not reached ({str(error).strip() or type(error).__name__})"
    return None


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def _cache_only(wanted: bool) -> Iterator[None]:
    """Let the clients do in the block what HF_HUB_OFFLINE would have made them do; they read it when imported."""
    from huggingface_hub import constants

    settings: list[Any] = [constants]
    if "datasets" in sys.modules:
        settings.append(sys.modules["datasets"].config)
    before = [one.HF_HUB_OFFLINE for one in settings]
    for one in settings if wanted else ():
        one.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for one, value in zip(settings, before, strict=True):
            one.HF_HUB_OFFLINE = value


def _refusal(name: str, what: str, kind: Kind, revision: str | None, unreached: str | None) -> InputError | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    failed = f"cannot load the {what} {name!r}"
    if unreached is not None:
        return InputError(
            f"{failed}: it is not whole in the cache, and the hub {unreached}",
            hint="check the name and the network, or name what is on this machine",
        )
    hub, api = hub_address(), HfApi()
    try:
        api.repo_info(name, repo_type=kind, revision=revision)
        api.auth_check(name, repo_type=kind)  # a gated one is described to everybody
    except GatedRepoError:
        page = f"{hub}/{_PLACES[kind]}{name}"
        return InputError(
            f"{failed}: it is gated, and you have no access",
            hint=f"accept its terms at {page}, and log in with `hf auth login` or set HF_TOKEN",
        )
    except RepositoryNotFoundError:
        return InputError(
            f"{failed}: no such folder, and the hub {hub} shows no such {_IN_WORDS[kind]}",
            hint="check the name; for a private one log in with `hf auth login`",
        )
    except RevisionNotFoundError:
        known = ", ".join(_revisions(api, name, kind))
        return InputError(f"{failed}: it has no revision {revision!r}", hint=f"there are {known}, and its commits")
    except HFValidationError:
        return InputError(f"{failed}: no such folder, and no hub id", hint="check the name")
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == _UNKNOWN_TOKEN:
            return InputError(
                f"{failed}: the hub {hub} does not know your token",
                hint="log in with `hf auth login`, or unset HF_TOKEN",
            )
        if status == _BUSY or status >= _BROKEN:
            return InputError(f"{failed}: the hub {hub} answers with status {status}", hint=_LATER)
    except Exception as error:  # it was reached a moment ago
        return InputError(f"{failed}: the hub {hub} does not answer ({type(error).__name__})", hint=_LATER)
    return None


def _revisions(api: Any, name: str, kind: Kind) -> list[str]:
    """Return its branches and tags; a commit is one of too many."""
    references = api.list_repo_refs(name, repo_type=kind)
    return [one.name for one in (*references.branches, *references.tags)]
