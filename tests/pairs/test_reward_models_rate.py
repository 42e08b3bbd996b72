"""Answers ranked by a reward model that was trained here to know them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from mixdpo.judges.find_judge import find_judge
from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.rate import rate
from mixdpo.pairs.rating_settings import RatingSettings
from tiny import saved, tiny_reward_model

TEXTS = [" ".join(["dog"] * dogs + ["cat"] * (4 - dogs)) for dogs in range(5)]
"""Answers that are the better the more dogs there are."""


def test_a_trained_reward_model_ranks_answers(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = tiny_reward_model(tokenizer, tmp_path / "start", 0)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    chats = [[{"role": "user", "content": "Dogs?"}, {"role": "assistant", "content": text}] for text in TEXTS]
    batch = tokenizer.apply_chat_template(chats, return_dict=True, return_tensors="pt", padding=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        rewards = model(**batch).logits[:, 0]
        better, worse = zip(*[(b, w) for b in range(5) for w in range(b)], strict=True)
        loss = -torch.nn.functional.logsigmoid(rewards[list(better)] - rewards[list(worse)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = saved(model, tokenizer, tmp_path / "trained")
    order = np.random.default_rng(0).permutation(5)
    prompts = [AnsweredPrompt(0, "id", (("user", "Dogs?"),), tuple(Answer(TEXTS[one], "m") for one in order))]
    judge = find_judge(JudgeSettings(judge=trained))
    rated = rate(prompts, [judge], RatingSettings())
    scores = [answer.score for answer in rated.prompts[0].answers]
    assert spearmanr(scores, order).statistic > 0.999
    assert rated.report["judges"]["trained"]["unit"] is None
    compared = rate(prompts, [judge], RatingSettings(mode="pairwise")).prompts[0].answers
    assert spearmanr([answer.score for answer in compared], order).statistic > 0.999
