"""A configuration on its way to a recipe: each key is taken, guessed, needless or left out, and all of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.training.settings_of_others import OTHERS, RENAMED, Holds, settings_here

SECTIONS: Final = ("model", "data", "eval_data", "plan", "peft", "train")
"""The sections that a converted recipe may have, in their order."""


@dataclass
class Conversion:
    """What was read of a configuration, and the recipe so far.

    Attributes:
        given: the keys that are not dealt with yet; a key that is null says nothing and is not among them.
        trainer: the name of the other trainer.
        recipe: values by section and key.
        taken: keys whose meaning the recipe has.
        guessed: keys, or what they lack, and what was made of it.
        left_out: keys without a counterpart, and the reason or the way there is.
        needless: keys that ask for what holds in any case, and why.
        defaults: settings that the file leaves to the other trainer, whose default is another one.
    """

    given: dict[str, Any]
    trainer: str
    recipe: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in SECTIONS})
    taken: list[str] = field(default_factory=list)
    guessed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    needless: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)

    def take(self, key: str, default: Any = None) -> Any:
        """Return the value of a key that the caller deals with, and count it as taken."""
        if key not in self.given:
            return default
        self.taken.append(key)
        return self.given.pop(key)

    def put(self, setting: str, value: Any) -> None:
        """Set `SECTION.KEY` of the recipe."""
        section, _, key = setting.partition(".")
        self.recipe[section][key] = value

    def move(self, table: Mapping[str, str]) -> None:
        """Take keys that are settings by another name."""
        for key, setting in table.items():
            if key in self.given:
                self.put(setting, self.take(key))

    def leave_out(self, key: str, reason: str) -> None:
        """Drop a key that has no counterpart, if it is there."""
        if key in self.given:
            self.given.pop(key)
            self.left_out[key] = reason

    def leave_out_all(self, table: Mapping[str, str]) -> None:
        """Leave out keys that have no counterpart, each for its reason."""
        for key, reason in table.items():
            self.leave_out(key, reason)

    def drop_needless(self, table: Mapping[str, str]) -> None:
        """Drop keys whose every value is met in any case."""
        for key, reason in table.items():
            if key in self.given:
                self.given.pop(key)
                self.needless[key] = reason

    def drop_unless_on(self, table: Mapping[str, str]) -> None:
        """Drop keys that say no to something there is none of; where they say yes, they are left out."""
        for key, reason in table.items():
            if key in self.given and self.given[key] in (False, 0, "", [], {}, "no", "none"):
                self.given.pop(key)
                self.needless[key] = "is off"
            else:
                self.leave_out(key, reason)

    def refuse(self, key: str, problem: str, hint: str) -> None:
        """Raise `InputError` if a key is there and on: nothing of use would be left without it."""
        if self.given.get(key):
            raise InputError(f"{key}: {problem}", hint=hint)

    def rest_to_train(self, known_there: Callable[[str], bool] = lambda key: False) -> None:
        """Take what is left as settings of the training run, as far as they are some.

        Args:
            known_there: whether the other trainer has a key that nothing is said of here.
        """
        from mixdpo.training.config import UNSUPPORTED, MixDPOConfig  # with PyTorch, so not before a file is read

        known = {f.name for f in fields(MixDPOConfig)}
        for key, value in list(self.given.items()):
            other = OTHERS.get(key)
            target = RENAMED.get(key, key)
            if isinstance(other, Holds):
                self.drop_needless({key: other.reason})
            elif target in UNSUPPORTED and value != UNSUPPORTED[target][0]:
                self.leave_out(key, UNSUPPORTED[target][1])
            elif target in UNSUPPORTED:
                self.drop_needless({key: "is so in any case"})
            elif other is None and target not in known and key != "warmup_ratio":
                self.leave_out(key, "no setting here" if known_there(key) else f"not known as a key of {self.trainer}")
            else:
                self._to_train(key, value, known)

    def _to_train(self, key: str, value: Any, known: set[str]) -> None:
        try:
            settings = settings_here({key: value}, known) if key != "rpo_alpha" else {key: value}
        except InputError as error:
            self.leave_out(key, str(error.hint))
            return
        if not settings:
            self.drop_needless({key: "is so in any case"})
            return
        self.recipe["train"] |= settings
        self.take(key)

    def write_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Write defaults of the other trainer out where they are others than here and the file leaves them."""
        for setting, value in defaults.items():
            section, _, key = setting.partition(".")
            if key not in self.recipe[section]:
                self.put(setting, value)
                self.defaults[setting] = value

    def add_likelihood(self, factor: float) -> None:
        """Add so much of the chosen answers' SFT loss to the preference losses."""
        train = self.recipe["train"]
        listed = train.get("loss_type", "sigmoid")
        losses = [listed] if isinstance(listed, str) else list(listed)
        weights = train.get("loss_weights") or [1.0] * len(losses)
        train |= {"loss_type": [*losses, "sft"], "loss_weights": [*weights, factor]}
