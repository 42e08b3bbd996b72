"""A program as judge: it reads JSON objects, one a line, and writes a verdict a line."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixdpo.common.errors import InputError, RunError
from mixdpo.generation.chat_model import Progress
from mixdpo.judges.judge import FollowUp, JudgeItem, ParseReply, Verdict


def run_program(command: Sequence[str], cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give a program the cases on its standard input and return the lines it writes, one for each.

    Raises:
        RunError: it cannot be started, fails, or writes another number of lines.
    """
    name = shlex.join(command)
    given = "".join(json.dumps(case) + "\n" for case in cases)
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except OSError as error:
        raise RunError(f"the judge {name} cannot be started ({error.strerror or error})") from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing on standard error"]
        raise RunError(f"the judge {name} ended with status {done.returncode}: {last[0]}")
    lines = done.stdout.removesuffix("\n").split("\n") if done.stdout else []
    if len(lines) != len(cases):
        raise RunError(f"the judge {name} wrote {len(lines)} lines for {len(cases)} cases")
    return lines


@dataclass(frozen=True)
class ProgramJudge:
    """A program. Of an item it reads `{"prompt": [messages], "answer": text}` and writes a number, larger is better;
    or `{"prompt": [messages], "answer_a": text, "answer_b": text}` and writes `A>>B`, `A>B`, `A=B`, `B>A` or `B>>A`.
    Any other line is no verdict. An item with columns has them under `"columns"` too.

    It is started once for all items, and nothing it says is cached: a program can change under the same name.
    """

    command: str

    @property
    def name(self) -> str:
        """The command."""
        return self.command

    @property
    def in_words(self) -> bool:
        """It is not."""
        return False

    def estimate(self, items: Sequence[JudgeItem]) -> str:
        """Say how much there is to judge."""
        return f"{len(items):,} verdicts by the program {self.command}"

    def judge(
        self,
        items: Sequence[JudgeItem],
        parse: ParseReply,
        follow_up: FollowUp | None = None,
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """Start the program; see `run_program`."""
        try:
            command = shlex.split(self.command)
        except ValueError as error:
            raise InputError(f"the program {self.command!r} cannot be read ({error})") from error
        if not command:
            raise InputError("the judge is a program, and its command is empty")
        verdicts = [
            _verdict(line.strip(), len(item.answers))
            for line, item in zip(run_program(command, [_line(item) for item in items]), items, strict=True)
        ]
        if progress is not None:
            progress(len(verdicts), len(items))
        return verdicts

    def record(self) -> dict[str, Any]:
        """Return what a result names."""
        return {"engine": "program", "command": self.command}


def _line(item: JudgeItem) -> dict[str, Any]:
    names = ("answer",) if len(item.answers) == 1 else ("answer_a", "answer_b")
    messages = [{"role": role, "content": content} for role, content in item.chat]
    columns = {"columns": dict(item.columns)} if item.columns else {}
    return {"prompt": messages, **dict(zip(names, item.answers, strict=True)), **columns}


def _verdict(line: str, answers: int) -> Verdict:
    if answers == 2:
        return Verdict.of(line, line)
    try:
        score = float(line)
    except ValueError:
        return Verdict.of(line, None)
    return Verdict.of(line, score if abs(score) < float("inf") else None)
