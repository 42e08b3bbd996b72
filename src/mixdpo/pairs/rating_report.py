"""What a rating of answers says of itself: judges, what is missing, and how judges were put together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.settings import read_yaml
from mixdpo.common.tables import percent_text
from mixdpo.generation.output_files import report_file
from mixdpo.pairs.answered import AnsweredPrompt
from mixdpo.pairs.judged import Judged, is_judged
from mixdpo.pairs.put_together import Together
from mixdpo.pairs.rating_settings import RatingSettings

_MISSING: Final = {"unread_verdicts": "unread", "off_scale": "off the scale"}
_COUNTS: Final = {
    "empty": "empty answers, which no judge was asked about and which have no score",
    "without_score": "answers without a score, for a judge gave them no rating that can be read",
    "replaced": "answers whose score or rating in the file is replaced",
    "prompts_with_one_answer": "prompts with one answer, which give no pair",
    "prompts_all_equal": "prompts whose answers all have one score, which give ties only",
}
"""What is said of counts in a report."""


def earlier_judges(answers: Path) -> dict[str, Any]:
    """Return the judges of the report beside a file that was rated before, by name; none where there is no report."""
    file = report_file(answers)
    return dict(read_yaml(file).get("judges", {})) if file.is_file() else {}


def rating_report(
    prompts: Sequence[AnsweredPrompt], settings: RatingSettings, judged: Mapping[str, Judged], together: Together,
    earlier: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Return the report.

    Args:
        prompts: with the scores of their answers.
        settings: of this rating.
        judged: what its judges said.
        together: their ratings and those of other judges.
        earlier: what an earlier report says of those.
    """
    scores = [[answer.score for answer in prompt.answers if not math.isnan(answer.score)] for prompt in prompts]
    answers = [answer for prompt in prompts for answer in prompt.answers]
    judges = {
        name: {
            **(judged[name].record if name in judged else earlier.get(name, {"judge": name})),
            "unit": together.units[name],
            "rating": _spread(values),
        }
        for name, values in together.ratings.items()
    }
    mean_of = "standardised ratings" if together.standardised else "ratings"
    return {
        "mixdpo": version("mixdpo"),
        "settings": asdict(settings) | {"judge_prompt": settings.judge_prompt and str(settings.judge_prompt)},
        "prompts": len(prompts),
        "answers": len(answers),
        "empty": sum(not is_judged(answer) for answer in answers),
        "without_score": sum(is_judged(answer) and math.isnan(answer.score) for answer in answers),
        "prompts_with_one_answer": sum(len(prompt.answers) == 1 for prompt in prompts),
        "prompts_all_equal": sum(len(own) > 1 and len(set(own)) == 1 for own in scores),
        "score": "the rating of the only judge"
        if len(judges) == 1
        else f"mean of the {mean_of} of {len(judges)} judges",
        "judges": judges,
    }


def rating_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a person is told of a report, line by line."""
    for name, one in report["judges"].items():
        said = (
            [f"mean {_rounded(one['rating']['mean']):.3g}, deviation {one['rating']['deviation']:.3g}"]
            if one["rating"]
            else []
        )
        if "calls" in one:
            missing = [f"{one[kind]:,} {words}" for kind, words in _MISSING.items()]
            said.append(
                f"of {one['calls']:,} verdicts {sum(one['failed_calls'].values()):,} failed, {', '.join(missing)}"
            )
        if bias := one.get("position_bias"):
            agree = f"both orders agree on {percent_text(bias['consistent']['estimate'], 0)} of pairs"
            first = bias["first_shown"]
            said.append(
                agree
                if first is None
                else f"{agree}, the first shown wins {percent_text(first['estimate'], 0)} of games"
            )
        yield f"{name}: {'; '.join(said)}"
    yield f"score: {report['score']}"
    yield from (f"{words}: {report[kind]:,}" for kind, words in _COUNTS.items() if report[kind])


def _rounded(mean: float) -> float:
    """Return 0 for what rounding leaves of it, as of standardised ratings."""
    return 0.0 if abs(mean) < 1e-12 else mean


def _spread(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    return {"mean": float(known.mean()), "deviation": float(known.std())} if len(known) else {}
