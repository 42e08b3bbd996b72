"""Margins to order and routes: plans, thresholds, the agreement curve."""
