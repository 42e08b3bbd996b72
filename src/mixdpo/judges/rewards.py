"""Rewards of whole conversations as grades and verdicts, wherever the reward model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scipy.special import expit

from mixdpo.judges.judge import Chat, JudgeItem, Verdict, label_of


def conversations_of(items: Sequence[JudgeItem]) -> list[Chat]:
    """Return the conversations that the answers of items end, each once."""
    return list(dict.fromkeys(_whole(item.chat, answer) for item in items for answer in item.answers))


def reward_verdicts(items: Sequence[JudgeItem], rewards: Mapping[Chat, float]) -> list[Verdict]:
    """Return the verdict on each item: the reward of one answer, of two how much the first is preferred.

    That is the probability that the Bradley-Terry model gives it.
    """
    return [_verdict([rewards[_whole(item.chat, answer)] for answer in item.answers]) for item in items]


def _whole(chat: Chat, answer: str) -> Chat:
    return (*chat, ("assistant", answer))


def _verdict(rewards: Sequence[float]) -> Verdict:
    text = " ".join(f"{reward:.4f}" for reward in rewards)
    if len(rewards) == 1:
        return Verdict.of(text, rewards[0])
    score = float(expit(rewards[0] - rewards[1]))
    return replace(Verdict.of(text, score), label=label_of(score))
