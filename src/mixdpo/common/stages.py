"""Stages of a long command: each makes one output, which a later start knows by the record of what it was made of.

The record is written before the output is begun, so a stage that was killed is known, too. An output whose record says
other settings or other inputs is neither used nor written over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.files import content_name, write_json

RECORD_FILE: Final = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One step of a command.

    Attributes:
        name: what the record calls it.
        output: path within the folder that is there from the first thing that is written.
        settings: what decides the output besides the inputs, by recipe key.
        inputs: what the output is made of, by what it is called: paths, or names of models on the hub.
        finished: path within the folder that is there when the stage is done; default: the output, which comes whole.
    """

    name: str
    output: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str | Path] = field(default_factory=dict)
    finished: str | None = None


def run_stage(folder: Path, stage: Stage, make: Callable[[], object], record: str = RECORD_FILE) -> None:
    """Make the output of a stage, unless it is there.

    Args:
        folder: of the outputs.
        stage: what is made, of what.
        make: writes the output; where a part of it is there already, it goes on from that.
        record: name of the file in the folder that says what the outputs were made of.

    Raises:
        InputError: the output is there and was made of something else, with the first key that differs.
    """
    records = _records(folder / record)
    made_of = json.loads(json.dumps(_made_of(stage)))  # as it will be read back
    if (folder / stage.output).exists():
        _check_same(folder / stage.output, records.get(stage.name), made_of, record)
    else:
        write_json(folder / record, {**records, stage.name: made_of})
    if not (folder / (stage.finished or stage.output)).exists():
        make()


def by_key(settings: Any, prefix: str, without: Collection[str] = ()) -> dict[str, Any]:
    """Return settings as plain values by recipe key, such as `pairs.generation.temperature`.

    Fields of dataclasses that are at their default are left out, so that a field which comes later changes nothing.

    Args:
        settings: a dataclass, a mapping, a list of these, or a value.
        prefix: key of the whole.
        without: names to leave out: of settings that do not decide what comes out.
    """
    if is_dataclass(settings) and not isinstance(settings, type):
        own = {f.name: getattr(settings, f.name) for f in fields(settings)}
        settings = {f.name: own[f.name] for f in fields(settings) if own[f.name] != _default(f)}
    elif isinstance(settings, list) and any(isinstance(one, Mapping) or is_dataclass(one) for one in settings):
        settings = {str(number): one for number, one in enumerate(settings, start=1)}
    if isinstance(settings, Mapping):
        parts = [by_key(value, f"{prefix}.{name}", without) for name, value in settings.items() if name not in without]
        return {key: value for part in parts for key, value in part.items()}
    return {} if settings is None else {prefix: _plain(settings)}


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value))
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _made_of(stage: Stage) -> dict[str, dict[str, Any]]:
    return {
        "settings": dict(stage.settings),
        "inputs": {name: content_name(str(path)) for name, path in stage.inputs.items()},
    }


def _records(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        records: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"the record of the stages cannot be read ({error})", file=path) from error
    return records


def _check_same(output: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any], record: str) -> None:
    anew = f"remove {output.name} to have it made anew, or choose another --output"
    if before is None:
        raise InputError(f"nothing says what it was made of ({record} beside it)", file=output, hint=anew)
    was, is_now = before["settings"], now["settings"]
    for key in {**was, **is_now}:
        if was.get(key) != is_now.get(key):
            made = f"with {key} = {was[key]!r}" if key in was else f"without {key}"
            become = repr(is_now[key]) if key in is_now else "not set"
            raise InputError(f"it was made {made}, which is {become} now", file=output, hint=f"put it back, or {anew}")
    for name in {**before["inputs"], **now["inputs"]}:
        if before["inputs"].get(name) != now["inputs"].get(name):
            raise InputError(f"it was made of other {name} than there are now", file=output, hint=anew)
