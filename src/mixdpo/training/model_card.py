"""The card of a trained model: what it was made of, in the form in which the hub shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import yaml

from mixdpo.common.settings import key_values
from mixdpo.common.tables import percent_text
from mixdpo.losses import LossSettings
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PLANS, PlanSettings
from mixdpo.training.config import MixDPOConfig

_PROJECT: Final = "https://github.com/mixdpo/mixdpo"
_PAPER: Final = "https://arxiv.org/abs/2602.00954"
_SETTINGS: Final = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "loss_type", "loss_weights",
    "hard_loss_type", "sft_weight", "beta", "max_length", "max_prompt_length", "weight_decay", "max_grad_norm", "bf16",
    "seed",
)  # fmt: skip
"""What is always told of a run; parameters of losses are where they were changed."""
_MEASURED: Final = (
    "loss", "loss/preference", "loss/sft", "rewards/accuracies", "rewards/margins", "displacement/chosen",
    "answers/win_rate",
)  # fmt: skip


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        name: of the model.
        base: hub id of the model it was trained from, or the name of its folder.
        base_is_on_hub: whether `base` is a hub id.
        licence: of the base model, None if not known.
        adapters: whether the weights are those of adapters alone.
        data: hub ids and names of files that the pairs are from; empty if not known.
        data_on_hub: those of them that are hub ids.
        plan: what was trained how.
        args: how the run was set.
        step_pairs: pairs of an optimizer step.
        metrics: the lines of `metrics.jsonl`.
        versions: of the libraries.
        tags: further ones for the hub.
    """

    name: str
    base: str
    base_is_on_hub: bool
    licence: str | None
    adapters: bool
    data: Sequence[str]
    data_on_hub: Sequence[str]
    plan: Plan
    args: MixDPOConfig
    step_pairs: int
    metrics: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str]
    tags: Sequence[str] = field(default=())


def model_card(facts: CardFacts) -> str:
    """Return the text of a README.md: metadata as YAML, then what a reader wants to know."""
    plan_name = plan_title(facts.plan.settings)
    parts = [
        f"---\n{_yaml(_metadata(facts))}---",
        f"# {facts.name}",
        f"{facts.base}, trained on {len(facts.plan):,} preference pairs with [mixdpo]({_PROJECT}), {plan_name}.",
        f"## Data\n\n{_data(facts)}",
        f"## Plan\n\n```yaml\n{_yaml(_plain(key_values(facts.plan.settings)))}```",
        f"## Settings\n\n```yaml\n{_yaml(_settings(facts))}```",
        f"## Metrics\n\n{_metrics(facts.metrics)}",
        f"## Licence\n\n{_licence(facts)}",
        f"## Versions\n\n{', '.join(f'{name} {version}' for name, version in facts.versions.items())}",
        f"## Method\n\nDifficulty-aware preference optimisation: [Pang et al. 2026]({_PAPER}).",
    ]
    return "\n\n".join(parts) + "\n"


def plan_title(settings: PlanSettings) -> str:
    """Return the name of the plan that has these settings, or that they are its own."""
    names = [name for name, known in PLANS.items() if known == settings]
    return f"by plan `{names[0]}`" if names else "by a plan of its own"


def _metadata(facts: CardFacts) -> dict[str, Any]:
    losses = {"sigmoid": "dpo"}
    tags = ["mixdpo", *(losses.get(name, name) for name in facts.args.loss_names), *facts.tags]
    metadata: dict[str, Any] = {"library_name": "peft" if facts.adapters else "transformers"}
    if facts.base_is_on_hub:
        metadata |= {"base_model": facts.base}
    if facts.licence is not None:
        metadata |= {"license": facts.licence}
    if facts.data_on_hub:
        metadata |= {"datasets": list(facts.data_on_hub)}
    return {**metadata, "pipeline_tag": "text-generation", "tags": list(dict.fromkeys(tags))}


def _data(facts: CardFacts) -> str:
    origin = f"From {', '.join(facts.data)}." if facts.data else "The run does not say where the pairs are from."
    rows = ["| route | pairs | share |", "| --- | ---: | ---: |"]
    rows += [f"| {r['route']} | {r['pairs']:,} | {percent_text(r['share'])} |" for r in facts.plan.summary()]
    return f"{origin}\n\n" + "\n".join(rows)


def _settings(facts: CardFacts) -> dict[str, Any]:
    args = facts.args
    of_losses = [f.name for f in fields(LossSettings) if getattr(args, f.name) != f.default]
    names = dict.fromkeys([*_SETTINGS, *of_losses])
    values = {name: getattr(args, name) for name in names}
    if args.max_steps <= 0:
        del values["max_steps"]
    return _plain({**values, "pairs_per_step": facts.step_pairs})


def _metrics(lines: Sequence[Mapping[str, Any]]) -> str:
    trained = [line for line in lines if "loss" in line]
    measured = [line for line in lines if any(name.startswith("eval_") for name in line)]
    if not trained:
        return "None was logged."
    names = [f"eval_{name}" for name in _MEASURED]
    last = {name: trained[-1][name] for name in _MEASURED if name in trained[-1]}
    for line in measured:
        last |= {name: line[name] for name in line if name in names or _is_of_a_set(name)}
    rows = [f"| {name} | {value:.4g} |" for name, value in last.items()]
    return "\n".join(
        [f"At the end, step {trained[-1].get('step', '?')}:", "", "| metric | value |", "| --- | ---: |", *rows]
    )


def _is_of_a_set(name: str) -> bool:
    """Whether it is a main metric of one of several evaluation sets, `eval_NAME_rewards/accuracies`."""
    return name.startswith("eval_") and name.endswith(tuple(f"_{main}" for main in _MEASURED))


def _licence(facts: CardFacts) -> str:
    if facts.licence is None:
        return f"Not known: that of {facts.base} applies to what was made of it. Look it up before you use the model."
    return f"That of {facts.base}: {facts.licence}."


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as YAML has them: names of choices instead of their classes."""
    return {name: getattr(value, "value", value) for name, value in values.items() if value is not None}


def _yaml(values: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return text


def base_of(model: Any) -> str:
    """Return the name or folder of the model that another was trained from."""
    adapters = list(getattr(model, "peft_config", {}).values())
    name = adapters[0].base_model_name_or_path if adapters else None
    return str(name or model.config._name_or_path)


def licence_of(base: str) -> str | None:
    """Return the licence that a base model's card names, None where there is no card or the hub is not reached."""
    from huggingface_hub import HfApi, ModelCard

    folder = Path(base)
    try:
        if folder.is_dir():
            return ModelCard.load(folder / "README.md").data.license if (folder / "README.md").is_file() else None
        data = HfApi().model_info(base).card_data
    except Exception:  # a card is not worth a run
        return None
    return None if data is None else data.license
