"""A Hugging Face hub on this machine for tests: what the real clients ask of it, answered from folders.

Large files (weights, parquet) lie behind a redirect to another host, as on the hub, where no token may arrive.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import serving

TOKEN, STRANGER = "hf_tokenOfTheTests", "hf_tokenOfAStranger"
"""Of somebody who has accepted the terms of the gated repositories, and of somebody who has not."""
_LARGE = (".safetensors", ".parquet", ".bin")
_KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


@dataclass(frozen=True)
class Repository:
    """A repository by its branches, each a folder; of a certain commit, by that. A gated one hides its files."""

    kind: str
    name: str
    branches: Mapping[str, Path]
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit of a branch, or one named by its digits."""
        commits = self._commits()
        return commits.get(revision) or (revision if revision in commits.values() else None)

    def _commits(self) -> dict[str, str]:
        return {name: name if len(name) == 40 else _digest(folder) for name, folder in self.branches.items()}

    def files(self, commit: str) -> dict[str, bytes]:
        """Content by path."""
        folder = next(self.branches[name] for name, one in self._commits().items() if one == commit)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class Hub(ThreadingHTTPServer):
    """Serves repositories, and remembers what was asked.

    Attributes:
        asked: method and path of each request.
        pushed: the files of repositories that were made here, by name and path.
        broken: the status that every request is answered with instead.
        silent: whether a request is never answered.
    """

    daemon_threads = True

    def __init__(self, repositories: Sequence[Repository]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = {(one.kind, one.name): one for one in repositories}
        self.asked: list[str] = []
        self.pushed: dict[str, dict[str, bytes]] = {}
        self.broken: int | None = None
        self.silent = False
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def server_close(self) -> None:
        self.closing.set()
        super().server_close()


class _Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.asked.append(f"{self.command} {self.path}")
        if self.server.silent:
            self.server.closing.wait()
        if self.server.broken is not None:
            return self._send(self.server.broken, b"broken")
        path = urlsplit(self.path).path.strip("/")
        try:
            if self.headers["Authorization"] not in (None, f"Bearer {TOKEN}", f"Bearer {STRANGER}"):
                raise _Refusal(401, "", "Invalid credentials in Authorization header")
            if path.startswith("cdn/"):
                assert self.headers["Authorization"] is None, "the token was sent to another host"
                self._send_part(self._file(path.removeprefix("cdn/"), signed=True)[1], {})
            elif path == "api/validate-yaml":
                self._send(200, b'{"errors": [], "warnings": []}', {"Content-Type": "application/json"})
            elif path == "api/repos/create" or "/preupload/" in path or "/commit/" in path:
                self._send(200, json.dumps(self._push(path, body)).encode(), {"Content-Type": "application/json"})
            elif path.startswith("api/"):
                self._send(200, json.dumps(self._described(path, body)).encode(), {"Content-Type": "application/json"})
            elif "/resolve/" in path:
                self._resolve(path)
            else:
                self._send(200, b"the hub")
        except _Refusal as refusal:
            self._send(refusal.status, str(refusal).encode(), refusal.headers)

    def _push(self, path: str, body: str) -> Any:
        """Make a repository, say that all files go into the commit, or take a commit."""
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            raise _Refusal(401, "", "Invalid username or password.")
        if path == "api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'tiny'}/{given['name']}"
            self.server.pushed.setdefault(name, {})
            return {"url": f"{self.server.url}/{name}", "name": name}
        name = "/".join(path.split("/")[2:4])
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
        for entry in map(json.loads, body.splitlines()):
            if entry["key"] == "file":
                self.server.pushed[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        place = f"{self.server.url}/{name}/commit/{'0' * 40}"
        return {"success": True, "commitOid": "0" * 40, "commitUrl": place, "hookOutput": ""}

    def _found(self, kind: str, name: str, revision: str) -> tuple[Repository, str]:
        repository = self.server.repositories.get((kind, name))
        if repository is None:  # whether a private one exists is nobody's business
            known = self.headers["Authorization"] is not None
            raise _Refusal(404 if known else 401, "RepoNotFound", "Repository not found")
        commit = repository.commit(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _check_access(self, repository: Repository) -> None:
        given = self.headers["Authorization"]
        if repository.gated and given != f"Bearer {TOKEN}":
            message = f"Access to {repository.kind[:-1]} {repository.name} is restricted."
            raise _Refusal(403 if given else 401, "GatedRepo", message)

    def _file(self, path: str, signed: bool = False) -> tuple[str, bytes]:
        """Return commit and content of a file; a signed place is told only to those who may read it."""
        place, _, inside = path.partition("/resolve/")
        kind = next(kind for kind, prefix in reversed(_KINDS.items()) if place.startswith(prefix))
        revision, file = map(unquote, inside.split("/", 1))
        repository, commit = self._found(kind, place.removeprefix(_KINDS[kind]), revision)
        if not signed:
            self._check_access(repository)
        content = repository.files(commit).get(file)
        if content is None:
            raise _Refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        return commit, content

    def _resolve(self, path: str) -> None:
        commit, content = self._file(path)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_digest_of(content)}"'}
        if path.endswith(_LARGE):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
            headers["Location"] = f"http://localhost:{self.server.server_port}/cdn/{path}"
            self._send(302, b"", headers)
        else:
            self._send_part(content, headers)

    def _described(self, path: str, body: str) -> Any:
        _, kind, *words = map(unquote, path.split("/"))
        name = next(
            ("/".join(words[:n]) for n in (2, 1) if (kind, "/".join(words[:n])) in self.server.repositories), ""
        )
        what, revision, *_ = [*words[name.count("/") + 1 :], "", "main"] if name else ["", "main"]
        repository, commit = self._found(kind, name, "main" if what in ("refs", "auth-check") else revision or "main")
        files = repository.files(commit)
        if what == "refs":
            branches = [{"name": one, "ref": f"refs/heads/{one}", "targetCommit": repository.commit(one)}
                        for one in repository.branches]  # fmt: skip
            return {"branches": branches, "converts": [], "tags": []}
        if what == "tree":
            inside = "/".join(words[name.count("/") + 3 :])
            if inside and not any(file.startswith(f"{inside}/") for file in files):
                raise _Refusal(404, "EntryNotFound", f"{inside} does not exist on {revision!r}")
            return list(_entries(files, inside, "recursive=True" in self.path or "recursive=true" in self.path))
        if what == "paths-info":
            every = {entry["path"]: entry for entry in _entries(files, "", True)}
            return [every[one] for one in parse_qs(body)["paths"] if one in every]
        if what == "auth-check":
            self._check_access(repository)
            return {}
        if what not in ("", "revision"):
            raise _Refusal(404, "EntryNotFound", "Not Found")
        return {
            "_id": commit[:24], "id": name, "sha": commit, "private": False, "disabled": False, "downloads": 0,
            "likes": 0, "gated": "manual" if repository.gated else False, "tags": [], "author": name.split("/")[0],
            "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": file} for file in files],
            **({"cardData": {"license": "apache-2.0"}} if kind == "models" else {}),
        }  # fmt: skip

    def _send_part(self, content: bytes, headers: Mapping[str, str]) -> None:
        wanted = self.headers["Range"]
        if wanted is None:
            return self._send(200, content, {**headers, "Accept-Ranges": "bytes"})
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or len(content)), len(content) - 1)
        place = {"Content-Range": f"bytes {begin}-{end}/{len(content)}"}
        self._send(206, content[begin : end + 1], {**headers, **place})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entries(files: Mapping[str, bytes], inside: str, recursive: bool) -> Iterator[dict[str, Any]]:
    prefix = f"{inside}/" if inside else ""
    folders: set[str] = set()
    for path, content in files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            folder = prefix + "/".join(parts[:depth])
            if folder not in folders and (recursive or depth == 1):
                folders.add(folder)
                yield {"type": "directory", "oid": _digest_of(folder.encode()), "size": 0, "path": folder}
        if recursive or len(parts) == 1:
            entry = {"type": "file", "oid": _digest_of(content), "size": len(content), "path": path}
            if path.endswith(_LARGE):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            yield entry


def _digest(folder: Path) -> str:
    parts = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha1(b"".join(str(path).encode() + path.read_bytes() for path in parts)).hexdigest()


def _digest_of(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub(repositories: Sequence[Repository]) -> Iterator[Hub]:
    """Serve the repositories while the block runs."""
    with serving(Hub(repositories)) as server:
        yield server
