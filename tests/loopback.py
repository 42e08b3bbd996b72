"""An OpenAI-compatible endpoint on this machine for tests, which answers by a function and fails as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Served = TypeVar("Served", bound=ThreadingHTTPServer)
Answer = Callable[[dict[str, Any]], str | int | dict[str, Any] | list[str]]
"""From a call's body to the text of the reply, to those of several choices, to the status of a refusal, or to what the
reply's choice is like."""
FIRST_TOKENS = (("m", -0.1), ("M", -2.3))
"""Log-probabilities of the first token, where they are asked for."""


class Endpoint(ThreadingHTTPServer):
    """Answers after the faults it was given, one a call: a status, or the text of a malformed reply."""

    request_queue_size = 128  # of 5, the default, some of the 16 calls at a time are refused a connection

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.faults: list[int | str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class JsonHandler(BaseHTTPRequestHandler):
    """Reads and writes JSON; one that calls again need not wait."""

    def body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, status: int, content: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        self.wfile.write(content.encode())

    def refuse(self, status: int) -> None:
        """As some providers do, the error repeats the key."""
        self.reply(status, json.dumps({"error": {"message": f"fault; {self.headers['Authorization']}"}}))

    def log_message(self, *args: Any) -> None:
        pass


class _Handler(JsonHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.body()
        self.server.bodies.append(body)
        self.server.keys.add(self.headers["Authorization"])
        fault = self.server.faults.pop() if self.server.faults else None
        text = self.server.answer(body) if fault is None else ""
        if isinstance(text, int):
            fault, text = text, ""
        special: dict[str, Any] = {}
        if isinstance(text, dict):
            special, text = text, "some words"
        texts = text if isinstance(text, list) else [text]
        choices = [_choice(index, each, special, body) for index, each in enumerate(texts)]
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": f"{body['model']}-2026",
            "choices": choices,
            "usage": {"prompt_tokens": 5, "completion_tokens": sum(len(t.split()) for t in texts), "total_tokens": 5},
        }
        if isinstance(fault, int):
            self.refuse(fault)
        else:
            self.reply(200, json.dumps(reply) if fault is None else fault)


def _choice(index: int, text: str, special: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": index, "finish_reason": "stop"} | special
    choice["message"] = {"role": "assistant", "content": text} | choice.get("message", {})
    if body.get("logprobs"):
        top = [{"token": token, "logprob": chance, "bytes": None} for token, chance in FIRST_TOKENS]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return choice


@contextmanager
def running(answer: Answer) -> Iterator[Endpoint]:
    """Run an endpoint whose answers are what `answer` returns for a call's body."""
    with serving(Endpoint(answer)) as endpoint:
        yield endpoint


@contextmanager
def serving(server: Served) -> Iterator[Served]:
    """Let a server answer while the block runs."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
