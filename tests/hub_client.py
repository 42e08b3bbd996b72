"""Commands against a hub of a test, in a process of their own: the clients read where the hub is when imported."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PRINTED = "printed.txt"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all that it printed."""

    status: int
    text: str


@dataclass(frozen=True)
class Client:
    """A user with an empty cache, in an empty folder."""

    folder: Path
    process: ProcessPoolExecutor

    def __call__(self, *words: str, token: str | None = None) -> Ended:
        """Run one command."""
        printed = self.folder / _PRINTED
        before = printed.stat().st_size
        status = self.process.submit(_command, words, token).result()
        return Ended(status, printed.read_bytes()[before:].decode())

    def pairs(self, source: Any, **settings: Any) -> list[dict[str, Any]]:
        """Return what `load_pairs` makes of a source."""
        return self.process.submit(_pairs, source, settings).result()


@contextmanager
def client(url: str, folder: Path) -> Iterator[Client]:
    """Start a process whose hub is at a URL."""
    folder.mkdir()
    (folder / _PRINTED).touch()
    caches = {"HF_HOME": folder / "hub", "MIXDPO_CACHE": folder / "mixdpo", "XDG_CACHE_HOME": folder / "others"}
    settings = {name: str(place) for name, place in caches.items()} | {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0"}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_begin, initargs=(folder, settings)) as process:
        yield Client(folder, process)


def _begin(folder: Path, settings: Mapping[str, str]) -> None:
    os.environ.update(settings)
    os.environ.pop("HF_TOKEN", None)
    os.chdir(folder)
    with open(_PRINTED, "ab") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)


def _pairs(source: Any, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    from mixdpo import load_pairs

    return load_pairs(source, **settings).to_list()


def _command(words: Sequence[str], token: str | None) -> int:
    from mixdpo.cli.main import main

    if token is not None:
        os.environ["HF_TOKEN"] = token
    try:
        return main(words)
    finally:
        os.environ.pop("HF_TOKEN", None)
