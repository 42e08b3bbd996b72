"""Preference data: loading, validating, tokenising and batching pairs. Knows nothing of models."""
