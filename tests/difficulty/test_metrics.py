"""The table of metrics: what exchanging the answers does to each, and how little it costs to read it."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from mixdpo import load_pairs
from mixdpo.difficulty.metrics import METRICS, exchanged_margin, prefers_an_answer


@pytest.mark.parametrize(
    "metric", ["rating", "agreement", "judge", "nll_gap", "reference_logp", "reward_model", "my_own"]
)
def test_what_prefers_an_answer_is_negated(metric: str) -> None:
    assert exchanged_margin(metric, -2.0) == 2.0
    assert prefers_an_answer(metric)


@pytest.mark.parametrize(
    "metric", ["ches", "ches_length_normalised", "combine", "middle", "fused", "loss_diff", "validation_loss"]
)
def test_what_exchanging_does_not_negate_is_computed_anew(metric: str) -> None:
    assert math.isnan(exchanged_margin(metric, 0.9))
    assert not prefers_an_answer(metric)


def test_how_unlike_the_answers_are_stays() -> None:
    for metric in ("embedding", "preference_variance"):
        assert exchanged_margin(metric, 0.4) == 0.4
        assert not prefers_an_answer(metric)
    # Of length_gap nobody knows here whether it was computed with a sign.
    assert math.isnan(exchanged_margin("length_gap", 0.1))
    assert prefers_an_answer("length_gap")


def test_labels_flipped_in_loading_take_their_margins_along(text_rows, jsonl) -> None:
    margins = {"margin/nll_gap": -1.5, "margin/my_own": 2.0, "margin/embedding": 0.4, "margin/ches": 3.0}
    path = jsonl([{**row, **margins} for row in text_rows])
    flipped = load_pairs(path, contradictions="flip")[2]
    assert flipped["chosen"] == "Felix."
    assert [flipped[name] for name in list(margins)[:3]] == [1.5, -2.0, 0.4]
    assert math.isnan(flipped["margin/ches"])
    assert load_pairs(path)[2]["margin/nll_gap"] == -1.5


def test_the_table_and_settings_are_read_without_heavy_libraries() -> None:
    heavy = ("torch", "transformers", "datasets", "peft", "accelerate", "pyarrow", "scipy", "pandas", "polars")
    program = (
        "import sys\nimport mixdpo.data.data_settings, mixdpo.models.model_settings, mixdpo.plan.plan_settings\n"
        "from mixdpo.difficulty.metrics import METRICS, metric_settings\n"
        f"assert len(METRICS) == {len(METRICS)}\n[metric_settings(name, {{}}) for name in METRICS]\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
