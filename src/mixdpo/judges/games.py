"""Two answers compared in two games with swapped positions: what is asked, labels such as `A>>B`, and scores.

In game 1 the baseline's answer is A and the model's B, in game 2 the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from mixdpo.common.statistics import Interval, proportion, sign_test
from mixdpo.generation.answer_files import AnswerFile
from mixdpo.generation.chat_model import Request
from mixdpo.judges.answers import AnswerPair, AnswerSources
from mixdpo.judges.judge import JudgeItem, Verdict, score_of_a
from mixdpo.judges.prompt import JudgePrompt, placeholders, verdicts_that_count
from mixdpo.judges.task import JudgeTask

Games = tuple[str | None, str | None]
"""Labels of both games of a prompt, None for one that cannot be read."""
_PLACEHOLDERS: Final = (
    ("question", "QUESTION", "question_1", "instruction", "prompt"),
    ("answer_a", "ANSWER_A", "answer_1", "output_1", "response_a"),
    ("answer_b", "ANSWER_B", "answer_2", "output_2", "response_b"),
)
"""What a judge prompt may call the question and the two answers."""
_VERDICT: Final = re.compile(r"\[\[([ABC<>=]+)\]\]")
_OF_LETTER: Final = {"A": "A>B", "B": "B>A", "C": "A=B"}


def game_score(games: Games) -> float:
    """Return the model's mean score (1, 0.5, 0) in the games that have a label, NaN if none has."""
    first, second = score_of_a(games[0]), score_of_a(games[1])
    scores = [1 - first[0]] if first else []
    scores += [second[0]] if second else []
    return float(np.mean(scores)) if scores else np.nan


def game_items(pairs: Sequence[AnswerPair], prompt: JudgePrompt | None, max_tokens: int) -> list[JudgeItem]:
    """Return the two games of each pair, without a prompt for judges that are asked nothing in words.

    Raises:
        InputError: the judge prompt has no placeholder for the question or for an answer.
    """
    items = []
    for pair in pairs:
        for answers in ((pair.baseline, pair.model), (pair.model, pair.baseline)):
            request = game_request(prompt, pair.prompt, answers, max_tokens) if prompt is not None else None
            items.append(JudgeItem((("user", pair.prompt),), answers, request))
    return items


def game_request(prompt: JudgePrompt, question: str, answers: tuple[str, str], max_tokens: int) -> Request:
    """Return what a language model is asked about two answers, the first of which is shown as A.

    Raises:
        InputError: the prompt lacks a placeholder.
    """
    names = placeholders(prompt, _PLACEHOLDERS)
    return prompt.request(dict(zip(names, (question, *answers), strict=True)), max_tokens=max_tokens)


def parse_game(text: str) -> str | None:
    """Read `[[A]]`, `[[B]]`, `[[C]]` (a tie) or a label such as `[[A>>B]]`: that of the last line, see
    `verdicts_that_count`, or else all that there are, which must be the same."""
    found = {_OF_LETTER.get(one, one) for one in verdicts_that_count(text, _VERDICT)}
    return found.pop() if len(found) == 1 else None


def quotes_another(text: str | None, label: str | None) -> bool:
    """Whether a reply whose verdict was read holds another one too, as one that is quoted from an answer."""
    return label is not None and bool({_OF_LETTER.get(one, one) for one in _VERDICT.findall(text or "")} - {label})


def game_rows(
    model: str, pairs: Sequence[AnswerPair], verdicts: Sequence[Verdict], id_column: str = "id"
) -> list[dict[str, Any]]:
    """Return a row for each pair: the labels of both games, both answers and what the judge wrote."""
    rows = []
    for number, pair in enumerate(pairs):
        games = verdicts[2 * number : 2 * number + 2]
        row: dict[str, Any] = {"model": model, id_column: pair.id}
        if pair.category is not None:
            row["category"] = pair.category
        rows.append(
            row
            | {
                "game1": games[0].label,
                "game2": games[1].label,
                "prompt": pair.prompt,
                "output_1": pair.baseline,
                "output_2": pair.model,
                "judgment": [game.reply.text for game in games],
                "failure": "; ".join(game.reply.failure for game in games if game.reply.failure) or None,
            }
        )
    return rows


def game_task(
    sources: AnswerSources, baseline: AnswerFile, longest: int, *, category: str | None = None, id_column: str = "id"
) -> JudgeTask:
    """Compare models' answers with a baseline's in two games each.

    Args:
        sources: whose answers.
        baseline: what they are compared with.
        longest: tokens of a judgement at most, where the sources do not say it.
        category: only prompts of this category.
        id_column: what rows of verdicts call the prompt's id.

    Raises:
        InputError: see `pair_up` and `game_items`.
    """
    prompt, longest = sources.prompt(), sources.max_tokens or longest
    pairs = sources.pairs(baseline, category)
    return JudgeTask(
        items={model: game_items(own, prompt, longest) for model, own in pairs.items()},
        parse=lambda reply: parse_game(reply.text),
        rows=lambda model, verdicts: game_rows(model, pairs[model], verdicts, id_column),
        prompts={model: len(own) for model, own in pairs.items()},
        settings={
            "baseline": baseline.name,
            "judge_prompt": prompt.fingerprint() if prompt is not None else None,
            "max_tokens": longest if prompt is not None else None,
            "limit": sources.limit,
        },
        reasoning=sources.reasoning(baseline),
    )


@dataclass(frozen=True)
class PositionBias:
    """What swapping the two answers does to a judge.

    Attributes:
        consistent: share of prompts where both games have the same winner, or are both ties.
        first_shown: among games with a winner, share won by the answer shown first.
        p_value: exact two-sided test of both-first against both-second verdicts.
    """

    consistent: Interval
    first_shown: Interval | None
    p_value: float


def position_bias(game1: Sequence[float], game2: Sequence[float]) -> PositionBias:
    """Measure position bias from the scores (1, 0.5, 0) of the answer shown first, in a game and in the swapped one.

    Raises:
        ValueError: no prompts, or lists of different lengths.
    """
    a, b = np.asarray(game1, dtype=np.float64), np.asarray(game2, dtype=np.float64)
    if a.shape != b.shape or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} games; two lists of one length are needed")
    shown_first = np.concatenate([a, b])
    decided = shown_first != 0.5
    return PositionBias(
        consistent=proportion(int((a == 1 - b).sum()), len(a)),
        first_shown=proportion(int((shown_first == 1).sum()), int(decided.sum())) if decided.any() else None,
        p_value=sign_test(int(((a == 1) & (b == 1)).sum()), int(((a == 0) & (b == 0)).sum())),
    )


def position_record(games: Sequence[Games]) -> dict[str, Any] | None:
    """Return `position_bias` from the labels of both games of each prompt, of those that have both."""
    scores = [(score_of_a(first), score_of_a(second)) for first, second in games]
    both = [(one[0], two[0]) for one, two in scores if one is not None and two is not None]
    return asdict(position_bias(*zip(*both, strict=True))) if both else None


def spelled_alike(prompt: JudgePrompt) -> JudgePrompt:
    """Return the prompt with its placeholders in their first spelling, so that fingerprints of versions agree."""
    for spellings, name in zip(_PLACEHOLDERS, placeholders(prompt, _PLACEHOLDERS), strict=True):
        messages = tuple((role, text.replace(f"{{{name}}}", f"{{{spellings[0]}}}")) for role, text in prompt.messages)
        prompt = JudgePrompt(messages)
    return prompt
