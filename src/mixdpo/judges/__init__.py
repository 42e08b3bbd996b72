"""Answers to ratings and verdicts: language models, reward models and programs as judges."""
