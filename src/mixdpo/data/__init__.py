"""Preference data: loading, validating, tokenising and batching pairs. Knows nothing of models."""

from mixdpo.data.data_settings import DataSettings, SourceSettings
from mixdpo.data.load import data_fingerprint, float_column, load_pairs, load_pairs_with_report
from mixdpo.data.load_report import LoadReport, SourceReport
from mixdpo.data.token_report import TokenReport
from mixdpo.data.tokenize import TokenSettings, token_counts, tokenize_pairs

__all__ = [
    "DataSettings",
    "LoadReport",
    "SourceReport",
    "SourceSettings",
    "TokenReport",
    "TokenSettings",
    "data_fingerprint",
    "float_column",
    "load_pairs",
    "load_pairs_with_report",
    "token_counts",
    "tokenize_pairs",
]
