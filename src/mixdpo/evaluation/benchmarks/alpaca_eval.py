"""AlpacaEval 2: which of two answers a judge prefers, and win rates from that, plain and length-controlled.

A preference lies between 1 (the baseline's answer is better) and 2 (the model's is). Definitions and published values:
github.com/tatsu-lab/alpaca_eval, leaderboard `weighted_alpaca_eval_gpt4_turbo` against gpt4_1106_preview.
"""

from __future__ import annotations

import ast
import json
import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.json_text import parse_json
from mixdpo.common.settings import check_choice, check_ranges
from mixdpo.common.statistics import mean_interval
from mixdpo.common.table_files import TableFile, read_table
from mixdpo.common.tables import TextTable
from mixdpo.evaluation.benchmark import WIN_RATE, Column, JudgedBenchmark, Record, Scored, models_table, ranked_scores
from mixdpo.evaluation.hub_files import HubFile, fetch
from mixdpo.evaluation.items import ModelItems, read_transcripts
from mixdpo.evaluation.statistics.length_control import (
    LengthControl,
    LengthControlled,
    is_extreme,
    length_controlled,
    read_length_control,
    standardised_length_difference,
)
from mixdpo.evaluation.statistics.records import (
    bounded_ends,
    difference_records,
    first_shown_record,
    flags_record,
    length_effect_record,
    reasoning_record,
)
from mixdpo.generation.answer_files import read_answers, without_reasoning
from mixdpo.judges.answers import AnswerPair, AnswerSources
from mixdpo.judges.judge import JudgeItem, Verdict
from mixdpo.judges.prompt import JudgePrompt
from mixdpo.judges.task import JudgeTask, Published

Align = Literal["instruction", "row"]
Annotator = Literal["weighted", "ranking"]
INSTRUCTIONS: Final = 805
PUBLISHED: Final = Published(
    ("gpt-4-1106-preview",),
    INSTRUCTIONS,
    {"annotator": "weighted", "baseline": "gpt4_1106_preview", "judge_prompt": "cac5c1ebb5a8578d"},
)
FIRST, SECOND = "m", "M"
"""What the weighted annotator's prompt calls the answer shown first, and the other."""
_HUB: Final = ("tatsu-lab/alpaca_eval", "2edc6fad8be6b14ea7230aabfd08188da6b8b814")
_WITHOUT: Final = "or leave length control out with --no-length-control"
GAMED: Final = HubFile(
    *_HUB, "df_gamed.csv", "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d", "--gamed",
    instead=_WITHOUT,
)  # fmt: skip
DIFFICULTY: Final = HubFile(
    *_HUB,
    "instruction_difficulty.csv",
    "e28d875bb334f75e17acd1e4ed659b261860e3db379cf5de29060301bed0a18b",
    "--difficulty",
    instead=_WITHOUT,
)
BASELINE_ANSWERS: Final = HubFile(*_HUB, "alpaca_eval_gpt4_baseline.json", None, "--baseline")


@dataclass(frozen=True, kw_only=True)
class AlpacaOptions:
    """How answers are compared and verdicts scored."""

    baseline: Path | None = field(
        default=None,
        metadata={"help": "answers to compare with; default: the benchmark's, from the hub", "judge_only": True},
    )
    annotator: Annotator = field(
        default="weighted",
        metadata={"help": "weighted reads the judge's log-probabilities, ranking its words", "judge_only": True},
    )
    difficulty: Path | None = field(
        default=None, metadata={"help": "a copy of instruction_difficulty.csv; default: the hub's"}
    )
    gamed: Path | None = field(default=None, metadata={"help": "a copy of df_gamed.csv; default: the hub's"})
    C: float | None = field(default=None, metadata={"help": "L1 penalty; default: cross-validated", "above": 0})
    align: Align = field(
        default="instruction",
        metadata={"help": "which difficulty a verdict gets; row: by position, as published numbers have it"},
    )
    length_control: bool = field(default=True, metadata={"help": "whether to compute the length-controlled win rate"})

    def __post_init__(self) -> None:
        check_ranges(self)


# ---- What a judge is asked ----


