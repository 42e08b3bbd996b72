"""Auditing preference data: what is in it, what will hurt, and what to do."""

from mixdpo.auditing.clean import clean, save_cleaned
from mixdpo.auditing.findings import Finding
from mixdpo.auditing.load import load_for_audit, with_scores
from mixdpo.auditing.report import AuditReport
from mixdpo.auditing.run import audit
from mixdpo.auditing.settings import AuditSettings

__all__ = [
    "AuditReport",
    "AuditSettings",
    "Finding",
    "audit",
    "clean",
    "load_for_audit",
    "save_cleaned",
    "with_scores",
]
