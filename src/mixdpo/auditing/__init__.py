"""Auditing preference data: what is in it, what will hurt, and what to do."""
