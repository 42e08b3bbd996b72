"""What all judge runs share: answers side by side, judge prompts, and what makes a result not comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixdpo.errors import InputError
from mixdpo.evaluation.endpoint import Reply
from mixdpo.evaluation.tables import read_table
from mixdpo.settings import read_yaml

_IDS = ("uid", "question_id", "id", "instruction", "prompt")


@dataclass(frozen=True)
class Answered:
    """One model's answer to one prompt."""

    id: str
    prompt: str
    answer: tuple[str, ...]
    """One text for each turn."""
    category: str | None


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    index: int
    """Position of the prompt in the baseline's file, from 0."""
    id: str
    prompt: str
    baseline: str
    model: str
    category: str | None


def read_answers(path: str | Path, name: str | None = None) -> tuple[str, list[Answered]]:
    """Read a model's answers: of `mixdpo generate`, of AlpacaEval (`output`), Arena-Hard (`messages`) or MT-Bench
    (`choices`).

    Returns:
        The model's name (`name`, or the file's `generator`, `model` or `model_id`, or the file's own), and answers.

    Raises:
        InputError: a row has no prompt id or no answer, or a prompt comes twice.
    """
    answers: dict[str, Answered] = {}
    rows = read_table(path).rows()
    for number, row in enumerate(rows, start=1):
        id = next((row[key] for key in _IDS if isinstance(row.get(key), (str, int))), None)
        answer = _answer(row)
        if id is None or answer is None:
            missing = f"prompt id ({', '.join(_IDS)})" if id is None else "answer (output, messages or choices)"
            raise InputError(f"no {missing}", file=path, row=number)
        if str(id) in answers:
            raise InputError(f"a second answer to the prompt {str(id)[:60]!r}", file=path, row=number)
        answers[str(id)] = Answered(str(id), _prompt(row), answer, row.get("category"))
    own = next((rows[0][key] for key in ("generator", "model", "model_id") if rows[0].get(key)), Path(path).stem)
    return name or str(own), list(answers.values())


def pair_up(model: Sequence[Answered], baseline: Sequence[Answered], file: str | Path) -> list[Pair]:
    """Put the answers to each of the baseline's prompts side by side.

    Raises:
        InputError: the model answered none of them; `file` is named in the error.
    """
    own = {answered.id: answered for answered in model}
    pairs = [
        Pair(index, other.id, other.prompt or own[other.id].prompt, other.answer[-1], own[other.id].answer[-1],
             other.category or own[other.id].category)
        for index, other in enumerate(baseline)
        if other.id in own
    ]  # fmt: skip
    if not pairs:
        raise InputError("no prompt of the baseline is answered", file=file, mend="give both the same prompts and ids")
    return pairs


@dataclass(frozen=True)
class JudgePrompt:
    """A judge prompt with places such as {question}; which names it uses is for the benchmark to say."""

    system: str
    template: str

    def place(self, *names: str) -> str:
        """Return which of several spellings of a place the template uses."""
        for name in names:
            if f"{{{name}}}" in self.template:
                return name
        raise InputError(f"the judge prompt has no place {{{names[0]}}}")


def read_judge_prompt(path: str | Path) -> JudgePrompt:
    """Read a YAML or JSON file with `system_prompt` and `prompt_template`."""
    content = read_yaml(path)
    template = content.get("prompt_template")
    template = template[0] if isinstance(template, list) and template else template
    if not isinstance(template, str):
        raise InputError("no prompt_template", file=path)
    return JudgePrompt(str(content.get("system_prompt") or ""), template)


def judge_record(replies: Sequence[Reply], judge: str) -> dict[str, Any]:
    """Return who judged and what came back, for the result."""
    answered = [reply for reply in replies if not reply.failure]
    failures: dict[str, int] = {}
    for reply in replies:
        if reply.failure:
            failures[reply.failure] = failures.get(reply.failure, 0) + 1
    return {
        "judge": judge,
        "judge_versions": sorted({reply.model for reply in answered if reply.model}),
        "calls": len(replies),
        "failed_calls": failures,
        "tokens_in": sum(reply.tokens_in for reply in answered),
        "tokens_out": sum(reply.tokens_out for reply in answered),
    }


def differences_from_published(
    record: Mapping[str, Any], judge: str, prompts: int, published_prompts: int, settings: Mapping[str, Any]
) -> list[str]:
    """Return why a result cannot be put beside published ones; empty if nothing says so.

    Args:
        record: see `judge_record`.
        judge: snapshot that published numbers come from.
        prompts: judged here.
        published_prompts: judged there.
        settings: pairs (ours, theirs) by what they are, such as the baseline.
    """
    reasons = []
    seen = set(record["judge_versions"]) or {record["judge"]}
    if seen != {judge}:
        reasons.append(f"the judge is {', '.join(sorted(seen))}, not {judge}")
    if prompts != published_prompts:
        reasons.append(f"{prompts} prompts were judged, not {published_prompts}")
    reasons += [f"the {what} is {ours}, not {theirs}" for what, (ours, theirs) in settings.items() if ours != theirs]
    return reasons


def _prompt(row: Mapping[str, Any]) -> str:
    value = row.get("instruction") or row.get("prompt") or ""
    if isinstance(value, list):
        return "\n\n".join(str(message.get("content", "")) for message in value if message.get("role") == "user")
    return str(value)


def _answer(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    outputs, messages, choices = row.get("outputs"), row.get("messages"), row.get("choices")
    if isinstance(outputs, list) and outputs:
        return tuple(outputs)
    if isinstance(row.get("output"), str):
        return (row["output"],)
    if isinstance(messages, list) and messages:
        content = messages[-1].get("content")
        return (content["answer"] if isinstance(content, dict) else str(content),)
    if isinstance(choices, list) and choices:
        turns = choices[0].get("turns") or []
        return tuple(turn["content"] if isinstance(turn, dict) else turn for turn in turns) or None
    return None
