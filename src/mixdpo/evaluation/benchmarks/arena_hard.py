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
from mixdpo.common.tables import TextTable, value_text
from mixdpo.evaluation.benchmark import WIN_RATE, Column, JudgedBenchmark, Record, Scored, models_table, ranked_scores
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
    check_once,
    difference_records,
    judged_answers,
    reasoning_record,
)
from mixdpo.evaluation.statistics.style import Control, Version, read_style, write_styles
from mixdpo.generation.answer_files import read_answers
from mixdpo.judges import games
from mixdpo.judges.answers import AnswerSources
from mixdpo.judges.judge import score_of_a
from mixdpo.judges.task import JudgeTask, Published

_GPT_4_1: Final = ("gpt-4.1", "gpt-4.1-2025-04-14")
_HARD_PROMPT: Final = "1ae1ae76172e10e4"
PUBLISHED: Final = {
    "arena-hard-v0.1": Published(
        ("gpt-4-1106-preview",),
        500,
        {"baseline": "gpt-4-0314", "judge_prompt": _HARD_PROMPT, "max_tokens": 4096},
    ),
    "hard_prompt": Published(
        _GPT_4_1, 500, {"baseline": "o3-mini-2025-01-31", "judge_prompt": _HARD_PROMPT, "max_tokens": 16000}
    ),
    "creative_writing": Published(
        _GPT_4_1,
        250,
        {"baseline": "gemini-2.0-flash-001", "judge_prompt": "24c86996cf2f0242", "max_tokens": 16000},
        pooled="gemini-2.5",
    ),
}
"""By the categories of the questions; the second and third are those of v2."""
SEEDS: Final[dict[Version, int]] = {"v0.1": 42, "v2": 0}
"""v0.1 was published with this seed, v2 without one."""
LONGEST_JUDGEMENT: Final = 1024
"""Tokens that a judge may write about prompts of a category of one's own."""
STRICT_LABEL: Final = re.compile(r"\[\[([AB<>=]+)\]\]")
"""What a judgement ends with, such as `[[A>>B]]`."""
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

    def published(self) -> Published | None:
        """Return what published numbers were made with, of v0.1 or of the category of v2."""
        return PUBLISHED.get("arena-hard-v0.1" if self.version == "v0.1" else self.category or "hard_prompt")

    def bootstrap(self) -> Bootstrap:
        """Return how intervals are drawn."""
        seed = SEEDS[self.version] if self.seed is None else self.seed
        return Bootstrap(rounds=self.rounds, seed=seed, level=self.level)


# ---- What a judge is asked ----


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


def follow_up(judgement: str) -> str | None:
    """Return what is asked after a judgement of v0.1 that has no label at all, None for one that has."""
    return None if STRICT_LABEL.search(judgement) else _FINISH


def judge_task(sources: AnswerSources, options: ArenaOptions) -> JudgeTask:
    """Compare answers in two games, of one category.

    Raises:
        InputError: v2 without a category, whose baselines differ; or see `pair_up`.
    """
    version, published = options.version, options.published()
    check_choice("version", version, Version)
    if version == "v2" and options.category is None:
        raise InputError(
            "v2 has two categories with different baselines and judge prompts",
            hint="take one: --category hard_prompt or --category creative_writing",
        )
    if options.baseline is not None:
        baseline = read_answers(options.baseline)
    elif published is not None:
        name = f"model_answer/{published.settings['baseline']}.jsonl"
        baseline = read_answers(fetch(_hub_file(version, name, "--baseline")))
    else:
        raise InputError(
            f"the category {options.category!r} has no published baseline", hint="give one with --baseline"
        )
    if sources.questions is None and baseline.prompts is None:
        sources = replace(sources, questions=fetch(_hub_file(version, "question.jsonl", "--questions")))
    longest = published.settings["max_tokens"] if published is not None else LONGEST_JUDGEMENT
    task = games.game_task(sources, baseline, longest, category=options.category, id_column="question_id")
    prompt = sources.prompt()
    fingerprint = games.spelled_alike(prompt).fingerprint() if prompt is not None else None
    return replace(
        task,
        parse=lambda reply: parse_label(reply.text, version),
        settings={**task.settings, "judge_prompt": fingerprint},
        published=published,
        follow_up=follow_up if version == "v0.1" else None,
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
        InputError: a column is missing or holds something else, a prompt comes twice where a row has both games, or
            there are several categories and none is named.
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
                    f"{winner!r} is not model, baseline or tie",
                    file=table.file,
                    row=table.row_of(int(row)),
                    column="winner",
                )
            rows.append((row, scores[winner]))
    else:
        check_once(table, chosen, ("prompt", prompts), ("model", names))
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


def read_games(path: str | Path, category: str | None = None) -> dict[str, list[games.Games]]:
    """Read the labels of both games of every prompt, by model; nothing from a file of battles."""
    table = read_table(path)
    if "winner" in table:
        return {}
    rows = _rows_of_category(table, category)
    found: dict[str, list[games.Games]] = {}
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


def _games(table: TableFile, rows: np.ndarray) -> list[games.Games]:
    if "games" not in table:
        first, second = table.column("game1"), table.column("game2")
        return [(first[row], second[row]) for row in rows]
    found = []
    for row in rows:
        both = table.columns["games"][row]
        if not isinstance(both, list) or len(both) != 2:
            raise InputError("not a list of two games", file=table.file, row=table.row_of(int(row)), column="games")
        found.append((_score(both[0]), _score(both[1])))
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
    others["differences"] = difference_records(ranked_scores(models, scores), bootstrap.seed)
    others |= reasoning_record(*map(read_table, verdicts))
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
    published = options.published()
    name = options.baseline_name or (published.settings["baseline"] if published is not None else None)
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
    for model, labels in read_games(file, category).items():
        models[model]["position_bias"] = games.position_record(labels)
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
        Column.number("win rate, %", "win_rate"),
        Column.interval(f"{100 * settings['level']:.0f} % interval", "interval"),
        Column.interval("over prompts", "prompt_interval"),
        Column.count("prompts", "n_prompts"),
        Column.count("unread", "n_unread"),
    ]
    if "style_effects" in record:
        heading = f"equal {settings['control']}, %"
        columns.append(Column(heading, lambda one: value_text(one["style_control"]["win_rate"])))
    version = record["benchmark"].removeprefix("arena_hard_")
    return models_table(f"Arena-Hard {version}, win rate against {_baseline_of(record)}", record, "win_rate", columns)


def _baseline_of(record: Record) -> str:
    """Return what the models of a result were compared with: as it says, or else the benchmark's own."""
    published = _options_of(record).published()
    named = record["settings"].get("baseline") or (published and published.settings["baseline"])
    return str(named or "the baseline")


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
    baseline=_baseline_of,
    judge_prompt="a YAML file with system_prompt and prompt_template, from github.com/lmarena/arena-hard-auto",
    task=judge_task,
    score=score,
    items=items,
    options_of=_options_of,
    without_effect=_without_effect,
    several_judges=True,
)
