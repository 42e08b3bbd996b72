"""The parameters of all losses, with the defaults of their publications. Names as in TRL where TRL has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

FDivergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
OdpoOffset = Literal["log", "linear"]
PerPair = Literal["per_pair"]

LOSS_NAMES: Final = (
    "sigmoid", "robust", "hinge", "ipo", "ipo_sum", "sigmoid_norm", "r_dpo", "dpop", "dpo_shift", "hypo",
    "chosen_floor", "cal_dpo", "rpo", "exo_pair", "discopop", "nca_pair", "bco_pair", "bco", "sppo_hard",
    "apo_zero", "apo_down", "kto", "odpo", "margin_weighted", "soft_routed", "label_routed", "aot", "aot_unpaired",
    "beta_dpo", "alpha_dpo", "slic", "cpo", "cpo_hinge", "cpo_ipo", "simpo", "alphapo", "orpo", "sft",
    "sft_rejected", "sft_both", "simpo_paper", "rpo_paper", "beta_dpo_paper", "rao_kupper", "davidson",
    "fa_dpo", "wdpo",
)  # fmt: skip
"""The keys of `LOSSES`, for help and errors that do not wait for PyTorch."""


@dataclass
class LossSettings:
    """Parameters of the losses in `LOSSES`; each loss reads those that its function names.

    A parameter's range stands in its metadata, for `mixdpo.common.settings.check_ranges`.
    """

    beta: float = field(
        default=0.1,
        metadata={"help": "strength of the pull to the reference, per nat; temperature without one", "above": 0},
    )
    label_smoothing: float | PerPair = field(
        default=0.0,
        metadata={
            "help": "assumed share of flipped labels, in [0, 0.5); sigmoid: conservative DPO; per_pair: 1 minus the "
            "plan's label_probability of each pair",
            "at_least": 0,
            "below": 0.5,
        },
    )
    f_divergence_type: FDivergence = field(
        default="reverse_kl",
        metadata={"help": "divergence from the reference: of sigmoid, hinge, ipo, robust and kin"},
    )
    f_alpha_divergence_coef: float = field(default=0.5, metadata={"help": "alpha of alpha_divergence"})
    simpo_gamma: float = field(
        default=0.5,
        metadata={"help": "simpo, alphapo, alpha_dpo: target reward margin; gamma / beta in nats per token"},
    )
    alphapo_alpha: float = field(default=0.25, metadata={"help": "alphapo: curvature of the reward; 0 is simpo"})
    cpo_alpha: float = field(default=1.0, metadata={"help": "cpo, cpo_*: weight of the chosen answer's NLL per token"})
    rpo_alpha: float = field(default=1.0, metadata={"help": "rpo: weight of the chosen answer's NLL per token"})
    slic_delta: float = field(default=1.0, metadata={"help": "slic: wanted difference of log-probabilities, in nats"})
    slic_lambda: float = field(default=1.0, metadata={"help": "slic: weight of the chosen answer's NLL per token"})
    r_dpo_alpha: float = field(default=0.01, metadata={"help": "r_dpo: cost of a token in the reward"})
    dpop_lambda: float = field(
        default=50.0, metadata={"help": "dpop: cost of a nat by which the chosen answer falls; 5 in the paper"}
    )
    dpo_shift_lambda: float = field(
        default=0.95,
        metadata={"help": "dpo_shift: share of the rejected answer's reward that counts", "above": 0, "at_most": 1},
    )
    dpo_shift_lambda_end: float | None = field(
        default=None,
        metadata={
            "help": "dpo_shift: that share at the run's end, to which it goes in a straight line; null: it stays",
            "above": 0,
            "at_most": 1,
        },
    )
    cal_dpo_weight: float = field(
        default=1.0, metadata={"help": "cal_dpo: weight of the calibration; 0.5 in the paper"}
    )
    odpo_alpha: float = field(default=1.0, metadata={"help": "odpo: size of the offset"})
    odpo_offset: OdpoOffset = field(default="log", metadata={"help": "odpo: offset as a function of the margin"})
    soft_threshold: float | None = field(
        default=None,
        metadata={"help": "margin_weighted, soft_routed: margin of half trust; null: the plan's threshold"},
    )
    soft_width: float = field(
        default=0.25, metadata={"help": "margin_weighted, soft_routed: margin from 50 % to 73 % trust", "above": 0}
    )
    beta_dpo_alpha: float = field(default=0.6, metadata={"help": "beta_dpo: change of beta per reward margin"})
    beta_dpo_keep: float = field(
        default=0.8, metadata={"help": "beta_dpo: share of a micro-batch that is kept", "above": 0}
    )
    alpha_dpo_alpha: float = field(
        default=0.05, metadata={"help": "alpha_dpo: nats per token by which a standard deviation moves the target"}
    )
    discopop_tau: float = field(default=0.05, metadata={"help": "discopop: temperature of the blend", "above": 0})
    tie_nu: float | None = field(
        default=None,
        metadata={
            "help": "rao_kupper (above 1), davidson: how readily answers tie; null: by the plan's share of ties, and "
            "3 or 1 where it has none",
            "above": 0,
        },
    )
    wdpo_flips: float = field(
        default=0.15,
        metadata={"help": "wdpo: share of a micro-batch's labels to flip", "at_least": 0, "at_most": 1},
    )
    wdpo_tail: float = field(
        default=0.7,
        metadata={"help": "wdpo: quantile of the losses above which they are capped", "at_least": 0, "at_most": 1},
    )
    wdpo_cap: float = field(
        default=0.5,
        metadata={"help": "wdpo: largest share of a micro-batch's pairs to cap", "at_least": 0.02, "at_most": 1},
    )
    wdpo_warmup: float = field(
        default=0.3,
        metadata={"help": "wdpo: share of the steps before labels are flipped", "at_least": 0, "at_most": 1},
    )
    desirable_weight: float = field(default=1.0, metadata={"help": "kto: weight of chosen answers"})
    undesirable_weight: float = field(default=1.0, metadata={"help": "kto: weight of rejected answers"})
