"""What is said when the hub gives nothing; what it is asked then is the real client's doing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from hub_server import STRANGER, TOKEN, Hub, Repository, hub
from mixdpo.common.hub import _unreached, from_hub, why_unreached


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "files").mkdir()
    branches = {"main": tmp_path / "files", "v2": tmp_path / "files"}
    open_one = Repository("models", "tiny/open", branches)
    with hub([open_one, Repository("datasets", "tiny/gated", branches, gated=True)]) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        _unreached.cache_clear()
        yield running
    _unreached.cache_clear()
    close_session()


def failing(name: str, **settings: Any) -> Callable[[], None]:
    def run() -> None:
        with from_hub(name, "model", **settings):
            raise OSError("what a client says")

    return run


def test_what_the_hub_refuses(server: Hub, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    refused(failing("tiny/none"), "cannot load the model 'tiny/none'", "shows no such model", "hf auth login")
    refused(failing("tiny/open", revision="v9"), "no revision 'v9'", "main, v2")
    refused(failing("not a name"), "no hub id")
    gated = failing("tiny/gated", kind="dataset")
    refused(gated, "gated", f"accept its terms at {server.url}/datasets/tiny/gated", "hf auth login")
    with pytest.raises(OSError, match="what a client says"):
        failing("tiny/open")()
    for token, words in ((STRANGER, "gated"), ("hf_unknown", "does not know your token")):
        monkeypatch.setenv("HF_TOKEN", token)
        assert token not in str(refused(gated, words))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(OSError, match="what a client says"):
        gated()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_out_of_order(server: Hub, status: int, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server.broken = status
    refused(failing("tiny/open"), f"answers with status {status}", "later")


def test_a_hub_that_does_not_answer(server: Hub, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    server.silent = True
    began = time.monotonic()
    refused(failing("tiny/open"), "not whole in the cache", f"{server.url} was not reached", "timed out")
    refused(failing("tiny/other"), "was not reached")
    assert time.monotonic() - began < 5
    assert len(server.asked) == 1


def test_a_hub_that_is_not_there(server: Hub, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://user:password@127.0.0.1:9")
    message = str(refused(failing("tiny/open"), "the hub http://127.0.0.1:9 was not reached", "refused"))
    assert "password" not in message


def test_the_cache_is_read_where_the_hub_is_not_there(
    server: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.INFO), from_hub("tiny/open"):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert "the model tiny/open is read from the cache: the hub http://127.0.0.1:9 was not reached" in caplog.text


def test_the_hub_is_not_asked_for_local_folders_or_when_told_so(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    with pytest.raises(OSError, match="what a client says"):
        failing(str(tmp_path))()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(failing("tiny/open"), "HF_HUB_OFFLINE is set")
    assert why_unreached() is not None
    assert not server.asked
