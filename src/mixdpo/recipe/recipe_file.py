"""A recipe: the whole of a run in one YAML file, and the settings each command takes.

The settings of training and of adapters extend classes of transformers and peft, whose import takes seconds. So these
two sections are checked last, and only where they say something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.common.errors import InputError
from mixdpo.common.settings import SECTIONS, build, check_values, merge, read_yaml, unknown_key, unknown_name
from mixdpo.data.data_settings import DataSettings, TokenSettings
from mixdpo.difficulty.metrics import find_metric, metric_settings
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.plan_settings import PLANS, PlanSettings
from mixdpo.recipe.rounds_settings import RoundsSettings
from mixdpo.training.answers_settings import AnswersSettings
from mixdpo.training.training_settings import TrainingSettings

if TYPE_CHECKING:
    from peft import LoraConfig

    from mixdpo.training.config import MixDPOConfig

OF_MODEL: Final = ("chat_template_kwargs", "template_date")
"""Settings of the trainer that a recipe has in its section model, where commands without training read them too."""


OF_NO_TRAIN: Final = {
    **{name: f"set model.{name} instead" for name in (*OF_MODEL, "trust_remote_code")},
    "model_init_kwargs": "set dtype, revision, attn_implementation and the like in the section model",
}
"""Settings of the trainer that a recipe does not have, for commands without training would not read them."""


@dataclass(kw_only=True, frozen=True)
class PlanSection(PlanSettings):
    """The plan section of a recipe: `PlanSettings`, and where to start from."""

    name: str = field(default="mixdpo", metadata={"help": f"plan to start from: {', '.join(PLANS)}"})
    path: str | None = field(default=None, metadata={"help": "a plan saved by `mixdpo plan`, instead of settings"})


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe. Sections that the file does not have are None; `train` is not yet a MixDPOConfig,
    because making one takes hold of the device."""

    model: ModelSettings | None
    data: DataSettings | None
    eval_data: DataSettings | None
    plan: PlanSettings
    plan_path: str | None
    train: Mapping[str, Any]
    peft: LoraConfig | None
    score: Mapping[str, Mapping[str, Any]]
    file: str | None
    audit: AuditSettings = field(default_factory=AuditSettings)
    pairs: RoundsSettings | None = None
    answers: AnswersSettings | None = None

    def required(self, section: str) -> Any:
        """Return a section, or raise `InputError` if the recipe lacks it."""
        value = getattr(self, section)
        if value is None:
            raise InputError(
                f"no {section} is given ({SECTIONS[section]})",
                file=self.file,
                hint=("name it on the command line, or " if section == "data" else "")
                + f"add a section {section}: to the recipe or --{section}.KEY VALUE",
            )
        return value

    def training_config(self, output: str | None = None) -> MixDPOConfig:
        """Return the settings of the trainer, with `output` as folder if given."""
        from mixdpo.training.config import MixDPOConfig

        values = {**self._of_template(), **self.train}
        return MixDPOConfig(**values if output is None else {**values, "output_dir": output})

    def token_settings(self) -> TokenSettings:
        """Return what tokenisation reads, as training would tell it, without taking hold of a device."""
        known = {f.name for f in fields(TrainingSettings)}
        values = {**self._of_template(), **{name: value for name, value in self.train.items() if name in known}}
        return TrainingSettings(**values).token_settings()

    def _of_template(self) -> dict[str, Any]:
        """Return what the section model says that the trainer's settings have too."""
        of_model = {name: getattr(self.model, name, None) for name in OF_MODEL}
        return {name: value for name, value in of_model.items() if value is not None}

    def metrics_to_score(self, given: Sequence[str]) -> list[str]:
        """Return the given metrics; those of the section score if there are none, else the plan's.

        Raises:
            InputError: no metric is named so.
        """
        names = list(given or self.score or [self.plan.metric])
        for name in names:
            find_metric(name, self.file)
        return names

    def metric_parameters(self, name: str) -> dict[str, Any]:
        """Return the settings of a metric: those of the section score, and what other sections say of the rest."""
        parameters = dict(self.score.get(name, {}))
        for f in fields(find_metric(name, self.file).settings):
            section, _, key = f.metadata.get("recipe", "").partition(".")
            if f.name in parameters:
                continue
            if section == "train" and key in self.train:
                parameters[f.name] = self.train[key]
            elif section == "model" and self.model is not None:
                # As training loads it, so that training finds this metric's log-probabilities in the cache.
                under_adapters = self.peft is not None and self.model.dtype == "auto"
                parameters[f.name] = replace(self.model, dtype="bfloat16") if under_adapters else self.model
        return parameters


