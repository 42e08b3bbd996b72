"""The validation-loss metric: held-out losses of real short runs, killed ones going on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import binomtest

from mixdpo import MixDPOTrainer, load_pairs, score
from mixdpo.difficulty.validation_loss import dpo_losses, halves
from mixdpo.training import held_out
from tiny import saved, tiny_llama


@pytest.fixture
def model(tmp_path, tokenizer) -> str:
    return saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")


def labelled_pairs(tmp_path: Path, n: int = 64, wrong: int = 12) -> tuple[Dataset, np.ndarray]:
    """Answers of tea are chosen over answers of dogs, except in the pairs that are labelled the wrong way round."""
    rng = np.random.default_rng(0)
    words = ("boil", "water", "wait", "today", "lazy", "fox")
    rows = []
    for i in range(n):
        answers = [f"{thing} {' '.join(rng.choice(words, 3))}" for thing in ("tea", "dogs")]
        answers = answers[::-1] if i < wrong else answers
        messages = [[{"role": "assistant", "content": answer}] for answer in answers]
        prompt = [{"role": "user", "content": f"question {i} {rng.choice(words)}"}]
        rows.append({"prompt": prompt, "chosen": messages[0], "rejected": messages[1]})
    path = tmp_path / "labelled.parquet"
    Dataset.from_list(rows).to_parquet(path)
    return load_pairs(str(path)), np.arange(n) < wrong


FAST = {"repetitions": 2, "learning_rate": 1e-2, "step_size": 8, "beta": 0.1, "lora_r": 4, "bf16": False}


@pytest.mark.slow
def test_validation_loss_is_highest_for_wrong_labels(model, tmp_path) -> None:
    pairs, wrong = labelled_pairs(tmp_path)
    settings = {"model": {"name_or_path": model, "dtype": "float32"}, **FAST}
    margin = np.array(score(pairs, "validation_loss", **settings)["margin/validation_loss"])
    assert (margin < 0).all()
    assert margin[wrong].max() < margin[~wrong].min()
    assert margin[wrong].mean() < -np.log(2) < margin[~wrong].mean()


def test_untrained_runs_have_the_loss_of_the_reference(model, tmp_path) -> None:
    pairs, _ = labelled_pairs(tmp_path, n=8, wrong=0)
    settings = {**FAST, "model": {"name_or_path": model, "dtype": "float32"}, "learning_rate": 0.0, "step_size": 2}
    margin = score(pairs, "validation_loss", **settings)["margin/validation_loss"]
    np.testing.assert_allclose(margin, -np.log(2), atol=1e-5)


def test_runs_of_one_step_train_nothing(model, tmp_path, refused) -> None:
    pairs, _ = labelled_pairs(tmp_path, n=16, wrong=0)
    settings = {"model": {"name_or_path": model, "dtype": "float32"}, **FAST}
    refused(lambda: score(pairs, "validation_loss", **settings), "8 pairs in one step of 8", "step_size")


@pytest.mark.slow
def test_killed_runs_go_on_and_the_seed_decides(model, tmp_path, monkeypatch) -> None:
    pairs, _ = labelled_pairs(tmp_path, n=16, wrong=2)
    settings = {"model": {"name_or_path": model, "dtype": "float32"}, **FAST, "step_size": 2}
    original, runs = held_out.train_and_evaluate, []

    def run_once(run):
        if len(runs) == 2:
            raise KeyboardInterrupt
        runs.append(run.folder.name)
        assert not set(run.trained["pair_id"]) & set(run.scored["pair_id"])
        assert len(run.trained) == len(run.scored) == 8
        return original(run)

    monkeypatch.setattr(held_out, "train_and_evaluate", run_once)
    with pytest.raises(KeyboardInterrupt):
        score(pairs, "validation_loss", **settings)
    first, runs = runs, []
    margin = score(pairs, "validation_loss", **settings)["margin/validation_loss"][:]
    assert (len(first), len(runs), len({*first, *runs})) == (2, 2, 4)
    shutil.rmtree(tmp_path_of_cache())
    runs.clear()
    monkeypatch.setattr(held_out, "train_and_evaluate", original)
    assert score(pairs, "validation_loss", **settings)["margin/validation_loss"][:] == margin
    other = score(pairs, "validation_loss", **{**settings, "seed": 1})["margin/validation_loss"][:]
    assert other != margin


@pytest.mark.slow
def test_a_run_killed_in_its_middle_goes_on_from_its_checkpoint(model, tmp_path, monkeypatch) -> None:
    pairs, _ = labelled_pairs(tmp_path, n=32, wrong=4)
    settings = {"model": {"name_or_path": model, "dtype": "float32"}, **FAST, "repetitions": 1, "step_size": 2}
    original, steps, killed_before = MixDPOTrainer.training_step, [], [5, 13]

    def counted(trainer, *arguments):
        if killed_before and len(steps) == killed_before[0]:
            del killed_before[0]
            raise KeyboardInterrupt
        steps.append(trainer.state.global_step)
        return original(trainer, *arguments)

    monkeypatch.setattr(MixDPOTrainer, "training_step", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            score(pairs, "validation_loss", **settings)
    margin = score(pairs, "validation_loss", **settings)["margin/validation_loss"][:]
    # Two runs of eight steps, with a checkpoint after each: no step is done twice.
    assert steps == [*range(8), *range(8)]
    left = [path.name for path in tmp_path_of_cache().rglob("*")]
    assert not [name for name in left if name.startswith("checkpoint")]
    shutil.rmtree(tmp_path_of_cache())
    assert score(pairs, "validation_loss", **settings)["margin/validation_loss"][:] == pytest.approx(margin, abs=1e-6)


def tmp_path_of_cache() -> Path:
    from mixdpo.common.files import cache_folder

    return cache_folder() / "validation_loss"


def test_halves_keep_copies_together() -> None:
    ids = np.array(["a", "b", "c", "d", "a", "b"])
    for seed in range(20):
        half = halves(ids, np.random.default_rng(seed))
        assert half[0] == half[4]
        assert half[1] == half[5]
        assert half[:4].sum() == 2


def test_dpo_losses_by_hand() -> None:
    import pyarrow as pa

    columns = {"chosen": [-10.0], "ref_chosen": [-12.0], "rejected": [-20.0], "ref_rejected": [-15.0]}
    losses = dpo_losses(pa.table({name: np.float32(values) for name, values in columns.items()}), beta=0.2)
    assert losses[0] == pytest.approx(-np.log(1 / (1 + np.exp(-0.2 * 7))))


@pytest.mark.slow
def test_validation_loss_of_smollm2(smollm2, tmp_path) -> None:
    pairs, wrong = labelled_pairs(tmp_path, n=32, wrong=6)
    settings = {**FAST, "repetitions": 1, "learning_rate": 1e-3, "step_size": 4, "preset": "cheap"}
    model = {"name_or_path": str(smollm2), "dtype": "float32"}
    margin = np.array(score(pairs, "validation_loss", model=model, **settings)["margin/validation_loss"])
    assert margin[wrong].mean() < margin[~wrong].mean()
    ranked_right = int((np.argsort(np.argsort(margin))[wrong] < 16).sum())
    assert binomtest(ranked_right, 6, alternative="greater").pvalue < 0.05