def is_swapped(instruction: str, seed: int = 0) -> bool:
    """Whether the model's answer is shown first; published annotations drew it so, from the instruction."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True])[0]


def judge_items(
    pairs: Sequence[AnswerPair], prompt: JudgePrompt | None, annotator: Annotator, max_tokens: int | None = None
) -> list[JudgeItem]:
    """Return what is judged, without a prompt for judges that are asked nothing in words. Identical answers are a draw
    that no judge sees.

    Raises:
        InputError: the judge prompt has no placeholder for an answer.
    """
    check_choice("annotator", annotator, Annotator)
    items = []
    for pair in pairs:
        if pair.baseline == pair.model:
            continue
        shown = (pair.model, pair.baseline) if is_swapped(pair.prompt) else (pair.baseline, pair.model)
        request = None
        if prompt is not None:
            values = {"instruction": pair.prompt, "output_1": shown[0], "output_2": shown[1]}
            if annotator == "weighted":
                request = prompt.request(values, max_tokens=1, temperature=1.0, top_logprobs=5)
            else:
                request = prompt.request(values, max_tokens=max_tokens or 100)
        items.append(JudgeItem((("user", pair.prompt),), shown, request))
    return items


def first_token_score(first_token: Sequence[tuple[str, float]]) -> float | None:
    """Return how likely the first answer is preferred, from the likeliest first tokens; None if they name neither."""
    chances = dict(first_token)
    first, second = (math.exp(chances[name]) if name in chances else 0.0 for name in (FIRST, SECOND))
    return None if first + second == 0 else first / (first + second)


def ranking_score(text: str) -> float | None:
    """Return 1 or 0 from a list such as [{"model": "model_1", "rank": 1}, ...], None if there is none."""
    try:
        ranks = {str(item["model"]): item["rank"] for item in _literal(text[text.find("[") : text.rfind("]") + 1])}
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        return None
    first = ranks.get("model_1", ranks.get(FIRST))
    second = ranks.get("model_2", ranks.get(SECOND))
    if not {first, second} <= {1, 2} or first == second:
        return None
    return float(first == 1)


def preference(score: float | None, swapped: bool) -> float | None:
    """Return AlpacaEval's preference, 1 baseline to 2 model, from the score of the answer shown first."""
    if score is None:
        return None
    return 1 + score if swapped else 2 - score


