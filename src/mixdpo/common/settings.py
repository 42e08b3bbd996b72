"""Strict settings: every key known, every type right, or one line that says what to write instead."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from mixdpo.common.errors import InputError

_T = TypeVar("_T")

SECTIONS: Final[dict[str, str]] = {
    "model": "the policy to start from",
    "data": "the pairs to train on",
    "eval_data": "the pairs to measure on",
    "score": "settings of difficulty metrics, by metric",
    "plan": "order and routes: a name, settings, or the path of a saved plan",
    "audit": "what an audit looks at",
    "train": "settings of the training run",
    "answers": "prompts that the policy answers while it is trained, and who judges the answers",
    "pairs": "how mixdpo rounds makes pairs of the model's own answers",
    "peft": "LoRA adapters (fields of peft.LoraConfig); leave out for full fine-tuning",
}
"""The sections of a recipe."""


_OTHER_NAMES: Final = {
    ("key", "batch_size"): "per_device_train_batch_size",
    ("key", "epochs"): "num_train_epochs",
    ("key", "lr"): "learning_rate",
    ("loss", "aot_pair"): "aot_unpaired",  # each as TRL called it once
    ("loss", "cdpo"): "sigmoid with label_smoothing",
    ("loss", "dpo"): "sigmoid (which is DPO)",
    ("loss", "kto_pair"): "kto",
    ("loss", "nll"): "sft",
    ("loss", "rso"): "hinge",
    ("loss", "wpo"): "sigmoid with use_weighting",
}
"""What people call a thing that is named otherwise, by its kind."""


class _SettingsLoader(yaml.SafeLoader):
    """YAML without its dates: 2026-01-31 stays the text that settings hold."""


_SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Return what a text in YAML says; raises `yaml.YAMLError`."""
    try:
        return yaml.load(text, _SettingsLoader)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="nested too deeply") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping; `InputError` names the line of a syntax error."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from error
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise InputError(f"not valid YAML: {problem}", file=path, row=mark.line + 1 if mark else None) from error
    if content is None:
        raise InputError("the file is empty", file=path)
    if not isinstance(content, dict):
        raise InputError("the top level must be a mapping of sections such as model, data, plan, train", file=path)
    return content


