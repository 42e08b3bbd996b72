"""A rating by an endpoint that fails and is killed: no answered call is made twice, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from judge_server import proxy
from loopback import running
from mixdpo.cli.main import main

pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")


def longer(body: dict[str, Any]) -> str:
    asked = body["messages"][0]["content"]
    first, second = (len(asked.split(f"<answer {side}>\n")[1].split("\n</answer")[0]) for side in "AB")
    return f"[[{'A' if first > second else 'B'}]]"


def test_a_killed_rating_goes_on_and_its_faults_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))
    file, rated = tmp_path / "answers.jsonl", tmp_path / "rated.jsonl"
    rows = [{"id": str(n // 4), "instruction": f"Question {n // 4}?", "output": "x" * (n + 1)} for n in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with running(longer) as endpoint, proxy(endpoint.url.removesuffix("/v1")) as server:
        words = ["rate", str(file), "--judge", "judge", "--endpoint", server.url, "--key-variable", "JUDGE_KEY",
                 "--concurrency", "1", "--mode", "pairwise", "-o", str(rated)]  # fmt: skip
        server.faults = [429, "no json", 500]  # the last is the first
        server.hold_call = 3 + 7
        killed = subprocess.Popen([sys.executable, "-m", "mixdpo", *words], start_new_session=True)
        assert server.held.wait(120)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        assert not rated.exists()
        assert server.answered.total() == 6
        server.release.set()
        assert main(words) == 0
        # Two prompts of four answers have 6 matches of two games each. The call that was held is made once more.
        assert len(server.calls) == 2 * 6 * 2
        assert set(server.answered.values()) <= {1, 2}
        assert sum(count > 1 for count in server.answered.values()) <= 1
        assert server.calls.total() == 24 + 3 + 1
        assert server.authorisations == {"Bearer secret-key"}
    scores = [json.loads(line)["score"] for line in rated.open()]
    assert scores == sorted(scores[:4]) + sorted(scores[4:])
    assert scores[:4] == scores[4:]
    assert "of 24 verdicts 0 failed, 0 unread" in capsys.readouterr().out
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"secret-key" in path.read_bytes()]
