"""Figures and pages made from what a run wrote; nothing here needs a model."""
