"""Files that are either whole or absent, folders of what is unfinished, and hashes of content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError

_MODEL_FILES: Final = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
_DATA_FILES: Final = (".parquet", ".arrow", ".jsonl", ".csv", ".tsv", ".gz")


def cache_folder() -> Path:
    """Return where things are cached between runs: `$MIXDPO_CACHE`, else `$XDG_CACHE_HOME/mixdpo`, else
    `~/.cache/mixdpo`."""
    if named := os.environ.get("MIXDPO_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mixdpo"


def data_cache() -> Path:
    """Return the folder of `cache_folder()` for rows and token ids that were read, made if it is not there.

    Raises:
        InputError: it cannot be made or written.
    """
    folder = cache_folder() / "data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
        reason = ""
    except OSError as error:
        writable, reason = False, f": {error.strerror}"
    if not writable:
        raise InputError(
            f"the cache folder cannot be written{reason}",
            file=folder,
            hint="set MIXDPO_CACHE to a folder that can",
        )
    return folder


def check_output(path: Path) -> None:
    """Raise `InputError` where a file could not be written, before hours are spent on it. Nothing is made."""
    if path.is_dir():
        raise InputError("a folder, not a file", file=path)
    _check_writable(path.parent)


def check_output_folder(path: Path) -> None:
    """Raise `InputError` where files could not be written into a folder that is made if need be. Nothing is made."""
    if path.exists() and not path.is_dir():
        raise InputError("a file, not a folder", file=path, hint="name another with --output")
    _check_writable(path)


def _check_writable(folder: Path) -> None:
    there = nearest_existing(folder)
    if not there.is_dir():
        raise InputError("a part of the path is a file, not a folder", file=there, hint="choose another --output")
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(there).f_flag & os.ST_RDONLY
        problem = "the file system is read-only" if read_only else "no permission to write there"
        raise InputError(problem, file=there, hint="choose another --output")


def nearest_existing(path: Path) -> Path:
    """Return the path, or the nearest above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that is moved onto it when the block ends without an error.

    A reader never sees half a file, and an interrupted or failed write leaves what was there before.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes it private; a result is an ordinary file
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(indented_json(value), encoding="utf-8")


def indented_json(value: Any) -> str:
    """Return `value` as the text of a JSON file for people."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def digest(parts: Iterable[bytes | str], size: int = 16) -> str:
    """Hash an ordered series of byte strings or texts into `2 * size` hexadecimal digits (BLAKE2b).

    Every part is preceded by its length, so ``["ab", "c"]`` and ``["a", "bc"]`` differ.
    """
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def content_name(path: str) -> str:
    """Return the own name of a folder or file with a digest of its content, so that one made anew is another.

    Of a folder these are the files of a model, and those of data, which may stand deeper in it. A hub id is returned
    as it is.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return f"{place.name}-{_content_digest(place, _states([place]))}"
    if not place.is_dir():
        return path
    return f"{place.resolve().name}-{_content_digest(place, _states(_content_files(place)))}"


@cache  # of folders as they were when they were read: a model is asked for once for every run of a study
def _content_digest(place: Path, states: tuple[tuple[str, int, int, int], ...]) -> str:
    return digest([place.read_bytes()] if place.is_file() else _contents(place), size=6)


def _states(files: Iterable[Path]) -> tuple[tuple[str, int, int, int], ...]:
    found = ((str(file), file.stat()) for file in files)
    return tuple((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in found)


def _content_files(folder: Path) -> list[Path]:
    of_model = (one for one in folder.iterdir() if one.suffix in _MODEL_FILES)
    return sorted([*of_model, *(one for one in folder.rglob("*") if one.suffix in _DATA_FILES and one.is_file())])


def _contents(folder: Path) -> Iterator[bytes | str]:
    """Yield names and contents of a folder's files, some megabytes at a time."""
    for path in _content_files(folder):
        yield path.relative_to(folder).as_posix()
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                yield block


def unfinished(output: Path) -> Path:
    """Return the folder for what is finished of an output that is not.

    It is beside the output and goes when that is complete. A cache for all runs would not do where the key cannot
    tell that something has changed, such as the model behind a name.
    """
    return output.with_name(f"{output.name}.unfinished")


def forget_unfinished(output: Path) -> None:
    """Remove what was finished of an output that is complete now."""
    shutil.rmtree(unfinished(output), ignore_errors=True)
