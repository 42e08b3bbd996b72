"""What to do with the pairs of small margins: the advice of `mixdpo advise`, as a section of the audit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Section
from mixdpo.common.errors import InputError
from mixdpo.plan.advice_words import sentences
from mixdpo.plan.advised import advice_on
from mixdpo.plan.plan_settings import PLANS


def advice_check(data: AuditData) -> Section:
    """Advise routes by margin."""
    if data.margin is None or not np.isfinite(data.margin).any():
        return Section(figures=None)
    return Section(figures=advice_figures(data, data.margin))


def advice_figures(data: AuditData, margin: np.ndarray) -> dict[str, Any]:
    """Return what `Advice.to_dict` and `sentences` say of the pairs with a margin.

    Args:
        data: of the audit.
        margin: float64 of shape (N,), of the audit's metric; pairs without a finite one are left out.

    Returns:
        `metric`; and `problem`, one sentence where margins or columns do not allow of advice, else None and the rest.
    """
    settings = replace(PLANS["advised"], metric=str(data.metric))
    rows = np.flatnonzero(np.isfinite(margin))
    try:
        _, advice = advice_on(data.pairs.select(rows), margin[rows], settings)
    except InputError as error:
        return {"metric": data.metric, "problem": str(error)}
    return {"metric": data.metric, "problem": None, **advice.to_dict(), "sentences": sentences(advice)}
