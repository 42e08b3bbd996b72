"""Paired differences of models on the same prompts, as tables and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixdpo.common.tables import TextTable
from mixdpo.evaluation.sentences import difference_sentence
from mixdpo.evaluation.statistics.paired import Difference


def paired_table(title: str, label: str, differences: Sequence[Difference], digits: int) -> TextTable:
    """Return the table of paired differences of a metric; a model that all are compared with is in its title.

    Args:
        title: what is compared.
        label: what the metric is called.
        differences: at least one.
        digits: decimals of the gains.
    """
    references = {one.first for one in differences}
    several = len(references) > 1
    rows = [
        [
            one.second,
            *([one.first] if several else []),
            signed(one.gain.estimate, digits) + signed_ends((one.gain.low, one.gain.high), digits),
            f"{one.better} / {one.worse}",
            p_value(one.p_value),
            *([p_value(one.p_adjusted)] if len(differences) > 1 else []),
        ]
        for one in differences
    ]
    names = ["model", "against"] if several else ["model"]
    corrected = ["p (Holm)"] if len(differences) > 1 else []
    headings = [*names, f"gain in {label}", "better / worse", "p", *corrected]
    against = "" if several else f", against {references.pop()}"
    return TextTable(f"{title}{against}", headings, rows, names=len(names))


def paired_method(differences: Sequence[Difference], grouped: bool = False) -> str:
    """Return how differences were tested, in words; `grouped`: groups of prompts were drawn, not prompts."""
    tests = sorted({one.test for one in differences}, reverse=True)
    drawn = "groups of prompts (such as the prompts of one task)" if grouped else "prompts"
    corrected = ", corrected by Holm's method for all of them" if len(differences) > 1 else ""
    return f"intervals: paired bootstrap over {drawn}; p: {' or '.join(tests)}, two-sided{corrected}"


def differences_in(record: Mapping[str, Any]) -> list[Difference]:
    """Return the paired differences that a result file holds."""
    return [Difference.of_record(one) for one in record.get("differences", [])]


def differences_of(record: Mapping[str, Any], label: str) -> TextTable | None:
    """Return the table of the differences that a result file holds; None where there is at most one, which a sentence
    says."""
    found = differences_in(record)
    if len(found) < 2:
        return None
    digits = 1 if max(abs(end) for one in found for end in (one.gain.low, one.gain.high)) >= 20 else 2
    return paired_table("differences on the same prompts", label, found, digits)


def difference_notes(record: Mapping[str, Any]) -> str:
    """Return how the differences of a result were tested."""
    return paired_method(differences_in(record), grouped=record.get("benchmark") == "demands")


def difference_sentences(record: Mapping[str, Any], words: str, unit: str = "") -> list[str]:
    """Return the difference of two models in a sentence; nothing where there are more."""
    found = differences_in(record)
    drawn = "tasks" if record.get("benchmark") == "demands" else "prompts"
    return [difference_sentence(found[0], words, drawn, unit)] if len(found) == 1 else []


def p_value(value: float) -> str:
    """Write a p-value with two significant digits."""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def signed(value: float, digits: int) -> str:
    """Write a number with its sign."""
    return f"{value:+,.{digits}f}".replace("-", "−")


def signed_ends(ends: Sequence[float], digits: int) -> str:
    """Write an interval of numbers with their signs, in brackets."""
    return " [" + ", ".join(signed(end, digits) for end in ends) + "]"