def verdict_rows(model: str, pairs: Sequence[AnswerPair], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as `read_verdicts` reads them, with both answers and the judge's reply or failure."""
    given = iter(verdicts)
    rows = []
    for row, pair in enumerate(pairs):
        swapped = is_swapped(pair.prompt)
        verdict = None if pair.baseline == pair.model else next(given)
        rows.append(
            {
                "model": model,
                "row": row,
                "instruction_index": pair.index,
                "preference": 1.5 if verdict is None else preference(verdict.score, swapped),
                "switched": swapped,
                "instruction": pair.prompt,
                "output_1": pair.baseline,
                "output_2": pair.model,
                "reply": verdict.reply.text if verdict else None,
                "first_token": list(verdict.reply.first_token) if verdict else None,
                "failure": verdict.reply.failure if verdict else None,
            }
        )
    return rows


def _literal(text: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)


def judge_task(sources: AnswerSources, options: AlpacaOptions) -> JudgeTask:
    """Compare answers; the prompts are the baseline's instructions, in their order.

    Raises:
        InputError: a file cannot be read or does not belong to the others, or length control is wanted for other
            instructions than AlpacaEval's.
    """
    baseline = read_answers(options.baseline or fetch(BASELINE_ANSWERS))
    if options.length_control and options.baseline is not None and len(baseline.turns) != INSTRUCTIONS:
        raise InputError(
            f"length control goes by AlpacaEval's {INSTRUCTIONS} instructions in their order, and these are others",
            file=options.baseline, hint="give --no-length-control",
        )  # fmt: skip
    prompt = sources.prompt()
    pairs = sources.pairs(baseline)
    weighted = options.annotator == "weighted"
    return JudgeTask(
        items={model: judge_items(own, prompt, options.annotator, sources.max_tokens) for model, own in pairs.items()},
        parse=lambda reply: first_token_score(reply.first_token) if weighted else ranking_score(reply.text),
        rows=lambda model, verdicts: verdict_rows(model, pairs[model], verdicts),
        prompts={model: len(own) for model, own in pairs.items()},
        settings={
            "annotator": options.annotator if prompt is not None else None,
            "baseline": baseline.name,
            "judge_prompt": prompt.fingerprint() if prompt is not None else None,
            "limit": sources.limit,
        },
        published=PUBLISHED,
        reasoning=sources.reasoning(baseline),
    )


# ---- What verdicts come to ----


@dataclass(frozen=True)
class Verdicts:
    """One model's judged answers, in the order they were judged; arrays of shape (rows,).

    Attributes:
        model: its name.
        preference: 1 to 2, or NaN where the judge gave none.
        instruction: number of the instruction, from 0.
        baseline_length: characters of the baseline's answer.
        model_length: characters of the model's answer.
        switched: whether the model's answer was shown first; None where the file does not say.
        answers: the model's; None where the file has only their lengths.
    """

    model: str
    preference: np.ndarray
    instruction: np.ndarray
    baseline_length: np.ndarray
    model_length: np.ndarray
    switched: np.ndarray | None = None
    answers: list[str] | None = None


def read_verdicts(path: str | Path) -> list[Verdicts]:
    """Read verdicts, by model in order of appearance.

    Columns: `model` (or `generator_2`), `preference`, and either `len_1` and `len_2` or the answers `output_1` and
    `output_2` themselves, 1 being the baseline. `instruction_index` may be left out where every instruction is there
    in order; `row` gives the original order.

    Raises:
        InputError: a column is missing or holds something else, or an instruction comes twice.
    """
    table = read_table(path)
    models = np.array(table.texts("model", "generator_2"))
    preference = table.numbers("preference")
    preference[preference == 0] = 1.5  # a draw in files of the first versions
    preference[~((preference >= 1) & (preference <= 2))] = np.nan
    lengths = [_lengths(table, side) for side in ("1", "2")]
    answers = without_reasoning(table.texts("output_2"))[0] if "output_2" in table else None
    verdicts = []
    for model in dict.fromkeys(models.tolist()):
        members = np.flatnonzero(models == model)
        if "row" in table:
            members = members[np.argsort(table.integers("row")[members], kind="stable")]
        instruction = _instructions(table, members, model)
        verdicts.append(
            Verdicts(
                model,
                preference[members],
                instruction,
                lengths[0][members],
                lengths[1][members],
                np.array(table.columns["switched"], dtype=bool)[members] if "switched" in table else None,
                [answers[row] for row in members] if answers else None,
            )
        )
    return verdicts


def _lengths(table: TableFile, side: str) -> np.ndarray:
    if f"len_{side}" in table:
        return table.integers(f"len_{side}").astype(np.float64)
    answers, _ = without_reasoning(table.texts(f"output_{side}"))
    return np.array(list(map(len, answers)), dtype=np.float64)


def _instructions(table: TableFile, members: np.ndarray, model: str) -> np.ndarray:
    if "instruction_index" not in table:
        if len(members) != INSTRUCTIONS:
            raise InputError(
                f"{model} has {len(members)} of {INSTRUCTIONS} verdicts, and nothing says on which instructions",
                file=table.file,
                hint="add a column instruction_index, counted from 0",
            )
        return np.arange(INSTRUCTIONS)
    instruction = table.integers("instruction_index")[members]
    values, counts = np.unique(instruction, return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1][0]
        raise InputError(f"{model} has {counts.max()} verdicts on instruction {twice}", file=table.file)
    return instruction


def win_rates(preference: np.ndarray, model: str) -> dict[str, Any]:
    """Return the win rate in percent, its standard error, 95 % interval and counts, of preferences 1 to 2 or NaN.

    Raises:
        InputError: every preference is NaN.
    """
    known = preference[np.isfinite(preference)] - 1
    if not len(known):
        raise InputError(f"no verdict on {model} could be read")
    rate = mean_interval(100 * known, scale=(0.0, 100.0))
    discrete = np.where(known == 0.5, 0.5, np.round(known))
    return {
        "win_rate": rate.estimate,
        "standard_error": float(100 * known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else None,
        "win_rate_interval": bounded_ends(rate),
        "discrete_win_rate": float(100 * discrete.mean()),
        "n_wins": int((known > 0.5).sum()),
        "n_wins_base": int((known < 0.5).sum()),
        "n_draws": int((known == 0.5).sum()),
        "n_total": len(known),
        "n_unread": int(len(preference) - len(known)),
    }


def control_length(
    verdicts: Verdicts, control: LengthControl, *, C: float | None = None, align: Align = "instruction"
) -> LengthControlled:
    """Fit and predict one model; `align="row"` takes the difficulty of the row's position instead of its
    instruction's, as the original does, which is another one after a missing row."""
    check_choice("align", align, Align)
    index = np.arange(len(verdicts.preference)) if align == "row" else verdicts.instruction
    if len(index) and (index.min() < 0 or index.max() >= len(control.difficulty)):
        raise InputError(
            f"{verdicts.model} has a verdict on instruction {index.max()}, "
            f"and difficulties are known of 0 to {len(control.difficulty) - 1}"
        )
    if (verdicts.preference == 1.5).all() and (verdicts.baseline_length == verdicts.model_length).all():
        # The baseline against itself is 50 by definition.
        return LengthControlled((0.0, 0.0, 0.0), C or np.nan, np.full(len(index), 0.5))
    return length_controlled(
        verdicts.preference - 1,
        standardised_length_difference(verdicts.baseline_length, verdicts.model_length),
        control.difficulty[index],
        control.gamed,
        C=C,
    )


def score_verdicts(
    verdicts: list[Verdicts], control: LengthControl | None, *, C: float | None = None, align: Align = "instruction"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every model's name and results; without `control` there is no length-controlled win rate."""
    for one in verdicts:
        result: dict[str, Any] = win_rates(one.preference, one.model)
        result["avg_length"] = int(one.model_length.mean())
        result["length_effect"] = length_effect_record(one.preference - 1, one.model_length - one.baseline_length)
        if one.switched is not None:
            result["first_shown"] = first_shown_record(one.preference - 1, one.switched)
        result["flags"] = flags_record(one.answers, one.model_length)
        if control is not None:
            fitted = control_length(one, control, C=C, align=align)
            result["length_controlled_winrate"] = fitted.win_rate
            result["lc_standard_error"] = fitted.standard_error
            result["lc_weights"] = dict(zip(("length", "difficulty", "model"), fitted.weights, strict=True))
            result["lc_C"] = fitted.C
            result["lc_extreme"] = is_extreme(result["win_rate"], fitted.win_rate)
        yield one.model, result


def items(verdicts: Sequence[Path], options: AlpacaOptions | None = None) -> dict[str, ModelItems]:
    """Return each instruction's preference in percent."""
    texts = read_transcripts([read_table(file) for file in verdicts])
    return {
        one.model: ModelItems(
            {"win_rate": dict(zip(map(str, one.instruction), (100 * (one.preference - 1)).tolist(), strict=True))},
            texts[one.model],
        )
        for file in verdicts
        for one in read_verdicts(file)
    }


def score(verdicts: Sequence[Path], options: AlpacaOptions, run: Record | None = None) -> Scored:
    """Score preferences."""
    judged = [one for file in verdicts for one in read_verdicts(file)]
    control = _length_control(options)
    found = items(verdicts)
    models = dict(score_verdicts(judged, control, C=options.C, align=options.align))
    scores = {model: own.scores["win_rate"] for model, own in found.items()}
    return Scored(
        models=models,
        items=found,
        settings={"C": options.C or "cross-validated", "align": options.align} if control else {},
        others={
            "differences": difference_records(ranked_scores(models, scores)),
            **reasoning_record(*map(read_table, verdicts)),
        },
    )


def _length_control(options: AlpacaOptions) -> LengthControl | None:
    if not options.length_control:
        return None
    return read_length_control(options.gamed or fetch(GAMED), options.difficulty or fetch(DIFFICULTY))


def _without_effect(options: AlpacaOptions, stored: bool) -> Iterator[tuple[str, Collection[str]]]:
    if not options.length_control:
        yield "no effect with --no-length-control", ("difficulty", "gamed", "C", "align")
    if options.annotator == "weighted":
        yield "the weighted annotator reads one token", ("max_tokens",)


def _table(record: Record) -> TextTable:
    controlled = all("length_controlled_winrate" in one for one in record["models"].values())
    ranked_by = "length_controlled_winrate" if controlled else "win_rate"
    columns = [
        Column.number("win rate, %", "win_rate"),
        Column.interval("95 % interval", "win_rate_interval"),
        *([Column.number("LC, %", "length_controlled_winrate")] if controlled else []),
        Column.count("length", "avg_length"),
        Column.count("prompts", "n_total"),
        Column.count("unread", "n_unread"),
    ]
    return models_table(f"AlpacaEval 2, win rate against {_baseline_of(record)}", record, ranked_by, columns)


def _baseline_of(record: Record) -> str:
    """Return what the models of a result were compared with: as it says, or else the benchmark's own."""
    return str(record["settings"].get("baseline") or PUBLISHED.settings["baseline"])


BENCHMARK: Final = JudgedBenchmark(
    help="AlpacaEval 2: win rate and length-controlled win rate.",
    stored_as=("alpaca_eval_2",),
    options=AlpacaOptions,
    metrics=replace(
        WIN_RATE,
        labels={**WIN_RATE.labels, "length_controlled_winrate": "length-controlled, %"},
        shown=("length_controlled_winrate",),
    ),
    table=_table,
    baseline=_baseline_of,
    judge_prompt="alpaca_eval_clf.txt of github.com/tatsu-lab/alpaca_eval, or one like it",
    task=judge_task,
    score=score,
    items=items,
    check=_length_control,
    without_effect=_without_effect,
)
