"""What a study is: a task, arms, one grid for all of them, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mixdpo.common.errors import InputError
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.plan_settings import PlanSettings, Route
from mixdpo.recipe.recipe_file import plan_settings
from mixdpo.study.task import StudyTask

Part = Literal["easy", "middle", "hard", "random"]


def routes_of(plan: PlanSettings) -> set[Route]:
    """Return the routes that pairs of a plan can take."""
    return {plan.easy_route} if plan.threshold is None else {plan.easy_route, plan.hard_route}


def objective_reads_beta(plan: PlanSettings, train: Mapping[str, Any]) -> bool:
    """Whether any pair of a plan is trained with a preference loss, by these settings of training."""
    routes = routes_of(plan)
    hard = train.get("hard_loss_type", "sft")
    return bool(routes & {"preference", "both", "tie"}) or ("sft" in routes and hard != "sft")


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """The values that every arm tries, each rate with each beta."""

    learning_rate: list[float] = field(metadata={"help": "peak learning rates to try"})
    beta: list[float] = field(metadata={"help": "values of beta to try"})


@dataclass(frozen=True, kw_only=True)
class TuningSettings(GridSettings):
    """How learning rate and beta are chosen, on the validation split alone."""

    seeds: list[int] = field(
        default_factory=lambda: [1000],
        metadata={
            "help": "seeds of the trials, none of the study's seeds; a setting is judged by its mean over them. "
            "[] takes the grid's only setting untried"
        },
    )


@dataclass(frozen=True, kw_only=True)
class SubsetSettings:
    """Which pairs an arm trains on, by difficulty."""

    part: Part = field(metadata={"help": "easy, middle, hard (by margin; equal margins by seed), or random"})
    share: float = field(default=1 / 3, metadata={"help": "share of the pairs, between 0 and 1"})


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """What one arm does with the pairs."""

    plan: dict[str, Any] = field(default_factory=dict, metadata={"help": "a recipe's section plan"})
    train: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "the objective's keys of a recipe's section train"}
    )
    subset: SubsetSettings | None = field(default=None, metadata={"help": "{part, share}: train on these pairs alone"})
    bench: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "settings of bench that decide training pairs alone (rater, ties), in place of the study's"},
    )
    score: list[str] = field(
        default_factory=list, metadata={"help": "metrics to compute beside the plan's, as signals for threshold auto"}
    )
    tuning: GridSettings | None = field(
        default=None,
        metadata={"help": "a grid of its own, of as many trials, for a loss whose beta is another"},
    )
    note: str = field(default="", metadata={"help": "what it is, for the tables"})


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """A comparison of the mean of some arms with the mean of others, planned before they are run.

    Arms that share what is asked about are pooled: that sees smaller effects than each of them by itself.
    """

    arms: list[str] = field(metadata={"help": "names of arms; one that is run twice counts at equal updates"})
    against: list[str] = field(metadata={"help": "the arms whose mean is subtracted"})


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """What runs may take of the machine.

    Raises:
        InputError: a limit that no run could keep.
    """

    processes: int | None = field(default=None, metadata={"help": "runs at once; null: one per GPU, or one"})
    minutes_per_run: float = field(
        default=240.0, metadata={"help": "a run that takes longer is stopped and counts as failed"}
    )
    keep_models: bool = field(default=False, metadata={"help": "keep the trained models; else deleted once measured"})
    seconds_per_pair: float | None = field(
        default=None, metadata={"help": "expected training time, for the estimate before any run was measured"}
    )

    def __post_init__(self) -> None:
        for name in ("processes", "minutes_per_run", "seconds_per_pair"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"limits.{name} is {value}; it must be above 0")


@dataclass(frozen=True)
class Bench:
    """A task with its settings, JSON-ready, of which `make_task` makes it again."""

    task: StudyTask
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """A whole study.

    Attributes:
        task, task_settings: what models are measured on, and the training pairs of arms that have none of their own.
        own_benches: of arms whose training pairs are others; held-out data are those of `task`.

    Raises:
        InputError: settings that contradict each other.
    """

    name: str
    task: StudyTask
    task_settings: Mapping[str, Any]
    arms: Mapping[str, ArmSettings]
    baseline: str
    tuning: TuningSettings
    seeds: tuple[int, ...]
    own_benches: Mapping[str, Bench] = field(default_factory=dict)
    contrasts: Mapping[str, ContrastSettings] = field(default_factory=dict)
    title: str = ""
    question: str = ""
    model: ModelSettings | None = None
    peft: Mapping[str, Any] | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    generation: SamplingSettings = field(default_factory=SamplingSettings)
    primary: str = ""
    limits: LimitSettings = field(default_factory=LimitSettings)
    level: float = 0.95

    def bench_of(self, arm: str | None) -> Bench:
        """Return the task of an arm, or of the start (None)."""
        return self.own_benches.get(arm or "", Bench(self.task, self.task_settings))

    def plan_of(self, arm: str) -> PlanSettings:
        """Return the settings of an arm's plan."""
        return plan_settings(self.arms[arm].plan, f"arms.{arm}.plan")[0]
