"""What disks refuse is one line, in the words of every library that writes files."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets.exceptions import DatasetGenerationError
from polars.exceptions import ComputeError
from safetensors import SafetensorError

from mixdpo.cli.main import main
from mixdpo.common.disk import cache_explained, disk_fault
from mixdpo.common.errors import RunError
from mixdpo.common.files import cache_folder, check_output, check_output_folder


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [  # messages of the libraries themselves, met on a full and on a read-only disk
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota of disk space is used up"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "the disk is full"),
        (RuntimeError("write(): fd 3 failed with No space left on device"), "the disk is full"),
        (OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device"), "the disk is full"),
        (ComputeError("parquet: underlying IO error: No space left on device (os error 28)"), "the disk is full"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (caused(DatasetGenerationError("An error occurred"), OSError(28, "No space left")), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "/a/b: the file system is read-only"),
        (
            SafetensorError('I/O error: Read-only file system (os error 30) at path "/a/.tmp8"'),
            "/a/.tmp8: the file system is read-only",
        ),
        (OSError("Read-only file system (os error 30): /a/b"), "/a/b: the file system is read-only"),
        (RuntimeError("open file failed with strerror: Read-only file system"), "the file system is read-only"),
        (
            OSError(20, "Failed to open local file '/a/f/x'. Detail: [errno 20] Not a directory"),
            "/a/f/x: a part of the path is a file",
        ),
        (NotADirectoryError(20, "Not a directory", "/a/f/x"), "/a/f/x: a part of the path is a file, not a folder"),
    ],
)  # fmt: skip
def test_every_library_is_understood(error: Exception, said: str) -> None:
    assert str(disk_fault(error)).startswith(said)


@pytest.mark.parametrize("error", [ValueError("full"), OSError("odd"), FileNotFoundError(2, "No such file", "/a")])
def test_other_errors_are_none_of_a_disk(error: Exception) -> None:
    assert disk_fault(error) is None
    error.__context__ = OSError(28, "No space left on device")  # met and dealt with before
    assert disk_fault(error) is None


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_full_cache_is_named_and_the_data_is_not_blamed(tmp_path, jsonl, text_rows, monkeypatch, capsys) -> None:
    path = jsonl(text_rows)
    full = caused(DatasetGenerationError("An error occurred"), OSError(28, "No space left on device"))
    monkeypatch.setattr("datasets.load_dataset", raising(full))
    assert main(["plan", path, "--output", str(tmp_path / "plan.parquet")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"mixdpo: {cache_folder()}: the cache cannot be written, the disk is full; make room there")
    assert "MIXDPO_CACHE" in said
    assert path not in said
    with pytest.raises(RunError, match="read-only"), cache_explained():
        raise OSError(errno.EROFS, "Read-only file system", str(cache_folder() / "data" / "a"))
    with pytest.raises(OSError, match="elsewhere"), cache_explained():
        raise OSError(errno.EACCES, "Permission denied", "elsewhere")


def test_outputs_say_why_they_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    (tmp_path / "file").write_text("")
    for check in (check_output, check_output_folder):
        refused(lambda check=check: check(tmp_path / "file" / "x" / "y"), str(tmp_path / "file"), "is a file, not a")
    refused(lambda: check_output_folder(tmp_path / "file"), "a file, not a folder")
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(lambda: check_output(tmp_path / "new" / "x"), f"{tmp_path}: no permission to write there")
    real = os.statvfs(tmp_path)
    read_only = os.statvfs_result((*real[:8], real.f_flag | os.ST_RDONLY, *real[9:]))
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    refused(lambda: check_output_folder(tmp_path / "new" / "x"), f"{tmp_path}: the file system is read-only")


@pytest.mark.parametrize("command", ["plan", "score", "audit", "compare", "study", "generate", "train"])
def test_commands_ask_before_they_work(command: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("mixdpo.data.load._open", raising(AssertionError("read first")))
    (tmp_path / "file").write_text("")
    words = {"generate": ["prompts.jsonl", "--model", "m"], "train": ["d.jsonl", "--model.name_or_path", "m"]}
    more = ["--train.use_cpu", "true", "--train.bf16", "false"] if command in ("train", "score") else []
    output = tmp_path / "file" / ("x.jsonl" if command == "generate" else "x.parquet")
    assert main([command, *words.get(command, ["d.jsonl"]), *more, "--output", str(output)]) == 2
    assert f"{tmp_path / 'file'}: a part of the path is a file, not a folder" in capsys.readouterr().err


def test_an_audit_leaves_all_its_files_or_none(tmp_path: Path, jsonl, text_rows, monkeypatch, capsys) -> None:
    folder = tmp_path / "report"
    monkeypatch.setattr("mixdpo.auditing.report.indented_json", raising(OSError(28, "No space left on device")))
    assert main(["audit", jsonl(text_rows), "--output", str(folder)]) == 1
    assert "mixdpo: the disk is full; free some space" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
