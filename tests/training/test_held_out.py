"""How a step of a run that measures held-out pairs is shared out."""

from __future__ import annotations

import pytest

from mixdpo.common.errors import InputError
from mixdpo.training.held_out import cut_step


def test_a_step_is_cut_exactly() -> None:
    assert cut_step(64, 1, 16) == (16, 4)
    assert cut_step(64, 16, 8) == (4, 1)
    assert cut_step(48, 3, 7) == (4, 4)
    assert cut_step(7, 1, 4) == (1, 7)
    with pytest.raises(InputError, match="64 pairs of a step among 3 processes"):
        cut_step(64, 3, 8)
