"""A policy that answers prompts while it is trained: what is measured, judged and kept; training does not notice."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast

from loopback import running
from mixdpo import AnswersSettings, make_plan
from mixdpo.common.errors import InputError, RunError
from mixdpo.common.table_files import read_json_rows
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.generation.local_generation import answer_rendered
from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.pairs.rating_settings import RatingSettings
from mixdpo.training import answering_trainer
from mixdpo.training.answers import check_can_answer
from mixdpo.training.run_folder import logged_metrics
from synthetic import chat_pairs, chat_rows
from tiny import tiny_llama, tiny_reward_model
from trainers import RecordingTrainer, step_logs, trainer_for

PROMPTS = [f"Tell me about {number} cats and dogs" for number in range(12)]
JUDGE = """
import json, pathlib, sys
calls = pathlib.Path(sys.argv[1])
calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
if len(calls.read_text()) in map(int, sys.argv[2:]):
    sys.exit("out of order")
for line in sys.stdin:
    print(len(set(json.loads(line)["answer"])))
"""


@pytest.fixture
def prompts(jsonl: Callable[..., str]) -> str:
    return jsonl([{"id": f"p{number}", "prompt": text} for number, text in enumerate(PROMPTS)], "prompts.jsonl")


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., JudgeSettings]:
    """A program that counts an answer's different characters, and fails in the calls of these numbers, from 1."""
    script = tmp_path / "judge.py"
    script.write_text(JUDGE)

    def make(*failing: int, name: str = "calls") -> JudgeSettings:
        words = [sys.executable, "-S", str(script), str(tmp_path / name), *map(str, failing)]
        return JudgeSettings(judge=shlex.join(words), kind="program")

    return make


def run(
    tokenizer: PreTrainedTokenizerFast, folder: Path, answers: AnswersSettings | None, **changes: Any
) -> RecordingTrainer:
    """Make a trainer of six steps on twelve pairs, which evaluates after every second one."""
    pairs = chat_pairs(folder.parent, n=12)
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "num_train_epochs": 2, "eval_strategy": "steps" if answers else "no", "eval_steps": 2, "learning_rate": 4e-3,
        "answers": answers, **changes,
    }  # fmt: skip
    plan = make_plan(pairs, "mixdpo_unsorted")
    return trainer_for(tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, folder, plan, **given)


