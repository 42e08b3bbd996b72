"""Policies' own answers to the prompts of pairs: read from a file, or written into one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mixdpo.common.errors import InputError
from mixdpo.common.files import unfinished
from mixdpo.common.table_files import ENDINGS
from mixdpo.data.pair_files import beside
from mixdpo.generation.answer_prompts import answer_prompts
from mixdpo.generation.chat_model import ChatModel, Progress
from mixdpo.generation.find_model import find_model
from mixdpo.generation.generate import planned_requests, settings_for
from mixdpo.generation.generation_settings import EndpointSettings, GenerationSettings
from mixdpo.generation.prompts import Prompt
from mixdpo.judges.judge import Chat
from mixdpo.models.model_settings import ModelSettings
from mixdpo.pairs.answered import Answer, read_answered
from mixdpo.pairs.judged import chat_text
from mixdpo.pairs.spoken import PairsByPrompt

_log = logging.getLogger(__name__)

OwnAnswers = Mapping[Chat, Sequence[Answer]]
"""A policy's answers by prompt."""


def policies_named(given: Sequence[str]) -> dict[str, str]:
    """Return policies by name, from texts such as `start=MODEL`.

    Raises:
        InputError: one has no name, a name that columns cannot have, or that of another.
    """
    policies: dict[str, str] = {}
    for one in given:
        name, equals, policy = one.partition("=")
        if not (name and equals and policy) or "/" in name:
            raise InputError(f"the policy {one!r} has no name without /", hint="write it as NAME=POLICY")
        if name in policies:
            raise InputError(f"a second policy called {name}", hint="tell them apart: NAME=POLICY")
        policies[name] = policy
    return policies


def own_answers(
    policies: Mapping[str, str],
    pairs: PairsByPrompt,
    settings: GenerationSettings,
    url: str | None,
    output: Path,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, OwnAnswers]:
    """Return the policies' own answers to the prompts of pairs, by name. Those of a model are written to a file first.

    Args:
        policies: by name, a file of answers, a model's folder or hub id, or with a URL the model's name there.
        pairs: with the prompts to answer.
        settings: how models answer.
        url: of an endpoint; None for models on this machine.
        output: of the pairs, beside which the answers of models are written.
        progress: see `answer_prompts`.

    Raises:
        InputError: a file cannot be read, or has an answer to none of the prompts; a model cannot be loaded.
        RunError: a model answered no prompt at all.
    """
    found = {}
    for name, policy in policies.items():
        file = Path(policy)
        if not is_file(policy):
            file = answers_file(output, name)
            model = policy_model(policy, url, file)
            report = answer_prompts(prompts_to_answer(pairs), [(name, model)], settings, file, progress)[name]
            for why, count in (report["failures"] | report["without_answer"]).items():
                _log.warning(f"{name}: {count:,} answers are missing: {why}")
        found[name] = read_own_answers(file, list(pairs.rows))
    return found


def planned_answers(
    policies: Mapping[str, str], pairs: PairsByPrompt, settings: GenerationSettings
) -> dict[str, OwnAnswers]:
    """Return the policies' answers as far as they are known, for an estimate: longest ones stand for those of models.

    Raises:
        InputError: see `own_answers`.
    """
    found: dict[str, OwnAnswers] = {}
    for name, policy in policies.items():
        if is_file(policy):
            found[name] = read_own_answers(Path(policy), list(pairs.rows))
            continue
        prompts = prompts_to_answer(pairs)
        longest = "the " * (settings_for(prompts, settings).max_new_tokens or 0)
        stand_ins = [Answer(f"{longest}{name} {sample}", name) for sample in range(settings.samples)]
        found[name] = {prompt.messages: stand_ins for prompt in prompts}
    return found


def estimates_of_models(
    policies: Mapping[str, str], pairs: PairsByPrompt, settings: GenerationSettings, url: str | None, output: Path
) -> dict[str, str]:
    """Return, by the name of each policy that is a model, what its answers would take; arguments as of `own_answers`.

    Raises:
        InputError: no model can be asked any of the prompts.
    """
    models = {name: policy for name, policy in policies.items() if not is_file(policy)}
    if not models:
        return {}
    prompts = prompts_to_answer(pairs)
    requests = planned_requests(prompts, settings)
    how = f"{settings.samples} answers a prompt at temperature {settings_for(prompts, settings).temperature:g}"
    return {
        name: f"{how}; {policy_model(policy, url, answers_file(output, name)).estimate(requests)}"
        for name, policy in models.items()
    }


def is_file(policy: str) -> bool:
    """Whether a policy is a file of answers, and not a model; `InputError` for a file that is not there."""
    there = Path(policy).is_file()
    if not there and policy.endswith(ENDINGS):
        raise InputError("no such file of answers", file=policy)
    return there


def answers_file(output: Path, name: str) -> Path:
    """Return where the answers of a policy's model are written: beside the pairs."""
    return beside(output, f".{name}.answers.jsonl")


def policy_model(policy: str, url: str | None, file: Path) -> ChatModel:
    """Return the model of a policy; `file`: of its answers, beside which finished calls to an endpoint are kept."""
    at_endpoint = None if url is None else EndpointSettings(model=policy, base_url=url)
    return find_model(at_endpoint or ModelSettings(name_or_path=policy), unfinished(file))


def prompts_to_answer(pairs: PairsByPrompt) -> list[Prompt]:
    """Return the prompts that a policy's model can be asked: those that end with the user's message, without tools.

    Raises:
        InputError: there are none.
    """
    wanted = {
        (chat, pairs.pairs[row].chat_template_kwargs): None
        for chat, rows in pairs.rows.items()
        for row in rows
        if chat[-1][0] == "user" and not pairs.pairs[row].has_tools
    }
    if not wanted:
        raise InputError(
            "no prompt of the pairs ends with the user's message and offers no tools",
            hint="give files of the policies' answers",
        )
    return [
        Prompt(number, "index", chat[:-1], (chat[-1][1],), category=None, chat_template_kwargs=told)
        for number, (chat, told) in enumerate(wanted)
    ]


def read_own_answers(file: Path, prompts: Sequence[Chat]) -> OwnAnswers:
    """Read a policy's answers to prompts, whose chats are found by their text; answers to others are left out.

    Raises:
        InputError: the file cannot be read, or has an answer to none of the prompts.
    """
    by_text = {chat_text(chat): chat for chat in prompts}
    answers: dict[Chat, list[Answer]] = {}
    for one in read_answered(file):
        chat = by_text.get(chat_text(one.chat))
        if chat is not None:
            answers.setdefault(chat, []).extend(one.answers)
    if not answers:
        raise InputError(
            f"no answer to any of the {len(prompts):,} prompts of the pairs", file=file,
            hint="the column instruction or prompt must hold the prompts as the pairs have them",
        )  # fmt: skip
    return answers
