"""Arena-Hard v0.1 and v2: two games against a baseline for each prompt, their labels, and win rates from battles.

In game 1 the baseline is assistant A and the model B, in game 2 the reverse; a clear winner counts three battles.
Definitions: github.com/lmarena/arena-hard-auto, commits 0489bf3 (v0.1) and 196f6b8 (v2).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_choice, check_ranges
from mixdpo.common.table_files import TableFile, read_table
from mixdpo.common.tables import TextTable
from mixdpo.common.terminal import value_text
from mixdpo.evaluation.benchmark import WIN_RATE, Column, JudgedBenchmark, Record, Scored, models_table
from mixdpo.evaluation.hub_files import HubFile, fetch
from mixdpo.evaluation.items import ModelItems, read_transcripts
from mixdpo.evaluation.statistics.battles import (
    Battles,
    Bootstrap,
    pool,
    prompt_scores,
    score_at_equal_style,
    score_battles,
)
from mixdpo.evaluation.statistics.records import (
    agreement_record,
    answers_record,
    difference_records,
    judged_answers,
    position_record,
)
from mixdpo.evaluation.statistics.style import Control, Version, read_style, write_styles
from mixdpo.generation.answer_files import read_answers
from mixdpo.generation.completion import Completion, Request
from mixdpo.judges.answers import AnswerSources
from mixdpo.judges.games import PLACEHOLDERS, STRICT_LABEL, Games, game_items, game_rows, labelled, score_of_a
from mixdpo.judges.judge import ParseReply
from mixdpo.judges.prompt import JudgePrompt, placeholders
from mixdpo.judges.task import JudgeTask, Published, the_published_one

BASELINES: Final = {
    "arena-hard-v0.1": "gpt-4-0314",
    "hard_prompt": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
"""The published baseline of v0.1 and of each category of v2."""
SEEDS: Final[dict[Version, int]] = {"v0.1": 42, "v2": 0}
"""v0.1 was published with this seed, v2 without one."""
LONGEST_JUDGEMENT: Final = 1024
"""Tokens that a judge may write about prompts of a category of one's own."""
_LOOSE: Final = re.compile(r"\[([AB<>=]+)\]")
_FINISH: Final = "continue your judgment and finish by outputting a final verdict label"
"""What the original of v0.1 asks after a judgement without a label."""


@dataclass(frozen=True, kw_only=True)
class ArenaOptions:
    """How answers are compared and verdicts scored."""

    baseline: Path | None = field(
        default=None,
        metadata={"help": "answers to compare with; default: the benchmark's, from the hub", "judge_only": True},
    )
    version: Version = field(default="v0.1", metadata={"help": "whose rules to follow"})
    category: str | None = field(default=None, metadata={"help": "take the prompts of this category"})
    style: Path | None = field(
        default=None, metadata={"help": "tokens, headers, lists and bold spans of every answer"}
    )
    control: Control = field(default="style", metadata={"help": "what is held equal where styles are known"})
    baseline_name: str | None = field(
        default=None, metadata={"help": "the baseline's name in --style; default: the published one"}
    )
    rounds: int = field(default=100, metadata={"help": "bootstrap resamples", "at_least": 1})
    level: float = field(
        default=0.95,
        metadata={"help": "level of the intervals; the current original prints 0.9", "above": 0, "below": 1},
    )
    seed: int | None = field(default=None, metadata={"help": "of the bootstrap; default: the published one"})

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def kind(self) -> str | None:
        """The name under which a baseline and a protocol are published."""
        return "arena-hard-v0.1" if self.version == "v0.1" else self.category

    def bootstrap(self) -> Bootstrap:
        """Return how intervals are drawn."""
        seed = SEEDS[self.version] if self.seed is None else self.seed
        return Bootstrap(rounds=self.rounds, seed=seed, level=self.level)


# ---- What a judge is asked ----


@dataclass(frozen=True)
class Protocol:
    """What published numbers of Arena-Hard were made with.

    Attributes:
        judge: its name, and those by which endpoints report it.
        max_tokens: longest judgement.
        prompts: number of prompts.
        prompt: fingerprint of the judge prompt, see `same_placeholders`.
        pooled: another judge whose games were pooled with its own.
    """

    judge: tuple[str, ...]
    max_tokens: int
    prompts: int
    prompt: str
    pooled: str | None = None


_GPT_4_1: Final = ("gpt-4.1", "gpt-4.1-2025-04-14")
PROTOCOLS: Final = {
    "arena-hard-v0.1": Protocol(("gpt-4-1106-preview",), 4096, 500, "1ae1ae76172e10e4"),
    "hard_prompt": Protocol(_GPT_4_1, 16000, 500, "1ae1ae76172e10e4"),
    "creative_writing": Protocol(_GPT_4_1, 16000, 250, "24c86996cf2f0242", pooled="gemini-2.5"),
}
"""By the categories of the questions; the second and third are those of v2."""


