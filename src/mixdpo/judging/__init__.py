"""Runs of a judge: who judges, what is asked, and verdicts in the layouts that `mixdpo.evaluation` scores."""
