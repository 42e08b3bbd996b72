"""Configurations of other trainers as recipes: which key is which setting, and what has no counterpart."""
