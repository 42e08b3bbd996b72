"""Style of answers, and win rates at equal style: Arena-Hard's style control, in its two published versions.

Legend: N battles, S = 4 style features: length in tokens, headers, list items, bold spans.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from scipy.special import expit

from mixdpo.common.bradley_terry import fit_logistic, fit_penalised
from mixdpo.common.errors import install_extra
from mixdpo.common.settings import check_choice
from mixdpo.common.table_files import read_table, write_json_lines

Version = Literal["v0.1", "v2"]
Control = Literal["style", "length", "markdown"]
FEATURES: Final = ("length", "headers", "lists", "bold")
CONTROLS: Final[dict[Control, tuple[int, ...]]] = {"style": (0, 1, 2, 3), "length": (0,), "markdown": (1, 2, 3)}
"""The style features that each control holds equal."""

_ENCODINGS: Final[dict[Version, str]] = {"v0.1": "cl100k_base", "v2": "o200k_base"}
"""OpenAI's, by which the published metadata count tokens."""
_CODE = re.compile(r"```([^`]*)```")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
# The published ones begin with \s*, which finds the same items and takes quadratic time for runs of empty lines.
_ORDERED = re.compile(r"^[^\S\n]*\d+\.\s", re.MULTILINE)
_UNORDERED = re.compile(r"^[^\S\n]*[-*+]\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*")
_UNDERLINED = re.compile(r"__[^_\n]+__")


def markdown_counts(text: str) -> tuple[int, int, int]:
    """Count headers, list items and bold spans outside of code blocks, as the published metadata were counted."""
    for code in _CODE.findall(text):
        text = text.replace(code, "")
    return (
        len(_HEADER.findall(text)),
        len(_ORDERED.findall(text)) + len(_UNORDERED.findall(text)),
        len(_BOLD.findall(text)) + len(_UNDERLINED.findall(text)),
    )


def read_style(path: str | Path) -> dict[tuple[str, str], tuple[float, ...]]:
    """Read `model`, `question_id` (or `uid`), `token_len`, `header_count`, `list_count`, `bold_count` of answers."""
    table = read_table(path)
    keys = zip(table.texts("model"), table.ids("question_id", "uid"), strict=True)
    counts = [table.numbers(name).tolist() for name in ("token_len", "header_count", "list_count", "bold_count")]
    return dict(zip(keys, zip(*counts, strict=True), strict=True))


def write_styles(verdicts: Path, baseline: str, version: Version) -> Path | None:
    """Count tokens and Markdown of all answers in a file of verdicts, and write them beside it, as `read_style` reads.

    Returns:
        The file; None where the package that counts tokens is missing, which is said in the log.
    """
    if importlib.util.find_spec("bpe_openai") is None:
        logging.getLogger(__name__).warning(f"no style control, which needs bpe-openai; {install_extra('eval')}")
        return None
    count = _token_counter(version)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_table(verdicts).rows():
        for model, answer in ((baseline, row["output_1"]), (row["model"], row["output_2"])):
            headers, lists, bold = markdown_counts(answer)
            rows[model, row["question_id"]] = {
                "model": model,
                "question_id": row["question_id"],
                "token_len": count(answer),
                "header_count": headers,
                "list_count": lists,
                "bold_count": bold,
            }
    file = verdicts.with_name(verdicts.name.replace(".verdicts.jsonl", ".style.jsonl"))
    write_json_lines(file, rows.values())
    return file


def _token_counter(version: Version) -> Callable[[str], int]:
    import bpe_openai

    encoding: Any = bpe_openai.get_encoding(_ENCODINGS[version])
    return lambda text: len(encoding.encode_ordinary(text))


@dataclass(frozen=True)
class StyleFit:
    """Win rates at equal style.

    Attributes:
        win_rate: of each model, 0 to 1.
        coefficients: log odds for the model of one standard deviation more of each controlled feature.
    """

    win_rate: np.ndarray
    coefficients: np.ndarray


def style_differences(model_NS: np.ndarray, baseline_NS: np.ndarray, version: Version) -> np.ndarray:
    """Return how much more of each feature the model's answer has than the baseline's, standardised over battles.

    v0.1: (m - b) / (m + b + 1) of every feature. v2: (m - b) / (m + b) of the length, and of the other counts'
    density d = count / (length + 1), (d_m - d_b) / (d_m + d_b + 1).
    """
    check_choice("version", version, Version)
    model_NS, baseline_NS = np.asarray(model_NS, dtype=np.float64), np.asarray(baseline_NS, dtype=np.float64)
    if version == "v2":
        model_NS, baseline_NS = (
            np.column_stack([side[:, 0], side[:, 1:] / (side[:, :1] + 1)]) for side in (model_NS, baseline_NS)
        )
    total_NS = model_NS + baseline_NS + 1
    if version == "v2":
        total_NS[:, 0] -= 1
    difference_NS = (model_NS - baseline_NS) / np.where(total_NS == 0, 1, total_NS)
    spread_S = difference_NS.std(axis=0, ddof=1 if version == "v2" else 0)
    return (difference_NS - difference_NS.mean(axis=0)) / np.where(spread_S == 0, 1, spread_S)


def fit_style(
    model_N: np.ndarray,
    outcome_N: np.ndarray,
    difference_NS: np.ndarray,
    models: int,
    version: Version,
    control: Control = "style",
    weight_N: np.ndarray | None = None,
) -> StyleFit:
    """Fit a Bradley-Terry model with style features to battles against the baseline.

    v0.1 has log odds to base 10 and, by its logistic regression's default, an L2 penalty of strength 1 on all
    coefficients, the baseline's too, against battles that each count twice. v2 has natural log odds and no penalty.
    """
    check_choice("version", version, Version)
    check_choice("control", control, Control)
    weight_N = np.ones(len(model_N)) if weight_N is None else weight_N
    own_NM = np.zeros((len(model_N), models))
    own_NM[np.arange(len(model_N)), model_N] = 1
    style_NK = difference_NS[:, CONTROLS[control]]
    if version == "v2":
        fitted = fit_logistic(np.hstack([own_NM, style_NK]), outcome_N, weight_N)
        return StyleFit(expit(fitted[:models]), fitted[models:])
    unit = np.log(10)
    baseline_N1 = np.full((len(model_N), 1), -unit)
    fitted = fit_penalised(np.hstack([unit * own_NM, baseline_N1, style_NK]), outcome_N, 2 * weight_N)
    return StyleFit(expit(unit * (fitted[:models] - fitted[models])), fitted[models + 1 :])


def bootstrap_style(
    model_N: np.ndarray,
    outcome_N: np.ndarray,
    difference_NS: np.ndarray,
    models: int,
    version: Version,
    control: Control,
    rounds: int,
    seed: int,
) -> np.ndarray:
    """Resample all battles together and refit; return the win rates, (rounds, models).

    They are NaN where nothing can be fitted: no battle of the model was drawn, or all drawn ones ended the same way.

    The draws are those that numpy's legacy generator gives the original code after `numpy.random.seed(seed)`.
    """
    random = np.random.RandomState(seed)
    rates = np.full((rounds, models), np.nan)
    for one in rates:
        counts = np.bincount(random.randint(0, len(model_N), size=len(model_N)), minlength=len(model_N))
        if np.ptp(outcome_N[counts > 0]) == 0:
            continue
        fit = fit_style(model_N, outcome_N, difference_NS, models, version, control, counts.astype(np.float64))
        one[:] = np.where(np.bincount(model_N, weights=counts, minlength=models) > 0, fit.win_rate, np.nan)
    return rates