def load_recipe(file: str | Path | None, overrides: Mapping[str, Any]) -> Recipe:
    """Read a recipe file (or start from nothing), put `overrides` on top, and check every key and type.

    Raises:
        InputError: the file is missing or broken, or a key or value is wrong.
    """
    name = str(file) if file is not None else None
    content, overrides = _plan_in_full(read_yaml(file) if file is not None else {}), _plan_in_full(overrides)
    content = merge(_without_another_plan(content, overrides.get("plan")), overrides)
    for key in content:
        if key not in SECTIONS:
            raise unknown_key(key, SECTIONS, name)
    present = {key: value for key, value in content.items() if value is not None}

    def section(cls: type[Any], key: str) -> Any:
        return build(cls, present[key], key, name) if key in present else None

    plan, plan_path = plan_settings(present.get("plan", {}), name)
    return Recipe(
        model=section(ModelSettings, "model"),
        data=section(DataSettings, "data"),
        eval_data=section(DataSettings, "eval_data"),
        plan=plan,
        plan_path=plan_path,
        score=_score_section(present.get("score", {}), name),
        audit=section(AuditSettings, "audit") or AuditSettings(),
        pairs=section(RoundsSettings, "pairs"),
        answers=section(AnswersSettings, "answers"),
        train=train_values(present.get("train", {}), "train", name),
        peft=_peft_section(present["peft"], name) if "peft" in present else None,
        file=name,
    )


def train_values(values: Any, section: str, file: str | None) -> dict[str, Any]:
    """Return the settings of a section train, converted to their types.

    Raises:
        InputError: an unknown key, a wrong value, or what belongs into the section model.
    """
    if values == {}:
        return {}
    from mixdpo.training.config import MixDPOConfig
    from mixdpo.training.settings_of_others import settings_here

    if isinstance(values, Mapping):
        try:
            values = settings_here(values, [f.name for f in fields(MixDPOConfig)])
        except InputError as error:
            raise error.about(file) from error
    checked = check_values(MixDPOConfig, values, section, file)
    for name, instead in OF_NO_TRAIN.items():
        if name in checked:
            raise InputError(f"{section}.{name} would not reach the other commands", file=file, hint=instead)
    return checked


def _peft_section(values: Any, file: str | None) -> LoraConfig:
    from peft import LoraConfig

    return build(LoraConfig, values, "peft", file)


def _plan_in_full(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections with `plan: NAME` written as `plan: {name: NAME}`, so that further keys do not replace it."""
    plan = sections.get("plan")
    return {**sections, "plan": {"name": plan}} if isinstance(plan, str) else dict(sections)


def _without_another_plan(sections: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """Return sections without their plan where `given` names another one, but for what is the data's of it.

    A recipe's threshold and order were chosen for its own plan: with them `dpo` would not be DPO. Nor is its metric
    read by a plan that is defined by one.
    """
    own = sections.get("plan")
    if not isinstance(own, Mapping) or not isinstance(given, Mapping) or not {"name", "path"} & set(given):
        return dict(sections)
    if "path" in given:
        return {**sections, "plan": {}}
    if "path" not in own and given["name"] == own.get("name", "mixdpo"):
        return dict(sections)
    has_own_metric = given["name"] in PLANS and PLANS[given["name"]].metric != PlanSettings.metric
    kept = ("seed",) if has_own_metric else ("metric", "seed")
    return {**sections, "plan": {key: own[key] for key in kept if key in own}}


def plan_settings(values: Mapping[str, Any], file: str | None) -> tuple[PlanSettings, str | None]:
    """Return what a section plan says: settings, and the path of a saved plan if it names one."""
    changes = check_values(PlanSection, values, "plan", file)
    path = changes.pop("path", None)
    if path is not None:
        if changes:
            raise InputError("plan.path excludes other settings of the plan, which are in that file", file=file)
        return PlanSettings(), path
    name = changes.pop("name", "mixdpo")
    if name not in PLANS:
        raise unknown_name("plan", name, PLANS, file)
    return replace(PLANS[name], **changes), None


def _score_section(values: Any, file: str | None) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(values, Mapping):
        raise InputError(f"score must be a mapping of metrics to their settings, not {values!r}", file=file)
    section = {name: {} if given is None else given for name, given in values.items()}
    for name, given in section.items():
        metric_settings(name, given, file)
    return section


def yaml_text(value: Any) -> str:
    """Return `value` as it is written in a recipe, on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
        .removesuffix("...\n")
        .strip()
    )
