"""The cache is shown, and pruned from what was used least recently; what a process uses stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mixdpo import load_pairs
from mixdpo.cli.main import main
from mixdpo.common.cache import bytes_of, cache_entries, cache_limit, hold, prune, shown_size
from mixdpo.common.files import cache_folder


def entry(name: str, size: int = 100, days: float = 1) -> Path:
    """Make a file of the cache that was last used so many days ago."""
    path = cache_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    for one in (path, path.parent):
        os.utime(one, (time.time() - 86400 * days,) * 2)
    return path


def test_the_least_recently_used_goes_first_and_paid_replies_stay() -> None:
    old, young = entry("data/tokens-1.arrow", days=3), entry("data/pairs-2.arrow", days=1)
    folder = entry("data/0123/parquet/train.arrow", days=2).parents[1]
    os.utime(folder, (time.time() - 172800,) * 2)
    reference, lock = entry("reference/a.parquet", days=4), entry("reference/a.lock", days=9)
    replies = entry("replies/replies.sqlite", size=10_000, days=99)
    kinds = [(one.kind, one.prunable) for one in cache_entries()]
    assert kinds == [("replies", False), ("reference", True), ("tokens", True), ("rows", True), ("pairs", True)]
    assert [one.path for one in prune(250)] == [reference, old]
    assert [one.path for one in prune(100)] == [folder]
    assert prune(100) == []
    assert all(path.exists() for path in (young, lock, replies))


def test_what_is_in_use_stays_and_counts_as_used_now() -> None:
    used, unused = entry("data/tokens-1.arrow", days=9), entry("data/tokens-2.arrow", days=3)
    folder = entry("validation_loss/ab/run.bin", days=9).parent
    hold(used)
    hold(folder)
    assert [one.path for one in prune(0)] == [unused]
    assert [one.path for one in cache_entries()] in ([used, folder], [folder, used])
    assert all(time.time() - one.used < 60 for one in cache_entries())
    hold(cache_folder() / "data" / "absent")


def test_files_of_killed_writers_go_after_a_day() -> None:
    left, now = entry("data/tmpabc", days=2), entry("data/tmpdef", days=0)
    assert [one.path for one in prune(0)] == [left]
    assert now.exists()


def test_pairs_that_a_process_has_loaded_outlast_a_limit_of_nothing(jsonl, text_rows, monkeypatch, capsys) -> None:
    pairs = load_pairs(jsonl(text_rows))
    assert prune(0) == []
    assert pairs["prompt"][0] == text_rows[0]["prompt"]
    entry("reference/a.parquet", size=3000)
    monkeypatch.setenv("MIXDPO_CACHE_LIMIT", "1KB")
    assert main(["examples"]) == 0  # any command keeps within the limit when it ends
    assert "cache: deleted 1 entry (3.0 KB), the least recently used" in capsys.readouterr().err


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    entry("data/tokens-1.arrow", size=2_000)
    entry("replies/replies.sqlite", size=500)
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert "tokens" in shown
    assert "2.5 KB in all; limit of what is pruned: 50.0 GB" in shown
    assert main(["cache", "--prune", "--limit", "1KB"]) == 0
    assert "deleted 1 entry (2.0 KB)" in capsys.readouterr().out
    assert main(["cache", "--prune"]) == 0
    assert "nothing to prune" in capsys.readouterr().out
    for words, said in ((["--limit", "1KB"], "give both"), (["--prune", "--limit", "much"], "--limit is 'much'")):
        assert main(["cache", *words]) == 2
        assert said in capsys.readouterr().err


def test_sizes(monkeypatch: pytest.MonkeyPatch, refused) -> None:
    sizes = {"20GB": 20 * 10**9, "1.5 tb": 1500 * 10**9, "500M": 5 * 10**8, "7": 7, "3B": 3}
    assert {text: bytes_of(text, "x") for text in sizes} == sizes
    assert [shown_size(size) for size in (0, 999, 1000, 20 * 10**9)] == ["0 B", "999 B", "1.0 KB", "20.0 GB"]
    monkeypatch.setenv("MIXDPO_CACHE_LIMIT", "none")
    assert cache_limit() is None
    monkeypatch.setenv("MIXDPO_CACHE_LIMIT", "lots")
    refused(cache_limit, "MIXDPO_CACHE_LIMIT is 'lots'", "20GB")
