"""Ties made on purpose: which answers they are, what a coin decides, and what a study of both kinds comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mixdpo.common.table_files import write_json_lines
from mixdpo.study.analysis import analyse
from mixdpo.study.constraint_task import ConstraintTask, RaterSettings
from mixdpo.study.run_specs import tuning_runs, variants
from mixdpo.study.run_study import run_study
from mixdpo.study.single_run import execute_run
from mixdpo.study.study_file import load_study
from mixdpo.study.study_results import gather
from mixdpo.study.tied_pairs import TieSettings, draw_ties, read_answers, tied_answers
from tiny import tiny_llama

DEMANDS = json.dumps(
    [{"kind": "bold"}, {"kind": "starts_with", "phrase": "In short"}, {"kind": "word", "word": "tea"}]
)
ALL_THREE, TWO, NONE = "In short, **have** tea {}.", "In short, have tea {}.", "Coffee {}."


def answers(number: int, texts: list[str], finished: bool = True) -> list[dict[str, Any]]:
    prompt = f'Write about drink {number}. Mark a word in bold. Begin with "In short". Use the word "tea".'
    return [{"instruction": prompt, "output": t, "finished": finished, "demands": DEMANDS} for t in texts]


def good_and_poor(number: int) -> list[dict[str, Any]]:
    return answers(number, [text.format(i) for i in (1, 2) for text in (ALL_THREE, TWO, NONE)])


@pytest.fixture
def answer_file(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    write_json_lines(path, [row for number in range(20) for row in good_and_poor(number)])
    return path


def test_ties_are_the_best_two_and_the_worst_two_answers() -> None:
    (found,) = tied_answers(good_and_poor(0))
    assert found.best == (3.0, (ALL_THREE.format(1), ALL_THREE.format(2)))
    assert found.worst == (0.0, (NONE.format(1), NONE.format(2)))
    # Grades 0, 0, 2, 2, 3: the best two differ by one. A repeated answer, a cut one and an empty one do not count.
    texts = ["x", "y", TWO.format(1), TWO.format(2), ALL_THREE.format(1), ALL_THREE.format(1), " "]
    (near,) = tied_answers([*answers(0, texts), *answers(0, [ALL_THREE.format(2)], finished=False)])
    assert (near.best[0], near.worst[0]) == (2.5, 0.0)
    # Grades 0, 0, 1, 1, 3: 1 and 3 are no tie.
    (far,) = tied_answers(answers(0, ["x", "y", "tea", "more tea", ALL_THREE.format(1)]))
    assert far.best == (1.0, ("tea", "more tea"))


@pytest.mark.parametrize("texts", [["w", "x", "y", "z"], ["x", "y", "tea"], ["x"], []])
def test_prompts_without_two_ties_of_different_quality_are_left_out(texts: list[str]) -> None:
    assert tied_answers(answers(0, texts)) == []


def test_a_coin_names_the_chosen_answer_whatever_the_quality() -> None:
    prompts = tied_answers([row for number in range(400) for row in good_and_poor(number)])
    (best, left), (worst, same) = (
        draw_ties(prompts, quality, 300, np.random.default_rng(1)) for quality in ("best", "worst")
    )
    assert left == same
    assert len({str(row["prompt"]) for row in (*best, *left)}) == 400, "a prompt is in a tie or in a preference"
    assert {(row["score_chosen"], row["score_rejected"]) for row in left} == {(3.0, 0.0)}
    assert [row["prompt"] for row in best] == [row["prompt"] for row in worst]
    first = [[row["chosen"][0]["content"].endswith(" 1.") for row in rows] for rows in (best, worst)]
    assert first[0] == first[1]
    assert np.mean(first[0]) == pytest.approx(0.5, abs=0.1)
    assert {row["score_chosen"] for row in best} == {row["score_rejected"] for row in best} == {3.0}
    assert {row["score_chosen"] for row in worst} == {0.0}


def test_the_task_puts_ties_among_pairs_that_do_not_depend_on_them(answer_file: Path, tmp_path: Path) -> None:
    rows = {}
    for quality in ("best", "worst"):
        task = ConstraintTask(pairs=16, ties=TieSettings(quality=quality, answers=str(answer_file)))
        task.write_train(1, tmp_path / "pairs.parquet")
        rows[quality] = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
        assert len(rows[quality]) == 16
        margins = [row["score_chosen"] - row["score_rejected"] for row in rows[quality]]
        assert all(margin > 0 for margin in margins[:8])
        assert margins[8:] == [0.0] * 8
    assert rows["best"][:8] == rows["worst"][:8]
    assert rows["best"][8:] != rows["worst"][8:]


def test_ties_are_known_by_their_answers_and_tasks_set_aside_have_none(answer_file: Path, tmp_path: Path) -> None:
    task = ConstraintTask(pairs=16, ties=TieSettings(quality="best", answers=str(answer_file)))
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(answer_file.read_bytes())
    same = ConstraintTask(pairs=16, ties=TieSettings(quality="best", answers=str(moved)))
    assert same.fingerprint() == task.fingerprint()
    moved.write_bytes(answer_file.read_bytes() + b"\n")
    assert same.fingerprint() != task.fingerprint()
    assert ConstraintTask(pairs=16).fingerprint() != task.fingerprint()
    shipped = ConstraintTask(pairs=16, ties=TieSettings(quality="best"))
    aside = {row["prompt"][-1]["content"].split(". ")[0] for row in shipped._pools[1]}
    assert shipped._tie_pool
    assert not any(one.prompt.startswith(tuple(aside)) for one in shipped._tie_pool)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quality": "best", "share": 1.0}, ["bench.ties.share is 1.0"]),
        ({"quality": "best", "answers": "nowhere.jsonl"}, ["no such file"]),
    ],
)
def test_wrong_ties_are_refused(settings: dict[str, Any], words: list[str], refused) -> None:
    refused(lambda: ConstraintTask(pairs=8, ties=TieSettings(**settings)), *words)


def test_ties_that_there_are_too_few_of_are_refused(answer_file: Path, tmp_path: Path, refused) -> None:
    few = TieSettings(quality="best", answers=str(answer_file))
    assert ConstraintTask(pairs=40, ties=few).pairs == 40
    refused(lambda: ConstraintTask(pairs=42, ties=few), "bench.pairs is 42", "40 pairs can be trained")
    refused(lambda: ConstraintTask(pairs=8, ties=few, rater=RaterSettings()), "both say which pairs are ties")
    write_json_lines(tmp_path / "lacking.jsonl", [{"instruction": "a", "output": "b", "finished": True}])
    refused(lambda: read_answers(tmp_path / "lacking.jsonl"), "demands", "make_tie_answers")


def arms_of(answers: str) -> dict[str, Any]:
    sft = {"plan": {"name": "mixdpo_unsorted", "threshold": 0.5}}
    drop = {"plan": {"name": "dpo", "threshold": 0.5, "hard_route": "drop", "refill": True}}
    poor = {"bench": {"ties": {"quality": "worst", "answers": answers}}}
    return {"dropped": drop, "dropped, poor": drop | poor, "SFT, good": sft, "SFT, poor": sft | poor}


@pytest.mark.slow
def test_dropped_ties_make_no_difference_so_the_contrast_is_of_two_arms(
    answer_file: Path, tokenizer, tmp_path: Path
) -> None:
    """(SFT - dropped) on good ties less the same on poor ties is SFT on good ties less SFT on poor ties."""
    tiny_llama(vocab_size=len(tokenizer), positions=512).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arms = arms_of(str(answer_file))
    content = {
        "bench": {"kind": "demands", "pairs": 8, "prompts_per_task": 1, "held_out_tasks": 2,
                  "ties": {"quality": "best", "answers": str(answer_file)}},
        "model": {"name_or_path": str(tmp_path / "model")},
        "train": {"per_device_train_batch_size": 4, "max_length": 192, "use_cpu": True, "disable_tqdm": True},
        "tuning": {"learning_rate": [1.0e-2], "beta": [0.1], "seeds": []},
        "arms": arms,
        "contrasts": {"good less poor": {"arms": ["SFT, good"], "against": ["SFT, poor"]}},
        "seeds": [1],
        "generation": {"max_new_tokens": 2},
    }  # fmt: skip
    path = tmp_path / "ties.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    study = load_study(path)
    assert [(one.name, one.matched) for one in variants(study)] == [(name, None) for name in arms]
    assert not any(tuning_runs(study, variant, "model") for variant in variants(study)), "one setting is not tried"
    runs = run_study(study, tmp_path / "out", runner=lambda folder, *_: execute_run(folder))
    assert {choice.learning_rate for choice in runs.choices} == {1e-2}
    results = gather(study, runs, tmp_path / "out")
    moved = {arm: np.stack(list(seeds.values())) for arm, seeds in results.items("displacement_chosen")[0].items()}
    assert np.array_equal(moved["dropped"], moved["dropped, poor"])
    assert not np.array_equal(moved["SFT, good"], moved["SFT, poor"])
    assert np.abs(moved["dropped"]).max() > 0
    found = analyse(results)
    assert [one.name for one in found.contrasts] == ["good less poor"]
    assert {arm.name: arm.updates for arm in found.arms if arm.name != "start"} == dict.fromkeys(arms, (2,))
    assert next(arm for arm in found.arms if arm.name == "SFT, poor").routes == {"preference": 4.0, "sft": 4.0}


def test_an_arm_may_have_pairs_of_its_own_and_nothing_else(answer_file: Path, tmp_path: Path, refused) -> None:
    ties = {"quality": "best", "answers": str(answer_file)}
    content: dict[str, Any] = {
        "bench": {"kind": "demands", "pairs": 8, "ties": ties},
        "tuning": {"learning_rate": [1e-5], "beta": [0.1], "seeds": []},
        "arms": {"a": {"plan": {"name": "dpo"}}, "b": {"plan": {"name": "dpo"}}},
        "seeds": [1],
    }

    def load(**changes: Any) -> Any:
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return load_study(path)

    def with_own(bench: dict[str, Any]) -> Any:
        return load(arms={"a": {"plan": {"name": "dpo"}}, "b": {"plan": {"name": "dpo"}, "bench": bench}})

    study = with_own({"ties": ties | {"quality": "worst"}})
    assert study.bench_of("b").settings["ties"]["quality"] == "worst"
    assert study.bench_of("a").task is study.bench_of(None).task is study.task
    refused(lambda: with_own({"pairs": 16}), "arms.b.bench.pairs would treat this arm unlike", "rater, ties")
    refused(lambda: with_own({"ties": {"quality": "x"}}), "bench.ties.quality: input should be 'best' or 'worst'")
    tuning = {"learning_rate": [1e-5, 3e-5], "beta": [0.1], "seeds": []}
    refused(lambda: load(tuning=tuning), "without tuning.seeds nothing is tried")