def settings(prompts: str, judge: JudgeSettings | None = None, **changes: Any) -> AnswersSettings:
    return AnswersSettings(prompts=prompts, judge=judge, max_new_tokens=8, batch_size=5, **changes)


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The lines of evaluations, without how long they took."""
    lines = [line for line in logged_metrics(folder) if "eval_answers/tokens" in line]
    return [{name: value for name, value in line.items() if name != "eval_answers/seconds"} for line in lines]


def test_every_evaluation_is_measured_judged_and_kept(tokenizer, prompts, judge, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, "mixdpo"):
        run(tokenizer, tmp_path / "run", settings(prompts, judge())).train()
    lines = evaluations(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert "eval_answers/win_rate" not in lines[0], "the start is not compared with itself"
    start = read_json_rows(tmp_path / "run" / "answers" / "start.jsonl")
    assert [(row["id"], row["instruction"]) for row in start] == [(f"p{n}", text) for n, text in enumerate(PROMPTS)]
    for line in lines[1:]:
        rows = read_json_rows(tmp_path / "run" / "answers" / f"step-{line['step']}.jsonl")
        wins = []
        for row, first in zip(rows, start, strict=True):
            score, before = len(set(row["output"])), len(set(first["output"]))
            assert (row.get("score"), row["start_score"]) == (score or None, before or None), "none of an empty answer"
            wins.append(0.5 + 0.5 * np.sign(score - before))
            assert row["preferred"] == wins[-1]
        assert line["eval_answers/win_rate"] == pytest.approx(np.mean(wins))
        assert line["eval_answers/win_rate_low"] <= np.mean(wins) <= line["eval_answers/win_rate_high"]
        assert line["eval_answers/tokens"] == pytest.approx(np.mean([row["tokens"] for row in rows]))
        assert line["eval_answers/finished"] == pytest.approx(np.mean([row["finished"] for row in rows]))
        assert (line["eval_answers/compared"], line["eval_answers/unread"], line["eval_answers/failed"]) == (12, 0, 0)
    assert any("preferred to the start's, on 12 prompts" in message for message in caplog.messages)


@pytest.mark.parametrize(
    "changes",
    [{}, {"peft_config": LoraConfig(r=4, lora_dropout=0.1)}, {"bf16": True, "gradient_accumulation_steps": 2},
     {"gradient_checkpointing": True, "engine": "padded"}],
    ids=["weights", "adapters with dropout", "bf16", "checkpointing"],
)  # fmt: skip
def test_training_does_not_notice(tokenizer, prompts, judge, tmp_path, changes) -> None:
    alone = run(tokenizer, tmp_path / "alone", None, **changes)
    alone.train()
    answering = run(tokenizer, tmp_path / "run", settings(prompts, judge()), **changes)
    answering.train()
    losses = [[log["loss"] for log in step_logs(tmp_path / name)] for name in ("alone", "run")]
    assert losses[0] == losses[1]
    for a, b in zip(alone.model.parameters(), answering.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_prompts_that_are_trained_on_are_counted(tokenizer, jsonl, tmp_path, caplog) -> None:
    trained = [row["prompt"] for row in chat_rows(12)[:2]]
    file = jsonl([*({"messages": prompt} for prompt in trained), {"prompt": PROMPTS[0]}], "some.jsonl")
    trainer = run(tokenizer, tmp_path / "run", settings(file), max_steps=1)
    with caplog.at_level(logging.INFO, "mixdpo"):
        trainer.train()
    assert any(message.startswith("answers: 2 of 3 prompts are of training pairs") for message in caplog.messages)


BEST = {
    "load_best_model_at_end": True, "metric_for_best_model": "answers/win_rate", "save_strategy": "steps",
    "save_steps": 2, "num_train_epochs": 4,
}  # fmt: skip


def cut(whole: Path, folder: Path, step: int) -> Path:
    """Copy a run as it was after a step."""
    shutil.copytree(whole, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(checkpoint)
    return folder


@pytest.mark.parametrize("patience", [None, 2])
def test_the_best_model_is_kept_and_a_resumed_run_is_the_same(
    patience, tokenizer, prompts, judge, tmp_path, monkeypatch
) -> None:
    changes = {**BEST, "early_stopping_patience": patience, "logging_steps": 5}
    whole = run(tokenizer, tmp_path / "whole", settings(prompts, judge()), **changes)
    whole.train()
    judged = {m["step"]: m["eval_answers/win_rate"] for m in evaluations(tmp_path / "whole")[1:]}
    best = max(judged, key=judged.__getitem__)
    assert whole.state.best_metric == judged[best]
    assert whole.state.best_model_checkpoint == str(tmp_path / "whole" / f"checkpoint-{best}")
    assert max(judged) == (12 if patience is None else best + 2 * patience), "twelve steps, unless it stops"
    assert step_logs(tmp_path / "whole")[-1]["step"] == max(judged), "the last step is logged"
    assert max(judged) > best, "else this test says nothing of the best model"
    kept = type(whole.model).from_pretrained(whole.state.best_model_checkpoint)
    for a, b in zip(whole.model.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)

    written = []
    original = answering_trainer.policy_answers
    monkeypatch.setattr(answering_trainer, "policy_answers", lambda *given: written.append(1) or original(*given))
    resumed = run(tokenizer, cut(tmp_path / "whole", tmp_path / "cut", 4), settings(prompts, judge()), **changes)
    resumed.train(resume_from_checkpoint=True)
    assert len(written) == len([step for step in judged if step > 4]), "the start's answers are read back"
    assert evaluations(tmp_path / "cut") == evaluations(tmp_path / "whole")
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    if patience is not None:  # stopped, and ended before its model was written
        again = run(tokenizer, tmp_path / "whole", settings(prompts, judge()), **changes)
        assert again.train(resume_from_checkpoint=True).global_step == max(judged)


def test_a_judge_that_fails_ends_no_run(tokenizer, prompts, judge, tmp_path, caplog) -> None:
    """The first call is the trial before the first step; the third one is of the second evaluation."""
    changes = {**BEST, "num_train_epochs": 2, "early_stopping_patience": 9}
    trainer = run(tokenizer, tmp_path / "run", settings(prompts, judge(3)), **changes)
    with caplog.at_level(logging.INFO, "mixdpo"):
        trainer.train()
    lines = evaluations(tmp_path / "run")
    assert [("eval_answers/win_rate" in line) for line in lines] == [False, True, False, True]
    assert [("eval_answers/tokens" in line) for line in lines] == [True] * 4
    (line,) = [message for message in caplog.messages if "no win rate" in message]
    assert line.startswith("step 4: no win rate, for the judge failed: the judge ")
    assert not any("stopped" in message for message in caplog.messages), "it has come to its end"
    assert line.endswith("out of order; this step cannot be the best one, and does not count for early stopping")
    rows = read_json_rows(tmp_path / "run" / "answers" / "step-4.jsonl")
    assert len(rows) == len(PROMPTS)
    assert "preferred" not in rows[0]


def test_a_judge_that_cannot_be_asked_ends_the_run_before_its_first_step(tokenizer, prompts, judge, tmp_path) -> None:
    trainer = run(tokenizer, tmp_path / "run", settings(prompts, judge(1)))
    with pytest.raises(RunError, match="out of order"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_language_model_sees_both_orders_and_may_be_gone_for_a_while(tokenizer, prompts, tmp_path, caplog) -> None:
    """It prefers what is shown first, so that every verdict of both orders is a tie."""
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    with running(lambda body: "[[A]]") as server:
        endpoint = EndpointSettings(model="judge", base_url=server.url, max_retries=1)
        trainer = run(
            tokenizer, tmp_path / "run", settings(prompts, JudgeSettings(judge="judge", endpoint=endpoint)),
        )  # fmt: skip
        original = trainer._judge_answers

        def gone_at_step_4(own: Any) -> dict[str, float]:
            server.faults = [503] if trainer.state.global_step == 2 else []
            server.answer = lambda body: 503 if trainer.state.global_step == 4 else "[[A]]"
            return original(own)

        trainer._judge_answers = gone_at_step_4
        trainer.train()
    lines = evaluations(tmp_path / "run")
    assert [line.get("eval_answers/win_rate") for line in lines] == [None, 0.5, None, 0.5]
    assert any("step 4: no win rate, for the judge failed" in message for message in caplog.messages)


def test_answers_that_do_not_fit_are_written_in_smaller_batches(
    tokenizer, prompts, tmp_path, monkeypatch, caplog
) -> None:
    sizes = []

    def short_of_memory(*given: Any, **more: Any) -> Any:
        sizes.append(given[3].batch_size)
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_rendered(*given, **more)

    monkeypatch.setattr("mixdpo.training.answers.answer_rendered", short_of_memory)
    trainer = run(tokenizer, tmp_path / "run", settings(prompts))
    assert set(trainer.evaluate()) > {"eval_answers/tokens", "eval_answers/entropy"}
    assert sizes == [5, 3, 2]
    assert "of the device beside training; now 2 at once" in caplog.text
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    trainer.evaluate()
    assert "of process 1 beside training; now 2 at once" in caplog.text


def test_pairs_are_measured_together_with_answers(tokenizer, prompts, tmp_path) -> None:
    held_out = chat_pairs(tmp_path, n=6, seed=1)
    trainer = run(tokenizer, tmp_path / "run", settings(prompts), eval_dataset=held_out)
    trainer.train()
    both = [line for line in evaluations(tmp_path / "run") if "eval_loss" in line]
    assert [line["step"] for line in both] == [2, 4, 6]
    assert "eval_answers/win_rate" not in both[0], "there is no judge"
    assert "eval_answers/tokens" not in trainer.evaluate(trainer.eval_dataset), (
        "of given pairs, pairs alone are measured"
    )


def test_a_run_stops_by_a_metric_of_pairs_too(tokenizer, tmp_path, caplog) -> None:
    """The loss falls at every step, by less than the threshold."""
    changes = {
        "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "early_stopping_patience": 2,
        "early_stopping_threshold": 1.0, "eval_dataset": chat_pairs(tmp_path, n=6, seed=1),
    }  # fmt: skip
    trainer = run(tokenizer, tmp_path / "run", None, **changes)
    with caplog.at_level(logging.INFO, "mixdpo"):
        assert trainer.train().global_step == 3
    assert any("stopped, for loss did not improve in 2 evaluations" in message for message in caplog.messages)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no evaluation": ({}, {"eval_strategy": "no"}, "nothing is evaluated"),
    "unknown metric": ({}, {"metric_for_best_model": "answers/wins"}, "answers/wins, which no evaluation"),
    "no judge": ({"judge": None}, {"metric_for_best_model": "eval_answers/win_rate"}, "need answers.judge"),
    "no pairs": ({}, {"metric_for_best_model": "loss"}, "is loss, which is measured on pairs"),
    "no metric": ({}, {"early_stopping_patience": 1}, "no metric is measured that could improve"),
    "no patience": ({}, {"early_stopping_threshold": 0.1}, "nothing stops early"),
    "no judge to rate": ({"judge": None, "rating": RatingSettings(mode="pairwise")}, {}, "set answers.judge"),
    "too long": ({"max_new_tokens": 250}, {}, "prompt 1 has"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case, tokenizer, prompts, judge, tmp_path, refused) -> None:
    of_answers, changes, words = REFUSED[case]
    given = {"prompts": prompts, "judge": judge(), "max_new_tokens": 8, **of_answers}
    refused(lambda: run(tokenizer, tmp_path / "run", AnswersSettings(**given), **changes), words)


def test_several_turns_are_refused(tokenizer, jsonl, tmp_path, refused) -> None:
    file = jsonl([{"prompt": "one"}, {"turns": ["one", "two"]}], "turns.jsonl")
    refused(lambda: run(tokenizer, tmp_path / "run", settings(file)), "row 2", "2 turns")


@pytest.mark.parametrize(
    ("kind", "stage", "named"),
    [(DistributedType.FSDP, None, "FSDP"), (DistributedType.DEEPSPEED, 3, "ZeRO-3"),
     (DistributedType.DEEPSPEED, 2, None), (DistributedType.MULTI_GPU, None, None)],
)  # fmt: skip
def test_a_policy_that_no_process_has_whole_is_refused(kind, stage, named, refused) -> None:
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    accelerator: Any = SimpleNamespace(distributed_type=kind, state=SimpleNamespace(deepspeed_plugin=plugin))
    if named is None:
        check_can_answer(accelerator)
    else:
        refused(lambda: check_can_answer(accelerator), named)


def test_a_run_goes_on_with_the_answers_it_was_started_with(tokenizer, prompts, judge, tmp_path) -> None:
    saved, on_a_scale = {"save_strategy": "steps", "save_steps": 2}, RatingSettings(scale=(0, 400))
    same = settings(prompts, judge(), rating=on_a_scale)
    run(tokenizer, tmp_path / "run", same, **saved).train()
    for wrong, named in (
        (settings(prompts), "answers.judge"),
        (settings(prompts, judge(), limit=3), "answers.prompts"),
    ):
        folder = cut(tmp_path / "run", tmp_path / named, 4)
        with pytest.raises(InputError, match=f"started with another {named}"):
            run(tokenizer, folder, wrong, **saved).train(resume_from_checkpoint=True)
    (cut(tmp_path / "run", tmp_path / "cut", 4) / "answers" / "start.jsonl").unlink()
    with pytest.raises(RunError, match="answers of the run's start cannot be read"):
        run(tokenizer, tmp_path / "cut", same, **saved).train(resume_from_checkpoint=True)
    without = run(tokenizer, cut(tmp_path / "run", tmp_path / "without", 4), None, **saved)
    without.train(resume_from_checkpoint=True)
    assert json.loads((tmp_path / "without" / "run.json").read_text())["answers"] is None


@pytest.mark.figure
def test_the_figure_shows_the_answers(tokenizer, prompts, judge, tmp_path) -> None:
    run(tokenizer, tmp_path / "run", settings(prompts, judge())).train()
    drawn = (tmp_path / "run" / "training.svg").read_text()
    assert "preferred to the start" in drawn
    assert "tokens on average" in drawn


def test_a_reward_model_judges(tokenizer, prompts, tmp_path) -> None:
    reward = tiny_reward_model(tokenizer, tmp_path / "reward", pad=tokenizer.pad_token_id)
    run(tokenizer, tmp_path / "run", settings(prompts, JudgeSettings(judge=reward, kind="reward"))).train()
    rows = read_json_rows(tmp_path / "run" / "answers" / "step-6.jsonl")
    for row in rows:
        settled = not row["output"].strip() or "score" not in row
        assert settled or row["preferred"] == 0.5 + 0.5 * np.sign(row["score"] - row["start_score"])
    assert evaluations(tmp_path / "run")[-1]["eval_answers/compared"] == len(PROMPTS)
