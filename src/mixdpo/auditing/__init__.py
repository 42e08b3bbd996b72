"""Auditing preference data: what is in it, what will hurt, and what to do."""

from mixdpo.auditing.audit import audit
from mixdpo.auditing.audit_data import load_for_audit, with_scores
from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.auditing.clean import clean, save_cleaned
from mixdpo.auditing.findings import Finding
from mixdpo.auditing.report import AuditReport

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
