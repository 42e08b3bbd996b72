"""Losses under which two answers may tie. One value per pair, shape (B,).

z = beta h is how much larger the chosen answer's implicit reward is. A pair that `pairs.tie` marks has minus the log
probability of a tie, every other pair that of the chosen answer's win. `tie_nu` says how readily answers tie; None
is the papers' value, under which answers of equal reward tie half of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.scores import score_gap
from mixdpo.losses.types import PairLogprobs

TIE_NU: Final[Mapping[str, Callable[[float], float]]] = {
    "rao_kupper": lambda share: (1 + share) / (1 - share),
    "davidson": lambda share: share / (1 - share),
}
"""By loss, the nu under which a share, in (0, 1), of the pairs whose answers have equal rewards are ties."""

_USUAL_SHARE: Final = 0.5


def rao_kupper(
    pairs: PairLogprobs,
    *,
    beta: float,
    tie_nu: float | None = None,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """DPO-RK: rewards that differ by less than about a = ln nu, nu > 1, cannot be told apart.

    Win: -log sigmoid(z - a). Tie: log(1 + nu e^z) + log(1 + nu e^-z) - log(nu^2 - 1). As nu goes to 1, wins have
    DPO's loss.

    Example: nu = 3 and z = 0 give ln 4 for a win and ln 2 for a tie.

    Args:
        pairs: log-probabilities of B pairs, and which of them are ties; None for no ties.
        beta: strength of the pull to the reference, per nat.
        tie_nu: nu; 3 in the paper.
        f_divergence_type: of `answer_scores`.
        f_alpha_divergence_coef: of `answer_scores`.

    Source: Chen et al. 2025, "On extending DPO to accommodate ties" (arXiv 2409.17431), DPO-RK, after Rao and Kupper
    1967. With nu = e^0.5 it is TODO: Guo et al. 2025 (arXiv 2411.02442), whose alpha is a.
    """
    nu = TIE_NU["rao_kupper"](_USUAL_SHARE) if tie_nu is None else tie_nu
    z = beta * score_gap(pairs, f_divergence_type, f_alpha_divergence_coef)
    threshold = math.log(nu)
    win = -F.logsigmoid(z - threshold)
    tie = -F.logsigmoid(-threshold - z) - F.logsigmoid(-threshold + z) - math.log(nu - 1) - math.log(nu + 1)
    return _by_outcome(pairs, win, tie)


def davidson(
    pairs: PairLogprobs,
    *,
    beta: float,
    tie_nu: float | None = None,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """DPO-D: win, loss and tie have odds of e^(z/2) : e^(-z/2) : 2 nu, nu > 0.

    Win: log(1 + e^-z + 2 nu e^(-z/2)). Tie: log(1 + (e^(z/2) + e^(-z/2)) / (2 nu)). As nu goes to 0, wins have DPO's
    loss.

    Example: nu = 1 and z = 0 give ln 4 for a win and ln 2 for a tie.

    Args:
        pairs: log-probabilities of B pairs, and which of them are ties; None for no ties.
        beta: strength of the pull to the reference, per nat.
        tie_nu: nu; 1 in the paper.
        f_divergence_type: of `answer_scores`.
        f_alpha_divergence_coef: of `answer_scores`.

    Source: Chen et al. 2025 (arXiv 2409.17431), DPO-D, after Davidson 1970, whose nu is twice this one.
    """
    nu = TIE_NU["davidson"](_USUAL_SHARE) if tie_nu is None else tie_nu
    z = beta * score_gap(pairs, f_divergence_type, f_alpha_divergence_coef)
    log_odds = math.log(2 * nu)
    # log(1 + e^u), whose u is the log of the other outcomes' odds against this one: exact where they are tiny.
    win = -F.logsigmoid(-torch.logaddexp(-z, log_odds - z / 2))
    tie = -F.logsigmoid(log_odds - torch.logaddexp(z / 2, -z / 2))
    return _by_outcome(pairs, win, tie)


def _by_outcome(pairs: PairLogprobs, win: Tensor, tie: Tensor) -> Tensor:
    return win if pairs.tie is None else torch.where(pairs.tie, tie, win)
