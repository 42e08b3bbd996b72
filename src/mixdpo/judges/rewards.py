"""Rewards of whole conversations as grades and verdicts, wherever the reward model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scipy.special import expit

from mixdpo.generation.chat_model import Completion
from mixdpo.judges.judge import Chat, JudgeItem, Verdict, label_of


def conversations_of(item: JudgeItem) -> list[Chat]:
    """Return the conversation that each answer of an item ends."""
    return [(*item.chat, ("assistant", answer)) for answer in item.answers]


def all_conversations(items: Sequence[JudgeItem]) -> list[Chat]:
    """Return the conversations that the answers of items end, each once."""
    return list(dict.fromkeys(conversation for item in items for conversation in conversations_of(item)))


def reward_verdict(rewards: Sequence[float], reply: Completion) -> Verdict:
    """Return the reward of one answer as its grade, or of two how much the first is preferred.

    That is the probability that the Bradley-Terry model gives it. The reply gets the rewards as its text.
    """
    reply = replace(reply, text=" ".join(f"{reward:.4f}" for reward in rewards))
    if len(rewards) == 1:
        return Verdict.of(reply, rewards[0])
    score = float(expit(rewards[0] - rewards[1]))
    return Verdict(reply, score, label_of(score))
