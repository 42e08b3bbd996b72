"""The stages of one round: answers of the newest model, ratings, pairs, a plan, training, a merged model.

Each reads what the one before it wrote, so that a start that finds files goes on as one that was never stopped.
"""

from __future__ import annotations

import copy
import gc
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from mixdpo.common.progress import pairs_bar
from mixdpo.common.stages import Stage, by_key, run_stage
from mixdpo.common.table_files import write_json_lines
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.pair_files import save_pairs
from mixdpo.difficulty.scored_pairs import load_pairs
from mixdpo.generation.local_model import LocalModel
from mixdpo.generation.prompts import read_prompts
from mixdpo.judges.find_judge import find_judge
from mixdpo.models.model_settings import ModelSettings
from mixdpo.pairs.answered import read_answered, write_answered
from mixdpo.pairs.compare_models import compare_models, in_order_of
from mixdpo.pairs.from_prompts import HOW_CALLED, PairFiles, Prompts, answer_stage, rate_stage
from mixdpo.pairs.make_pairs import make_pairs, save_made_pairs
from mixdpo.plan.make_plan import make_plan
from mixdpo.recipe.held_out_answers import answer_greedily
from mixdpo.recipe.recipe_file import Recipe
from mixdpo.recipe.rounds_results import LAST, START
from mixdpo.recipe.rounds_settings import RoundsSettings
from mixdpo.recipe.runs import train_or_resume
from mixdpo.recipe.scoring import score
from mixdpo.training.merge import merge
from mixdpo.training.run_folder import MODEL_FOLDER, is_free_to_change

PAIRS: Final = "pairs.parquet"
SCORED: Final = "scored.parquet"
PLAN: Final = "plan.parquet"
RUN: Final = "run"
HELD_OUT: Final = "held-out.jsonl"
COMPARED: Final = "held-out.compared.jsonl"
_OF_PEFT: Final = ("peft_type", "peft_version")
"""What adapters say of the library."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round starts from.

    Attributes:
        number: of the round, from 1.
        folder: of its files.
        recipe: whose model is the one that the round begins with.
        start: the model that the first round began with.
    """

    number: int
    folder: Path
    recipe: Recipe
    start: ModelSettings

    @property
    def settings(self) -> RoundsSettings:
        """The section pairs."""
        settings: RoundsSettings = self.recipe.required("pairs")
        return settings

    @property
    def model(self) -> ModelSettings:
        """The model that the round begins with."""
        model: ModelSettings = self.recipe.required("model")
        return model

    @property
    def files(self) -> PairFiles:
        """Where its answers and their ratings are."""
        return PairFiles(folder=self.folder)

    @property
    def trained(self) -> Path:
        """Folder of the model that the round ends with, whole."""
        return self.folder / MODEL_FOLDER if self.recipe.peft is not None else self.folder / RUN / MODEL_FOLDER


def train_round(one: Round) -> ModelSettings:
    """Make what of a round is not there, and return the model that it ends with."""
    for stage in (_answer_and_rate, _choose_pairs, _add_margins, _plan, _train, _merge):
        stage(one)
        gc.collect()  # the models of this stage, before the next one loads its own
    return replace(one.model, name_or_path=str(one.trained), revision=None)


def _answer_and_rate(one: Round) -> None:
    name = f"round-{one.number - 1}" if one.number > 1 else START
    answer_stage(one.settings, {name: one.model}, Prompts(source=one.settings.prompts), one.files, pairs_bar)
    gc.collect()
    rate_stage(one.settings, one.files, pairs_bar)


def _choose_pairs(one: Round) -> None:
    rated, selection = one.folder / one.files.rated, one.settings.selection
    stage = Stage("pairs", PAIRS, by_key(selection, "selection"), {"ratings": rated})
    run_stage(
        one.folder, stage, lambda: save_made_pairs(make_pairs(read_answered(rated), selection), one.folder / PAIRS)
    )


def _add_margins(one: Round) -> None:
    pairs, output, of_score = one.folder / PAIRS, one.folder / SCORED, one.recipe.score
    metrics = list(dict.fromkeys(["rating", one.recipe.plan.metric, *of_score]))
    stage = Stage(
        "margins", SCORED, {"plan.metric": one.recipe.plan.metric, **by_key(of_score, "score")},
        {"pairs": pairs, "model": one.model.name_or_path},
    )  # fmt: skip

    def make() -> None:
        parameters = {name: one.recipe.metric_parameters(name) for name in metrics}
        save_pairs(score(load_pairs(pairs), metrics, **parameters), output)

    run_stage(one.folder, stage, make)


