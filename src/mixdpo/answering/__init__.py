"""Answers to prompt sets: which prompts, who is asked, and what is written."""
