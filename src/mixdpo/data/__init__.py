"""Preference data: loading, validating, tokenising and batching pairs. Knows nothing of models."""

from mixdpo.data.load import (
    DataSettings,
    LoadReport,
    SourceSettings,
    data_fingerprint,
    float_column,
    load_pairs,
    load_pairs_with_report,
)
from mixdpo.data.tokenize import TokenReport, TokenSettings, tokenize_pairs

__all__ = [
    "DataSettings",
    "LoadReport",
    "SourceSettings",
    "TokenReport",
    "TokenSettings",
    "data_fingerprint",
    "float_column",
    "load_pairs",
    "load_pairs_with_report",
    "tokenize_pairs",
]
