"""The sentence that a win rate comes to, and what is said beside it."""

from __future__ import annotations

from typing import Any

from mixdpo.common.statistics import Interval
from mixdpo.evaluation.sentences import difference_sentence, win_sentence, win_warnings
from mixdpo.evaluation.statistics.paired import Difference


def games(**changes: Any) -> dict[str, Any]:
    own = {
        "win_rate": 58.0, "win_rate_interval": [51.1, 64.6], "p_value": 0.03, "n_prompts": 200, "n_unread": 0,
        "n_prompts_unread": 0, "detectable_win_rate": 59.8, "length_effect": None, "position_bias": None,
        "lengths": {"model": 90, "baseline": 80, "longer": 0.6, "longer_wins": None},
        "equal_length": {"win_rate": 55.2, "interval": [48.0, 62.0], "explained": 2.8},
    }  # fmt: skip
    return own | changes


def test_who_wins() -> None:
    assert win_sentence("B", "A", games(), "gpt") == (
        "B beats A on 58 % of 200 prompts (95 % interval 51 to 65, p 0.03) by gpt; "
        "length explains 3 of the 8 points over 50: at equal length B would win on 55 % (48 to 62)"
    )
    lost = games(
        win_rate=42.0,
        win_rate_interval=[35.4, 48.9],
        equal_length={"win_rate": 44.8, "interval": [38.0, 52.0], "explained": -2.8},
    )
    assert win_sentence("B", "A", lost, "gpt") == (
        "A beats B on 58 % of 200 prompts (95 % interval 51 to 65, p 0.03) by gpt; "
        "length explains 3 of the 8 points over 50: at equal length A would win on 55 % (48 to 62)"
    )
    nothing = games(equal_length={"win_rate": 60.0, "interval": [53.0, 67.0], "explained": -2.0})
    assert "length explains nothing: at equal length B would win on 60 % (53 to 67)" in win_sentence("B", "A", nothing)
    everything = games(equal_length={"win_rate": 49.0, "interval": [42.0, 56.0], "explained": 9.0})
    assert "length explains all of it: at equal length B would win on 49 %" in win_sentence("B", "A", everything)
    longer = games(equal_length=None, lengths={"longer": 1.0, "longer_wins": None})
    assert win_sentence("B", "A", longer).endswith(
        "; what length explains cannot be told, for every answer of B is the longer one"
    )
    assert win_sentence("B", "A", games(p_value=1e-5)).count("p < 0.001") == 1


def test_where_no_difference_is_seen() -> None:
    open_ = games(win_rate=53.0, win_rate_interval=[46.0, 60.0], p_value=0.44)
    assert win_sentence("B", "A", open_, "gpt") == (
        "no difference is seen: B wins against A on 53 % of 200 prompts (95 % interval 46 to 60, p 0.44) by gpt; "
        "with 200 prompts 80 % power needs a win rate of 60 %"
    )
    few = games(win_rate=100.0, win_rate_interval=[56.6, 100.0], p_value=0.0625, n_prompts=5, detectable_win_rate=None)
    assert win_sentence("B", "A", few).endswith("; 5 prompts are too few to see any")
    single = few | {"win_rate_interval": None, "n_prompts": 1, "p_value": 1.0}
    assert "on 100 % of 1 prompt (p 1.00)" in win_sentence("B", "A", single)


def share(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high, "level": 0.95}


def test_warnings() -> None:
    assert win_warnings(games()) == []
    lengths = {"longer": 0.6, "longer_wins": share(0.83, 0.76, 0.88)}
    assert win_warnings(games(lengths=lengths)) == [
        "the judge may follow length: the longer answer wins 83 % of the decided prompts (95 % interval 76 to 88)"
    ]
    lengths["longer_wins"] = share(0.2, 0.1, 0.3)
    (brief,) = win_warnings(games(lengths=lengths))
    assert "the shorter answer wins 80 % of the decided prompts (95 % interval 70 to 90)" in brief
    bias = {"consistent": share(0.4, 0.3, 0.5), "first_shown": share(0.8, 0.7, 0.9), "p_value": 0.001}
    (position,) = win_warnings(games(position_bias=bias))
    assert (
        "follows position: the answer shown first wins 80 % of the decided games, and 40 % of the prompts" in position
    )
    (unsure,) = win_warnings(games(position_bias=bias | {"p_value": 0.5}))
    assert "the judge is unsure: only 40 %" in unsure
    (unread,) = win_warnings(games(n_unread=50))
    assert "50 of 400 games (12 %) have no verdict" in unread
    assert "3 replies of the judge quote" in win_warnings(games(n_quoting=3))[0]
    few = games(p_value=0.2, n_prompts=50, detectable_win_rate=69.3)
    assert win_warnings(few) == ["50 prompts are few: a true win rate of less than 69 % may go unseen"]
    assert win_warnings(few | {"p_value": 0.001}) == [], "what was seen was no problem to see"


def test_differences() -> None:
    one = Difference("base", "own", Interval(estimate=-0.46, low=-0.64, high=-0.28, level=0.95), 3, 9, 0.0004, 0.0012)
    assert difference_sentence(one, "rating") == (
        "base beats own by 0.46 in rating on the same prompts (95 % interval +0.28 to +0.64, p 0.001)"
    )
    unclear = Difference("base", "own", Interval(estimate=0.1, low=-0.3, high=0.5, level=0.95), 3, 3, 0.6, 0.6)
    assert difference_sentence(unclear, "rating") == (
        "no difference is seen between base and own: +0.10 in rating on the same prompts "
        "(95 % interval −0.30 to +0.50, p 0.60)"
    )
