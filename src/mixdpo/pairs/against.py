"""The answers of pairs rated together with policies' own answers to the same prompts, on one scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mixdpo.generation.chat_model import Progress
from mixdpo.judges.judge import Chat, Judge
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.own_answers import OwnAnswers
from mixdpo.pairs.quality import Quality, against, with_quality
from mixdpo.pairs.rate import rate
from mixdpo.pairs.rating_settings import RatingSettings
from mixdpo.pairs.spoken import PairsByPrompt

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class RatedAgainst:
    """Pairs that know how good their answers are.

    Attributes:
        pairs: with the columns `quality/NAME/...` of each policy.
        answers: the policies' answers with their ratings.
        report: `prompts` of the pairs and those `rated`; of each of the `policies` what it answered, of how many pairs
            that says something, and the means of what it says; and `rating`, the report of `rate`.
    """

    pairs: Dataset
    answers: list[AnsweredPrompt]
    report: dict[str, Any]


def rate_against(
    dataset: Dataset,
    pairs: PairsByPrompt,
    policies: Mapping[str, OwnAnswers],
    judges: Sequence[Judge],
    settings: RatingSettings,
    progress: Callable[[str], Progress] | None = None,
) -> RatedAgainst:
    """Rate chosen, rejected and the policies' own answers to each prompt together, and write down how they compare.

    Args:
        dataset: the pairs.
        pairs: what is said in them, and which prompts are rated.
        policies: their answers to these prompts, by name.
        judges: who rates, see `rate`.
        settings: how.
        progress: see `rate`.

    Raises:
        InputError: see `rate`.
        RunError: see `rate`.
    """
    rated = rate(answers_to_rate(pairs, policies), judges, settings, progress)
    found = {one.chat: {answer.text: answer for answer in one.answers} for one in rated.prompts}
    records = {}
    for name, own in policies.items():
        quality = _quality(pairs, found, own)
        dataset = with_quality(dataset, name, quality)
        records[name] = _record(quality, pairs, own)
    answers = [replace(one, answers=tuple(_rated(one.chat, policies, found[one.chat]))) for one in rated.prompts]
    counts = {"prompts": len({pair.chat for pair in pairs.pairs}), "rated": len(rated.prompts)}
    return RatedAgainst(dataset, answers, {**counts, "policies": records, "rating": rated.report})


def answers_to_rate(pairs: PairsByPrompt, policies: Mapping[str, OwnAnswers]) -> list[AnsweredPrompt]:
    """Return the prompts that a policy answered, each with the different answers to it, those of the pairs first.

    All have the columns of the prompt's first pair, which judge prompts and programs may read.
    """
    prompts = []
    for number, (chat, rows) in enumerate(pairs.rows.items()):
        own = [answer for _, answer in _own(chat, policies)]
        if not own:
            continue
        of_pairs = (Answer(text, "pairs") for row in rows for text in pairs.pairs[row].answers)
        different: dict[str, Answer] = {}
        for answer in (*of_pairs, *own):
            different.setdefault(answer.text, replace(answer, columns=pairs.pairs[rows[0]].columns))
        prompts.append(AnsweredPrompt(number, "index", chat, tuple(different.values())))
    return prompts


def _own(chat: Chat, policies: Mapping[str, OwnAnswers]) -> Iterator[tuple[Answer, Answer]]:
    """Yield the policies' answers to a prompt as they stand in their files, and without what earlier judges said."""
    for name, own in policies.items():
        for answer in own.get(chat, ()):
            yield answer, Answer(answer.text, name, answer.finished, answer.tokens)


def _rated(chat: Chat, policies: Mapping[str, OwnAnswers], rated: Mapping[str, Answer]) -> Iterator[Answer]:
    for answer, own in _own(chat, policies):
        of_text = rated[answer.text]
        sampled = {name: answer.columns[name] for name in ("sample", "seed") if name in answer.columns}
        yield replace(own, score=of_text.score, ratings=of_text.ratings, columns=sampled)


def _quality(pairs: PairsByPrompt, rated: Mapping[Chat, Mapping[str, Answer]], own: OwnAnswers) -> Quality:
    values = {side.name: np.full(len(pairs.pairs), np.nan) for side in fields(Quality)}
    for chat, answers in own.items():
        scores = [rated[chat][answer.text].score for answer in answers]
        for row in pairs.rows[chat]:
            for side, text in zip(("chosen", "rejected"), pairs.pairs[row].answers, strict=True):
                values[side][row], values[f"{side}_wins"][row] = against(rated[chat][text].score, scores)
    return Quality(**values)


def _record(quality: Quality, pairs: PairsByPrompt, own: OwnAnswers) -> dict[str, Any]:
    answers = [answer for of_prompt in own.values() for answer in of_prompt]
    values = {side.name: getattr(quality, side.name) for side in fields(Quality)}
    known = {name: of_side[~np.isnan(of_side)] for name, of_side in values.items()}
    return {
        "answers": len(answers),
        "empty": sum(not answer.text.strip() for answer in answers),
        "cut": sum(answer.finished is False for answer in answers),
        "prompts_without_answer": len(pairs.rows) - len(own),
        "pairs": len(pairs.pairs),
        "known": int(quality.known.sum()),
        **{name: float(of_side.mean()) if len(of_side) else None for name, of_side in known.items()},
    }
