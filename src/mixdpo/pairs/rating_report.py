"""What a rating of answers says of itself: judges, what is missing, and how judges were put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mixdpo.common.settings import read_yaml
from mixdpo.generation.output_files import report_file
from mixdpo.pairs.answered import AnsweredPrompt
from mixdpo.pairs.judged import Judged, is_judged
from mixdpo.pairs.put_together import Together
from mixdpo.pairs.rating_settings import RatingSettings


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


def _spread(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    return {"mean": float(known.mean()), "deviation": float(known.std())} if len(known) else {}
