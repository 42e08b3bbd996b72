"""Judge prompts: read as the original tools have them, and filled in one pass, whatever the answers hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.files import digest
from mixdpo.common.settings import read_yaml
from mixdpo.generation.chat_model import Request

ShippedPrompt = Literal["grade", "pairwise"]
_SHIPPED: Final = Path(__file__).with_name("prompts")
_BEFORE: Final = re.compile(
    r"(?:(?:so|thus|therefore|my|the|final|overall)[ ,]+)*"
    r"(?:verdict|answer|choice|decision|winner|grade|rating|score)?(?: is)?[ :*_`]*",
    re.IGNORECASE,
)
"""What may stand before a verdict in a line that says nothing else."""
_CHATML: Final = re.compile(r"<\|im_start\|>(\w+)\n(.*?)\n?<\|im_end\|>", re.DOTALL)


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked: (role, text) of each message, with placeholders such as {question}."""

    messages: tuple[tuple[str, str], ...]

    def holds(self, name: str) -> bool:
        """Whether there is a placeholder {name}."""
        return any(f"{{{name}}}" in text for _, text in self.messages)

    def filled(self, values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Replace `{name}` by the value of that name, in one pass; all other braces stay as they are.

        Raises:
            InputError: there is no placeholder for one of the values.
        """
        for name in values:
            if not self.holds(name):
                raise InputError(f"the judge prompt has no placeholder {{{name}}}")
        return tuple((role, fill(text, values)) for role, text in self.messages)

    def request(
        self, values: Mapping[str, str], *, max_tokens: int, temperature: float = 0.0, top_logprobs: int | None = None
    ) -> Request:
        """Return what a language model is asked; see `filled` and `Request`."""
        return Request(
            messages=self.filled(values), max_tokens=max_tokens, temperature=temperature, top_logprobs=top_logprobs
        )

    def fingerprint(self) -> str:
        """Return a digest of the roles and texts, which says in a result which prompt was used."""
        return prompts_fingerprint([self])


def last_line(reply: str) -> str:
    """Return the last line of a reply that says something, without the marks of Markdown around it."""
    return reply.strip().rpartition("\n")[2].strip(" \t*_`.")


def verdicts_that_count(reply: str, verdict: re.Pattern[str]) -> list[str]:
    """Return the verdicts of a reply that count: that of its last line where this says nothing else, as "[[A]]" or
    "Verdict: [[A]]" do, else all there are.

    Others before it are quoted from the answers, by which a model could have its lost games left out.

    Args:
        reply: of the judge.
        verdict: how one is written, with one group.
    """
    last = verdict.fullmatch(_BEFORE.sub("", last_line(reply), count=1).strip(" *_`."))
    return [last[1]] if last is not None else verdict.findall(reply)


def placeholders(prompt: JudgePrompt, wanted: Sequence[Sequence[str]]) -> list[str]:
    """Return which of the spellings of each wanted placeholder a judge prompt uses.

    Raises:
        InputError: it has none of them.
    """
    found = []
    for spellings in wanted:
        name = next((one for one in spellings if prompt.holds(one)), None)
        if name is None:
            others = ", ".join(f"{{{one}}}" for one in spellings[1:])
            raise InputError(
                f"the judge prompt has no placeholder {{{spellings[0]}}}", hint=f"{others} would do as well"
            )
        found.append(name)
    return found


def prompts_fingerprint(prompts: Iterable[JudgePrompt]) -> str:
    """Return a digest of several judge prompts."""
    return digest((part for prompt in prompts for message in prompt.messages for part in message), size=8)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace `{name}` for every name of `values`; all other braces stay as they are."""
    known = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return known.sub(lambda match: values[match.group()[1:-1]], template) if values else template


def shipped_prompt(name: ShippedPrompt) -> JudgePrompt:
    """Return the package's own judge prompt for grades from 1 to 10, or for two answers."""
    return read_judge_prompt(shipped_prompt_file(name))


def shipped_prompt_file(name: ShippedPrompt) -> Path:
    """Return the file of one of the package's own judge prompts."""
    return _SHIPPED / f"{name}.txt"


def read_judge_prompt(path: str | Path) -> JudgePrompt:
    """Read a judge prompt: a text with `<|im_start|>role` and `<|im_end|>` marks, as AlpacaEval has it; a YAML or
    JSON file with `prompt_template` and perhaps `system_prompt`, as Arena-Hard has it; or any other text, which is
    then the user's message.

    Raises:
        InputError: it cannot be read, or holds no prompt.
    """
    path = Path(path).expanduser()
    if path.suffix in (".yaml", ".yml", ".json"):
        content = read_yaml(path)
        template = content.get("prompt_template")
        template = template[0] if isinstance(template, list) and template else template
        if not isinstance(template, str):
            raise InputError("no prompt_template", file=path, hint="give prompt_template, and perhaps system_prompt")
        system = content.get("system_prompt")
        return JudgePrompt((*([("system", str(system))] if system else []), ("user", template)))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from error
    if not text.strip():
        raise InputError("the judge prompt is empty", file=path)
    return JudgePrompt(tuple(_CHATML.findall(text)) or (("user", text),))
