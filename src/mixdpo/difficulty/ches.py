"""CHES: how much training on a pair would displace the likelihood of its chosen answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixdpo.difficulty.likelihood import LikelihoodSettings
from mixdpo.models.model_settings import model_named

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor


def ches(dataset: Dataset, settings: LikelihoodSettings) -> np.ndarray:
    """Return minus the centred hidden embedding similarity score; float64, shape (N,).

    With s(y) the sum of the last layer's hidden states that predict the tokens of y,
    CHES = <s(y_w), s(y_l)> - ||s(y_w)||^2: the higher, the likelier that training on the pair lowers the likelihood
    of y_w too. So the margin, larger = easier, is -CHES.

    Source: Razin et al. 2024 (arXiv 2410.08847), definition 2.
    """
    products, _ = _products(dataset, settings, "ches")
    return products[:, 0] - products[:, 1]


def ches_length_normalised(dataset: Dataset, settings: LikelihoodSettings) -> np.ndarray:
    """Return minus the length-normalised CHES score, in which the mean stands for the sum; float64, shape (N,).

    CHES = <s(y_w)/|y_w|, s(y_l)/|y_l|> - ||s(y_w)/|y_w| ||^2 (same source). The plain score grows with the square of
    the length; this one compares pairs of different lengths.
    """
    products, counts = _products(dataset, settings, "ches_length_normalised")
    return products[:, 0] / counts[:, 0] ** 2 - products[:, 1] / counts.prod(axis=1)


def _products(dataset: Dataset, settings: LikelihoodSettings, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return <s(y_w), s(y)> for y = y_w and y = y_l, float64, and the trained tokens; both shape (N, 2)."""
    import torch

    from mixdpo.data.arrays import trained_counts
    from mixdpo.models.engine import completion_hidden_sums
    from mixdpo.models.forward import all_tokens, layout_for, load_frozen, pass_over

    source = model_named(settings.model, f"{name}.model")
    tokens = all_tokens(dataset, source, settings.token_settings(), name)
    model = load_frozen(source)

    def values_of(rows: Any) -> Tensor:
        # In float64 on the host: the two products are large and nearly equal, and what counts is their difference.
        sums_P2E = completion_hidden_sums(model, rows).cpu().double().unflatten(0, (-1, 2))
        return torch.einsum("pe,pse->ps", sums_P2E[:, 0], sums_P2E).flatten()

    products = pass_over(tokens, model, layout_for(model, settings), values_of, settings, kind="ches", name=name)
    return products, trained_counts(tokens)
