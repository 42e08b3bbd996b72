"""A real OpenAI-compatible server on loopback: llama.cpp with SmolLM2-135M, behind a proxy that counts calls and can
spoil them."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from loopback import serving

SLOW = object()
"""A fault: the call is held until `Proxy.release` is set."""


class Proxy(ThreadingHTTPServer):
    """Passes calls on, after the faults it was given, one a call: a status, a text to send instead, or `SLOW`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.faults: list[Any] = []
        self.calls: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.authorisations: set[str] = set()
        self.release, self.held = threading.Event(), threading.Event()
        self.hold_call: int | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = json.dumps(json.loads(body), sort_keys=True)
        with self.server.lock:
            self.server.calls[key] += 1
            self.server.authorisations.add(self.headers["Authorization"])
            fault = self.server.faults.pop() if self.server.faults else None
            if self.server.calls.total() == self.server.hold_call:
                fault = SLOW
        if fault is SLOW:
            self.server.held.set()
            self.server.release.wait()
        if isinstance(fault, int):
            # As some providers do, the error repeats the key.
            self._send(fault, json.dumps({"error": {"message": f"fault; {self.headers['Authorization']}"}}).encode())
        elif isinstance(fault, str):
            self._send(200, fault.encode())
        else:
            status, content = self._passed_on(body)
            if self._send(status, content) and status == 200:
                with self.server.lock:
                    self.server.answered[key] += 1

    def _passed_on(self, body: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(
            self.server.behind + "/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _send(self, status: int, content: bytes) -> bool:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the caller was killed, or did not wait
            return False
        return True

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def proxy(behind: str) -> Iterator[Proxy]:
    """Start a proxy before a server."""
    with serving(Proxy(behind)) as one:
        try:
            yield one
        finally:
            one.release.set()


def llama_server(gguf: Path) -> Any:
    """Start llama.cpp's server on a free port of loopback; `listening_address` is its URL. It ends with its object."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx, parameters.n_parallel, parameters.port = 8192, 2, 0
    parameters.cpuparams.n_threads = 1
    parameters.warmup, parameters.verbosity = False, 0
    return xllamacpp.Server(parameters)
