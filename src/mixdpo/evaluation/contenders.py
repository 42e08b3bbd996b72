"""Whose answers are compared: files of them, or models on this machine or behind an endpoint, which answer now."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import ENDINGS
from mixdpo.generation.answer_files import read_answers
from mixdpo.generation.answer_prompts import answer_prompts
from mixdpo.generation.chat_model import ChatModel, Progress
from mixdpo.generation.endpoint import EndpointModel
from mixdpo.generation.generate import planned_requests
from mixdpo.generation.generation_settings import EndpointSettings, GenerationSettings
from mixdpo.generation.prompts import Prompt, read_prompts
from mixdpo.models.model_settings import ModelSettings, check_is_model, model_name

_log = logging.getLogger(__name__)
_ENDPOINT: Final = re.compile(r"(?P<model>.+?)@(?P<url>https?://.+)")


@dataclass(frozen=True)
class Contender:
    """Something with answers to prompts.

    Attributes:
        name: of it.
        source: its file of answers, or the model that answers.
    """

    name: str
    source: Path | ModelSettings | EndpointSettings


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How models answer that are no files of answers.

    Attributes:
        generation: longest answer, temperature and such.
        endpoint: from a model's name and URL to how it is called.
        local: from a folder or hub id, and an adapter or None, to how it is loaded.
        batch_size: answers at once, of a model on this machine; None for its own.
    """

    generation: GenerationSettings = field(default_factory=GenerationSettings)
    endpoint: Callable[..., EndpointSettings] = EndpointSettings
    local: Callable[..., ModelSettings] = ModelSettings
    batch_size: int | None = None

    def chat_model(self, settings: ModelSettings | EndpointSettings) -> ChatModel:
        """Return the model that settings name; what it answered before is cached by content."""
        if isinstance(settings, EndpointSettings):
            return EndpointModel(settings)
        from mixdpo.generation.local_model import LocalModel  # loads PyTorch

        return LocalModel(settings) if self.batch_size is None else LocalModel(settings, self.batch_size)


def find_contender(given: str, answering: Answering) -> Contender:
    """Return what `[NAME=]SOURCE` says.

    SOURCE is a file of answers; a folder of a model, of an adapter, whose base model its settings name, or of a run,
    whose model is meant; a hub id; or a model behind an endpoint, `MODEL@URL`.

    Raises:
        InputError: there is no such file, or the folder holds no model.
    """
    name, equals, source = given.partition("=")
    if not equals or "@" in name or Path(given).exists():
        name, source = "", given
    path = Path(source).expanduser()
    if path.is_file():
        return Contender(name or read_answers(path).name, path)
    if (endpoint := _ENDPOINT.fullmatch(source)) is not None:
        return Contender(
            name or endpoint["model"], answering.endpoint(model=endpoint["model"], base_url=endpoint["url"])
        )
    if source.endswith(ENDINGS):
        raise InputError("no such file", file=source)
    if path.is_dir() and not (path / "config.json").is_file() and (path / "model").is_dir():
        source = str(path / "model")  # of a run
    base = _base_of_adapter(source)
    if base is None:
        check_is_model(source)
        return Contender(name or model_name(source), answering.local(name_or_path=source, adapter=None))
    return Contender(name or model_name(source), answering.local(name_or_path=base, adapter=source))


def is_answer_file(given: str) -> bool:
    """Whether `[NAME=]SOURCE` names a file, there or not, and no model."""
    source = given if Path(given).exists() else given.partition("=")[2] or given
    return source.endswith(ENDINGS) or Path(source).expanduser().is_file()


def _base_of_adapter(source: str) -> str | None:
    """Return the base model that an adapter's settings name; None where the source is no adapter."""
    config = Path(source).expanduser() / "adapter_config.json"
    if not config.is_file():
        return None
    import json

    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError("the adapter does not name its base model", file=config)
    return base


