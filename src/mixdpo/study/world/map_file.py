"""Read a map file. Strict, as study files are: what would treat arms unlike each other is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.settings import build, unknown_key
from mixdpo.recipe.help_topics import HelpTopic, setting_entries
from mixdpo.study.file_sections import are_seeds, baseline_of, named_arms, read_sections
from mixdpo.study.study_file import check_grids, check_plan, read_contrasts, train_settings
from mixdpo.study.study_settings import TuningSettings
from mixdpo.study.world.map_settings import ArmOfMap, CellOfMap, Crossing, Gate, MapSettings, WorldOfMap
from mixdpo.study.world.pairs import Cell, NaturalCell

_TOP: Final = (
    "name", "title", "pairs", "batch_size", "worlds", "arms", "baseline", "contrasts", "crossing", "seeds",
)  # fmt: skip
_NEEDED: Final = ("worlds", "arms", "crossing", "seeds")
WORLD_NAMES: Final = ("words", "letters", "lists")
"""The keys of `WORLDS`, for files that are checked without PyTorch."""
_MEAN: Final = "mean"
_OF_PAIRS: Final = ("hard_labels_right", "easy_labels_right", "hard_share", "hard_source")
_Source = Literal["writers", "good", "own"]
_HardSource = Literal["writers", "own"]


@dataclass(frozen=True, kw_only=True)
class ArmSection:
    """What one arm of a map does with the pairs."""

    plan: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "a recipe's section plan; its threshold is the cell's share of hard pairs"},
    )
    train: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "the objective's keys of a recipe's section train; label_smoothing: mean is the share of wrong "
            "labels"
        },
    )
    beta: list[float] | None = field(
        default=None, metadata={"help": "values of its own to try, as many, for a loss whose beta is another"}
    )
    gate: Gate | None = field(
        default=None,
        metadata={
            "help": "quality drops hard pairs whose chosen answer is not better than what a policy trained on the "
            "other pairs answers; the rest take their updates"
        },
    )
    order: int = field(default=0, metadata={"help": "another number shuffles the same plan otherwise"})
    note: str = field(default="", metadata={"help": "what it is, for the tables"})


@dataclass(frozen=True, kw_only=True)
class NaturalSection:
    """Cells whose pairs are the best of four answers by a noisy rater against a random other; lists are crossed."""

    source: _Source | list[_Source] = field(
        default="writers",
        metadata={"help": "who wrote the answers: writers of any skill, good ones, or own (the base itself)"},
    )
    rater_noise: float | list[float] = field(
        default=0.15, metadata={"help": "standard deviation of the rater's errors, in reward"}
    )
    hard_share: float | list[float] = field(default=0.3, metadata={"help": "share of pairs that plans call hard"})


@dataclass(frozen=True, kw_only=True)
class CellSection:
    """Cells of a world. Keys that hold lists are crossed."""

    hard_quality: float | list[float] | None = field(
        default=None, metadata={"help": "mean true reward of the hard pairs' answers; null: the world's quality"}
    )
    hard_labels_right: float | list[float] = field(
        default=0.5, metadata={"help": "P, the probability that the label of a hard pair is right"}
    )
    easy_labels_right: float | list[float] = field(default=1.0, metadata={"help": "the same of the other pairs"})
    hard_share: float | list[float] = field(default=0.3, metadata={"help": "share of hard pairs"})
    hard_source: _HardSource | list[_HardSource] = field(
        default="writers", metadata={"help": "who wrote the hard pairs' answers: writers, or own (the base itself)"}
    )
    natural: NaturalSection | None = field(
        default=None, metadata={"help": "pairs as they arise in practice, instead of pairs of set quality and noise"}
    )
    epochs: int | list[int] = field(default=1, metadata={"help": "passes over the pairs"})
    learning_rate: float | None = field(
        default=None, metadata={"help": "one rate for all arms instead of the tuned ones, for weak training"}
    )
    tuned: bool = field(
        default=False,
        metadata={"help": "tune arms here: other cells of the kind (natural or not) take these settings"},
    )
    arms: list[str] | None = field(default=None, metadata={"help": "names of the arms that are run; null: all"})


@dataclass(frozen=True, kw_only=True)
class WorldSection:
    """A world of a map."""

    quality: float = field(metadata={"help": "quality of hard answers in cells that do not say another"})
    cells: list[CellSection] = field(metadata={"help": "see cells"})
    tuning: TuningSettings = field(metadata={"help": "the grid; of a single setting nothing is tuned"})
    seconds_per_run: float | None = field(
        default=None, metadata={"help": "expected time on one core, for the estimate before any run was measured"}
    )


def load_map(file: str | Path) -> MapSettings:
    """Read a map file and check all of it.

    Raises:
        InputError: the file is missing or broken; a key or value is wrong; arms would not be treated alike.
    """
    return read_sections(file, _TOP, _NEEDED, _map)


def keys_topics() -> list[HelpTopic]:
    """Return the keys of a map file with what they mean, for `--help`."""
    worlds = [
        (f"NAME is one of {', '.join(WORLD_NAMES)}", ""),
        *setting_entries(WorldSection),
        *setting_entries(CellSection, "cells."),
        *setting_entries(NaturalSection, "cells.natural."),
        *setting_entries(TuningSettings, "tuning."),
    ]
    return [
        HelpTopic("worlds", "where arms are compared; worlds.NAME has these keys", tuple(worlds)),
        HelpTopic("arms", "what is compared; arms.NAME", tuple(setting_entries(ArmSection))),
        HelpTopic("crossing", "the question whose answer changes sign", tuple(setting_entries(Crossing))),
        HelpTopic("file", "keys of the file itself", _OF_FILE),
    ]


_OF_FILE: Final = (
    ("pairs", "training pairs of a run (default 1500)"),
    ("batch_size", "pairs of a step (default 32)"),
    ("seeds", "whole numbers, such as [1, 2, 3]"),
    ("baseline", "an arm's name (default: the first)"),
    ("contrasts", "as in a study file"),
    ("name, title", "for the report"),
)


def _map(content: dict[str, Any], file: str) -> MapSettings:
    given = named_arms(content["arms"])
    worlds = content["worlds"]
    if not isinstance(worlds, Mapping) or not worlds:
        raise InputError("worlds must be a mapping of names to cells")
    arms = {str(name): _arm(str(name), one or {}, file) for name, one in given.items()}
    seeds = content["seeds"]
    if not are_seeds(seeds) or len(seeds) < 2:
        raise InputError(f"seeds must be a list of two whole numbers or more, not {seeds!r}")
    baseline = baseline_of(content, arms, file)
    crossing = build(Crossing, content["crossing"], "crossing", file)
    for name in (crossing.arm, crossing.against):
        if name not in arms:
            raise unknown_key(name, arms, file)
    numbers = {}
    for key, default in (("pairs", 1500), ("batch_size", 32)):
        numbers[key] = content.get(key, default)
        if type(numbers[key]) is not int or numbers[key] < 2:
            raise InputError(f"{key} is {numbers[key]!r}; it must be a whole number of 2 or more")
    built = {str(name): _world(str(name), one, arms, baseline, seeds, file) for name, one in worlds.items()}
    return MapSettings(
        name=str(content.get("name", Path(file).stem)),
        title=str(content.get("title") or ""),
        worlds=built,
        arms=arms,
        baseline=baseline,
        contrasts=read_contrasts(content.get("contrasts") or {}, arms, file),
        crossing=crossing,
        seeds=tuple(seeds),
        **numbers,
    )


def _arm(name: str, given: Any, file: str) -> ArmOfMap:
    section = build(ArmSection, given, f"arms.{name}", file)
    # Checked with a number in the place of a word that only maps know.
    is_mean = section.train.get("label_smoothing") == _MEAN
    shown = {**section.train, **({"label_smoothing": 0.1} if is_mean else {})}
    train = train_settings(shown, f"arms.{name}.train", file)
    plan = check_plan(name, section.plan, train, ("seed", "path", "metric", "threshold"), file)
    if section.gate is not None and (plan.threshold is None or plan.hard_route == "drop" or plan.refill):
        raise InputError(
            f"arms.{name}.gate decides which hard pairs go to hard_route, and the plan sends none there",
            hint="take a plan such as mixdpo_unsorted",
        )
    values = {f.name: getattr(section, f.name) for f in fields(ArmSection) if f.name not in ("plan", "train")}
    return ArmOfMap(plan=plan, train={**train, **({"label_smoothing": _MEAN} if is_mean else {})}, **values)


def _world(
    name: str, given: Any, arms: Mapping[str, ArmOfMap], baseline: str, seeds: list[int], file: str
) -> WorldOfMap:
    where = f"worlds.{name}"
    if name not in WORLD_NAMES:
        raise unknown_key(where, [f"worlds.{known}" for known in WORLD_NAMES], file)
    section = build(WorldSection, given, where, file)
    for arm, settings in arms.items():
        check_grids(arm, section.tuning, settings.grid(section.tuning))
    if not section.tuning.seeds or {*seeds} & {*section.tuning.seeds}:
        raise InputError(f"{where}.tuning.seeds must be others than seeds, one at least")
    cells: dict[str, CellOfMap] = {}
    for one in section.cells:
        for arm in one.arms or ():
            if arm not in arms:
                raise unknown_key(arm, arms, file)
        if one.arms is not None and baseline not in one.arms:
            raise InputError(f"{where}.cells.arms lacks {baseline}, with which all others are compared")
        for label, cell in _cells(one, section.quality, where):
            if label in cells:
                raise InputError(f"{where} has the cell {label!r} twice")
            cells[label] = cell
    if not cells:
        raise InputError(f"{where}.cells is empty")
    is_tuned = len(section.tuning.learning_rate) * len(section.tuning.beta) > 1
    for kind in {type(cell.pairs) for cell in cells.values()}:
        tuned = [label for label, cell in cells.items() if cell.tuned and type(cell.pairs) is kind]
        if len(tuned) != int(is_tuned):
            what = "natural cells" if kind is NaturalCell else "cells of set quality"
            raise InputError(
                f"{where} tunes arms in {len(tuned)} of its {what}",
                hint="set tuned: true in one cell of each kind" if is_tuned else "its grid has a single setting",
            )
    world = WorldOfMap(cells=cells, tuning=section.tuning, seconds_per_run=section.seconds_per_run)
    for label, cell in cells.items() if is_tuned else ():
        tuned_arms = cells[world.tuned_cell(label)].arms or tuple(arms)
        if untuned := set(cell.arms or arms) - set(tuned_arms):
            raise InputError(
                f"{where}: {sorted(untuned)[0]} is run in {label!r}, and not tuned in any cell of its kind"
            )
    return world


def _cells(section: CellSection, quality: float, where: str) -> Iterator[tuple[str, CellOfMap]]:
    """Yield the cells of a section with names that say all of them."""
    epochs = _as_list(section.epochs)
    pairs = list(_pairs(section, quality))
    if section.tuned and len(pairs) * len(epochs) > 1:
        raise InputError(f"{where}.cells: tuned is for a single cell")
    for (label, one), rounds in product(pairs, epochs):
        for number, what, low, high in (
            (one.hard_share, "hard_share", 0.0, 1.0),
            (getattr(one, "hard_labels_right", 0.5), "hard_labels_right", -0.001, 1.001),
            (getattr(one, "easy_labels_right", 1.0), "easy_labels_right", -0.001, 1.001),
        ):
            if not low < number < high:
                raise InputError(f"{where}.cells: {what} is {number:g}, no share of pairs")
        if rounds < 1:
            raise InputError(f"{where}.cells: epochs is {rounds}; it must be 1 or more")
        label += f", {rounds} epochs" if rounds > 1 else ""
        label += f", rate {section.learning_rate:g}" if section.learning_rate is not None else ""
        yield label, CellOfMap(
            pairs=one, epochs=rounds, learning_rate=section.learning_rate, tuned=section.tuned,
            arms=tuple(section.arms or ()),
        )  # fmt: skip


def _pairs(section: CellSection, quality: float) -> Iterator[tuple[str, Cell | NaturalCell]]:
    if section.natural is not None:
        natural = [_as_list(getattr(section.natural, f.name)) for f in fields(NaturalSection)]
        for source, noise, share in product(*natural):
            label = f"natural, {source}, noise {noise:g}, {share:.0%} hard"
            yield label, NaturalCell(source=source, rater_noise=noise, hard_share=share)
        return
    levels = _as_list(quality if section.hard_quality is None else section.hard_quality)
    others = [_as_list(getattr(section, name)) for name in _OF_PAIRS]
    for level, *values in product(levels, *others):
        cell = Cell(hard_quality=level, **dict(zip(_OF_PAIRS, values, strict=True)))
        label = f"P {cell.hard_labels_right:g}, quality {level:g}, {cell.hard_share:.0%} hard"
        label += f", P {cell.easy_labels_right:g} of others" if cell.easy_labels_right < 1 else ""
        label += ", own answers" if cell.hard_source == "own" else ""
        yield label, cell


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