def same_placeholders(prompt: JudgePrompt) -> JudgePrompt:
    """Return the prompt with its placeholders spelled as current code does, so that fingerprints of versions agree."""
    for spellings, name in zip(PLACEHOLDERS, placeholders(prompt, PLACEHOLDERS), strict=True):
        messages = tuple((role, text.replace(f"{{{name}}}", f"{{{spellings[0]}}}")) for role, text in prompt.messages)
        prompt = JudgePrompt(messages)
    return prompt


def parse_label(judgement: str, version: Version) -> str | None:
    """Return the label of a judgement, such as `A>>B`, or None if there is no valid one.

    v0.1 takes `[[label]]` if all of them agree; v2 takes the last `[[label]]`, or else the last `[label]`.
    """
    if version == "v0.1":
        found = set(STRICT_LABEL.findall(judgement))
        label = found.pop() if len(found) == 1 else None
    else:
        labels = STRICT_LABEL.findall(judgement.upper()) or _LOOSE.findall(judgement.upper())
        label = labels[-1] if labels else None
    return label if label is not None and score_of_a(label) is not None else None


def reply_parser(version: Version) -> ParseReply:
    """Return how a judgement is read, by the rules of the version."""
    check_choice("version", version, Version)
    return lambda reply: labelled(reply, parse_label(reply.text, version))


def finish_request(request: Request, reply: Completion) -> Request | None:
    """Return what is asked after a judgement of v0.1 that has no label at all, None for one that has."""
    if STRICT_LABEL.search(reply.text):
        return None
    messages = (*request.messages, ("assistant", reply.text), ("user", _FINISH))
    return replace(request, messages=messages)


def judge_task(sources: AnswerSources, options: ArenaOptions) -> JudgeTask:
    """Compare answers in two games, of one category.

    Raises:
        InputError: v2 without a category, whose baselines differ; or see `pair_up`.
    """
    check_choice("version", options.version, Version)
    if options.version == "v2" and options.category is None:
        raise InputError(
            "v2 has two categories with different baselines and judge prompts",
            hint="take one: --category hard_prompt or --category creative_writing",
        )
    kind = str(options.kind)
    protocol, published_baseline = PROTOCOLS.get(kind), BASELINES.get(kind)
    if options.baseline is None and published_baseline is None:
        raise InputError(f"the category {kind!r} has no published baseline", hint="give one with --baseline")
    baseline = read_answers(
        options.baseline or fetch(_hub_file(options.version, f"model_answer/{published_baseline}.jsonl", "--baseline"))
    )
    if sources.questions is None and baseline.prompts is None:
        sources = replace(sources, questions=fetch(_hub_file(options.version, "question.jsonl", "--questions")))
    prompt = sources.prompt()
    pairs = sources.pairs(baseline, options.category)
    longest = sources.max_tokens or (protocol.max_tokens if protocol else LONGEST_JUDGEMENT)
    fingerprint = same_placeholders(prompt).fingerprint() if prompt is not None else None
    others = {
        "baseline": (baseline.name, published_baseline),
        "judge prompt": the_published_one(fingerprint, protocol.prompt if protocol else None),
        "longest judgement": (longest if prompt is not None else None, protocol.max_tokens if protocol else None),
    }
    if protocol and protocol.pooled:
        both = f"{protocol.judge[0]} and {protocol.pooled}, whose games are pooled"
        others["panel of judges"] = ("one judge", both)
    return JudgeTask(
        items={model: game_items(own, prompt, longest) for model, own in pairs.items()},
        parse=reply_parser(options.version),
        rows=lambda model, verdicts: game_rows(model, pairs[model], verdicts, "question_id"),
        prompts={model: len(own) for model, own in pairs.items()},
        settings={
            "baseline": baseline.name,
            "judge_prompt": fingerprint,
            "max_tokens": longest if prompt is not None else None,
            "limit": sources.limit,
        },
        published=Published(protocol.judge, protocol.prompts, others) if protocol else None,
        follow_up=finish_request if options.version == "v0.1" else None,
    )


def _hub_file(version: Version, name: str, option: str) -> HubFile:
    folder = "data/arena-hard-v0.1" if version == "v0.1" else "data/arena-hard-v2.0"
    return HubFile("lmarena-ai/arena-hard-auto", "main", f"{folder}/{name}", None, option)


# ---- What verdicts come to ----


