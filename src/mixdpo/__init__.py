"""mixdpo: difficulty-aware preference optimisation of language models.

The method: arXiv 2602.00954. Names are imported when first used, so that `import mixdpo` and the command line's
help do not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixdpo.auditing.audit import audit as audit
    from mixdpo.auditing.audit_settings import AuditSettings as AuditSettings
    from mixdpo.auditing.report import AuditReport as AuditReport
    from mixdpo.data.pair_dataset import PairDataset as PairDataset
    from mixdpo.data.tokenize import tokenize_pairs as tokenize_pairs
    from mixdpo.difficulty.scored_pairs import load_pairs as load_pairs
    from mixdpo.evaluation.compare.comparison import Comparison as Comparison
    from mixdpo.evaluation.compare.comparison import compare as compare
    from mixdpo.plan.advice import Advice as Advice
    from mixdpo.plan.make_plan import advise as advise
    from mixdpo.plan.make_plan import make_plan as make_plan
    from mixdpo.plan.plan import Plan as Plan
    from mixdpo.plan.plan_settings import PLANS as PLANS
    from mixdpo.plan.plan_settings import PlanSettings as PlanSettings
    from mixdpo.recipe.scoring import score as score
    from mixdpo.training.answers_settings import AnswersSettings as AnswersSettings
    from mixdpo.training.config import MixDPOConfig as MixDPOConfig
    from mixdpo.training.trainer import MixDPOTrainer as MixDPOTrainer

__version__ = "0.1.0"

_HOME = {
    "Advice": "mixdpo.plan.advice",
    "AnswersSettings": "mixdpo.training.answers_settings",
    "AuditReport": "mixdpo.auditing.report",
    "AuditSettings": "mixdpo.auditing.audit_settings",
    "advise": "mixdpo.plan.make_plan",
    "audit": "mixdpo.auditing.audit",
    "Comparison": "mixdpo.evaluation.compare.comparison",
    "MixDPOConfig": "mixdpo.training.config",
    "MixDPOTrainer": "mixdpo.training.trainer",
    "PLANS": "mixdpo.plan.plan_settings",
    "PairDataset": "mixdpo.data.pair_dataset",
    "Plan": "mixdpo.plan.plan",
    "PlanSettings": "mixdpo.plan.plan_settings",
    "compare": "mixdpo.evaluation.compare.comparison",
    "load_pairs": "mixdpo.difficulty.scored_pairs",
    "make_plan": "mixdpo.plan.make_plan",
    "score": "mixdpo.recipe.scoring",
    "tokenize_pairs": "mixdpo.data.tokenize",
}
__all__ = [*_HOME, "__version__"]


if not TYPE_CHECKING:  # who would take any name for one of the package

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'mixdpo' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME[name]), name)