def split_overrides(arguments: Sequence[str], sections: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    """Take settings such as `--plan.order shuffled --train.beta=0.05 --train.bf16` out of a command line.

    Every option named after a section, or with a dot in its name, is a setting; its value is YAML, and true when
    there is none.

    Returns:
        The other arguments, and the settings as nested mappings.

    Raises:
        InputError: a value is not YAML, or a setting is given both whole and by its keys.
    """
    rest: list[str] = []
    result: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or ("." not in key and key not in sections):
            rest.append(word)
            continue
        if not equals:
            text = words.pop(0) if words and not words[0].startswith("--") else "true"
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise InputError(f"the value of --{key} is not valid YAML: {text!r}") from error
        target = result
        *parents, name = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise InputError(
                    f"--{key} is a key of a setting that another option gives whole, as {target!r}",
                    hint="give the keys alone",
                )
        target[name] = value
    return rest, result


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` on top; nested mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        # A threshold {hardest: f} is a value, not a section: replace it as a whole.
        result[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) and key != "threshold" else value
        )
    return result


def build(cls: type[_T], values: Any, section: str, file: str | Path | None = None) -> _T:
    """Make the settings dataclass `cls` from a mapping.

    Raises:
        InputError: unknown key (with the nearest known one), a value of the wrong type, or a missing one.
    """
    return cls(**check_values(cls, values, section, file))


def check_values(cls: type[Any], values: Any, section: str, file: str | Path | None = None) -> dict[str, Any]:
    """Return `values` converted to the types of the fields of dataclass `cls`; raises as `build` does."""
    if not isinstance(values, Mapping):
        raise InputError(f"{section} must be a mapping of settings, not {values!r}", file=file)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    checked = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown_key(f"{section}.{key}", [f"{section}.{name}" for name in fields], file)
        if (part := _settings_within(hints[key])) is not None:
            value = _build_within(part, value, f"{section}.{key}", file)
        if value is False and _knows_no(hints[key]):
            value = "no"  # which YAML reads as false
        if isinstance(value, bool) and not _takes_bool(hints[key]):  # pydantic reads true as the number 1
            raise InputError(
                f"{section}.{key} needs a value other than {str(value).lower()}",
                file=file,
                hint=f"it is: {fields[key].metadata.get('help', key)}",
            )
        try:
            checked[key] = TypeAdapter(hints[key], config=_adapter_config(hints[key])).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            expected = fields[key].metadata.get("help")
            detail = f"{first['msg'][0].lower()}{first['msg'][1:]}, got {value!r}"
            raise InputError(
                f"{section}.{key}: {detail}", file=file, hint=f"it is: {expected}" if expected else None
            ) from error
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in checked:
            raise InputError(
                f"{section}.{name} is missing", file=file, hint=f"it is: {field.metadata.get('help', name)}"
            )
    return checked


_LISTED: Final = 60
"""Keys that a line can name; the section `train` alone has more."""


def unknown_key(key: str, known: Iterable[str], file: str | Path | None = None) -> InputError:
    """Return the error for an unknown key, naming the nearest known one."""
    known = list(known)
    near = _nearest(key, known)
    if near is not None:
        hint = f"did you mean {near}?"
    elif len(known) > _LISTED:
        hint = f"mixdpo train --help all lists the {len(known)} known keys"
    else:
        hint = f"known keys are {', '.join(known) or 'none'}"
    return InputError(f"unknown key {key}", file=file, hint=hint)


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """Return the known key that one is most like, if any; to be of the same section is no likeness."""
    section = key[: key.rfind(".") + 1]
    own = key.removeprefix(section)
    other = f"{section}{_OTHER_NAMES.get(('key', own), '')}"
    if other in known:
        return other
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    alike = near and difflib.get_close_matches(own, [near[0].removeprefix(section)], cutoff=0.5)
    return near[0] if alike else None


def unknown_name(kind: str, name: str, known: Iterable[str], file: str | Path | None = None) -> InputError:
    """Return the error for a loss, metric or plan that does not exist: the nearest one, and all there are."""
    known = list(known)
    other = _OTHER_NAMES.get((kind, name.lower()))
    near = [other] if other else difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]}? There are" if near else "there are"
    return InputError(f"no {kind} is named {name!r}", file=file, hint=f"{guess} {', '.join(known)}")


def _settings_within(hint: Any) -> type[Any] | None:
    """Return the settings dataclass that a field holds, or several of, unless it holds mappings as they are, too."""
    parts = list(_parts(hint))
    if any(kind in (dict, Mapping) for part in parts for kind in (part, typing.get_origin(part))):
        return None
    return next((part for part in parts if dataclasses.is_dataclass(part) and isinstance(part, type)), None)


def _build_within(cls: type[Any], value: Any, section: str, file: str | Path | None) -> Any:
    """Return a value with the mappings in it made into settings, so that an unknown key in them is refused, too."""
    if isinstance(value, Mapping):
        return build(cls, value, section, file)
    if isinstance(value, list):
        return [_build_within(cls, one, f"{section}[{place}]", file) for place, one in enumerate(value, start=1)]
    return value


def _takes_bool(hint: Any) -> bool:
    return any(part in (bool, Any) for part in _parts(hint))


def _knows_no(hint: Any) -> bool:
    enums = (part for part in _parts(hint) if isinstance(part, type) and issubclass(part, Enum))
    return any(member.value == "no" for enum in enums for member in enum)


def _parts(hint: Any) -> Iterator[Any]:
    """Yield a type and those it is made of, such as `X | None` and its two."""
    yield hint
    for part in typing.get_args(hint):
        yield from _parts(part)


def _adapter_config(hint: Any) -> ConfigDict | None:
    # Dataclasses bring their own configuration, and pydantic refuses a second one.
    return None if dataclasses.is_dataclass(hint) else ConfigDict(arbitrary_types_allowed=True)


_BOUNDS: Final = {
    "at_least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "at_most": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}


def key_values(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain values for a key, without what has the metadata `keyed_if_set` and is not.

    A setting that came later is left out at its default, so what was kept before it is still found.
    """
    younger = [f for f in dataclasses.fields(settings) if f.metadata.get("keyed_if_set")]
    unset = {f.name for f in younger if getattr(settings, f.name) == f.default}
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in unset}


def check_ranges(settings: Any, kind: str = "") -> None:
    """Raise `InputError` for a number outside the bounds that its field's metadata names, or an infinite one.

    Args:
        settings: a dataclass instance. Bounds are `at_least`, `above`, `at_most` and `below`; None is in any range. A
            field without bounds is not looked at.
        kind: what the error calls a setting, such as "endpoint setting ".
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        bounds = {word: field.metadata[word] for word in _BOUNDS if word in field.metadata}
        if not bounds or not isinstance(value, (int, float)):
            continue
        if not all(_BOUNDS[word][0](value, bound) for word, bound in bounds.items()):
            words = " and ".join(f"{_BOUNDS[word][1]} {bound:g}" for word, bound in bounds.items())
            raise InputError(f"{kind}{field.name} is {value}; it must be {words}")
        if not math.isfinite(value):
            raise InputError(f"{kind}{field.name} is {value}; it must be finite")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise `InputError` unless the value is one of those of a `Literal`."""
    if value not in typing.get_args(choices):
        raise InputError(f"{name} is {value!r}; it is one of {', '.join(typing.get_args(choices))}")


def check_seed(seed: int) -> None:
    """Raise `InputError` for a seed that no generator takes."""
    if seed < 0:
        raise InputError(f"seed is {seed}; it must be 0 or more")