def read_battles(path: str | Path, version: Version, category: str | None = None) -> Battles:
    """Read battles from stored games or judgements.

    Columns: `model`, `question_id` (or `uid`), and one of: `game1` and `game2` with labels; `games`, a list of two
    with a `score` each, as the original writes; or `winner` (`model`, `baseline` or `tie`), one row per battle. A
    column `category` selects.

    Raises:
        InputError: a column is missing or holds something else, or there are several categories and none is named.
    """
    check_choice("version", version, Version)
    table = read_table(path)
    chosen = _rows_of_category(table, category)
    names, prompts = np.array(table.texts("model")), np.array(table.ids("question_id", "uid"))
    models = tuple(sorted(set(names[chosen].tolist())))
    unread = dict.fromkeys(models, 0)
    rows: list[tuple[int, float]] = []
    if "winner" in table:
        scores = {"model": 1.0, "tie": 0.5, "baseline": 0.0}
        for row in chosen:
            winner = table.columns["winner"][row]
            if winner not in scores:
                raise InputError(
                    f"{winner!r} is not model, baseline or tie", file=table.file, row=int(row) + 1, column="winner"
                )
            rows.append((row, scores[winner]))
    else:
        for row, labels in zip(chosen, _games(table, chosen), strict=True):
            outcomes, missing = game_outcomes(*labels, version)
            unread[names[row]] += missing
            rows += [(row, outcome) for outcome in outcomes]
    if not rows:
        raise InputError("no game has a valid label", file=table.file)
    origin = np.array([row for row, _ in rows])
    return Battles(
        models=models,
        model=np.searchsorted(models, names[origin]),
        prompt=prompts[origin],
        outcome=np.array([outcome for _, outcome in rows]),
        unread=tuple(unread.values()),
    )


def read_games(path: str | Path, category: str | None = None) -> dict[str, list[Games]]:
    """Read the labels of both games of every prompt, by model; nothing from a file of battles."""
    table = read_table(path)
    if "winner" in table:
        return {}
    rows = _rows_of_category(table, category)
    found: dict[str, list[Games]] = {}
    for row, labels in zip(rows.tolist(), _games(table, rows), strict=True):
        found.setdefault(table.columns["model"][row], []).append(labels)
    return found


def game_outcomes(game1: str | None, game2: str | None, version: Version) -> tuple[list[float], int]:
    """Return the model's outcomes in the two games of a prompt, and how many games have no valid label.

    v0.1 keeps the valid game of a prompt whose other has none, v2 drops the prompt; v2 lists game 2 first.
    """
    scores = [score_of_a(game1), score_of_a(game2)]
    missing = scores.count(None)
    if version == "v2" and missing:
        return [], missing
    first = [1 - scores[0][0]] * scores[0][1] if scores[0] else []
    second = [scores[1][0]] * scores[1][1] if scores[1] else []
    return (first + second if version == "v0.1" else second + first), missing


def _rows_of_category(table: TableFile, category: str | None) -> np.ndarray:
    if "category" not in table:
        if category is not None:
            raise InputError(f"there is no column category to take {category!r} from", file=table.file)
        return np.arange(len(table))
    values = np.array(table.texts("category"))
    known = sorted(set(values.tolist()))
    if category is None and len(known) > 1:
        raise InputError("several categories, which have different baselines", file=table.file,
                         hint=f"take one with --category: {', '.join(known)}")  # fmt: skip
    if category is not None and category not in known:
        raise InputError(f"no category {category!r}", file=table.file, hint=f"there is {', '.join(known)}")
    return np.arange(len(table)) if category is None else np.flatnonzero(values == category)


def _games(table: TableFile, rows: np.ndarray) -> list[Games]:
    if "games" not in table:
        first, second = table.column("game1"), table.column("game2")
        return [(first[row], second[row]) for row in rows]
    found = []
    for row in rows:
        games = table.columns["games"][row]
        if not isinstance(games, list) or len(games) != 2:
            raise InputError("not a list of two games", file=table.file, row=int(row) + 1, column="games")
        found.append((_score(games[0]), _score(games[1])))
    return found


def _score(game: Any) -> str | None:
    return game.get("score") if isinstance(game, dict) else None


def items(verdicts: Sequence[Path], options: ArenaOptions) -> dict[str, ModelItems]:
    """Return the mean outcome of each prompt's battles in percent; a prompt weighs as much as it has battles."""
    battles = pool([read_battles(file, options.version, options.category) for file in verdicts])
    texts = read_transcripts([read_table(file) for file in verdicts])
    found = {}
    for index, (model, scores) in enumerate(prompt_scores(battles).items()):
        ids, counts = np.unique(battles.prompt[battles.model == index], return_counts=True)
        weights = dict(zip(map(str, ids.tolist()), map(float, counts), strict=True))
        found[model] = ModelItems({"win_rate": scores}, texts.get(model, {}), weights=weights)
    return found


