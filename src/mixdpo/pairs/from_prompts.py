"""From prompts to pairs in one go: answers, ratings, pairs, each in a file, so that a run that was killed goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import unfinished, write_json
from mixdpo.common.settings import read_yaml
from mixdpo.common.stages import RECORD_FILE, Stage, by_key, run_stage
from mixdpo.data.pair_files import beside
from mixdpo.generation.answer_prompts import answer_prompts, notes
from mixdpo.generation.chat_model import Progress
from mixdpo.generation.find_model import Models, find_model
from mixdpo.generation.generate import planned_requests, settings_for
from mixdpo.generation.output_files import columns_left_out, report_file
from mixdpo.generation.prompts import Prompt, read_prompts
from mixdpo.judges.find_judge import find_judge
from mixdpo.judges.judge import Judge
from mixdpo.models.model_settings import ModelSettings
from mixdpo.pairs.answered import Answer, AnsweredPrompt, read_answered, write_answered
from mixdpo.pairs.make_pairs import MadePairs, make_pairs
from mixdpo.pairs.pair_making_settings import PairMakingSettings
from mixdpo.pairs.rate import MOST_UNREAD, estimates, rate

_log = logging.getLogger(__name__)

HOW_CALLED: Final = (
    *("batch_size", "concurrency", "timeout", "max_retries", "api_key_env", "dollars_in", "dollars_out"),
)
"""Settings that say how answers and verdicts are asked for, and not what they are: they may change on the way."""

Bars = Callable[[str, str], Progress]
"""From the name of a pass and what it counts to what shows how far it is."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Which prompts are answered: see `read_prompts`."""

    source: str
    split: str = "train"
    limit: int | None = None

    def read(self) -> list[Prompt]:
        """Return them; `InputError` as `read_prompts`."""
        return read_prompts(self.source, self.split, self.limit)


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """Where answers and ratings are kept, and the record of what they were made of, in one folder.

    Attributes:
        folder: of all three.
        answers: name of the file of the answers.
        rated: name of that of the answers with their ratings.
        record: name of the record.
    """

    folder: Path
    answers: str = "answers.jsonl"
    rated: str = "rated.jsonl"
    record: str = RECORD_FILE

    @classmethod
    def of_output(cls, output: Path) -> PairFiles:
        """Return the files that belong to a file of pairs, beside it."""
        names = {name: beside(output, f".{name}.jsonl").name for name in ("answers", "rated")}
        return cls(folder=output.parent, record=beside(output, ".stages.json").name, **names)


def pairs_from_prompts(
    settings: PairMakingSettings, models: Models, prompts: Prompts, files: PairFiles, bars: Bars | None = None
) -> MadePairs:
    """Let models answer prompts, let judges rate the answers, and choose pairs.

    Answers and ratings that are there are used if they were made of the same, and refused if not; the choice is made
    anew.

    Args:
        settings: how.
        models: who answers.
        prompts: what is answered.
        files: where answers and ratings are kept.
        bars: show progress.

    Raises:
        InputError: the settings do not fit the prompts, a model or judge cannot be had, or a file that is there was
            made of something else.
        RunError: more than a fifth of the answers or of a judge's verdicts are missing.
    """
    answer_stage(settings, models, prompts, files, bars)
    rate_stage(settings, files, bars)
    return make_pairs(read_answered(files.folder / files.rated), settings.selection)


def answer_stage(
    settings: PairMakingSettings, models: Models, prompts: Prompts, files: PairFiles, bars: Bars | None = None
) -> None:
    """Write the file of the answers, unless it is there; see `pairs_from_prompts`."""
    output = files.folder / files.answers
    if settings.generation.samples * len(models) < 2:
        raise InputError("a pair is of two answers, and there is to be one", hint="set samples to 2 or more")
    how = {"split": prompts.split, "limit": prompts.limit, **by_key(settings.generation, "generation")}
    own = {name: by_key(one, f"model {name}", (*HOW_CALLED, "name_or_path")) for name, one in models.items()}
    where = {f"model {name}": one.name_or_path for name, one in models.items() if isinstance(one, ModelSettings)}
    stage = Stage(
        "answers", files.answers, {**how, **{key: value for one in own.values() for key, value in one.items()}},
        {"prompts": prompts.source, **where},
    )  # fmt: skip

    def make() -> None:
        answering = ((name, find_model(one, unfinished(output), settings.batch_size)) for name, one in models.items())
        answer_prompts(prompts.read(), answering, settings.generation, output, _bar(bars, "answers"))

    run_stage(files.folder, stage, make, files.record)
    _check_answered(output)


