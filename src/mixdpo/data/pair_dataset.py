"""The type of data sets of pairs. They are `datasets.Dataset`s; only type checkers see more.

The datasets library marks no types (PEP 561), so that mypy takes its `Dataset` for `Any`. `PairDataset` writes out
the types of what people do with pairs, and stays a `Dataset` for type checkers that read the library's source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from datasets import Dataset

if TYPE_CHECKING:
    import pandas as pd

    class PairDataset(Dataset):
        """A data set with a row for each pair: loaded, scored or tokenised."""

        @property
        def column_names(self) -> list[str]: ...

        @property
        def num_rows(self) -> int: ...

        def __len__(self) -> int: ...

        def __iter__(self) -> Iterator[dict[str, Any]]: ...

        @overload
        def __getitem__(self, key: int) -> dict[str, Any]: ...

        @overload
        def __getitem__(self, key: str) -> Sequence[Any]: ...

        @overload
        def __getitem__(self, key: slice | Iterable[int]) -> dict[str, list[Any]]: ...

        def __getitem__(self, key: Any) -> Any: ...

        def select(self, indices: Iterable[int], **options: Any) -> PairDataset: ...

        def filter(self, function: Callable[..., Any], **options: Any) -> PairDataset: ...

        def map(self, function: Callable[..., Any], **options: Any) -> PairDataset: ...

        def sort(self, column_names: str | Sequence[str], **options: Any) -> PairDataset: ...

        def shuffle(self, seed: int | None = None, **options: Any) -> PairDataset: ...

        def add_column(self, name: str, column: Any, **options: Any) -> PairDataset: ...

        def select_columns(self, column_names: str | list[str], **options: Any) -> PairDataset: ...

        def remove_columns(self, column_names: str | list[str], **options: Any) -> PairDataset: ...

        def train_test_split(self, *sizes: Any, **options: Any) -> dict[str, PairDataset]: ...

        def to_list(self) -> list[dict[str, Any]]: ...

        def to_pandas(self) -> pd.DataFrame: ...

else:
    PairDataset = Dataset
