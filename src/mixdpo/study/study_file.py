"""Read a study file. Strict: what would be unfair is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.settings import build, check_values, unknown_key
from mixdpo.difficulty.metrics import find_metric
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.losses import LossSettings
from mixdpo.models.model_settings import ModelSettings, check_is_model
from mixdpo.plan.check_settings import check_settings
from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.recipe.help_topics import HelpTopic, setting_entries
from mixdpo.recipe.recipe_file import PlanSection, plan_settings, train_values
from mixdpo.study.constraint_task import ConstraintTask, RaterSettings
from mixdpo.study.file_sections import are_seeds, baseline_of, named_arms, read_sections
from mixdpo.study.file_task import FileTask
from mixdpo.study.study_settings import (
    ArmSettings,
    Bench,
    ContrastSettings,
    GridSettings,
    LimitSettings,
    StudySettings,
    SubsetSettings,
    TuningSettings,
    routes_of,
)
from mixdpo.study.task import StudyTask
from mixdpo.study.tied_pairs import TieSettings

STUDY_TASKS: Final[Mapping[str, type[Any]]] = {"demands": ConstraintTask, "files": FileTask}

# What an arm may decide: its objective. Everything else is shared or tuned.
_OBJECTIVE: Final = ({f.name for f in fields(LossSettings)} - {"beta"}) | {
    "loss_type",
    "loss_weights",
    "hard_loss_type",
    "ld_alpha",
    "use_weighting",
    "reward_calibration",
    "sft_weight",
    "sft_target",
    "phase_schedule",
    "stage_reference",
    "sync_ref_model",
    "ref_model_mixup_alpha",
    "ref_model_sync_steps",
    "precompute_ref_log_probs",
}
# What the study decides for every run.
_OWN: Final = {"learning_rate", "beta", "seed", "data_seed", "output_dir", "max_steps", "bf16", "fp16"}
_TOP: Final = (
    "name", "title", "question", "bench", "model", "peft", "train", "arms", "baseline", "tuning", "seeds",
    "contrasts", "generation", "primary", "limits", "level",
)  # fmt: skip


def load_study(file: str | Path) -> StudySettings:
    """Read a study file and check all of it.

    Raises:
        InputError: the file is missing or broken; a key or value is wrong; arms would not be treated alike.
    """
    return read_sections(file, _TOP, ("bench", "arms", "tuning", "seeds"), _study)


def keys_topics() -> list[HelpTopic]:
    """Return the keys of a study file with what they mean, for `--help`."""
    within = {"demands": [*setting_entries(RaterSettings, "rater."), *setting_entries(TieSettings, "ties.")]}
    bench: list[tuple[str, str]] = []
    for kind, cls in STUDY_TASKS.items():
        bench += [(f"kind: {kind}", ""), *setting_entries(cls), *within.get(kind, [])]
    arms = [*setting_entries(ArmSettings), *setting_entries(SubsetSettings, "subset.")]
    return [
        HelpTopic("bench", "the task: data, and what is measured", tuple(bench)),
        HelpTopic("arms", "what is compared; arms.NAME has these keys", tuple(arms)),
        HelpTopic("tuning", "the grid that every arm is tuned on", tuple(setting_entries(TuningSettings))),
        HelpTopic("contrasts", "differences to report; contrasts.NAME", tuple(setting_entries(ContrastSettings))),
        HelpTopic("generation", "how answers are drawn", tuple(setting_entries(SamplingSettings))),
        HelpTopic("limits", "time and memory of a run", tuple(setting_entries(LimitSettings))),
        HelpTopic("file", "keys of the file itself", _OF_FILE),
    ]


_OF_FILE: Final = (
    ("train", "keys of a recipe's section train for all arms"),
    ("model, peft", "as in a recipe"),
    ("seeds", "whole numbers, such as [1, 2, 3]"),
    ("baseline", "an arm's name (default: the first)"),
    ("primary", "the measure that arms are tuned and compared by (default: the task's)"),
    ("name, title, question", "for the report"),
    ("level", "of the intervals (default 0.95)"),
)


def _study(content: dict[str, Any], file: str) -> StudySettings:
    built = {str(name): _arm(str(name), given or {}, file) for name, given in named_arms(content["arms"]).items()}
    tuning = build(TuningSettings, content["tuning"], "tuning", file)
    shared = train_settings(content.get("train") or {}, "train", file)
    for key in sorted(_OWN & set(shared)):
        raise InputError(f"train.{key} is the study's own", hint=_why_own(key))
    name_of_study = str(content.get("name", Path(file).stem))
    if not name_of_study or name_of_study != Path(name_of_study).name:
        raise InputError(f"name is {name_of_study!r}; it becomes the name of a folder")
    seeds = content["seeds"]
    if not seeds or not are_seeds(seeds):
        raise InputError(f"seeds must be a list of whole numbers, not {seeds!r}")
    if len({*seeds, *tuning.seeds}) < len(seeds) + len(tuning.seeds):
        raise InputError("seeds must differ from each other and from tuning.seeds")
    if not tuning.seeds and len(tuning.learning_rate) * len(tuning.beta) > 1:
        raise InputError(
            "without tuning.seeds nothing is tried, and the grid has several settings",
            hint="leave one learning rate and one beta, or give seeds of trials",
        )
    baseline = baseline_of(content, built, file)
    level = content.get("level", 0.95)
    if not isinstance(level, float) or not 0 < level < 1:
        raise InputError(f"level is {level!r}; it must be between 0 and 1, such as 0.95")
    task = make_task(content["bench"], file)
    primary = str(content.get("primary") or task.primary)
    if primary not in task.validation_measures:
        known = ", ".join(task.validation_measures)
        raise InputError(f"primary is {primary!r}, and on the validation split this task measures {known}")
    own = task.margins if isinstance(task, FileTask) else ()
    for name, arm in built.items():
        _check_arm(name, arm, tuning, own, file)
        _check_training(name, shared, arm)
    sections: dict[str, Any] = {
        key: build(cls, content[key] or {}, key, file)
        for key, cls in (("model", ModelSettings), ("generation", SamplingSettings), ("limits", LimitSettings))
        if key in content
    }
    if "model" not in sections and not isinstance(task, ConstraintTask):
        raise InputError("no model is given", hint="add a section model: with name_or_path")
    if "model" in sections:
        check_is_model(sections["model"].name_or_path)
        if sections["model"].adapter is not None:
            raise InputError(
                "model.adapter: a study starts from a whole model",
                hint="merge the adapter into it (`merge_and_unload` of PEFT) and name the merged folder",
            )
    return StudySettings(
        name=name_of_study,
        task=task,
        task_settings=_init_values(content["bench"]["kind"], task),
        own_benches={
            name: _own_bench(name, arm.bench, content["bench"], task, file) for name, arm in built.items() if arm.bench
        },
        arms=built,
        baseline=baseline,
        tuning=tuning,
        seeds=tuple(seeds),
        contrasts=read_contrasts(content.get("contrasts") or {}, built, file),
        title=str(content.get("title") or ""),
        question=str(content.get("question") or ""),
        peft=_adapters(content.get("peft"), file),
        train=shared,
        primary=primary,
        level=level,
        **sections,
    )


def _arm(name: str, given: Any, file: str) -> ArmSettings:
    arm = build(ArmSettings, given, f"arms.{name}", file)
    return replace(arm, train=train_settings(arm.train, f"arms.{name}.train", file))


def train_settings(values: Any, section: str, file: str) -> dict[str, Any]:
    """Check settings of training; what YAML reads as text, such as 1e-2, becomes what it means.

    The rest stays as it is written, because a run is known by it.
    """
    checked = train_values(values, section, file)
    return {key: checked[key] if isinstance(value, str) else value for key, value in values.items()}


def read_contrasts(values: Any, arms: Collection[str], file: str) -> dict[str, ContrastSettings]:
    """Return the section `contrasts`, whose arms are among `arms`."""
    if not isinstance(values, Mapping):
        raise InputError("contrasts must be a mapping of names to arms and what they are compared with")
    built = {str(name): build(ContrastSettings, given, f"contrasts.{name}", file) for name, given in values.items()}
    for name, contrast in built.items():
        named = [*contrast.arms, *contrast.against]
        for arm in named:
            if arm not in arms:
                raise unknown_key(arm, arms, file)
        if not contrast.arms or not contrast.against or len(set(named)) < len(named):
            raise InputError(f"contrasts.{name} needs different arms in arms and in against, one each at least")
    return built


def _adapters(values: Any, file: str) -> Mapping[str, Any] | None:
    if values is None:
        return None
    from peft import LoraConfig

    build(LoraConfig, values, "peft", file)
    return dict(values)


def _why_own(key: str) -> str:
    if key in ("learning_rate", "beta"):
        return "give the values to try in the section tuning, for all arms"
    if key in ("bf16", "fp16"):
        return "bfloat16 is used wherever the hardware has it, for all arms"
    return "leave it out: seeds come from the section seeds, lengths from num_train_epochs, folders from --output"


def check_plan(
    name: str, plan: Mapping[str, Any], train: Mapping[str, Any], owned: Sequence[str], file: str
) -> PlanSettings:
    """Check what an arm does with the pairs, and return the settings of its plan.

    Args:
        name: of the arm.
        plan, train: its sections; `train` may hold nothing but the objective.
        owned: keys of `plan` that are not the arm's to decide.
        file: for errors.
    """
    if name == "start":
        raise InputError("an arm cannot be named start, as the untrained model is", hint="give it another name")
    check_values(PlanSection, plan, f"arms.{name}.plan", file)
    for key in train:
        if key not in _OBJECTIVE:
            raise InputError(
                f"arms.{name}.train.{key} would treat this arm unlike the others",
                hint="put it into the section train, or into tuning if it is to be tuned",
            )
    for key in owned:
        if key in plan:
            raise InputError(f"arms.{name}.plan.{key} is the study's own", hint="leave it out")
    settings, _ = plan_settings(plan, file)
    check_settings(settings)
    if routes_of(settings) == {"drop"}:
        raise InputError(f"arms.{name} drops every pair")
    return settings


def _check_arm(name: str, arm: ArmSettings, tuning: TuningSettings, own_metrics: Sequence[str], file: str) -> None:
    plan = check_plan(name, arm.plan, arm.train, ("seed", "path"), file)
    for metric in (*arm.score, plan.metric):
        if metric not in own_metrics:
            find_metric(metric, file)
    if arm.subset is not None and not 0 < arm.subset.share < 1:
        raise InputError(f"arms.{name}.subset.share is {arm.subset.share}; it must be between 0 and 1")
    check_grids(name, tuning, arm.tuning)


def check_grids(name: str, tuning: GridSettings, own: GridSettings | None) -> None:
    """Raise `InputError` unless an arm's own grid, if it has one, has as many trials as the others'."""
    grids = (tuning, own or tuning)
    for grid in grids:
        if not grid.learning_rate or not grid.beta or min(*grid.learning_rate, *grid.beta) <= 0:
            raise InputError("a grid needs learning rates and betas, all above 0")
    here, common = (len(grid.learning_rate) * len(grid.beta) for grid in reversed(grids))
    if here != common:
        raise InputError(
            f"arms.{name}.tuning has {here} trials, the other arms {common}", hint="give all arms as many"
        )


def _check_training(name: str, shared: Mapping[str, Any], arm: ArmSettings) -> None:
    """Raise `InputError` where training would refuse an arm's settings."""
    from mixdpo.training.config import MixDPOConfig

    secret = next((key for key in shared if key.endswith("_token")), None)
    if secret is not None:
        raise InputError(f"train.{secret} would be recorded with every run", hint="use hf auth login instead")
    try:
        # On the CPU, because a study itself takes hold of no device.
        MixDPOConfig(**{**shared, **arm.train, "use_cpu": True, "bf16": False})
    except InputError as error:
        raise InputError(f"arms.{name}: {error}") from error


def make_task(values: Any, file: str | Path) -> StudyTask:
    """Make the task of the section `bench`: `kind`, and the settings of that kind."""
    if not isinstance(values, Mapping) or values.get("kind") not in STUDY_TASKS:
        raise InputError(f"bench.kind must be one of {', '.join(STUDY_TASKS)}", file=file)
    settings = {key: value for key, value in values.items() if key != "kind"}
    task: StudyTask = build(STUDY_TASKS[values["kind"]], settings, "bench", file)
    return task


def _own_bench(name: str, own: Mapping[str, Any], shared: Mapping[str, Any], task: StudyTask, file: str) -> Bench:
    """Make the task of an arm whose training pairs are its own."""
    for key in own:
        if key not in task.training_settings:
            known = ", ".join(task.training_settings) or "no setting"
            raise InputError(
                f"arms.{name}.bench.{key} would treat this arm unlike the others",
                file=file, hint=f"an arm of this kind of bench may have its own {known}",
            )  # fmt: skip
    made = make_task({**shared, **own}, file)
    return Bench(made, _init_values(shared["kind"], made))


def _init_values(kind: str, task: Any) -> dict[str, Any]:
    return {"kind": kind, **{f.name: asdict(task)[f.name] for f in fields(task) if f.init}}
