"""What models scored on each item of a benchmark, and what there is to read: one parquet file beside every result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixdpo.common.files import atomic_path
from mixdpo.common.table_files import TableFile
from mixdpo.generation.answer_files import plain_text
from mixdpo.judges.judge import STRONG, score_of_a

TEXTS: Final = ("prompt", "answer", "baseline", "verdict")
SCHEMA: Final = pa.schema(
    [
        ("model", pa.string()),
        ("metric", pa.string()),
        ("id", pa.string()),
        ("score", pa.float64()),
        ("weight", pa.float64()),
        ("group", pa.string()),
        *((name, pa.string()) for name in TEXTS),
    ]
)
_VERDICTS: Final = ("judgment", "judgement", "verdict", "reply", "raw_completion")
_IDS: Final = ("question_id", "uid", "instruction_index", "id")


@dataclass(frozen=True)
class Transcript:
    """What there is to read of one item; None where it is not known."""

    prompt: str | None = None
    answer: str | None = None
    baseline: str | None = None
    """The answer that this one was compared with."""
    verdict: str | None = None


@dataclass(frozen=True)
class ModelItems:
    """One model's items.

    Attributes:
        scores: by metric and id; NaN for none.
        transcripts: by id.
        groups: by id, what items that are not independent have in common; an id that is left out is its own group.
        weights: by id, how much an item counts in the mean of its metric; 1 where left out.
    """

    scores: Mapping[str, dict[str, float]] = field(default_factory=dict)
    transcripts: Mapping[str, Transcript] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def independent(self, metric: str) -> dict[str, float]:
        """Return the scores there are, by id; those of one group as their weighted mean, by its name."""
        known = {id: value for id, value in self.scores[metric].items() if np.isfinite(value)}
        if not self.groups:
            return known
        names, index = np.unique([self.groups.get(id, id) for id in known], return_inverse=True)
        weights = np.array([self.weights.get(id, 1.0) for id in known])
        means = np.bincount(index, weights * list(known.values())) / np.bincount(index, weights)
        return dict(zip(names.tolist(), means.tolist(), strict=True))


def write_items(path: Path, items: Mapping[str, ModelItems]) -> None:
    """Write the items of all models, one row each for every metric, in the columns of `SCHEMA`."""
    rows = [
        (
            model, metric, id, score if np.isfinite(score) else None, own.weights.get(id, 1.0),
            own.groups.get(id, id), *(getattr(own.transcripts.get(id), name, None) for name in TEXTS),
        )
        for model, own in items.items()
        for metric, scores in own.scores.items()
        for id, score in (scores | dict.fromkeys(own.transcripts.keys() - scores, np.nan)).items()
    ]  # fmt: skip
    columns = zip(*rows, strict=True) if rows else [[]] * len(SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), temporary)


def read_items(table: TableFile) -> dict[str, ModelItems]:
    """Read items, by model. Only `model`, `metric`, `id` and `score` must be there.

    Raises:
        InputError: one of these is missing or holds something else.
    """
    models, metrics, ids = table.texts("model"), table.texts("metric"), table.ids("id")
    scores = table.numbers("score").tolist()
    weights = table.numbers("weight").tolist() if "weight" in table else [1.0] * len(table)
    groups = table.texts("group") if "group" in table else ids
    texts = [table.columns.get(name) or [None] * len(table) for name in TEXTS]
    found = {model: ModelItems({}, {}, {}, {}) for model in dict.fromkeys(models)}
    own: Any
    for row, (model, id) in enumerate(zip(models, ids, strict=True)):
        own = found[model]
        own.scores.setdefault(metrics[row], {})[id] = scores[row]
        if groups[row] != id:
            own.groups[id] = groups[row]
        if weights[row] != 1:
            own.weights[id] = weights[row]
        prompt, *others = (column[row] for column in texts)
        if prompt is not None or any(text is not None for text in others):
            own.transcripts[id] = Transcript(plain_text(prompt) if prompt is not None else None, *others)
    return found


def read_transcripts(tables: Sequence[TableFile]) -> dict[str, dict[str, Transcript]]:
    """Return what files of verdicts have to read, by model and prompt: judgements, labels of games, answers."""
    texts: dict[str, dict[str, Transcript]] = {}
    for table in tables:
        _add_transcripts(texts, table)
    return texts


def _add_transcripts(texts: dict[str, dict[str, Transcript]], table: TableFile) -> None:
    keys = next((table.ids(name) for name in _IDS if name in table), None)
    column = next((table.columns[name] for name in _VERDICTS if name in table), None)
    games = [table.columns[name] for name in ("game1", "game2") if name in table]
    models = table.texts("model", "generator_2")
    answers, prompts, baseline = (
        next((table.columns[name] for name in names if name in table), None)
        for names in (("output_2", "answer"), ("instruction", "prompt"), ("output_1",))
    )
    if keys is None:  # every model's verdicts are in the order of the instructions
        counters: defaultdict[str, count[int]] = defaultdict(count)
        keys = [str(next(counters[model])) for model in models]
    for row, (model, key) in enumerate(zip(models, keys, strict=True)):
        said = column[row] if column is not None else None
        if games:
            replies = said if isinstance(said, list) and len(said) == len(games) else [None] * len(games)
            labels = [game[row] for game in games]
            parts = [verdict_in_words(model, *game) for game in zip(range(len(games)), labels, replies, strict=True)]
            said = None if isinstance(said, list) else said
        else:
            parts = []
        if column is not None and said is not None:
            turn = f"turn {table.columns['turn'][row]}: " if "turn" in table else ""
            parts.append(turn + plain_text(said))
        before = texts.setdefault(model, {}).get(key, Transcript())
        verdict = "\n\n".join(filter(None, [before.verdict, *parts])) or None
        answer = answers[row] if answers is not None else before.answer
        prompt = plain_text(prompts[row]) if prompts is not None else before.prompt
        if "turn" in table:
            prompt, answer = _below(before.prompt, prompt), _below(before.answer, answer)
        texts[model][key] = Transcript(prompt, answer, baseline[row] if baseline is not None else None, verdict)


def verdict_in_words(model: str, game: int, label: str | None, reply: str | None = None) -> str:
    """Return what a game came to, such as "baseline shown first, as A: own is better", and what the judge wrote.

    Args:
        model: name of the model.
        game: 0 for the one that shows the baseline's answer first, 1 for the other.
        label: such as `A>B`; None or anything else for no verdict.
        reply: of the judge.
    """
    sides = ("baseline", model) if game == 0 else (model, "baseline")
    score = score_of_a(label)
    if score is None:
        found = "no verdict that could be read"
    elif score[0] == 0.5:
        found = "a tie"
    else:
        found = f"{sides[0] if score[0] == 1 else sides[1]} is {'much ' if score[1] == STRONG else ''}better"
    words = (reply or "").strip()
    said = f"\n{words}" if words and words.strip("[]") != label else ""
    return f"{sides[0]} shown first, as A: {found}{said}"


def _below(first: str | None, second: str | None) -> str | None:
    return "\n\n".join(text for text in (first, second) if text is not None) or None
