"""Weights in, log-probabilities out: load, fingerprint, forward, cached log-probabilities."""
