"""What `run.json` keeps of a run's tokens, and whether a continued run has the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from mixdpo.common.errors import InputError
from mixdpo.common.files import digest
from mixdpo.data.arrays import tokens_digest


def describe_run_tokens(tokens: Mapping[str, Dataset], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return digests of a run's tokenised pairs by name, and of what they were made with."""
    return {
        "pairs": {name: tokens_digest(pairs) for name, pairs in tokens.items()},
        "chat_template": digest([json.dumps(tokenizer.chat_template, sort_keys=True)]),
        "vocabulary": digest([json.dumps(sorted(tokenizer.get_vocab().items()))]),
    }


def check_same_tokens(before: Mapping[str, Any], now: Mapping[str, Any], file: Path) -> None:
    """Check that a continued run trains and measures the tokens it began with; an earlier version kept no digests.

    Args:
        before: `run.json` as it is.
        now: what it would be for the run that continues.
        file: its path.

    Raises:
        InputError: token ids or masks are others; says what most likely changed them.
    """
    found = now["token_digests"]
    was = before.get("token_digests", found)
    differ = [name for name, value in found["pairs"].items() if was["pairs"].get(name, value) != value]
    if not differ:
        return
    date, today = (record["settings"].get("template_date") for record in (before, now))
    if was["chat_template"] != found["chat_template"]:
        reason, hint = "the chat template was edited", "continue it with the template it was started with"
    elif was["vocabulary"] != found["vocabulary"]:
        reason, hint = "the tokenizer is another one", "continue it with the tokenizer it was started with"
    elif date != today:
        reason = f"the chat template prints the date, which was {date} and is {today}"
        hint = f"set template_date to {date}"
    else:
        reason = "another version of transformers or mixdpo renders them otherwise" + (
            ", or eval_data is other data" if differ == ["eval"] else ""
        )
        hint = "continue it with the versions that run.json names, or start anew"
    raise InputError(
        f"the run was started with other tokens of the {' and '.join(differ)} pairs: {reason}", file=file, hint=hint
    )