def score(verdicts: Sequence[Path], options: ArenaOptions, run: Record | None = None) -> Scored:
    """Score stored games or battles; several files are several judges, whose battles are pooled.

    Raises:
        InputError: there is no published baseline, or see `read_battles` and `score_at_equal_style`.
    """
    style, baseline = _style(verdicts, options, run)
    bootstrap = options.bootstrap()
    judges = [read_battles(file, options.version, options.category) for file in verdicts]
    battles = pool(judges)
    models = score_battles(battles, options.version, bootstrap)
    settings = {"category": options.category, **asdict(bootstrap)}
    scores = prompt_scores(battles)
    for file in verdicts:
        _add_judge_biases(models, scores, file, options.category)
    others: dict[str, Any] = {}
    if style is not None and np.ptp(battles.outcome) == 0:
        others["style_control"] = "none: every battle ended the same way, so there is no effect of style to fit"
    elif style is not None and baseline is not None:
        controlled, others["style_effects"] = score_at_equal_style(
            battles, read_style(style), baseline, options.version, options.control, bootstrap
        )
        for model, result in controlled.items():
            models[model]["style_control"] = result
        settings |= {"control": options.control, "baseline": baseline}
    others["differences"] = difference_records(scores, bootstrap.seed)
    if len(judges) > 1:
        others["judge_agreement"] = _agreements(judges, verdicts)
    return Scored(
        name=f"arena_hard_{options.version}",
        models=models,
        items=items(verdicts, options),
        settings=settings,
        others=others,
    )


def _style(verdicts: Sequence[Path], options: ArenaOptions, run: Record | None) -> tuple[Path | None, str | None]:
    """Return the file of styles, None for no style control, and the baseline's name in it.

    Styles of the answers that a judge compared just now are counted.
    """
    if run is not None and options.style is None:
        return write_styles(verdicts[0], run["baseline"], options.version), run["baseline"]
    name = options.baseline_name or BASELINES.get(options.kind or "hard_prompt")
    if name is None and run is not None:
        name = run["baseline"]
    if options.style is not None and name is None:
        raise InputError(
            f"the category {options.category!r} has no published baseline",
            hint="name the one in --style: --baseline-name",
        )
    return options.style, name


def _add_judge_biases(
    models: dict[str, Any], scores: dict[str, dict[str, float]], file: Path, category: str | None
) -> None:
    """Add position bias, and what the answers are like, where a file of verdicts has labels and answers."""
    for model, games in read_games(file, category).items():
        models[model]["position_bias"] = position_record(games)
    for model, judged in judged_answers(read_table(file)).items():
        if model in models:
            models[model] |= answers_record(judged, {id: score / 100 for id, score in scores[model].items()})


def _agreements(judges: Sequence[Battles], files: Sequence[Path]) -> list[dict[str, Any]]:
    found = []
    for (first, one), (second, other) in combinations(zip(map(prompt_scores, judges), files, strict=True), 2):
        for model in first.keys() & second.keys():
            agreed = agreement_record(first[model], second[model], 50.0)
            if agreed is not None:
                found.append({"judges": [one.name, other.name], "model": model, **agreed})
    return found


def _options_of(record: Record) -> ArenaOptions:
    version: Any = record["benchmark"].removeprefix("arena_hard_")
    return ArenaOptions(version=version, category=(record.get("settings") or {}).get("category"))


def _without_effect(options: ArenaOptions, stored: bool) -> Iterator[tuple[str, Collection[str]]]:
    if options.style is None:
        # Styles of the answers that a judge compared are counted, the baseline's too.
        yield "no effect without --style", ("baseline_name", "control") if stored else ("baseline_name",)


def _table(record: Record) -> TextTable:
    settings = record["settings"]
    columns = [
        Column.number("win rate", "win_rate"),
        Column.interval(f"{settings['level']:.0%} interval", "interval"),
        Column.interval("over prompts", "prompt_interval"),
        Column.count("n", "n_prompts"),
        Column.count("unread", "n_unread"),
    ]
    if "style_effects" in record:
        heading = f"equal {settings['control']}"
        columns.append(Column(heading, lambda one: value_text(one["style_control"]["win_rate"])))
    version = record["benchmark"].removeprefix("arena_hard_")
    return models_table(f"Arena-Hard {version}", record, "win_rate", columns)


BENCHMARK: Final = JudgedBenchmark(
    help="""Arena-Hard: win rates against the baseline, Bradley-Terry, with bootstrap intervals and style control.

    Several --verdicts are several judges: their battles are pooled, and their agreement is measured.
    """,
    stored_as=("arena_hard_v0.1", "arena_hard_v2"),
    options=ArenaOptions,
    metrics=replace(
        WIN_RATE,
        labels={**WIN_RATE.labels, "style_control.win_rate": "equal style, %"},
        shown=("style_control.win_rate",),
    ),
    table=_table,
    judge_prompt="a YAML file with system_prompt and prompt_template, from github.com/lmarena/arena-hard-auto",
    task=judge_task,
    score=score,
    items=items,
    options_of=_options_of,
    without_effect=_without_effect,
    several_judges=True,
)
