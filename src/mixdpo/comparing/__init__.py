"""Results of several models and runs side by side: tables, figures, paired statistics, and answers to read."""

from mixdpo.comparing.collect import collect
from mixdpo.comparing.export import save_comparison
from mixdpo.comparing.settings import CompareSettings

__all__ = ["CompareSettings", "collect", "save_comparison"]