def rate_stage(settings: PairMakingSettings, files: PairFiles, bars: Bars | None = None) -> None:
    """Write the file of the rated answers, unless it is there; see `pairs_from_prompts`."""
    answers, output = files.folder / files.answers, files.folder / files.rated
    how = {**by_key(list(settings.judges), "judge", HOW_CALLED), **by_key(settings.rating, "rating")}
    asked = {} if settings.rating.judge_prompt is None else {"judge prompt": settings.rating.judge_prompt}

    def make() -> None:
        rated = rate(read_answered(answers), _judges(settings), settings.rating, _bar(bars, "verdicts"))
        write_json(report_file(output), rated.report)
        write_answered(output, rated.prompts)

    run_stage(files.folder, Stage("ratings", files.rated, how, {"answers": answers, **asked}), make, files.record)


def planned(settings: PairMakingSettings, models: Models, prompts: Prompts, files: PairFiles) -> Iterator[str]:
    """Yield what each stage would take, a line for each model and judge.

    Of answers that are not there yet, so many of the greatest length stand for them.
    """
    answers, rated = files.folder / files.answers, files.folder / files.rated
    if answers.exists() and rated.exists():
        yield f"answers and ratings are there: {rated}"
        return
    if answers.exists():
        yield f"answers are there: {answers}"
        answered = read_answered(answers)
    else:
        read = prompts.read()
        requests = planned_requests(read, settings.generation)
        for name, one in models.items():
            yield f"answers of {name}: {find_model(one, unfinished(answers), settings.batch_size).estimate(requests)}"
        yield from notes(read, settings.generation, len(models))
        answered = _longest_answers(read, settings, len(models))
    for name, line in estimates(answered, _judges(settings), settings.rating).items():
        yield f"ratings of {name}: {line}"


def _longest_answers(prompts: Sequence[Prompt], settings: PairMakingSettings, models: int) -> list[AnsweredPrompt]:
    how = settings_for(prompts, settings.generation)
    text = " the" * (how.max_new_tokens or 1)
    left_out = columns_left_out(prompts)

    def answers(columns: Mapping[str, Any]) -> tuple[Answer, ...]:
        beside_answers = {name: value for name, value in columns.items() if name not in left_out}
        return tuple(Answer(f"{number}{text}", "", columns=beside_answers) for number in range(how.samples * models))

    return [AnsweredPrompt(one.id, one.id_column, one.messages, answers(one.columns)) for one in prompts]


def _judges(settings: PairMakingSettings) -> list[Judge]:
    return [find_judge(one) for one in settings.judges]


def _bar(bars: Bars | None, unit: str) -> Callable[[str], Progress] | None:
    return None if bars is None else lambda name: bars(name, unit)


def _check_answered(answers: Path) -> None:
    """Log how many answers are missing; of more than a fifth raise `RunError`, and let the next start ask again."""
    report: Mapping[str, Any] = read_yaml(report_file(answers))
    for name, one in report["models"].items() if "models" in report else [(report["model"], report)]:
        failed = sum(one["failures"].values())
        empty = one["empty"]
        counted = f"{name}: of {one['answers']:,} answers {failed:,} failed and {empty:,} are empty"
        if failed + empty <= MOST_UNREAD * one["answers"]:
            if failed + empty:
                _log.warning(counted)
            continue
        if failed > empty:
            answers.unlink()
            why = next(iter(one["failures"]))
            raise RunError(f"{counted}; the same command asks for them again; the first failure: {why}")
        raise RunError(f"{counted}; raise max_new_tokens, or look into {answers}: the model may need another template")
