"""Preference data: rows to validated pairs, pairs to token ids. Knows nothing of models or difficulty."""