def _plan(one: Round) -> None:
    pairs, output = one.folder / SCORED, one.folder / PLAN
    run_stage(
        one.folder,
        Stage("plan", PLAN, by_key(one.recipe.plan, "plan"), {"pairs": pairs}),
        lambda: make_plan(load_pairs(pairs), settings=one.recipe.plan).save(output),
    )


def _train(one: Round) -> None:
    pairs, plan = one.folder / SCORED, one.folder / PLAN
    reference = one.start if one.settings.reference == "first" and one.number > 1 else None
    stage = Stage(
        "training", RUN,
        {"reference": one.settings.reference, **_of_model(one.model), **_of_training(one.recipe)},
        {"pairs": pairs, "plan": plan, "model": one.model.name_or_path,
         "reference": one.model.name_or_path if reference is None else reference.name_or_path},
        finished=f"{RUN}/{MODEL_FOLDER}",
    )  # fmt: skip

    def make() -> None:
        # The trainer writes into the settings of the adapters.
        recipe = replace(
            one.recipe, data=DataSettings(path=str(pairs)), plan_path=str(plan), peft=copy.deepcopy(one.recipe.peft)
        )
        train_or_resume(recipe, one.folder / RUN, reference)

    run_stage(one.folder, stage, make)


def _merge(one: Round) -> None:
    if one.recipe.peft is None:
        return
    adapter = one.folder / RUN / MODEL_FOLDER
    stage = Stage("merging", MODEL_FOLDER, {}, {"adapter": adapter})
    run_stage(one.folder, stage, lambda: merge(adapter, one.trained))


def answer_held_out(recipe: Recipe, model: ModelSettings, folder: Path) -> Path:
    """Let a model answer the held-out prompts into a folder, and return the file of its answers."""
    settings: RoundsSettings = recipe.required("pairs")
    longest = {"generation.max_new_tokens": settings.generation.max_new_tokens}
    stage = Stage(
        "held-out answers", HELD_OUT, {**longest, **_of_model(model)},
        {"held-out prompts": settings.held_out, "model": model.name_or_path},
    )  # fmt: skip

    def make() -> None:
        prompts, chat_model = read_prompts(settings.held_out), LocalModel(model, settings.batch_size)
        show = partial(pairs_bar, unit="answers")
        write_answered(folder / HELD_OUT, answer_greedily(prompts, chat_model, settings.generation, show))

    run_stage(folder, stage, make)
    return folder / HELD_OUT


def compare_held_out(settings: RoundsSettings, folder: Path, start: Path, last: Path) -> Path:
    """Let the judges compare a round's held-out answers with those of the start and of the round before.

    Args:
        settings: the section pairs.
        folder: of the round, with its held-out answers.
        start: held-out answers of the start.
        last: those of the round before.

    Returns:
        The file of the comparison; see `Compared.rows`.
    """
    newest = folder / HELD_OUT
    prompt = settings.rating.judge_prompt
    inputs = {
        "held-out answers": newest, "held-out answers of the start": start, "held-out answers before": last,
        **({} if prompt is None else {"judge prompt": prompt}),
    }  # fmt: skip

    def make() -> None:
        prompts = read_prompts(settings.held_out)
        own, *others = (in_order_of(prompts, read_answered(path)) for path in (newest, start, last))
        named = dict(zip((START, LAST), others, strict=True))
        judges = [find_judge(one) for one in settings.judges]
        compared = compare_models(own, named, judges, settings.rating, partial(pairs_bar, unit="verdicts"))
        write_json_lines(folder / COMPARED, compared.rows)

    how = {**by_key(settings.judges, "judge", HOW_CALLED), **by_key(settings.rating, "rating")}
    run_stage(folder, Stage("comparison", COMPARED, how, inputs), make)
    return folder / COMPARED


def _of_model(model: ModelSettings) -> dict[str, Any]:
    return by_key(model, "model", ("name_or_path",))  # whose content is an input


def _of_training(recipe: Recipe) -> dict[str, Any]:
    kept = {name: value for name, value in recipe.train.items() if not is_free_to_change(name)}
    return {
        **by_key(kept, "train"), **by_key(recipe.peft, "peft", _OF_PEFT), **by_key(recipe.eval_data, "eval_data"),
        **by_key(recipe.answers, "answers", HOW_CALLED),
    }  # fmt: skip