@dataclass(frozen=True)
class Answered:
    """A contender's answers.

    Attributes:
        name: of the contender.
        file: of the answers.
        failed: why answers are missing, and how many; of a model that answered now.
    """

    name: str
    file: Path
    failed: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say how many answers are missing, and why."""
        return "; ".join(f"{self.name} failed on {count:,} ({why})" for why, count in self.failed.items())


def check_names(contenders: Sequence[Contender]) -> None:
    """Raise `InputError` where two contenders have one name."""
    names = [one.name for one in contenders]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two models are called {name}", hint="tell them apart: NAME=MODEL")


def answering_lines(contenders: Iterable[Contender], prompts: Sequence[Prompt], answering: Answering) -> list[str]:
    """Return what answering would take, a line for each model that answers."""
    requests = planned_requests(prompts, answering.generation)
    return [
        f"{one.name}: {answering.chat_model(one.source).estimate(requests)}"
        for one in contenders
        if not isinstance(one.source, Path)
    ]


def answered(
    contender: Contender,
    prompts: Sequence[Prompt],
    answering: Answering,
    folder: Path,
    progress: Callable[[str], Progress] | None = None,
    prefix: str = "",
) -> Answered:
    """Return the answers of a contender; a model answers the prompts into a file of the folder, which begins with
    `prefix`.

    Raises:
        InputError: the model cannot be loaded.
        RunError: it answered no prompt.
    """
    if isinstance(contender.source, Path):
        return Answered(contender.name, contender.source)
    stem = re.sub(r"[^\w.-]+", "-", contender.name).strip("-")
    file = folder / f"{prefix}{stem}.answers.jsonl"
    chat_model = answering.chat_model(contender.source)
    report = answer_prompts(prompts, [(contender.name, chat_model)], answering.generation, file, progress)
    return Answered(contender.name, file, report[contender.name]["failures"])


@dataclass(frozen=True)
class ModelsToAsk:
    """Models that are given where files of answers are, and what they answer.

    Attributes:
        given: as the command line has them, files of answers too.
        contenders: the same.
        prompts: what they answer.
        answering: how.
    """

    given: Sequence[str]
    contenders: Sequence[Contender]
    prompts: Sequence[Prompt]
    answering: Answering

    def planned(self) -> list[str]:
        """Return what answering would take, a line for each model that answers."""
        return answering_lines(self.contenders, self.prompts, self.answering)

    def files(self, output: Path, progress: Callable[[str], Progress] | None = None) -> tuple[str, ...]:
        """Let the models answer greedily, and return all as `NAME=FILE`; files are beside `output`."""
        found = []
        for given, one in zip(self.given, self.contenders, strict=True):
            if isinstance(one.source, Path):
                found.append(given)
                continue
            answers = answered(one, self.prompts, self.answering, output.parent, progress, f"{output.stem}.")
            if answers.failed:
                _log.warning("%s", answers)
            found.append(f"{answers.name}={answers.file}")
        return tuple(found)


def models_to_ask(
    models: Sequence[str], prompts: Path | None, limit: int | None, max_new_tokens: int | None = None
) -> ModelsToAsk:
    """Find the models among those that are given, and read what they are to answer.

    Args:
        models: `[NAME=]SOURCE`, see `find_contender`.
        prompts: file of prompts, or of answers with theirs; None where nothing says it.
        limit: number of prompts at most.
        max_new_tokens: longest answer; None for the default of `GenerationSettings`.

    Raises:
        InputError: there are no prompts, or see `find_contender`.
    """
    answering = Answering(generation=GenerationSettings(max_new_tokens=max_new_tokens))
    contenders = [find_contender(one, answering) for one in models]
    if prompts is None:
        asked = next(one.name for one in contenders if not isinstance(one.source, Path))
        raise InputError(
            f"{asked} is a model, and nothing says what it is to answer",
            hint="give the prompts with --questions, or let it answer first: mixdpo generate PROMPTS --model "
            "MODEL --output FILE",
        )
    return ModelsToAsk(models, contenders, read_prompts(prompts, limit=limit), answering)
