"""Options of a command made from a settings dataclass, so that name, type, default and help of each stand once."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import click
import yaml
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from mixdpo.common.settings import parse_yaml

Command = Callable[..., Any]


def settings_options(
    cls: type[Any], into: str, *, leave_out: Collection[str] = (), prefix: str = ""
) -> Callable[[Command], Command]:
    """Give a command an option for every field of the dataclass `cls`, and an instance of it as the argument `into`.

    An option is called as its field is. Its type is the field's: `Literal` gives a choice, a tuple an option that may
    be given again (of a fixed length, one of as many values), a mapping one of `KEY=VALUE`, a dict one mapping in
    YAML, a bool a flag, or a pair with `--no-` where it is true by default.
    What else there is to say stands in the field's metadata: `help`; `option` (another name, or several in a tuple);
    `metavar`; and the bounds that `mixdpo.common.settings.check_ranges` reads.

    Args:
        cls: the dataclass.
        into: name of the command's argument.
        leave_out: fields that the command gives itself. It then gets a function that takes them and returns `cls`.
        prefix: what names of options begin with, such as `judge-`, where two settings of a command share names.
    """
    hints = typing.get_type_hints(cls)
    chosen = [field for field in fields(cls) if field.init and field.name not in leave_out]
    options = [_option(field, hints[field.name], prefix) for field in chosen]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_settings(*arguments: Any, **given: Any) -> Any:
            values = {field.name: given.pop(parameter_name(field.name, prefix)) for field in chosen}

            def make(**left_out: Any) -> Any:
                return cls(**values, **left_out)

            return command(*arguments, **{into: make if leave_out else make()}, **given)

        decorated: Command = with_settings
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def parameter_name(field: str, prefix: str) -> str:
    """Return what a command calls the option of a field, for `given_options` and `refuse_options`."""
    return prefix.replace("-", "_") + field


def given_options(*names: str) -> list[str]:
    """Return those of these options that the command line gives, as they are written, in the order of the help."""
    context = click.get_current_context()
    return [
        one.opts[0]
        for one in context.command.params
        if one.name in names and context.get_parameter_source(one.name) is ParameterSource.COMMANDLINE
    ]


def refuse_options(reason: str, *names: str) -> None:
    """Raise `click.UsageError` for those of these options that the command line gives, with the reason."""
    if given := given_options(*names):
        raise click.UsageError(f"{' and '.join(given)}: {reason}.")


def _option(field: Field[Any], hint: Any, prefix: str) -> Callable[[Command], Command]:
    spelled = field.metadata.get("option", "--" + field.name.replace("_", "-"))
    names = [spelled] if isinstance(spelled, str) else list(spelled)
    if prefix:
        names = [f"--{prefix}{name.removeprefix('--').removeprefix(prefix)}" for name in names]
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if default is True:
        names[0] += names[0].replace("--", "/--no-", 1)
    return click.option(
        *names,
        parameter_name(field.name, prefix),
        help=sentence(field.metadata.get("help", field.name)),
        metavar=field.metadata.get("metavar"),
        **_default(default),
        **_kind(_parts(hint), field.metadata),
    )


def _default(default: Any) -> dict[str, Any]:
    if default is MISSING:
        return {"required": True}
    if isinstance(default, Mapping):
        default = tuple(default.items())
    return {"default": default, "show_default": default is not None and default is not False and default != ()}


def _kind(types_of_field: Sequence[Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what click is told of a field's type."""
    first = types_of_field[0]
    if first is bool:
        return {"is_flag": True}
    if get_origin(first) is tuple and get_args(first)[-1] is not Ellipsis:
        return {"type": _click_type(get_args(first)[0], metadata), "nargs": len(get_args(first))}
    if get_origin(first) is tuple:
        return {"type": _click_type(get_args(first)[0], metadata), "multiple": True}
    if get_origin(first) is dict:
        return {"type": YamlMapping()}
    if get_origin(first) is Mapping:
        value = _click_type(_parts(get_args(first)[1])[0], metadata)
        return {"type": _KeyValue(value), "multiple": True, "callback": _as_dict}
    found = [_click_type(one, metadata) for one in types_of_field]
    return {"type": found[0] if len(found) == 1 else _OneOf(found)}


def sentence(help_text: str) -> str:
    """Return the help of a field as the sentence that a command's help prints."""
    return help_text[:1].upper() + help_text[1:].rstrip(".") + "."


def _parts(hint: Any) -> list[Any]:
    """Return the types of a union without the None that stands for an option that is not given; else the type."""
    parts = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return [part for part in parts if part is not type(None)]


def _click_type(kind: Any, bounds: Mapping[str, Any]) -> click.ParamType:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind in (int, float):
        given = {
            "min": bounds.get("at_least", bounds.get("above")), "min_open": "above" in bounds,
            "max": bounds.get("at_most", bounds.get("below")), "max_open": "below" in bounds,
        }  # fmt: skip
        if given["min"] is given["max"] is None:
            return click.INT if kind is int else click.FLOAT
        return click.IntRange(**given) if kind is int else click.FloatRange(**given)
    if kind is Path:
        return click.Path(path_type=Path)
    if kind is str:
        return FILE_OR_NAME
    raise TypeError(f"no option is of type {kind}")


class _FileOrName(click.types.StringParamType):
    """A text that mostly names a file or folder, or else something on a hub or at an endpoint: files are completed."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


FILE_OR_NAME: Final = _FileOrName()


class _OneOf(click.ParamType):
    """A word of a choice, or else a value of another type."""

    name = "choice or value"

    def __init__(self, parts: Sequence[click.ParamType]) -> None:
        self.words = [word for part in parts if isinstance(part, click.Choice) for word in part.choices]
        (self.value,) = (part for part in parts if not isinstance(part, click.Choice))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join([*self.words, self.value.name.upper()])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words:
            return value
        try:
            return self.value.convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message.rstrip('.')}, and not {' or '.join(self.words)}.", param, ctx)


class YamlMapping(click.ParamType):
    """A mapping in YAML, such as `{enable_thinking: false}`."""

    name = "{KEY: VALUE}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the mapping."""
        try:
            found = parse_yaml(value) if isinstance(value, str) else value
        except yaml.YAMLError:
            found = None
        if not isinstance(found, dict):
            self.fail(f"{value}: write a mapping, such as '{{enable_thinking: false}}'.", param, ctx)
        return found


class _KeyValue(click.ParamType):
    name = "KEY=VALUE"

    def __init__(self, value: click.ParamType) -> None:
        self.value = value

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, given = value.partition("=")
        if not (name and equals and given):
            self.fail(f"{value}: write it as {(param and param.metavar) or self.name}.", param, ctx)
        return name, self.value.convert(given, param, ctx)


def _as_dict(context: click.Context, option: click.Parameter, given: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return dict(given)
