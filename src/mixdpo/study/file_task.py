"""The task of one's own pairs: files with scores, measured on held-out pairs and, with a judge, on answers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import atomic_path, digest
from mixdpo.generation.chat_model import Completion
from mixdpo.judges.program import run_program
from mixdpo.study.task import ANSWER_MEASURES, PAIR_MEASURES, HeldOutData, Split, conversation_key

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class FileTask:
    """Pairs from files or the hub. Two columns of ratings, or a margin, say how far apart the answers are.

    The judge is any program. It reads one JSON object a line, `{"prompt": [messages], "answer": text}`, and writes one
    number a line, larger is better, in the same order.

    Raises:
        InputError: a value is out of its range, files cannot be read, or splits share prompts.
    """

    train: str = field(metadata={"help": "file, folder or hub id of the pairs to train on"})
    test: str = field(metadata={"help": "file, folder or hub id of the pairs to measure on, of other prompts"})
    validation: str | None = field(
        default=None, metadata={"help": "pairs to tune on; null: `held_out_pairs` of `train` are set aside"}
    )
    columns: dict[str, str] | None = field(
        default=None, metadata={"help": "names of columns where they differ, as in a recipe's section data"}
    )
    pairs: int = field(default=320, metadata={"help": "training pairs of every seed, a random subset"})
    held_out_pairs: int = field(default=200, metadata={"help": "pairs of a held-out split at most"})
    prompts: int = field(default=40, metadata={"help": "held-out prompts to answer at most; 0: none"})
    judge_command: list[str] | None = field(
        default=None, metadata={"help": "program that grades answers, with its arguments; null: no grade"}
    )
    primary: str = field(default="", metadata={"help": "null: the judge's grade, else preference accuracy"})
    seed: int = field(default=0, metadata={"help": "decides which pairs are held out"})

    training_settings: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        if not self.primary:
            default = "judge" if self.judge_command else "preference_accuracy"
            object.__setattr__(self, "primary", default)
        for name, least in (("pairs", 2), ("held_out_pairs", 2), ("prompts", 0)):
            if getattr(self, name) < least:
                raise InputError(f"bench.{name} is {getattr(self, name)}; it must be {least} or more")
        if self.judge_command is not None and not (self.judge_command and self.prompts):
            raise InputError("bench.judge_command needs a program, and prompts above 0 to answer")
        prompts = {split: set(map(conversation_key, pairs["prompt"])) for split, pairs in self._splits.items()}
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if shared := len(prompts[one] & prompts[other]):
                raise InputError(
                    f"{one} and {other} share {shared:,} prompts", file=self.test, hint="hold out whole prompts"
                )
        given = {"train": self.train, "validation": self.validation or self.train, "test": self.test}
        for name, pairs in self._splits.items():
            if not {"score_chosen", "margin"} & set(pairs.column_names):
                raise InputError(
                    "the pairs have neither two scores nor a margin", file=given[name],
                    hint="name the columns with bench.columns, such as {margin: gap}",
                )  # fmt: skip
        if len(self._splits["train"]) < self.pairs:
            raise InputError(
                f"bench.pairs is {self.pairs}, and {len(self._splits['train']):,} pairs can be trained",
                file=self.train,
            )

    @property
    def margins(self) -> list[str]:
        """Metrics whose margins come with the pairs to train on."""
        columns = self._splits["train"].column_names
        return [name.removeprefix("margin/") for name in columns if name.startswith("margin/")]

    @property
    def validation_measures(self) -> Sequence[str]:
        """What is measured on the validation split."""
        grades = ("judge",) if self.judge_command else ()
        return (*grades, *(ANSWER_MEASURES if self.prompts else ()), *PAIR_MEASURES)

    def fingerprint(self) -> str:
        """Return a digest of the pairs of every split and of what is done with them."""
        from mixdpo.data.arrays import data_fingerprint

        judge = self.judge_command
        if judge is not None:  # the program's own text is part of what it says
            files = [Path(word).read_bytes() for word in judge if Path(word).is_file()]
            judge = [*judge, digest(files)]
        settings = [self.pairs, self.prompts, judge, self.seed]
        return digest([repr(settings), *(data_fingerprint(pairs) for pairs in self._splits.values())])

    def write_train(self, seed: int, path: Path) -> None:
        """Draw a seed's pairs."""
        from mixdpo.data.load import weighted_rows

        pairs = self._splits["train"]
        with atomic_path(path) as temporary:
            pairs.select(weighted_rows(len(pairs), 1.0, self.pairs, [self.seed, seed])).to_parquet(temporary)

    def held_out(self, split: Split, folder: Path) -> HeldOutData:
        """Return pairs of a split and the first of their prompts."""
        pairs = self._splits[split]
        every = pairs["prompt"][:]
        keys = [conversation_key(prompt) for prompt in every]
        prompts = dict(zip(reversed(keys), reversed(every), strict=True))  # the first of each
        first = list(dict.fromkeys(keys))[: self.prompts]
        return HeldOutData(
            prompts=[_messages(prompts[key]) for key in first], prompt_groups=first, pairs=pairs, pair_groups=keys
        )

    def judge(self, split: Split, answers: Sequence[Completion]) -> dict[str, list[float]]:
        """Let the program grade the answers.

        Raises:
            RunError: it cannot be started, fails, or writes something other than one number per answer.
        """
        if self.judge_command is None:
            return {}
        prompts = self.held_out(split, Path()).prompts
        cases = [{"prompt": prompt, "answer": answer.text} for prompt, answer in zip(prompts, answers, strict=True)]
        written = run_program(self.judge_command, cases)
        name = shlex.join(self.judge_command)
        try:
            grades = [float(line) for line in written]
        except ValueError as error:
            raise RunError(f"the judge {name} wrote something that is not a number: {error}") from None
        if not np.isfinite(grades).all():
            raise RunError(f"the judge {name} gave numbers that are not finite")
        return {"judge": grades}

    @cached_property
    def _splits(self) -> dict[str, Dataset]:
        from mixdpo.data.load import weighted_rows
        from mixdpo.difficulty.scored_pairs import load_pairs

        given: dict[str, str | None] = {"train": self.train, "validation": self.validation, "test": self.test}
        splits = {name: load_pairs(path, columns=self.columns) for name, path in given.items() if path is not None}
        rng = np.random.default_rng(self.seed)
        if self.validation is None:
            keys = np.array([conversation_key(prompt) for prompt in splits["train"]["prompt"]])
            names = rng.permutation(np.unique(keys))
            # Whole prompts are set aside, and at least as many pairs as wanted.
            aside = np.isin(keys, names[: self.held_out_pairs])
            splits["validation"] = splits["train"].select(np.flatnonzero(aside))
            splits["train"] = splits["train"].select(np.flatnonzero(~aside))
        for name in ("validation", "test"):
            rows = weighted_rows(len(splits[name]), 1.0, self.held_out_pairs, [self.seed, 0])
            splits[name] = splits[name].select(rows)
        return {name: splits[name] for name in ("train", "validation", "test")}


def _messages(prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": message["role"], "content": message["content"]} for message in prompt]
