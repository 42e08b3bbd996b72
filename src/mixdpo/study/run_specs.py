"""Which runs a study consists of, each with a key made of all that decides its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

from mixdpo.common.files import content_name, digest
from mixdpo.common.settings import key_values
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.plan_settings import band_of
from mixdpo.study.study_settings import StudySettings, objective_reads_beta
from mixdpo.study.task import Split
from mixdpo.training.config import MixDPOConfig

Stage = Literal["start", "tune", "final"]
Matched = Literal["epochs", "updates"] | None

# Version of what a run does with its settings; a change that moves numbers by more than rounding raises it, and old
# runs are executed anew.
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An arm as it is run: arms that train fewer pairs than others are run at equal epochs and at equal updates.

    Attributes:
        name: of the arm, with what is equal where that makes two.
        arm: the key of the study's arm.
        matched: what is equal to the other arms; None where both are.
        updates: optimizer steps to take; None for those of the epochs.
    """

    name: str
    arm: str
    matched: Matched = None
    updates: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What one run does: train (unless it is the start), then measure on one split.

    Attributes:
        stage: start measures the untrained model.
        variant: name of the arm as it is run.
        seed: draws the training pairs and the rater's errors, and is the seed of plan and training.
        split: what is measured on.
        bench: the task's settings, JSON-ready.
        work: everything that decides the numbers, JSON-ready.
    """

    stage: Stage
    variant: str
    seed: int
    learning_rate: float | None
    beta: float | None
    split: Split
    bench: Mapping[str, Any]
    work: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Digest of all that decides the numbers; names of arms and studies do not, so studies share runs."""
        return digest([json.dumps([_FORMAT, self.work], sort_keys=True)], size=8)


def variants(study: StudySettings) -> list[Variant]:
    """Return the arms as they are run."""
    shares = {name: kept_share(study, name) for name in study.arms}
    alike = len(set(shares.values())) == 1 and None not in shares.values()
    if alike:
        return [Variant(name=name, arm=name) for name in study.arms]
    most = max((share for share in shares.values() if share is not None), default=1.0)
    pairs = math.floor(most * study.task.pairs + 0.5)
    updates, _ = updates_of(study, pairs)
    found = []
    for name, share in shares.items():
        if share == most:
            found.append(Variant(name=name, arm=name))
        else:
            found.append(Variant(name=f"{name} (equal epochs)", arm=name, matched="epochs"))
            found.append(Variant(name=f"{name} (equal updates)", arm=name, matched="updates", updates=updates))
    return found


def kept_share(study: StudySettings, arm: str) -> float | None:
    """Return the pairs of an arm's epoch over those of the data, None where only the data will tell."""
    subset = study.arms[arm].subset
    share = 1.0 if subset is None else subset.share
    plan = study.plan_of(arm)
    if plan.threshold is None or plan.refill:
        return share
    drops = (plan.easy_route == "drop", plan.hard_route == "drop")
    if not any(drops):
        return share
    band = band_of(plan.threshold)
    if band is None:
        return None
    return share * (sum(band) if drops[0] else 1 - sum(band))


def updates_of(study: StudySettings, pairs: int) -> tuple[int, int]:
    """Return the optimizer steps that the shared epochs take over so many pairs, and the pairs of a step."""
    batch = _shared(study, "per_device_train_batch_size") * _shared(study, "gradient_accumulation_steps")
    return math.ceil(_shared(study, "num_train_epochs") * math.ceil(pairs / batch)), batch


def start_run(study: StudySettings, model: str) -> RunSpec:
    """Return the run that measures the untrained model on the test split."""
    return RunSpec(
        stage="start", variant="start", seed=0, learning_rate=None, beta=None, split="test",
        bench=study.task_settings, work=_work(study, model, "test", None, None),
    )  # fmt: skip


def tuning_runs(study: StudySettings, variant: Variant, model: str) -> list[RunSpec]:
    """Return the trials of an arm, each learning rate with each beta and seed, measured on the validation split.

    Trials that differ only in a beta that nothing reads are one run, which the table of runs shows for each.
    """
    grid = study.arms[variant.arm].tuning or study.tuning
    return [
        _run_spec(study, variant, model, "tune", seed, rate, beta)
        for rate, beta, seed in product(sorted(grid.learning_rate), sorted(grid.beta), study.tuning.seeds)
    ]


def final_runs(study: StudySettings, variant: Variant, model: str, rate: float, beta: float) -> Iterator[RunSpec]:
    """Yield the runs of an arm with its tuned settings, one per seed, measured on the test split."""
    for seed in study.seeds:
        yield _run_spec(study, variant, model, "final", seed, rate, beta)


def _run_spec(
    study: StudySettings, variant: Variant, model: str, stage: Stage, seed: int, rate: float, beta: float
) -> RunSpec:
    split: Split = "validation" if stage == "tune" else "test"
    arm = study.arms[variant.arm]
    train = {**study.train, **arm.train, "learning_rate": rate}
    if reads_beta(study, variant.arm):
        train["beta"] = beta
    if variant.updates is not None:
        train["max_steps"] = variant.updates
    training = {
        "seed": seed,
        "plan": {key: value for key, value in key_values(study.plan_of(variant.arm)).items() if key != "seed"},
        "train": train,
        "subset": asdict(arm.subset) if arm.subset else None,
        "score": sorted(arm.score),
    }
    return RunSpec(
        stage=stage, variant=variant.name, seed=seed, learning_rate=rate, beta=beta, split=split,
        bench=study.bench_of(variant.arm).settings, work=_work(study, model, split, variant.arm, training),
    )  # fmt: skip


def reads_beta(study: StudySettings, arm: str) -> bool:
    """Whether an arm trains any pair with a preference loss."""
    return objective_reads_beta(study.plan_of(arm), {**study.train, **study.arms[arm].train})


def _work(
    study: StudySettings, model: str, split: Split, arm: str | None, training: Mapping[str, Any] | None
) -> dict[str, Any]:
    settings = study.model or ModelSettings(name_or_path=model)
    work = {
        "bench": study.bench_of(arm).task.fingerprint(),
        "model": {
            **key_values(settings),
            "name_or_path": model,
            **{key: content_name(path) for key in ("tokenizer", "chat_template") if (path := getattr(settings, key))},
        },
        "peft": study.peft,
        "limits": {key: _shared(study, key) for key in ("max_length", "max_prompt_length")},
        "generation": asdict(study.generation),
        "split": split,
        "training": training,
    }
    plain: dict[str, Any] = json.loads(json.dumps(work))
    return plain


def _shared(study: StudySettings, key: str) -> Any:
    return study.train.get(key, MixDPOConfig.__dataclass_fields__[key].default)
