"""Results of several models and runs side by side: tables, figures, paired statistics, and answers to read."""

from mixdpo.evaluation.compare.collect import CompareSettings, collect
from mixdpo.evaluation.compare.export import save_comparison

__all__ = ["CompareSettings", "collect", "save_comparison"]
