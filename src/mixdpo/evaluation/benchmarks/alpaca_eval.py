"""AlpacaEval 2: from verdicts on pairs of answers to win rates, plain and length-controlled.

A preference lies between 1 (the baseline's answer is better) and 2 (the model's is). Definitions and published values:
github.com/tatsu-lab/alpaca_eval, leaderboard `weighted_alpaca_eval_gpt4_turbo` against gpt4_1106_preview.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mixdpo.common.choices import check_choice
from mixdpo.common.errors import InputError
from mixdpo.common.statistics import mean_interval
from mixdpo.common.table_files import TableFile, read_table
from mixdpo.evaluation.hub_files import DIFFICULTY, GAMED, fetch
from mixdpo.evaluation.statistics.length_control import (
    GamedRows,
    LengthControlled,
    is_extreme,
    length_controlled,
    standardised_length_difference,
)
from mixdpo.evaluation.statistics.records import bounded_ends, first_shown_record, length_effect_record
from mixdpo.generation.degenerate import find_constant_length, find_degenerate

Align = Literal["instruction", "row"]
INSTRUCTIONS = 805


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
                [table.texts("output_2")[row] for row in members] if "output_2" in table else None,
            )
        )
    return verdicts


def _lengths(table: TableFile, side: str) -> np.ndarray:
    if f"len_{side}" in table:
        return table.integers(f"len_{side}").astype(np.float64)
    return np.array([len(text) for text in table.texts(f"output_{side}")], dtype=np.float64)


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
    rate = mean_interval(100 * known)
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


@dataclass(frozen=True)
class LengthControl:
    """What length control needs besides the verdicts: difficulties by instruction, and the gamed rows."""

    difficulty: np.ndarray
    gamed: GamedRows

    def apply(self, verdicts: Verdicts, *, C: float | None, align: Align) -> LengthControlled:
        """Fit and predict one model; `align="row"` takes the difficulty of the row's position instead of its
        instruction's, as the original does, which is another one after a missing row."""
        check_choice("align", align, Align)
        index = np.arange(len(verdicts.preference)) if align == "row" else verdicts.instruction
        if len(index) and (index.min() < 0 or index.max() >= len(self.difficulty)):
            raise InputError(
                f"{verdicts.model} has a verdict on instruction {index.max()}, "
                f"and difficulties are known of 0 to {len(self.difficulty) - 1}"
            )
        if (verdicts.preference == 1.5).all() and (verdicts.baseline_length == verdicts.model_length).all():
            # The baseline against itself is 50 by definition.
            return LengthControlled((0.0, 0.0, 0.0), C or np.nan, np.full(len(index), 0.5))
        return length_controlled(
            verdicts.preference - 1,
            standardised_length_difference(verdicts.baseline_length, verdicts.model_length),
            self.difficulty[index],
            self.gamed,
            C=C,
        )


def read_length_control(gamed: str | Path | None, difficulty: str | Path | None) -> LengthControl:
    """Read the two files of length control; None fetches the published one from the hub.

    Raises:
        InputError: a file lacks a column or an instruction, or cannot be fetched.
    """
    rows = read_table(gamed or fetch(GAMED))
    known = read_table(difficulty or fetch(DIFFICULTY))
    # The published file names only one of its two columns.
    index = known.integers("index" if "index" in known else next(iter(known.columns)))
    values = known.numbers("instruction_difficulty")
    by_index = np.full(max(index.max() + 1, 1), np.nan)
    if index.min() < 0:
        raise InputError("an index is below 0", file=known.file, column="index")
    by_index[index] = values
    if not np.isfinite(by_index).all():
        missing = int(np.flatnonzero(~np.isfinite(by_index))[0])
        raise InputError(f"no difficulty for instruction {missing}", file=known.file)
    return LengthControl(
        by_index,
        GamedRows(rows.numbers("preference"), rows.numbers("std_delta_len"), rows.numbers("instruction_difficulty")),
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
        flags = find_degenerate(one.answers) if one.answers else find_constant_length(one.model_length)
        result["flags"] = list(map(str, flags))
        if control is not None:
            fitted = control.apply(one, C=C, align=align)
            result["length_controlled_winrate"] = fitted.win_rate
            result["lc_standard_error"] = fitted.standard_error
            result["lc_weights"] = dict(zip(("length", "difficulty", "model"), fitted.weights, strict=True))
            result["lc_C"] = fitted.C
            result["lc_extreme"] = is_extreme(result["win_rate"], fitted.win_rate)
        yield one.model, result
