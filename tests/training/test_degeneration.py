"""Signs that a policy degenerates, in made-up answers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.training.callbacks import DisplacementAlarm
from mixdpo.training.degeneration import find_degeneration

N = 24


def answers(seed: int = 0, n: int = N, **changes: float) -> list[AnsweredPrompt]:
    """Answers to n prompts with about these measures, by default those of a healthy model."""
    mean = {"tokens": 100.0, "finished": 0.8, "repetition": 0.1, "entropy": 1.0, **changes}
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.8, 1.2, (n, 3))
    return [
        AnsweredPrompt(
            place, "index", (("user", f"question {place}"),),
            (Answer(
                f"an answer to question {place}", "policy", place < mean["finished"] * n,
                round(mean["tokens"] * noise[place, 0]),
                columns={name: mean[name] * noise[place, at] for at, name in ((1, "repetition"), (2, "entropy"))},
            ),),
        )
        for place in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "signs"),
    [
        ({}, set()),
        ({"tokens": 140, "finished": 0.75, "repetition": 0.18, "entropy": 0.6}, set()),  # moved, within bounds
        ({"tokens": 200}, {"longer"}),
        ({"tokens": 30}, {"shorter"}),
        ({"finished": 0.25}, {"unfinished"}),
        ({"repetition": 0.5}, {"repetition"}),
        ({"entropy": 0.2}, {"entropy fell"}),
        ({"entropy": 4.0}, {"entropy rose"}),
        ({"tokens": 155}, set()),  # beyond the bound on average, but not beyond chance
        ({"tokens": 250, "finished": 0.0, "repetition": 0.9}, {"longer", "unfinished", "repetition"}),
    ],
)
def test_signs_of_degeneration(changes, signs) -> None:
    assert set(find_degeneration(answers(1, **changes), answers())) == signs


def test_few_answers_raise_no_alarm() -> None:
    assert find_degeneration(answers(1, n=9, tokens=900), answers(n=9)) == {}


def test_what_the_start_did_not_show_either() -> None:
    empty = [replace(one, answers=(replace(one.answers[0], text=""),)) for one in answers()]
    assert set(find_degeneration(empty, answers())) == {"empty"}
    assert find_degeneration(empty, empty) == {}


@pytest.mark.parametrize(("measured", "where"), [(True, "eval_answers/"), (False, "section answers")])
def test_displacement_is_told_as_what_it_is(measured, where, caplog) -> None:
    alarm, state = DisplacementAlarm(50.0, measured), SimpleNamespace(global_step=7, is_world_process_zero=True)
    for change in (-49.0, -60.0, -70.0):
        alarm.on_log(None, state, None, {"displacement/chosen/hard": change, "displacement/chosen/easy": 1.0})
    (line,) = caplog.messages
    assert line.startswith("step 7: chosen answers of the hard bucket fell 60.0 nats under the reference (bound 50)")
    assert "That is no damage where they are worse than what the policy writes by now" in line
    assert where in line
