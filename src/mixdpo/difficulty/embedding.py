"""The embedding metric: how far apart the two answers are in meaning (paper, "embedding distance")."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mixdpo.common.errors import InputError, install_extra
from mixdpo.common.settings import check_ranges
from mixdpo.difficulty.texts import answer_text, answer_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

_TEXTS_AT_ONCE: Final = 16_384
_PAIRS_AT_ONCE: Final = 16_384
_SIDES: Final = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """Settings of the metric `embedding`.

    Raises:
        InputError: batches of no text.
    """

    model: str = field(
        default="BAAI/bge-large-en-v1.5", metadata={"help": "folder or hub id of a sentence-transformers model"}
    )
    pooling: Literal["model", "mean"] = field(
        default="model",
        metadata={
            "help": "from token to text: model, as the model was trained, or mean over the tokens, as the paper"
        },
    )
    batch_size: int = field(default=64, metadata={"help": "texts per forward pass", "at_least": 1})

    def __post_init__(self) -> None:
        check_ranges(self)


def embedding_margin(dataset: Dataset, settings: EmbeddingSettings) -> np.ndarray:
    """Return 1 - cosine of the embeddings of the two answers alone, without the prompt; float64 in [0, 2], shape (N,).

    Answers that say the same are hard to rank, so a larger distance is easier. Each distinct text is embedded
    once, the longest first. Texts stay in the data set and vectors wait in a temporary file, float32, so that memory
    holds a digest of each text. The model cuts longer texts than it takes.

    Raises:
        InputError: sentence-transformers is not installed, or there is no such model.
    """
    answers_N2, places = _distinct_texts(dataset)
    model = _load(settings)
    with tempfile.TemporaryFile() as file:
        vectors: np.ndarray | None = None
        for start in range(0, len(places), _TEXTS_AT_ONCE):
            chunk = slice(start, start + _TEXTS_AT_ONCE)
            embedded = model.encode(
                _texts_at(dataset, places[chunk]),
                batch_size=settings.batch_size,
                convert_to_numpy=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            if vectors is None:
                vectors = np.memmap(file, dtype=np.float32, mode="w+", shape=(len(places), embedded.shape[1]))
            vectors[chunk] = embedded
        assert vectors is not None, "a data set without pairs never comes here"
        blocks = np.array_split(answers_N2, -(-len(answers_N2) // _PAIRS_AT_ONCE))
        return np.concatenate([_distance(vectors[block[:, 0]], vectors[block[:, 1]]) for block in blocks])


def _distinct_texts(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct texts of all answers, the longest first.

    Returns:
        The number of each pair's chosen and rejected text, int64 of shape (N, 2), and where the texts are first found,
        as 2 * pair + side, int64 of shape (texts,).
    """
    numbers: dict[bytes, int] = {}
    places: list[int] = []
    keys: list[tuple[int, bytes]] = []

    def number(place: int, text: str) -> int:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key not in numbers:
            numbers[key] = len(places)
            places.append(place)
            # The digest decides between equal lengths, so that batches do not depend on the order of the pairs.
            keys.append((-len(text), key))
        return numbers[key]

    texts = enumerate(chain.from_iterable(answer_texts(dataset)))
    first_N2 = np.fromiter((number(*item) for item in texts), dtype=np.int64, count=2 * len(dataset)).reshape(-1, 2)
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[first_N2], np.array(places)[order]


def _texts_at(dataset: Dataset, places: np.ndarray) -> list[str]:
    """Return the texts of answers, given as 2 * pair + side."""
    rows = dataset.select_columns(list(_SIDES))[(places // 2).tolist()]
    return [answer_text(rows[_SIDES[side]][row]) for row, side in enumerate(places % 2)]


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    cosine = np.einsum("nd,nd->n", first.astype(np.float64), second.astype(np.float64))
    return np.clip(1 - cosine, 0, 2)


def _load(settings: EmbeddingSettings) -> SentenceTransformer:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(
            "the embedding metric needs the package sentence-transformers", hint=install_extra("embedding")
        ) from None
    from mixdpo.models.loading import loading
    from mixdpo.models.model_settings import check_may_be_on_hub

    if not Path(settings.model).expanduser().is_dir():
        check_may_be_on_hub(settings.model)
    with loading("sentence-transformers model", settings.model):
        model = SentenceTransformer(settings.model, trust_remote_code=False)
    if settings.pooling == "mean":
        pooling: list[Any] = [module for module in model if hasattr(module, "pooling_mode")]
        if not pooling:
            raise InputError(f"the model {settings.model!r} has no pooling to replace", hint="set `pooling: model`")
        pooling[0].pooling_mode = "mean"
    return model
