"""Forward passes of a frozen model over all pairs of a data set: on all processes, in parts, kept on disk."""

from mixdpo.passes.keys import cache_file, describe_tokens, weights_digest
from mixdpo.passes.progress import pairs_bar
from mixdpo.passes.run import CacheUse, cached_values

__all__ = ["CacheUse", "cache_file", "cached_values", "describe_tokens", "pairs_bar", "weights_digest"]
